/* SPDX-License-Identifier: MIT */
/*
 * test_failing_start.c - whatever starts a process, when the system refuses what it asks for
 *
 * What is started here does nothing: it is about machines and helpers that come to be, or do not and say why. The
 * launcher is a process of its own, in which nothing fails.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "snap/template.h"
#include "tests/unit/failing.h"
#include "tests/unit/unit.h"
#include "util/io.h"
#include "vm/agent/browser.h"
#include "vm/engine.h"
#include "vm/net/helper.h"
#include "vm/process.h"
#include "vm/qemu/cmdline.h"

enum { MIB = 1 << 20, WAIT_MS = 20000 };

static char programs[] = "/tmp/sbx-failing-start-XXXXXX", disk[64];
static const struct jail_config no_jail = {
	.none = true, .libexec = programs, .kernel = disk, .initrd = disk
};
static const struct shape small = { MIB, MIB, 1, 1, "" };
static struct loop *loop;
static unsigned ended;

static void begin(void)
{
	loop = loop_new();
	CHECK(loop && !launcher_start(&no_jail, NULL));
	ended = 0;
}

static void end(void)
{
	process_reap_abandoned();
	CHECK(!process_count());
	CHECK(!loop_once(loop, 0));
	loop_free(loop);
	launcher_stop();
}

/* An outcome that is true: a reason and its code where there is one, and only where something was refused. */
static void check(int rc, const struct err *err)
{
	CHECK(failing_excuses(rc) && rc == err->code && !rc == !err->text[0]);
}

/* Until it ended; the loop may fail to get memory as well. */
static void await_end(void)
{
	const uint64_t end_ns = now_mono_ns() + WAIT_MS * 1000000ull;

	while (!ended) {
		CHECK(now_mono_ns() < end_ns);
		CHECK(!MAY_FAIL(loop_once(loop, 100)));
	}
}

/* ---- processes */

static void a_launcher_starts_or_does_not(void)
{
	struct err err = { 0 };

	check(MAY_FAIL(launcher_start(&no_jail, &err)), &err);
	launcher_stop();
}

static void on_exit_process(void *arg, int status, const char *why)
{
	(void)arg;
	CHECK(!status && !strcmp(why, "exited with status 0"));
	ended++;
}

static void a_process_starts_or_does_not(void)
{
	static const char *const args[] = { NULL };
	const struct process_spec spec = { .kind = JAIL_BROWSE, .args = args, .stdin_fd = -1 };
	struct process *process = NULL;
	struct err err = { 0 };
	int rc;

	begin();
	rc = MAY_FAIL(process_spawn(loop, &spec, on_exit_process, NULL, &process, &err));
	check(rc, &err);
	if (!rc)
		await_end();
	CHECK(ended == !rc);
	end();
}

/* ---- machines */

static void on_end(void *arg, const struct err *err)
{
	(void)arg;
	(void)err;
	ended++;
}

static void on_gone(void *owner, bool clean, const char *why)
{
	(void)owner;
	(void)clean;
	CHECK(*why);
	ended++;
}

static const struct vm_events vm_events = { .exited = on_gone };

static int memory(const char *name)
{
	const int fd = memfd_new(name, MIB);

	CHECK(fd >= 0);
	return fd;
}

static void start(const struct engine *engine, bool fork)
{
	struct engine_env env = { .kernel = disk, .initrd = disk, .libexec = programs };
	struct template *template = template_new();
	struct err err = { 0 };
	struct vm *vm = NULL;
	int rc;

	begin();
	CHECK(template);
	env.loop = loop;
	template->shape = small;
	template->ram_size = MIB;
	template->ram_fd = memory("ram");
	template->state_fd = memory("state");
	if (fork)
		rc = MAY_FAIL(
			engine->prepare(&env, template, disk, &vm_events, NULL, on_end, NULL, &vm, &err));
	else
		rc = MAY_FAIL(engine->boot(&env, &small, disk, &vm_events, NULL, on_end, NULL, &vm, &err));
	check(rc, &err);
	template_unref(template);
	CHECK(!rc == !!vm);
	CHECK(!MAY_FAIL(loop_once(loop, 0)));
	engine->destroy(vm);
	CHECK(!ended);
	engine->shutdown();
	end();
}

static void qemu_boots_or_does_not(void)
{
	start(&engine_qemu, false);
}

static void qemu_forks_or_does_not(void)
{
	start(&engine_qemu, true);
}

