/* SPDX-License-Identifier: MIT */
/* vm.h - a machine that QEMU runs; shared by qemu.c (its life), ahead.c and freeze.c (captures) */
#ifndef SBX_VM_QEMU_VM_H
#define SBX_VM_QEMU_VM_H

#include <stdbool.h>
#include <stdint.h>

#include "util/list.h"
#include "vm/handle.h"
#include "vm/process.h"
#include "vm/qemu/qmp.h"

struct ram_copy;

enum { NODES_MAX = 24 }; /* nodes added to a chain before the disk is opened anew; 0.1 ms each and switch */

struct qemu_capture {
	bool active;
	struct vm_capture calls;
	char *next_disk;
	int state_fd; /* what QEMU writes to; then our copy */
	struct ram_copy *ram;
	struct template *template;
	bool anew;                  /* the disk is opened as a whole, not only its next overlay */
	bool node_added, fd_passed; /* to be undone on failure */
	unsigned first_set, nsets;  /* of the next disk, in QEMU */
	bool frozen;
	bool working; /* a thread has `ram`, and a hold on the machine */
	uint64_t began_ns;
	struct err err;
	struct timer defer;
};

/* What is copied before a capture. */
struct qemu_ahead {
	struct ram_copy *ram; /* NULL: nothing is */
	bool active;          /* whoever asked for it waits */
	bool working;         /* a thread has `ram` and `uffd`, and a hold on the machine */
	int uffd;
	struct err err;
};

struct qemu_machine {
	struct vm common;
	uint64_t ram_size;
	int ram_fd; /* the memfd its process maps: its own after a boot, the template's in a fork */
	bool kvm;

	struct process
		*process; /* NULL when it has ended; it keeps the socket, or what came over it, of track.h */
	bool tracked;     /* that is a userfaultfd */
	struct err untracked; /* why it will not be */
	struct qmp *qmp;      /* NULL when lost */
	/* [0] ours, [1] QEMU's: kept, so that our end stays open without it */
	int agent[2], console[2], net[2];
	char version[32]; /* QEMU's */
	int state_fd;     /* of a fork: at the start of QEMU's stream, which its process reads */

	bool ready;        /* runs (boot) or is loaded (fork) */
	bool start_wanted; /* start came before ready */
	bool guest_off;    /* the guest powered off */
	bool guest_reset;  /* the guest reset the machine */
	struct err broken; /* why we gave it up; code 0: we did not */
	unsigned overlays; /* the number of the disk node it writes to */
	unsigned oldest;   /* the number of the first that it has open, with all below it */
	unsigned top_set; /* the fdset of the file it writes to, which will be opened once more, to be read */
	unsigned next_set; /* a number that no fdset has had */
	struct buf stale;  /* numbers of fdsets that are not needed any more: unsigned each */
	struct qemu_capture capture;
	struct qemu_ahead ahead;
};

static inline struct qemu_machine *qemu_of(const struct vm *vm)
{
	return container_of(vm, struct qemu_machine, common);
}

/* Give the machine up: its process is killed, and what is pending ends with this error once it is dead. */
void vm_break(struct qemu_machine *vm, const struct err *err);

/* Send a command; if that fails the machine is broken. */
void vm_command(struct qemu_machine *vm, const char *command, cJSON *arguments, int pass_fd,
		qmp_reply_fn reply, void *arg);

/* The same with arguments, as JSON: names and numbers of ours, together less than 256 bytes. Whole or not
 * sent: a command without one of its arguments would be another. */
void vm_command_with(struct qemu_machine *vm, const char *command, int pass_fd, qmp_reply_fn reply, void *arg,
		     const char *fmt, ...) __attribute__((format(printf, 6, 7)));

/*
 * template->state_fd begins with STATE_HEADER bytes of ours, a line padded with NULs that says what can load
 * QEMU's stream after them.
 */
enum { STATE_HEADER = 64 };
/*
 * [worker] What QEMU wrote to memory that it still has, with the header, in sealed memory of ours; -EPROTO: too much.
 * It takes no lock of that memory, which QEMU could hold.
 */
int state_take(int fd, const struct qemu_machine *vm, int *ret, struct err *err);
/* -EINVAL: this QEMU cannot load it. Called when vm->version is known. */
int state_header_check(int fd, const struct qemu_machine *vm, struct err *err);

/*
 * fdsets that are not needed any more are removed once the machine runs: before that QEMU would keep their
 * descriptors for ever (monitor_fdset_cleanup).
 */
void sets_retire(struct qemu_machine *vm, unsigned first, unsigned n);
void sets_flush(struct qemu_machine *vm);

/* The same file, for reading only; a descriptor. */
int qemu_open_reading(int fd, struct err *err);

/* engine.h's. A machine that dies while they are under way is to be forgotten, too. */
void qemu_ahead(struct vm *handle, done_fn done, void *arg);
void qemu_forget(struct vm *handle);
/* What was copied ahead, the caller's; or NULL. */
struct ram_copy *ahead_take(struct qemu_machine *vm);

void qemu_capture(struct vm *handle, const char *next_disk, const struct vm_capture *calls);
/* The machine has died (err says why), or is being destroyed (NULL: nobody is told). */
void capture_abort(struct qemu_machine *vm, const struct err *err);

/* ---- version.c, for the engine's table */

/* The version of a QEMU that ran here. */
void qemu_version_seen(const char *version);
void qemu_requires(struct buf *text);
bool qemu_provides(const char *key, const char *value);

#endif
