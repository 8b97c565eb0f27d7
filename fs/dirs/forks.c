/* SPDX-License-Identifier: MIT */
/* forks.c - forks/ of a sandbox or a snapshot, and the verb that does the same */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/dirs/dirs.h"
#include "fs/fork/fork.h"
#include "util/size.h"

/* A child has its origin's permissions less the umask, and its owner no more than a mkdir names. */
static void inherit(const struct object *origin, struct command *command)
{
	const mode_t most = command->kind == COMMAND_MKDIR ? command->child.mode | 0077 : 0777;

	command->child.mode = origin->owner.mode & ~command_umask(command) & most;
}

/* ---- the verb */

void fork_verb(struct object *origin, const struct words *words, struct command *command)
{
	struct overrides overrides = { 0 };
	struct err err = { 0 };
	uint64_t n;
	const bool batch = !number_parse(words->word[1], &n);

	if (tree_may_make(&command->caller, origin, "forks", &err)) {
		command_done(command, &err);
		return;
	}
	inherit(origin, command);
	if (batch && (words->n < 3 || strchr(words->word[2], '=')))
		err_set(&err, -EINVAL, "fork: the form is: fork W [k=v ...], or: fork N PREFIX [k=v ...]");
	else if (batch && !n)
		err_set(&err, -EINVAL, "fork: the number of children must be at least 1");
	else if (batch && n > BATCH_MAX)
		err_set(&err, -ERANGE, "fork: at most %d forks at once", BATCH_MAX);
	else if (!batch || name_valid(words->word[2]))
		(void)(overrides_parse(words->word + (batch ? 3 : 2), false, &overrides, &err) ||
		       limits_check(origin->fs, &command->caller, &overrides.limits, &err));
	else
		err_set(&err, -EINVAL, "fork: no name can begin with \"%.80s\"", words->word[2]);
	if (err.code)
		command_done(command, &err);
	else if (batch)
		fork_batch(origin, (unsigned)n, words->word[2], &overrides, command);
	else
		fork_one(origin, words->word[1], &overrides, command);
	overrides_release(&overrides);
}

/* ---- the directory */

static void fork_target(struct object *obj, struct buf *text)
{
	const struct sandbox *sb = sandbox_of(obj);

	buf_printf(text, "%s%s", sb->origin ? sb->origin->to_root : "../", obj->name);
}

static const struct entry link_entry = { "W", S_IFLNK | 0777, 0, "a link to the sandbox /W",
					 .target = fork_target };

static struct object *forks_find(struct object *dir, const char *name, const struct entry **ret)
{
	struct sandbox *sb;

	list_for_each (sb, &dir->forks, fork_link)
		if (!strcmp(sb->obj.name, name)) {
			*ret = &link_entry;
			return &sb->obj;
		}
	return NULL;
}

static void forks_list(struct object *dir, struct listing *listing)
{
	struct sandbox *sb;

	list_for_each (sb, &dir->forks, fork_link)
		listing_add(listing, sb->obj.name, &sb->obj, &link_entry);
}

static void forks_mkdir(struct object *dir, const char *name, struct command *command)
{
	inherit(dir, command);
	fork_one(dir, name, NULL, command);
}

const struct dir_ops forks_dir = {
	.child = &link_entry,
	.find = forks_find,
	.list = forks_list,
	.mkdir = forks_mkdir,
};
