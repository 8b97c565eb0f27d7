/* SPDX-License-Identifier: MIT */
/*
 * needs.c - the libraries of a program, as the host's dynamic loader finds them
 *
 * The loader is asked with --list, in an empty environment, as the program will be started. A program without
 * one is static and needs nothing.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/io.h"
#include "vm/jail/priv.h"

enum { HEADERS_MAX = 64 };

/* The path of the program's loader, or "". */
static int find_interpreter(const char *program, char ret[PATH_MAX], struct err *err)
{
	Elf64_Ehdr elf;
	Elf64_Phdr headers[HEADERS_MAX];
	const int fd = open(program, O_RDONLY | O_CLOEXEC);
	unsigned i;
	int rc = 0;

	ret[0] = '\0';
	if (fd < 0)
		return err_sys(err, -errno, "cannot open %s", program);
	if (pread_all(fd, &elf, sizeof(elf), 0) || memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 ||
	    elf.e_phentsize != sizeof(*headers) || elf.e_phnum > HEADERS_MAX ||
	    pread_all(fd, headers, elf.e_phnum * sizeof(*headers), elf.e_phoff))
		rc = err_set(err, -ENOEXEC, "%s is no program that could run in a jail", program);
	for (i = 0; !rc && i < elf.e_phnum; i++) {
		if (headers[i].p_type != PT_INTERP)
			continue;
		if (headers[i].p_filesz >= PATH_MAX ||
		    pread_all(fd, ret, headers[i].p_filesz, headers[i].p_offset))
			rc = err_set(err, -ENOEXEC, "%s does not say what loads it", program);
		else
			ret[headers[i].p_filesz] = '\0';
	}
	close(fd);
	return rc;
}

/* A line of the loader's list: NAME => PATH (ADDRESS), or PATH (ADDRESS). */
static int add_line(struct jail *jail, char *line, struct err *err)
{
	char *path = strchr(line, '/'), *end = path ? strstr(path, " (") : NULL;

	if (strstr(line, "not found"))
		return err_set(err, -ENOENT, "a library is missing: %s", line);
	if (!end)
		return 0; /* the kernel's own: no file */
	*end = '\0';
	return jail_add(jail, path, path, err);
}

static int add_list(struct jail *jail, int fd, struct err *err)
{
	FILE *f = fdopen(fd, "r");
	char *line = NULL;
	size_t size = 0;
	int rc = 0;

	if (!f) {
		close(fd);
		return err_set(err, -ENOMEM, "out of memory");
	}
	while (getline(&line, &size, f) > 0)
		if (!rc)
			rc = add_line(jail, line, err);
	free(line);
	fclose(f);
	return rc;
}

int jail_add_libraries(struct jail *jail, const char *program, struct err *err)
{
	char loader[PATH_MAX];
	char *const argv[] = { loader, (char *)"--list", (char *)program, NULL };
	char *const envp[] = { NULL };
	int ends[2], status = 0, rc;
	pid_t pid;

	rc = find_interpreter(program, loader, err);
	if (rc || !loader[0])
		return rc;
	rc = jail_add(jail, loader, loader, err);
	if (rc)
		return rc;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, -errno, "cannot ask for the libraries of %s", program);
	pid = fork();
	if (!pid) {
		dup2(ends[1], STDOUT_FILENO);
		execve(loader, argv, envp);
		_exit(127);
	}
	close(ends[1]);
	if (pid < 0) {
		close(ends[0]);
		return err_sys(err, -errno, "cannot ask for the libraries of %s", program);
	}
	rc = add_list(jail, ends[0], err);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!rc && status)
		rc = err_set(err, -ENOEXEC, "%s does not list the libraries of %s", loader, program);
	return rc;
}
