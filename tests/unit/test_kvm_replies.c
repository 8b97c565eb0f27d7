/* SPDX-License-Identifier: MIT */
/*
 * test_kvm_replies.c - an sbx-vmm that was taken over answers captures as it likes
 *
 * Its process is played here: what vm/kvm/blank.h has is defined in this file, so that the engine talks to nobody.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "snap/template.h"
#include "tests/unit/unit.h"
#include "util/io.h"
#include "vm/engine.h"
#include "vm/kvm/blank.h"
#include "vm/vmm/control.h"

enum { RAM = 1 << 20 };

/* ---- the process */

struct blank {
	const struct blank_events *events;
	void *owner;
};

static struct blank process;
static int sent[2] = { -1, -1 }; /* the first descriptors of the last request, like the process' own */

int blank_get(const struct engine_env *env, uint64_t memory, unsigned cpus, const struct blank_events *events,
	      void *owner, struct blank **ret, struct err *err)
{
	(void)env;
	(void)memory;
	(void)cpus;
	(void)err;
	process = (struct blank){ events, owner };
	*ret = &process;
	return 0;
}

void blank_background(struct blank *blank, bool background)
{
	(void)blank;
	(void)background;
}

void blank_free(struct blank *blank)
{
	(void)blank;
}

int blank_send(struct blank *blank, const struct control_request *request, const int *fds, unsigned nfds,
	       struct err *err)
{
	unsigned i;

	(void)blank;
	(void)request;
	(void)err;
	for (i = 0; i < nfds && i < 2; i++) {
		if (sent[i] >= 0)
			close(sent[i]);
		sent[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
	}
	return 0;
}

void blank_break(struct blank *blank, const struct err *why)
{
	(void)blank;
	(void)why;
}

struct vm_ends blank_ends(const struct blank *blank)
{
	(void)blank;
	return (struct vm_ends){ -1, -1, -1 };
}

pid_t blank_pid(const struct blank *blank)
{
	(void)blank;
	return -1;
}

void blank_stats(const struct blank *blank, uint64_t *ret_exits, uint64_t *ret_disk_written)
{
	(void)blank;
	*ret_exits = *ret_disk_written = 0;
}

void blank_pool_want(const struct engine_env *env, uint64_t memory, unsigned cpus)
{
	(void)env;
	(void)memory;
	(void)cpus;
}

void blank_pool_clear(void)
{
}

static void say(enum control_type type, int code, int ram_fd, int state_fd)
{
	const struct control_reply reply = { .type = type, .code = code, .text = "as it likes" };
	int fds[CONTROL_REPLY_FDS] = { ram_fd, state_fd, -1 };

	process.events->reply(process.owner, &reply, fds);
	for (int i = 0; i < CONTROL_REPLY_FDS; i++)
		close_fd(&fds[i]); /* as blank.c does */
}

/* ---- its owner */

static unsigned nfrozen, ndone;
static struct err done_err;
static struct template *captured;
static char dir[] = "/tmp/sbx-test-replies-XXXXXX", disk[PATH_MAX];

static void on_frozen(void *arg)
{
	(void)arg;
	nfrozen++;
}

static void on_done(void *arg, const struct err *err, struct template *template)
{
	(void)arg;
	ndone++;
	done_err = *err;
	captured = template;
}

static void nobody(void *arg, const struct err *err)
{
	(void)arg;
	(void)err;
}

static const struct vm_events vm_events = { 0 };
static const struct vm_capture capture_calls = { .frozen = on_frozen, .done = on_done };

static struct vm *capturing(void)
{
	static const struct engine_env env = { .kernel = disk, .initrd = disk };
	const struct shape shape = { RAM, RAM, 1, 1, "" };
	struct vm *vm;
	struct err err;

