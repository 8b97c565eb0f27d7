/* SPDX-License-Identifier: MIT */
/*
 * files.c - sbx sh, sbx cp and sbx logs: what other programs do as well, with names of sandboxes for paths
 *
 * A shell is a command like others; copying is cp(1)'s, and following tail(1)'s.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/mount.h"
#include "cli/sbx.h"

const struct program sh_program = {
	.name = "sbx sh",
	.forms = "VM [ARGUMENT...]",
	.about = "Run a login shell in a sandbox, on this terminal: sbx exec VM sh -l [ARGUMENT...].\n",
	.stop_at_operand = true,
};

const struct program cp_program = {
	.name = "sbx cp",
	.forms = "SOURCE... TARGET",
	.about = "Copy files and directories into, out of and between sandboxes.\n"
		 "VM:PATH is a path in a machine, from its root; a snapshot's is snapshots/NAME:PATH.\n"
		 "Others are paths here; ./a:b is one, too. Directories are copied whole, with links, "
		 "owners,\n"
		 "modes and times as far as you may set them (cp -a).\n",
};

const struct program logs_program = {
	.name = "sbx logs",
	.forms = "[-f] VM",
	.about = "Print the serial console of a sandbox.\n",
	.options =
		(const struct program_option[]){
			{ 'f', NULL, NULL, "wait for more, until it is interrupted" },
			{ 0 },
		},
};

/* Become a program that every Linux has. */
static int become(char *const argv[])
{
	execvp(argv[0], argv);
	fprintf(stderr, "sbx: cannot run %s: %s\n", argv[0], strerror(errno));
	return SBX_FAILED;
}

int cmd_sh(int argc, char **argv)
{
	static char exec[] = "exec", sh[] = "sh", login[] = "-l";
	char **words;
	int status, n = 0;

	if (program_next(&sh_program, argc, argv, &status) != PROGRAM_OPERANDS)
		return status;
	if (optind == argc)
		return program_refuse(&sh_program, "a sandbox is needed");
	words = calloc((size_t)argc + 4, sizeof(*words));
	if (!words)
		return SBX_FAILED;
	words[n++] = exec;
	words[n++] = argv[optind++];
	words[n++] = sh;
	words[n++] = login;
	while (optind < argc)
		words[n++] = argv[optind++];
	optind = 0; /* glibc: parsed afresh */
	status = cmd_exec(n, words);
	free(words);
	return status;
}

/* VM:PATH as a path here, or a copy of what is one; NULL after a message. */
static char *path_of(const char *word)
{
	const char *colon = strchr(word, ':'), *slash = strchr(word, '/');
	char vm[PATH_MAX], dir[PATH_MAX], *ret;

	if (!colon || (slash && slash < colon && strncmp(word, "snapshots/", 10) != 0))
		return strdup(word);
	snprintf(vm, sizeof(vm), "%.*s", (int)(colon - word), word);
	if (slash && slash < colon) {
		if (find_in_mount("snapshots/", vm + strlen("snapshots/"), dir))
			return NULL;
	} else if (find_in_mount("", vm, dir)) {
		return NULL;
	}
	if (access(dir, F_OK) < 0) {
		fprintf(stderr, "sbx cp: %s: there is no such sandbox or snapshot\n", vm);
		return NULL;
	}
	if (asprintf(&ret, "%s/fs/%s", dir, colon + 1 + strspn(colon + 1, "/")) < 0)
		return NULL;
	return ret;
}

int cmd_cp(int argc, char **argv)
{
	static char cp[] = "cp", all[] = "-a", end[] = "--";
	char **words;
	int status, n = 0;

	if (program_next(&cp_program, argc, argv, &status) != PROGRAM_OPERANDS)
		return status;
	if (argc - optind < 2)
		return program_refuse(&cp_program, "a source and a target are needed");
	words = calloc((size_t)argc + 4, sizeof(*words));
	if (!words)
		return SBX_FAILED;
	words[n++] = cp;
	words[n++] = all;
	words[n++] = end;
	for (; optind < argc; n++, optind++) {
		words[n] = path_of(argv[optind]);
		if (!words[n]) {
			status = SBX_FAILED;
			goto out;
		}
	}
	status = become(words);
out:
	while (n > 3)
		free(words[--n]);
	free(words);
	return status;
}

int cmd_logs(int argc, char **argv)
{
	static char tail[] = "tail", all[] = "-n+1", follow[] = "-f", cat[] = "cat", end[] = "--";
	char dir[PATH_MAX], path[PATH_MAX + 16];
	char *following[] = { tail, all, follow, end, path, NULL }, *plain[] = { cat, end, path, NULL };
	bool more = false;
	int opt, status;

	while ((opt = program_next(&logs_program, argc, argv, &status)) == 'f')
		more = true;
	if (opt == PROGRAM_EXIT)
		return status;
	if (argc - optind != 1)
		return program_refuse(&logs_program, "a sandbox is needed");
	if (find_in_mount("", argv[optind], dir))
		return SBX_FAILED;
	snprintf(path, sizeof(path), "%s/console", dir);
	return become(more ? following : plain);
}
