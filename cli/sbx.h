/* SPDX-License-Identifier: MIT */
/*
 * sbx.h - the subcommands of sbx
 *
 * Each takes what follows its name, its name as argv[0], and returns an exit status: PROGRAM_USAGE after a
 * usage message, SBX_FAILED after one of what went wrong, both on stderr. Its struct program is its help.
 */
#ifndef SBX_CLI_SBX_H
#define SBX_CLI_SBX_H

#include "util/program.h"

enum {
	/* exec: sbx failed, not the command; and the command could not be started (as env(1) and others
	 * have it) */
	SBX_FAILED = 125,
	SBX_NOT_FOUND = 127,
};

/* What is said where store_default_dir finds none. */
#define NO_STATE_DIR "there is no default state directory without $HOME; name one with --state"

int cmd_run(int argc, char **argv);
int cmd_exec(int argc, char **argv);
int cmd_dial(int argc, char **argv);
int cmd_forward(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_ls(int argc, char **argv);
int cmd_tree(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_sh(int argc, char **argv);
int cmd_cp(int argc, char **argv);
int cmd_logs(int argc, char **argv);
int cmd_wait(int argc, char **argv);

extern const struct program run_program, exec_program, dial_program, forward_program, image_program,
	snapshot_program, doctor_program, ls_program, tree_program, top_program, sh_program, cp_program,
	logs_program, wait_program;

/* Run a command, words that end with NULL, in a sandbox, with our stdin, stdout and stderr and no terminal; its
 * exit status. */
int exec_streams(const char *vm, char **argv);

#endif
