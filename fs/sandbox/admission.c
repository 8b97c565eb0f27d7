/* SPDX-License-Identifier: MIT */
/* admission.c - how much there may be of one owner and in all */
#include "fs/sandbox/admission.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fs/sandbox/sandbox.h"

enum {
	BUCKETS = 256,
	FILES_NOBODYS =
		512, /* a pool's machines, archives, helpers of snapshots, starts under way; the daemon's */
};

/* Who has something. */
struct holder {
	struct list link; /* in its bucket, by uid */
	uid_t uid;
	unsigned things; /* struct counted */
	struct tally tally;
};

struct admission {
	struct tally all;
	struct list holders[BUCKETS];
};

int admission_open(struct fs *fs, struct err *err)
{
	struct admission *admission = calloc(1, sizeof(*admission));
	unsigned i;

	if (!admission)
		return err_sys(err, -ENOMEM, "cannot count sandboxes");
	for (i = 0; i < BUCKETS; i++)
		list_init(&admission->holders[i]);
	fs->admission = admission;
	return 0;
}

void admission_close(struct fs *fs)
{
	free(fs->admission);
	fs->admission = NULL;
}

/* ---- counting */

/* NULL: somebody who has nothing. */
static struct holder *holder_find(const struct fs *fs, uid_t uid)
{
	struct holder *holder;

	list_for_each (holder, &fs->admission->holders[uid % BUCKETS], link)
		if (holder->uid == uid)
			return holder;
	return NULL;
}

int admission_enter(const struct fs *fs, struct counted *counted, uid_t uid)
{
	struct holder *holder = holder_find(fs, uid);

	if (!holder) {
		holder = calloc(1, sizeof(*holder));
		if (!holder)
			return -ENOMEM;
		holder->uid = uid;
		list_add(&fs->admission->holders[uid % BUCKETS], &holder->link);
	}
	holder->things++;
	*counted = (struct counted){ .holder = holder };
	return 0;
}

/* From what it was to what it is. */
static void shift(struct tally *tally, const struct tally *was, const struct tally *now)
{
	tally->sandboxes += now->sandboxes - was->sandboxes;
	tally->jobs += now->jobs - was->jobs;
	tally->empty += now->empty - was->empty;
	tally->files += now->files - was->files;
	tally->memory += now->memory - was->memory;
	tally->texts += now->texts - was->texts;
	tally->streams += now->streams - was->streams;
}

void admission_count(struct fs *fs, struct counted *counted, const struct tally *now)
{
	if (!counted->holder)
		return;
	shift(&fs->admission->all, &counted->tally, now);
	shift(&counted->holder->tally, &counted->tally, now);
	counted->tally = *now;
}

void admission_leave(struct fs *fs, struct counted *counted)
{
	struct holder *holder = counted->holder;

	if (!holder)
		return;
	admission_count(fs, counted, &(struct tally){ 0 });
	counted->holder = NULL;
	if (--holder->things)
		return;
	list_del(&holder->link);
	free(holder);
}

int admission_chown(struct fs *fs, struct counted *counted, uid_t uid, struct err *err)
{
	struct counted to;

	/* It may be removed, and somebody has its directory open. */
	if (!counted->holder || counted->holder->uid == uid)
		return 0;
	if (admission_enter(fs, &to, uid))
		return err_sys(err, -ENOMEM, "it cannot be given to user %u", (unsigned)uid);
	admission_count(fs, &to, &counted->tally);
	admission_leave(fs, counted);
	*counted = to;
	return 0;
}

/* ---- asking */

unsigned admission_empty(const struct fs *fs, uid_t uid)
{
	const struct holder *holder = holder_find(fs, uid);

	return holder ? holder->tally.empty : 0;
}

int admit_sandbox(struct sandbox *sb, struct err *err)
{
	struct fs *fs = sb->obj.fs;
	const unsigned all = fs->admission->all.sandboxes;
	const uid_t uid = sb->obj.owner.uid;
	const struct holder *holder = holder_find(fs, uid);
	const unsigned own = holder ? holder->tally.sandboxes : 0;

	if (all >= fs->options.max_sandboxes)
		return err_set(err, -ENOSPC, "there are %u sandboxes, and more there may not be here", all);
	if (own >= fs->options.max_per_user)
		return err_set(err, -EDQUOT, "the user %u has %u sandboxes, and may not have more here",
			       (unsigned)uid, own);
	if (admission_enter(fs, &sb->counted, uid))
		return err_sys(err, -ENOMEM, "cannot make the sandbox %s", sb->obj.name);
	sandbox_count(sb);
	return 0;
}

