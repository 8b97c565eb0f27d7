/* SPDX-License-Identifier: MIT */
/*
 * program.h - a program's command line: one table for its options, their parser, --help and --version
 *
 * Every program answers --help and --version on stdout with status 0. A usage error is one line on stderr that
 * says what is wrong and where the help is, with status PROGRAM_USAGE.
 */
#ifndef SBX_UTIL_PROGRAM_H
#define SBX_UTIL_PROGRAM_H

#include <stdbool.h>
#include <stdio.h>

#define SBX_VERSION "0.1"

enum {
	PROGRAM_USAGE = 2, /* exit status of a usage error */
	PROGRAM_LONG = 256 /* keys of options that have no short form begin here */
};

struct program_option {
	int key; /* what program_next returns: the letter of the short form, or from PROGRAM_LONG on */
	const char *name; /* of the long form, without dashes; NULL: there is none */
	const char *arg;  /* what help calls its argument; NULL: it takes none */
	const char *help; /* further lines after a newline */
};

struct program {
	const char *name;          /* as it is called: "sbx exec" */
	const char *forms;         /* what follows the name; further forms after a newline each */
	const char *about;         /* a sentence or more, with line ends */
	void (*topics)(FILE *out); /* what stands between that and the options, or NULL */
	const struct program_option
		*options;     /* ends with key 0; --help and --version are added. NULL: none */
	const char *notes;    /* what help ends with, or NULL */
	bool stop_at_operand; /* the options of a command that follows are the command's */
};

enum { PROGRAM_OPERANDS = -1, PROGRAM_EXIT = -2 };

/*
 * The next option's key, its argument in optarg; PROGRAM_OPERANDS: no more options, operands from optind on;
 * PROGRAM_EXIT: end with *status, what was to be said has been said. Uses getopt(3): one command
 * line at a time, and optind = 0 before the next.
 */
int program_next(const struct program *program, int argc, char **argv, int *status);

/* Say what is wrong with the command line. Returns PROGRAM_USAGE. */
__attribute__((format(printf, 2, 3))) int program_refuse(const struct program *program, const char *fmt, ...);

/* Say that the operands are not those of one of the forms, from 0. Returns PROGRAM_USAGE. */
int program_refuse_form(const struct program *program, unsigned form);

void program_help(const struct program *program, FILE *out);
void program_version(const struct program *program, FILE *out);

#endif
