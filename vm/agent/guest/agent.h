/* SPDX-License-Identifier: MIT */
/*
 * agent.h - the inside of sbx-agent
 *
 * One thread, one poll loop, one struct guest. serve.c runs the loop and answers the host; job.c,
 * spawn.c and files.c do what the host asks, with no more privilege than their process has, so
 * that a unit test runs them as an ordinary program. Whatever changes the machine itself (clock, host name,
 * CPUs, power) is behind struct guest_machine, which only main.c implements.
 *
 * The agent is PID 1, or beside the image's own: if it ended, the kernel would panic, or the host lose the guest. So
 * nothing past guest_serve's start is fatal; a failure is answered and the loop goes on.
 */
#ifndef SBX_VM_AGENT_GUEST_AGENT_H
#define SBX_VM_AGENT_GUEST_AGENT_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include "util/err.h"
#include "util/list.h"
#include "vm/agent/proto.h"

enum {
	GUEST_JOBS_MAX = 1024,
	GUEST_FILES_MAX = 128 << 10, /* slots of the table, half of which are used */
	GUEST_POLL_MAX = 6 + 4 * GUEST_JOBS_MAX,
	GUEST_SPECS_MAX = 16 << 20, /* bytes of commands and their environments that are kept for forks */
	GUEST_BACKLOG = 512 * 1024, /* above it nothing more is read, neither from the host nor from jobs */
};

/* F_ATTACH decoded. */
struct guest_identity {
	char name[PROTO_NAME_MAX + 1];
	uint32_t generation;
	uint8_t kind; /* enum attach_kind */
	uint64_t clock_ns;
	uint8_t entropy[IDENTITY_ENTROPY];
	uint8_t machine_id[IDENTITY_MACHINE_ID];
	char **env;    /* "K=V", NULL-terminated */
	uint32_t copy; /* which of those that a program here asked for; 0: none of them */
	bool renamed;  /* of a machine that goes on: it has another name now */
};

/* What the image says of commands that say nothing themselves; NULL where it says nothing. */
struct guest_defaults {
	char **env; /* "K=V", NULL-terminated */
	char *workdir, *user;
};
const struct guest_defaults *guest_defaults(void);
/* After the root disk is the root. */
void guest_read_defaults(void);

/* ---- init.c: an image's own PID 1, with the agent beside it */

/* From the kernel's command line, or "": then what an earlier boot of this disk was told, if anything. After the root
 * disk is the root. */
void init_choose(const char *asked);
/* At the first identity: from here on the image's init is PID 1, and the caller another process. Nothing where
 * there is none. */
int init_begin(int port, struct err *err);
/* Once the identity is in force, or was not: init goes on. */
void init_go(void);
/* Ask it to end the machine; false: there is none, or nothing that asks. */
bool init_poweroff(void);

/* ---- hooks.c: programs in /etc/sbx that are run at turns of a machine's life */

enum guest_hooks { HOOKS_FORK, HOOKS_RESUME, HOOKS_SNAPSHOT, HOOKS_STOP };

/* What they are told of the machine from now on. */
void hooks_identity(const char *name, uint32_t generation);
void hooks_renamed(const char *name);
/* Is there anything in its directory? */
bool hooks_there(enum guest_hooks hooks);
/* The first look waits for the disk: a machine that boots has it, and its forks do not. */
void hooks_look(void);
/* Run them, with SIGCHLD blocked; five seconds at most. env: "K=V", NULL-terminated, or NULL. */
int hooks_run(enum guest_hooks hooks, char *const *env, struct err *err);

/* What the agent does to the machine it runs on. */
struct guest_machine {
	/* Take on an identity. May block for as long as the hooks of a fork may. */
	int (*attach)(const struct guest_identity *identity, struct err *err);
	/* Bring CPUs and memory to what is asked. Runs in a child process, which is killed when it takes
	 * too long. */
	int (*resize)(uint32_t cpus, uint64_t memory, struct err *err);
	/* What is online. */
	void (*size)(uint32_t *ret_cpus, uint64_t *ret_memory);
	/* Put the wall clock (ns since 1970) forward if it is behind. */
	void (*clock)(uint64_t real_ns);
	/* hooks_there and hooks_run. NULL: there are none. */
	bool (*hooks_there)(enum guest_hooks hooks);
	int (*hooks_run)(enum guest_hooks hooks, char *const *env, struct err *err);
	/* Where programs ask the agent for something (ask.h): a listening socket, or -1. NULL: nowhere. */
	int (*listen)(void);
	/* Ends all processes and the machine; of a machine it does not return. */
	void (*poweroff)(void);
	/* A host that closed the channel may open it again (SIGIO tells); otherwise guest_serve returns. */
	bool host_returns;
	/* Where programs ask for pieces of the kernel's modules: a datagram socket, or a negative errno. Called once the
	 * machine has an identity. NULL: nowhere. */
	int (*offer)(void);
};

