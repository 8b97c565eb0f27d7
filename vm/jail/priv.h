/* SPDX-License-Identifier: MIT */
/* priv.h - the launcher's own parts: kinds.c says what a jail holds, root.c makes it, enter.c goes into it */
#ifndef SBX_VM_JAIL_PRIV_H
#define SBX_VM_JAIL_PRIV_H

#include <linux/filter.h>
#include <linux/sched.h>
#include <stdbool.h>
#include <sys/types.h>

#include "util/err.h"
#include "vm/jail/jail.h"

/* What a jail calls the library that is loaded into its program. */
#define JAIL_PRELOAD "/preload.so"

enum {
	JAIL_FILES_MAX = 160,
	JAIL_PROC = 1 << 0,     /* a /proc that shows its own processes */
	JAIL_KVM = 1 << 1,      /* /dev/kvm, where there is one */
	JAIL_HOST_NET = 1 << 2, /* the launcher's network, and sockets */
};

struct jail_file {
	char *from, *to; /* on the host, and in the jail */
};

/* One kind of jail. */
struct jail {
	const char *name;
	char *program; /* absolute, the same in the jail; NULL: not on this host, and err says why */
	struct err err;
	char *preload; /* a library that is loaded into it; NULL: none */
	unsigned flags;
	unsigned max_fds; /* limit of its descriptors */
	struct jail_file files[JAIL_FILES_MAX];
	unsigned nfiles;
	struct sock_fprog filter;
	int root_fd, dir_fd; /* a mount namespace, and the root directory in it; -1: the launcher's */
};

/* Fill in one row: what the program needs on this host. Failures are in jail->err. */
void jail_describe(enum jail_kind kind, const struct jail_config *config, struct jail *ret);
void jail_release(struct jail *jail);

/* kinds.c's helpers: add a file under a name of its own. needs.c: the program's interpreter and libraries. */
int jail_add(struct jail *jail, const char *from, const char *to, struct err *err);
int jail_add_libraries(struct jail *jail, const char *program, struct err *err);

/* clone(2) flags: what makes any. */
#define NAMESPACES                                                                                           \
	(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |           \
	 CLONE_NEWCGROUP)

/* filter.c: what QEMU may call; what programs with a filter of their own never need to. */
int jail_qemu_filter(struct sock_fprog *ret, struct err *err);
int jail_base_filter(bool sockets, struct sock_fprog *ret, struct err *err);
/* Refuse in a filter (a scmp_filter_ctx) what neither the daemon nor anybody in a jail needs. A negative errno. */
int jail_refuse_never(void *filter);
/* A filter that allows what it does not name has to have this, too. */
int jail_hide_clone3(void *filter);

/*
 * Make the root directory of a kind, and keep it in jail->root_fd and dir_fd. The caller's own mount
 * namespace is private to the launcher. userns: the caller's user namespace is its own, too.
 */
int jail_make_root(struct jail *jail, bool userns, struct err *err);

/* proc.c: what the launcher looks up for a daemon that may not. */
int jail_open_proc(pid_t pid, enum launch_proc file);
int jail_open_resolvers(void);
long jail_call_of(pid_t thread);

/* new_root.c's steps, for confine.c: a mount of what is at a path; the empty stage; a mount in it, under a path; a
 * /proc with nothing but processes; and the stage becomes the root. */
int jail_take(const char *path, unsigned flags, int *ret, struct err *err);
int jail_stage(struct err *err);
int jail_place(int mount_fd, const char *to, uint64_t attributes, struct err *err);
int jail_proc(struct err *err);
int jail_turn(struct err *err);

struct jail_entry {
	const struct jail *jail;
	bool none;       /* no jail */
	bool userns;     /* the caller is in a user namespace of its own, and keeps its id */
	uid_t uid;       /* otherwise: the id to take */
	int launcher_fd; /* pidfd of the caller */
	int null_fd;
	const int *fds; /* standard input, log, then what is kept */
	unsigned nfds;
	char *const *argv; /* NULL: a trial, which exits with 0 in place of the program */
};

/* In a new process, in a pid namespace of its own unless `none`: into the jail, and on to the program. */
__attribute__((noreturn)) void jail_enter(const struct jail_entry *entry);

/* The launcher's life. fd: the socket. */
__attribute__((noreturn)) void launcher_serve(const struct jail_config *config, int fd);

#endif
