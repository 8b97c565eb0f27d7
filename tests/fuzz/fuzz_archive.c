/* SPDX-License-Identifier: MIT */
/* fuzz_archive.c - import of a stream: as it is, with checksums that fit, and made of parts; no failed import
 * leaves anything */
#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "snap/archive_transfer.h"
#include "snap/member.h"
#include "snap/qcow2/create.h"
#include "snap/qcow2/header.h"
#include "snap/ramimage.h"
#include "snap/store_priv.h"
#include "util/io.h"
#include "util/log.h"

enum { ARCHIVE_HEADER = 24, FILE_HEADER = 88, CHUNK_HEADER = 32, STREAM_MAX = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char root[] = "/dev/shm/sbx-fuzz-archive-XXXXXX";

static void remove_dir(void)
{
	remove_tree_at(AT_FDCWD, root);
}

static struct store *the_store(void)
{
	static struct store *store;
	struct err err;

	if (!store && (!mkdtemp(root) || atexit(remove_dir) || store_open(root, &store, &err)))
		abort();
	log_threshold = LOG_ERROR;
	return store;
}

/* Entries of a directory of the store beside "." and "..". */
static unsigned entries(int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fdopendir(fd);
	unsigned n = 0;

	if (!dir)
		abort();
	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 2;
}

static void import_fd(int fd)
{
	struct store *store = the_store();
	struct import *import;
	struct err err = { 0 };

	if (archive_import_begin(store, "x", NULL, NULL, &import, &err))
		abort();
	/* A whole machine is no failure of ours. */
	if (!archive_import_end(import, archive_import_run(import, fd), &err) &&
	    snapshot_remove(store, "x", &err))
		abort();
	background_flush(store->background);
	if (store_gc(store, &(uint64_t){ 0 }, &err))
		abort();
	if (entries(store->layers_fd) || entries(store->sums_fd) || entries(store->tmp_fd) ||
	    entries(store->objects_fd) || entries(store->snapshots_fd))
		abort();
}

static void import_bytes(const uint8_t *data, size_t size)
{
	int fd = memfd_new("archive", 0);

	if (fd < 0 || pwrite_all(fd, data, size, 0))
		abort();
	import_fd(fd);
	close(fd);
}

static void seal(uint8_t *header, size_t n)
{
	uint64_t sum = htole64(XXH3_64bits(header, n - sizeof(sum)));

	memcpy(header + n - sizeof(sum), &sum, sizeof(sum));
}

/* Walk the stream as a reader would, and make every checksum on the way fit. */
static void repair(uint8_t *data, size_t size)
{
	bool in_file = false;
	size_t at = ARCHIVE_HEADER;

	if (size < ARCHIVE_HEADER)
		return;
	memcpy(data, "SBXARCH\0\1\0\0\0\0\0\0", 16); /* version 1, which has no digests to repair */
	seal(data, ARCHIVE_HEADER);
	for (;;) {
		uint32_t len, stored;
		uint64_t sum;

		if (!in_file) {
			if (size - at < FILE_HEADER)
				return;
			memcpy(data + at, "SBXFILE", 8);
			seal(data + at, FILE_HEADER);
			in_file = data[at + 8] != '\0';
			at += FILE_HEADER;
			continue;
		}
		if (size - at < CHUNK_HEADER)
			return;
		memcpy(&len, data + at + 8, sizeof(len));
		memcpy(&stored, data + at + 12, sizeof(stored));
		stored = le32toh(stored);
		in_file = len != 0;
		if (stored > size - at - CHUNK_HEADER)
			stored = (uint32_t)(size - at - CHUNK_HEADER);
		sum = htole64(XXH3_64bits(data + at + CHUNK_HEADER, stored));
		memcpy(data + at + 16, &sum, sizeof(sum));
		seal(data + at, CHUNK_HEADER);
		at += CHUNK_HEADER + stored;
	}
}

/* ---- archives of parts, each as it should be or made of the input */

static const char *const names[] = {
	"base",
	"manifest",
	"00000000000000000000000000000000.raw",
	"11111111111111111111111111111111.qcow2",
	"state",
	"ram",
	"../../escape",
	"2222",
};
enum { NNAMES = sizeof(names) / sizeof(names[0]), RAM = 2 * RAMIMAGE_BLOCK, DISK = 1 << 20 };

static void good_manifest(struct buf *out)
{
	struct snapshot_manifest manifest = {
		.origin = "33333333333333333333333333333333",
		.disk = "11111111111111111111111111111111.qcow2",
		.ram_size = RAM,
		.meta = { .engine = "test",
			  .shape = { .memory = RAM, .memory_max = RAM, .cpus = 1, .cpus_max = 1 },
			  .disk_logical = DISK },
	};

	snapshot_manifest_encode(&manifest, out);
}

static void good_image(struct buf *out)
{
	struct ramimage_block blocks[2] = { { 0 }, { 0 } };
	struct ramimage image = { .size = RAM, .data_end = RAMIMAGE_HEADER, .nblocks = 2, .blocks = blocks };
	uint8_t header[RAMIMAGE_HEADER], *tail = ramimage_encode_tail(&image, header);

	if (!tail)
		abort();
	buf_add(out, header, sizeof(header));
	buf_add(out, tail, ramimage_tail_len(&image));
	free(tail);
}

static void good_overlay(struct buf *out)
{
	int fd = memfd_new("overlay", 0);
	void *p = buf_reserve(out, 4 * QCOW2_CLUSTER);

	if (fd < 0 || !p || qcow2_create_overlay(fd, DISK, names[2], NULL) ||
	    pread_all(fd, p, 4 * QCOW2_CLUSTER, 0))
		abort();
	buf_grow(out, 4 * QCOW2_CLUSTER);
	close(fd);
}

static void good_content(const char *name, struct buf *out)
{
	static const uint8_t disk[DISK];

	if (!strcmp(name, "manifest"))
		good_manifest(out);
	else if (!strcmp(name, "ram") || !strcmp(name, "state"))
		good_image(out);
	else if (strstr(name, ".raw"))
		buf_add(out, disk, sizeof(disk));
	else if (strstr(name, ".qcow2"))
		good_overlay(out);
}

static void add_part(struct member_writer *w, const char *name, const struct buf *content)
{
	if (member_begin(w, name, content->len, NULL))
		abort();
	for (size_t at = 0; at < content->len; at += MEMBER_CHUNK) {
		size_t left = content->len - at;

		if (member_chunk(w, at, buf_bytes(content) + at, left < MEMBER_CHUNK ? left : MEMBER_CHUNK,
				 true, NULL))
			abort();
	}
	if (member_end(w, content->len, NULL))
		abort();
}

/*
 * The input is parts of: a name, how many bytes follow, and those bytes. None: the part is good. Otherwise it
 * is good but for these bytes, the first two of which say where they are, or just these bytes.
 */
static void import_parts(const uint8_t *data, size_t size)
{
	int fd = memfd_new("parts", 0);
	struct buf content = { 0 };
	struct member_writer w;

	if (fd < 0 || member_writer_begin(&w, fd, NULL))
		abort();
	while (size >= 2) {
		const char *name = names[data[0] % NNAMES];
		size_t n = data[1] < size - 2 ? data[1] : size - 2, where;

		buf_clear(&content);
		good_content(name, &content);
		if (n > 2) {
			where = data[2] | data[3] << 8;
			if (where + n - 2 <= content.len) {
				memcpy(buf_bytes(&content) + where, data + 4, n - 2);
			} else {
				buf_clear(&content);
				buf_add(&content, data + 2, n);
			}
		}
		add_part(&w, name, &content);
		data += 2 + n;
		size -= 2 + n;
	}
	if (member_writer_end(&w, NULL) || lseek(fd, 0, SEEK_SET))
		abort();
	import_fd(fd);
	member_writer_release(&w);
	buf_release(&content);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy;

	if (size > STREAM_MAX)
		return 0;
	import_bytes(data, size);
	import_parts(data, size);
	copy = malloc(size + 1);
	if (!copy)
		return 0;
	memcpy(copy, data, size);
	repair(copy, size);
	import_bytes(copy, size);
	free(copy);
	return 0;
}
