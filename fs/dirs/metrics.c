/* SPDX-License-Identifier: MIT */
/*
 * metrics.c - the file `metrics`: what a scraper wants, in OpenMetrics text (version 1.0)
 *
 * Everything is known already, or one system call away that asks no file. What the kernel takes long to say, the
 * memory of machines, is asked on a thread before the text is made (gauge.h).
 */
#include <inttypes.h>
#include <malloc.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <time.h>

#include "fs/dirs/dirs.h"
#include "fs/pool/pool.h"
#include "fs/sandbox/room.h"
#include "fs/sandbox/sandbox.h"
#include "util/program.h"

/* The lines before a family's values. unit: "" for none; then the name ends with it. */
static void family(struct buf *text, const char *name, const char *type, const char *unit, const char *help)
{
	buf_printf(text, "# TYPE sbxfs_%s %s\n", name, type);
	if (*unit)
		buf_printf(text, "# UNIT sbxfs_%s %s\n", name, unit);
	buf_printf(text, "# HELP sbxfs_%s %s\n", name, help);
}

static void gauge(struct buf *text, const char *name, const char *unit, uint64_t n, const char *help)
{
	family(text, name, "gauge", unit, help);
	buf_printf(text, "sbxfs_%s %" PRIu64 "\n", name, n);
}

static void seconds(struct buf *text, uint64_t ns)
{
	buf_printf(text, "%" PRIu64 ".%09" PRIu64 "\n", ns / 1000000000, ns % 1000000000);
}

