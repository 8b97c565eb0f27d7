/* SPDX-License-Identifier: MIT */
/*
 * dump.c - a snapshot as readable text
 *
 * A line for each thing, those of one part indented below its name. Blocks that follow each other and say the
 * same (a hole, or a block of zeroes) share a line.
 */
#include "snap/dump.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap/manifest.h"
#include "snap/qcow2/chain.h"
#include "snap/ramimage.h"
#include "snap/snapshot_manifest.h"
#include "snap/sums.h"
#include "util/io.h"

struct dump {
	FILE *out;
	int object_fd, layers_fd, sums_fd;
	struct err *err; /* the first damage */
};

/* Say it in the text, and keep the first. */
static void damaged(struct dump *dump, const struct err *why)
{
	fprintf(dump->out, "  damaged: %s\n", why->text);
	if (!dump->err->code)
		*dump->err = *why;
}

/* ---- manifest */

/* Bytes that a terminal could take for orders come as \xHH. */
static void put_escaped(FILE *out, const char *text, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		const unsigned char c = (unsigned char)text[i];

		if (c < ' ' || c >= 0x7f)
			fprintf(out, "\\x%02x", c);
		else
			fputc(c, out);
	}
}

static void put_lines(FILE *out, const char *text, size_t n)
{
	const char *end = text + n, *newline;

	for (; text < end; text = newline + 1) {
		newline = memchr(text, '\n', (size_t)(end - text));
		newline = newline ? newline : end;
		fprintf(out, "  ");
		put_escaped(out, text, (size_t)(newline - text));
		fprintf(out, "\n");
	}
}

/* The manifest, for what it leads to; false: it cannot be read. */
static bool dump_manifest(struct dump *dump, struct snapshot_manifest *ret)
{
	struct buf text = { 0 };
	struct err err = { 0 };
	int rc = read_file_at(dump->object_fd, "manifest", MANIFEST_MAX, &text);

	fprintf(dump->out, "manifest\n");
	if (rc) {
		err_sys(&err, rc, "cannot read the manifest");
	} else {
		put_lines(dump->out, (const char *)buf_bytes(&text), text.len);
		rc = snapshot_manifest_parse((char *)buf_bytes(&text), text.len, "the manifest", ret, &err);
	}
	if (rc)
		damaged(dump, &err);
	buf_release(&text);
	return !rc;
}

/* ---- images */

static bool is_zero(const struct ramimage *image, size_t i)
{
	return !image->blocks[i].len;
}

static void put_zeroes(FILE *out, size_t first, size_t last)
{
	if (first == last)
		fprintf(out, "  block %zu zero\n", first);
	else
		fprintf(out, "  blocks %zu-%zu zero\n", first, last);
}

static void put_block(FILE *out, const struct ramimage *image, size_t i)
{
	const struct ramimage_block *block = &image->blocks[i];

	fprintf(out, "  block %zu ", i);
	if (block->source)
		fprintf(out, "source %" PRIu32 " ", block->source);
	fprintf(out, "at %" PRIu64 " stored %" PRIu32 " of %zu content %016" PRIx64 " bytes %016" PRIx64 "\n",
		block->offset, block->len, ramimage_block_len(image, i), block->content, block->stored);
}

static void put_blocks(FILE *out, const struct ramimage *image)
{
	size_t i, first;

	for (i = 0; i < image->nblocks; i++) {
		if (!is_zero(image, i)) {
			put_block(out, image, i);
			continue;
		}
		for (first = i; i + 1 < image->nblocks && is_zero(image, i + 1); i++)
			;
		put_zeroes(out, first, i);
	}
}

static void dump_image(struct dump *dump, const char *name)
{
	struct ramimage image = { 0 };
	struct err err = { 0 };
	int fd = openat(dump->object_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), rc;
	unsigned i;

	fprintf(dump->out, "%s\n", name);
	rc = fd < 0 ? err_sys(&err, -errno, "cannot open %s", name) : ramimage_open(fd, name, &image, &err);
	if (rc) {
		damaged(dump, &err);
	} else {
		fprintf(dump->out, "  size %" PRIu64 " blocks %zu tail-at %" PRIu64 "\n", image.size,
			image.nblocks, image.data_end);
		for (i = 0; i < image.nsources; i++)
			fprintf(dump->out, "  source %u %s\n", i + 1, image.sources[i]);
		put_blocks(dump->out, &image);
		ramimage_release(&image);
	}
	if (fd >= 0)
		close(fd);
}

