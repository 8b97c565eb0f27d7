/* SPDX-License-Identifier: MIT */
/* command.c - what somebody waits for: a verb or a setting written to a file, a mkdir, a rename */
#include "fs/tree/command.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/tree/tree.h"
#include "util/log.h"

static void on_interrupt(void *arg)
{
	struct command *command = arg;

	command->request = NULL;
	if (command->cancel)
		command->cancel(command->arg); /* may free the command */
}

struct command *command_new(enum command_kind kind, struct object *obj, struct request *request)
{
	struct command *command = calloc(1, sizeof(*command));

	if (!command) {
		request_err(request, -ENOMEM);
		return NULL;
	}
	command->kind = kind;
	command->obj = object_ref(obj);
	command->caller = request->caller;
	command->child = (struct owner){ request->caller.uid, request->caller.gid, 0700 };
	command->request = request;
	request->cancel = on_interrupt;
	request->arg = command;
	return command;
}

struct command *command_new_guest(struct object *obj, done_fn ended, void *arg)
{
	struct command *command = calloc(1, sizeof(*command));

	if (!command)
		return NULL;
	command->kind = COMMAND_GUEST;
	command->obj = object_ref(obj);
	command->caller = (struct caller){ .uid = obj->owner.uid, .gid = obj->owner.gid };
	command->child = (struct owner){ obj->owner.uid, obj->owner.gid, 0700 };
	command->ended = ended;
	command->ended_arg = arg;
	return command;
}

void command_drop(struct command *command)
{
	if (!command)
		return;
	object_unref(command->made);
	object_unref(command->obj);
	free(command);
}

void command_tell(const struct command *command, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (!log_verbose() || !command->request)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_debug("request %" PRIu64 ": %s, from process %d of user %u", command->request->number, text,
		  fuse_req_ctx(command->request->req)->pid, command->caller.uid);
}

mode_t command_umask(const struct command *command)
{
	if (command->kind == COMMAND_GUEST)
		return 0;
	return command->kind == COMMAND_MKDIR ? fuse_req_ctx(command->request->req)->umask
					      : caller_umask(&command->caller);
}

void command_blame(struct command *command, struct object *obj)
{
	object_unref(command->obj);
	command->obj = object_ref(obj);
}

void command_made(struct command *command, struct object *obj, const struct entry *entry, bool alias)
{
	const struct err ok = { 0 };

	command->made = object_ref(obj);
	command->entry = entry;
	command->alias = alias;
	command_done(command, &ok);
}

static void answer(struct command *command, const struct err *err)
{
	struct request *request = command->request;

	if (err->code)
		request_err(request, err->code);
	else if (command->kind == COMMAND_WRITE)
		request_written(request);
	else if (command->kind == COMMAND_MKDIR)
		tree_made(request, command->made, command->entry, command->alias);
	else
		request_err(request, 0);
}

void command_done(void *arg, const struct err *err)
{
	struct command *command = arg;

	if (err->code)
		log_debug("%s: failed: %s", command->obj->name, err->text);
	/* A mkdir or rename that goes well leaves the reason of an earlier failure; a verb clears it. */
	if (!command->obj->gone && command->kind != COMMAND_GUEST &&
	    (err->code || command->kind == COMMAND_WRITE))
		object_report(command->obj, err);
	if (command->request)
		answer(command, err);
	if (command->ended)
		command->ended(command->ended_arg, err);
	command_drop(command);
}
