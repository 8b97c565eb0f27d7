/* SPDX-License-Identifier: MIT */
/* err.c - an errno together with the sentence that explains it */
#include "util/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/*
 * What a terminal obeys is no part of a sentence: controls of ASCII, and in UTF-8 those from U+0080 on (a CSI is U+009B).
 * Words of a guest, of a VMM that was taken over, of an archive or another user may be in it, and root reads it.
 */
static void make_plain(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = '?';
		else if ((unsigned char)text[0] == 0xc2 && ((unsigned char)text[1] & 0xe0) == 0x80)
			text[0] = text[1] = '?';
}

__attribute__((format(printf, 3, 0))) static void put(struct err *err, int code, const char *fmt, va_list ap)
{
	err->code = code;
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	make_plain(err->text);
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
