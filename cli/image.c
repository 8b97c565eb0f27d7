/* SPDX-License-Identifier: MIT */
/*
 * image.c - `sbx image`
 *
 * A new image is an ext4 filesystem in a temporary file, which has no name already while it is written, so
 * that nothing is left of it whatever happens. Publishing copies what is not zero into the store.
 */
#include "cli/image.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/sbx.h"
#include "snap/image.h"
#include "util/size.h"

static const uint64_t default_size = 2ull << 30, min_size = 16ull << 20, max_size = 1ull << 40;

struct image_options {
	const char *state;
	uint64_t size; /* bytes of a new image's disk */
	int argc;      /* what is not an option */
	char **argv;
};

static int usage(void)
{
	fprintf(stderr, "usage: sbx image [--state DIR] build base [--size SIZE]\n"
			"       sbx image [--state DIR] import NAME DIR|TAR [--size SIZE]\n"
			"       sbx image [--state DIR] ls\n"
			"       sbx image [--state DIR] rm NAME...\n");
	return SBX_USAGE;
}

static int failed(const struct err *err)
{
	fprintf(stderr, "sbx image: %s\n", err->text);
	return SBX_FAILED;
}

/* ---- making */

typedef int (*fill_fn)(struct ext4 *fs, const char *source, struct err *err);

static int fill_base(struct ext4 *fs, const char *source, struct err *err)
{
	(void)source;
	return image_base(fs, err);
}

/* A file without a name; `ret` is a path to it as long as the descriptor returned is open, for children
 * too. */
static int open_scratch(char *ret, size_t size, struct err *err)
{
	const char *dir = getenv("TMPDIR");
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/sbx-image.XXXXXX", dir && *dir ? dir : "/var/tmp");
	fd = mkstemp(path);
	if (fd < 0)
		return err_sys(err, -errno, "%.200s", path);
	unlink(path);
	snprintf(ret, size, "/proc/self/fd/%d", fd);
	return fd;
}

static int make_image(const struct image_options *options, const char *name, const char *how, fill_fn fill,
		      const char *source, struct err *err)
{
	char path[64];
	struct ext4 *fs;
	int rc, closed, fd;

	if (!name_valid(name))
		return err_set(err, -EINVAL, "%.64s: not a name for an image", name);
	fd = open_scratch(path, sizeof(path), err);
	if (fd < 0)
		return fd;
	if (ftruncate(fd, (off_t)options->size) < 0) {
		rc = err_sys(err, -errno, "cannot make a file for the image");
		goto out;
	}
	rc = ext4_new(path, options->size, &fs, err);
	if (rc)
		goto out;
	rc = fill(fs, source, err);
	closed = ext4_close(fs, !rc, rc ? NULL : err);
	rc = rc ? rc : closed;
	if (!rc)
		rc = image_publish(options->state, name, path, how, err);
out:
	close(fd);
	return rc;
}

static int cmd_build(const struct image_options *options)
{
	struct err err = { 0 };

	if (options->argc != 1 || strcmp(options->argv[0], "base") != 0)
		return usage();
	if (make_image(options, "base", "build base", fill_base, NULL, &err))
		return failed(&err);
	return 0;
}

static int cmd_import(const struct image_options *options)
{
	struct err err = { 0 };
	const char *base;
	char how[256];
	char *c;

	if (options->argc != 2)
		return usage();
	base = strrchr(options->argv[1], '/');
	snprintf(how, sizeof(how), "import %.200s", base && base[1] ? base + 1 : options->argv[1]);
	/* It becomes a line of a file. */
	for (c = how; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = '?';
	if (make_image(options, options->argv[0], how, image_import, options->argv[1], &err))
		return failed(&err);
	return 0;
}

/* ---- what is there */

static void print_image(void *arg, const struct image *image)
{
	const time_t created = (time_t)(image->created / 1000000000u);
	char when[32] = "?";
	struct tm tm;

	(void)arg;
	if (localtime_r(&created, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M", &tm);
	printf("%-24s %8" PRIu64 "M %8" PRIu64 "M  %s  %s\n", image->name, image->size >> 20,
	       image->stored >> 20, when, image->source);
}

static int cmd_ls(const struct image_options *options)
{
	struct err err = { 0 };

	if (options->argc)
		return usage();
	printf("%-24s %9s %9s  %-16s  %s\n", "NAME", "SIZE", "STORED", "CREATED", "SOURCE");
	if (image_each(options->state, print_image, NULL, &err))
		return failed(&err);
	return 0;
}

static int cmd_rm(const struct image_options *options)
{
	struct err err = { 0 };
	int i, status = 0;

	if (!options->argc)
		return usage();
	for (i = 0; i < options->argc; i++)
		if (image_remove(options->state, options->argv[i], &err))
			status = failed(&err);
	return status;
}

/* ---- the command line */

static const struct {
	const char *name;
	int (*run)(const struct image_options *options);
} verbs[] = { { "build", cmd_build }, { "import", cmd_import }, { "ls", cmd_ls }, { "rm", cmd_rm } };

/* 0, or an exit status after a message. Options may stand anywhere. */
static int parse(int argc, char **argv, struct image_options *ret)
{
	static const struct option longs[] = {
		{ "state", required_argument, NULL, 'S' },
		{ "size", required_argument, NULL, 's' },
		{ 0 },
	};
	int c;

	optind = 0; /* glibc: start afresh */
	while ((c = getopt_long(argc, argv, "S:s:", longs, NULL)) >= 0) {
		switch (c) {
		case 'S':
			ret->state = optarg;
			break;
		case 's':
			if (size_parse(optarg, &ret->size) || ret->size < min_size || ret->size > max_size) {
				fprintf(stderr, "sbx image: %s: a size from 16M to 1024G is needed\n",
					optarg);
				return SBX_USAGE;
			}
			break;
		default:
			return usage();
		}
	}
	ret->argc = argc - optind;
	ret->argv = argv + optind;
	return ret->argc ? 0 : usage();
}

int cmd_image(int argc, char **argv)
{
	struct image_options options = { .size = default_size };
	char *state = NULL;
	int status;
	size_t i;

	status = parse(argc, argv, &options);
	if (status)
		return status;
	if (!options.state) {
		state = store_default_dir();
		options.state = state;
	}
	if (!options.state) {
		fprintf(stderr, "sbx image: no state directory: give --state DIR\n");
		return SBX_FAILED;
	}
	status = -1;
	for (i = 0; status < 0 && i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (strcmp(options.argv[0], verbs[i].name) != 0)
			continue;
		options.argc--;
		options.argv++;
		status = verbs[i].run(&options);
	}
	if (status < 0)
		status = usage();
	free(state);
	return status;
}