int admit_job(const struct sandbox *sb, struct err *err)
{
	const struct options *options = &sb->obj.fs->options;
	const struct tally *all = &sb->obj.fs->admission->all, *own = &sb->counted.holder->tally;

	if (sb->njobs >= options->max_jobs)
		return err_set(err, -ENOSPC,
			       "%s has %u jobs and may not have more; rmdir those in exec/ that have ended",
			       sb->obj.name, sb->njobs);
	if (all->jobs >= options->max_jobs_total)
		return err_set(err, -ENOSPC, "the sandboxes have %u jobs, and more there may not be here",
			       all->jobs);
	if (own->jobs >= options->max_jobs_per_user)
		return err_set(err, -EDQUOT,
			       "the sandboxes of user %u have %u jobs, and may not have more here",
			       (unsigned)sb->obj.owner.uid, own->jobs);
	return 0;
}

int admit_texts(const struct sandbox *sb, size_t n, struct err *err)
{
	const uint64_t all = sb->obj.fs->admission->all.texts, own = sb->counted.holder->tally.texts;

	if (all + n > TEXTS_ALL)
		return err_set(err, -ENOMEM,
			       "the commands and environments of all jobs have %" PRIu64
			       "M, and more there may not be here",
			       all >> 20);
	if (own + n > TEXTS_EACH)
		return err_set(err, -EDQUOT,
			       "the commands and environments of the jobs of user %u have %" PRIu64
			       "M, and may not have more here; rmdir jobs that have ended",
			       (unsigned)sb->obj.owner.uid, own >> 20);
	return 0;
}

uint64_t admit_streams(const struct sandbox *sb)
{
	const uint64_t all = sb->obj.fs->admission->all.streams, own = sb->counted.holder->tally.streams;
	const uint64_t left = all < STREAMS_ALL ? STREAMS_ALL - all : 0;
	const uint64_t own_left = own < STREAMS_EACH ? STREAMS_EACH - own : 0;

	return sb->obj.owner.uid == geteuid() || left < own_left ? left : own_left;
}

int admit_memory(const struct sandbox *sb, uint64_t memory, struct err *err)
{
	const struct options *options = &sb->obj.fs->options;
	const struct counted *counted = &sb->counted;
	const uint64_t all = sb->obj.fs->admission->all.memory - counted->tally.memory;
	const uint64_t own = counted->holder->tally.memory - counted->tally.memory;

	if (memory > options->max_memory || all > options->max_memory - memory)
		return err_set(err, -ENOMEM,
			       "%s: %" PRIu64 "M more are too much: the other machines have %" PRIu64
			       "M, and all may have %" PRIu64 "M here",
			       sb->obj.name, memory >> 20, all >> 20, options->max_memory >> 20);
	if (memory > options->max_memory_per_user || own > options->max_memory_per_user - memory)
		return err_set(err, -EDQUOT,
			       "%s: %" PRIu64
			       "M more are too much: the other machines of user %u have %" PRIu64
			       "M, and may have %" PRIu64 "M here",
			       sb->obj.name, memory >> 20, (unsigned)sb->obj.owner.uid, own >> 20,
			       options->max_memory_per_user >> 20);
	return 0;
}

static unsigned files_in_all(void)
{
	struct rlimit limit;
	unsigned n, kept;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > INT_MAX)
		return INT_MAX;
	n = (unsigned)limit.rlim_cur;
	kept = n / 4 < FILES_NOBODYS ? n / 4 : FILES_NOBODYS;
	return n - kept;
}

static unsigned files_of_each(const struct fs *fs, const struct owner *owner, unsigned in_all)
{
	if (fs->options.max_files_per_user)
		return fs->options.max_files_per_user;
	return owner->uid == geteuid() ? in_all : in_all / 2;
}

int admit_files(const struct fs *fs, const struct owner *owner, unsigned n, struct err *err)
{
	const unsigned most = files_in_all(), each = files_of_each(fs, owner, most);
	const struct holder *holder = holder_find(fs, owner->uid);
	const unsigned all = fs->admission->all.files, own = holder ? holder->tally.files : 0;

	if (all + n > most)
		return err_set(
			err, -ENOSPC,
			"the machines and snapshots keep %u descriptors open, and the daemon has no more "
			"for them",
			all);
	if (own + n > each)
		return err_set(
			err, -EDQUOT,
			"the machines and snapshots of user %u keep %u of the daemon's descriptors open, "
			"and may not have more here",
			(unsigned)owner->uid, own);
	return 0;
}