static void histogram(struct buf *text, const char *name, const struct timing *timing, const char *help)
{
	uint64_t n = 0;
	unsigned i;

	family(text, name, "histogram", "seconds", help);
	for (i = 0; i < TIMING_BOUNDS; i++) {
		n += timing->bucket[i];
		buf_printf(text, "sbxfs_%s_bucket{le=\"%u.%03u\"} %" PRIu64 "\n", name,
			   timing_bounds_ms[i] / 1000, timing_bounds_ms[i] % 1000, n);
	}
	buf_printf(text, "sbxfs_%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, timing->n);
	buf_printf(text, "sbxfs_%s_count %" PRIu64 "\nsbxfs_%s_sum ", name, timing->n, name);
	seconds(text, timing->sum_ns);
}

static void sandboxes(struct buf *text, const struct fs *fs)
{
	struct sandbox_counts counts;
	int i;

	sandbox_counts(fs, &counts);
	family(text, "sandboxes", "gauge", "", "Sandboxes, by state.");
	for (i = 0; i < SANDBOX_STATES; i++)
		buf_printf(text, "sbxfs_sandboxes{state=\"%s\"} %" PRIu64 "\n",
			   sandbox_state_name((enum sandbox_state)i), counts.states[i]);
	gauge(text, "machines_memory_bytes", "bytes", counts.memory, "Memory that the machines were given.");
	gauge(text, "machines_resident_bytes", "bytes", fs->memory.seen.resident,
	      "Memory of this host that the machines take.");
	gauge(text, "machines_private_bytes", "bytes", fs->memory.seen.private,
	      "The part of it that each has for itself.");
}

static void counts(struct buf *text, const struct fs *fs)
{
	gauge(text, "snapshots", "", fs->snapshot_names.n, "Named snapshots.");
	family(text, "forks", "counter", "", "Forks that were made.");
	buf_printf(text, "sbxfs_forks_total %" PRIu64 "\n", fs->forks_made);
	gauge(text, "forks_under_way", "", fs->forking, "Forks, rollbacks and warm starts under way.");
	family(text, "starts", "counter", "", "Starts, from boot snapshots (warm) or by a boot.");
	buf_printf(text, "sbxfs_starts_total{boot=\"warm\"} %" PRIu64 "\n", fs->starts_warm);
	buf_printf(text, "sbxfs_starts_total{boot=\"cold\"} %" PRIu64 "\n", fs->starts_cold);
	histogram(text, "fork_duration_seconds", &fs->fork_times, "From a fork's request to its answer.");
	histogram(text, "start_duration_seconds", &fs->start_times,
		  "From a start to a machine that takes commands.");
	histogram(text, "capture_duration_seconds", &fs->capture_times,
		  "From a capture's beginning until all of it is there.");
	histogram(text, "save_duration_seconds", &fs->save_times, "Until a snapshot was stored.");
	gauge(text, "pool_machines", "", pool_count(fs), "Machines that are kept ready.");
	gauge(text, "pool_memory_bytes", "bytes", pool_memory(fs), "Memory of their own.");
}

static void store(struct buf *text, const struct fs *fs)
{
	struct statvfs st;

	if (statvfs(store_dir(fs->store), &st) < 0)
		return;
	gauge(text, "store_size_bytes", "bytes", (uint64_t)st.f_blocks * st.f_frsize,
	      "Size of the filesystem that the store is on.");
	gauge(text, "store_free_bytes", "bytes", (uint64_t)st.f_bavail * st.f_frsize, "What is free of it.");
}

static void daemon_itself(struct buf *text)
{
	const struct mallinfo2 heap = mallinfo2();
	struct rusage usage = { 0 };
	struct timespec ts = { 0 };

	gauge(text, "daemon_heap_bytes", "bytes", heap.uordblks + heap.hblkhd,
	      "Memory that the daemon has allocated.");
	(void)getrusage(RUSAGE_SELF, &usage);
	gauge(text, "daemon_resident_max_bytes", "bytes", (uint64_t)usage.ru_maxrss * 1024,
	      "The most memory that the daemon had resident.");
	(void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	family(text, "daemon_cpu_seconds", "counter", "seconds", "CPU time of the daemon.");
	buf_printf(text, "sbxfs_daemon_cpu_seconds_total ");
	seconds(text, (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec);
}

/* As a look at all machines has just said, or not long ago: the text is shown after one. */
static void of_each(struct buf *text, const struct fs *fs, const char *what, size_t field, const char *help)
{
	const struct vm_memory *memory;
	const struct sandbox *sb;
	char name[64];

	snprintf(name, sizeof(name), "sandbox_memory_%s_bytes", what);
	family(text, name, "gauge", "bytes", help);
	list_for_each (sb, &fs->sandboxes, link) {
		memory = sb->born ? gauge_of(sb) : NULL;
		if (memory)
			buf_printf(text, "sbxfs_%s{sandbox=\"%s\"} %" PRIu64 "\n", name, sb->obj.name,
				   *(const uint64_t *)((const char *)memory + field));
	}
}

/* Names have no letter that would have to be escaped. */
static void each_sandbox(struct buf *text, const struct fs *fs)
{
	const struct sandbox *sb;
	struct vm_usage usage;

	family(text, "sandbox_cpu_seconds", "counter", "seconds", "CPU time of a sandbox's machine.");
	list_for_each (sb, &fs->sandboxes, link) {
		if (!sb->born || !sb->vm || fs->engine->usage(sb->vm, &usage))
			continue;
		buf_printf(text, "sbxfs_sandbox_cpu_seconds_total{sandbox=\"%s\"} ", sb->obj.name);
		seconds(text, usage.cpu_ns);
	}
	family(text, "sandbox_memory_bytes", "gauge", "bytes", "Memory that a sandbox's machine was given.");
	list_for_each (sb, &fs->sandboxes, link)
		if (sb->born && sb->vm)
			buf_printf(text, "sbxfs_sandbox_memory_bytes{sandbox=\"%s\"} %" PRIu64 "\n",
				   sb->obj.name, sb->shape.memory);
	of_each(text, fs, "resident", offsetof(struct vm_memory, resident),
		"Memory of this host's that a sandbox's machine has in use, shared or not.");
	of_each(text, fs, "private", offsetof(struct vm_memory, private),
		"What of that no other process has, too.");
	family(text, "sandbox_disk_bytes", "gauge", "bytes", "Bytes of the store for what a sandbox wrote.");
	list_for_each (sb, &fs->sandboxes, link)
		if (sb->born)
			buf_printf(text, "sbxfs_sandbox_disk_bytes{sandbox=\"%s\"} %" PRIu64 "\n",
				   sb->obj.name, room_used(sb));
}

int metrics_show(struct object *obj, struct buf *text, struct err *err)
{
	const struct fs *fs = obj->fs;

	(void)err;
	family(text, "build", "info", "", "The daemon, and its engine.");
	buf_printf(text, "sbxfs_build_info{version=\"%s\",engine=\"%s\"} 1\n", SBX_VERSION, fs->engine->name);
	sandboxes(text, fs);
	counts(text, fs);
	store(text, fs);
	daemon_itself(text);
	if (fs->options.metrics_sandboxes)
		each_sandbox(text, fs);
	buf_printf(text, "# EOF\n");
	return 0;
}
