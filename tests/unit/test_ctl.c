/* SPDX-License-Identifier: MIT */
/* test_ctl.c - the grammar of ctl files, settings, environments, link targets */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/guest/symlink.h"
#include "fs/sandbox/settings.h"
#include "fs/tree/ctl.h"
#include "tests/unit/unit.h"

static int parse(const char *text, struct words *ret)
{
	struct err err;

	return words_parse(text, strlen(text), ret, &err);
}

static void words_are_split(void)
{
	struct words c;

	CHECK(!parse("fork w1 memory=1G\n", &c));
	CHECK(c.n == 3 && !strcmp(c.word[0], "fork") && !strcmp(c.word[2], "memory=1G") && !c.word[3]);
	CHECK(!parse("  pause \t", &c));
	CHECK(c.n == 1 && !strcmp(c.word[0], "pause") && !c.word[1]);
}

static void one_write_is_one_line(void)
{
	struct words c;
	struct err err;
	char big[CTL_MAX + 2];

	CHECK(parse("", &c) == -EINVAL);
	CHECK(parse("\n", &c) == -EINVAL);
	CHECK(parse("pause\nresume\n", &c) == -EINVAL);
	CHECK(words_parse("pa\0use", 6, &c, &err) == -EINVAL);
	memset(big, 'x', sizeof(big));
	CHECK(!words_parse(big, CTL_MAX, &c, &err));
	CHECK(words_parse(big, CTL_MAX + 1, &c, &err) == -E2BIG);
	memset(big, ' ', sizeof(big));
	for (size_t i = 0; i < CTL_MAX; i += 2)
		big[i] = 'x';
	CHECK(words_parse(big, CTL_MAX, &c, &err) == -EINVAL);
}

static const struct verb verbs[] = {
	{ "start", "", "", 0, 0, 1, 0, NULL },
	{ "fork", "W [k=v ...]", "", 1, 3, 1, 0, NULL },
	{ 0 },
};

static void verbs_are_found(void)
{
	struct words c;
	struct err err;

	CHECK(!parse("start", &c) && verb_find(verbs, &c, &err) == &verbs[0]);
	CHECK(!parse("fork w", &c) && verb_find(verbs, &c, &err) == &verbs[1]);
	CHECK(!parse("fork", &c) && !verb_find(verbs, &c, &err) && err.code == -EINVAL);
	CHECK(!parse("fork a b c d", &c) && !verb_find(verbs, &c, &err) && err.code == -EINVAL);
	CHECK(!parse("star", &c) && !verb_find(verbs, &c, &err) && err.code == -EINVAL);
	CHECK(strstr(err.text, "star"));
}

static void machines_are_checked(void)
{
	struct shape m = { .memory = 512u << 20, .memory_max = 1u << 30, .cpus = 1, .cpus_max = 2 };
	struct err err;

	CHECK(!shape_set(&m, "memory", "1g", &err) && m.memory == 1u << 30);
	CHECK(!shape_check(&m, &err));
	CHECK(!shape_set(&m, "memory", "2G", &err) && shape_check(&m, &err) == -ERANGE);
	m.memory = 512u << 20;
	CHECK(shape_set(&m, "memory", "1K", &err) == -ERANGE && m.memory == 512u << 20);
	CHECK(shape_set(&m, "memory", "999999G", &err) == -ERANGE);
	CHECK(shape_set(&m, "memory", "much", &err) == -EINVAL);
	CHECK(shape_set(&m, "cpus", "0", &err) == -ERANGE);
	CHECK(shape_set(&m, "cpus", "-1", &err) == -EINVAL);
	CHECK(shape_set(&m, "cpus", "3", &err) == 0 && shape_check(&m, &err) == -ERANGE);
	CHECK(shape_set(&m, "color", "red", &err) == -EINVAL);
}

static void environments_are_lines(void)
{
	struct buf env = { 0 };
	struct err err;
	char **array;

	CHECK(!env_parse("A=1\nB_2=two words\n", 18, &env, &err));
	CHECK(env.len == 18 && !memcmp(buf_bytes(&env), "A=1\nB_2=two words\n", 18));
	buf_release(&env);
	CHECK(!env_parse("A=", 2, &env, &err) && env.len == 3);
	buf_release(&env);
	CHECK(!env_parse("", 0, &env, &err) && !env.len);
	CHECK(env_parse("=x", 2, &env, &err) == -EINVAL && !env.len);
	CHECK(env_parse("1A=x", 4, &env, &err) == -EINVAL);
	CHECK(env_parse("novalue", 7, &env, &err) == -EINVAL && strstr(err.text, "novalue"));
	CHECK(env_parse("A=1\n\nB=2", 8, &env, &err) == -EINVAL);
	env_merge(&env, "A=1\nB=2", 7);
	env_merge(&env, "A=3\nAA=4\n", 9);
	CHECK(env.len == 13 && !memcmp(buf_bytes(&env), "A=3\nB=2\nAA=4\n", 13));
	array = env_array(&env);
	CHECK(array && !strcmp(array[0], "A=3") && !strcmp(array[1], "B=2") && !strcmp(array[2], "AA=4"));
	CHECK(!array[3]);
	free(array);
	buf_release(&env);
	array = env_array(&env);
	CHECK(array && !array[0]);
	free(array);
}

