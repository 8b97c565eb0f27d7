/* SPDX-License-Identifier: MIT */
/* test_failing_util.c - buffers, the loop and settings when the system refuses what they ask for */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/fs.h"
#include "fs/sandbox/settings.h"
#include "fs/tree/ctl.h"
#include "fs/tree/object.h"
#include "tests/unit/failing.h"
#include "tests/unit/unit.h"
#include "util/buf.h"
#include "util/io.h"
#include "util/loop.h"

/* ---- util/buf */

static int fill(struct buf *buf)
{
	for (unsigned i = 0; i < 300; i++) {
		buf_put_u32(buf, i);
		buf_put_str(buf, "some text that makes the buffer grow");
		buf_printf(buf, "%u and more", i);
	}
	return buf->failed ? -ENOMEM : 0;
}

static void a_buffer_says_that_it_is_not_whole(void)
{
	struct buf buf = { 0 };
	struct reader r;
	char text[64];
	int rc = MAY_FAIL(fill(&buf));

	CHECK(failing_excuses(rc));
	/* What was added before is there in whole additions, as was what came after in none. */
	CHECK(!rc == !failing_did());
	if (!rc) {
		r = reader_init(buf_bytes(&buf), buf.len);
		CHECK(get_u32(&r) == 0);
		get_str(&r, text, sizeof(text));
		CHECK(!r.bad && !strncmp(text, "some text", 9));
	}
	buf_add(&buf, "x", 1);
	CHECK(rc ? buf.failed : !buf.failed);
	buf_release(&buf);
}

static void a_file_is_read_whole_or_not(void)
{
	struct buf buf = { 0 };
	int dir = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc;
	int here = open("tests/unit", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	CHECK(dir >= 0 && here >= 0);
	rc = MAY_FAIL(read_file_at(here, "unit.h", 1 << 20, &buf));
	CHECK(failing_excuses(rc) && (rc ? !buf.len : buf.len > 100));
	buf_release(&buf);
	close(dir);
	close(here);
}

/* ---- util/loop */

static int ran;

static int run(void *arg)
{
	(void)arg;
	return 7;
}

static void done(void *arg, int result)
{
	struct loop *loop = arg;

	CHECK(result == 7);
	ran++;
	loop_stop(loop);
}

static void work_is_done_or_refused(void)
{
	struct loop *loop = MAY_FAIL(loop_new());
	int rc;

	if (!loop) {
		CHECK(failing_excuses(-errno) && errno);
		return;
	}
	for (unsigned i = 0; i < 3; i++) {
		ran = 0;
		rc = i == 1 ? MAY_FAIL(loop_thread(loop, run, done, loop))
			    : MAY_FAIL(loop_work(loop, run, done, loop));
		CHECK(failing_excuses(rc));
		if (rc)
			continue;
		CHECK(!MAY_FAIL(loop_run(loop)));
		CHECK(ran == 1);
	}
	loop_free(loop);
}

/* ---- fs: settings, objects */

static const char *const words[] = { "image=base", "memory=1G",      "env.A=1", "env.B=2",
				     "env.A=3",    "env.LONG=value", NULL };

static void overrides_are_all_there(void)
{
	struct overrides overrides = { 0 };
	struct err err = { 0 };
	char **array;
	int rc = MAY_FAIL(overrides_parse(words, true, &overrides, &err));

	CHECK(failing_excuses(rc) && err.code == rc && !rc == !err.text[0]);
	if (!rc) {
		CHECK(overrides.env.len == strlen("A=3\nB=2\nLONG=value\n"));
		CHECK(!memcmp(buf_bytes(&overrides.env), "A=3\nB=2\nLONG=value\n", overrides.env.len));
		array = MAY_FAIL(env_array(&overrides.env));
		CHECK(array || failing_did());
		CHECK(!array || (!strcmp(array[0], "A=3") && !strcmp(array[2], "LONG=value") && !array[3]));
		free(array);
	}
	overrides_release(&overrides);
}

static struct object thing;

static void keep(struct object *obj)
{
	(void)obj;
}

static int report(const struct err *err)
{
	object_report(&thing, err);
	return 0;
}

static void an_error_is_told_or_nothing_is(void)
{
	struct fs fs = { 0 };
	struct owner owner = { 0 };
	const struct err first = { -EINVAL, "the first" }, second = { -EIO, "the second, a longer one" };

	object_init(&thing, OBJECT_JOB, &fs, "thing", &owner, keep);
	thing.log = &thing;
	MAY_FAIL(report(&first));
	MAY_FAIL(report(&second));
	/* Never the reason of another failure. */
	CHECK(!thing.error.len || (thing.error.len > strlen(second.text) &&
				   !memcmp(buf_bytes(&thing.error), second.text, strlen(second.text))));
	CHECK(thing.error.len || failing_did());
	MAY_FAIL(report(&(const struct err){ 0 }));
	CHECK(!thing.error.len);
	buf_release(&thing.error);
}

int main(void)
{
	FAILING(a_buffer_says_that_it_is_not_whole);
	FAILING(a_file_is_read_whole_or_not);
	FAILING(work_is_done_or_refused);
	FAILING(overrides_are_all_there);
	FAILING(an_error_is_told_or_nothing_is);
	return 0;
}
