/* SPDX-License-Identifier: MIT */
/* ctl.c - the grammar of `ctl` files: one write is one command */
#include "fs/tree/ctl.h"

#include <errno.h>
#include <string.h>

static const char blanks[] = " \t";

int words_parse(const char *text, size_t n, struct words *ret, struct err *err)
{
	char *p, *save = NULL;

	if (n > CTL_MAX)
		return err_set(err, -E2BIG, "a command has at most %d bytes", CTL_MAX);
	if (n && text[n - 1] == '\n')
		n--;
	if (memchr(text, '\n', n))
		return err_set(err, -EINVAL, "one write takes one command, on one line");
	if (memchr(text, 0, n))
		return err_set(err, -EINVAL, "a command cannot contain NUL bytes");
	memcpy(ret->text, text, n);
	ret->text[n] = 0;
	ret->n = 0;
	for (p = strtok_r(ret->text, blanks, &save); p; p = strtok_r(NULL, blanks, &save)) {
		if (ret->n == CTL_WORDS - 1)
			return err_set(err, -EINVAL, "a command has at most %d words", CTL_WORDS - 1);
		ret->word[ret->n++] = p;
	}
	ret->word[ret->n] = NULL;
	if (!ret->n)
		return err_set(err, -EINVAL, "the command is empty");
	return 0;
}

const struct verb *verb_find(const struct verb *verbs, const struct words *words, struct err *err)
{
	const unsigned given = words->n - 1;
	const struct verb *verb;

	for (verb = verbs; verb->name; verb++)
		if (!strcmp(verb->name, words->word[0]))
			break;
	if (!verb->name) {
		err_set(err, -EINVAL, "there is no verb \"%.64s\"; read ctl for those there are",
			words->word[0]);
		return NULL;
	}
	if (given < verb->min || given > verb->max) {
		err_set(err, -EINVAL, "%s: wrong number of arguments; the form is: %s%s%s", verb->name,
			verb->name, *verb->args ? " " : "", verb->args);
		return NULL;
	}
	return verb;
}

void ctl_write(const struct verb *verbs, unsigned state, const char *state_name, struct object *obj,
	       const char *text, struct request *request)
{
	struct command *command = command_new(COMMAND_WRITE, obj, request);
	const struct verb *verb = NULL;
	struct words words;
	struct err err = { 0 };

	if (!command)
		return;
	command_tell(command, "\"%.*s\" to %s/ctl", (int)strcspn(text, "\n"), text, obj->name);
	if (!words_parse(text, request->size, &words, &err))
		verb = verb_find(verbs, &words, &err);
	if (verb && verb->when & 1u << state) {
		verb->run(obj, &words, command);
		return;
	}
	if (verb && !(verb->done & 1u << state))
		err_set(&err, -EBUSY, "%s: not possible now, the state is %s", verb->name, state_name);
	command_done(command, &err);
}

void ctl_show(const struct verb *verbs, unsigned state, struct buf *text)
{
	const struct verb *verb;

	for (verb = verbs; verb->name; verb++)
		if ((verb->when | verb->done) & 1u << state)
			buf_printf(text, "%s%s%s\n", verb->name, *verb->args ? " " : "", verb->args);
}
