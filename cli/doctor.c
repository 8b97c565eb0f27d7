/* SPDX-License-Identifier: MIT */
/*
 * doctor.c - sbx doctor: what this host can do, and why
 *
 * One line a finding, "ok" or "no" and the reason; then which engine `--engine auto` takes, which is also the
 * exit status: 0 if there is one.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/host.h"
#include "cli/sbx.h"
#include "util/loop.h"
#include "vm/engine.h"
#include "vm/jail/jail.h"
#include "vm/probe.h"

static void finding(bool ok, const char *what, const char *why)
{
	printf("%s  %-11s %s\n", ok ? "ok" : "no", what, why);
}

static void check_device(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	finding(fd >= 0, path, fd >= 0 ? "opens" : strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* The first line a command prints; the command is ours, no input is in it. */
static void check_program(const char *what, const char *command, const char *missing)
{
	char line[256] = "";
	FILE *p = popen(command, "re");

	if (p) {
		if (fgets(line, sizeof(line), p))
			line[strcspn(line, "\n")] = '\0';
		pclose(p);
	}
	finding(line[0], what, line[0] ? line : missing);
}

static void check_cpu(void)
{
	const struct kvm_probe *probe = kvm_probe();
	char text[128];

	if (probe->vmx || probe->svm)
		snprintf(text, sizeof(text), "%s", probe->svm ? "SVM" : "VMX");
	else
		snprintf(text, sizeof(text), "neither VMX nor SVM");
	finding(probe->vmx || probe->svm, "cpu", text);
	if (probe->mips > 0) {
		snprintf(text, sizeof(text), "%.1f million guest instructions a second%s", probe->mips,
			 probe->err.code ? ": ring 0 is emulated" : "");
		finding(!probe->err.code, "kvm speed", text);
	}
}

static void check_file(const char *what, const char *path)
{
	char text[PATH_MAX + 128];
	bool ok = !access(path, R_OK);

	snprintf(text, sizeof(text), ok ? "%s" : "%s is missing: make guest", path);
	finding(ok, what, text);
}

/* Others than root may mount for all users only where fuse.conf allows it. */
static void check_fuse_conf(void)
{
	char line[256];
	bool allowed = false;
	FILE *f;

	if (!getuid())
		return;
	f = fopen("/etc/fuse.conf", "re");
	while (f && fgets(line, sizeof(line), f))
		allowed |= !strncmp(line, "user_allow_other", 16);
	if (f)
		fclose(f);
	finding(allowed, "fuse.conf",
		allowed ? "user_allow_other" : "user_allow_other is not set: only you can use your mount");
}

/* The launcher tries each jail that a daemon of this user would make. */
static void check_jail(const struct engine_env *env)
{
	const struct jail_config config = {
		.uid_first = JAIL_UID_FIRST,
		.uid_last = JAIL_UID_LAST,
		.libexec = env->libexec,
		.kernel = env->kernel,
		.initrd = env->initrd,
	};
	struct err err;
	const bool ok = !launcher_start(&config, &err);

	finding(ok, "jail", ok ? launcher_how() : err.text);
	if (ok)
		finding(launcher_may_limit(LIMIT_MEMORY), "limits", launcher_limits());
	launcher_stop();
}

static int check_engines(const struct engine_env *env)
{
	const struct engine *const *e, *chosen;
	struct err err = { 0 };
	char how[512];

	for (e = engines; *e; e++) {
		bool ok = !(*e)->probe(env, how, sizeof(how), &err);

		finding(ok, (*e)->name, ok ? how : err.text);
	}
	chosen = engine_select(env, "auto", how, sizeof(how), &err);
	if (!chosen) {
		printf("engine none\n");
		return 1;
	}
	printf("engine %s\n", chosen->name);
	return 0;
}

/*
 * What `make` and `make install` put elsewhere than beside this program: the first of two places that has
 * `file`, or else the second.
 */
static void find_beside(char *ret, size_t size, const char *first, const char *second, const char *file)
{
	char self[PATH_MAX], path[PATH_MAX + 64];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	self[n > 0 ? n : 0] = '\0';
	slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	snprintf(path, sizeof(path), "%s/%s/%s", self, first, file);
	snprintf(ret, size, "%s/%s", self, access(path, F_OK) ? second : first);
}

const struct program doctor_program = {
	.name = "sbx doctor",
	.forms = "[--guest DIR]",
	.about = "Say what this host can do, and why.\n"
		 "One line for each finding, then the engine that `sbxfs --engine auto` takes. The status is "
		 "0 if\n"
		 "there is one.\n",
	.options =
		(const struct program_option[]){
			{ PROGRAM_LONG, "guest", "DIR", "where the guest's vmlinuz and initramfs are" },
			{ 0 },
		},
};

int cmd_doctor(int argc, char **argv)
{
	char guest[PATH_MAX + 32] = "", kernel[sizeof(guest) + 16], initrd[sizeof(guest) + 16];
	char libexec[PATH_MAX + 32];
	struct engine_env env = { .kernel = kernel, .initrd = initrd, .libexec = libexec };
	int opt, status;

	while ((opt = program_next(&doctor_program, argc, argv, &status)) != PROGRAM_OPERANDS) {
		if (opt == PROGRAM_EXIT)
			return status;
		snprintf(guest, sizeof(guest), "%s", optarg);
	}
	if (optind < argc)
		return program_refuse(&doctor_program, "there is no operand \"%s\"", argv[optind]);
	if (!guest[0])
		find_beside(guest, sizeof(guest), "guest", "../lib/sbxfs", "vmlinuz");
	find_beside(libexec, sizeof(libexec), ".", "../libexec/sbxfs", "sbx-vmm");
	snprintf(kernel, sizeof(kernel), "%s/vmlinuz", guest);
	snprintf(initrd, sizeof(initrd), "%s/initramfs", guest);
	env.loop = loop_new();
	if (!env.loop) {
		fprintf(stderr, "sbx: %s\n", strerror(errno));
		return 1;
	}
	check_cpu();
	check_device("/dev/kvm");
	check_device("/dev/fuse");
	check_fuse_conf();
	check_program("fusermount", "fusermount3 -V 2>/dev/null", "fusermount3 is not installed");
	check_program("qemu", "qemu-system-x86_64 --version 2>/dev/null",
		      "qemu-system-x86_64 is not installed");
	check_program("qemu-img", "qemu-img --version 2>/dev/null", "qemu-img is not installed");
	check_file("guest", kernel);
	check_file("guest", initrd);
	check_jail(&env);
	host_check("", finding);
	status = check_engines(&env);
	loop_free(env.loop);
	return status;
}
