/* SPDX-License-Identifier: MIT */
/*
 * main.c - sbx-agent, PID 1 of a sandbox
 *
 * It is /init of the initramfs: it mounts the root disk, moves into it and stays resident, so an image needs
 * nothing of ours. From then on it is the guest's end of the agent channel.
 *
 * Kernel parameters: sbx.root=DEVICE (default /dev/vda, ext4), sbx.cpus=N and sbx.memory=BYTES, how much of
 * the machine to bring online at most (default: leave it as the kernel did).
 */
#include "vm/agent/guest/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "util/program.h"

/* Why the machine cannot be used; told to the host in answer to ATTACH. */
static struct err boot_failure;

static int port = -1;
static char *first_word; /* of the command line, as others see it */

/* What a fork is to end; part of its memory, so that forks of forks find it ended. */
static bool report_until_fork;

static void say(const char *text)
{
	/* The console may be anything; it must not hold us up. */
	int fd = open("/dev/console", O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return;
	dprintf(fd, "sbx-agent: %s\n", text);
	close(fd);
}

/* Answer promptly however busy the guest is; children start as ordinary processes. */
static void become_prompt(void)
{
	const struct sched_param param = { .sched_priority = 1 };
	const struct rlimit files = { 128 << 10, 128 << 10 };

	sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &param);
	setrlimit(RLIMIT_NOFILE, &files);
}

/* Beside an init, which may end all processes before it ends the machine: systemd spares those whose first word
 * begins with @ (its documentation, ROOT_STORAGE_DAEMONS). */
static void become_agent(void)
{
	if (*first_word != '@')
		become_prompt();
	*first_word = '@';
}

static int attach(const struct guest_identity *identity, struct err *err)
{
	int rc;

	if (boot_failure.code) {
		*err = boot_failure;
		return err->code;
	}
	if (identity->kind == ATTACH_BOOT && init_begin(port, err))
		return err->code;
	if (getpid() != 1)
		become_agent();
	/* Neither of these two is a fork, or is the machine of one. */
	if (report_until_fork && identity->kind != ATTACH_BOOT && identity->kind != ATTACH_RESUME) {
		report_end();
		report_until_fork = false;
	}
	rc = identity_apply(identity, err);
	init_go();
	return rc;
}

/* Wait until no process is left, or for two seconds. */
static void wait_for_all(void)
{
	struct timespec now, end, left;
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += 2;
	for (;;) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD)
			return;
		clock_gettime(CLOCK_MONOTONIC, &now);
		left.tv_sec = end.tv_sec - now.tv_sec;
		left.tv_nsec = end.tv_nsec - now.tv_nsec;
		if (left.tv_nsec < 0) {
			left.tv_sec--;
			left.tv_nsec += 1000000000;
		}
		if (left.tv_sec < 0 || (sigtimedwait(&child, NULL, &left) < 0 && errno == EAGAIN))
			return;
	}
}

static void poweroff(void)
{
	if (init_poweroff())
		return;
	say("powering off");
	kill(-1, SIGTERM);
	kill(-1, SIGCONT);
	wait_for_all();
	kill(-1, SIGKILL);
	sync();
	/* Files that are still open in our memory make an unmount fail; read-only is as good. */
	mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	reboot(RB_POWER_OFF);
}

static const struct guest_machine machine = {
	.attach = attach,
	.resize = size_change,
	.size = size_get,
	.clock = clock_forward,
	.hooks_there = hooks_there,
	.hooks_run = hooks_run,
	.listen = guest_ask_listen,
	.poweroff = poweroff,
	.host_returns = true,
	.offer = modprobe_offer,
};

static const struct program program = {
	.name = "sbx-agent",
	.forms = "[OPTION]",
	.about = "Process 1 of every sandbox's guest. sbxfs boots it.\n",
};

/* On a host it can only say what it is. */
static int tell_what_it_is(int argc, char **argv)
{
	int status;

	if (program_next(&program, argc, argv, &status) == PROGRAM_EXIT)
		return status;
	return program_refuse(&program, "it runs as the init of a sandbox's kernel only");
}

int main(int argc, char **argv)
{
	struct boot_args args;
	struct err err = { 0 };
	char text[ERR_TEXT_MAX + 32];
	const char *slash;

	first_word = argv[0];
	slash = strrchr(argv[0], '/');
	if (getpid() != 1 && !strcmp(slash ? slash + 1 : argv[0], "modprobe"))
		return modprobe_main(argc, argv);
	if (getpid() != 1)
		return tell_what_it_is(argc, argv);
	umask(0);
	if (boot_machine(&args, &boot_failure)) {
		snprintf(text, sizeof(text), "cannot boot: %s", boot_failure.text);
		say(text);
	} else {
		guest_read_defaults();
		init_choose(args.init);
	}
	if (!boot_failure.code && (args.cpus || args.memory)) {
		if (size_apply(args.cpus, args.memory, &err))
			say(err.text);
	}
	report_until_fork = args.report_boot;
	become_prompt();
	port = boot_open_port(&err);
	if (port >= 0) {
		say("ready");
		guest_serve(port, &machine);
		err_set(&err, -EIO, "the agent's loop ended");
	}
	/* Nobody can be told but whoever reads the console. PID 1 must not return. */
	say(err.text);
	for (;;)
		pause();
}
