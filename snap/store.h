/* SPDX-License-Identifier: MIT */
/*
 * store.h - what lasts: images and named snapshots under --state DIR
 *
 *   DIR/serving, lock    held by the daemon that owns the store (store_lock.h)
 *   DIR/layers/          disk layers: ID.qcow2, and ID.raw of images (layer.h)
 *   DIR/sums/            checksums of layers
 *   DIR/images/NAME      an image: names its layer, and says how it was made (image.h)
 *   DIR/objects/ID/      what a snapshot holds: manifest, state, ram (docs/format.md)
 *   DIR/snapshots/NAME   a link to ../objects/ID; .boot-KEY: of a machine that just booted; .life-KEY: a
 *                        suspended sandbox
 *   DIR/tmp/             what is being written; emptied when the store is opened
 *
 * A name is only a link, so renaming and removing one are a single step, and an object whose name is gone
 * stays for as long as others refer to RAM blocks in it.
 *
 * Publishing is: write under tmp/, fsync files and directories, rename. A crash at any moment leaves the old
 * state or the new one. What no image, no snapshot and no live machine references is collected.
 *
 * Functions marked [worker] block on disk or CPU, touch no shared state but through what they are given, and
 * are meant for loop_work(); all others are quick and belong to the loop's thread. Everything read from the
 * store is untrusted.
 */
#ifndef SBX_SNAP_STORE_H
#define SBX_SNAP_STORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "snap/layer.h"
#include "snap/template.h"
#include "util/buf.h"
#include "util/err.h"

struct store;

enum { STORE_NAME_MAX = 64 };

/* [A-Za-z0-9][A-Za-z0-9._-]{0,63} */
bool name_valid(const char *name);
/* 0, or -EINVAL and the sentence that says what a name is. */
int name_check(const char *name, struct err *err);
/*
 * A boot snapshot's: ".boot-" and BOOT_KEY hexadecimal digits, which say what it was made of. It is kept as others
 * are, but no user can give that name, and snapshot_list leaves it out.
 */
enum { BOOT_KEY = 32, BOOT_NAME_SIZE = sizeof(".boot-") + BOOT_KEY };
bool boot_name_valid(const char *name);
/*
 * A suspended sandbox's: ".life-" and as many digits, by chance. It has a record beside, what is to be said of the
 * sandbox in words of fs/, which changes while the rest does not.
 */
enum { LIFE_NAME_SIZE = sizeof(".life-") + BOOT_KEY, RECORD_MAX = 16 << 20 };
bool life_name_valid(const char *name);

/* The directory alone, with those above it. */
int store_make(const char *dir, struct err *err);
/*
 * Open or create; removes leftovers of a crash and logs what it removed. Waits for a daemon that is ending; -EBUSY:
 * another has it, and is not.
 */
int store_open(const char *dir, struct store **ret, struct err *err);
/* The tree is gone and the daemon ending: another that opens the store waits from here on until it is closed. */
void store_retire(struct store *store);
void store_close(struct store *store);
const char *store_dir(const struct store *store);
/* Collect what nothing references; *ret_freed bytes. */
int store_gc(struct store *store, uint64_t *ret_freed, struct err *err);

/* Images. Read anew from disk at each call, since `sbx image` may change them while the daemon runs. */
struct image {
	char name[STORE_NAME_MAX + 1];
	uint64_t size;      /* bytes of the disk */
	uint64_t stored;    /* bytes on the host */
	uint64_t created;   /* ns since 1970 */
	char source[256];   /* how it was made: "build base", "import FILE" */
	struct layer *disk; /* a reference, for the holder of the struct */
	struct buf config;  /* what it says of commands (image_config.h) */
};
int image_get(struct store *store, const char *name, struct image *ret, struct err *err); /* -ENOENT */
void image_release(struct image *image);
int image_list(struct store *store, void (*each)(void *arg, const char *name), void *arg);

/* Whose something is, and the permissions of its directory: at most 07777. */
struct owner {
	uid_t uid;
	gid_t gid;
	mode_t mode;
};

