/* SPDX-License-Identifier: MIT */
/* rights.c - what a sandbox's guest may ask for itself */
#include "fs/sandbox/rights.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "util/size.h"

static const char forms[] = "guest: the lines are: fork N, checkpoint N, suspend, inherit N";

static int parse_number(const char *key, const char *text, unsigned max, unsigned *ret, struct err *err)
{
	uint64_t n = 0;
	const int rc = number_parse(text, &n);

	if (rc == -EINVAL)
		return err_set(err, rc, "guest: %s has a number, as in \"%s 2\"", key, key);
	if (rc || n > max)
		return err_set(err, -ERANGE, "guest: %s: %.32s is above %u", key, text, max);
	*ret = (unsigned)n;
	return 0;
}

/* One line, which has something in it. */
static int parse_line(char *line, struct rights *ret, unsigned *seen, struct err *err)
{
	static const char *const keys[] = { "fork", "checkpoint", "suspend", "inherit" };
	char *save, *key = strtok_r(line, " \t", &save), *number = strtok_r(NULL, " \t", &save);
	unsigned *const fields[] = { &ret->fork, &ret->checkpoint, NULL, &ret->inherit };
	unsigned i;

	for (i = 0; i < 4 && strcmp(key, keys[i]) != 0; i++)
		;
	if (i == 4 || strtok_r(NULL, " \t", &save) || (number && !fields[i]))
		return err_set(err, -EINVAL, "%s", forms);
	if (*seen & 1u << i)
		return err_set(err, -EINVAL, "guest: %s is there twice", key);
	*seen |= 1u << i;
	if (fields[i])
		return parse_number(key, number ? number : "", i == 3 ? RIGHTS_DEEP : RIGHTS_MAX, fields[i],
				    err);
	ret->suspend = true;
	return 0;
}

int rights_parse(const char *text, struct rights *ret, struct err *err)
{
	struct rights rights = { 0 };
	unsigned seen = 0;
	char line[64];
	size_t n;
	int rc = 0;

	for (; !rc && *text; text += n + (text[n] != '\0')) {
		n = strcspn(text, ",\n");
		if (n >= sizeof(line))
			return err_set(err, -EINVAL, "%s", forms);
		snprintf(line, sizeof(line), "%.*s", (int)n, text);
		if (line[strspn(line, " \t")])
			rc = parse_line(line, &rights, &seen, err);
	}
	rights.fork_left = rights.fork;
	rights.checkpoint_left = rights.checkpoint;
	if (!rc)
		*ret = rights;
	return rc;
}

void rights_text(const struct rights *rights, struct buf *text)
{
	if (rights->fork)
		buf_printf(text, "fork %u\n", rights->fork_left);
	if (rights->checkpoint)
		buf_printf(text, "checkpoint %u\n", rights->checkpoint_left);
	if (rights->suspend)
		buf_printf(text, "suspend\n");
	if (rights->inherit)
		buf_printf(text, "inherit %u\n", rights->inherit);
}

static unsigned *left_of(struct rights *rights, enum guest_verb verb)
{
	return verb == GUEST_FORK ? &rights->fork_left : &rights->checkpoint_left;
}

int rights_take(struct rights *rights, enum guest_verb verb, unsigned n, struct err *err)
{
	const char *name = guest_verb_name(verb);
	const bool listed = verb == GUEST_FORK         ? rights->fork
			    : verb == GUEST_CHECKPOINT ? rights->checkpoint
						       : rights->suspend;
	unsigned *left = left_of(rights, verb);

	if (!listed)
		return err_set(err, -EPERM, "the sandbox's file `guest` does not list %s", name);
	if (verb == GUEST_SUSPEND)
		return 0;
	if (n > *left)
		return err_set(err, -EPERM, "the sandbox's file `guest` leaves %u of %s, and not %u", *left,
			       name, n);
	*left -= n;
	return 0;
}

void rights_give_back(struct rights *rights, enum guest_verb verb, unsigned n)
{
	unsigned *left = left_of(rights, verb);
	const unsigned most = verb == GUEST_FORK ? rights->fork : rights->checkpoint;

	if (verb == GUEST_SUSPEND)
		return;
	/* It may have been written anew meanwhile. */
	*left = n > most - *left ? most : *left + n;
}

struct rights rights_of_copy(const struct rights *rights)
{
	struct rights copy = *rights;

	if (!rights->inherit)
		return (struct rights){ 0 };
	copy.inherit--;
	copy.fork_left = copy.fork;
	copy.checkpoint_left = copy.checkpoint;
	return copy;
}
