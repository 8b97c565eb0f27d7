/* SPDX-License-Identifier: MIT */
/*
 * test_admission.c - what is counted of sandboxes, jobs and memory is what there is, whatever failed
 *
 * Machines are those of an engine that makes nothing but ends of sockets.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fs/sandbox/admission.h"
#include "fs/sandbox/job.h"
#include "fs/sandbox/machine.h"
#include "tests/unit/failing.h"
#include "tests/unit/store_fixture.h"
#include "tests/unit/unit.h"
#include "vm/net/helper.h"

static struct fs fs;

/* ---- an engine */

struct vm {
	int fds[3];
};

static uid_t files_uid;    /* who has a snapshot in memory */
static bool refuses, lame; /* it makes no machine; the one that it makes cannot be connected to */

static int make(struct vm **ret, struct err *err)
{
	struct vm *vm = refuses ? NULL : calloc(1, sizeof(*vm));

	if (!vm)
		return err_sys(err, -ENOMEM, "no machine");
	for (int i = 0; i < 3; i++)
		vm->fds[i] = lame ? -1 : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	CHECK(lame || (vm->fds[0] >= 0 && vm->fds[1] >= 0 && vm->fds[2] >= 0));
	*ret = vm;
	return 0;
}

static int boot(const struct engine_env *env, const struct shape *shape, const char *disk,
		const struct vm_events *events, void *owner, done_fn done, void *arg, struct vm **ret,
		struct err *err)
{
	(void)env;
	(void)shape;
	(void)disk;
	(void)events;
	(void)owner;
	(void)done;
	(void)arg;
	return make(ret, err);
}

static void start(struct vm *vm, const struct vm_events *events, void *owner, done_fn done, void *arg)
{
	(void)vm;
	(void)events;
	(void)owner;
	(void)done;
	(void)arg;
}

static void destroy(struct vm *vm)
{
	for (int i = 0; i < 3; i++)
		close_fd(&vm->fds[i]);
	free(vm);
}

static struct vm_ends ends(const struct vm *vm)
{
	return (struct vm_ends){ vm->fds[0], vm->fds[1], vm->fds[2] };
}

static pid_t no_pid(const struct vm *vm)
{
	(void)vm;
	return -1;
}

static const struct engine engine = {
	.boot = boot, .start = start, .destroy = destroy, .ends = ends, .pid = no_pid
};

/* ---- what there is, and what is counted */

static struct sandbox *make_sandbox(const char *name, uid_t uid, struct err *err)
{
	const struct owner owner = { uid, uid, 0700 };
	struct sandbox *sb = NULL;

	(void)sandbox_new(&fs, name, &owner, &sb, err);
	return sb;
}

static void unbounded(void)
{
	struct options *options = &fs.options;

	options->max_sandboxes = options->max_per_user = options->max_jobs = UINT32_MAX;
	options->max_jobs_total = options->max_jobs_per_user = UINT32_MAX;
	options->max_memory = options->max_memory_per_user = UINT64_MAX;
	options->max_files_per_user = UINT32_MAX;
}

/* The bound that is just kept, and the one below it. */
#define BOUND(bound, least, ask, refusal)                                                                    \
	do {                                                                                                 \
		unbounded();                                                                                 \
		(bound) = (least);                                                                           \
		CHECK(!(ask));                                                                               \
		(bound)--;                                                                                   \
		CHECK((ask) == (refusal) && err.text[0]);                                                    \
	} while (0)

static int one_more(uid_t uid, struct err *err)
{
	struct sandbox *sb = make_sandbox("more", uid, err);

	if (!sb)
		return err->code;
	sandbox_remove(sb);
	return 0;
}

