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

#include "snap/qcow2/priv.h"
#include "tests/fuzz/qcow2_image.h"
#include "util/buf.h"
#include "util/log.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FILE_MAX = 1 << 20, PIECE_MAX = 8192 };

static char dir[] = "/dev/shm/sbx-fuzz-XXXXXX";
static char disk_path[64], base_path[64];

static void clean_up(void)
{
	unlink(disk_path);
	unlink(base_path);
	rmdir(dir);
}

static void put_file(const char *path, const uint8_t *data, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, data, n) != (ssize_t)n)
		abort();
	close(fd);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	/* A damaged file may ask for a write far out. */
	const struct rlimit limit = { FILE_MAX, FILE_MAX };
	uint8_t base[3 * IMAGE_CLUSTER + 100];

	(void)argc;
	(void)argv;
	if (!mkdtemp(dir) || signal(SIGXFSZ, SIG_IGN) == SIG_ERR || setrlimit(RLIMIT_FSIZE, &limit))
		abort();
	snprintf(disk_path, sizeof(disk_path), "%s/d", dir);
	snprintf(base_path, sizeof(base_path), "%s/b", dir);
	memset(base, 0xbb, sizeof(base));
	put_file(base_path, base, sizeof(base));
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

	if (mode & 0x80) {
		bytes = get_bytes(r, &len);
		put_file(disk_path, bytes, r->bad ? 0 : len);
		return false;
	}
	n = mode & 0x1f;
	image_make(image, mode & 0x40);
	for (i = 0; i < n; i++) {
		offset = get_u16(r);
		len = 1u << (get_u8(r) & 3);
		while (len-- && !r->bad)
			image[offset++ % sizeof(image)] = get_u8(r);
	}
	put_file(disk_path, image, sizeof(image));
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

		if (disk->size < len)
			return;
		offset %= disk->size - len + 1;
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
			(void)qdisk_discard(disk, offset, len * 64 < disk->size - offset ? len * 64 : len);
			break;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reader r = reader_init(data, size);
	struct qdisk disk;
	bool valid, writable;

	valid = make_file(&r);
	writable = get_u8(&r) % 4 != 0;
	if (qdisk_open(disk_path, writable, &disk, NULL)) {
		if (valid)
			abort();
		return 0;
	}
	if (writable)
		do_requests(&disk, &r, valid);
	else
		check_read(&disk, 0, disk.size < PIECE_MAX ? disk.size : PIECE_MAX, 0, false);
	qdisk_close(&disk);
	return 0;
}
