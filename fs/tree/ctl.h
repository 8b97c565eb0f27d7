/* SPDX-License-Identifier: MIT */
/*
 * ctl.h - the grammar of `ctl` files: one write is one command
 *
 * A command is a verb and its arguments, separated by blanks, on one line whose newline is optional. A value that
 * begins with a double quote, K="...", goes to the next one and may have blanks in it; \n, \t, \" and \\ stand for
 * a newline, a tab, a quote and a backslash there. Elsewhere quotes are letters like others.
 * Directories say what they can do in tables of struct verb, which are the parser's, the `ctl` file's and the
 * README's only source.
 */
#ifndef SBX_FS_TREE_CTL_H
#define SBX_FS_TREE_CTL_H

#include <stdbool.h>
#include <stddef.h>

#include "fs/tree/command.h"
#include "util/buf.h"
#include "util/err.h"

enum { CTL_MAX = 4096, CTL_WORDS = 128 };

struct words {
	char text[CTL_MAX + 1]; /* cut into words */
	unsigned n;
	const char *word[CTL_WORDS]; /* word[0] is the verb; NULL after the last */
};

/*
 * Split what was written. 0, -EINVAL (empty, more than one line, a NUL, too many words, a quote that does not end)
 * or -E2BIG (above CTL_MAX bytes).
 */
int words_parse(const char *text, size_t n, struct words *ret, struct err *err);

struct verb {
	const char *name, *args, *help;
	unsigned min, max; /* how many arguments it takes */
	/* Bits of the object's states in which it does something, and in which it has nothing left to do. In
	 * all others it is the right verb at the wrong moment. Objects without states have state 0. */
	unsigned when, done;
	/* Takes the command over, and ends it with command_done. The words are valid during the call. */
	void (*run)(struct object *obj, const struct words *words, struct command *command);
};

/* The verb of a command in a table that ends with a NULL name; NULL with the reason (-EINVAL). */
const struct verb *verb_find(const struct verb *verbs, const struct words *words, struct err *err);
/* Carry out what was written to the `ctl` of obj, which is in `state`. */
void ctl_write(const struct verb *verbs, unsigned state, const char *state_name, struct object *obj,
	       const char *text, struct request *request);
/* The same for a command that exists already, on the object it is for; entry: of the object's directory, in which there
 * is a file ctl. */
void ctl_run(const struct entry *entry, const char *text, struct command *command);
/* One line a verb that may be given in this state, with its arguments. */
void ctl_show(const struct verb *verbs, unsigned state, struct buf *text);

#endif