static void check_one(struct sandbox *sb)
{
	unsigned all = 0, own = 0, jobs = 0, own_jobs = 0,
		 files = sb->obj.owner.uid == files_uid ? TEMPLATE_FILES : 0;
	uint64_t memory = 1, own_memory = 1;
	struct options *options = &fs.options;
	const uid_t uid = sb->obj.owner.uid;
	const struct sandbox *other;
	struct err err = { 0 };

	list_for_each (other, &fs.sandboxes, link) {
		const bool same = other->obj.owner.uid == uid;
		const uint64_t has = other->vm && other != sb ? other->shape.memory : 0;

		all++;
		own += same;
		jobs += other->njobs;
		own_jobs += same ? other->njobs : 0;
		files += same && other->vm ? MACHINE_FILES : 0;
		memory += has;
		own_memory += same ? has : 0;
	}
	BOUND(options->max_sandboxes, all + 1, one_more(uid, &err), -ENOSPC);
	BOUND(options->max_per_user, own + 1, one_more(uid, &err), -EDQUOT);
	BOUND(options->max_jobs, sb->njobs + 1, admit_job(sb, &err), -ENOSPC);
	BOUND(options->max_jobs_total, jobs + 1, admit_job(sb, &err), -ENOSPC);
	BOUND(options->max_jobs_per_user, own_jobs + 1, admit_job(sb, &err), -EDQUOT);
	BOUND(options->max_files_per_user, files + 2, admit_files(&fs, &sb->obj.owner, 2, &err), -EDQUOT);
	BOUND(options->max_memory, memory, admit_memory(sb, 1, &err), -ENOMEM);
	BOUND(options->max_memory_per_user, own_memory, admit_memory(sb, 1, &err), -EDQUOT);
	unbounded();
}

static void check(void)
{
	struct err err = { 0 };
	struct sandbox *sb;

	list_for_each (sb, &fs.sandboxes, link)
		check_one(sb);
	if (list_empty(&fs.sandboxes))
		BOUND(fs.options.max_sandboxes, 1, one_more(1, &err), -ENOSPC);
	unbounded();
}

static int give(struct sandbox *sb, uid_t uid, struct err *err)
{
	const struct owner owner = { uid, uid, 0700 };
	const int rc = sandbox_chown(&sb->obj, &owner, err);

	if (!rc)
		sb->obj.owner = owner;
	return rc;
}

static struct job *job_in(struct sandbox *sb)
{
	return job_new(sb, "", &sb->obj.owner);
}

static void what_a_snapshot_has_is_counted(void)
{
	struct counted snap = { 0 };
	struct err err = { 0 };
	struct sandbox *a = make_sandbox("a", 1, &err), *b = make_sandbox("b", 2, &err);

	CHECK(a && b && !admission_enter(&fs, &snap, 1));
	admission_count(&fs, &snap, &(struct tally){ .files = TEMPLATE_FILES });
	files_uid = 1;
	check();
	sandbox_remove(a);
	CHECK(!admission_chown(&fs, &snap, 2, &err) && !admission_chown(&fs, &snap, 2, &err));
	files_uid = 2;
	check();
	admission_leave(&fs, &snap);
	admission_leave(&fs, &snap);
	files_uid = 0;
	CHECK(!admission_chown(&fs, &snap, 2, &err));
	admission_count(&fs, &snap, &(struct tally){ .files = TEMPLATE_FILES });
	check();
	sandbox_remove(b);
	check();
}

static void what_comes_and_goes_is_counted(void)
{
	struct err err = { 0 };
	struct sandbox *a = make_sandbox("a", 1, &err), *b = make_sandbox("b", 1, &err);
	struct sandbox *c = make_sandbox("c", 1 + 256, &err);
	struct job *job;

	CHECK(a && b && c && !make_sandbox("c", 1, &err) && err.code == -EEXIST);
	check();
	job = job_in(a);
	CHECK(job && job_in(a) && job_in(b) && job_in(c));
	check();
	job_remove(job);
	check();
	CHECK(!give(a, 1 + 256, &err) && !give(b, 7, &err) && !give(b, 7, &err));
	check();
	object_ref(&a->obj);
	sandbox_remove(a); /* with a job */
	check();
	CHECK(!give(a, 9, &err)); /* somebody has its directory open */
	object_unref(&a->obj);
	check();
	sandbox_remove(b);
	sandbox_remove(c);
	check();
}

