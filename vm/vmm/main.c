/* SPDX-License-Identifier: MIT */
/*
 * main.c - sbx-vmm, the process around one machine
 *
 * With --control it serves sbxfs: the machine is made at once, and everything else comes over the control
 * socket (control.h). Without, it boots a kernel on the terminal, for debugging and for readers; it then ends
 * with the machine.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "util/log.h"
#include "util/program.h"
#include "util/size.h"
#include "vm/vmm/control.h"
#include "vm/vmm/seccomp.h"
#include "vm/vmm/terminal.h"
#include "vm/vmm/vmm.h"

#define CMDLINE_DEFAULT "console=ttyS0 panic=-1"
#define MEMORY_DEFAULT (512ull << 20)

enum {
	OPT_KERNEL = PROGRAM_LONG,
	OPT_INITRD,
	OPT_DISK,
	OPT_CMDLINE,
	OPT_MEMORY,
	OPT_CPUS,
	OPT_CONTROL,
	OPT_STATS,
	OPT_AGENT,
	OPT_CONSOLE,
	OPT_NET
};

static const struct program_option option_table[] = {
	{ OPT_KERNEL, "kernel", "BZIMAGE", "the kernel" },
	{ OPT_INITRD, "initrd", "FILE", "its initramfs" },
	{ OPT_DISK, "disk", "QCOW2", "its disk, with all layers below it" },
	{ OPT_CMDLINE, "cmdline", "TEXT", "the kernel's command line (default: " CMDLINE_DEFAULT ")" },
	{ OPT_MEMORY, "memory", "SIZE", "its memory (default: 512M)" },
	{ OPT_CPUS, "cpus", "N", "how many CPUs it has (default: 1)" },
	{ OPT_CONTROL, "control", "FD", "serve sbxfs on this control socket" },
	{ OPT_STATS, "stats", "FD", "with --control: memory to count in" },
	{ OPT_AGENT, "agent", "FD", "with --control: the agent channel" },
	{ OPT_CONSOLE, "console", "FD", "with --control: the serial console" },
	{ OPT_NET, "net", "FD", "with --control: the network" },
	{ 0 },
};

static const struct program program = {
	.name = "sbx-vmm",
	.forms = "--kernel BZIMAGE [--initrd FILE] [--disk QCOW2] [OPTION...]\n"
		 "--control FD --stats FD [--agent FD] [--console FD] [--net FD] --memory SIZE --cpus N",
	.about = "Runs one virtual machine on KVM. The first form boots a kernel on this terminal; Ctrl-A x\n"
		 "ends it. The second is how sbxfs starts it.\n",
	.options = option_table,
};

struct vmm_arguments {
	const char *kernel, *initrd, *disk, *cmdline;
	uint64_t memory;
	unsigned cpus;
	int control, agent, console, net, stats;
};

struct standalone {
	struct loop *loop;
	bool clean;
	char why[ERR_TEXT_MAX];
};

static bool parse_number(const char *text, uint64_t max, unsigned *ret)
{
	uint64_t v;

	if (number_parse(text, &v) || v > max)
		return false;
	*ret = (unsigned)v;
	return true;
}

static bool parse_fd(const char *text, int *ret)
{
	unsigned v;

	if (!parse_number(text, INT_MAX, &v))
		return false;
	*ret = (int)v;
	return true;
}

/* Is the value one that the option takes? */
static bool set_option(struct vmm_arguments *o, int option, const char *value)
{
	switch (option) {
	case OPT_KERNEL:
		o->kernel = value;
		return true;
	case OPT_INITRD:
		o->initrd = value;
		return true;
	case OPT_DISK:
		o->disk = value;
		return true;
	case OPT_CMDLINE:
		o->cmdline = value;
		return true;
	case OPT_MEMORY:
		return size_parse(value, &o->memory) == 0;
	case OPT_CPUS:
		return parse_number(value, VMM_CPUS_MAX, &o->cpus);
	case OPT_CONTROL:
		return parse_fd(value, &o->control);
	case OPT_STATS:
		return parse_fd(value, &o->stats);
	case OPT_AGENT:
		return parse_fd(value, &o->agent);
	case OPT_CONSOLE:
		return parse_fd(value, &o->console);
	default:
		return parse_fd(value, &o->net);
	}
}

/* 0: go on; PROGRAM_EXIT: end with *status. */
static int parse_options(int argc, char **argv, struct vmm_arguments *o, int *status)
{
	int option;

	*o = (struct vmm_arguments){ .cmdline = CMDLINE_DEFAULT,
				     .memory = MEMORY_DEFAULT,
				     .cpus = 1,
				     .control = -1,
				     .agent = -1,
				     .console = -1,
				     .net = -1,
				     .stats = -1 };
	while ((option = program_next(&program, argc, argv, status)) != PROGRAM_OPERANDS) {
		if (option == PROGRAM_EXIT)
			return PROGRAM_EXIT;
		if (set_option(o, option, optarg))
			continue;
		*status = program_refuse(&program, "\"%s\" is not a value for --%s", optarg,
					 option_table[option - OPT_KERNEL].name);
		return PROGRAM_EXIT;
	}
	if (optind < argc)
		*status = program_refuse(&program, "there is no operand \"%s\"", argv[optind]);
	else if (o->control < 0 && !o->kernel)
		*status = program_refuse(&program, "a kernel is needed (--kernel)");
	else if (o->control >= 0 && o->stats < 0)
		*status = program_refuse(&program, "--control needs --stats");
	else
		return 0;
	return PROGRAM_EXIT;
}

