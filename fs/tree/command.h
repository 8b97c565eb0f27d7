/* SPDX-License-Identifier: MIT */
/*
 * command.h - what somebody waits for: a verb or a setting written to a file, a mkdir, a rename
 *
 * One object for all of them, from the call to its answer. It is handed to whoever carries it out, who ends it
 * with command_done, at once or from a later callback: that answers the caller in the caller's own terms, and
 * puts the sentence of a failure into the `error` file of the object it was given to.
 *
 * A caller that is interrupted has its answer, EINTR, and `request` is NULL from then on. The command goes on,
 * unless `cancel` is set: that is called then, and has to bring about command_done, during the call or later.
 */
#ifndef SBX_FS_TREE_COMMAND_H
#define SBX_FS_TREE_COMMAND_H

#include "fs/tree/caller.h"
#include "fs/tree/object.h"
#include "fs/tree/request.h"

struct entry;

enum command_kind { COMMAND_WRITE, COMMAND_MKDIR, COMMAND_RENAME, COMMAND_GUEST /* asked for by a guest */ };

struct command {
	enum command_kind kind;
	struct object *obj; /* a reference: whose `error` takes the outcome */
	struct caller caller;
	struct owner child; /* whose what it makes is; 0700 if nobody says otherwise, at most for a mkdir */
	struct request *request; /* NULL: interrupted, or a guest's */
	done_fn ended;           /* of a guest's: who is told of its end, with ended_arg */
	void *ended_arg;
	void (*cancel)(void *arg);
	void *arg;
	/* What a mkdir is answered with: set by command_made. */
	struct object *made; /* a reference */
	const struct entry *entry;
	bool alias;
};

/* For the request, which it owns from here on. NULL: out of memory, and answered. */
struct command *command_new(enum command_kind kind, struct object *obj, struct request *request);
/*
 * Of a guest of the sandbox obj, as if the sandbox's owner asked, with no umask. Its outcome is for `ended`, and in no
 * `error`. NULL: out of memory.
 */
struct command *command_new_guest(struct object *obj, done_fn ended, void *arg);
/* It is not to be after all: nobody is told. NULL is allowed. */
void command_drop(struct command *command);
/* For the story that -v tells: what it is, as the caller said it. */
void command_tell(const struct command *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The umask of who asks: a mkdir brings it along, for others see caller_umask. Before the first wait. */
mode_t command_umask(const struct command *command);
/* The outcome belongs into this object's `error` instead. */
void command_blame(struct command *command, struct object *obj);
/* It made this object, shown by this entry; `alias` as for tree_entry. Ends it well. */
void command_made(struct command *command, struct object *obj, const struct entry *entry, bool alias);
/* The end of it (a done_fn; arg: the command), which frees it. */
void command_done(void *command, const struct err *err);

#endif
