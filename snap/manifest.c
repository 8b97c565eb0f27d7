/* SPDX-License-Identifier: MIT */
/* manifest.c - small readable files of "key value" lines that know their kind, their version and damage */
#include "snap/manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "util/size.h"

enum { CHECKSUM_LEN = sizeof("checksum 0123456789abcdef\n") - 1 };

static void print_checksum(const void *data, size_t len, char ret[CHECKSUM_LEN + 1])
{
	snprintf(ret, CHECKSUM_LEN + 1, "checksum %016" PRIx64 "\n", (uint64_t)XXH3_64bits(data, len));
}

void manifest_begin(struct buf *out, const char *kind, unsigned version)
{
	buf_clear(out);
	buf_printf(out, "%s %u\n", kind, version);
}

void manifest_add(struct buf *out, const char *key, const char *value)
{
	buf_printf(out, "%s %.*s\n", key, (int)strcspn(value, "\n"), value);
}

void manifest_add_number(struct buf *out, const char *key, uint64_t value)
{
	buf_printf(out, "%s %" PRIu64 "\n", key, value);
}

void manifest_add_lines(struct buf *out, const char *key, const struct buf *text)
{
	const char *p = text->len ? (const char *)buf_bytes(text) : NULL;
	size_t left = text->len;

	while (left) {
		const char *newline = memchr(p, '\n', left);
		size_t len = newline ? (size_t)(newline - p) : left;

		buf_printf(out, "%s ", key);
		buf_add(out, p, len);
		buf_add(out, "\n", 1);
		len += newline ? 1 : 0;
		p += len;
		left -= len;
	}
}

void manifest_end(struct buf *out)
{
	char line[CHECKSUM_LEN + 1];

	if (out->failed)
		return;
	print_checksum(buf_bytes(out), out->len, line);
	buf_add(out, line, CHECKSUM_LEN);
}

int manifest_open(struct manifest *manifest, char *text, size_t len, const char *kind, unsigned version,
		  const char *name, struct err *err)
{
	struct manifest lines = { .next = text };
	char line[CHECKSUM_LEN + 1];
	char *key, *value;
	uint64_t found;

	if (len <= CHECKSUM_LEN || memchr(text, '\0', len))
		return err_set(err, -EIO, "%s is damaged: it is not a manifest", name);
	lines.end = text + len - CHECKSUM_LEN;
	print_checksum(text, len - CHECKSUM_LEN, line);
	if (memcmp(lines.end, line, CHECKSUM_LEN) != 0 || lines.end[-1] != '\n')
		return err_set(err, -EIO, "%s is damaged: its checksum does not match", name);
	if (!manifest_next(&lines, &key, &value) || strcmp(key, kind) != 0 || number_parse(value, &found))
		return err_set(err, -EINVAL, "%s is not a manifest of kind %s", name, kind);
	if (!found || found > version)
		return err_set(err, -EINVAL,
			       "%s has version %" PRIu64 " of %s, this program knows version %u", name, found,
			       kind, version);
	*manifest = lines;
	return 0;
}

bool manifest_next(struct manifest *manifest, char **ret_key, char **ret_value)
{
	char *key = manifest->next, *newline, *space;

	if (key >= manifest->end)
		return false;
	newline = memchr(key, '\n',
			 (size_t)(manifest->end - key)); /* there is one: the checksum's line is the last */
	*newline = '\0';
	space = strchr(key, ' ');
	if (space)
		*space = '\0';
	*ret_key = key;
	*ret_value = space ? space + 1 : newline;
	manifest->next = newline + 1;
	return true;
}
