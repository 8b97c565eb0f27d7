/* SPDX-License-Identifier: MIT */
/*
 * compaction.c - chains of disk layers are kept short, in the background
 *
 * One layer is merged at a time, in a quiet moment, so that a burst of work has the host to itself. But where
 * no moment is quiet, captures would lengthen the chain faster than it is merged, and each layer makes a fork
 * later (1.6 ms under QEMU): then it is done all the same. The files that merging made unnecessary go when no
 * machine and no helper is being started: one may have read a layer's name and not have opened it yet.
 */
#include "fs/snapshot/compaction.h"

#include <errno.h>
#include <stdlib.h>

#include "fs/pool/pool.h"
#include "fs/sandbox/sandbox.h"
#include "fs/snapshot/files.h"
#include "fs/snapshot/work.h"
#include "snap/compact.h"
#include "util/log.h"

enum { DELAY_MS = 500, PATIENCE = 2 };

struct compaction {
	struct compact *compact; /* under way, or NULL */
	struct progress progress;
	struct timer timer;
	bool wanted;     /* there may be something to do */
	bool settling;   /* there are files to let go of */
	unsigned waited; /* how often it was put off */
};

int compaction_open(struct fs *fs, struct err *err)
{
	fs->compaction = calloc(1, sizeof(*fs->compaction));
	if (!fs->compaction)
		return err_sys(err, -ENOMEM, "cannot compact disks");
	fs->layer_frozen = compaction_want;
	return 0;
}

void compaction_close(struct fs *fs)
{
	free(fs->compaction);
	fs->compaction = NULL;
}

static void next(void *arg);

static void later(struct fs *fs)
{
	if (!timer_running(&fs->compaction->timer))
		timer_start(fs->loop, &fs->compaction->timer, DELAY_MS * 1000000ull, next, fs);
}

void compaction_want(struct fs *fs)
{
	fs->compaction->wanted = true;
	later(fs);
}

void compaction_cancel(struct fs *fs)
{
	timer_stop(&fs->compaction->timer);
	fs->compaction->wanted = fs->compaction->settling = false;
	atomic_store(&fs->compaction->progress.cancel, true);
}

void compaction_settle(struct fs *fs)
{
	compact_settle(fs->store);
}

/* Nothing opens layers at this moment. */
static bool quiet(const struct fs *fs)
{
	const struct sandbox *sb;

	if (fs->forking || pool_prepares(fs) || browsing_opens(fs) || !workers_idle(fs))
		return false;
	list_for_each (sb, &fs->sandboxes, link)
		if (sb->task.verb)
			return false;
	return true;
}

static int run(void *arg)
{
	return compact_run(((struct fs *)arg)->compaction->compact);
}

static void finished(void *arg, int result)
{
	struct fs *fs = arg;
	struct err err = { 0 };

	fs->working--;
	result = compact_end(fs->compaction->compact, result, &err);
	fs->compaction->compact = NULL;
	if (atomic_load(&fs->compaction->progress.cancel))
		return;
	/* One that failed is tried again when another layer is frozen. */
	if (!result || result == -EAGAIN)
		fs->compaction->wanted = true;
	else
		log_warn("cannot merge disk layers: %s", err.text);
	fs->compaction->settling |= !result;
	later(fs);
}

static void begin(struct fs *fs)
{
	struct err err = { 0 };

	fs->compaction->wanted = false;
	if (compact_begin(fs->store, COMPACT_DEPTH, &fs->compaction->progress, &fs->compaction->compact,
			  &err))
		log_warn("cannot merge disk layers: %s", err.text);
	if (!fs->compaction->compact) {
		fs->compaction->waited = 0;
		return;
	}
	fs->working++;
	if (loop_work(fs->loop, run, finished, fs))
		finished(fs, -ENOMEM);
}

static void next(void *arg)
{
	struct fs *fs = arg;
	const bool now = quiet(fs);

	if (fs->compaction->settling && now) {
		compact_settle(fs->store);
		fs->compaction->settling = false;
	}
	if (fs->compaction->wanted && !fs->compaction->compact) {
		if (now || fs->compaction->waited >= PATIENCE)
			begin(fs);
		else
			fs->compaction->waited++;
	}
	if (fs->compaction->settling || (fs->compaction->wanted && !fs->compaction->compact))
		later(fs);
}
