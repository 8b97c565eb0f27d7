/* SPDX-License-Identifier: MIT */
/* config.c - options as text: the lines of a file, and the words of a list for mount(8) */
#include "fs/config.h"

#include <ctype.h>
#include <fcntl.h>
#include <string.h>

#include "util/io.h"

enum { FILE_MAX = 65536 };

/* Without blanks at both ends; in place. */
static char *trim(char *text)
{
	size_t n;

	while (isspace((unsigned char)*text))
		text++;
	n = strlen(text);
	while (n && isspace((unsigned char)text[n - 1]))
		n--;
	text[n] = '\0';
	return text;
}

static int take_line(char *line, config_fn fn, void *arg, struct err *err)
{
	char *equals, *name, *value;

	line = trim(line);
	if (!*line || *line == '#')
		return 0;
	equals = strchr(line, '=');
	if (!equals)
		return err_set(err, -EINVAL, "\"%s\" is not NAME = VALUE", line);
	*equals = '\0';
	name = trim(line);
	value = trim(equals + 1);
	if (!*value)
		return err_set(err, -EINVAL, "%s has no value", name);
	return fn(arg, name, value, err);
}

int config_parse(char *text, const char *path, config_fn fn, void *arg, struct err *err)
{
	char *line;
	unsigned number = 0;
	int rc = 0;

	while (!rc && (line = strsep(&text, "\n"))) {
		number++;
		rc = take_line(line, fn, arg, err);
	}
	if (rc)
		err_prefix(err, "%s:%u", path, number);
	return rc;
}

int config_read(const char *path, struct buf *text, config_fn fn, void *arg, struct err *err)
{
	const int rc = read_file_at(AT_FDCWD, path, FILE_MAX, text);

	if (rc)
		return err_sys(err, rc, "cannot read %s", path);
	if (text->len && memchr(buf_bytes(text), '\0', text->len))
		return err_set(err, -EINVAL, "%s has a NUL byte, and is no text", path);
	buf_add(text, "", 1);
	if (text->failed)
		return err_sys(err, -ENOMEM, "cannot read %s", path);
	return config_parse((char *)buf_bytes(text), path, fn, arg, err);
}

int config_each_word(char *text, int (*fn)(void *arg, char *word, size_t n), void *arg)
{
	char *word = text;
	bool quoted = false, last;
	int rc = 0;

	for (; !rc; text++) {
		last = !*text;
		if (*text == '"')
			quoted = !quoted;
		if (!last && (*text != ',' || quoted))
			continue;
		if (text > word)
			rc = fn(arg, word, (size_t)(text - word));
		if (last)
			break;
		word = text + 1;
	}
	return rc;
}

char *config_unquote(char *value)
{
	const size_t n = strlen(value);

	if (n < 2 || value[0] != '"' || value[n - 1] != '"')
		return value;
	value[n - 1] = '\0';
	return value + 1;
}
