/* SPDX-License-Identifier: MIT */
/* err.c - an errno together with the sentence that explains it */
#include "util/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

__attribute__((format(printf, 3, 0))) static void put(struct err *err, int code, const char *fmt, va_list ap)
{
	err->code = code;
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
}

static void append(struct err *err, const char *why)
{
	const size_t n = strlen(err->text);

	snprintf(err->text + n, sizeof(err->text) - n, ": %s", why);
}

void err_record(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return;
	va_start(ap, fmt);
	put(err, code, fmt, ap);
	va_end(ap);
}

void err_explain(struct err *err, int code)
{
	if (err)
		append(err, strerror(-code));
}

void err_prefix(struct err *err, const char *fmt, ...)
{
	char rest[ERR_TEXT_MAX];
	va_list ap;

	if (!err)
		return;
	memcpy(rest, err->text, sizeof(rest));
	va_start(ap, fmt);
	put(err, err->code, fmt, ap);
	va_end(ap);
	append(err, rest);
}
