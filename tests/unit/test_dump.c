/* SPDX-License-Identifier: MIT */
/*
 * test_dump.c - a snapshot as text: the worked example of docs/format.md, and damage
 *
 * Run in the top directory. With DUMP_SHOW set it prints what belongs into docs/format.md.
 */
#include "snap/dump.h"

#include <string.h>

#include "tests/unit/store_fixture.h"
#include "tests/unit/unit.h"

enum { EXAMPLE_RAM = 256 * 1024 };

static const char doc_path[] = "docs/format.md";

/* ---- the machine of the example: four blocks of RAM, of which it changes one between two snapshots */

static struct template *example(struct layer *disk, uint8_t third)
{
	struct template *template = make_template(disk, memfd_new("test", EXAMPLE_RAM));
	uint8_t block[64 * 1024];

	memset(block, 'a', sizeof(block));
	CHECK(!pwrite_all(template->ram_fd, block, sizeof(block), 0));
	memset(block, third, sizeof(block));
	CHECK(!pwrite_all(template->ram_fd, block, sizeof(block), 3 * sizeof(block)));
	CHECK(!memfd_seal(template->ram_fd));
	template->ram_size = EXAMPLE_RAM;
	return template;
}

static char *dumped(const char *name, int expected)
{
	struct err err = { 0 };
	char *text = NULL;
	size_t n = 0;
	FILE *out = open_memstream(&text, &n);

	CHECK(out && snapshot_dump_named(dir, name, out, &err) == expected && (!expected || err.text[0]));
	fclose(out);
	return text;
}

static char *make_example(struct store *store)
{
	struct layer *base = image_layer(store), *disk = frozen_overlay(store, base);
	struct template *first = example(disk, 'd'), *second = example(disk, 'e');

	CHECK(!save(store, "first", "", first) && !save(store, "second", "first", second));
	template_unref(first);
	template_unref(second);
	layer_unref(base);
	layer_unref(disk);
	return dumped("second", 0);
}

/* ---- comparing: identifiers are never the same, nor checksums of what has them in it */

static size_t hex_run(const char *text)
{
	return strspn(text, "0123456789abcdef");
}

/* The last word of a line "  block N SUM", which is of a layer: one of them has the name of the other in it. */
static bool is_layer_sum(const char *line, const char *at)
{
	int n = 0;

	return (sscanf(line, "  block %*u %n", &n) == 0 || sscanf(line, "  blocks %*u-%*u %n", &n) == 0) &&
	       n && line + n == at;
}

static char *blurred(const char *text)
{
	char *ret = calloc(1, strlen(text) + 1), *to = ret;
	const char *line = text;
	size_t n;

	CHECK(ret);
	while (*text) {
		n = hex_run(text);
		if (text > line && text[-1] == '\n')
			line = text;
		if (n == 32) {
			to = stpcpy(to, "ID");
			text += n;
		} else if (n == 16 && is_layer_sum(line, text)) {
			to = stpcpy(to, "SUM");
			text += n;
		} else if (!strncmp(text, "checksum ", 9)) {
			to = stpcpy(to, "checksum SUM");
			text += 9 + hex_run(text + 9);
		} else {
			*to++ = *text++;
		}
	}
	return ret;
}

/* The block of docs/format.md that begins with this line, without the four blanks before each line. */
static char *documented(const char *begin)
{
	char line[256], *ret = NULL;
	size_t n = 0;
	FILE *doc = fopen(doc_path, "re"), *out = open_memstream(&ret, &n);
	bool inside = false;

	CHECK(doc && out);
	while (fgets(line, sizeof(line), doc)) {
		inside |= !strncmp(line, "    ", 4) && !strncmp(line + 4, begin, strlen(begin));
		if (inside && strncmp(line, "    ", 4) != 0)
			break;
		if (inside)
			fputs(line + 4, out);
	}
	fclose(doc);
	fclose(out);
	return ret;
}

static void the_worked_example_is_what_comes_out(void)
{
	struct store *store = fresh_store();
	char *text = make_example(store), *doc = documented("object "), *is, *should;

	if (getenv("DUMP_SHOW"))
		printf("%s", text);
	is = blurred(text);
	should = blurred(doc);
	if (strcmp(is, should) != 0)
		fprintf(stderr, "%s has:\n%s\nand this came out:\n%s", doc_path, should, is);
	CHECK(!strcmp(is, should));
	free(is);
	free(should);
	free(doc);
	free(text);
	drop_store(store);
}

/* ---- damage */

static void write_over(const char *name, const char *file, off_t offset, char byte)
{
	char path[160];
	int fd;

	snprintf(path, sizeof(path), "%s/snapshots/%s/%s", dir, name, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0 && pwrite(fd, &byte, 1, offset) == 1);
	close(fd);
}

static void damage_is_said_where_it_is(void)
{
	struct store *store = fresh_store();
	char *text = make_example(store);

	free(text);
	write_over("second", "ram", 20, 1);
	text = dumped("second", -EIO);
	CHECK(strstr(text, "\nram\n  damaged: ") && strstr(text, "\nstate\n  size ") &&
	      strstr(text, "\nlayer "));
	free(text);
	/* A terminal's escape in a manifest, whose checksum tells that it is not ours. */
	write_over("second", "manifest", 20, '\033');
	text = dumped("second", -EIO);
	CHECK(strstr(text, "\\x1b") && !strchr(text, '\033') && strstr(text, "damaged: the manifest "));
	free(text);
	text = dumped("first", 0);
	CHECK(!strstr(text, "damaged"));
	free(text);
	text = dumped("third", -ENOENT);
	free(text);
	text = dumped("../objects", -EINVAL);
	free(text);
	drop_store(store);
}

/* Whatever byte of an index is another: an answer, and no crash. */
static void any_byte_may_be_wrong(void)
{
	struct store *store = fresh_store();
	char *text = make_example(store);
	off_t i;

	free(text);
	for (i = 0; i < 64; i++) {
		write_over("second", "ram", i, (char)0xa5);
		text = dumped("second", -EIO);
		free(text);
	}
	drop_store(store);
}

int main(void)
{
	TEST(the_worked_example_is_what_comes_out);
	TEST(damage_is_said_where_it_is);
	TEST(any_byte_may_be_wrong);
	return 0;
}
