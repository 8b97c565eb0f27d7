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
#include <unistd.h>

#include "cli/images.h"

static const struct command {
	const struct program *program;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ &run_program, cmd_run },     { &exec_program, cmd_exec },
	{ &dial_program, cmd_dial },   { &forward_program, cmd_forward },
	{ &image_program, cmd_image }, { &snapshot_program, cmd_snapshot },
	{ &ls_program, cmd_ls },       { &tree_program, cmd_tree },
	{ &top_program, cmd_top },     { &sh_program, cmd_sh },
	{ &cp_program, cmd_cp },       { &logs_program, cmd_logs },
	{ &wait_program, cmd_wait },   { &doctor_program, cmd_doctor },
};

/* "exec" of "sbx exec". */
static const char *command_name(const struct command *command)
{
	return command->program->name + strlen("sbx ");
}

static const struct command *find(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(name, command_name(&commands[i])))
			return &commands[i];
	return NULL;
}

static void put_commands(FILE *out)
{
	size_t i;

	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(out, "  %-9s %.*s\n", command_name(&commands[i]),
			(int)strcspn(commands[i].program->about, "\n"), commands[i].program->about);
}

static const struct program program = {
	.name = "sbx",
	.forms = "COMMAND ...\n"
		 "help [COMMAND]",
	.about = "Does what is clumsy through the files of sbxfs alone. `sbx COMMAND --help` says more.\n",
	.topics = put_commands,
	.stop_at_operand = true,
	.notes = "A sandbox (VM) or snapshot is given by its name in $SBX_MOUNT or the one sbxfs that is "
		 "mounted,\n"
		 "or by the path of its directory.\n",
};

static int help(const char *name)
{
	const struct command *command = name ? find(name) : NULL;

	if (name && !command)
		return program_refuse(&program, "there is no command \"%s\"", name);
	program_help(command ? command->program : &program, stdout);
	return 0;
}

int main(int argc, char **argv)
{
	const struct command *command;
	int status;

	if (program_next(&program, argc, argv, &status) == PROGRAM_EXIT)
		return status;
	argc -= optind;
	argv += optind;
	if (!argc)
		return program_refuse(&program, "a command is needed");
	if (!strcmp(argv[0], "help"))
		return help(argv[1]);
	command = find(argv[0]);
	if (!command)
		return program_refuse(&program, "there is no command \"%s\"", argv[0]);
	optind = 0; /* glibc: the command's options are parsed afresh */
	return command->run(argc, argv);
}
