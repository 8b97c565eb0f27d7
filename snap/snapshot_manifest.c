/* SPDX-License-Identifier: MIT */
/* snapshot_manifest.c - what the manifest of a snapshot says; the lines are listed in docs/format.md */
#include "snap/snapshot_manifest.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "snap/manifest.h"
#include "snap/qcow2/header.h"
#include "snap/ramimage.h"
#include "util/size.h"

enum { VERSION = 1 };

static const char kind[] = "sbxfs-snapshot";

/* Lines that hold one value and occur once. */
static const struct {
	const char *key;
	enum { NAME_OR_NONE, ID, ID_OR_NONE, LAYER, ENGINE, NUMBER32, NUMBER64 } type;
	size_t offset;
} fields[] = {
#define AT(member) offsetof(struct snapshot_manifest, member)
	{ "source", NAME_OR_NONE, AT(meta.source) },
	{ "parent", NAME_OR_NONE, AT(meta.parent) },
	{ "origin", ID, AT(origin) },
	{ "parent-id", ID_OR_NONE, AT(parent_id) },
	{ "image", NAME_OR_NONE, AT(meta.image) },
	{ "created", NUMBER64, AT(meta.created) },
	{ "pause-ns", NUMBER64, AT(meta.pause_ns) },
	{ "engine", ENGINE, AT(meta.engine) },
	{ "memory", NUMBER64, AT(meta.shape.memory) },
	{ "memory-max", NUMBER64, AT(meta.shape.memory_max) },
	{ "cpus", NUMBER32, AT(meta.shape.cpus) },
	{ "cpus-max", NUMBER32, AT(meta.shape.cpus_max) },
	{ "ram-size", NUMBER64, AT(ram_size) },
	{ "generation", NUMBER32, AT(generation) },
	{ "quiesced", NUMBER32, AT(quiesced) },
	{ "next-job", NUMBER32, AT(meta.next_job) },
	{ "disk", LAYER, AT(disk) },
	{ "disk-size", NUMBER64, AT(meta.disk_logical) },
#undef AT
};
enum { NFIELDS = sizeof(fields) / sizeof(fields[0]) };

void snapshot_meta_release(struct snapshot_meta *meta)
{
	buf_release(&meta->env);
	buf_release(&meta->requires);
	buf_release(&meta->net);
	buf_release(&meta->record);
}

void snapshot_manifest_release(struct snapshot_manifest *manifest)
{
	snapshot_meta_release(&manifest->meta);
	free(manifest->sources);
	*manifest = (struct snapshot_manifest){ 0 };
}

/* A line in which a NUL stands for a newline of its value (snapshot_meta.env), as a manifest can have it. */
static void add_quoted(struct buf *out, const char *line, size_t n)
{
	size_t i;

	buf_printf(out, "env-quoted ");
	for (i = 0; i < n; i++) {
		if (!line[i])
			buf_add(out, "\\n", 2);
		else if (line[i] == '\\')
			buf_add(out, "\\\\", 2);
		else
			buf_add(out, &line[i], 1);
	}
	buf_add(out, "\n", 1);
}

static void add_env(struct buf *out, const struct buf *env)
{
	const char *p = (const char *)buf_bytes(env), *end;
	size_t left = env->len, n;

	for (; left; p += n, left -= n) {
		end = memchr(p, '\n', left);
		n = end ? (size_t)(end - p) : left;
		if (memchr(p, 0, n))
			add_quoted(out, p, n);
		else
			buf_printf(out, "env %.*s\n", (int)n, p);
		n += !!end;
	}
}

void snapshot_manifest_encode(const struct snapshot_manifest *manifest, struct buf *out)
{
	manifest_begin(out, kind, VERSION);
	for (int i = 0; i < NFIELDS; i++) {
		const char *field = (const char *)manifest + fields[i].offset;

		if (fields[i].type == NUMBER64)
			manifest_add_number(out, fields[i].key, *(const uint64_t *)(const void *)field);
		else if (fields[i].type == NUMBER32)
			manifest_add_number(out, fields[i].key, *(const uint32_t *)(const void *)field);
		else
			manifest_add(out, fields[i].key, field);
	}
	for (unsigned i = 0; i < manifest->nsources; i++)
		manifest_add(out, "ram-source", manifest->sources[i]);
	manifest_add_lines(out, "requires", &manifest->meta.requires);
	add_env(out, &manifest->meta.env);
	manifest_add_lines(out, "net", &manifest->meta.net);
	manifest_end(out);
}

static int parse_number(const char *value, uint64_t max, uint64_t *ret)
{
	return number_parse(value, ret) || *ret > max ? -EINVAL : 0;
}

