/* SPDX-License-Identifier: MIT */
/*
 * main.c - sbx-vmm, the process around one machine
 *
 * With --control it serves sbxfs: the machine is made at once, and everything else comes over the control
 * socket (control.h). Without, it boots a kernel on the terminal, for debugging and for readers; it then ends
 * with the machine.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/log.h"
#include "util/size.h"
#include "vm/vmm/control.h"
#include "vm/vmm/seccomp.h"
#include "vm/vmm/terminal.h"
#include "vm/vmm/vmm.h"

#define CMDLINE_DEFAULT "console=ttyS0 panic=-1"
#define MEMORY_DEFAULT (512ull << 20)

static const char usage[] =
	"usage: sbx-vmm --kernel BZIMAGE [--initrd FILE] [--disk QCOW2] [--cmdline TEXT]\n"
	"               [--memory SIZE] [--cpus N]\n"
	"\n"
	"Boots a machine on this terminal (Ctrl-A x ends it).\n"
	"\n"
	"       sbx-vmm --control FD --stats FD [--agent FD] [--console FD] --memory SIZE --cpus N\n"
	"\n"
	"Serves sbxfs.\n";

struct arguments {
	struct vmm_boot boot;
	uint64_t memory;
	unsigned cpus;
	int control, agent, console, stats;
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

static bool parse_options(int argc, char **argv, struct arguments *o)
{
	static const struct option longs[] = {
		{ "kernel", required_argument, NULL, 'k' },  { "initrd", required_argument, NULL, 'i' },
		{ "disk", required_argument, NULL, 'd' },    { "cmdline", required_argument, NULL, 'c' },
		{ "memory", required_argument, NULL, 'm' },  { "cpus", required_argument, NULL, 'n' },
		{ "control", required_argument, NULL, 'C' }, { "agent", required_argument, NULL, 'A' },
		{ "console", required_argument, NULL, 'O' }, { "stats", required_argument, NULL, 'S' },
		{ "help", no_argument, NULL, 'h' },          { NULL, 0, NULL, 0 },
	};
	bool ok = true;
	int c;

	*o = (struct arguments){ .boot.cmdline = CMDLINE_DEFAULT,
				 .memory = MEMORY_DEFAULT,
				 .cpus = 1,
				 .control = -1,
				 .agent = -1,
				 .console = -1,
				 .stats = -1 };
	while (ok && (c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (c) {
		case 'k':
			o->boot.kernel = optarg;
			break;
		case 'i':
			o->boot.initrd = optarg;
			break;
		case 'd':
			o->boot.disk = optarg;
			break;
		case 'c':
			o->boot.cmdline = optarg;
			break;
		case 'm':
			ok = size_parse(optarg, &o->memory) == 0;
			break;
		case 'n':
			ok = parse_number(optarg, VMM_CPUS_MAX, &o->cpus);
			break;
		case 'C':
			ok = parse_fd(optarg, &o->control);
			break;
		case 'A':
			ok = parse_fd(optarg, &o->agent);
			break;
		case 'O':
			ok = parse_fd(optarg, &o->console);
			break;
		case 'S':
			ok = parse_fd(optarg, &o->stats);
			break;
		default:
			ok = false;
		}
	}
	return ok && optind == argc && (o->control >= 0 ? o->stats >= 0 : o->boot.kernel != NULL);
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

static int boot_here(struct loop *loop, const struct arguments *o, struct err *err)
{
	struct vmm_stats stats = { 0 };
	struct standalone s = { .loop = loop };
	struct vmm_config config = { .memory = o->memory,
				     .cpus = o->cpus,
				     .agent_fd = -1,
				     .stats = &stats,
				     .ended = on_ended,
				     .arg = &s };
	struct terminal *terminal = NULL;
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
	rc = vmm_boot(vmm, &o->boot, err);
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

static int serve(struct loop *loop, const struct arguments *o, struct err *err)
{
	const struct control_fds fds = { .control = o->control, .agent = o->agent, .console = o->console };
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
	struct arguments options;
	struct err err = { 0 };
	struct loop *loop;
	int rc;

	if (!parse_options(argc, argv, &options)) {
		fputs(usage, stderr);
		return 2;
	}
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