	CHECK(!engine_kvm.boot(&env, &shape, disk, &vm_events, NULL, nobody, NULL, &vm, &err));
	say(CONTROL_DONE, 0, -1, -1);
	nfrozen = ndone = 0;
	engine_kvm.capture(vm, disk, &capture_calls);
	return vm;
}

static int sealed(size_t size)
{
	const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	CHECK(fd >= 0 && !ftruncate(fd, (off_t)size));
	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	return fd;
}

/* Who is captured is told so once, whatever comes, and a capture that never froze has failed. */
static void what_comes_twice_is_heard_once(void)
{
	struct vm *vm = capturing();

	say(CONTROL_FROZEN, 0, -1, -1);
	say(CONTROL_FROZEN, 0, -1, -1);
	CHECK(nfrozen == 1 && !ndone);
	say(CONTROL_CAPTURED, 0, sealed(RAM), sealed(4096));
	CHECK(ndone == 1 && !done_err.code && captured);
	template_unref(captured);
	say(CONTROL_FROZEN, 0, -1, -1);
	say(CONTROL_CAPTURED, 0, sealed(RAM), sealed(4096));
	CHECK(nfrozen == 1 && ndone == 1);
	/* The next one begins anew. */
	engine_kvm.capture(vm, disk, &capture_calls);
	say(CONTROL_FROZEN, 0, -1, -1);
	CHECK(nfrozen == 2 && ndone == 1);
	say(CONTROL_CAPTURED, -EIO, -1, -1);
	CHECK(ndone == 2 && done_err.code == -EIO && !captured);
	engine_kvm.destroy(vm);
}

static void a_capture_that_did_not_freeze_is_none(void)
{
	struct vm *vm = capturing();

	say(CONTROL_CAPTURED, 0, sealed(RAM), sealed(4096));
	CHECK(!nfrozen && ndone == 1 && done_err.code == -EPROTO && !captured);
	engine_kvm.capture(vm, disk, &capture_calls);
	say(CONTROL_FROZEN, 0, -1, -1);
	say(CONTROL_CAPTURED, 0, sealed(RAM / 2), sealed(4096));
	CHECK(nfrozen == 1 && ndone == 2 && done_err.code && !captured);
	engine_kvm.destroy(vm);
}

/* What a process has of a template others have, too: it can neither write it nor move or lock what theirs is read by. */
static void forks_share_no_description(void)
{
	static const struct engine_env env = { .kernel = disk, .initrd = disk };
	struct template *template = template_new();
	int ram_fd[2];
	struct vm *vm[2];
	struct err err;
	unsigned i;

	CHECK(template);
	template->shape = (struct shape){ RAM, RAM, 1, 1, "" };
	template->ram_size = RAM;
	CHECK(!template_adopt(template, &(struct template_files){ sealed(RAM), sealed(4096), -1 }, &err));
	for (i = 0; i < 2; i++) {
		CHECK(!engine_kvm.prepare(&env, template, disk, &vm_events, NULL, nobody, NULL, &vm[i],
					  &err));
		CHECK((fcntl(sent[0], F_GETFL) & O_ACCMODE) == O_RDONLY);
		CHECK((fcntl(sent[1], F_GETFL) & O_ACCMODE) == O_RDONLY);
		CHECK(lseek(sent[1], 11, SEEK_SET) == 11);
		ram_fd[i] = sent[0];
		sent[0] = -1;
	}
	CHECK(lseek(ram_fd[0], 5, SEEK_SET) == 5 && lseek(ram_fd[1], 0, SEEK_CUR) == 0);
	CHECK(lseek(template->ram_fd, 0, SEEK_CUR) == 0 && lseek(template->state_fd, 0, SEEK_CUR) == 0);
	for (i = 0; i < 2; i++) {
		engine_kvm.destroy(vm[i]);
		close(ram_fd[i]);
	}
	template_unref(template);
}

int main(void)
{
	CHECK(mkdtemp(dir));
	snprintf(disk, sizeof(disk), "%s/disk.qcow2", dir);
	shell("qemu-img create -q -f qcow2 %s 1M", disk);
	TEST(what_comes_twice_is_heard_once);
	TEST(a_capture_that_did_not_freeze_is_none);
	TEST(forks_share_no_description);
	shell("rm -r %s", dir);
	return 0;
}
