/* SPDX-License-Identifier: MIT */
/* fuzz_image.c - import of archives and their documents: whatever they hold, the process survives, and a filesystem
 * that is said to be whole can be opened again */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "snap/image/ext4.h"
#include "snap/image/import.h"
#include "snap/image/oci.h"
#include "snap/image_config.h"
#include "util/io.h"
#include "util/zero.h"

enum { DISK = 16 << 20, BLOCK = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[64];
static uint8_t *fresh; /* an empty filesystem */
static int disk_fd, file_fd, spool_fd;

static void set_up(void)
{
	if (fresh)
		return;
	disk_fd = memfd_create("disk", 0);
	file_fd = memfd_create("file", MFD_CLOEXEC);
	spool_fd = memfd_create("spool", MFD_CLOEXEC);
	fresh = malloc(DISK);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", disk_fd);
	if (!fresh || ftruncate(disk_fd, DISK) || ext4_make(path, DISK, NULL) ||
	    pread_all(disk_fd, fresh, DISK, 0))
		abort();
}

static void make_disk(void)
{
	size_t at;

	if (ftruncate(disk_fd, 0) || ftruncate(disk_fd, DISK))
		abort();
	for (at = 0; at < DISK; at += BLOCK)
		if (!all_zero(fresh + at, BLOCK) && pwrite_all(disk_fd, fresh + at, BLOCK, at))
			abort();
}

static void import_file(const uint8_t *data, size_t size)
{
	atomic_uint_fast64_t done = 0, total = 0;
	const struct import_input input = {
		.fd = file_fd,
		.broker_fd = -1,
		.spool_fd = spool_fd,
		.tag = "",
		.budget = 32 << 20,
		.done = &done,
		.total = &total,
	};
	struct buf config = { 0 };
	struct err err = { 0 };
	struct ext4 *fs;
	int rc;

	make_disk();
	if (ftruncate(file_fd, 0) || ftruncate(spool_fd, 0) || pwrite_all(file_fd, data, size, 0) ||
	    lseek(file_fd, 0, SEEK_SET) || lseek(spool_fd, 0, SEEK_SET) || ext4_open(path, &fs, &err))
		abort();
	rc = import_fill(fs, &input, &config, &err);
	if (!rc != !err.code)
		abort();
	if (ext4_close(fs, !rc, &err) && !rc && err.code != -ENOSPC)
		abort();
	if (!rc && !err.code && (ext4_open(path, &fs, &err) || ext4_close(fs, false, &err)))
		abort();
	buf_release(&config);
}

static void read_config(const uint8_t *data, size_t size)
{
	static char value[IMAGE_CONFIG_MAX];
	struct buf text = { 0 };
	size_t pos = 0;
	char key[16];

	buf_add(&text, data, size);
	if (!image_config_check(&text, NULL))
		while (image_config_next(&text, &pos, key, value, sizeof(value)))
			if (!image_config_key(key))
				abort();
	buf_release(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct oci_manifest manifest;
	static struct oci_config config;
	struct oci_ref ref;

	set_up();
	if (!size)
		return 0;
	/* The first byte says what is behind it. */
	switch (data[0]) {
	case 'i':
		(void)oci_index(data + 1, size - 1, "tag", &ref, NULL);
		break;
	case 'm':
		(void)oci_manifest(data + 1, size - 1, &manifest, NULL);
		break;
	case 'd':
		(void)oci_docker(data + 1, size - 1, "", &manifest, NULL);
		break;
	case 'c':
		(void)oci_config(data + 1, size - 1, &config, NULL);
		buf_release(&config.text);
		break;
	case 't':
		read_config(data + 1, size - 1);
		break;
	default:
		import_file(data + 1, size - 1);
	}
	return 0;
}
