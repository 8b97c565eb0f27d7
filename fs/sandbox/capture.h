/* SPDX-License-Identifier: MIT */
/* capture.h - turn a sandbox's machine into a template */
#ifndef SBX_FS_SANDBOX_CAPTURE_H
#define SBX_FS_SANDBOX_CAPTURE_H

#include "fs/sandbox/sandbox.h"

/* err->code == 0: template, one reference, the caller's. */
typedef void (*capture_fn)(void *arg, const struct err *err, struct template *template);

enum capture_flags {
	CAPTURE_GO_ON = 1,  /* a running one goes on after the pause, and does not stay paused */
	CAPTURE_ANYHOW = 4, /* the guest's hooks are not run, which could refuse it */
	CAPTURE_SYNC = 2,   /* what a running guest has not written to its disk yet is written first */
};

/* Capture a running or paused sandbox, as its task `verb`. -EBUSY, or -EHOSTDOWN when it has no machine. */
int capture(struct sandbox *sb, const char *verb, unsigned flags, capture_fn done, void *arg,
	    struct err *err);

#endif
