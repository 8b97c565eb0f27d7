/* SPDX-License-Identifier: MIT */
/*
 * machine.h - a sandbox's machine: started, resized, ended; pause.h has the rest of its life
 *
 * Each of the slow ones is a step of the sandbox's task (sandbox.h): done is called once from the loop,
 * unless the machine ends first; then the task is ended instead, and done is not called. A NULL done is for a
 * task's last step: the task ends with it.
 */
#ifndef SBX_FS_SANDBOX_MACHINE_H
#define SBX_FS_SANDBOX_MACHINE_H

#include "fs/sandbox/sandbox.h"

/* Boot from the sandbox's disk, which is made of its image if there is none; running when done. */
int machine_boot(struct sandbox *sb, done_fn done, void *arg, struct err *err);
/*
 * Make the sandbox a fork of the template: its machine is `vm` on sb->disk, prepared (`loaded`: and the
 * engine is done with that), or NULL to prepare one. Running, and its jobs known, when done.
 */
int machine_fork(struct sandbox *sb, struct template *template, struct vm *vm, bool loaded, done_fn done,
		 void *arg, struct err *err);

/*
 * The machine, which is paused, is stored: it ends, but jobs and files, and whoever waits for the guest, stay as they
 * are. machine_listen does the same for a machine that an earlier daemon stored: -ENOMEM.
 */
void machine_stored(struct sandbox *sb);
int machine_listen(struct sandbox *sb);
/*
 * It goes on from this template, on sb->disk or, where that is NULL, a new layer; what was asked of it meanwhile it
 * hears after agent_release. What fails leaves it stored.
 */
int machine_wake(struct sandbox *sb, struct template *template, done_fn done, void *arg, struct err *err);

/* Give the running guest this memory and these CPUs. The settings change when it has them. */
void machine_resize(struct sandbox *sb, const struct shape *want, done_fn done, void *arg);
/* Ask the guest to power off; kill it after the time the options give. */
void machine_stop(struct sandbox *sb, done_fn done, void *arg);
/* Kill it for what it did to its host: the sandbox has crashed, and why is in `error`. */
void machine_end(struct sandbox *sb, const struct err *why);
/* Kill it at once, if there is one. The task, if any, is left for the caller to end; its callbacks will not
 * come. */
void machine_drop(struct sandbox *sb);

/* For whoever asks the machine for something else: a step begins; it ends, and with it the task where it was the last. */
void step_begin(struct sandbox *sb, const char *name, done_fn done, void *arg);
void step_end(struct sandbox *sb, const struct err *err);
/* Tell the guest who it is. */
void machine_attach(struct sandbox *sb, enum attach_kind kind, bool resync, unsigned timeout_ms,
		    done_fn done);

#endif