static void environments_have_any_value(void)
{
	static const char text[] = "A=one\ntwo\n\0B=\0C=\n";
	struct buf env = { 0 }, back = { 0 }, again = { 0 };
	struct err err;
	char **array;

	/* NULs between values: newlines are theirs. */
	CHECK(!env_parse(text, sizeof(text), &env, &err));
	array = env_array(&env);
	CHECK(array && !strcmp(array[0], "A=one\ntwo\n") && !strcmp(array[1], "B=") &&
	      !strcmp(array[2], "C=\n"));
	CHECK(!array[3]);
	free(array);
	/* What the file reads can be written. */
	env_text(&env, &back);
	CHECK(back.len == sizeof(text) && !memcmp(buf_bytes(&back), text, sizeof(text)));
	CHECK(!env_parse((const char *)buf_bytes(&back), back.len, &again, &err));
	CHECK(again.len == env.len && !memcmp(buf_bytes(&again), buf_bytes(&env), env.len));
	buf_release(&again);
	/* An entry from elsewhere, and one that takes its place. */
	env_add(&again, "C=x\ny");
	env_merge(&env, (const char *)buf_bytes(&again), again.len);
	env_merge(&env, "A=1\n", 4);
	buf_clear(&back);
	env_text(&env, &back);
	CHECK(back.len == 13 && !memcmp(buf_bytes(&back), "A=1\0B=\0C=x\ny\0", 13));
	CHECK(env_parse("A=1\0\n", 6, &again, &err) == -EINVAL);
	buf_release(&env);
	buf_release(&back);
	buf_release(&again);
}

/* As many as fit a write: sorted, not compared with each other. */
static void many_variables_merge_quickly(void)
{
	struct buf text = { 0 }, env = { 0 };
	struct err err;
	unsigned i;

	for (i = 0; i < 100000; i++)
		buf_printf(&text, "V%u=%u\n", i % 50000, i);
	CHECK(!env_parse((const char *)buf_bytes(&text), text.len, &env, &err));
	CHECK(!memcmp(buf_bytes(&env), "V0=50000\nV1=50001\n", 18));
	CHECK(env_fits(&env, &err) == -E2BIG);
	buf_release(&text);
	buf_release(&env);
}

static void values_have_quotes(void)
{
	struct words c;

	CHECK(!parse("fork w env.A=\"two  words\" env.B=\"\" env.C=\"a\\nb\\t\\\"c\\\\\"", &c) && c.n == 5);
	CHECK(!strcmp(c.word[2], "env.A=two  words") && !strcmp(c.word[3], "env.B="));
	CHECK(!strcmp(c.word[4], "env.C=a\nb\t\"c\\") && !c.word[5]);
	/* Elsewhere they are letters. */
	CHECK(!parse("x env.J={\"a\":1} env.K=it's\"so\" \"y", &c) && c.n == 4);
	CHECK(!strcmp(c.word[1], "env.J={\"a\":1}") && !strcmp(c.word[2], "env.K=it's\"so\"") &&
	      !strcmp(c.word[3], "\"y"));
	CHECK(parse("x a=\"", &c) == -EINVAL);
	CHECK(parse("x a=\"b", &c) == -EINVAL);
	CHECK(parse("x a=\"b\"c", &c) == -EINVAL);
	CHECK(parse("x a=\"\\", &c) == -EINVAL);
	CHECK(parse("x a=\"\\x\"", &c) == -EINVAL);
}

static int overrides(const char *text, bool fresh, struct overrides *ret)
{
	struct words c;
	struct err err;
	int rc;

	overrides_release(ret);
	*ret = (struct overrides){ 0 };
	rc = parse(text, &c);
	return rc ? rc : overrides_parse(c.word, fresh, ret, &err);
}

