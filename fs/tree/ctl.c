/* SPDX-License-Identifier: MIT */
/* ctl.c - the grammar of `ctl` files: one write is one command */
#include "fs/tree/ctl.h"

#include <errno.h>
#include <string.h>

#include "fs/tree/tree.h"

static const char blanks[] = " \t";

/* The character that stands behind a backslash in quotes; -1: none does. */
static int escaped(char c)
{
	switch (c) {
	case 'n':
		return '\n';
	case 't':
		return '\t';
	case '"':
	case '\\':
		return c;
	default:
		return -1;
	}
}

/*
 * Cut one word out of *text, in place: what it becomes is never longer. Advances *text behind the word, whose end
 * is then a NUL. A value that begins with a quote goes to the next quote. NULL: that does not come, or not at the
 * word's end.
 */
static const char *cut_word(char **text)
{
	char *from = *text, *to = *text;
	const char *word = from;
	bool quoted = false;
	int c;

	while (*from && !strchr(blanks, *from)) {
		*to++ = *from;
		if (*from++ == '=' && *from == '"') {
			quoted = true;
			break;
		}
	}
	for (from += quoted; quoted && *from != '"'; from++) {
		c = *from == '\\' ? escaped(*++from) : *from;
		if (!c || c == -1)
			return NULL;
		*to++ = (char)c;
	}
	from += quoted;
	if (*from && !strchr(blanks, *from))
		return NULL;
	*text = *from ? from + 1 : from;
	*to = 0;
	return word;
}

int words_parse(const char *text, size_t n, struct words *ret, struct err *err)
{
	char *p = ret->text;

	if (n > CTL_MAX)
		return err_set(err, -E2BIG, "a command has at most %d bytes", CTL_MAX);
	if (n && text[n - 1] == '\n')
		n--;
	if (memchr(text, '\n', n))
		return err_set(
			err, -EINVAL,
			"one write is one command of one line; in a value, K=\"...\", a newline is \\n");
	if (memchr(text, 0, n))
		return err_set(err, -EINVAL, "a command cannot contain NUL bytes");
	memcpy(ret->text, text, n);
	ret->text[n] = 0;
	for (ret->n = 0; *(p += strspn(p, blanks)); ret->n++) {
		if (ret->n == CTL_WORDS - 1)
			return err_set(err, -EINVAL, "a command has at most %d words", CTL_WORDS - 1);
		ret->word[ret->n] = cut_word(&p);
		if (!ret->word[ret->n])
			return err_set(
				err, -EINVAL,
				"a value that begins with a quote ends with one, K=\"two words\"; in it are "
				"\\n, \\t, \\\" and \\\\");
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

static void run(const struct verb *verbs, unsigned state, const char *state_name, const char *text, size_t n,
		struct command *command)
{
	const struct verb *verb = NULL;
	struct words words;
	struct err err = { 0 };

	if (!words_parse(text, n, &words, &err))
		verb = verb_find(verbs, &words, &err);
	if (verb && verb->when & 1u << state) {
		verb->run(command->obj, &words, command);
		return;
	}
	if (verb && !(verb->done & 1u << state))
		err_set(&err, -EBUSY, "%s: not possible now, the state is %s", verb->name, state_name);
	command_done(command, &err);
}

void ctl_write(const struct verb *verbs, unsigned state, const char *state_name, struct object *obj,
	       const char *text, struct request *request)
{
	struct command *command = command_new(COMMAND_WRITE, obj, request);

	if (!command)
		return;
	command_tell(command, "\"%.*s\" to %s/ctl", (int)strcspn(text, "\n"), text, obj->name);
	run(verbs, state, state_name, text, request->size, command);
}

void ctl_run(const struct entry *entry, const char *text, struct command *command)
{
	const struct entry *file = entry->dir->entries;
	const char *name = NULL;
	unsigned state;

	while (!file->verbs)
		file++;
	state = file->state ? file->state(command->obj, &name) : 0;
	run(file->verbs, state, name, text, strlen(text), command);
}

void ctl_show(const struct verb *verbs, unsigned state, struct buf *text)
{
	const struct verb *verb;

	for (verb = verbs; verb->name; verb++)
		if ((verb->when | verb->done) & 1u << state)
			buf_printf(text, "%s%s%s\n", verb->name, *verb->args ? " " : "", verb->args);
}
