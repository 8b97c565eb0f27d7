/* SPDX-License-Identifier: MIT */
/* main.c - sbx-net, the network of one machine: what sbxfs starts when the machine says its first word */
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "util/log.h"
#include "util/program.h"
#include "vm/net/rules.h"
#include "vm/net/stack.h"

static const struct program_option options[] = {
	{ PROGRAM_LONG, "control", "FD", "the control socket" },
	{ 0 },
};

static const struct program program = {
	.name = "sbx-net",
	.forms = "--control FD",
	.about = "The network of one machine: a packet filter and a user-space TCP/IP behind it. sbxfs "
		 "starts it.\n",
	.options = options,
};

/* Connections have a descriptor each; memory is what they buffer, and libslirp's own. */
enum { FILES = 4096 };

static int limit_files(struct err *err)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return err_set(err, -1, "cannot ask for the limit of descriptors");
	limit.rlim_cur = limit.rlim_max = limit.rlim_max < FILES ? limit.rlim_max : FILES;
	return setrlimit(RLIMIT_NOFILE, &limit) < 0 ? err_set(err, -1, "cannot limit the descriptors") : 0;
}

int main(int argc, char **argv)
{
	struct err err = { 0 };
	uint16_t fd = 0;
	int option, status;

	while ((option = program_next(&program, argc, argv, &status)) != PROGRAM_OPERANDS) {
		if (option == PROGRAM_EXIT)
			return status;
		if (!parse_port(optarg, &fd))
			return program_refuse(&program, "\"%s\" is not a value for --control", optarg);
	}
	if (!fd || optind < argc)
		return program_refuse(&program, "--control is needed, and nothing else");
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || limit_files(&err) || net_seccomp_enter(&err) ||
	    stack_serve(fd, &err)) {
		log_error("sbx-net: %s", err.text);
		return 1;
	}
	return 0;
}
