/* SPDX-License-Identifier: MIT */
/*
 * images.c - `sbx image`
 *
 * A new image is an ext4 filesystem in a file of the store that has no name while it is written, so that
 * nothing is left of it whatever happens.
 */
#include "cli/images.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/bar.h"
#include "cli/sbx.h"
#include "snap/image.h"
#include "snap/image/import.h"
#include "util/size.h"

static const uint64_t default_size = 2ull << 30, min_size = 16ull << 20, max_size = 1ull << 40;

enum { OPT_STATE = PROGRAM_LONG, OPT_SIZE, OPT_DEBIAN, OPT_SUITE, OPT_INSECURE };

const struct program image_program = {
	.name = "sbx image",
	.forms = "build base [--size SIZE] [--state DIR]\n"
		 "build NAME --debian PACKAGE... [--suite SUITE] [--size SIZE] [--state DIR]\n"
		 "pull NAME REFERENCE [--insecure] [--size SIZE] [--state DIR]\n"
		 "import NAME SOURCE [--size SIZE] [--state DIR]\n"
		 "export NAME|SNAPSHOT oci-archive:FILE|docker-archive:FILE [--state DIR]\n"
		 "ls [--state DIR]\n"
		 "rm NAME... [--state DIR]",
	.about =
		"Make, export, list and remove images, the disks that sandboxes start from.\n"
		"It works beside a daemon and without one. `build base` makes a small Linux of busybox. A "
		"SOURCE is a\n"
		"directory, a tar, a docker archive, an OCI layout (a directory or a tar), or - for a tar on "
		"standard\n"
		"input; tars may be compressed, and SOURCE:TAG chooses one of several images. A REFERENCE is "
		"a\n"
		"registry's image or anything else that skopeo(1) can copy. `export` writes an image, or a "
		"named\n"
		"snapshot's disk, for podman, docker and skopeo; FILE may be - for standard output.\n",
	.options =
		(const struct program_option[]){
			{ OPT_STATE, "state", "DIR",
			  "the state directory (default: /var/lib/sbxfs for root,\n"
			  "else $XDG_STATE_HOME/sbxfs or ~/.local/state/sbxfs)" },
			{ OPT_SIZE, "size", "SIZE",
			  "of a new image's disk, 16M to 1024G (default: what the source\n"
			  "is likely to need, and 2G at least)" },
			{ OPT_DEBIAN, "debian", NULL,
			  "build: of these of Debian's packages, and what they depend on" },
			{ OPT_SUITE, "suite", "SUITE",
			  "build: of this release of Debian (default: this host's)" },
			{ OPT_INSECURE, "insecure", NULL,
			  "pull: without TLS, or without looking at certificates" },
			{ 0 },
		},
};

/* One of the forms has another number of words. */
static int wrong_form(unsigned form)
{
	return program_refuse_form(&image_program, form);
}

static int failed(const struct err *err)
{
	fprintf(stderr, "sbx image: %s\n", err->text);
	return SBX_FAILED;
}

/* ---- making */

int image_make(const struct image_options *options, const char *name, const char *how, image_fill fill,
	       const char *source, struct err *err)
{
	struct image_draft *draft;
	struct buf config = { 0 };
	int rc = image_begin(options->state, name, options->size, &draft, err);

	if (rc)
		return rc;
	rc = fill(options, image_draft_path(draft), source, &config, err);
	if (rc)
		image_abandon(draft);
	else
		rc = image_finish(draft, how, &config, err);
	buf_release(&config);
	return rc;
}

static int fill_base(const struct image_options *options, const char *disk, const char *source,
		     struct buf *config, struct err *err)
{
	struct ext4 *fs;
	int closed, rc = ext4_new(disk, options->size, &fs, err);

	(void)source;
	(void)config;
	if (rc)
		return rc;
	rc = image_base(fs, err);
	closed = ext4_close(fs, !rc, rc ? NULL : err);
	return rc ? rc : closed;
}

static int cmd_build(const struct image_options *options)
{
	struct image_options sized = *options;
	struct err err = { 0 };

	if (options->debian && options->argc >= 2)
		return image_debian(options, options->argv[0], options->argv + 1);
	if (options->debian)
		return wrong_form(1);
	if (options->argc != 1 || strcmp(options->argv[0], "base") != 0)
		return wrong_form(0);
	if (!sized.size)
		sized.size = default_size;
	if (image_make(&sized, "base", "build base", fill_base, NULL, &err))
		return failed(&err);
	return 0;
}

