/* SPDX-License-Identifier: MIT */
/*
 * fuzz_qcow2.c - open a damaged disk file, then read, write and discard
 *
 * The input is a list of patches to a small valid file, or the file itself, and then requests. Beside what
 * the sanitizers see, what was written must be read back, as long as requests succeed and the file's own
 * tables do not contradict each other (an undamaged one never does).
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "snap/qcow2/chain_priv.h"
#include "tests/fuzz/qcow2_image.h"
#include "util/buf.h"
#include "util/log.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FILE_MAX = 16 << 20, PIECE_MAX = 8192 };

static char dir[] = "/dev/shm/sbx-fuzz-XXXXXX";
static char disk_path[64], base_path[64];

static void clean_up(void)
{
	unlink(disk_path);
	unlink(base_path);
	rmdir(dir);
}

static int open_empty(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		abort();
	return fd;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	/* A damaged file may ask for a write far out. */
	const struct rlimit limit = { FILE_MAX, FILE_MAX };
	int fd;

	(void)argc;
	(void)argv;
	if (!mkdtemp(dir) || signal(SIGXFSZ, SIG_IGN) == SIG_ERR || setrlimit(RLIMIT_FSIZE, &limit))
		abort();
	snprintf(disk_path, sizeof(disk_path), "%s/d.qcow2", dir);
	snprintf(base_path, sizeof(base_path), "%s/" IMAGE_BASE, dir);
	fd = open_empty(base_path);
	if (pwrite_all(fd, "base", 4, QCOW2_CLUSTER) || ftruncate(fd, IMAGE_DISK) || close(fd))
		abort();
	atexit(clean_up);
	log_threshold = LOG_ERROR;
	return 0;
}

/* Write the file the input describes. True: it is the valid one. */
static bool make_file(struct reader *r)
{
	uint8_t image[IMAGE_BYTES];
	const uint8_t mode = get_u8(r);
	const uint8_t *bytes;
	unsigned i, n;
	size_t len, offset;
	int fd;

	n = mode & 0x1f;
	image_make(image, mode & 0x40);
	if (mode & 0x80) {
		bytes = get_bytes(r, &len);
		memcpy(image, bytes, len < sizeof(image) ? len : sizeof(image));
		n = 1;
	}
	for (i = mode & 0x80 ? 1 : 0; i < n; i++) {
		offset = get_u16(r);
		len = 1u << (get_u8(r) & 3);
		while (len-- && !r->bad)
			image[offset++ % sizeof(image)] = get_u8(r);
	}
	fd = open_empty(disk_path);
	image_write(fd, image);
	close(fd);
	return !n;
}

static void check_read(struct qdisk *disk, uint64_t offset, uint64_t len, uint8_t expect, bool valid)
{
	static uint8_t buf[PIECE_MAX];
	const struct iovec iov = { buf, len };
	uint64_t i;

	memset(buf, (uint8_t)~expect, len);
	if (qdisk_read(disk, offset, len, (struct cursor){ &iov, 0 })) {
		if (valid)
			abort();
		return;
	}
	for (i = 0; valid && i < len; i++)
		if (buf[i] != expect)
			abort();
}

static void do_requests(struct qdisk *disk, struct reader *r, bool valid)
{
	static uint8_t buf[PIECE_MAX];
	const struct iovec iov = { buf, PIECE_MAX };
	unsigned i;

	for (i = 0; i < 64 && reader_left(r) >= 6; i++) {
		const uint8_t op = get_u8(r);
		uint64_t offset = get_u16(r) * 512ull + (op & 0x80 ? get_u16(r) * 512ull * 65536 : 0);
		uint64_t len = 512ull * (1 + get_u8(r) % 16);
		int rc;

		if (chain_size(disk->chain) < len)
			return;
		offset %= chain_size(disk->chain) - len + 1;
		offset &= ~511ull;
		switch (op & 3) {
		case 0:
			(void)qdisk_read(disk, offset, len, (struct cursor){ &iov, 0 });
			break;
		case 1:
			memset(buf, op, sizeof(buf));
			rc = qdisk_write(disk, offset, len, (struct cursor){ &iov, 0 });
			if (!rc)
				check_read(disk, offset, len, op, valid);
			else if (valid)
				abort();
			break;
		case 2:
			rc = qdisk_zero(disk, offset, len);
			if (!rc)
				check_read(disk, offset, len, 0, valid);
			else if (valid)
				abort();
			break;
		case 3:
			(void)qdisk_discard(disk, offset,
					    len * 64 < chain_size(disk->chain) - offset ? len * 64 : len);
			break;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reader r = reader_init(data, size);
	struct qdisk disk = { .chain = NULL };
	struct chain *chain = NULL;
	bool valid, writable;

	valid = make_file(&r);
	writable = get_u8(&r) % 4 != 0;
	if (chain_open_path(disk_path, writable, &chain, NULL) || qdisk_open(&disk, chain, NULL)) {
		if (valid)
			abort();
		chain_free(chain);
		return 0;
	}
	if (writable)
		do_requests(&disk, &r, valid);
	else
		check_read(&disk, 0, chain_size(disk.chain) < PIECE_MAX ? chain_size(disk.chain) : PIECE_MAX,
			   0, false);
	qdisk_close(&disk);
	return 0;
}
