/* SPDX-License-Identifier: MIT */
/* image_config.c - what an image says of the commands that are to run in it */
#include "snap/image_config.h"

#include <string.h>

bool image_config_key(const char *key)
{
	static const char *const keys[] = { "env", "workdir", "user", "entrypoint", "cmd" };
	size_t i;

	for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (!strcmp(key, keys[i]))
			return true;
	return false;
}

void image_config_add(struct buf *text, const char *key, const char *value)
{
	buf_printf(text, "%s ", key);
	for (; *value; value++) {
		if (*value == '\n' || *value == '\\')
			buf_add(text, *value == '\n' ? "\\n" : "\\\\", 2);
		else
			buf_add(text, value, 1);
	}
	buf_add(text, "\n", 1);
}

/* The line at *pos: 0 at the end, -1 for what is none, else its bytes without the newline. */
static int split(const struct buf *text, size_t pos, const char **ret_line, size_t *ret_len)
{
	const char *line, *end;

	if (pos >= text->len)
		return 0;
	line = (const char *)buf_bytes(text) + pos;
	end = memchr(line, '\n', text->len - pos);
	if (!end || memchr(line, '\0', (size_t)(end - line)))
		return -1;
	*ret_line = line;
	*ret_len = (size_t)(end - line);
	return 1;
}

static bool get_key(const char *line, size_t len, char ret[16])
{
	const char *blank = memchr(line, ' ', len);

	if (!blank || blank - line >= 16)
		return false;
	memcpy(ret, line, (size_t)(blank - line));
	ret[blank - line] = '\0';
	return true;
}

int image_config_check(const struct buf *text, struct err *err)
{
	const char *line;
	char key[16];
	size_t pos, len;
	int rc;

	if (text->failed)
		return err_set(err, -ENOMEM, "out of memory");
	if (text->len > IMAGE_CONFIG_MAX)
		return err_set(err, -E2BIG, "the image's environment and commands have more than %d bytes",
			       IMAGE_CONFIG_MAX);
	for (pos = 0; (rc = split(text, pos, &line, &len)) > 0; pos += len + 1)
		if (!get_key(line, len, key) || !image_config_key(key))
			return err_set(err, -EINVAL, "the image's config has a line that is none");
	return rc ? err_set(err, -EINVAL, "the image's config has a line that is none") : 0;
}

bool image_config_next(const struct buf *text, size_t *pos, char ret_key[16], char *value, size_t size)
{
	const char *line, *p, *end;
	size_t len, n = 0;

	if (split(text, *pos, &line, &len) <= 0 || !get_key(line, len, ret_key))
		return false;
	end = line + len;
	for (p = line + strlen(ret_key) + 1; p < end && n + 1 < size; p++) {
		if (*p == '\\' && p + 1 < end)
			p++, value[n++] = *p == 'n' ? '\n' : *p;
		else
			value[n++] = *p;
	}
	value[n] = '\0';
	*pos += len + 1;
	return true;
}
