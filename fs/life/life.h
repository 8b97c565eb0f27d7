/* SPDX-License-Identifier: MIT */
/*
 * life.h - sandboxes that sleep and end: suspend, wake on access, idle and ttl
 *
 * A suspended sandbox has no machine. What its machine was is in the store, as a snapshot under a hidden name
 * (snap/store.h) with a record of the sandbox (record.h), and what users know of it stays as it was: jobs, open files,
 * whoever waits. Whoever asks its guest for something brings it back, and waits for that.
 *
 *   suspend.c  capture, save, end the machine
 *   wake.c     load, and go on
 *   record.c   what is stored beside, and finding it again
 *   changes.c  when changes of settings are stored
 *   idle.c     who works, and who has not for too long
 *   ttl.c      the end
 *
 * With options.keep what is stored stays while the machine runs, until the next suspend: a daemon that was killed
 * finds it as it was then.
 */
#ifndef SBX_FS_LIFE_LIFE_H
#define SBX_FS_LIFE_LIFE_H

#include <stdbool.h>
#include <stdint.h>

#include "snap/store.h"
#include "util/err.h"
#include "util/loop.h"

struct fs;
struct sandbox;
struct snapshot;
struct template;
struct worker;

enum { LIFE_SECONDS_MAX = 99999999 };

/* A sandbox's part. */
struct life {
	uint32_t idle;      /* seconds without work after which it is suspended; 0: never */
	uint64_t end_ns;    /* CLOCK_MONOTONIC, when it is removed; 0: never */
	struct timer begin; /* of bringing it back, not from inside of who asks */
	struct timer timer; /* to that, or to a moment before, for a warning */
	bool warned;

	bool asleep; /* being suspended, suspended, or being brought back: what is asked of the guest waits */
	bool was_running;      /* when that began */
	struct worker *saving; /* while it is being suspended */
	bool tried;            /* by the daemon's end: once is enough */
	bool wanted;           /* somebody asked for it meanwhile */
	bool outdated; /* output was read since, which what is stored says is to be read, or a stdin was ended */
	bool damaged;            /* what is stored says too little: it never comes back */
	bool anew;               /* an earlier daemon stored it: of jobs the guest is to be asked */
	struct snapshot *stored; /* what the store has; NULL: nothing */
	uint64_t stored_ns;      /* when that was what it is: CLOCK_REALTIME */
	struct list change;      /* a setting changed that what is stored does not say yet */
	bool changed;            /* one did since it was last begun to be suspended */
	uint32_t first_job;      /* numbers of jobs that were begun since are from here on */

	uint64_t worked_ns;         /* when it worked last, CLOCK_MONOTONIC */
	uint64_t cpu_ns, cpu_at_ns; /* how much its VMM had used then */
};

/*
 * Somebody asks its guest for something: that is work, and brings back one that is asleep. True: it is asleep, and
 * what is asked of its agent is kept until it is back.
 */
bool life_touch(struct sandbox *sb);
/* No verb is under way any more: what was asked for meanwhile begins. */
void life_task_ended(struct sandbox *sb);

/* ---- suspend.c */

/* Suspend a sandbox that runs or is paused. done once, maybe from inside; what fails leaves it as it was. */
void life_suspend(struct sandbox *sb, done_fn done, void *arg);
/* The end of the daemon: all that can be are suspended, in the loop, before this returns. */
void life_suspend_all(struct fs *fs);

/* ---- wake.c */

/* Bring it back, for a verb; done as above. */
void life_resume(struct sandbox *sb, done_fn done, void *arg);
/* As capture() does of a machine (fs/sandbox/capture.h): its template is that of what is stored. */
int life_capture(struct sandbox *sb, const char *verb,
		 void (*done)(void *arg, const struct err *err, struct template *template), void *arg,
		 struct err *err);
/* It is stopped, and to begin with its disk. -ENOSPC and its like: the disk cannot be had. */
int life_kill(struct sandbox *sb, struct err *err);
/* It is no more what is stored, by a rollback or a kill: that goes, or stays for who asked for that. */
void life_replaced(struct sandbox *sb);
/* That came to nothing: it sleeps, as it is stored. Its guest is to be asked for its jobs. */
void life_sleep_on(struct sandbox *sb);
/* What the store has of it goes: it ended, or became another. */
void life_forget(struct sandbox *sb);
/* The sandbox is removed. What was called life_keep for stays in the store. */
void life_end(struct sandbox *sb);
/* The daemon ends: what is stored stays. */
void life_keep_all(struct fs *fs);

/* ---- record.c */

/* It changed: what is stored says so. Nothing happens where nothing is stored. */
void life_changed(struct sandbox *sb);
int life_chown(struct sandbox *sb, const struct owner *owner, struct err *err);
/* Find those that the store has. -ENOMEM; one that is damaged is shown, cannot be used, and says why. */
int life_load(struct fs *fs, struct err *err);
/* A name in the store for one that is suspended: 0 or a negative errno. */
int life_name(char ret[LIFE_NAME_SIZE]);
/* What is to be stored of it with its memory, with the time; ret->failed says whether memory ran out. */
void life_record(const struct sandbox *sb, uint64_t stored_ns, struct buf *ret);

/* ---- changes.c */

/*
 * As life_changed, for what users change as often as they like: at once, or a little later where that has taken more
 * than a part of the loop's time. What waits is written by life_keep_all at the latest.
 */
void life_setting_changed(struct sandbox *sb);
int changes_open(struct fs *fs, struct err *err);
void changes_stop(struct fs *fs);
void changes_close(struct fs *fs);

/* ---- idle.c and ttl.c */

/* Somebody has it open: a stream of a job, a file, a connection. */
bool life_in_use(const struct sandbox *sb);
/* Values of the files and of k=v words: -EINVAL or -ERANGE. */
int life_seconds(const char *key, const char *text, uint32_t *ret, struct err *err);
void life_set_idle(struct sandbox *sb, uint32_t seconds);
void life_set_ttl(struct sandbox *sb, uint32_t seconds);
/* Seconds until the end, at least 1; 0: it has none. */
uint32_t life_ttl(const struct sandbox *sb);
/* The daemon's timer of idle sandboxes; -ENOMEM. */
int idle_open(struct fs *fs, struct err *err);
void idle_stop(struct fs *fs);
void idle_close(struct fs *fs);

#endif
