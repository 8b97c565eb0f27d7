/* SPDX-License-Identifier: MIT */
/*
 * rename.c - give a sandbox another name
 *
 * The name is changed first, and then the guest is told, for which its channel is emptied as before a pause: what is
 * asked of it from here on comes after that. The kernel holds the root directory's lock meanwhile, so a guest that is
 * silent is not waited for.
 */
#include "fs/life/rename.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/sandbox/machine.h"
#include "fs/sandbox/pause.h"
#include "fs/snapshot/snapshot.h"
#include "util/log.h"

/* `parent` of what was forked of it is its path. */
static void tell_forks(const struct object *origin, const char *path)
{
	struct sandbox *child;

	list_for_each (child, &origin->forks, fork_link)
		snprintf(child->parent, sizeof(child->parent), "%s", path);
}

static void tell_children(struct sandbox *sb)
{
	char path[sizeof(sb->parent)];
	struct snapshot *snap;

	tell_forks(&sb->obj, sb->obj.name);
	list_for_each (snap, &sb->snapshots, obj.siblings) {
		snapshot_path(snap, path, sizeof(path));
		tell_forks(&snap->obj, path);
	}
}

static void on_told(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;
	const struct err ok = { 0 };

	if (err->code)
		log_warn("%s: its guest does not know its new name yet: %s", sb->obj.name, err->text);
	task_end(sb, &ok);
}

/* It has its name, whatever becomes of the machine. */
static void renamed(void *arg, const struct err *err)
{
	const struct err ok = { 0 };

	(void)err;
	command_done(arg, &ok);
}

void rename_sandbox(struct sandbox *sb, const char *name, struct command *command)
{
	struct err err = { 0 };

	if (sandbox_name_check(sb->obj.fs, name, &err) || task_begin(sb, "rename", renamed, command, &err)) {
		command_done(command, &err);
		return;
	}
	log_debug("%s: its name is %s now", sb->obj.name, name);
	object_leave(&sb->obj);
	snprintf(sb->obj.name, sizeof(sb->obj.name), "%s", name);
	object_enter(&sb->obj.fs->sandbox_names, &sb->obj);
	tell_children(sb);
	life_changed(sb);
	if (sb->state == SANDBOX_RUNNING)
		machine_rename(sb, on_told, sb);
	else
		task_end(sb, &err);
}
