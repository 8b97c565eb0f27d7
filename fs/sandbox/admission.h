/* SPDX-License-Identifier: MIT */
/*
 * admission.h - how many sandboxes, jobs, bytes of machines' memory, of commands and of streams, and descriptors there
 * may be, of one owner and in all
 *
 * What is beyond that is refused before anything is made: -ENOSPC (-ENOMEM for memory) where there are too many in
 * all, -EDQUOT where one owner has too many. Jobs and memory count for the owner of the sandbox. All is counted as it
 * comes and goes, so that asking costs the same however much there is.
 *
 * Of the daemon's descriptors a part is nobody's, for what comes and goes. Of the others one owner may have
 * --max-files-per-user; half of them where that is not given, unless the owner is the daemon's own user.
 */
#ifndef SBX_FS_SANDBOX_ADMISSION_H
#define SBX_FS_SANDBOX_ADMISSION_H

#include "fs/fs.h"

struct holder;
struct sandbox;

struct tally {
	unsigned sandboxes, jobs;
	unsigned empty;   /* snapshots that are names and nothing else */
	unsigned files;   /* descriptors of the daemon's that stay open, roughly */
	uint64_t memory;  /* bytes, of machines */
	uint64_t texts;   /* bytes, of commands and environments of jobs */
	uint64_t streams; /* bytes, of their input and output */
};

enum {
	MACHINE_FILES = 16,    /* its VMM, its network's helper and their channels; rounded up */
	TEMPLATE_FILES = 2,    /* a snapshot in memory */
	TEXTS_EACH = 64 << 20, /* bytes of texts, of one owner */
	TEXTS_ALL = 256 << 20,
	STREAMS_EACH = 64 << 20, /* bytes of streams, of one owner who does not run the daemon */
	STREAMS_ALL = 256 << 20,
};

/* What is counted of a sandbox or snapshot. */
struct counted {
	struct holder *holder; /* for whom; NULL: it is not counted */
	struct tally tally;
};

int admission_open(struct fs *fs, struct err *err);
void admission_close(struct fs *fs);

/* Count something of this owner's from now on: nothing yet. -ENOMEM. */
int admission_enter(const struct fs *fs, struct counted *counted, uid_t uid);
/* It is so much now. Nothing happens to what is not counted. */
void admission_count(struct fs *fs, struct counted *counted, const struct tally *now);
/* It is another owner's now, whatever that one may have. -ENOMEM: it is not. */
int admission_chown(struct fs *fs, struct counted *counted, uid_t uid, struct err *err);
/* It is gone, with all that it had. */
void admission_leave(struct fs *fs, struct counted *counted);

/* How many empty snapshots somebody has. */
unsigned admission_empty(const struct fs *fs, uid_t uid);

/* One more sandbox of its owner: counted, or refused. */
int admit_sandbox(struct sandbox *sb, struct err *err);
/* One more job in the sandbox; -ENOSPC also where that has too many. */
int admit_job(const struct sandbox *sb, struct err *err);
/* So many bytes more of its jobs' texts. */
int admit_texts(const struct sandbox *sb, size_t n, struct err *err);
/* How many bytes more its jobs' streams may hold. */
uint64_t admit_streams(const struct sandbox *sb);
/* A machine for the sandbox, or the one it has, with so much memory in place of what that has now. */
int admit_memory(const struct sandbox *sb, uint64_t memory, struct err *err);
/* So many descriptors more, of this owner, that stay: for a machine, or a snapshot in memory. */
int admit_files(const struct fs *fs, const struct owner *owner, unsigned n, struct err *err);

#endif
