/* SPDX-License-Identifier: MIT */
/*
 * first_boot.c - boot a machine that is nobody's, capture it, and end it
 *
 *   boot, the agent is ready, rehearsal (which leaves the machine paused), capture
 *
 * The template's generation is 0: a fork of it begins its history with 1, as a machine that boots does.
 */
#include "fs/start/first_boot.h"

#include <errno.h>
#include <stdlib.h>

#include "fs/pool/rehearsal.h"
#include "fs/sandbox/console.h"
#include "vm/agent/channel.h"

struct first_boot {
	struct fs *fs;
	struct shape shape;
	struct vm *vm;
	struct agent *agent; /* until it is ready */
	struct rehearsal *rehearsal;
	struct console console; /* read, or the guest would wait */
	struct layer *disk, *next;
	struct timer timer; /* of the boot */
	first_boot_fn done;
	void *arg;
};

void first_boot_cancel(struct first_boot *boot)
{
	if (!boot)
		return;
	timer_stop(&boot->timer);
	rehearsal_cancel(boot->rehearsal);
	agent_free(boot->agent);
	console_release(&boot->console);
	boot->fs->engine->destroy(boot->vm);
	layer_unref(boot->next);
	layer_unref(boot->disk);
	free(boot);
}

static void end(struct first_boot *boot, const struct err *err, struct template *template)
{
	const first_boot_fn done = boot->done;
	const struct err copy = *err;
	void *arg = boot->arg;

	first_boot_cancel(boot);
	done(arg, &copy, template);
}

/* It will not come up: with what it said last. */
static void fail(struct first_boot *boot, const struct err *why)
{
	struct err err = *why;
	char line[100];

	console_last_line(&boot->console, line, sizeof(line));
	if (*line)
		err_set(&err, why->code, "%.120s; the console ends with: %s", why->text, line);
	end(boot, &err, NULL);
}

static void on_timeout(void *arg)
{
	struct err err;

	err_set(&err, -ETIMEDOUT, "the guest did not answer in time");
	fail(arg, &err);
}

static void on_exited(void *owner, bool clean, const char *why)
{
	struct err err;

	(void)clean;
	err_set(&err, -EHOSTDOWN, "%s", why);
	fail(owner, &err);
}

static void on_stalled(void *owner, const char *why)
{
	struct err err;

	err_set(&err, -ENOSPC, "%s", why);
	end(owner, &err, NULL);
}

static const struct vm_events vm_events = { .exited = on_exited, .stalled = on_stalled };

static void on_frozen(void *arg)
{
	layer_freeze(((struct first_boot *)arg)->disk);
}

static void on_captured(void *arg, const struct err *err, struct template *template)
{
	struct first_boot *boot = arg;

	if (template) {
		template->shape = boot->shape;
		template->disk = layer_ref(boot->disk);
		template->generation = 0;
		template->quiesced = 1;
	}
	end(boot, err, template);
}

static void on_rehearsed(void *arg, const struct err *err)
{
	struct first_boot *boot = arg;
	const struct vm_capture calls = { on_frozen, on_captured, boot };
	struct err failed = *err;

	boot->rehearsal = NULL;
	if (!failed.code)
		layer_next(boot->fs->store, boot->disk, &boot->next, &failed);
	if (failed.code)
		fail(boot, &failed);
	else
		boot->fs->engine->capture(boot->vm, layer_path(boot->next), &calls);
}

static void on_ready(void *owner)
{
	struct first_boot *boot = owner;
	struct agent *agent = boot->agent;
	struct err err;

	boot->agent = NULL;
	agent_free(agent);
	timer_stop(&boot->timer);
	if (rehearse_booted(boot->fs, boot->vm, 1, on_rehearsed, boot, &boot->rehearsal, &err))
		fail(boot, &err);
}

static const struct agent_events agent_events = { .ready = on_ready };

static void on_booted(void *arg, const struct err *err)
{
	if (err->code)
		fail(arg, err);
}

static int begin(struct first_boot *boot, struct layer *image, struct err *err)
{
	struct fs *fs = boot->fs;
	int rc = layer_overlay(fs->store, image, &boot->disk, err);

	if (!rc)
		rc = fs->engine->boot(&fs->env, &boot->shape, layer_path(boot->disk), &vm_events, boot,
				      on_booted, boot, &boot->vm, err);
	if (rc)
		return rc;
	boot->agent = agent_new(fs->loop, fs->engine->ends(boot->vm).agent, &agent_events, boot);
	if (!boot->agent || console_attach(&boot->console, fs->loop, fs->engine->ends(boot->vm).console))
		return err_sys(err, -ENOMEM, "cannot boot a machine");
	agent_name(boot->agent, "first boot");
	timer_start(fs->loop, &boot->timer, fs->options.boot_timeout_ms * 1000000ull, on_timeout, boot);
	return 0;
}

int first_boot(struct fs *fs, struct layer *image, const struct shape *shape, first_boot_fn done, void *arg,
	       struct first_boot **ret, struct err *err)
{
	struct first_boot *boot = calloc(1, sizeof(*boot));
	int rc;

	if (!boot)
		return err_sys(err, -ENOMEM, "cannot boot a machine");
	boot->fs = fs;
	boot->shape = *shape;
	boot->done = done;
	boot->arg = arg;
	console_init(&boot->console);
	rc = begin(boot, image, err);
	if (rc)
		first_boot_cancel(boot);
	else
		*ret = boot;
	return rc;
}