static void overrides_are_parsed(void)
{
	struct shape m = { .memory = 512u << 20, .memory_max = 1u << 30, .cpus = 1, .cpus_max = 2 };
	struct overrides o = { 0 };
	struct err err;

	CHECK(!overrides("memory=512M cpus=1 env.A=x env.A=y", false, &o));
	CHECK(o.shape.memory == 512u << 20 && o.env.len == 4 && !memcmp(buf_bytes(&o.env), "A=y\n", 4));
	CHECK(!overrides_apply(&o.shape, &m, &err) && m.memory == 512u << 20);
	CHECK(!overrides("memory=64G", false, &o) && overrides_apply(&o.shape, &m, &err) == -ERANGE);
	CHECK(m.memory == 512u << 20 && strstr(err.text, "1024M"));
	CHECK(!overrides("cpus=2", false, &o) && !overrides_apply(&o.shape, &m, &err));
	CHECK(m.cpus == 2 && m.memory == 512u << 20);
	CHECK(overrides("image=base", false, &o) == -EINVAL);
	CHECK(!overrides("image=base memory_max=2G", true, &o));
	CHECK(overrides("colour=red", true, &o) == -EINVAL);
	CHECK(overrides("a-very-long-key-indeed=1", true, &o) == -EINVAL);
	CHECK(overrides("word", true, &o) == -EINVAL);
	CHECK(overrides("env.1=x", true, &o) == -EINVAL);
	overrides_release(&o);
}

static void links_stay_inside(void)
{
	static const struct {
		const char *dir, *target, *expect;
	} cases[] = {
		/* as they are */
		{ "/root/work", "f", "f" },
		{ "/root/work", "../x", "../x" },
		{ "/root/work", "..", ".." },
		{ "/root/work", "./.././x/", "./.././x/" },
		{ "/root/work", ".", "." },
		{ "/root/work", "..x/...", "..x/..." },
		{ "/", "etc/passwd", "etc/passwd" },
		/* absolute */
		{ "/root/work", "/etc/passwd", "/sbx/v/fs/etc/passwd" },
		{ "/root/work", "/", "/sbx/v/fs" },
		{ "/", "/etc", "etc" },
		{ "/", "/", "." },
		{ "/root", "/", ".." },
		{ "/root", "/../../etc//./x/", "../etc/x" },
		/* more than one up, or after a name: a rename could lead it astray */
		{ "/root/work", "../..", "/sbx/v/fs" },
		{ "/root/work/deep", "../../x", "/sbx/v/fs/root/x" },
		{ "/root/work", "a/b/../c", "/sbx/v/fs/root/work/a/c" },
		{ "/root/work", ".././../x", "/sbx/v/fs/x" },
		/* too far up */
		{ "/root/work", "../../../etc/passwd", "/sbx/v/fs/etc/passwd" },
		{ "/root/work", "../../..", "/sbx/v/fs" },
		{ "/", "..", "." },
		{ "/", "../etc", "etc" },
		{ "/root", "../../../etc", "../etc" },
		{ "/root/work", "x/../../../../../etc/passwd", "/sbx/v/fs/etc/passwd" },
	};
	char got[64];
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		CHECK(!symlink_rewrite("/sbx/v/fs", cases[i].dir, cases[i].target, got, sizeof(got)));
		CHECK(!strcmp(got, cases[i].expect));
	}
	CHECK(symlink_rewrite("/r", "/a/b", "/bcdef", got, 8) == -ENAMETOOLONG);
	CHECK(symlink_rewrite("/r", "/a", "bcdefghij", got, 8) == -ENAMETOOLONG);
}

static void links_are_written_as_the_guest_sees_them(void)
{
	static const struct {
		const char *target, *expect;
	} cases[] = {
		{ "/m/sbx/v/fs/etc/x", "/etc/x" },
		{ "/m/sbx/v/fs", "/" },
		{ "/m/sbx/snapshots/s/fs/a", "/a" },
		{ "/m/sbx/v/snapshots/1/fs/a", "/a" },
		{ "/m/sbx/v/fsx/etc", "/m/sbx/v/fsx/etc" },
		{ "/m/sbx/v/exec/fs/etc", "/m/sbx/v/exec/fs/etc" },
		{ "/m/sbx", "/m/sbx" },
		{ "/m/sbxx/v/fs/etc", "/m/sbxx/v/fs/etc" },
		{ "/etc/x", "/etc/x" },
		{ "m/sbx/v/fs", "m/sbx/v/fs" },
		{ "../x", "../x" },
	};
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		CHECK(!strcmp(symlink_written("/m/sbx", cases[i].target), cases[i].expect));
}

int main(void)
{
	TEST(words_are_split);
	TEST(one_write_is_one_line);
	TEST(verbs_are_found);
	TEST(machines_are_checked);
	TEST(environments_are_lines);
	TEST(environments_have_any_value);
	TEST(many_variables_merge_quickly);
	TEST(values_have_quotes);
	TEST(overrides_are_parsed);
	TEST(links_stay_inside);
	TEST(links_are_written_as_the_guest_sees_them);
	return 0;
}
