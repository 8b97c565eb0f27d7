/* SPDX-License-Identifier: MIT */
/*
 * engine.h - how a machine runs: the one interface between sandboxes and what executes them
 *
 * An engine turns a struct shape and a disk into a running guest, captures it into a template, and makes
 * forks of templates. All calls return at once; what takes time ends in a callback from the event loop,
 * exactly once, never from inside the call. One operation is under way on a machine at a time (the caller
 * sees to that), except destroy, which is always allowed: pending callbacks are then not called.
 *
 * The agent channel and the console are one descriptor each for the whole life of the machine, even where a
 * capture moves it to another process. They are non-blocking stream sockets, owned by the machine.
 */
#ifndef SBX_VM_ENGINE_H
#define SBX_VM_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "snap/template.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/loop.h"

struct vm;

/* Where things are on this host; strings outlive every machine. */
struct engine_env {
	struct loop *loop;
	const char *kernel, *initrd; /* the guest's bzImage and our initramfs */
	const char *libexec;         /* directory of sbx-vmm */
};

/* What a machine tells its owner, unasked. */
struct vm_events {
	/* The VMM process is gone: the guest powered off (clean) or the process died (why says how). Called
	 * once; only destroy may follow. */
	void (*exited)(void *owner, bool clean, const char *why);
	/* The disk has no room for what the guest wrote: the machine is paused by itself, and nothing of it is
	 * lost. resume tries again. It may come at any time, and once more while resume is under way. NULL: the
	 * owner finds a machine that does not answer. */
	void (*stalled)(void *owner, const char *why);
};

/* A capture's two moments. */
struct vm_capture {
	/* The machine's state is safe and it runs on `next_disk` from here on: it may be resumed. Still
	 * paused. */
	void (*frozen)(void *arg);
	/* err->code == 0: template (one reference, the caller's) is complete but for its disk, generation and
	 * quiesced, which the caller fills in. Otherwise the machine is as before, paused, on its old disk;
	 * only where frozen came first it stays on `next_disk`: it may run already. */
	void (*done)(void *arg, const struct err *err, struct template *template);
	void *arg;
};

/* Our ends of what leads into a machine: non-blocking sockets, which stay the engine's. */
struct vm_ends {
	int agent, console;
	int net; /* SOCK_SEQPACKET, a message is a frame (vm/net/link.h). What nobody reads waits, and then the
		  * guest does. */
};

struct vm_usage {
	uint64_t cpu_ns;       /* host CPU time of the VMM process */
	uint64_t disk_written; /* bytes the guest wrote to its disk; 0 where the engine cannot tell */
	uint64_t exits;        /* 0 where the engine cannot tell */
};

/* Bytes of the VMM process; private is what only it has. */
struct vm_memory {
	uint64_t resident, private, shared;
};
/*
 * Reads what an engine's `memory` gave, and closes it. The kernel walks all of a process' memory for an answer, a
 * few milliseconds a GiB: for a thread that nobody waits for. 0 or a negative errno; -ESRCH: the process is gone.
 */
int vm_memory_read(int fd, struct vm_memory *ret);

struct engine {
	const char *name;

	/*
	 * Can this host run Linux guests with it? 0, or -errno with the reason; on success `how` says in what
	 * way ("KVM on SVM", "TCG: /dev/kvm emulates ring 0 at 1.5 MIPS"). May take 200 ms.
	 */
	int (*probe)(const struct engine_env *env, char *how, size_t how_size, struct err *err);

	/* What a host must have to restore what is captured on this one: "key value" lines. And whether this
	 * host has what such a line asks for; what it does not know counts as missing. */
	void (*requires)(struct buf *text);
	bool (*provides)(const char *key, const char *value);

	/* Start a machine from power-on. `disk` is a qcow2 file it may write, for itself alone. done: the VMM
	 * runs the guest. */
	int (*boot)(const struct engine_env *env, const struct shape *shape, const char *disk,
		    const struct vm_events *events, void *owner, done_fn done, void *arg, struct vm **ret,
		    struct err *err);

	/*
	 * Make a fork ready: a process with the template mapped and its state loaded, or as far as the engine
	 * can bring it, standing still. `disk` is a fresh overlay on the template's disk. done: start will
	 * now be quick. Calling start before that is allowed and waits; then that alone is answered. A prepared
	 * machine nobody needs is just destroyed.
	 */
	int (*prepare)(const struct engine_env *env, struct template *template, const char *disk,
		       const struct vm_events *events, void *owner, done_fn done, void *arg, struct vm **ret,
		       struct err *err);
	/* `background`: nobody waits for what it does, and others go first; false: somebody does from now
	 * on. */
	void (*background)(struct vm *vm, bool background);
	/* Let a prepared machine run, or one that was started before and is paused, for this owner from now
	 * on. What was written to the agent channel of a machine whose prepare was done, or that is paused,
	 * reaches the guest then. */
	void (*start)(struct vm *vm, const struct vm_events *events, void *owner, done_fn done, void *arg);

	/* Stop and continue the vCPUs. Pausing a paused one succeeds. */
	void (*pause)(struct vm *vm, done_fn done, void *arg);
	void (*resume)(struct vm *vm, done_fn done, void *arg);

	/*
	 * Both may be NULL. ahead: do what of a capture can be done while the machine runs, so that its pause is the
	 * shorter; err says why nothing was, which is no reason not to capture it. The next is either pause and
	 * capture, or forget: no capture comes of it. forget is always allowed.
	 */
	void (*ahead)(struct vm *vm, done_fn done, void *arg);
	void (*forget)(struct vm *vm);

	/* Capture a paused machine. `next_disk` is a path where the engine finds a fresh overlay on the
	 * machine's present disk. Until frozen nothing may be written to the agent channel. */
	void (*capture)(struct vm *vm, const char *next_disk, const struct vm_capture *capture);

	/* Kill it. Returns at once, frees vm; the process is reaped in the background. NULL is allowed. */
	void (*destroy)(struct vm *vm);

	struct vm_ends (*ends)(const struct vm *vm);
	pid_t (*pid)(const struct vm *vm);
	int (*usage)(struct vm *vm, struct vm_usage *ret);
	/* A descriptor for vm_memory_read, or a negative errno. */
	int (*memory)(const struct vm *vm);

	/* Called once before the loop is freed: ends pools and waits until no process of the engine's is
	 * left. */
	void (*shutdown)(void);
};

extern const struct engine engine_kvm, engine_qemu;

/*
 * Choose one: "auto" takes the first of kvm, qemu whose probe succeeds. NULL with the reasons of all that
 * were asked otherwise. `how` as in probe; for auto it also says why better ones were passed over.
 */
const struct engine *engine_select(const struct engine_env *env, const char *name, char *how, size_t how_size,
				   struct err *err);

/* All engines, for `sbx doctor`; NULL-terminated. */
extern const struct engine *const engines[];

#endif
