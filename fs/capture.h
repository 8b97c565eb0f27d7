/* SPDX-License-Identifier: MIT */
/* capture.h - turn a sandbox's machine into a template */
#ifndef SBX_FS_CAPTURE_H
#define SBX_FS_CAPTURE_H

#include "fs/sandbox.h"

/* err->code == 0: template, one reference, the caller's. */
typedef void (*capture_done_fn)(void *arg, const struct err *err, struct template *template);

/*
 * Capture a running or paused sandbox, as its task `verb`. A running one goes on after the pause where
 * `go_on`, and stays paused otherwise. -EBUSY, or -EHOSTDOWN when it has no machine.
 */
int capture(struct sandbox *sb, const char *verb, bool go_on, capture_done_fn done, void *arg,
	    struct err *err);

#endif
