/* SPDX-License-Identifier: MIT */
/* err.c - an errno together with the sentence that explains it */
#include "util/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void err_record(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return;
	va_start(ap, fmt);
	err->code = code;
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
}

void err_record_sys(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;
	size_t n;

	if (!err)
		return;
	va_start(ap, fmt);
	err->code = code;
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	n = strlen(err->text);
	snprintf(err->text + n, sizeof(err->text) - n, ": %s", strerror(-code));
}

int err_prefix(struct err *err, const char *fmt, ...)
{
	char rest[ERR_TEXT_MAX];
	va_list ap;
	size_t n;

	if (!err)
		return 0;
	memcpy(rest, err->text, sizeof(rest));
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	n = strlen(err->text);
	snprintf(err->text + n, sizeof(err->text) - n, ": %s", rest);
	return err->code;
}
