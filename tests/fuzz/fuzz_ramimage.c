/* SPDX-License-Identifier: MIT */
/* fuzz_ramimage.c - a RAM image, as it is and with checksums that fit, that refers to itself where it
 * refers to others */
#include <endian.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "snap/ramimage.h"
#include "util/io.h"

enum { DATA_END = 24, TAIL_SUM = 40, HEADER_SUM = 56, FILE_MAX = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_image(const uint8_t *data, size_t size)
{
	struct ramimage image;
	int sources[RAMIMAGE_SOURCES_MAX];
	int fd = memfd_new("image", 0), out;
	struct ramimage_files files = { .fd = fd, .name = "image", .sources = sources };

	if (fd < 0 || pwrite_all(fd, data, size, 0))
		abort();
	if (!ramimage_open(fd, "image", &image, NULL)) {
		for (unsigned i = 0; i < image.nsources; i++)
			sources[i] = fd;
		if (!ramimage_read(&image, &files, NULL, &out, NULL))
			close(out);
		ramimage_verify(&image, &files, NULL, NULL);
		ramimage_release(&image);
	}
	close(fd);
}

static void put_sum(uint8_t *at, uint64_t sum)
{
	sum = htole64(sum);
	memcpy(at, &sum, sizeof(sum));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t data_end;
	uint8_t *copy;

	if (size < RAMIMAGE_HEADER || size > FILE_MAX)
		return 0;
	read_image(data, size);
	copy = malloc(size);
	if (!copy)
		return 0;
	memcpy(copy, data, size);
	memcpy(&data_end, copy + DATA_END, sizeof(data_end));
	data_end = le64toh(data_end) % size;
	memcpy(copy, "SBXRAM\0\0\1\0\0\0\0\0\1", 16); /* magic, version, block size */
	put_sum(copy + DATA_END, data_end);
	put_sum(copy + TAIL_SUM, XXH3_64bits(copy + data_end, size - data_end));
	put_sum(copy + HEADER_SUM, XXH3_64bits(copy, HEADER_SUM));
	read_image(copy, size);
	free(copy);
	return 0;
}
