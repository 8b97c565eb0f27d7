/* SPDX-License-Identifier: MIT */
/*
 * image_sources.c - images that other programs bring: skopeo from registries, mmdebstrap from Debian's packages
 *
 * A child does the work, so that we can remove what it leaves in a temporary directory, however it ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/images.h"
#include "cli/sbx.h"
#include "snap/image/import.h"
#include "util/io.h"

/* ---- pull */

/* A reference without a transport is a registry's. */
static void name_reference(const char *reference, char *ret, size_t size)
{
	static const char *const transports[] = { "docker://",
						  "oci:",
						  "dir:",
						  "oci-archive:",
						  "docker-archive:",
						  "docker-daemon:",
						  "ostree:",
						  "containers-storage:",
						  "sif:" };
	size_t i;

	for (i = 0; i < sizeof(transports) / sizeof(transports[0]); i++)
		if (!strncmp(reference, transports[i], strlen(transports[i])))
			break;
	snprintf(ret, size, "%s%s", i < sizeof(transports) / sizeof(transports[0]) ? "" : "docker://",
		 reference);
}

static int pull_into(const struct image_options *options, const char *dir, const char *name,
		     const char *reference)
{
	char from[PATH_MAX], to[PATH_MAX + 16], source[PATH_MAX + 16], how[256];
	const char *argv[16] = {
		"skopeo", "--override-os", "linux", "--override-arch", "amd64", "copy", NULL
	};
	unsigned n = 6;
	pid_t pid;

	name_reference(reference, from, sizeof(from));
	snprintf(to, sizeof(to), "oci:%s/oci:image", dir);
	if (options->insecure)
		argv[n++] = "--src-tls-verify=false";
	argv[n++] = from;
	argv[n] = to;
	pid = child_spawn(argv, STDERR_FILENO, "skopeo");
	if (pid < 0)
		return SBX_FAILED;
	if (child_reap(pid)) {
		fprintf(stderr, "sbx image: skopeo did not bring %s\n", reference);
		return SBX_FAILED;
	}
	snprintf(source, sizeof(source), "%s/oci", dir);
	snprintf(how, sizeof(how), "pull %.240s", reference);
	return image_from(options, name, source, how);
}

int image_pull(const struct image_options *options, const char *name, const char *reference)
{
	const char *tmp = getenv("TMPDIR");
	struct child_guard guard;
	char dir[PATH_MAX];
	int status;
	pid_t pid;

	snprintf(dir, sizeof(dir), "%s/sbx-pull.XXXXXX", tmp && *tmp ? tmp : "/var/tmp");
	child_guard(&guard);
	if (!mkdtemp(dir)) {
		fprintf(stderr, "sbx image: %s: %s\n", dir, strerror(errno));
		child_release(&guard);
		return SBX_FAILED;
	}
	pid = child_fork(&guard);
	if (!pid)
		exit(pull_into(options, dir, name, reference));
	status = pid < 0 ? SBX_FAILED : child_wait(pid);
	(void)remove_tree_at(AT_FDCWD, dir);
	child_release(&guard);
	return status;
}

/* ---- build --debian */

/* The release of Debian that this host is, or the stable one. */
static void find_suite(char *ret, size_t size)
{
	char line[256];
	FILE *f = fopen("/etc/os-release", "re");
	bool debian = false;

	snprintf(ret, size, "stable");
	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		debian = debian || !strcmp(line, "ID=debian");
		if (!strncmp(line, "VERSION_CODENAME=", 17))
			snprintf(ret, size, "%.31s", line + 17);
	}
	if (f)
		fclose(f);
	if (!debian)
		snprintf(ret, size, "stable");
}

static char *join_packages(char *const *packages)
{
	struct buf text = { 0 };

	buf_printf(&text, "--include=");
	for (; *packages; packages++)
		buf_printf(&text, "%s%s", *packages, packages[1] ? "," : "");
	buf_add(&text, "", 1);
	return text.failed ? NULL : (char *)buf_bytes(&text);
}

/* Names of Debian's packages, and what apt takes beside them: =VERSION, /SUITE, :ARCH, ?patterns not. */
static bool is_package(const char *text)
{
	return *text && *text != '-' &&
	       !text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				  "0123456789+-.~:=/_")];
}

static int fill_debian(const struct image_options *options, const char *disk, const char *packages,
		       struct buf *config, struct err *err)
{
	struct image_import import = { .source = "-", .disk = disk, .size = options->size };
	int fds[2], rc, saved;
	char suite[32];
	pid_t pid;

	(void)config;
	find_suite(suite, sizeof(suite));
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_sys(err, -errno, "cannot make a pipe");
	pid = child_spawn((const char *[]){ "mmdebstrap", "--variant=essential", "--format=tar", packages,
					    options->suite ? options->suite : suite, "-", NULL },
			  fds[1], "mmdebstrap");
	close(fds[1]);
	/* Its output is our standard input for as long as it takes. */
	saved = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
	rc = pid < 0 || dup2(fds[0], STDIN_FILENO) < 0 ? err_sys(err, -errno, "cannot run mmdebstrap")
						       : image_import(&import, err);
	close(fds[0]);
	if (saved >= 0) {
		(void)dup2(saved, STDIN_FILENO);
		close(saved);
	} else {
		close(STDIN_FILENO);
	}
	buf_release(&import.config);
	/* If it failed, that is why there was nothing to read. */
	if (pid > 0 && child_reap(pid))
		rc = err_set(
			err, -EIO, "mmdebstrap did not make a system of these packages%s",
			geteuid() ? "; an ordinary user needs newuidmap, of the package uidmap, and ids in "
				    "/etc/subuid and /etc/subgid"
				  : "");
	return rc;
}

int image_debian(const struct image_options *options, const char *name, char *const *packages)
{
	char *const *package;
	char how[256] = "build --debian", *include;
	struct image_options sized = *options;
	struct err err = { 0 };
	int rc;

	for (package = packages; *package; package++) {
		if (!is_package(*package))
			return program_refuse(&image_program, "\"%s\" is no package", *package);
		snprintf(how + strlen(how), sizeof(how) - strlen(how), " %s", *package);
	}
	include = join_packages(packages);
	if (!include) {
		fprintf(stderr, "sbx image: out of memory\n");
		return SBX_FAILED;
	}
	if (!sized.size)
		sized.size = 4ull << 30;
	rc = image_make(&sized, name, how, fill_debian, include, &err);
	free(include);
	if (!rc)
		return 0;
	fprintf(stderr, "sbx image: %s\n", err.text);
	return SBX_FAILED;
}