static void kvm_boots_or_does_not(void)
{
	start(&engine_kvm, false);
}

static void kvm_forks_or_does_not(void)
{
	start(&engine_kvm, true);
}

static void a_command_line_is_whole_or_not(void)
{
	struct qemu_config config = {
		.shape = &small,
		.ram_size = MIB,
		.kernel = "vmlinuz",
		.initrd = "initramfs",
		.disk_fd = 10,
		.disk_reading_fd = 9,
		.qmp_fd = 3,
		.agent_fd = 4,
		.console_fd = 5,
		.net_fd = 6,
		.ram_fd = 7,
	};
	struct qemu_args args;
	struct disk files;
	cJSON *node;
	int rc;

	CHECK(!disk_open(&files, disk, 0, NULL));
	config.disk = &files;
	for (int fork = 0; fork < 2; fork++) {
		config.fork = fork;
		rc = MAY_FAIL(qemu_args_build(&args, &config));
		CHECK(failing_excuses(rc) && !rc == !args.failed);
		CHECK(rc || (args.n > 20 && !args.argv[args.n]));
		qemu_args_release(&args);
	}
	node = MAY_FAIL(qemu_disk_node(3, &files, QEMU_FIRST_SET, true));
	CHECK(node || failing_did());
	CHECK(!node || (cJSON_GetObjectItem(node, "backing") && cJSON_GetObjectItem(node, "file")));
	cJSON_Delete(node);
	disk_close(&files);
}

/* ---- helpers */

static void on_browser_gone(void *arg)
{
	(void)arg;
	ended++;
}

static void a_browser_starts_or_does_not(void)
{
	struct browse *browse = NULL;
	struct err err = { 0 };
	int rc;

	begin();
	rc = MAY_FAIL(browse_new(loop, disk, on_end, on_browser_gone, NULL, &browse, &err));
	check(rc, &err);
	if (!rc)
		await_end();
	CHECK(!ended == !!rc); /* done, and maybe gone too */
	browse_free(browse);
	end();
}

static void on_denied(void *owner, const struct net_denial *denial)
{
	(void)owner;
	CHECK(!denial);
}

static void on_published(void *owner, uint32_t tag, int code)
{
	(void)owner;
	CHECK(!tag && code);
}

static void on_net_ended(void *owner, const char *why)
{
	(void)owner;
	CHECK(*why);
	ended++;
}

static void a_network_starts_or_does_not(void)
{
	static const struct net_events events = { on_denied, on_published, on_net_ended };
	struct net_helpers *helpers;
	struct net_helper *helper = NULL;
	struct err err = { 0 };
	int link[2], board = -1, rc;

	begin();
	helpers = net_helpers_new(loop);
	CHECK(helpers);
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, link));
	rc = MAY_FAIL(net_helper_start(helpers, link[0], &board, &events, NULL, &helper, &err));
	check(rc, &err);
	CHECK(!rc == !!helper);
	CHECK(!MAY_FAIL(loop_once(loop, 0)));
	net_helper_free(helper);
	net_helpers_free(helpers);
	close_fd(&board);
	close(link[0]);
	close(link[1]);
	end();
}

int main(int argc, char **argv)
{
	char path[4096];

	/* All programs but sbx-browse are this one. Those that are given arguments wait for their end. */
	if (argc > 1)
		for (;;)
			pause();
	signal(SIGPIPE, SIG_IGN);
	scratch_dir(programs);
	snprintf(disk, sizeof(disk), "%s/disk.qcow2", programs);
	sh_in(programs, "qemu-img create -q -f qcow2 disk.qcow2 1M && cp /bin/true sbx-browse");
	shell("for p in sbx-vmm sbx-net qemu-system-x86_64; do cp %s %s/$p || exit 1; done", argv[0],
	      programs);
	snprintf(path, sizeof(path), "%s:%s", programs, getenv("PATH"));
	CHECK(!setenv("PATH", path, 1));
	FAILING(a_launcher_starts_or_does_not);
	FAILING(a_process_starts_or_does_not);
	FAILING(kvm_boots_or_does_not);
	FAILING(kvm_forks_or_does_not);
	FAILING(qemu_boots_or_does_not);
	FAILING(qemu_forks_or_does_not);
	FAILING(a_command_line_is_whole_or_not);
	FAILING(a_browser_starts_or_does_not);
	FAILING(a_network_starts_or_does_not);
	return 0;
}
