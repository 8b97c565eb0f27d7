/* SPDX-License-Identifier: MIT */
/*
 * job.h - a command in a guest: exec/J, or the nameless one behind an open `run`
 *
 * Streams are bounded on the way: output is asked for only while somebody has it open, and at most
 * STREAM_WINDOW bytes ahead of who reads; what nobody asks for stays in the guest. Input waits here while the
 * guest does not take it.
 *
 * Output is a stream: what one reader got, no other gets. But once all of it was read, who opens it then reads
 * its last KEPT_MAX bytes again, so that something that reads whatever it finds (grep -r) takes nothing from
 * anybody. Of all jobs of a sandbox JOBS_KEPT_MAX bytes are kept, of what was read last.
 *
 * All of that counts for the sandbox's owner (admission.h), what was asked for from the moment on that it is. The more
 * there is of it, the less is asked for and taken ahead: STREAM_LEAST bytes of a stream, where there is no room.
 */
#ifndef SBX_FS_SANDBOX_JOB_H
#define SBX_FS_SANDBOX_JOB_H

#include "fs/tree/object.h"
#include "fs/tree/request.h"
#include "fs/tree/tree.h"
#include "util/loop.h"
#include "util/pending.h"
#include "vm/agent/proto.h"

enum {
	STREAM_WINDOW = 256 * 1024,
	STREAM_LEAST = 1024,
	STDIN_BUFFER = 64 * 1024,
	KEPT_MAX = 64 * 1024,
	JOBS_KEPT_MAX = 2 * 1024 * 1024,
};

/* How long the guest's agent may take to send a signal; what `exit` says of a command that took too long. */
enum { JOB_KILL_MS = 10000, SHELL_TIMED_OUT = 124, JOB_LEFT_MS = 10000 };

enum job_phase { JOB_PENDING, JOB_STARTED, JOB_ENDED }; /* the states of its verbs */

struct output {
	struct job *job;
	struct buf data; /* received, not yet read */
	uint64_t at;     /* received since the command began */
	uint64_t wanted; /* granted to the guest */
	uint64_t taken;  /* what it sends up to here is taken: that, or what an earlier daemon had granted */
	bool eof;
	bool lost;           /* there was no memory for what came next: after `data`, readers get ENOMEM */
	unsigned readers;    /* how many have it open */
	uint64_t last;       /* where it ends, as far as it matters; UINT64_MAX: at its end of file */
	uint64_t given;      /* bytes handed to readers */
	struct buf *kept;    /* the last of those, at most KEPT_MAX; NULL: nobody reads them again */
	struct buf again;    /* that, of a job in exec/... */
	struct list link;    /* ...in sb->outputs, when there is some */
	struct list waiting; /* struct request */
	struct list files;   /* struct file: who polls */
};

struct input {
	struct buf data;    /* taken from writers, not yet sent */
	uint64_t at, max;   /* sent; granted by the guest */
	const char *broken; /* why nobody reads it any more; NULL: it is read */
	bool eof, eof_sent; /* no more will be written */
	unsigned writers;
	struct list waiting; /* struct request: writes */
	struct list files;
};

struct job {
	struct object obj;
	struct list link;   /* sb->jobs */
	struct sandbox *sb; /* holds as long as the job is not gone */
	struct index_node by_number;
	char number[9]; /* id in hexadecimal, what it is found by in sb->job_numbers */
	bool nameless;
	enum job_phase phase;
	uint32_t id;          /* 0 until started; set by job_number */
	enum job_state state; /* JOB_RUNNING... of vm/agent/proto.h, once started */
	uint32_t code;
	char reason[ERR_TEXT_MAX]; /* where state is JOB_FAILED */

	struct buf cmd, cwd, user, env;
	size_t counted;  /* bytes of those, in sb->texts */
	size_t streamed; /* bytes of its streams, in sb->streams */
	bool tty;
	uint16_t rows, cols;
	bool linger;          /* its output ends when all processes have closed it, not with the command */
	uint32_t timeout;     /* seconds after which it is killed; 0: none */
	struct timer timer;   /* that */
	unsigned holders;     /* how many have `hold` open for writing: it ends with the last */
	uint8_t shell;        /* once it ended: what a shell's $? would be */
	struct output out[2]; /* stdout, stderr */
	struct input in;
	struct list waiting;  /* struct request: who reads `wait` */
	struct pending begun; /* the command runs, or err says why not */
	bool remembered;      /* of a stored machine, by a daemon that has not heard of it by itself yet */
	bool left;            /* nobody has it any more: it goes when it ends */
};

