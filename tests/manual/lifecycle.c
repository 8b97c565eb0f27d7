/* SPDX-License-Identifier: MIT */
/*
 * lifecycle.c - an engine without the filesystem: boot, capture, fork, and again
 *
 *   lifecycle ENGINE KERNEL INITRD DISK DIR [GENERATIONS]
 *
 * The guest must print lines "tick N" on its console, N counting up from boot. DISK is its qcow2 disk, DIR
 * takes the overlays. Each generation captures the machine it has twice, resuming it in between, forks the
 * second capture and goes on with the fork. A fork's first tick must follow the last one before its capture,
 * and the source must go on as well. Prints how long each step took, in milliseconds.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snap/template.h"
#include "tests/die.h"
#include "vm/engine.h"
#include "vm/process.h"

enum { LINE_BYTES = 256, WAIT_MS = 60000 };

struct machine_under_test {
	struct vm *vm;
	char disk[4096]; /* the overlay it writes to */
	char line[LINE_BYTES];
	size_t len;
	long tick; /* the last seen; -1: none */
};

static const struct engine *engine;
static struct engine_env env;
static struct jail_config jail;
static const char *dir;
static unsigned overlays;

/* Of the call that is waited for. */
static bool called, frozen;
static struct err result;
static struct template *captured;
static uint64_t frozen_ns;

static void on_done(void *arg, const struct err *err)
{
	(void)arg;
	called = true;
	result = *err;
}

static void on_frozen(void *arg)
{
	(void)arg;
	frozen = true;
	frozen_ns = now_mono_ns();
}

static void on_captured(void *arg, const struct err *err, struct template *template)
{
	captured = template;
	on_done(arg, err);
}

static void on_exited(void *owner, bool clean, const char *why)
{
	(void)owner;
	die("a machine exited (%s): %s", clean ? "clean" : "not clean", why);
}

static const struct vm_events events = { .exited = on_exited };

static uint64_t await(const char *what, uint64_t began)
{
	const uint64_t limit = now_mono_ns() + WAIT_MS * 1000000ull;

	while (!called && now_mono_ns() < limit)
		loop_once(env.loop, 1000);
	if (!called)
		die("%s: no answer", what);
	if (result.code)
		die("%s: %s", what, result.text);
	called = false;
	return now_mono_ns() - began;
}

static void report(const char *what, uint64_t ns)
{
	printf("%-22s %8.1f ms\n", what, (double)ns / 1e6);
	fflush(stdout);
}

static void make_overlay(const char *base, char path[4096])
{
	char command[9000];

	snprintf(path, 4096, "%s/overlay%u.qcow2", dir, overlays++);
	snprintf(command, sizeof(command), "qemu-img create -q -f qcow2 -F qcow2 -b '%s' '%s'", base, path);
	if (system(command) != 0)
		die("cannot make %s", path);
}

/* Read the console until its next tick. */
static void next_tick(struct machine_under_test *m)
{
	const uint64_t limit = now_mono_ns() + WAIT_MS * 1000000ull;
	struct pollfd pfd = { .fd = engine->ends(m->vm).console, .events = POLLIN };
	char c;

	while (now_mono_ns() < limit) {
		loop_once(env.loop, 0);
		if (poll(&pfd, 1, 10) <= 0)
			continue;
		while (read(pfd.fd, &c, 1) == 1) {
			if (c != '\n' && m->len < sizeof(m->line) - 1) {
				m->line[m->len++] = c;
				continue;
			}
			m->line[m->len] = 0;
			m->len = 0;
			if (getenv("VERBOSE"))
				puts(m->line);
			if (sscanf(m->line, "tick %ld", &m->tick) == 1)
				return;
		}
	}
	die("no tick on the console");
}

static void expect_next(struct machine_under_test *m, long after)
{
	next_tick(m);
	if (m->tick != after + 1)
		die("tick %ld follows %ld", m->tick, after);
	if (strstr(m->line, "BAD"))
		die("the guest says: %s", m->line);
}

static void drain_ticks(struct machine_under_test *m)
{
	struct pollfd pfd = { .fd = engine->ends(m->vm).console, .events = POLLIN };

	while (m->len || poll(&pfd, 1, 0) > 0)
		next_tick(m);
}

/* Pause, capture; the machine stays paused. *ret_disk is what forks of the template build on. */
static struct template *capture(struct machine_under_test *m, char ret_disk[4096])
{
	const struct vm_capture calls = { .frozen = on_frozen, .done = on_captured };
	char next[4096];
	uint64_t began = now_mono_ns();

