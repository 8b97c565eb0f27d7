/* SPDX-License-Identifier: MIT */
/*
 * kinds.c - the programs that the launcher starts, and what each of them finds in its jail
 *
 * Everything else a program works on comes as a descriptor.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/jail/priv.h"

/*
 * The run-time of the sanitizers reads /proc/self/maps. Only builds with sanitizers have that.
 */
#ifdef __SANITIZE_ADDRESS__
#define JAIL_OURS JAIL_PROC
#else
#define JAIL_OURS 0
#endif

int jail_add(struct jail *jail, const char *from, const char *to, struct err *err)
{
	struct jail_file *file = &jail->files[jail->nfiles];
	unsigned i;

	for (i = 0; i < jail->nfiles; i++)
		if (!strcmp(jail->files[i].to, to))
			return 0;
	if (jail->nfiles == JAIL_FILES_MAX)
		return err_set(err, -E2BIG, "%s needs too many files", jail->name);
	file->from = realpath(from, NULL);
	if (!file->from)
		return err_sys(err, -errno, "cannot find %s", from);
	file->to = strdup(to);
	jail->nfiles++;
	return file->to ? 0 : err_set(err, -ENOMEM, "out of memory");
}

/* Everybody's permissions decide: the process has an id that owns nothing. */
static int add_readable(struct jail *jail, const char *from, const char *to, struct err *err)
{
	struct stat st;

	if (stat(from, &st) < 0)
		return err_sys(err, -errno, "cannot find %s", from);
	if (!(st.st_mode & S_IROTH))
		return err_set(err, -EACCES,
			       "%s must be readable for all users: a machine has a user id of its own", from);
	return jail_add(jail, from, to, err);
}

/* The first of a few places, relative to the program's directory, that has the file; none is no failure. */
static int add_first(struct jail *jail, const char *const *places, struct err *err)
{
	char path[PATH_MAX], resolved[PATH_MAX], file[PATH_MAX];
	const int dir = (int)(strrchr(jail->program, '/') - jail->program);
	const char *slash;

	for (; *places; places++) {
		if (snprintf(path, sizeof(path), "%.*s/%s", dir, jail->program, *places) >= (int)sizeof(path))
			continue;
		/* The name the program uses, without its "..", may be a link. */
		slash = strrchr(path, '/');
		path[slash - path] = '\0';
		if (!realpath(path, resolved))
			continue;
		path[slash - path] = '/';
		if (snprintf(file, sizeof(file), "%s%s", resolved, slash) < (int)sizeof(file) &&
		    !access(file, R_OK))
			return jail_add(jail, file, file, err);
	}
	return 0;
}

int jail_find_program(const char *program, char *ret)
{
	const char *path = getenv("PATH"), *end;
	char file[PATH_MAX];

	for (; path; path = *end ? end + 1 : NULL) {
		end = strchrnul(path, ':');
		if (snprintf(file, sizeof(file), "%.*s/%s", (int)(end - path), path, program) <
			    (int)sizeof(file) &&
		    !access(file, X_OK) && realpath(file, ret))
			return 0;
	}
	return -ENOENT;
}

/* The program itself, and what loads it. */
static int add_program(struct jail *jail, const char *path, struct err *err)
{
	int rc;

	jail->program = strdup(path);
	if (!jail->program)
		return err_set(err, -ENOMEM, "out of memory");
	rc = jail_add(jail, path, path, err);
	if (!rc)
		rc = jail_add_libraries(jail, path, err);
	/* Where libraries are: not everywhere does the loader know by itself. */
	if (!rc && jail->nfiles > 1 && !access("/etc/ld.so.cache", R_OK))
		rc = jail_add(jail, "/etc/ld.so.cache", "/etc/ld.so.cache", err);
	return rc;
}

static int add_ours(struct jail *jail, const struct jail_config *config, const char *name, struct err *err)
{
	char path[PATH_MAX], file[PATH_MAX];
	int rc;

	snprintf(file, sizeof(file), "%s/%s", config->libexec, name);
	if (!realpath(file, path))
		return err_sys(err, -errno, "cannot find %s", file);
	rc = add_program(jail, path, err);
	return rc ? rc : jail_base_filter(jail->flags & JAIL_HOST_NET, &jail->filter, err);
}

