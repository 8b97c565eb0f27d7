/* SPDX-License-Identifier: MIT */
/* test_template.c - a template takes sealed memory of the right size from a VMM, and nothing else */
#include "snap/template.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "util/io.h"

enum { RAM = 1 << 20 };

static const int all = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;

static int memory(off_t size, int seals)
{
	const int fd = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	CHECK(fd >= 0 && !ftruncate(fd, size) && !fcntl(fd, F_ADD_SEALS, seals));
	return fd;
}

/* The descriptors are closed either way. */
static int adopt_over(struct template *base, int ram_fd, int state_fd, int map_fd)
{
	struct template_files files = { ram_fd, state_fd, map_fd };
	struct template *template = template_new();
	struct err err = { 0 };
	int rc;

	CHECK(template && ram_fd >= 0 && state_fd >= 0);
	template->ram_size = RAM;
	template->base = base ? template_ref(base) : NULL;
	rc = template_adopt(template, &files, &err);
	CHECK(rc == err.code && !rc == (template->ram_fd == ram_fd));
	template_unref(template);
	if (rc) {
		close_fd(&files.ram);
		close_fd(&files.state);
		close_fd(&files.map);
	}
	return rc;
}

static int adopt(int ram_fd, int state_fd)
{
	return adopt_over(NULL, ram_fd, state_fd, -1);
}

static void a_map_is_needed_over_a_base(void)
{
	const off_t size = (off_t)template_map_size(RAM);
	struct template *base = template_new();

	CHECK(base && size * 8 * RAM_PAGE >= RAM);
	CHECK(!adopt_over(base, memory(RAM, all), memory(10, all), memory(size, all)));
	CHECK(adopt_over(base, memory(RAM, all), memory(10, all), memory(size - 1, all)) == -EPROTO);
	CHECK(adopt_over(base, memory(RAM, all), memory(10, all), memory(size + 1, all)) == -EPROTO);
	CHECK(adopt_over(base, memory(RAM, all), memory(10, all), memory(size, 0)) == -EPROTO);
	CHECK(adopt_over(base, memory(RAM, all), memory(10, all), -1) == -EPROTO);
	CHECK(base->refs == 1);
	template_unref(base);
}

static void sealed_memory_is_taken(void)
{
	CHECK(!adopt(memory(RAM, all), memory(10, all)));
	CHECK(!adopt(memory(RAM, all | F_SEAL_SEAL), memory(10, all | F_SEAL_SEAL)));
}

static void memory_that_can_change_is_refused(void)
{
	CHECK(adopt(memory(RAM, all & ~F_SEAL_WRITE), memory(10, all)) == -EPROTO);
	CHECK(adopt(memory(RAM, all & ~F_SEAL_SHRINK), memory(10, all)) == -EPROTO);
	CHECK(adopt(memory(RAM, all & ~F_SEAL_GROW), memory(10, all)) == -EPROTO);
	CHECK(adopt(memory(RAM, all), memory(10, 0)) == -EPROTO);
}

static void sizes_that_do_not_fit_are_refused(void)
{
	CHECK(adopt(memory(RAM - 1, all), memory(10, all)) == -EPROTO);
	CHECK(adopt(memory(RAM + 4096, all), memory(10, all)) == -EPROTO);
	CHECK(adopt(memory(RAM, all), memory(0, all)) == -EPROTO);
	CHECK(adopt(memory(RAM, all), memory((off_t)TEMPLATE_STATE_MAX + 1, all)) == -EPROTO);
}

/* Files that block, end, or are somebody else's. */
static void other_files_are_refused(void)
{
	char name[] = "/tmp/sbx-test-template-XXXXXX";
	int ends[2], fd;

	CHECK(!pipe2(ends, O_CLOEXEC));
	CHECK(adopt(ends[0], memory(10, all)) == -EPROTO);
	CHECK(adopt(memory(RAM, all), ends[1]) == -EPROTO);
	CHECK(adopt(open("/dev/zero", O_RDONLY | O_CLOEXEC), memory(10, all)) == -EPROTO);
	CHECK(adopt(memory(RAM, all), open("/dev/null", O_RDONLY | O_CLOEXEC)) == -EPROTO);
	fd = mkstemp(name);
	CHECK(fd >= 0 && !ftruncate(fd, RAM) && !unlink(name));
	CHECK(adopt(fd, memory(10, all)) == -EPROTO);
	CHECK(!mkfifo(name, 0600));
	CHECK(adopt(memory(RAM, all), open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC)) == -EPROTO);
	CHECK(!unlink(name));
	CHECK(adopt(open("/", O_PATH | O_CLOEXEC), memory(10, all)) == -EPROTO);
}

/* Beside a look at each page, for all that a map of three words and a piece of one can be around a run. */
static void the_next_page_is_found(void)
{
	enum { PAGES = 3 * 64 + 24, SIZE = PAGES * RAM_PAGE };
	uint8_t map[PAGES / 8];

	for (unsigned first = 0; first < PAGES; first += 7)
		for (unsigned n = 1; first + n <= PAGES; n += 13)
			for (unsigned has = 0; has < 2; has++) {
				unsigned want = PAGES, page;

				memset(map, has ? 0 : 0xff, sizeof(map));
				for (page = first; page < first + n; page++)
					map[page / 8] ^= (uint8_t)(1u << page % 8);
				for (page = PAGES; page-- > 0;) {
					want = page >= first && page < first + n ? page : want;
					CHECK(template_map_next(map, SIZE, (uint64_t)page * RAM_PAGE, has) ==
					      (uint64_t)want * RAM_PAGE);
				}
			}
	CHECK(template_map_next(map, SIZE, SIZE, true) == SIZE);
}

int main(void)
{
	TEST(sealed_memory_is_taken);
	TEST(a_map_is_needed_over_a_base);
	TEST(the_next_page_is_found);
	TEST(memory_that_can_change_is_refused);
	TEST(sizes_that_do_not_fit_are_refused);
	TEST(other_files_are_refused);
	return 0;
}
