/* SPDX-License-Identifier: MIT */
#include "util/buf.h"

#include <string.h>

#include "tests/unit/unit.h"

static void added_bytes_come_out_in_order(void)
{
	struct buf buf = { 0 };
	uint8_t in, out;
	unsigned i, taken = 0;

	/* Adds faster than it takes, so that the start moves while the buffer grows. */
	for (i = 0; i < 100000; i++) {
		in = (uint8_t)(i * 7);
		buf_add(&buf, &in, 1);
		if (i % 3 == 0)
			continue;
		out = *buf_bytes(&buf);
		CHECK(out == (uint8_t)(taken * 7));
		buf_consume(&buf, 1);
		taken++;
	}
	CHECK(!buf.failed);
	CHECK(buf.len == 100000 - taken);
	buf_consume(&buf, buf.len);
	CHECK(buf.len == 0);
	buf_release(&buf);
}

static void room_is_claimed_only_by_grow(void)
{
	struct buf buf = { 0 };
	char *room = buf_reserve(&buf, 1000);

	CHECK(room);
	memset(room, 'x', 1000);
	CHECK(buf.len == 0);
	buf_grow(&buf, 600);
	CHECK(buf.len == 600);
	CHECK(buf_bytes(&buf)[599] == 'x');
	buf_clear(&buf);
	CHECK(buf.len == 0);
	buf_release(&buf);
}

static void text_of_any_length(void)
{
	struct buf buf = { 0 };
	char long_text[5000];

	memset(long_text, 'a', sizeof(long_text) - 1);
	long_text[sizeof(long_text) - 1] = '\0';
	buf_printf(&buf, "%d %s", 42, "and");
	CHECK(buf.len == 6 && !memcmp(buf_bytes(&buf), "42 and", 6));
	buf_printf(&buf, "%s", long_text);
	CHECK(buf.len == 6 + sizeof(long_text) - 1);
	CHECK(!memcmp(buf_bytes(&buf) + 6, long_text, sizeof(long_text) - 1));
	buf_printf(&buf, "%s", "");
	CHECK(buf.len == 6 + sizeof(long_text) - 1);
	buf_release(&buf);
}

static void numbers_are_little_endian(void)
{
	static const uint8_t want[] = { 0x11, 0x33, 0x22, 0x77, 0x66, 0x55, 0x44, 8, 7, 6, 5, 4, 3, 2, 1 };
	struct buf buf = { 0 };

	buf_put_u8(&buf, 0x11);
	buf_put_u16(&buf, 0x2233);
	buf_put_u32(&buf, 0x44556677);
	buf_put_u64(&buf, 0x0102030405060708);
	CHECK(buf.len == sizeof(want));
	CHECK(!memcmp(buf_bytes(&buf), want, sizeof(want)));
	buf_release(&buf);
}

static void what_was_put_is_got(void)
{
	struct buf buf = { 0 };
	struct reader r;
	const uint8_t *bytes;
	char text[8];
	size_t n;

	buf_put_u8(&buf, 200);
	buf_put_u16(&buf, 60000);
	buf_put_u32(&buf, 4000000000u);
	buf_put_u64(&buf, UINT64_MAX - 1);
	buf_put_bytes(&buf, "a\0b", 3);
	buf_put_str(&buf, "seven.7");
	buf_put_str(&buf, "");
	r = reader_init(buf_bytes(&buf), buf.len);
	CHECK(get_u8(&r) == 200);
	CHECK(get_u16(&r) == 60000);
	CHECK(get_u32(&r) == 4000000000u);
	CHECK(get_u64(&r) == UINT64_MAX - 1);
	bytes = get_bytes(&r, &n);
	CHECK(n == 3 && !memcmp(bytes, "a\0b", 3));
	get_str(&r, text, sizeof(text));
	CHECK(!strcmp(text, "seven.7"));
	get_str(&r, text, sizeof(text));
	CHECK(!strcmp(text, ""));
	CHECK(!r.bad && reader_left(&r) == 0);
	buf_release(&buf);
}

/* Every prefix of a good message is bad, and reading it stays inside it (the sanitizers would see). */
static void short_input_is_bad(void)
{
	struct buf buf = { 0 };
	uint8_t *copy;
	size_t cut, n;
	char text[16];
	struct reader r;

	buf_put_u32(&buf, 7);
	buf_put_str(&buf, "hello");
	buf_put_bytes(&buf, "xyz", 3);
	buf_put_u64(&buf, 9);
	for (cut = 0; cut < buf.len; cut++) {
		copy = malloc(cut ? cut : 1);
		CHECK(copy);
		memcpy(copy, buf_bytes(&buf), cut);
		r = reader_init(copy, cut);
		get_u32(&r);
		get_str(&r, text, sizeof(text));
		CHECK(get_bytes(&r, &n));
		get_u64(&r);
		CHECK(r.bad);
		free(copy);
	}
	buf_release(&buf);
}

static void a_bad_reader_yields_nothing(void)
{
	static const uint8_t three[] = { 1, 2, 3 };
	struct reader r = reader_init(three, sizeof(three));
	char text[4] = "abc";
	size_t n = 99;

	CHECK(get_u32(&r) == 0 && r.bad);
	CHECK(get_u8(&r) == 0);
	CHECK(get_bytes(&r, &n) && n == 0);
	get_str(&r, text, sizeof(text));
	CHECK(!strcmp(text, ""));
}

static void strings_too_long_or_with_nul_are_bad(void)
{
	struct buf buf = { 0 };
	struct reader r;
	char text[4];

	buf_put_str(&buf, "four");
	r = reader_init(buf_bytes(&buf), buf.len);
	get_str(&r, text, sizeof(text));
	CHECK(r.bad && !strcmp(text, ""));
	buf_clear(&buf);
	buf_put_bytes(&buf, "a\0b", 3);
	r = reader_init(buf_bytes(&buf), buf.len);
	get_str(&r, text, sizeof(text));
	CHECK(r.bad);
	buf_release(&buf);
}

static void a_length_near_the_limit_does_not_wrap(void)
{
	static const uint8_t huge[] = { 0xff, 0xff, 0xff, 0xff, 'x' };
	struct reader r = reader_init(huge, sizeof(huge));
	size_t n;

	CHECK(get_bytes(&r, &n) && n == 0 && r.bad);
}

int main(void)
{
	TEST(added_bytes_come_out_in_order);
	TEST(room_is_claimed_only_by_grow);
	TEST(text_of_any_length);
	TEST(numbers_are_little_endian);
	TEST(what_was_put_is_got);
	TEST(short_input_is_bad);
	TEST(a_bad_reader_yields_nothing);
	TEST(strings_too_long_or_with_nul_are_bad);
	TEST(a_length_near_the_limit_does_not_wrap);
	return 0;
}