/* What the daemon can do without where it is not there, or not for everybody. */
static int add_preload(struct jail *jail, const struct jail_config *config, struct err *err)
{
	char path[PATH_MAX], file[PATH_MAX];
	struct stat st;

	if (snprintf(file, sizeof(file), "%s/sbx-track.so", config->libexec) >= (int)sizeof(file) ||
	    !realpath(file, path) || stat(path, &st) < 0 || !(st.st_mode & S_IROTH))
		return 0;
	jail->preload = strdup(path);
	return jail->preload ? jail_add(jail, path, JAIL_PRELOAD, err)
			     : err_set(err, -ENOMEM, "out of memory");
}

static int add_qemu(struct jail *jail, const struct jail_config *config, struct err *err)
{
	/* As Debian builds it, the accelerator without hardware is a module. */
	static const char *const module[] = { "../lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so",
					      "../lib64/qemu/accel-tcg-x86_64.so",
					      "../lib/qemu/accel-tcg-x86_64.so", NULL };
	static const char *const firmware[] = { "../share/qemu/qboot.rom", NULL };
	static const char *const vapic[] = { "../share/qemu/kvmvapic.bin", "../share/seabios/kvmvapic.bin",
					     NULL };
	char path[PATH_MAX];
	int rc;

	if (jail_find_program(QEMU_PROGRAM, path))
		return err_set(err, -ENOENT, "no " QEMU_PROGRAM " in PATH");
	rc = add_program(jail, path, err);
	if (!rc)
		rc = add_preload(jail, config, err);
	if (!rc)
		rc = add_first(jail, module, err);
	if (!rc)
		rc = add_first(jail, firmware, err);
	if (!rc)
		rc = add_first(jail, vapic, err);
	if (!rc)
		rc = add_readable(jail, config->kernel, JAIL_KERNEL, err);
	if (!rc)
		rc = add_readable(jail, config->initrd, JAIL_INITRD, err);
	return rc ? rc : jail_qemu_filter(&jail->filter, err);
}

void jail_describe(enum jail_kind kind, const struct jail_config *config, struct jail *ret)
{
	int rc = -EINVAL;

	*ret = (struct jail){ .max_fds = 1024, .root_fd = -1, .dir_fd = -1 };
	switch (kind) {
	case JAIL_VMM:
		ret->name = "sbx-vmm";
		/* What is to be copied in a capture, it reads in /proc/self/pagemap. */
		ret->flags = JAIL_KVM | JAIL_PROC;
		rc = add_ours(ret, config, ret->name, &ret->err);
		break;
	case JAIL_QEMU:
		ret->name = QEMU_PROGRAM;
		/* It maps the machine's memory, a descriptor, through /proc/self/fd. */
		ret->flags = JAIL_KVM | JAIL_PROC;
		rc = add_qemu(ret, config, &ret->err);
		break;
	case JAIL_BROWSE:
		ret->name = "sbx-browse";
		ret->flags = JAIL_OURS;
		rc = add_ours(ret, config, ret->name, &ret->err);
		break;
	case JAIL_NET:
		ret->name = "sbx-net";
		ret->flags = JAIL_HOST_NET | JAIL_OURS;
		ret->max_fds = 4096; /* one a connection */
		rc = add_ours(ret, config, ret->name, &ret->err);
		break;
	case JAIL_KINDS:
		break;
	}
	if (rc) {
		free(ret->program);
		ret->program = NULL;
	}
}

void jail_release(struct jail *jail)
{
	unsigned i;

	for (i = 0; i < jail->nfiles; i++) {
		free(jail->files[i].from);
		free(jail->files[i].to);
	}
	free(jail->program);
	free(jail->preload);
	free(jail->filter.filter);
	if (jail->root_fd >= 0)
		close(jail->root_fd);
	if (jail->dir_fd >= 0)
		close(jail->dir_fd);
}
