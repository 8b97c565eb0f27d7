/* SPDX-License-Identifier: MIT */
/* wait.c - sbx wait: until a sandbox is in a state; `state` wakes whoever polls it when it changes */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/mount.h"
#include "cli/sbx.h"

enum { TIMED_OUT = 124 };

const struct program wait_program = {
	.name = "sbx wait",
	.forms = "[-t SECONDS] VM STATE...",
	.about = "Wait until a sandbox is in one of these states, and print which.\n"
		 "The states are created, running, paused, stopped, crashed and suspended. The status is 1\n"
		 "when the sandbox is removed meanwhile.\n",
	.options =
		(const struct program_option[]){
			{ 't', "timeout", "SECONDS", "wait no longer; the status is then 124" },
			{ 0 },
		},
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static bool is_one(const char *state, char *const *states)
{
	for (; *states; states++)
		if (!strcmp(*states, state))
			return true;
	return false;
}

/* end: of now(), or 0 for none. */
static int wait_for(int fd, const char *vm, char *const *states, double end)
{
	struct pollfd pfd = { .fd = fd, .events = POLLPRI };
	char state[64];
	ssize_t n;
	double left;

	for (;;) {
		n = pread(fd, state, sizeof(state) - 1, 0);
		if (n < 0) {
			fprintf(stderr, "sbx: %s: %s\n", vm,
				errno == ENODEV ? "it was removed" : strerror(errno));
			return errno == ENODEV ? 1 : SBX_FAILED;
		}
		state[n] = '\0';
		state[strcspn(state, "\n")] = '\0';
		if (is_one(state, states)) {
			puts(state);
			return 0;
		}
		left = end > 0 ? end - now() : 0;
		if (end > 0 && left <= 0) {
			fprintf(stderr, "sbx: %s is %s\n", vm, state);
			return TIMED_OUT;
		}
		(void)poll(&pfd, 1, end > 0 ? (int)(left * 1000) + 1 : -1);
	}
}

int cmd_wait(int argc, char **argv)
{
	static const char *const known[] = {
		"created", "running", "paused", "stopped", "crashed", "suspended"
	};
	char path[PATH_MAX], file[PATH_MAX + 8];
	double seconds = 0;
	char *end;
	int opt, status, fd, i;
	size_t k;

	while ((opt = program_next(&wait_program, argc, argv, &status)) == 't') {
		seconds = strtod(optarg, &end);
		if (*end || !(seconds > 0 && seconds <= 1e6))
			return program_refuse(&wait_program, "\"%s\" is not a number of seconds", optarg);
	}
	if (opt == PROGRAM_EXIT)
		return status;
	if (argc - optind < 2)
		return program_refuse(&wait_program, "a sandbox and a state are needed");
	for (i = optind + 1; i < argc; i++) {
		for (k = 0; k < sizeof(known) / sizeof(known[0]) && strcmp(argv[i], known[k]) != 0; k++)
			;
		if (k == sizeof(known) / sizeof(known[0]))
			return program_refuse(&wait_program, "\"%s\" is not a state", argv[i]);
	}
	if (find_in_mount("", argv[optind], path))
		return SBX_FAILED;
	snprintf(file, sizeof(file), "%s/state", path);
	fd = open(file, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		fprintf(stderr, "sbx: %s: %s\n", argv[optind], strerror(errno));
		return SBX_FAILED;
	}
	status = wait_for(fd, argv[optind], argv + optind + 1, seconds > 0 ? now() + seconds : 0);
	close(fd);
	return status;
}