static void on_quit(void *arg)
{
	struct standalone *s = arg;

	snprintf(s->why, sizeof(s->why), "ended at the terminal");
	s->clean = true;
	loop_stop(s->loop);
}

static void on_ended(void *arg, bool clean, const char *why)
{
	struct standalone *s = arg;

	s->clean = clean;
	snprintf(s->why, sizeof(s->why), "%s", why);
	loop_stop(s->loop);
}

/* What the caller still has afterwards, also of failure, is for close_files. */
static int open_files(const struct vmm_arguments *o, struct vmm_boot *boot, struct err *err)
{
	boot->kernel_fd = open(o->kernel, O_RDONLY | O_CLOEXEC);
	if (boot->kernel_fd < 0)
		return err_sys(err, -errno, "cannot open %s", o->kernel);
	boot->initrd_fd = o->initrd ? open(o->initrd, O_RDONLY | O_CLOEXEC) : -1;
	if (o->initrd && boot->initrd_fd < 0)
		return err_sys(err, -errno, "cannot open %s", o->initrd);
	return o->disk ? chain_open_path(o->disk, true, &boot->disk, err) : 0;
}

static void close_files(const struct vmm_boot *boot, const struct vmm *vmm)
{
	if (boot->kernel_fd >= 0)
		close(boot->kernel_fd);
	if (boot->initrd_fd >= 0)
		close(boot->initrd_fd);
	if (!vmm->disk)
		chain_free(boot->disk);
}

static int boot_here(struct loop *loop, const struct vmm_arguments *o, struct err *err)
{
	struct vmm_stats stats = { 0 };
	struct standalone s = { .loop = loop };
	struct vmm_config config = { .memory = o->memory,
				     .cpus = o->cpus,
				     .agent_fd = -1,
				     .net_fd = -1,
				     .stats = &stats,
				     .ended = on_ended,
				     .arg = &s };
	struct terminal *terminal = NULL;
	struct vmm_boot boot = { .kernel_fd = -1, .initrd_fd = -1, .cmdline = o->cmdline };
	struct vmm *vmm = NULL;
	int rc = terminal_open(loop, on_quit, &s, &terminal, &config.console_fd, err);

	if (rc)
		return rc;
	rc = vmm_create(loop, &config, &vmm, err);
	if (rc) {
		close(config.console_fd);
		goto out;
	}
	pthread_mutex_lock(&vmm->lock);
	rc = open_files(o, &boot, err);
	if (!rc)
		rc = vmm_boot(vmm, &boot, err);
	close_files(&boot, vmm);
	if (!rc)
		rc = seccomp_enter(err);
	if (!rc)
		rc = vmm_run(vmm, err);
	pthread_mutex_unlock(&vmm->lock);
	if (!rc)
		rc = loop_run(loop);
	if (!rc && !s.clean)
		rc = err_set(err, -EIO, "%s", s.why);
	vmm_free(vmm);
out:
	terminal_close(terminal);
	if (!rc)
		fprintf(stderr, "sbx-vmm: %s\n", s.why);
	return rc;
}

static int serve(struct loop *loop, const struct vmm_arguments *o, struct err *err)
{
	const struct control_fds fds = {
		.control = o->control, .agent = o->agent, .console = o->console, .net = o->net
	};
	struct vmm_stats *stats = mmap(NULL, sizeof(*stats), PROT_READ | PROT_WRITE, MAP_SHARED, o->stats, 0);
	int rc;

	if (stats == MAP_FAILED)
		return err_sys(err, -errno, "cannot map the counters");
	close(o->stats);
	rc = control_serve(loop, &fds, o->memory, o->cpus, stats, err);
	munmap(stats, sizeof(*stats));
	return rc;
}

int main(int argc, char **argv)
{
	struct vmm_arguments options;
	struct err err = { 0 };
	struct loop *loop;
	int rc;

	if (parse_options(argc, argv, &options, &rc))
		return rc;
	/* One heap for all threads, which would have 20 KiB each for nothing: they allocate little, and seldom. */
	mallopt(M_ARENA_MAX, 1);
	/* What is large is a cluster of the disk under way, which goes back at once, or mostly never touched. */
	mallopt(M_MMAP_THRESHOLD, 32 << 10);
	loop = loop_new();
	if (!loop) {
		log_error("sbx-vmm: %m");
		return 1;
	}
	rc = options.control >= 0 ? serve(loop, &options, &err) : boot_here(loop, &options, &err);
	if (rc)
		log_error("sbx-vmm: %s", err.text);
	loop_free(loop);
	return rc ? 1 : 0;
}
