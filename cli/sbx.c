/* SPDX-License-Identifier: MIT */
/*
 * sbx.c - a helper for people: what is clumsy through files alone
 *
 * Whatever it does to a sandbox it does through the mounted files, as any program can; `image` works on the
 * state directory, and `doctor` on the host.
 */
#include "cli/sbx.h"

#include <stdio.h>
#include <string.h>

#include "cli/image.h"

static const struct command {
	const char *name, *args, *what;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "exec", "[-T] [-C DIR] [-e K=V]... [-u USER] VM COMMAND...", "run a command in a sandbox",
	  cmd_exec },
	{ "image", "ls | build base | import NAME DIR|TAR | rm NAME  [--state DIR]",
	  "images in a state directory", cmd_image },
	{ "snapshot", "save VM NAME | load FILE|- NAME | verify NAME", "snapshots, with a progress bar",
	  cmd_snapshot },
	{ "doctor", "[--guest DIR]", "what this host can do, and why", cmd_doctor },
};

static void usage(FILE *out)
{
	size_t i;

	fprintf(out, "usage: sbx COMMAND ...\n");
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(out, "  %-8s %s\n           %s\n", commands[i].name, commands[i].args,
			commands[i].what);
	fprintf(out, "VM is a sandbox's name, looked up in $SBX_MOUNT or the one mounted sbxfs, or the path "
		     "of its "
		     "directory.\n");
}

int main(int argc, char **argv)
{
	size_t i;

	if (argc >= 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "help"))) {
		usage(stdout);
		return 0;
	}
	for (i = 0; argc >= 2 && i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(argc - 1, argv + 1);
	usage(stderr);
	return SBX_USAGE;
}
