/* SPDX-License-Identifier: MIT */
/*
 * idle.c - who works, and who has not for too long
 *
 * Once a second all sandboxes with `idle` that run are looked at together. One works while somebody has a stream of a
 * job, a file or a connection open, has asked it for something since, has a verb under way, a flow of its network, or
 * uses more than a fiftieth of a CPU. The last is an average over some seconds, of its VMM: what that does by itself
 * for a guest that does nothing is less.
 *
 * A look at 2,000 sandboxes and 20,000 open files takes a millisecond, a thousandth of the time. No heap of deadlines
 * spares it: how much of a CPU a machine used of late is only known of one that was looked at before, so each has to
 * be, whenever its turn comes.
 */
#include <errno.h>
#include <stdlib.h>

#include "fs/dirs/dirs.h"
#include "fs/guest/guest_names.h"
#include "fs/life/life.h"
#include "fs/sandbox/job.h"
#include "fs/sandbox/sandbox.h"
#include "fs/tree/tree.h"
#include "util/log.h"
#include "vm/net/flow.h"
#include "vm/net/helper.h"

#define SECOND_NS UINT64_C(1000000000)
enum {
	CPU_SHARE = 50, /* one part in so many of a CPU is work */
	CPU_SPAN_S = 5,
};

struct idle_watch {
	struct timer timer;
};

int idle_open(struct fs *fs, struct err *err)
{
	fs->idle = calloc(1, sizeof(*fs->idle));
	return fs->idle ? 0 : err_sys(err, -ENOMEM, "cannot watch for idle sandboxes");
}

void idle_close(struct fs *fs)
{
	free(fs->idle);
	fs->idle = NULL;
}

/* The sandbox that an open file keeps busy; NULL: none. Texts keep none. */
static struct sandbox *busy_by(const struct file *file)
{
	if (file->obj->gone || !file->entry->stream)
		return NULL;
	if (file->obj->kind == OBJECT_JOB)
		return job_of(file->obj)->sb;
	if (file->obj->kind == OBJECT_PORT)
		return sandbox_of(file->obj->log);
	if (file->obj->kind == OBJECT_SANDBOX && file->entry->stream == &run_ops && file->priv)
		return sandbox_of(file->obj);
	return NULL;
}

static struct sandbox *busy_by_file(const struct guest_file *file)
{
	struct object *obj = file->node->guest->obj;

	return obj->kind == OBJECT_SANDBOX && !obj->gone ? sandbox_of(obj) : NULL;
}

static bool has_flows(const struct sandbox *sb)
{
	return sb->network.helper && flows_open(net_helper_board(sb->network.helper));
}

bool life_in_use(const struct sandbox *sb)
{
	const struct guest_file *guest_file;
	const struct file *file;

	list_for_each (file, &sb->obj.fs->files, all)
		if (busy_by(file) == sb)
			return true;
	list_for_each (guest_file, &sb->obj.fs->guest_files, all)
		if (busy_by_file(guest_file) == sb)
			return true;
	return has_flows(sb);
}

static bool uses_cpu(struct sandbox *sb, uint64_t now)
{
	struct life *life = &sb->life;
	struct vm_usage usage = { 0 };
	uint64_t span = now - life->cpu_at_ns;
	bool busy;

	if (span < CPU_SPAN_S * SECOND_NS && span < life->idle * SECOND_NS / 2)
		return false;
	if (sb->obj.fs->engine->usage(sb->vm, &usage))
		return false;
	/* Another machine's number may be smaller. */
	busy = usage.cpu_ns < life->cpu_ns || usage.cpu_ns - life->cpu_ns > span / CPU_SHARE;
	life->cpu_ns = usage.cpu_ns;
	life->cpu_at_ns = now;
	return busy;
}

static void on_suspended(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;

	if (err->code && err->code != -EBUSY) {
		log_warn("%s is idle, and cannot be suspended: %s", sb->obj.name, err->text);
		if (!sb->obj.gone)
			object_report(&sb->obj, err);
		sb->life.worked_ns = now_mono_ns(); /* not every second */
	}
	object_unref(&sb->obj);
}

static bool watched(const struct sandbox *sb)
{
	return sb->life.idle && sb->born && sb->vm && sb->state == SANDBOX_RUNNING;
}

static void look(void *arg)
{
	struct fs *fs = arg;
	const uint64_t now = now_mono_ns();
	const struct guest_file *guest_file;
	const struct file *file;
	struct sandbox *sb, *due = NULL;
	bool any = false;

	list_for_each (file, &fs->files, all)
		if ((sb = busy_by(file)))
			sb->life.worked_ns = now;
	list_for_each (guest_file, &fs->guest_files, all)
		if ((sb = busy_by_file(guest_file)))
			sb->life.worked_ns = now;
	list_for_each (sb, &fs->sandboxes, link) {
		any |= sb->life.idle > 0;
		if (!watched(sb))
			continue;
		if (sb->task.verb || has_flows(sb) || uses_cpu(sb, now))
			sb->life.worked_ns = now;
		else if (!due && now - sb->life.worked_ns >= sb->life.idle * SECOND_NS)
			due = sb;
	}
	if (any)
		timer_start(fs->loop, &fs->idle->timer, due ? SECOND_NS / 10 : SECOND_NS, look, fs);
	if (due)
		life_suspend(due, on_suspended, sandbox_of(object_ref(&due->obj)));
}

void life_set_idle(struct sandbox *sb, uint32_t seconds)
{
	struct fs *fs = sb->obj.fs;

	sb->life.idle = seconds;
	sb->life.worked_ns = now_mono_ns();
	if (seconds && !timer_running(&fs->idle->timer))
		timer_start(fs->loop, &fs->idle->timer, SECOND_NS, look, fs);
}

void idle_stop(struct fs *fs)
{
	timer_stop(&fs->idle->timer);
}