static void show_import(void *arg, uint64_t done, uint64_t total)
{
	(void)arg;
	if (total)
		bar_draw("importing", done < total ? (unsigned)(done * 100 / total) : 100);
}

static int fill_import(const struct image_options *options, const char *disk, const char *source,
		       struct buf *config, struct err *err)
{
	const bool bar = isatty(STDERR_FILENO);
	struct image_import import = {
		.source = source,
		.disk = disk,
		.size = options->size,
		.progress = bar ? show_import : NULL,
	};
	int rc = image_import(&import, err);

	if (bar)
		bar_clear();
	*config = import.config;
	return rc;
}

int image_from(const struct image_options *options, const char *name, const char *source, const char *how)
{
	struct image_options sized = *options;
	struct err err = { 0 };
	char line[256], *c;

	snprintf(line, sizeof(line), "%s", how);
	for (c = line; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = '?';
	if ((!sized.size && image_import_size(source, &sized.size, &err)) ||
	    image_make(&sized, name, line, fill_import, source, &err))
		return failed(&err);
	return 0;
}

static int cmd_import(const struct image_options *options)
{
	const char *base;
	char how[256];

	if (options->argc != 2)
		return wrong_form(3);
	base = strrchr(options->argv[1], '/');
	snprintf(how, sizeof(how), "import %.200s", base && base[1] ? base + 1 : options->argv[1]);
	return image_from(options, options->argv[0], options->argv[1], how);
}

static int cmd_pull(const struct image_options *options)
{
	return options->argc == 2 ? image_pull(options, options->argv[0], options->argv[1]) : wrong_form(2);
}

static int cmd_export(const struct image_options *options)
{
	return options->argc == 2 ? image_export_to(options, options->argv[0], options->argv[1])
				  : wrong_form(4);
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

static int cmd_images(const struct image_options *options)
{
	struct err err = { 0 };

	if (options->argc)
		return wrong_form(5);
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
		return wrong_form(6);
	for (i = 0; i < options->argc; i++)
		if (image_remove(options->state, options->argv[i], &err))
			status = failed(&err);
	return status;
}

/* ---- the command line */

static const struct {
	const char *name;
	int (*run)(const struct image_options *options);
} verbs[] = { { "build", cmd_build },   { "import", cmd_import }, { "pull", cmd_pull },
	      { "export", cmd_export }, { "ls", cmd_images },     { "rm", cmd_rm } };

/* 0: go on; PROGRAM_EXIT: end with *ret_status. Options may stand anywhere. */
static int parse(int argc, char **argv, struct image_options *ret, int *ret_status)
{
	int c;

	while ((c = program_next(&image_program, argc, argv, ret_status)) != PROGRAM_OPERANDS) {
		switch (c) {
		case OPT_STATE:
			ret->state = optarg;
			break;
		case OPT_DEBIAN:
			ret->debian = true;
			break;
		case OPT_SUITE:
			ret->suite = optarg;
			break;
		case OPT_INSECURE:
			ret->insecure = true;
			break;
		case OPT_SIZE:
			if (size_parse(optarg, &ret->size) || ret->size < min_size || ret->size > max_size) {
				*ret_status = program_refuse(
					&image_program, "\"%s\" is not a size from 16M to 1024G", optarg);
				return PROGRAM_EXIT;
			}
			break;
		default:
			return PROGRAM_EXIT;
		}
	}
	ret->argc = argc - optind;
	ret->argv = argv + optind;
	if (ret->argc)
		return 0;
	*ret_status = program_refuse(&image_program, "build, pull, import, export, ls or rm is needed");
	return PROGRAM_EXIT;
}

int cmd_image(int argc, char **argv)
{
	struct image_options options = { 0 };
	char *state = NULL;
	int status;
	size_t i;

	if (parse(argc, argv, &options, &status))
		return status;
	if (!options.state) {
		state = store_default_dir();
		options.state = state;
	}
	if (!options.state) {
		fprintf(stderr, "sbx image: " NO_STATE_DIR "\n");
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
		status = program_refuse(&image_program, "there is no command \"%s\"", options.argv[0]);
	free(state);
	return status;
}