	engine->pause(m->vm, on_done, NULL);
	report("pause", await("pause", began));
	drain_ticks(m);
	make_overlay(m->disk, next);
	began = now_mono_ns();
	frozen = false;
	engine->capture(m->vm, next, &calls);
	await("capture", began);
	if (!frozen)
		die("a capture succeeded without being frozen");
	report("capture, until frozen", frozen_ns - began);
	report("capture, in all", now_mono_ns() - began);
	report("pause_ns", captured->pause_ns);
	memcpy(ret_disk, m->disk, sizeof(m->disk));
	memcpy(m->disk, next, sizeof(m->disk));
	return captured;
}

static void resume(struct machine_under_test *m)
{
	const uint64_t began = now_mono_ns();
	const long tick = m->tick;

	engine->resume(m->vm, on_done, NULL);
	report("resume", await("resume", began));
	expect_next(m, tick);
}

static struct machine_under_test fork_of(struct template *template, const char *disk, long tick)
{
	struct machine_under_test m = { .tick = -1 };
	struct err err;
	uint64_t began, start;

	make_overlay(disk, m.disk);
	began = now_mono_ns();
	if (engine->prepare(&env, template, m.disk, NULL, NULL, on_done, NULL, &m.vm, &err))
		die("prepare: %s", err.text);
	report("prepare", await("prepare", began));
	start = now_mono_ns();
	engine->start(m.vm, &events, NULL, on_done, NULL);
	report("start", await("start", start));
	expect_next(&m, tick);
	report("fork to first tick", now_mono_ns() - start);
	return m;
}

static void usage(const struct machine_under_test *m)
{
	struct vm_usage u;
	struct vm_memory memory;
	int rc = engine->usage(m->vm, &u);

	if (!rc)
		rc = vm_memory_read(engine->memory(m->vm), &memory);
	if (rc)
		die("usage: %s", strerror(-rc));
	printf("memory: resident %.1f MiB, private %.1f MiB, shared %.1f MiB; cpu %.2f s\n",
	       (double)memory.resident / 1048576, (double)memory.private / 1048576,
	       (double)memory.shared / 1048576, (double)u.cpu_ns / 1e9);
}

int main(int argc, char **argv)
{
	const struct shape shape = { .memory = 512 << 20, .memory_max = 512 << 20, .cpus = 1, .cpus_max = 4 };
	struct machine_under_test m = { .tick = -1 }, child;
	struct template *template;
	char how[256], disk[4096];
	unsigned i, generations;
	struct err err;
	uint64_t began;

	if (argc < 6)
		die("usage: lifecycle ENGINE KERNEL INITRD DISK DIR [GENERATIONS]");
	env = (struct engine_env){
		.loop = loop_new(), .kernel = argv[2], .initrd = argv[3], .libexec = "build"
	};
	dir = argv[5];
	jail = (struct jail_config){ .uid_first = JAIL_UID_FIRST,
				     .uid_last = JAIL_UID_LAST,
				     .libexec = env.libexec,
				     .kernel = env.kernel,
				     .initrd = env.initrd,
				     .layers = dir };
	if (launcher_start(&jail, &err))
		die("%s", err.text);
	generations = argc > 6 ? (unsigned)atoi(argv[6]) : 3;
	engine = engine_select(&env, argv[1], how, sizeof(how), &err);
	if (!engine)
		die("%s", err.text);
	printf("engine %s: %s\n", engine->name, how);

	make_overlay(argv[4], m.disk);
	began = now_mono_ns();
	if (engine->boot(&env, &shape, m.disk, &events, NULL, on_done, NULL, &m.vm, &err))
		die("boot: %s", err.text);
	report("boot: VMM runs", await("boot", began));
	next_tick(&m);
	report("boot: first tick", now_mono_ns() - began);

	for (i = 1; i <= generations; i++) {
		printf("--- generation %u\n", i);
		next_tick(&m);
		template = capture(&m, disk);
		template_unref(template);
		resume(&m);
		template = capture(&m, disk);
		child = fork_of(template, disk, m.tick);
		usage(&child);
		resume(&m);
		usage(&m);
		template_unref(template);
		engine->destroy(m.vm);
		m = child;
	}
	engine->destroy(m.vm);
	engine->shutdown();
	if (process_count())
		die("%u processes are left", process_count());
	launcher_stop();
	loop_free(env.loop);
	puts("ok");
	return 0;
}
