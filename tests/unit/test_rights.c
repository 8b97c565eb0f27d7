/* SPDX-License-Identifier: MIT */
#include "fs/sandbox/rights.h"

#include <errno.h>
#include <string.h>

#include "tests/unit/unit.h"

static void check_text(const struct rights *rights, const char *want)
{
	struct buf text = { 0 };

	rights_text(rights, &text);
	buf_add(&text, "", 1);
	CHECK(!text.failed && !strcmp((const char *)buf_bytes(&text), want));
	buf_release(&text);
}

static void what_is_written(void)
{
	struct rights rights = { .fork = 7 };
	struct err err;

	CHECK(!rights_parse("inherit 2,, fork 8 ,\n\tcheckpoint 1\nsuspend", &rights, &err));
	check_text(&rights, "fork 8\ncheckpoint 1\nsuspend\ninherit 2\n");
	CHECK(rights_parse("fork", &rights, &err) == -EINVAL && err.text[0]);
	CHECK(rights_parse("fork 8 9", &rights, &err) == -EINVAL);
	CHECK(rights_parse("suspend 1", &rights, &err) == -EINVAL);
	CHECK(rights_parse("suspend\nsuspend", &rights, &err) == -EINVAL);
	CHECK(rights_parse("kill", &rights, &err) == -EINVAL);
	CHECK(rights_parse(
		      "fork 8888888888888888888888888888888888888888888888888888888888888888888888888888",
		      &rights, &err) == -EINVAL);
	CHECK(rights_parse("inherit 65", &rights, &err) == -ERANGE);
	check_text(&rights, "fork 8\ncheckpoint 1\nsuspend\ninherit 2\n");
	CHECK(!rights_parse("", &rights, &err));
	check_text(&rights, "");
}

static void they_are_used_up(void)
{
	struct rights rights, copy;
	struct err err;

	CHECK(!rights_parse("fork 3,inherit 1", &rights, &err));
	CHECK(rights_take(&rights, GUEST_FORK, 4, &err) == -EPERM);
	CHECK(!rights_take(&rights, GUEST_FORK, 2, &err));
	CHECK(rights_take(&rights, GUEST_CHECKPOINT, 1, &err) == -EPERM);
	CHECK(rights_take(&rights, GUEST_SUSPEND, 1, &err) == -EPERM);
	check_text(&rights, "fork 1\ninherit 1\n");
	copy = rights_of_copy(&rights);
	check_text(&copy, "fork 3\n");
	copy = rights_of_copy(&copy);
	check_text(&copy, "");
	rights_give_back(&rights, GUEST_FORK, 1);
	check_text(&rights, "fork 2\ninherit 1\n");
	/* They were written anew meanwhile: no more than was written. */
	CHECK(!rights_parse("fork 1", &rights, &err));
	rights_give_back(&rights, GUEST_FORK, 4000000000u);
	check_text(&rights, "fork 1\n");
}

int main(void)
{
	TEST(what_is_written);
	TEST(they_are_used_up);
	return 0;
}
