/* SPDX-License-Identifier: MIT */
/*
 * test_capture.c - a machine writes to one layer that nobody else uses, however its capture ends
 *
 * The engine's captures end when the test says so, and as it says.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fs/sandbox/admission.h"
#include "fs/sandbox/capture.h"
#include "fs/sandbox/machine.h"
#include "snap/layer.h"
#include "tests/unit/socket_engine.h"
#include "tests/unit/store_fixture.h"
#include "tests/unit/unit.h"
#include "vm/net/helper.h"

static struct fs fs;

static struct vm_capture calls; /* of the capture under way */
static char next_disk[PATH_MAX];
static unsigned nended, nfrozen_layers;
static struct err ended;
static struct template *captured;

static void engine_capture(struct vm *vm, const char *disk, const struct vm_capture *capture)
{
	(void)vm;
	snprintf(next_disk, sizeof(next_disk), "%s", disk);
	calls = *capture;
}

static void on_layer_frozen(struct fs *of)
{
	(void)of;
	nfrozen_layers++;
}

static void nobody(void *arg, const struct err *err)
{
	(void)arg;
	(void)err;
}

static void on_ended(void *arg, const struct err *err, struct template *template)
{
	(void)arg;
	nended++;
	ended = *err;
	captured = template;
}

/* A sandbox whose machine is paused. */
static struct sandbox *paused_sandbox(void)
{
	const struct owner owner = { 1, 1, 0700 };
	const struct err why = { .code = -EIO };
	struct sandbox *sb = NULL;
	struct err err = { 0 };

	CHECK(!sandbox_new(&fs, "a", &owner, &sb, &err) && !task_begin(sb, "start", nobody, NULL, &err));
	CHECK(!machine_boot(sb, NULL, NULL, &err));
	task_end(sb, &why);
	sandbox_set_state(sb, SANDBOX_PAUSED);
	return sb;
}

static void begin(struct sandbox *sb)
{
	struct err err = { 0 };

	nended = 0;
	CHECK(!capture(sb, "snapshot", 0, on_ended, NULL, &err) && !nended);
	/* Until the machine has left it, its layer is nobody else's, and nothing may be built on it. */
	CHECK(!layer_frozen(sb->disk) && !access(next_disk, F_OK));
}

static void a_capture_that_fails_leaves_the_layer_as_it_was(void)
{
	const struct err why = { .code = -EIO, .text = "no" };
	struct sandbox *sb = paused_sandbox();
	struct layer *disk = sb->disk, *other;
	struct err err = { 0 };

	begin(sb);
	calls.done(calls.arg, &why, NULL);
	CHECK(nended == 1 && ended.code == -EIO && sb->disk == disk && !layer_frozen(disk));
	CHECK(layer_overlay(fs.store, disk, &other, &err) == -EBUSY);
	sandbox_remove(sb);
}

static void one_that_fails_later_leaves_it_frozen(void)
{
	const struct err why = { .code = -EIO, .text = "no" };
	struct sandbox *sb = paused_sandbox();
	struct layer *disk = sb->disk;

	begin(sb);
	calls.frozen(calls.arg);
	CHECK(sb->disk != disk && !strcmp(layer_path(sb->disk), next_disk));
	calls.done(calls.arg, &why, NULL);
	CHECK(nended == 1 && ended.code == -EIO);
	CHECK(layer_base(sb->disk) == disk && layer_frozen(disk) && !layer_frozen(sb->disk));
	sandbox_remove(sb);
}

static void one_that_succeeds_has_the_frozen_layer(void)
{
	const struct err none = { 0 };
	struct sandbox *sb = paused_sandbox();
	struct layer *disk = sb->disk;
	struct template *template;

	begin(sb);
	calls.frozen(calls.arg);
	template = template_new();
	CHECK(template);
	calls.done(calls.arg, &none, template);
	CHECK(nended == 1 && !ended.code && captured && captured->disk == disk && layer_frozen(disk));
	CHECK(layer_base(sb->disk) == disk && !layer_frozen(sb->disk) && nfrozen_layers);
	template_unref(captured);
	sandbox_remove(sb);
}

int main(void)
{
	struct err err;
	unsigned files;

	engine.capture = engine_capture;
	list_init(&fs.sandboxes);
	fs.loop = loop_new();
	fs.store = fresh_store();
	fs.net_helpers = net_helpers_new(fs.loop);
	fs.engine = &engine;
	fs.layer_frozen = on_layer_frozen;
	fs.options.shape =
		(struct shape){ .memory = 1 << 20, .memory_max = 4 << 20, .cpus = 1, .cpus_max = 1 };
	fs.options.limits = limits_none;
	fs.options.max_sandboxes = fs.options.max_per_user = UINT32_MAX;
	fs.options.max_memory = fs.options.max_memory_per_user = UINT64_MAX;
	fs.options.max_files_per_user = UINT32_MAX;
	files = count_files("layers");
	CHECK(fs.loop && fs.net_helpers && !admission_open(&fs, &err) && !room_open(&fs, &err));
	TEST(a_capture_that_fails_leaves_the_layer_as_it_was);
	TEST(one_that_fails_later_leaves_it_frozen);
	TEST(one_that_succeeds_has_the_frozen_layer);
	admission_close(&fs);
	room_close(&fs);
	net_helpers_free(fs.net_helpers);
	fs.store = reopen(fs.store); /* what is removed in the background is gone by then */
	CHECK(count_files("layers") == files);
	drop_store(fs.store);
	loop_free(fs.loop);
	return 0;
}
