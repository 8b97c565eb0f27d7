/* SPDX-License-Identifier: MIT */
/* admission.c - how much there may be of one owner and in all */
#include "fs/sandbox/admission.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <sys/resource.h>
#include <unistd.h>

int admit_sandbox(const struct fs *fs, const struct owner *owner, struct err *err)
{
	const struct sandbox *sb;
	unsigned all = 0, own = 0;

	list_for_each (sb, &fs->sandboxes, link) {
		all++;
		own += sb->obj.owner.uid == owner->uid;
	}
	if (all >= fs->options.max_sandboxes)
		return err_set(err, -ENOSPC, "there are %u sandboxes, and more there may not be here", all);
	if (own >= fs->options.max_per_user)
		return err_set(err, -EDQUOT, "the user %u has %u sandboxes, and may not have more here",
			       (unsigned)owner->uid, own);
	return 0;
}

int admit_job(const struct sandbox *of, struct err *err)
{
	const struct options *options = &of->obj.fs->options;
	const struct sandbox *sb;
	unsigned all = 0, own = 0;

	list_for_each (sb, &of->obj.fs->sandboxes, link) {
		all += sb->njobs;
		own += sb->obj.owner.uid == of->obj.owner.uid ? sb->njobs : 0;
	}
	if (of->njobs >= options->max_jobs)
		return err_set(err, -ENOSPC,
			       "%s has %u jobs and may not have more; rmdir those in exec/ that have ended",
			       of->obj.name, of->njobs);
	if (all >= options->max_jobs_total)
		return err_set(err, -ENOSPC, "the sandboxes have %u jobs, and more there may not be here",
			       all);
	if (own >= options->max_jobs_per_user)
		return err_set(err, -EDQUOT,
			       "the sandboxes of user %u have %u jobs, and may not have more here",
			       (unsigned)of->obj.owner.uid, own);
	return 0;
}

int admit_memory(const struct sandbox *of, uint64_t memory, struct err *err)
{
	const struct options *options = &of->obj.fs->options;
	const struct sandbox *sb;
	uint64_t all = 0, own = 0;

	if (options->max_memory == UINT64_MAX && options->max_memory_per_user == UINT64_MAX)
		return 0;
	list_for_each (sb, &of->obj.fs->sandboxes, link) {
		if (sb == of || !sb->vm)
			continue;
		all += sb->shape.memory;
		own += sb->obj.owner.uid == of->obj.owner.uid ? sb->shape.memory : 0;
	}
	if (all + memory > options->max_memory)
		return err_set(err, -ENOMEM,
			       "%s: %" PRIu64 "M more are too much: the other machines have %" PRIu64
			       "M, and all may have %" PRIu64 "M here",
			       of->obj.name, memory >> 20, all >> 20, options->max_memory >> 20);
	if (own + memory > options->max_memory_per_user)
		return err_set(err, -EDQUOT,
			       "%s: %" PRIu64
			       "M more are too much: the other machines of user %u have %" PRIu64
			       "M, and may have %" PRIu64 "M here",
			       of->obj.name, memory >> 20, (unsigned)of->obj.owner.uid, own >> 20,
			       options->max_memory_per_user >> 20);
	return 0;
}

enum {
	FILES_NOBODYS = 512
}; /* a pool's machines, archives, helpers of snapshots, starts under way; the daemon's */

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

struct tally {
	const struct owner *owner;
	unsigned all, own;
};

static void count(struct tally *tally, const struct object *obj, unsigned files)
{
	tally->all += files;
	tally->own += obj->owner.uid == tally->owner->uid ? files : 0;
}

int admit_files(const struct fs *fs, const struct owner *owner, unsigned n, struct err *err)
{
	const unsigned most = files_in_all(), each = files_of_each(fs, owner, most);
	struct tally tally = { .owner = owner };
	const struct sandbox *sb;
	const struct object *snap;

	list_for_each (sb, &fs->sandboxes, link) {
		count(&tally, &sb->obj, sb->vm ? MACHINE_FILES : 0);
		list_for_each (snap, &sb->snapshots, siblings)
			count(&tally, snap, snap->descriptors);
	}
	list_for_each (snap, &fs->snapshots, siblings)
		count(&tally, snap, snap->descriptors);
	if (tally.all + n > most)
		return err_set(
			err, -ENOSPC,
			"the machines and snapshots keep %u descriptors open, and the daemon has no more "
			"for them",
			tally.all);
	if (tally.own + n > each)
		return err_set(
			err, -EDQUOT,
			"the machines and snapshots of user %u keep %u of the daemon's descriptors open, "
			"and may not have more here",
			(unsigned)owner->uid, tally.own);
	return 0;
}
