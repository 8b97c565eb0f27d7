/* SPDX-License-Identifier: MIT */
/* gauge.c - how much of the host's memory machines take */
#include "fs/sandbox/gauge.h"

#include "fs/sandbox/sandbox.h"
#include "vm/usage.h"

#define KEPT_NS UINT64_C(1000000000)
enum {
	SHARE = 20,   /* one part in so many of the time is spent on it */
	AT_ONCE = 64, /* machines, each of which takes a descriptor meanwhile */
};

static bool look_on(struct gauge *gauge);

static void end_look(struct gauge *gauge)
{
	struct object *holder = gauge->holder;
	const uint64_t now = now_mono_ns(), took = now - gauge->began_ns;

	gauge->until_ns = now + (SHARE * took > KEPT_NS ? SHARE * took : KEPT_NS);
	gauge->began_ns = 0;
	files_refreshed(&gauge->waiting);
	object_unref(holder);
}

const struct vm_memory *gauge_of(const struct sandbox *sb)
{
	const struct gauge *gauge = &sb->memory;

	return sb->vm && gauge->each.resident && gauge->each_epoch == sb->epoch ? &gauge->each : NULL;
}

/* Those that were asked about and are there still. */
static void tell_each(struct fs *fs, const struct vm_memory *of, size_t n)
{
	struct sandbox *sb;

	list_for_each (sb, &fs->sandboxes, link) {
		struct gauge *gauge = &sb->memory;

		if (gauge->place && gauge->place <= n) {
			gauge->each = of[gauge->place - 1];
			gauge->each_epoch = gauge->place_epoch;
		}
		gauge->place = 0;
	}
}

static void seen(void *arg, const struct vm_memory *of, size_t n)
{
	struct gauge *gauge = arg;
	size_t i;

	for (i = 0; i < n; i++) {
		gauge->sum.resident += of[i].resident;
		gauge->sum.private += of[i].private;
		gauge->sum.shared += of[i].shared;
	}
	if (!gauge->of)
		tell_each(gauge->holder->fs, of, n);
	if (gauge->asked % AT_ONCE == 0 && look_on(gauge))
		return;
	gauge->seen = gauge->sum;
	end_look(gauge);
}

/* Asks the next of them; false: there are no more, or it cannot be asked. */
static bool look_on(struct gauge *gauge)
{
	struct fs *fs = gauge->holder->fs;
	struct sandbox *sb;
	int fds[AT_ONCE];
	size_t i = 0, n = 0;

	list_for_each (sb, &fs->sandboxes, link) {
		if (!sb->vm || (gauge->of ? sb != gauge->of : !sb->born) || i++ < gauge->asked)
			continue;
		fds[n] = fs->engine->memory(sb->vm);
		if (fds[n] < 0)
			continue;
		n++;
		if (!gauge->of) {
			sb->memory.place = n;
			sb->memory.place_epoch = sb->epoch;
		}
		if (n == AT_ONCE)
			break;
	}
	gauge->asked += n;
	if (n && memory_look(fs->loop, fds, n, seen, gauge))
		return true;
	if (!gauge->of)
		tell_each(fs, NULL, 0);
	return false;
}

struct list *gauge_refresh(struct gauge *gauge)
{
	if (gauge->began_ns)
		return &gauge->waiting;
	if (gauge->of && gauge->epoch != gauge->of->epoch)
		gauge->until_ns = 0; /* that was another machine */
	if (now_mono_ns() < gauge->until_ns)
		return NULL;
	gauge->began_ns = now_mono_ns();
	gauge->epoch = gauge->of ? gauge->of->epoch : 0;
	gauge->asked = 0;
	gauge->sum = (struct vm_memory){ 0 };
	object_ref(gauge->holder);
	if (look_on(gauge))
		return &gauge->waiting;
	if (!gauge->asked)
		gauge->seen = gauge->sum; /* there is no machine */
	end_look(gauge);
	return NULL;
}
