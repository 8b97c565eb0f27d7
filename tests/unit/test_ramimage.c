/* SPDX-License-Identifier: MIT */
/* test_ramimage.c - RAM images of all shapes */
#include "snap/ramimage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "util/io.h"

static const char id[ID_SIZE] = "00000000000000000000000000000001";

static int memory(const uint8_t *data, size_t n)
{
	int fd = memfd_new("test", n);

	CHECK(fd >= 0 && !pwrite_all(fd, data, n, 0));
	return fd;
}

static struct ramimage write_image(const uint8_t *data, size_t n, const struct ramimage *parent, int file)
{
	struct err err = { 0 };
	struct ramimage image, read;
	int memfd = memory(data, n);
	const struct ramimage_content content = { .memfd = memfd, .over_fd = -1, .size = n };

	CHECK(!ramimage_write(&content, parent, id, file, NULL, &image, &err));
	close(memfd);
	CHECK(!ramimage_open(file, "image", &read, &err));
	CHECK(read.size == n && read.nblocks == image.nblocks && read.nsources == image.nsources &&
	      !memcmp(read.blocks, image.blocks, read.nblocks * sizeof(*read.blocks)));
	ramimage_release(&read);
	return image;
}

static void check_content(const struct ramimage *image, int file, const int *sources, const uint8_t *data)
{
	struct ramimage_files files = { file, "image", sources };
	uint8_t *copy = malloc(image->size + 1);
	struct err err = { 0 };
	int memfd;

	CHECK(!ramimage_verify(image, &files, NULL, &err));
	CHECK(!ramimage_read(image, &files, NULL, &memfd, &err));
	CHECK(copy && !pread_all(memfd, copy, image->size, 0) && !memcmp(copy, data, image->size));
	free(copy);
	close(memfd);
}

static void any_size_and_content(void)
{
	static const size_t sizes[] = {
		0, 1, 4096, RAMIMAGE_BLOCK - 1, RAMIMAGE_BLOCK, RAMIMAGE_BLOCK + 1, 40 * RAMIMAGE_BLOCK + 777
	};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		for (int content = 0; content < 3; content++) {
			uint8_t *data = calloc(1, sizes[i] + 1);
			int file = memfd_new("file", 0);
			struct ramimage image;

			CHECK(data && file >= 0);
			if (content == 1)
				memset(data, 'x', sizes[i]);
			else if (content == 2) /* cannot be compressed */
				for (size_t k = 0; k < sizes[i]; k += 256)
					CHECK(getrandom(data + k, sizes[i] - k < 256 ? sizes[i] - k : 256,
							0) > 0);
			image = write_image(data, sizes[i], NULL, file);
			check_content(&image, file, NULL, data);
			ramimage_release(&image);
			close(file);
			free(data);
		}
	}
}

static void what_the_parent_has_is_not_stored_again(void)
{
	enum { N = 100, SIZE = N * RAMIMAGE_BLOCK };
	uint8_t *data = calloc(1, SIZE);
	int files[3] = { memfd_new("a", 0), memfd_new("b", 0), memfd_new("c", 0) };
	struct ramimage first, second, third;
	struct stat st;
	int sources[2];

	CHECK(data);
	for (size_t i = 0; i < N; i++) {
		memset(data + i * RAMIMAGE_BLOCK, (int)i, RAMIMAGE_BLOCK);
		data[i * RAMIMAGE_BLOCK] = 1;
	}
	first = write_image(data, SIZE, NULL, files[0]);
	CHECK(first.nsources == 0);

	data[5 * RAMIMAGE_BLOCK + 100] ^= 1;
	memset(data + 6 * RAMIMAGE_BLOCK, 0, RAMIMAGE_BLOCK);
	second = write_image(data, SIZE, &first, files[1]);
	CHECK(second.nsources == 1 && !strcmp(second.sources[0], id));
	CHECK(second.blocks[4].source == 1 && second.blocks[5].source == 0 && !second.blocks[6].len);
	CHECK(!fstat(files[1], &st) && st.st_size < 8192);
	sources[0] = files[0];
	check_content(&second, files[1], sources, data);

	/* A grandchild names the one that really has a block. */
	data[7 * RAMIMAGE_BLOCK + 9] ^= 1;
	third = write_image(data, SIZE, &second, files[2]);
	CHECK(third.nsources == 2);
	CHECK(third.blocks[5].offset == second.blocks[5].offset &&
	      third.blocks[4].offset == first.blocks[4].offset);
	CHECK(third.blocks[5].source != third.blocks[4].source && third.blocks[7].source == 0);
	sources[third.blocks[4].source - 1] = files[0];
	sources[third.blocks[5].source - 1] = files[1];
	check_content(&third, files[2], sources, data);

	ramimage_release(&first);
	ramimage_release(&second);
	ramimage_release(&third);
	for (int i = 0; i < 3; i++)
		close(files[i]);
	free(data);
}