/* ---- layers */

static void put_sums(FILE *out, const uint64_t *sums, size_t n)
{
	size_t i, first;

	for (i = 0; i < n; i++) {
		for (first = i; i + 1 < n && sums[i + 1] == sums[first]; i++)
			;
		if (first == i)
			fprintf(out, "  block %zu %016" PRIx64 "\n", i, sums[i]);
		else
			fprintf(out, "  blocks %zu-%zu %016" PRIx64 "\n", first, i, sums[i]);
	}
}

static void dump_layer(struct dump *dump, const char *file, const char *below)
{
	uint64_t *sums = NULL, size = 0;
	struct err err = { 0 };
	size_t n = 0;

	fprintf(dump->out, "layer %s\n", file);
	if (*below)
		fprintf(dump->out, "  on %s\n", below);
	if (sums_read(dump->layers_fd, file, dump->sums_fd, &size, &sums, &n, &err)) {
		damaged(dump, &err);
		return;
	}
	fprintf(dump->out, "  size %" PRIu64 " blocks %zu\n", size, n);
	put_sums(dump->out, sums, n);
	free(sums);
}

static void dump_disk(struct dump *dump, const char *file)
{
	struct chain *chain = NULL;
	struct err err = { 0 };
	unsigned i, n;

	if (chain_open(dump->layers_fd, file, false, &chain, &err)) {
		fprintf(dump->out, "layer %s\n", file);
		damaged(dump, &err);
		return;
	}
	n = chain_length(chain);
	for (i = 0; i < n; i++)
		dump_layer(dump, chain_file(chain, i), i + 1 < n ? chain_file(chain, i + 1) : "");
	chain_free(chain);
}

/* ---- a snapshot */

static int open_dir(int at, const char *name, struct err *err)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? err_sys(err, -errno, "cannot open %s", name) : fd;
}

static void dump_object(struct dump *dump)
{
	struct snapshot_manifest manifest = { 0 };
	const bool readable = dump_manifest(dump, &manifest);

	dump_image(dump, "state");
	dump_image(dump, "ram");
	if (readable)
		dump_disk(dump, manifest.disk);
	snapshot_manifest_release(&manifest);
}

int snapshot_dump(const char *object_dir, FILE *out, struct err *err)
{
	struct err first = { 0 };
	struct dump dump = { .out = out, .object_fd = -1, .layers_fd = -1, .sums_fd = -1, .err = &first };
	int rc = dump.object_fd = open_dir(AT_FDCWD, object_dir, err);

	if (rc >= 0)
		rc = dump.layers_fd = open_dir(dump.object_fd, "../../layers", err);
	if (rc >= 0)
		rc = dump.sums_fd = open_dir(dump.object_fd, "../../sums", err);
	if (rc >= 0) {
		dump_object(&dump);
		rc = first.code;
		if (rc && err)
			*err = first;
	}
	if (dump.sums_fd >= 0)
		close(dump.sums_fd);
	if (dump.layers_fd >= 0)
		close(dump.layers_fd);
	if (dump.object_fd >= 0)
		close(dump.object_fd);
	return rc;
}

int snapshot_dump_named(const char *state_dir, const char *name, FILE *out, struct err *err)
{
	static const char prefix[] = "../objects/";
	char path[PATH_MAX], target[sizeof(prefix) + ID_SIZE];
	ssize_t n;

	if (name_check(name, err))
		return -EINVAL;
	if (snprintf(path, sizeof(path), "%s/snapshots/%s", state_dir, name) >= (int)sizeof(path))
		return err_set(err, -ENAMETOOLONG, "the path of the state directory is too long");
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0 && errno == ENOENT)
		return err_set(err, -ENOENT, "there is no snapshot %s in %s", name, state_dir);
	if (n < 0)
		return err_sys(err, -errno, "cannot read %s", path);
	target[n] = '\0';
	if (strncmp(target, prefix, strlen(prefix)) != 0 || !id_valid(target + strlen(prefix), ""))
		return err_set(err, -EINVAL, "%s is not a link to an object", path);
	snprintf(path, sizeof(path), "%s/objects/%s", state_dir, target + strlen(prefix));
	fprintf(out, "object %s\n", target + strlen(prefix));
	return snapshot_dump(path, out, err);
}
