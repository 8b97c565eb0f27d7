/* SPDX-License-Identifier: MIT */
/*
 * asked.c - what a sandbox's guest asks for itself
 *
 * A question is kept in the sandbox, becomes a command of its owner's (fs/tree/command.h) that nobody's system call
 * waits for, and is answered to the machine that asked, if that is there still. The copies of it know from their
 * identity which they are (fs/sandbox/machine.c).
 */
#include "fs/fork/asked.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/fork/fork.h"
#include "fs/tree/tree.h"
#include "util/log.h"

struct wish {
	struct sandbox *sb; /* a reference */
	struct question what;
	uint64_t epoch;
	unsigned taken, failed; /* of the sandbox's rights; of those, what came to nothing */
};

static void refuse(struct sandbox *sb, uint32_t id, const struct err *err)
{
	log_debug("%s: its guest is refused: %s", sb->obj.name, err->text);
	if (sb->agent)
		agent_guest_done(sb->agent, id, err);
}

/* The end of its command. */
static void asked_done(void *arg, const struct err *err)
{
	struct wish *a = arg;
	struct sandbox *sb = a->sb;

	if (err->code)
		rights_give_back(&sb->rights, a->what.verb, a->failed ? a->failed : a->taken);
	sb->asking = (struct question){ 0 };
	if (sb->agent && sb->epoch == a->epoch)
		agent_guest_done(sb->agent, a->what.id, err);
	object_unref(&sb->obj);
	free(a);
}

/* ---- fork */

/* The highest number of a sandbox that is called as its copies are. */
static unsigned last_copy(const struct sandbox *sb)
{
	const size_t n = strlen(sb->obj.name);
	const struct sandbox *other;
	unsigned long number;
	unsigned last = 0;
	const char *rest;
	char *end;

	list_for_each (other, &sb->obj.fs->sandboxes, link) {
		rest = other->obj.name + n;
		if (strncmp(other->obj.name, sb->obj.name, n) != 0 || rest[0] != '.' || rest[1] < '1' ||
		    rest[1] > '9')
			continue;
		number = strtoul(rest + 1, &end, 10);
		if (!*end && number <= RIGHTS_MAX && number > last)
			last = (unsigned)number;
	}
	return last;
}

static void fork_copies(struct wish *a, struct command *command)
{
	struct sandbox *sb = a->sb;
	struct overrides overrides = {
		.rights = rights_of_copy(&sb->rights),
		.limits = sb->limits, /* or it would be rid of them */
		.has_rights = true,
		.copies = true,
		.first = last_copy(sb),
		.failed = &a->failed,
	};
	char prefix[STORE_NAME_MAX + 2];

	if (overrides.first < sb->copies_made)
		overrides.first = sb->copies_made;
	sb->copies_made = overrides.first + a->what.number;
	command->child.mode = sb->obj.owner.mode;
	snprintf(prefix, sizeof(prefix), "%s.", sb->obj.name);
	fork_batch(&sb->obj, a->what.number, prefix, &overrides, command);
}

/* ---- what is written to ctl elsewhere */

static void run_verb(struct wish *a, struct command *command)
{
	const struct sandbox *sb = a->sb;
	char text[2 * STORE_NAME_MAX + 32];

	if (a->what.verb == GUEST_CHECKPOINT)
		snprintf(text, sizeof(text), "checkpoint %s.%s", sb->obj.name, a->what.name);
	else
		snprintf(text, sizeof(text), "%s", guest_verb_name(a->what.verb));
	ctl_run(&sandbox_entry, text, command);
}

/* ---- a question */

static int check(struct sandbox *sb, const struct question *what, struct err *err)
{
	const unsigned n = what->verb == GUEST_FORK ? what->number : 1;

	if (!n || n > BATCH_MAX)
		return err_set(err, -ERANGE, "fork: between 1 and %d copies at once", BATCH_MAX);
	if (what->verb == GUEST_CHECKPOINT && !name_valid(what->name))
		return err_set(err, -EINVAL, "checkpoint: that is not a name");
	return rights_take(&sb->rights, what->verb, n, err);
}

static void begin(struct sandbox *sb)
{
	struct wish *a = calloc(1, sizeof(*a));
	struct command *command = a ? command_new_guest(&sb->obj, asked_done, a) : NULL;
	const struct question what = sb->asking;
	struct err err = { 0 };

	if (!command)
		err_sys(&err, -ENOMEM, "%s", guest_verb_name(what.verb));
	if (!command || check(sb, &what, &err)) {
		command_drop(command);
		free(a);
		sb->asking = (struct question){ 0 };
		refuse(sb, what.id, &err);
		return;
	}
	*a = (struct wish){ .sb = sandbox_of(object_ref(&sb->obj)),
			    .what = what,
			    .epoch = sb->epoch,
			    .taken = what.verb == GUEST_FORK ? what.number : 1 };
	sb->asking.begun = true;
	agent_guest_begun(sb->agent, what.id);
	if (what.verb == GUEST_FORK)
		fork_copies(a, command);
	else
		run_verb(a, command);
}

static void asked_go_on(struct sandbox *sb)
{
	const struct question *what = &sb->asking;

	if (what->verb && !what->begun && sb->born && !sb->ending && sb->agent && !sb->task.verb &&
	    sb->state == SANDBOX_RUNNING)
		begin(sb);
}

static void asked(struct sandbox *sb, uint32_t id, enum guest_verb verb, uint32_t number, const char *name)
{
	struct question *what = &sb->asking;
	struct err err;

	if (what->verb && what->id == id && (!what->begun || sb->epoch == what->epoch))
		return; /* asked once more */
	if (what->verb) {
		err_set(&err, -EBUSY, "another question of this machine's is not answered yet");
		refuse(sb, id, &err);
		return;
	}
	*what = (struct question){ .verb = verb, .id = id, .number = number, .epoch = sb->epoch };
	snprintf(what->name, sizeof(what->name), "%s", name);
	asked_go_on(sb);
}

int asked_open(struct fs *fs, struct err *err)
{
	(void)err;
	fs->asked = asked;
	fs->asked_go_on = asked_go_on;
	return 0;
}
