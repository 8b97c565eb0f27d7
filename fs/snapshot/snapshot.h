/* SPDX-License-Identifier: MIT */
/*
 * snapshot.h - a snapshot: unnamed, in memory, of a living sandbox; or named, in the store
 *
 * A named one that was saved by this daemon still has its template in memory. One found in the store gets it
 * at its first fork. One made by mkdir is empty: a name, and nothing in the store, until an archive is
 * imported. Workers (work.h) save, load and verify.
 */
#ifndef SBX_FS_SNAPSHOT_SNAPSHOT_H
#define SBX_FS_SNAPSHOT_SNAPSHOT_H

#include "fs/sandbox/sandbox.h"

struct snapshot {
	struct object obj;
	bool named;                /* it is in /snapshots... */
	bool stored;               /* ...and in the store, not just on its way there */
	bool boot;                 /* in no directory: of a machine that just booted (fs/start/boots.h), or a
				      suspended sandbox's (fs/life/life.h) */
	struct sandbox *source;    /* an unnamed one's; NULL: named */
	struct template *template; /* NULL: in the store only */
	struct counted counted;
	struct snapshot_meta meta;
	bool has_meta;            /* false: not read yet, or cannot be */
	struct err damage;        /* why it cannot be read */
	struct list workers;      /* struct worker: what is under way */
	struct guest_mount files; /* fs/... */
	struct snapfs *browsed;   /* ...while a helper serves it (files.c) */
	uint64_t epoch;           /* counts those */
	struct list deltas;       /* struct delta, in archive.c: archive.since/BASE that were looked at */
	struct list waiting;      /* struct snapshot_wait, in work.c: who waits for the template */
};

struct snapshot *snapshot_of(const struct object *obj);
/* Give it its template; takes the reference over. NULL: it has none any more. */
void snapshot_set_template(struct snapshot *snap, struct template *template);
struct snapshot *snapshot_find(const struct index *names, const char *name);

/* What a fork of the sandbox, or a snapshot of it, inherits. snapshot_meta_release frees it. */
int snapshot_meta_of(const struct sandbox *sb, const struct template *template, struct snapshot_meta *ret);

/* A snapshot of sb with the next number, not yet in its list: snapshot_keep adds it. It belongs to whom the
 * sandbox belongs, with the sandbox's permissions less `umask`. Takes the template over. */
int snapshot_new(struct sandbox *sb, struct template *template, mode_t umask, struct snapshot **ret,
		 struct err *err);
void snapshot_keep(struct snapshot *snap);
/* One that nobody sees: of a machine that just booted, with its template and what is to be said of it, which it
 * takes over; or, without a template, one that the store has. NULL when out of memory. */
struct snapshot *snapshot_new_boot(struct fs *fs, const char *name, struct template *template,
				   struct snapshot_meta *meta);
/* One that nobody sees: of a suspended sandbox, whose owner it has. Likewise. */
struct snapshot *snapshot_new_life(const struct sandbox *sb, const char *name, struct template *template,
				   struct snapshot_meta *meta);
/* A named snapshot has got another name, or "" for none: sandboxes whose memory goes back to it follow. */
void snapshot_name_moved(struct fs *fs, const char *from, const char *to);
/* Forget it; what the store has of it stays. Its forks live on. */
void snapshot_drop(struct snapshot *snap);
/* An empty one with a valid name that is free. */
int snapshot_new_empty(struct fs *fs, const char *name, const struct owner *owner, struct snapshot **ret,
		       struct err *err);
bool snapshot_is_empty(const struct snapshot *snap);
/* Put it into /snapshots under this name. */
void snapshot_name(struct snapshot *snap, const char *name);
/* It could not be saved: back to the sandbox it was taken of, as the unnamed `number`; the object of that name is
 * another one. Where that sandbox is gone, so is the snapshot. */
void snapshot_give_back(struct snapshot *snap, struct sandbox *source, const char *number);
/* The store has it now, under this name; source, or NULL, is the sandbox it was taken of. */
void snapshot_published(struct snapshot *snap, const char *name, struct sandbox *source);

/* dir_ops.chown of its directory: the store remembers. */
int snapshot_chown(struct object *obj, const struct owner *owner, struct err *err);

/* Make objects for what the store has. */
int snapshots_load(struct fs *fs, struct err *err);
/* Give up workers and free all; the loop has to run until fs->working is 0 before the store is closed. */
void snapshots_cancel(struct fs *fs);

/* Can this name be given to a snapshot? */
int snapshot_name_check(struct fs *fs, const char *name, struct err *err);
/* Save under a name; durable when done, and the snapshot is a named one. If that fails an unnamed one is as
 * it was; one that snapshot_keep never got is in /snapshots meanwhile, for the caller to drop. *ret_worker,
 * for worker_cancel, holds until done. */
struct worker;
int snapshot_save(struct snapshot *snap, const char *name, done_fn done, void *arg,
		  struct worker **ret_worker, struct err *err);
/* The same for a boot snapshot. Nobody waits, and one that cannot be saved is used as it is: that is logged. */
void snapshot_save_boot(struct snapshot *snap);
/* And for a suspended sandbox's: `stored` when done. */
int snapshot_save_life(struct snapshot *snap, done_fn done, void *arg, struct worker **ret_worker,
		       struct err *err);
int snapshot_verify(struct snapshot *snap, done_fn done, void *arg, struct worker **ret_worker,
		    struct err *err);
void worker_cancel(void *worker);

/* The template, loaded if need be; done may be called at once. */
void snapshot_template(struct snapshot *snap, done_fn done, void *arg);
/* Reads the manifest if that has not happened. -EIO with the reason. */
int snapshot_read_meta(struct snapshot *snap, struct err *err);

/* "ready", "saving 42%"... */
void snapshot_status(struct snapshot *snap, struct buf *text);

/* The path in the tree: "VM/snapshots/1" or "snapshots/NAME". */
void snapshot_path(const struct snapshot *snap, char *ret, size_t size);

#endif
