/* SPDX-License-Identifier: MIT */
/*
 * channel.h - the host's end of the agent channel: jobs and files of one guest
 *
 * Wraps a machine's agent descriptor in the protocol of vm/agent/proto.h. Single-threaded, on the event loop.
 * Requests are answered once each, never from inside the call; when the channel is lost (agent_free, the
 * machine's exit) what is pending ends with -EHOSTDOWN. When memory is out a request ends with -ENOMEM; what
 * has no answer and cannot be left out, like a job's stdin, ends the channel instead. Everything received is untrusted: a malformed or
 * unexpected frame is dropped and counted.
 */
#ifndef SBX_VM_AGENT_CHANNEL_H
#define SBX_VM_AGENT_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"
#include "util/loop.h"
#include "vm/agent/proto.h"

struct agent;

/* Things the guest says of jobs, for whoever owns the agent; NULL: not interested. `data` is valid during
 * the call. */
struct agent_events {
	void (*ready)(void *owner); /* the agent of a booting guest waits for agent_attach */
	/* `shell`: with err, what a shell's $? would be (EXIT_NOT_FOUND and its like) */
	void (*job_started)(void *owner, uint32_t job, int err, const char *reason, uint32_t pid,
			    uint8_t shell);
	void (*job_output)(void *owner, uint32_t job, int stream /* 1, 2 */, const void *data,
			   size_t n); /* n == 0: end */
	void (*job_stdin_max)(void *owner, uint32_t job, uint64_t offset);
	/* `written`: how much of stdout and stderr there was by then; it may go on */
	void (*job_exit)(void *owner, uint32_t job, bool signaled, uint32_t code, const uint64_t written[2]);
	/* A program in the guest asks for a verb of its own sandbox; answered with agent_guest_done. The same id comes
	 * again where the guest cannot know that it was heard. `name` may be anything. */
	void (*guest_asked)(void *owner, uint32_t id, enum guest_verb verb, uint32_t number,
			    const char *name);
};

struct identity {
	const char *name;
	uint32_t generation;
	enum attach_kind kind;
	/* ATTACH_BOOT to a machine that is a copy of one: its clock stands where that one's stood */
	bool copied;
	/* the stream may be cut anywhere: send the preamble that makes the guest's parser find its feet */
	bool resync;
	/* what was asked of the agent before stays kept until agent_release */
	bool hold;
	char *const *env; /* "K=V", NULL-terminated, or NULL */
	uint32_t copy; /* which of those that a program in the guest asked for, from 1 on; 0: none of them */
};

/* results are those of the operation (enum fs_op), valid during the call. err: 0 or a negative errno. */
typedef void (*agent_fs_fn)(void *arg, int err, struct reader *results);

/* fd stays the caller's and must be non-blocking. */
struct agent *agent_new(struct loop *loop, int fd, const struct agent_events *events, void *owner);
/*
 * The machine is stored, and its descriptor goes, but whoever waits for an answer goes on waiting, and what is asked of
 * it is kept, as after agent_quiesce, until agent_attach through the descriptor of the machine that goes on.
 */
void agent_detach(struct agent *agent);
int agent_rejoin(struct agent *agent, int fd); /* -ENOMEM */
/* The same, before there is a machine. NULL: out of memory. */
struct agent *agent_new_detached(struct loop *loop, const struct agent_events *events, void *owner);
void agent_release(struct agent *agent);
/* Nobody will answer: all that wait end with err, and what was kept is forgotten. */
void agent_fail(struct agent *agent, const struct err *err);
/* Whose it is, for the log: copied, at most 63 bytes. */
void agent_name(struct agent *agent, const char *name);
/* Pending callbacks are called with -EHOSTDOWN first. NULL is allowed. */
void agent_free(struct agent *agent);

/*
 * Give the guest its identity with fresh entropy and the wall clock of this moment; done when the guest
 * confirmed it, or -ETIMEDOUT after timeout_ms.
 */
void agent_attach(struct agent *agent, const struct identity *identity, unsigned timeout_ms, done_fn done,
		  void *arg);

/* Empty the channel before a pause. -ETIMEDOUT: the guest does not answer, the stream may be cut
 * (identity.resync). What is asked of the agent from here on waits for agent_unquiesce or agent_attach. Before a
 * capture the guest's hooks run, up to 5 s beyond timeout_ms; -EBUSY: one refused it, and the guest goes on. */
void agent_quiesce(struct agent *agent, enum quiesce_why why, unsigned timeout_ms, done_fn done, void *arg);
void agent_unquiesce(struct agent *agent);
/* done when the guest's agent answers, -ETIMEDOUT when it is silent. */
void agent_ping(struct agent *agent, unsigned timeout_ms, done_fn done, void *arg);
/* The machine stands still by itself: whoever waits for agent_attach, agent_quiesce or agent_ping is answered with
 * err. */
