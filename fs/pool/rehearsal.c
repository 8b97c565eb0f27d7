/* SPDX-License-Identifier: MIT */
/*
 * rehearsal.c - let a prepared machine go through what a fork does first, and stop it again
 *
 *   start, ATTACH (rehearse) and JOB_LIST, an empty command until its end, ATTACH and JOB_LIST again,
 * QUIESCE, pause
 *
 * It is the agent's ordinary protocol, so that what is exercised is what a fork and its first command use. A
 * guest that cannot run the command, for want of a shell, has rehearsed the rest. The first round leaves
 * memory that the second one uses, as a fork will, and the kernel has buried the command by then.
 */
#include "fs/pool/rehearsal.h"

#include <errno.h>
#include <stdlib.h>

#include "vm/agent/channel.h"

/* Nobody waits, and a host that is busy with other things leaves it little time. */
enum { STEP_MS = 60000 };

/* Sandboxes count their jobs from 1. */
#define REHEARSAL_JOB UINT32_MAX

struct rehearsal {
	struct fs *fs;
	struct vm *vm;
	struct agent *agent;
	uint32_t generation; /* the fork's */
	struct timer timer;  /* of the command, which alone has no time limit of the agent's */
	bool ended;          /* the agent's last words are not for us any more */
	done_fn done;
	void *arg;
};

/* A callback of the agent's is on the stack when it is freed: it allows that. */
static void rehearsal_free(struct rehearsal *r)
{
	struct agent *agent = r->agent;

	r->ended = true;
	r->agent = NULL;
	timer_stop(&r->timer);
	agent_free(agent);
	free(r);
}

static void end(struct rehearsal *r, const struct err *err)
{
	const done_fn done = r->done;
	const struct err copy = *err;
	void *arg = r->arg;

	rehearsal_free(r);
	done(arg, &copy);
}

/* After a step with this outcome; false: it has ended, by this or before. */
static bool goes_on(struct rehearsal *r, const struct err *err)
{
	if (r->ended)
		return false;
	if (!err->code)
		return true;
	end(r, err);
	return false;
}

static void on_paused(void *arg, const struct err *err)
{
	end(arg, err);
}

static void on_quiesced(void *arg, const struct err *err)
{
	struct rehearsal *r = arg;

	if (goes_on(r, err))
		r->fs->engine->pause(r->vm, on_paused, r);
}

static void on_job_info(void *arg, const struct job_info *info)
{
	(void)arg;
	(void)info;
}

static void introduce(struct rehearsal *r, enum attach_kind kind, done_fn done)
{
	/* The name is for a machine that just booted; its forks have others. */
	const struct identity identity = { .name = "sbx", .generation = r->generation, .kind = kind };

	agent_introduce(r->agent, &identity, STEP_MS, on_job_info, done, r);
}

static void on_introduced_again(void *arg, const struct err *err)
{
	struct rehearsal *r = arg;

	if (goes_on(r, err))
		agent_quiesce(r->agent, QUIESCE_PAUSE, STEP_MS, on_quiesced, r);
}

static void on_command_ended(struct rehearsal *r)
{
	timer_stop(&r->timer);
	agent_job_forget(r->agent, REHEARSAL_JOB);
	introduce(r, ATTACH_REHEARSE, on_introduced_again);
}

static void on_timeout(void *arg)
{
	on_command_ended(arg);
}

static void on_job_started(void *owner, uint32_t job, int err, const char *reason, uint32_t pid,
			   uint8_t shell)
{
	struct rehearsal *r = owner;

	(void)reason;
	(void)pid;
	(void)shell;
	if (job == REHEARSAL_JOB && err && timer_running(&r->timer))
		on_command_ended(r);
}

static void on_job_exit(void *owner, uint32_t job, bool signaled, uint32_t code, const uint64_t written[2])
{
	struct rehearsal *r = owner;

	(void)signaled;
	(void)code;
	(void)written;
	if (job == REHEARSAL_JOB && timer_running(&r->timer))
		on_command_ended(r);
}

static void on_introduced(void *arg, const struct err *err)
{
	static char words[] = ":";
	const struct job_spec spec = { .cmd = words, .cmd_len = 1, .merge = 1 };
	struct rehearsal *r = arg;

	if (!goes_on(r, err))
		return;
	timer_start(r->fs->loop, &r->timer, STEP_MS * 1000000ull, on_timeout, r);
	agent_job_start(r->agent, REHEARSAL_JOB, &spec);
	agent_job_want(r->agent, REHEARSAL_JOB, 1, PROTO_DATA_MAX);
}

static void on_started(void *arg, const struct err *err)
{
	if (goes_on(arg, err))
		introduce(arg, ATTACH_REHEARSE, on_introduced);
}

static const struct agent_events agent_events = { .job_started = on_job_started, .job_exit = on_job_exit };

static int rehearsal_new(struct fs *fs, struct vm *vm, uint32_t generation, done_fn done, void *arg,
			 struct rehearsal **ret, struct err *err)
{
	struct rehearsal *r = calloc(1, sizeof(*r));

	if (r)
		r->agent = agent_new(fs->loop, fs->engine->ends(vm).agent, &agent_events, r);
	if (r && r->agent)
		agent_name(r->agent, "rehearsal");
	if (!r || !r->agent) {
		free(r);
		return err_sys(err, -ENOMEM, "cannot rehearse a fork");
	}
	r->fs = fs;
	r->vm = vm;
	r->generation = generation;
	r->done = done;
	r->arg = arg;
	*ret = r;
	return 0;
}

int rehearse(struct fs *fs, struct vm *vm, const struct template *template, const struct vm_events *events,
	     void *owner, done_fn done, void *arg, struct rehearsal **ret, struct err *err)
{
	const int rc = rehearsal_new(fs, vm, template->generation + 1, done, arg, ret, err);

	if (!rc)
		fs->engine->start(vm, events, owner, on_started, *ret);
	return rc;
}

int rehearse_booted(struct fs *fs, struct vm *vm, uint32_t generation, done_fn done, void *arg,
		    struct rehearsal **ret, struct err *err)
{
	const int rc = rehearsal_new(fs, vm, generation, done, arg, ret, err);

	if (!rc)
		introduce(*ret, ATTACH_BOOT, on_introduced);
	return rc;
}

void rehearsal_cancel(struct rehearsal *rehearsal)
{
	if (rehearsal)
		rehearsal_free(rehearsal);
}
