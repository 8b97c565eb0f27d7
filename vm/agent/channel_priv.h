/* SPDX-License-Identifier: MIT */
/*
 * channel_priv.h - shared by the files of the agent channel's host end
 *
 *   channel.c  frames go out and come in; the beginning and the end of the channel
 *   calls.c    what has an answer: its tag, its timer, its one end
 *   asks.c     what the host asks of a guest (channel.h)
 *   answers.c  what a guest says, checked
 *   pieces.c   what a guest reads of the kernel's modules
 */
#ifndef SBX_VM_AGENT_CHANNEL_PRIV_H
#define SBX_VM_AGENT_CHANNEL_PRIV_H

#include "util/pending.h"
#include "vm/agent/channel.h"

/* More than are ever under way at a time of those that have a done_fn. */
enum { SPARE_CALLS = 8 };
/* How often the clock of a guest may be sent again (answers.c has when). */
enum { CLOCKS = 8 };
/* A guest that was silent is asked this often, and waited for so long, until it answers. */
enum { RETRY_MS = 1000 };
/* So few buckets are enough for most agents. */
enum { CALL_BUCKETS = 16 };
/* Powers of two of milliseconds: the last is that of everything longer. */
enum { ASKED_CLASSES = 20 };

struct agent_call {
	struct list link;                 /* agent->calls */
	struct agent_call *next, **place; /* in its bucket: who follows, and what points here */
	struct list asked;                /* agent->asked: a file request with a caller, not doomed */
	struct agent *agent;
	struct timer timer;
	uint16_t answer; /* the frame type that ends it; 0: none, it failed at once */
	uint32_t tag;
	struct err err;      /* how it ends when its timer does it */
	uint64_t sent_ns;    /* ATTACH, and then F_CLOCK: when it went out; F_FS: when it was asked */
	unsigned timeout_ms; /* of F_FS */
	unsigned clocks;     /* how often F_CLOCK may still be sent */
	unsigned jobs;       /* of a list: how many came, */
	size_t job_bytes;    /* and their records' bytes */

	done_fn done;
	agent_fs_fn fs;
	enum fs_op op;
	void (*each)(void *arg, const struct job_info *info);
	bool half;       /* of an introduction: agent->introduced is called when both are in */
	bool used;       /* of a spare one */
	bool incomplete; /* each was not told of all, for lack of memory */
	bool refused;    /* a job, `tag`, that is too large to send */
	bool doomed;     /* another file request's silence ends it */
	bool hooks;      /* of a quiesce: the guest's hooks may run before it, and refuse it... */
	bool hooks_run;  /* ...and do */
	void *arg;
};

struct agent {
	char name[64]; /* for the log */
	struct loop *loop;
	struct watch *watch;
	int fd;
	const struct agent_events *events;
	void *owner;
	struct frame_parser in;
	struct record record; /* a job_info that comes in parts */
	struct buf out;
	struct buf held;    /* while `holding` */
	bool holding;       /* the guest is quiesced */
	bool writing;       /* the watch waits for room */
	bool corked;        /* more is to come before any of it is written */
	struct timer later; /* when what need not go at once goes */
	struct {
		void (*fn)(void *arg); /* NULL: nothing */
		void *arg;
	} deferred;                /* agent_before_next */
	struct pending introduced; /* of agent_introduce */
	unsigned introducing;      /* answers it waits for */
	uint32_t generation;
	uint32_t last_tag;
	struct list calls;
	struct list asked[ASKED_CLASSES]; /* calls by how long they wait; doomed ones are in none */
	struct agent_call *few[CALL_BUCKETS], **buckets; /* all of them, by the low bits of their tags */
	size_t nbuckets, ncalls;
	/*
	 * File requests. silent_ms: somebody waited so long in vain, and no request was answered since; who
	 * would not wait longer is refused at once, but for one now and then.
	 */
	unsigned silent_ms;
	uint64_t retry_ns;    /* when the next may be sent all the same */
	uint64_t answered_ns; /* when the last was answered */
	struct agent_call spare[SPARE_CALLS];
	struct timer ending;
	uint64_t dropped;
	/* What the guest reads of the kernel's modules, and the piece that it asked for. */
	const struct modules *modules;
	bool offered;
	struct {
		bool open;
		uint32_t id, wanted;
		uint64_t offset;
	} piece;
	bool lost;
	bool busy, freed; /* within receive_and_send, which then frees it */
	bool full;
	void (*drain)(void *owner);
};