void agent_give_up(struct agent *agent, const struct err *err);

/* Ask the guest to power off; nothing is awaited. */
void agent_poweroff(struct agent *agent);

/* To what a program in the guest asked (guest_asked): a capture follows for it, from which copies are made; and how
 * it ended. */
void agent_guest_begun(struct agent *agent, uint32_t id);
void agent_guest_done(struct agent *agent, uint32_t id, const struct err *err);

/* Jobs. Output and stdin obey the offsets the other side granted; the caller keeps count. */
void agent_job_start(struct agent *agent, uint32_t job, const struct job_spec *spec);
void agent_job_stdin(struct agent *agent, uint32_t job, const void *data, size_t n);
void agent_job_stdin_eof(struct agent *agent, uint32_t job);
void agent_job_want(struct agent *agent, uint32_t job, int stream, uint64_t offset);
/* done when the guest's agent has sent the signal, -ETIMEDOUT when it is silent. */
void agent_job_kill(struct agent *agent, uint32_t job, uint32_t signal, unsigned timeout_ms, done_fn done,
		    void *arg);
void agent_job_resize(struct agent *agent, uint32_t job, uint16_t rows, uint16_t cols);
void agent_job_forget(struct agent *agent, uint32_t job);
/*
 * each is called per job, its info valid during the call; then done. A guest that lists more jobs than this, or
 * more bytes of them, is not believed: done gets -EPROTO.
 */
enum { AGENT_JOBS_MAX = 4096, AGENT_JOBS_BYTES = 32 << 20 };
void agent_job_list(struct agent *agent, void (*each)(void *arg, const struct job_info *info), done_fn done,
		    void *arg);
/*
 * agent_attach and agent_job_list in one piece, for which the guest wakes up once. done is called once: when both
 * are done, or when one has failed. each gets done's arg, for no job after done was called with an error.
 */
void agent_introduce(struct agent *agent, const struct identity *identity, unsigned timeout_ms,
		     void (*each)(void *arg, const struct job_info *info), done_fn done, void *arg);

/*
 * The guest may read the kernel's modules from this file, which outlives the agent; with NULL it hears that there is
 * none. (Before, what it asks is dropped, and it asks again when it is attached.) One piece is sent for each turn of the loop, and none before the guest has taken all that was sent.
 */
struct modules;
void agent_offer_modules(struct agent *agent, const struct modules *modules);

/* Bring CPUs up or down and memory online or offline; done's err has the reason. */
void agent_resize(struct agent *agent, uint32_t cpus, uint64_t memory, unsigned timeout_ms, done_fn done,
		  void *arg);

/*
 * A file operation: args holds what enum fs_op lists after the op (the call copies it). Returns a handle for
 * agent_fs_cancel; after that fn is not called, though the guest may still do it (a file it opens is closed
 * again). NULL when out of memory: fn is not called either.
 *
 * Once somebody waited timeout_ms in vain, who would not wait longer ends with -ETIMEDOUT at once, until the
 * guest answers a request; one a second is sent, and waited for a second. So does a request to a guest that
 * leaves 64 MiB untaken, or 16,384 calls unanswered.
 */
struct agent_call;
struct agent_call *agent_fs(struct agent *agent, enum fs_op op, const struct buf *args, unsigned timeout_ms,
			    agent_fs_fn fn, void *arg);
void agent_fs_cancel(struct agent_call *call);
/* What is asked in between goes in one piece, for which the guest wakes up once. */
void agent_cork(struct agent *agent);
void agent_uncork(struct agent *agent);
/* The same, and the guest counts as silent as if waited_ms had been its time-out. */
void agent_fs_give_up(struct agent_call *call, unsigned waited_ms);
/*
 * fn is called once: before the next frame goes to the guest, or soon, or when the agent ends. It may ask for a file
 * operation. There is one at a time: the one before is called first.
 */
void agent_before_next(struct agent *agent, void (*fn)(void *arg), void *arg);
/* Somebody waited for a file operation in vain, and none was answered since. */
bool agent_silent(const struct agent *agent);

/* Nothing is pending. */
bool agent_idle(const struct agent *agent);
/* Bytes not yet taken by the guest: a caller that has much to send waits while this is large. */
size_t agent_backlog(const struct agent *agent);
/* Called on the loop when the backlog falls below 256 KiB again. */
void agent_on_drain(struct agent *agent, void (*fn)(void *owner));

#endif