struct job *job_of(const struct object *obj);
/* In sb->jobs; an empty name is nameless. NULL when out of memory. */
struct job *job_new(struct sandbox *sb, const char *name, const struct owner *owner);
/* The guest knows it by this number from now on; 0: it does not know it. */
void job_number(struct job *job, uint32_t id);
/* The one with that number; NULL: there is none. */
struct job *job_find(struct sandbox *sb, uint32_t id);
/* Kill what is left of it and take it out of the tree. */
void job_remove(struct job *job);
/* What commands and environments all jobs of a sandbox may keep, in bytes. */
enum { JOBS_TEXT_MAX = 16 << 20 };
/* Is there room for n bytes, in the place of those in `old`? 0, or -ENOMEM or -EDQUOT with the reason. */
int job_room(const struct job *job, const struct buf *old, size_t n, struct err *err);
/* Its command or a setting has changed. */
void job_count(struct job *job);
/* Start job->cmd. -EBUSY, -E2BIG, or as sandbox_usable. */
int job_start(struct job *job, bool merge, struct err *err);
/* Nobody has it any more: it reads what was written to it and then the end, and goes when it ends, or after
 * JOB_LEFT_MS. */
void job_leave(struct job *job);
/* "exited 0" and its like, without newline. */
void job_status(const struct job *job, struct buf *text);

/* Somebody waits for it: the sandbox is brought back, if it is stored. */
void job_wake(const struct job *job);
/* All that the guest knows has been heard of: what it was said to have and does not has failed. */
void jobs_settle(struct sandbox *sb);
/* The sandbox is back: streams go on. */
void jobs_go_on(struct sandbox *sb);
/* It cannot be brought back: what was begun since, from this number on, will not be. */
void jobs_unbegun(struct sandbox *sb, uint32_t first, const char *why);

/* What the guest says; unknown numbers are ignored. */
void job_started(struct sandbox *sb, uint32_t id, int err, const char *reason, uint8_t shell);
void job_output(struct sandbox *sb, uint32_t id, int stream, const void *data, size_t n);
void job_stdin_max(struct sandbox *sb, uint32_t id, uint64_t offset);
void job_exit(struct sandbox *sb, uint32_t id, bool signaled, uint32_t code, const uint64_t written[2]);
/* For agent_job_list on a fork's machine (arg: the sandbox): the job is here too. */
void job_inherit(void *arg, const struct job_info *info);
/* The machine is gone: what ran has failed, streams end. */
void jobs_lost(struct sandbox *sb, const char *why);

/* ---- streams, in job_io.c */

/* What the streams hold has changed. */
void streams_count(struct job *job);
void output_init(struct output *out, struct job *job);
/* Nothing is kept any more. */
void output_forget(struct output *out);
void output_release(struct output *out);
/* Somebody opened or closed it; ask the guest accordingly. */
void output_open(struct job *job, unsigned stream /* 0, 1 */);
void output_close(struct job *job, unsigned stream);
void output_read(struct job *job, unsigned stream, bool nonblock, struct request *request);
unsigned output_poll(const struct output *out);
/* Ask for as much as fits. */
void output_want(struct job *job, unsigned stream);
void output_add(struct output *out, const void *data, size_t n);
/* No more will come. */
void output_end(struct output *out);
/* What comes after this offset is nobody's affair: it ends there. */
void output_limit(struct job *job, unsigned stream, uint64_t offset);

void input_init(struct input *in);
void input_release(struct input *in);
void input_write(struct job *job, const char *data, bool nonblock, struct request *request);
unsigned input_poll(const struct input *in);
/* Send what the guest takes, and let writers go on. */
void input_pump(struct job *job);
/* No more will be written. A guest that is stored hears that when it is back, and is not brought back for it. */
void input_end(struct job *job);
/* That was so, and the guest has not been told. */
bool input_end_waits(const struct input *in);
/* Nobody reads it any more: writers get EPIPE, and `error` says why (a literal). */
void input_break(struct input *in, const char *why);

extern const struct stream_ops stdin_ops, stdout_ops, stderr_ops;

#endif
