/* SPDX-License-Identifier: MIT */
/*
 * image_export.c - `sbx image export`: an image or a snapshot's disk as an archive for container engines
 *
 * The archive has no name until it is whole, and never takes that of a file that is there.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/bar.h"
#include "cli/images.h"
#include "cli/sbx.h"
#include "snap/image.h"
#include "snap/image/export.h"

static const struct {
	const char *prefix;
	enum export_kind kind;
} kinds[] = {
	{ "oci-archive:", EXPORT_OCI },
	{ "docker-archive:", EXPORT_DOCKER },
};

/* The file that `target` names, or NULL. */
static const char *parse(const char *target, enum export_kind *ret)
{
	size_t i;

	for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		const size_t n = strlen(kinds[i].prefix);

		*ret = kinds[i].kind;
		if (!strncmp(target, kinds[i].prefix, n) && target[n])
			return target + n;
	}
	return NULL;
}

/* ---- a file that gets its name at the end */

static int open_out(const char *file, bool *ret_named, struct err *err)
{
	char dir[PATH_MAX];
	const char *slash = strrchr(file, '/');
	struct stat st;
	int fd;

	*ret_named = false;
	if (!lstat(file, &st))
		return err_sys(err, -EEXIST, "%.200s", file);
	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - file) + 1 : 1, slash ? file : ".");
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
		*ret_named = true;
		fd = open(file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	}
	return fd < 0 ? err_sys(err, -errno, "%.200s", file) : fd;
}

static int name_out(int fd, const char *file, struct err *err)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, path, AT_FDCWD, file, AT_SYMLINK_FOLLOW) < 0
		       ? err_sys(err, -errno, "%.200s", file)
		       : 0;
}

/* ---- */

static void show(void *arg, uint64_t done, uint64_t total)
{
	(void)arg;
	if (total)
		bar_draw("exporting", done < total ? (unsigned)(done * 100 / total) : 100);
}

static int export_disk(struct chain *chain, const char *what, enum export_kind kind, int fd, struct err *err)
{
	const char *slash = strrchr(what, '/');
	const bool bar = isatty(STDERR_FILENO);
	struct image_export export = {
		.chain = chain,
		.kind = kind,
		.name = slash ? slash + 1 : what,
		.fd = fd,
		.progress = bar ? show : NULL,
	};
	const int rc = image_export(&export, err);

	if (bar)
		bar_clear();
	return rc;
}

static int export_to_file(struct chain *chain, const char *what, enum export_kind kind, const char *file,
			  struct err *err)
{
	bool named;
	int rc, fd = open_out(file, &named, err);

	if (fd < 0)
		return fd;
	rc = export_disk(chain, what, kind, fd, err);
	if (!rc && fsync(fd) < 0)
		rc = err_sys(err, -errno, "%.200s", file);
	if (!rc && !named)
		rc = name_out(fd, file, err);
	if (rc && named)
		unlink(file);
	close(fd);
	return rc;
}

int image_export_to(const struct image_options *options, const char *what, const char *target)
{
	enum export_kind kind;
	const char *file = parse(target, &kind);
	struct err err = { 0 };
	struct chain *chain;
	int rc;

	if (!file)
		return program_refuse(&image_program,
				      "\"%s\" is neither oci-archive:FILE nor docker-archive:FILE", target);
	rc = image_open_disk(options->state, what, &chain, &err);
	if (!rc) {
		rc = strcmp(file, "-") != 0 ? export_to_file(chain, what, kind, file, &err)
					    : export_disk(chain, what, kind, STDOUT_FILENO, &err);
		chain_free(chain);
	}
	if (!rc)
		return 0;
	fprintf(stderr, "sbx image: %s\n", err.text);
	return SBX_FAILED;
}
