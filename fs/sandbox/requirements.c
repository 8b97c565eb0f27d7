/* SPDX-License-Identifier: MIT */
/* requirements.c - what a host must have to fork a snapshot, written down when it is taken */
#include "fs/sandbox/requirements.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm/agent/proto.h"

void requires_put_host(const struct fs *fs, struct buf *text)
{
	buf_printf(text, "agent %d\n", PROTO_VERSION);
	fs->engine->requires(text);
}

void requires_put(const struct sandbox *sb, struct buf *text)
{
	if (sb->requires.len) {
		buf_add(text, buf_bytes(&sb->requires), sb->requires.len);
		return;
	}
	requires_put_host(sb->obj.fs, text);
}

static bool provided(const struct fs *fs, char *line)
{
	char *value = strchr(line, ' ');

	if (!value)
		return false;
	*value++ = 0;
	if (!strcmp(line, "agent"))
		return strtoul(value, NULL, 10) == PROTO_VERSION;
	return fs->engine->provides(line, value);
}

int requires_check(const struct fs *fs, const struct snapshot_meta *meta, const char *name, struct err *err)
{
	char *text, *line, *rest, copy[128];
	struct buf missing = { 0 };
	int rc = 0;

	if (strcmp(meta->engine, fs->engine->name) != 0)
		return err_set(err, -EINVAL,
			       "snapshot %s was taken with engine %s, and this sbxfs runs engine %s", name,
			       meta->engine, fs->engine->name);
	text = strndup(meta->requires.len ? (const char *)buf_bytes(&meta->requires) : "",
		       meta->requires.len);
	if (!text)
		return err_sys(err, -ENOMEM, "cannot load snapshot %s", name);
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		snprintf(copy, sizeof(copy), "%s", line);
		if (!provided(fs, line))
			buf_printf(&missing, "%s%s", missing.len ? ", " : "", copy);
	}
	if (missing.len || missing.failed)
		rc = err_set(err, -EINVAL, "snapshot %s needs what this host does not have: %.*s", name,
			     (int)missing.len, missing.len ? (const char *)buf_bytes(&missing) : "");
	buf_release(&missing);
	free(text);
	return rc;
}