static int parse_field(int i, const char *value, struct snapshot_manifest *ret)
{
	char *field = (char *)ret + fields[i].offset;
	uint64_t number;

	switch (fields[i].type) {
	case NUMBER64:
		return parse_number(value, UINT64_MAX, (uint64_t *)(void *)field);
	case NUMBER32:
		if (parse_number(value, UINT32_MAX, &number))
			return -EINVAL;
		*(uint32_t *)(void *)field = (uint32_t)number;
		return 0;
	case NAME_OR_NONE:
		if (value[0] && !name_valid(value))
			return -EINVAL;
		break;
	case ENGINE:
		if (!name_valid(value) || strlen(value) >= ENGINE_NAME_MAX)
			return -EINVAL;
		break;
	case ID:
	case ID_OR_NONE:
		if (!id_valid(value, "") && (value[0] || fields[i].type == ID))
			return -EINVAL;
		break;
	case LAYER:
		if (!id_valid(value, ".qcow2") && !id_valid(value, ".raw"))
			return -EINVAL;
		break;
	}
	memcpy(field, value, strlen(value) + 1); /* every form above is bounded by its field */
	return 0;
}

static int add_source(const char *value, struct snapshot_manifest *manifest)
{
	char(*more)[ID_SIZE];

	if (!id_valid(value, "") || manifest->nsources == RAMIMAGE_SOURCES_MAX)
		return -EINVAL;
	more = realloc(manifest->sources, (manifest->nsources + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	manifest->sources = more;
	memcpy(more[manifest->nsources++], value, ID_SIZE);
	return 0;
}

static int add_line(struct buf *buf, const char *line)
{
	buf_add(buf, line, strlen(line));
	buf_add(buf, "\n", 1);
	return buf->failed ? -ENOMEM : 0;
}

static int add_unquoted(struct buf *env, const char *p)
{
	char c;

	for (; *p; p++) {
		c = *p;
		if (c == '\\' && *++p != '\\') {
			if (*p != 'n')
				return -EINVAL;
			c = 0;
		}
		buf_add(env, &c, 1);
	}
	buf_add(env, "\n", 1);
	return env->failed ? -ENOMEM : 0;
}

static int parse_line(const char *key, const char *value, uint64_t *seen, struct snapshot_manifest *ret)
{
	if (!strcmp(key, "env"))
		return add_line(&ret->meta.env, value);
	if (!strcmp(key, "env-quoted"))
		return add_unquoted(&ret->meta.env, value);
	if (!strcmp(key, "net"))
		return add_line(&ret->meta.net, value);
	if (!strcmp(key, "requires"))
		return add_line(&ret->meta.requires, value);
	if (!strcmp(key, "ram-source"))
		return add_source(value, ret);
	for (int i = 0; i < NFIELDS; i++) {
		if (strcmp(key, fields[i].key) != 0)
			continue;
		if (*seen & (UINT64_C(1) << i))
			return -EINVAL;
		*seen |= UINT64_C(1) << i;
		return parse_field(i, value, ret);
	}
	return -EINVAL;
}

/* What could not have been captured. */
static bool plausible(const struct snapshot_manifest *manifest)
{
	const struct shape *shape = &manifest->meta.shape;

	return shape->memory && shape->memory <= shape->memory_max && shape->cpus &&
	       shape->cpus <= shape->cpus_max && manifest->ram_size &&
	       manifest->ram_size <= RAMIMAGE_SIZE_MAX && manifest->ram_size % RAM_PAGE == 0;
}

int snapshot_manifest_parse(char *text, size_t len, const char *name, struct snapshot_manifest *ret,
			    struct err *err)
{
	struct snapshot_manifest manifest = { 0 };
	struct manifest lines;
	uint64_t seen = 0;
	char *key, *value;
	int rc = manifest_open(&lines, text, len, kind, VERSION, name, err);

	while (!rc && manifest_next(&lines, &key, &value)) {
		rc = parse_line(key, value, &seen, &manifest);
		if (rc == -ENOMEM)
			err_set(err, rc, "out of memory");
		else if (rc)
			err_set(err, rc, "%s has an invalid line: \"%.40s %.60s\"", name, key, value);
	}
	if (!rc && (seen != (UINT64_C(1) << NFIELDS) - 1 || !plausible(&manifest)))
		rc = err_set(err, -EINVAL, "%s lacks a key, or does not describe a machine", name);
	if (rc)
		snapshot_manifest_release(&manifest);
	else
		*ret = manifest;
	return rc;
}

int snapshot_manifest_limits(const struct snapshot_manifest *manifest, struct err *err)
{
	const struct shape *shape = &manifest->meta.shape;
	const uint64_t disk = manifest->meta.disk_logical;

	if (shape->memory_max > SHAPE_MEMORY_LIMIT)
		return err_set(err, -ERANGE, "a machine of %llu bytes of memory is above the limit of %lluG",
			       (unsigned long long)shape->memory_max, SHAPE_MEMORY_LIMIT >> 30);
	if (shape->cpus_max > SHAPE_CPUS_LIMIT)
		return err_set(err, -ERANGE, "a machine of %u cpus is above the limit of %d", shape->cpus_max,
			       SHAPE_CPUS_LIMIT);
	if (manifest->ram_size != shape->memory_max)
		return err_set(err, -EINVAL, "RAM of %llu bytes is not the machine's memory of %llu",
			       (unsigned long long)manifest->ram_size, (unsigned long long)shape->memory_max);
	if (!disk || disk % 512 || disk > QCOW2_DISK_MAX)
		return err_set(err, -ERANGE, "a disk of %llu bytes is not supported",
			       (unsigned long long)disk);
	return 0;
}
