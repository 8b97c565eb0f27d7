/* SPDX-License-Identifier: MIT */
/* size.c - numbers as people write them */
#include "util/size.h"

#include <errno.h>
#include <string.h>

/* Reads digits at *text and moves it behind them. */
static int digits(const char **text, uint64_t *ret)
{
	const char *p = *text;
	uint64_t n = 0;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
			return -ERANGE;
	*text = p;
	*ret = n;
	return 0;
}

int number_parse(const char *text, uint64_t *ret)
{
	uint64_t n;
	int rc = digits(&text, &n);

	if (rc)
		return rc;
	if (*text)
		return -EINVAL;
	*ret = n;
	return 0;
}

int size_parse(const char *text, uint64_t *ret)
{
	static const char units[] = "KMGT";
	const char *unit;
	uint64_t n;
	int rc = digits(&text, &n);

	if (rc)
		return rc;
	if (*text) {
		unit = strchr(units, *text & ~0x20);
		if (!unit || !*unit || text[1])
			return -EINVAL;
		if (__builtin_mul_overflow(n, (uint64_t)1 << (10 * (unit - units + 1)), &n))
			return -ERANGE;
	}
	*ret = n;
	return 0;
}
