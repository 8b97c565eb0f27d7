/* SPDX-License-Identifier: MIT */
/*
 * test_admission.c - what is counted of sandboxes, jobs and memory is what there is, whatever failed
 *
 * Machines are those of an engine that makes nothing but ends of sockets (socket_engine.h).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/sandbox/admission.h"
#include "fs/sandbox/job.h"
#include "fs/sandbox/machine.h"
#include "tests/unit/failing.h"
#include "tests/unit/socket_engine.h"
#include "tests/unit/store_fixture.h"
#include "tests/unit/unit.h"
#include "vm/net/helper.h"

static struct fs fs;

static uid_t files_uid; /* who has a snapshot in memory */

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

/* A command of n bytes in a new job of the sandbox's. */
static int command_of(struct sandbox *sb, size_t n, struct err *err)
{
	struct job *job = job_in(sb);
	int rc = job ? job_room(job, &job->cmd, n, err) : -ENOMEM;

	if (!rc && !buf_reserve(&job->cmd, n))
		rc = -ENOMEM;
	if (!rc) {
		buf_grow(&job->cmd, n);
		job_count(job);
	}
	return rc;
}

/* Commands and environments, of a sandbox, an owner and all: what a job had is free when it is gone. */
static void texts_have_bounds(void)
{
	const unsigned each = TEXTS_EACH / JOBS_TEXT_MAX, all = TEXTS_ALL / JOBS_TEXT_MAX;
	struct sandbox *sb[TEXTS_ALL / JOBS_TEXT_MAX + 1];
	struct err err = { 0 };
	char name[8];
	unsigned i;

	for (i = 0; i <= all; i++) {
		snprintf(name, sizeof(name), "s%u", i);
		sb[i] = make_sandbox(name, 1 + i / each, &err);
		CHECK(sb[i]);
	}
	CHECK(!command_of(sb[0], JOBS_TEXT_MAX, &err));
	CHECK(command_of(sb[0], 1, &err) == -ENOMEM && err.text[0]);
	for (i = 1; i < each; i++)
		CHECK(!command_of(sb[i], JOBS_TEXT_MAX, &err));
	CHECK(!give(sb[each], 1, &err) && command_of(sb[each], 1, &err) == -EDQUOT && err.text[0]);
	CHECK(!give(sb[0], 99, &err) && !command_of(sb[each], 1, &err));
	sandbox_remove(sb[each]);
	for (i = each + 1; i < all; i++)
		CHECK(!command_of(sb[i], JOBS_TEXT_MAX, &err));
	CHECK(!command_of(sb[all], JOBS_TEXT_MAX, &err));
	CHECK(command_of(sb[all], 1, &err) == -ENOMEM);
	job_remove(list_first(&sb[0]->jobs, struct job, link));
	CHECK(!give(sb[all], 2, &err) && !give(sb[all], 100, &err));
	CHECK(!command_of(sb[0], JOBS_TEXT_MAX, &err));
	for (i = 0; i <= all; i++)
		if (i != each)
			sandbox_remove(sb[i]);
	CHECK(make_sandbox("again", 1, &err) && !command_of(sandbox_find(&fs, "again"), JOBS_TEXT_MAX, &err));
	sandbox_remove(sandbox_find(&fs, "again"));
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

/* So many jobs that run, from this number on; their output is open, and nobody reads it. */
static void run_unread(struct sandbox *sb, unsigned n)
{
	struct job *job;

	for (; n; n--) {
		job = job_in(sb);
		CHECK(job);
		job_number(job, sb->next_job++);
		job->phase = JOB_STARTED;
		output_open(job, 0);
		CHECK(job->out[0].taken >= STREAM_LEAST);
	}
}

static struct job *last_job(const struct sandbox *sb)
{
	return container_of(sb->jobs.prev, struct job, link);
}

/* What a guest sends, granted or not, is counted and has a bound: so much, and the least of each stream beyond. */
static void check_streams(struct sandbox *sb, uint64_t bound)
{
	static uint8_t bytes[PROTO_DATA_MAX];
	uint64_t held = 0;
	struct job *job;
	unsigned i;

	list_for_each (job, &sb->jobs, link) {
		for (i = 0; i < 2 * STREAM_WINDOW / sizeof(bytes); i++)
			job_output(sb, job->id, 1, bytes, sizeof(bytes));
		CHECK(job->out[0].data.len == job->out[0].taken);
		held += job->out[0].data.len;
	}
	CHECK(held == sb->streams && held > bound / 2 && held <= bound + sb->njobs * STREAM_LEAST);
}

/* Unread output, of an owner and of all: who has much gets little more, and whoever has nothing as much as ever. */
static void streams_have_bounds(void)
{
	enum { MANY = 1024 };
	const unsigned fit = STREAMS_EACH / STREAM_WINDOW;
	struct err err = { 0 };
	struct sandbox *a = make_sandbox("a", 1, &err), *b = make_sandbox("b", 2, &err);
	struct sandbox *own = make_sandbox("own", geteuid(), &err);
	const struct job *first;

	CHECK(a && b && own && !boot_one(a, &err) && !boot_one(b, &err) && !boot_one(own, &err));
	run_unread(a, MANY);
	first = list_first(&a->jobs, struct job, link);
	CHECK(first && first->out[0].taken == STREAM_WINDOW);
	CHECK(last_job(a)->out[0].taken == STREAM_LEAST);
	check_streams(a, STREAMS_EACH);
	run_unread(b, 1);
	CHECK(last_job(b)->out[0].taken == STREAM_WINDOW);
	/* It counts for whose the sandbox is. */
	CHECK(!give(a, 2, &err));
	run_unread(b, 1);
	CHECK(last_job(b)->out[0].taken == STREAM_LEAST);
	CHECK(!give(a, 1, &err));
	/* The daemon's own user has all there is. */
	run_unread(own, 2 * fit);
	CHECK(last_job(own)->out[0].taken == STREAM_WINDOW);
	run_unread(own, 4 * fit);
	CHECK(last_job(own)->out[0].taken == STREAM_LEAST);
	check_streams(own, STREAMS_ALL - STREAMS_EACH);
	run_unread(b, 1);
	CHECK(last_job(b)->out[0].taken == STREAM_LEAST);
	/* What is gone is free, and what has ended waits for nothing more. */
	while (!list_empty(&own->jobs))
		job_remove(last_job(own));
	jobs_lost(a, "it ended");
	run_unread(b, 1);
	CHECK(last_job(b)->out[0].taken == STREAM_WINDOW && own->streams == 0);
	sandbox_remove(a);
	sandbox_remove(b);
	sandbox_remove(own);
	check();
}

/* The guest's number of a job leads to that job, to none that it does not know any more, and to no second one. */
static void jobs_are_found_by_number(void)
{
	const struct job_info info = { .id = 7, .spec = { .name = "twice" } };
	struct err err = { 0 };
	struct sandbox *sb = make_sandbox("a", 1, &err);
	struct job *first, *last;

	CHECK(sb && !boot_one(sb, &err));
	sb->next_job = UINT32_MAX - 3000;
	run_unread(sb, 3000);
	first = list_first(&sb->jobs, struct job, link);
	last = last_job(sb);
	CHECK(first);
	job_output(sb, first->id, 1, "one", 3);
	job_output(sb, last->id, 1, "four", 4);
	job_output(sb, UINT32_MAX, 1, "nobody", 6);
	job_output(sb, 0, 1, "nobody", 6);
	CHECK(first->out[0].data.len == 3 && last->out[0].data.len == 4);
	job_exit(sb, last->id, false, 3, (const uint64_t[2]){ 4, 0 });
	CHECK(last->phase == JOB_ENDED && last->code == 3 && first->phase == JOB_STARTED);
	jobs_unbegun(sb, last->id, "it was not brought back");
	CHECK(!last->id && first->id && sb->job_numbers.n == 2999);
	jobs_lost(sb, "it ended");
	CHECK(!first->id && !sb->job_numbers.n);
	job_inherit(sb, &info);
	job_inherit(sb, &info);
	CHECK(sb->njobs == 3001 && sb->job_numbers.n == 1 && last_job(sb)->id == 7);
	sandbox_remove(sb);
	check();
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
	TEST(texts_have_bounds);
	TEST(streams_have_bounds);
	TEST(jobs_are_found_by_number);
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