/* A chain of any length opens a bounded number of files. */
static void a_long_line_of_parents_ends(void)
{
	enum { N = RAMIMAGE_SOURCES_MAX + 6, SIZE = N * RAMIMAGE_BLOCK };
	struct ramimage images[N];
	uint8_t *data = malloc(SIZE);
	int most = 0;

	CHECK(data);
	memset(data, 1, SIZE);
	for (size_t i = 0; i < N; i++) {
		int file = memfd_new("file", 0);

		data[i * RAMIMAGE_BLOCK] = 2;
		images[i] = write_image(data, SIZE, i ? &images[i - 1] : NULL, file);
		CHECK(images[i].nsources <= RAMIMAGE_SOURCES_MAX);
		if ((int)images[i].nsources > most)
			most = (int)images[i].nsources;
		close(file);
	}
	CHECK(most == RAMIMAGE_SOURCES_MAX && images[N - 1].nsources < 10);
	for (size_t i = 0; i < N; i++)
		ramimage_release(&images[i]);
	free(data);
}

static void a_damaged_block_is_named(void)
{
	uint8_t *data = malloc(10 * RAMIMAGE_BLOCK);
	int file = memfd_new("file", 0), memfd;
	struct ramimage_files files = { file, "x/ram", NULL };
	struct err err = { 0 };
	struct ramimage image;
	uint8_t byte;

	CHECK(data);
	for (size_t i = 0; i < 10 * RAMIMAGE_BLOCK; i++)
		data[i] = (uint8_t)(i >> 8 ^ i / 3);
	image = write_image(data, 10 * RAMIMAGE_BLOCK, NULL, file);
	CHECK(!pread_all(file, &byte, 1, image.blocks[7].offset + 9));
	byte ^= 16;
	CHECK(!pwrite_all(file, &byte, 1, image.blocks[7].offset + 9));
	CHECK(ramimage_read(&image, &files, NULL, &memfd, &err) == -EIO);
	CHECK(!strcmp(err.text, "x/ram is damaged: block 7 does not match its checksum"));
	ramimage_release(&image);
	close(file);
	free(data);
}

/* Pages in every place of a block, runs across blocks, zeroes over something and something over holes. */
static void what_lies_over_another_file_is_one_image(void)
{
	enum { PAGE = 4096, PAGES = 40 * RAMIMAGE_BLOCK / PAGE + 3, SIZE = PAGES * PAGE };
	uint8_t *under = calloc(1, SIZE), *over = calloc(1, SIZE), *both = malloc(SIZE),
		map[(PAGES + 7) / 8] = { 0 };
	struct ramimage_content content = { .map = map, .size = SIZE };
	const int file = memfd_new("file", 0);
	struct ramimage image;
	struct err err = { 0 };

	CHECK(under && over && both && file >= 0);
	for (size_t page = 0; page < PAGES; page++) {
		const bool covered = page % 17 == 3 || (page > 200 && page < 250) || page == PAGES - 1;

		if (page % 3)
			memset(under + page * PAGE, (int)(page % 200 + 1), PAGE);
		if (page % 5)
			memset(over + page * PAGE, (int)(page % 100 + 101), PAGE);
		if (covered)
			map[page / 8] |= (uint8_t)(1u << page % 8);
		memcpy(both + page * PAGE, (covered ? over : under) + page * PAGE, PAGE);
	}
	content.memfd = memory(under, SIZE);
	content.over_fd = memory(over, SIZE);
	CHECK(!ramimage_write(&content, NULL, NULL, file, NULL, &image, &err));
	check_content(&image, file, NULL, both);
	ramimage_release(&image);
	close(content.memfd);
	close(content.over_fd);
	close(file);
	free(under);
	free(over);
	free(both);
}

static void a_save_can_be_cancelled(void)
{
	uint8_t *data = malloc(10 * RAMIMAGE_BLOCK);
	struct ramimage_content content = { .over_fd = -1, .size = 10 * RAMIMAGE_BLOCK };
	struct progress progress = { .cancel = true };
	struct err err = { 0 };
	struct ramimage image;
	int memfd, file = memfd_new("file", 0);

	CHECK(data);
	memset(data, 1, 10 * RAMIMAGE_BLOCK);
	memfd = memory(data, 10 * RAMIMAGE_BLOCK);
	content.memfd = memfd;
	CHECK(ramimage_write(&content, NULL, NULL, file, &progress, &image, &err) == -ECANCELED);
	close(memfd);
	close(file);
	free(data);
}

int main(void)
{
	TEST(any_size_and_content);
	TEST(what_the_parent_has_is_not_stored_again);
	TEST(a_long_line_of_parents_ends);
	TEST(what_lies_over_another_file_is_one_image);
	TEST(a_damaged_block_is_named);
	TEST(a_save_can_be_cancelled);
	return 0;
}