/* ---- calls.c */

/* A call that waits for this type of frame. NULL: out of memory, or the agent is freed. */
struct agent_call *call_new(struct agent *agent, uint16_t answer, unsigned timeout_ms);
/* One of those that only say, soon, that memory is out. NULL: there are none left. */
struct agent_call *call_spare(struct agent *agent);
/* For a done_fn, which is called whatever happens. NULL: it will say itself that it failed. */
struct agent_call *call_for(struct agent *agent, uint16_t answer, unsigned timeout_ms, done_fn done,
			    void *arg);
struct agent_call *call_find(struct agent *agent, uint16_t answer, uint32_t tag);
/* It waits for this answer with this tag from here on. */
void call_expect(struct agent_call *call, uint16_t answer, uint32_t tag);
void calls_init(struct agent *agent);
void calls_release(struct agent *agent);
/* End it with this; results are those of a file operation, or NULL. */
void call_finish(struct agent_call *call, const struct err *err, struct reader *results);
/* It ends with this code, not from inside this call. */
void call_fail_soon(struct agent_call *call, int code, const char *text);

/* The timer of a call. */
void call_expired(void *arg);
/* A file request that somebody waits for, with its timeout_ms: another's silence may end it. */
void call_has_caller(struct agent_call *call);
/* A file request was waited for in vain. Others that would not wait longer end too. */
void call_note_silence(const struct agent_call *silent, unsigned waited_ms);

/* ---- channel.c */

/* For the log: a frame goes this way. */
void channel_tell(const struct agent *agent, const char *way, uint16_t type, uint32_t id, size_t len);

/* Queue a frame, and write what goes. -EHOSTDOWN, -E2BIG or -ENOMEM: it is not sent. */
int channel_send(struct agent *agent, uint16_t type, uint32_t id, const void *payload, size_t len);
/* One that nobody waits for; false when it was not sent, nor anything will be from now on. */
bool channel_send_or_end(struct agent *agent, uint16_t type, uint32_t id, const void *payload, size_t len);
/* A record that may be longer than a frame. */
int channel_send_record(struct agent *agent, uint16_t type, uint32_t id, const struct buf *record);
/* What a call asks; if that cannot be sent, the call fails soon. */
void channel_send_call(struct agent_call *call, uint16_t type, const struct buf *payload);
/* A number of `size` bytes, 4 or 8, that nobody waits for. */
void channel_send_numbers(struct agent *agent, uint16_t type, uint32_t id, uint64_t v, unsigned size);
/* The guest listens again: what was held back follows. */
void channel_release_held(struct agent *agent);
void channel_write(struct agent *agent);
/* Queue what nobody waits for, to go with what is sent next, or soon. */
void channel_send_later(struct agent_call *call, uint16_t type, const struct buf *payload);
/* Memory is out: the channel ends, not from inside this call. */
void channel_end_soon(struct agent *agent);
void channel_destroy(struct agent *agent);

/* ---- answers.c */

/* A frame of the guest's; false: not what the protocol allows here. */
bool channel_answer(struct agent *agent, const struct frame *frame);

/* ---- pieces.c */

/* F_MODULES came. */
bool channel_piece_asked(struct agent *agent, const struct frame *frame);
/* Send the piece that is asked for, if it may go now. */
void channel_piece_send(struct agent *agent);

#endif