static void nobody(void *arg, const struct err *err)
{
	(void)arg;
	(void)err;
}

static int boot_one(struct sandbox *sb, struct err *err)
{
	int rc = task_begin(sb, "start", nobody, NULL, err);
	const struct err why = { .code = -EIO };

	if (!rc)
		rc = machine_boot(sb, NULL, NULL, err);
	task_end(sb, &why);
	return rc;
}

static void machines_that_fail_leave_nothing(void)
{
	struct err err = { 0 };
	struct sandbox *a = make_sandbox("a", 1, &err), *b = make_sandbox("b", 2, &err);
	struct template *template;
	struct layer *disk;
	struct vm *vm;

	CHECK(a && b && !boot_one(a, &err) && a->vm);
	check();
	refuses = true;
	CHECK(boot_one(b, &err) == -ENOMEM && !b->vm);
	refuses = false;
	check();
	lame = true;
	CHECK(boot_one(b, &err) == -ENOMEM && !b->vm);
	lame = false;
	check();
	fs.options.max_memory = b->shape.memory;
	CHECK(boot_one(b, &err) == -ENOMEM && !b->vm);
	check();
	CHECK(!boot_one(b, &err) && b->vm);
	check();
	machine_drop(a);
	check();
	CHECK(!give(b, 1, &err));
	check();
	/* A fork's machine, which is larger, and one that cannot be connected to. */
	layer_freeze(a->disk);
	disk = frozen_overlay(fs.store, a->disk);
	template = plain_template(disk, memfd_new("ram", 3 << 20), 3 << 20, memfd_new("state", 1));
	layer_unref(a->disk);
	a->disk = NULL;
	lame = true;
	CHECK(!task_begin(a, "fork", nobody, NULL, &err) && !make(&vm, &err));
	CHECK(machine_fork(a, template, vm, false, NULL, NULL, &err) == -ENOMEM && !a->vm);
	lame = false;
	check();
	CHECK(!make(&vm, &err) && !machine_fork(a, template, vm, false, NULL, NULL, &err));
	CHECK(a->vm && a->shape.memory == 3 << 20);
	check();
	sandbox_remove(a);
	check();
	sandbox_remove(b);
	check();
	template_unref(template);
	layer_unref(disk);
}

static void a_sandbox_is_counted_or_is_not(void)
{
	struct err err = { 0 };
	struct sandbox *kept = make_sandbox("kept", 1, &err);
	struct sandbox *sb = MAY_FAIL(make_sandbox("new", 2, &err));

	CHECK(kept && (sb || failing_excuses(err.code)));
	check();
	if (sb) {
		(void)MAY_FAIL(job_in(sb));
		check();
		CHECK(failing_excuses(MAY_FAIL(give(sb, 3, &err))));
		check();
		sandbox_remove(sb);
	}
	check();
	sandbox_remove(kept);
}

int main(void)
{
	struct err err;

	list_init(&fs.sandboxes);
	fs.loop = loop_new();
	fs.store = fresh_store();
	fs.net_helpers = net_helpers_new(fs.loop);
	fs.engine = &engine;
	fs.options.shape =
		(struct shape){ .memory = 1 << 20, .memory_max = 4 << 20, .cpus = 1, .cpus_max = 1 };
	fs.options.limits = limits_none;
	CHECK(fs.loop && fs.net_helpers && !admission_open(&fs, &err) && !room_open(&fs, &err));
	unbounded();
	TEST(what_comes_and_goes_is_counted);
	TEST(what_a_snapshot_has_is_counted);
	TEST(machines_that_fail_leave_nothing);
	FAILING(a_sandbox_is_counted_or_is_not);
	admission_close(&fs);
	room_close(&fs);
	net_helpers_free(fs.net_helpers);
	drop_store(fs.store);
	loop_free(fs.loop);
	return 0;
}
