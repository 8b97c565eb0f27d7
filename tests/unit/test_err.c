/* SPDX-License-Identifier: MIT */
#include "util/err.h"

#include <errno.h>
#include <string.h>

#include "tests/unit/unit.h"

static void a_sentence_is_kept(void)
{
	struct err err = { 0 };

	CHECK(err_set(&err, -EINVAL, "no verb '%s'", "bogus") == -EINVAL);
	CHECK(err.code == -EINVAL && !strcmp(err.text, "no verb 'bogus'"));
	CHECK(err_sys(&err, -ENOENT, "cannot open %s", "x") == -ENOENT);
	CHECK(err.code == -ENOENT && !strcmp(err.text, "cannot open x: No such file or directory"));
	err_prefix(&err, "image %d", 7);
	CHECK(err.code == -ENOENT);
	CHECK(!strcmp(err.text, "image 7: cannot open x: No such file or directory"));
}

static void without_a_place_only_the_code_is_kept(void)
{
	CHECK(err_set(NULL, -EBUSY, "dropped %d", 1) == -EBUSY);
	CHECK(err_sys(NULL, -EIO, "dropped") == -EIO);
}

static void long_sentences_are_cut(void)
{
	char long_text[3 * ERR_TEXT_MAX];
	struct err err = { 0 };

	memset(long_text, 'x', sizeof(long_text) - 1);
	long_text[sizeof(long_text) - 1] = '\0';
	err_set(&err, -EINVAL, "%s", long_text);
	CHECK(strlen(err.text) == ERR_TEXT_MAX - 1);
	err_sys(&err, -EINVAL, "%s", long_text);
	CHECK(strlen(err.text) <= ERR_TEXT_MAX - 1);
	err_prefix(&err, "%s", long_text);
	CHECK(strlen(err.text) <= ERR_TEXT_MAX - 1 && err.text[0] == 'x');
}

static void a_terminal_obeys_no_sentence(void)
{
	struct err err = { 0 };

	err_set(&err, -EINVAL, "\"%s\" is no verb", "\033]0;owned\007a\nb\177\302\2332Jc");
	CHECK(!strcmp(err.text, "\"?]0;owned?a?b???2Jc\" is no verb"));
	err_prefix(&err, "%s", "x\ty");
	CHECK(!strcmp(err.text, "x?y: \"?]0;owned?a?b???2Jc\" is no verb"));
	/* Letters are. */
	err_set(&err, -EINVAL, "%s", "\303\244 \302\260 \342\202\254");
	CHECK(!strcmp(err.text, "\303\244 \302\260 \342\202\254"));
}

int main(void)
{
	TEST(a_sentence_is_kept);
	TEST(without_a_place_only_the_code_is_kept);
	TEST(long_sentences_are_cut);
	TEST(a_terminal_obeys_no_sentence);
	return 0;
}