/* What a snapshot's manifest says beside its data. */
struct snapshot_meta {
	char name[STORE_NAME_MAX + 1];
	char source[STORE_NAME_MAX + 1]; /* the sandbox it was taken of */
	char parent[STORE_NAME_MAX +
		    1]; /* the named snapshot that sandbox came from, by its present name, or "" */
	char image[STORE_NAME_MAX + 1];
	uint64_t created; /* ns since 1970 */
	uint64_t pause_ns;
	char engine[ENGINE_NAME_MAX];
	struct shape shape;
	/* Bytes: RAM and disk as the guest sees them; as stored, with all its layers but without the blocks
	 * that are in other snapshots; and what deleting it would free. Filled in by snapshot_get. */
	uint64_t ram_logical, disk_logical, ram_stored, disk_stored, own;
	struct buf env;      /* the sandbox's: lines K=V, in which a NUL stands for a newline in V */
	uint32_t next_job;   /* the machine's job numbers go on from here */
	struct buf net;      /* the sandbox's network policy, in words of fs/; empty: none was kept */
	struct buf requires; /* "key value" lines: what a host must have, in words of the engine and of fs/ */
	struct owner owner;  /* given to snapshot_save_begin; see snapshot_owner */
	struct buf record;   /* of a suspended sandbox, likewise; see snapshot_record */
};
void snapshot_meta_release(struct snapshot_meta *meta);

/* How far a worker has come, read by the loop; set `cancel` to make it give up with -ECANCELED. */
struct progress {
	atomic_uint permille;
	atomic_bool cancel;
};

/* The catalogue: names of published snapshots, in no order. */
int snapshot_list(struct store *store, void (*each)(void *arg, const char *name), void *arg);
/* Those of boot snapshots. */
void boot_snapshot_list(struct store *store, void (*each)(void *arg, const char *name), void *arg);
/* Those of suspended sandboxes. */
void life_snapshot_list(struct store *store, void (*each)(void *arg, const char *name), void *arg);
int snapshot_get(struct store *store, const char *name, struct snapshot_meta *ret,
		 struct err *err); /* -ENOENT, -EIO */
/* Names of the snapshots whose parent it is. */
void snapshot_children(struct store *store, const char *name, void (*each)(void *arg, const char *name),
		       void *arg);
/* Its disk: a reference to a frozen layer. -ENOENT, or why the snapshot cannot be used. */
int snapshot_disk(struct store *store, const char *name, struct layer **ret, struct err *err);
/* The name goes at once; data others need stays. -ENOENT. */
int snapshot_remove(struct store *store, const char *name, struct err *err);
int snapshot_rename(struct store *store, const char *from, const char *to, struct err *err); /* -EEXIST */
/*
 * Whose it is. -ENOENT: there is no such snapshot, or it says nothing of an owner (stores made before there
 * were any); -EIO: what it says is damaged. Setting takes effect as a whole or not at all, and lasts as
 * a chmod of a local file does: it survives this process at once, and the host once the background synced it.
 */
int snapshot_owner(struct store *store, const char *name, struct owner *ret, struct err *err);
int snapshot_set_owner(struct store *store, const char *name, const struct owner *owner, struct err *err);

/*
 * The record of a suspended sandbox. -ENOENT: there is none; -EIO: it cannot be read. Setting is as of an owner, and is
 * asked for by name, so that it is the present object's.
 */
int snapshot_record(struct store *store, const char *name, struct buf *ret, struct err *err);
int snapshot_set_record(struct store *store, const char *name, const struct buf *record, struct err *err);

/*
 * Saving is three steps: begin on the loop (reserves the name: -EEXIST; pins the template and its layers),
 * the work on a worker, end on the loop (publishes when result == 0, else removes every trace). `parent`
 * names the snapshot whose RAM blocks may be referenced, or NULL.
 */
struct save;
int snapshot_save_begin(struct store *store, const struct snapshot_meta *meta, struct template *template,
			struct progress *progress, struct save **ret, struct err *err);
int snapshot_save_run(struct save *save); /* [worker] writes and syncs everything under tmp/ */
int snapshot_save_end(struct save *save, int result, struct err *err); /* frees save */

/*
 * Loading likewise: begin, run [worker], end, which yields a template with one reference. Or only checking every
 * block and layer: it ends with nothing but how that went. -EIO names the file and block.
 */
struct visit;
int snapshot_load_begin(struct store *store, const char *name, struct progress *progress, struct visit **ret,
			struct err *err);
int snapshot_verify_begin(struct store *store, const char *name, struct progress *progress,
			  struct visit **ret, struct err *err);
int snapshot_visit_run(struct visit *visit);
int snapshot_load_end(struct visit *visit, int result, struct template **ret, struct err *err);
int snapshot_verify_end(struct visit *visit, int result, struct err *err);

#endif
