/* SPDX-License-Identifier: MIT */
#include "util/size.h"

#include <errno.h>

#include "tests/unit/unit.h"

static uint64_t size(const char *text)
{
	uint64_t n = 12345;

	CHECK(size_parse(text, &n) == 0);
	return n;
}

static void sizes(void)
{
	CHECK(size("0") == 0);
	CHECK(size("4096") == 4096);
	CHECK(size("1K") == 1024);
	CHECK(size("1k") == 1024);
	CHECK(size("512M") == 512ull << 20);
	CHECK(size("2g") == 2ull << 30);
	CHECK(size("3T") == 3ull << 40);
	CHECK(size("18446744073709551615") == UINT64_MAX);
	CHECK(size("007") == 7);
}

static void not_sizes(void)
{
	static const char *const bad[] = { "",   " ",   "M",   "-1",  "+1",    "1.5G", "0x10", " 1",
					   "1 ", "1\n", "1MM", "1MB", "1m1",   "1P",   "1e3",  "12,",
					   "K1", "1\t", "1@",  "1`",  "1\x0b", "1[",   "1-",   "one" };
	uint64_t n = 12345;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(size_parse(bad[i], &n) == -EINVAL);
	CHECK(n == 12345);
}

static void sizes_out_of_range(void)
{
	uint64_t n = 12345;

	CHECK(size_parse("18446744073709551616", &n) == -ERANGE);
	CHECK(size_parse("99999999999999999999999999", &n) == -ERANGE);
	CHECK(size_parse("16777216T", &n) == -ERANGE);
	CHECK(size_parse("18014398509481984K", &n) == -ERANGE);
	CHECK(n == 12345);
	CHECK(size("16777215T") == 16777215ull << 40);
}

static void numbers(void)
{
	uint64_t n = 12345;

	CHECK(number_parse("42", &n) == 0 && n == 42);
	CHECK(number_parse("18446744073709551615", &n) == 0 && n == UINT64_MAX);
	CHECK(number_parse("18446744073709551616", &n) == -ERANGE);
	CHECK(number_parse("1K", &n) == -EINVAL);
	CHECK(number_parse("", &n) == -EINVAL);
	CHECK(number_parse("-1", &n) == -EINVAL);
}

int main(void)
{
	TEST(sizes);
	TEST(not_sizes);
	TEST(sizes_out_of_range);
	TEST(numbers);
	return 0;
}