struct guest_open {
	uint32_t id; /* 0: free */
	int fd;
	uint64_t gen; /* of a directory's id, once it was asked for */
};

struct guest_files {
	struct guest_open *open; /* size of them, n in use */
	uint32_t size, n;
	uint32_t last;
	/* The beginning of an extended attribute's value, of the FS_SETXATTR with this token; 0: none. */
	struct buf part;
	uint32_t token;
};

/* What a child does for a frame, so that the host is heard meanwhile. */
struct guest_child {
	pid_t pid; /* 0: none under way */
	int fd;    /* where the child says how it went */
	uint32_t tag;
	uint64_t deadline_ns; /* CLOCK_MONOTONIC; of hooks none: each has its own */
};

struct guest_relay {
	int socket; /* negative: there is none */
	bool asked, sent;
	uint32_t tag;
	uint64_t deadline_ns; /* CLOCK_MONOTONIC: nobody waits for the answer any more */
	struct sockaddr_un from;
	socklen_t from_len;
	uint8_t ask[12];
};

/* What a program asks of the host (ask.c), one at a time; others wait to be accepted. */
struct guest_ask {
	int listener, client; /* -1: nobody listens; nobody asks, or is gone */
	enum { ASK_NONE, ASK_READING, ASK_READ, ASK_SENT, ASK_BEGUN } state;
	uint32_t id;
	uint8_t verb; /* enum guest_verb */
	uint32_t number;
	char name[PROTO_NAME_MAX + 1];
};

struct guest {
	const struct guest_machine *machine;
	int port;
	int signals; /* signalfd */
	bool hung_up;
	bool attaching; /* an identity was applied in this round */
	struct frame_parser in;
	struct buf out;
	size_t head_left; /* bytes of the frame at the front of `out`, part of which is written; 0: none is */
	uint16_t generation;
	bool attached, quiesced, powering_off;
	char name[PROTO_NAME_MAX + 1];
	char **env;

	struct list jobs;
	unsigned njobs;
	size_t specs;         /* bytes of the jobs' specs */
	struct record record; /* one that comes in parts */
	struct guest_files files;
	struct guest_child resize;
	struct guest_relay relay;
	struct guest_child hooking; /* hooks before a capture */
	struct guest_ask ask;
	struct pollfd fds[GUEST_POLL_MAX];
};

/*
 * Serve the host on `port` (non-blocking). Blocks SIGCHLD, SIGIO and the signals that ask PID 1 to power off,
 * for it reads them. Returns when the host is gone for good, or a negative errno when it cannot start.
 */
int guest_serve(int port, const struct guest_machine *machine);

/* ---- serve.c: for the others */

void guest_send(struct guest *guest, uint16_t type, uint32_t id, const void *payload, size_t len);
/* A record that may be longer than a frame. */
void guest_send_record(struct guest *guest, uint16_t type, uint32_t id, const struct buf *record);
/* i32 errno, str reason, then what `more` holds; errno is positive, as everywhere on the channel. */
void guest_send_result(struct guest *guest, uint16_t type, uint32_t id, const struct err *err,
		       const struct buf *more);
/* May frames be made now that nobody has asked for? */
bool guest_may_send(const struct guest *guest);

/* ---- job.c */

void guest_job_frame(struct guest *guest, const struct frame *frame);
/* Fill fds with four entries per job, in the list's order; returns how many. */
unsigned guest_jobs_poll(struct guest *guest, struct pollfd *fds);
void guest_jobs_ready(struct guest *guest, const struct pollfd *fds);
/* Say what has happened and could not be said before. */
void guest_jobs_flush(struct guest *guest);
/* A child ended. Called with pid 0 too, after others were reaped. */
void guest_jobs_reaped(struct guest *guest, pid_t pid, int status);
/* The host is a new one: it has asked for no output yet. */
void guest_jobs_forked(struct guest *guest);
void guest_jobs_end(struct guest *guest);

