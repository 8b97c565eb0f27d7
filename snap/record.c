/* SPDX-License-Identifier: MIT */
/* record.c - small text files of `key value` lines that know when they are damaged */
#include "snap/record.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

/* "checksum ", 16 digits, newline */
enum { TAIL_LEN = 9 + 16 + 1 };

static void make_tail(const void *data, size_t n, char ret[TAIL_LEN + 1])
{
	snprintf(ret, TAIL_LEN + 1, "checksum %016" PRIx64 "\n", (uint64_t)XXH3_64bits(data, n));
}

void record_begin(struct buf *buf, const char *kind, unsigned version)
{
	buf_printf(buf, "%s %u\n", kind, version);
}

static bool plain(unsigned char c)
{
	return c >= 0x20 && c != 0x7f && c != '%';
}

void record_add(struct buf *buf, const char *key, const char *fmt, ...)
{
	struct buf value = { 0 };
	va_list ap;
	void *p;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	p = n < 0 ? NULL : buf_reserve(&value, (size_t)n + 1);
	if (!p) {
		buf->failed = true;
		return;
	}
	va_start(ap, fmt);
	vsnprintf(p, (size_t)n + 1, fmt, ap);
	va_end(ap);
	buf_grow(&value, (size_t)n);

	buf_printf(buf, "%s ", key);
	for (size_t i = 0; i < value.len; i++) {
		unsigned char c = buf_bytes(&value)[i];

		if (plain(c))
			buf_put_u8(buf, c);
		else
			buf_printf(buf, "%%%02X", c);
	}
	buf_put_u8(buf, '\n');
	buf_release(&value);
}

void record_end(struct buf *buf)
{
	char tail[TAIL_LEN + 1];

	if (buf->failed)
		return;
	make_tail(buf_bytes(buf), buf->len, tail);
	buf_add(buf, tail, TAIL_LEN);
}

static int hex(char c)
{
	static const char digits[] = "0123456789ABCDEF";
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* Undo what record_add did, in place. */
static void unescape(char *s)
{
	char *to = s;

	for (; *s; s++) {
		if (*s == '%') {
			*to++ = (char)(hex(s[1]) << 4 | hex(s[2]));
			s += 2;
		} else {
			*to++ = *s;
		}
	}
	*to = '\0';
}

/* Cut the line at *at into key and value; lines_valid has seen it. */
static void cut(char **at, char *end, const char **key, char **value)
{
	char *newline = memchr(*at, '\n', (size_t)(end - *at));

	*newline = '\0';
	*key = *at;
	*value = strchr(*at, ' ');
	*(*value)++ = '\0';
	*at = newline + 1;
}

/* Whether record_add could have written the line. */
static bool line_valid(const char *at, const char *newline)
{
	const char *space = memchr(at, ' ', (size_t)(newline - at));

	if (!space || space == at)
		return false;
	for (; at < newline; at++) {
		if (*at == '%') {
			if (newline - at < 3 || hex(at[1]) < 0 || hex(at[2]) < 0 || !(hex(at[1]) | hex(at[2])))
				return false;
		} else if (!plain((unsigned char)*at)) {
			return false;
		}
	}
	return true;
}

static bool lines_valid(const char *text, const char *end)
{
	const char *newline;

	for (; text < end; text = newline + 1) {
		newline = memchr(text, '\n', (size_t)(end - text));
		if (!newline || !line_valid(text, newline))
			return false;
	}
	return true;
}

int record_open(struct record *record, char *text, size_t n, const char *kind, unsigned version,
		struct err *err)
{
	char head[64], tail[TAIL_LEN + 1];
	const char *key;
	char *value;

	if (n < TAIL_LEN)
		return err_set(err, -EIO, "is damaged: too short");
	make_tail(text, n - TAIL_LEN, tail);
	if (memcmp(text + n - TAIL_LEN, tail, TAIL_LEN) || !lines_valid(text, text + n - TAIL_LEN) ||
	    n == TAIL_LEN)
		return err_set(err, -EIO, "is damaged: its checksum is wrong");
	record->at = text;
	record->end = text + n - TAIL_LEN;
	cut(&record->at, record->end, &key, &value);
	snprintf(head, sizeof(head), "%u", version);
	if (strcmp(key, kind))
		return err_set(err, -EINVAL, "is not a record of kind %s", kind);
	if (strcmp(value, head))
		return err_set(err, -EINVAL, "has version %.16s, this sbxfs reads version %s", value, head);
	return 0;
}

bool record_next(struct record *record, const char **key, char **value)
{
	if (record->at >= record->end)
		return false;
	cut(&record->at, record->end, key, value);
	unescape(*value);
	return true;
}