/* ---- spawn.c */

struct guest_process {
	pid_t pid;
	int status; /* a struct guest_failure arrives here if the command could not be run, else nothing */
	int in, out,
		error; /* our ends, non-blocking; -1: none. With a terminal in and out are its two dups */
};

/* What spawn tells of a command that it could not run. */
struct guest_failure {
	struct err err;
	uint8_t shell; /* EXIT_NOT_FOUND and its like */
};

/* Start a command. What the command itself is not able to do is told later, on ret->status. */
int guest_spawn(const struct job_spec *spec, const char *name, char *const *env, struct guest_process *ret,
		struct err *err);
/* dial.c, in a child: connect its stdin and stdout to a port of this machine's loopback. Returns only where that
 * cannot be. */
int guest_dial(const char *port, struct err *err);
/* In a child, after fork(2): signals, limits and umask as programs expect them. */
void guest_child_reset(void);

/* ---- ask.c */

void guest_ask_frame(struct guest *guest, const struct frame *frame);
/* What to poll, and what has come. */
void guest_ask_poll(const struct guest *guest, struct pollfd *fd);
void guest_ask_ready(struct guest *guest, short revents);
/* Say to the host what could not be said before. */
void guest_ask_flush(struct guest *guest);
/* There is a new host. */
void guest_ask_attached(struct guest *guest, const struct guest_identity *identity);
void guest_ask_end(struct guest *guest);
/* The socket; -1: it cannot be made. */
int guest_ask_listen(void);

/* ---- files.c */

void guest_files_frame(struct guest *guest, const struct frame *frame);
void guest_files_close(struct guest_files *files);

/* ---- relay.c */

/* Somebody asks. now_ns: CLOCK_MONOTONIC, here and below. */
void guest_relay_asked(struct guest *guest, uint64_t now_ns);
/* Ask the host what could not be asked before, or give that up. */
void guest_relay_flush(struct guest *guest, uint64_t now_ns);
/* The host is another. */
void guest_relay_again(struct guest *guest, uint64_t now_ns);
/* The host's answer. */
void guest_relay_frame(struct guest *guest, const struct frame *frame);

/* ---- modprobe.c */

/* For struct guest_machine: the kernel, and who wants to, finds our modprobe from here on. */
int modprobe_offer(void);
/* The program of that name. */
int modprobe_main(int argc, char **argv);

/* ---- identity.c, clock.c, free_pages.c, size.c, boot.c: the machine */

int identity_apply(const struct guest_identity *identity, struct err *err);
/* Stop telling the host which memory is free. */
void report_end(void);
/* At boot: as near as it goes to what is asked. 0: leave that as it is. */
int size_apply(uint32_t cpus, uint64_t memory, struct err *err);
/*
 * Later, in a child process: all of it or nothing. -ERANGE: there are not so many CPUs, or the kernel needs
 * more memory; -EBUSY: so much memory is in use.
 */
int size_change(uint32_t cpus, uint64_t memory, struct err *err);
void size_get(uint32_t *ret_cpus, uint64_t *ret_memory);
/* The wall clock, in ns since 1970; 0 or a negative errno. */
int clock_set(uint64_t real_ns);
/* For the host's time, which was right when it was sent: put the clock forward to it, never back. */
void clock_forward(uint64_t real_ns);
/* Write a string to a file of sysfs or procfs, or another; 0 or a negative errno. */
int write_file(const char *path, int flags, const char *text);

/* network.c. At boot: the network's addresses and routes; and, in the root disk, a resolver if it has none. */
void network_up(void);
void network_resolver(void);
/* In a fork: end the connections that left the machine it was. Returns how many. `rehearse`: only count them. */
unsigned network_end_connections(bool rehearse);
/* Let those run who were woken by that, until nobody else wants a CPU, or for a millisecond for each. */
void network_let_run(unsigned ended);

struct boot_args {
	char root[64];
	uint32_t cpus;    /* 0: leave them as they are */
	uint64_t memory;  /* likewise */
	char init[128];   /* "": none is asked for */
	bool report_boot; /* the host wants to know what memory is free, but not in a fork */
};
/* From the initramfs to the root disk, with sbx-guest in /run/sbx/bin. On failure the agent stays where it is, and err says why. */
int boot_machine(struct boot_args *args, struct err *err);
/* Wait for the channel's port and open it. */
int boot_open_port(struct err *err);

#endif
