/* SPDX-License-Identifier: MIT */
/* buf.c - a growable byte buffer, and little-endian encoding into and out of one */
#include "util/buf.h"

#include <endian.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_release(struct buf *buf)
{
	free(buf->data);
	*buf = (struct buf){ 0 };
}

void *buf_reserve(struct buf *buf, size_t n)
{
	size_t need, size;
	uint8_t *data;

	if (buf->failed)
		return NULL;
	if (buf->start && buf->start + buf->len + n > buf->size) {
		memmove(buf->data, buf->data + buf->start, buf->len);
		buf->start = 0;
	}
	if (__builtin_add_overflow(buf->start + buf->len, n, &need))
		goto fail;
	if (need > buf->size || !buf->data) {
		size = buf->size ? buf->size : 256;
		while (size < need)
			if (__builtin_mul_overflow(size, 2, &size))
				goto fail;
		data = realloc(buf->data, size);
		if (!data)
			goto fail;
		buf->data = data;
		buf->size = size;
	}
	return buf->data + buf->start + buf->len;
fail:
	buf->failed = true;
	return NULL;
}

void buf_grow(struct buf *buf, size_t n)
{
	buf->len += n;
}

void buf_add(struct buf *buf, const void *data, size_t n)
{
	void *p = buf_reserve(buf, n);

	if (!p || !n)
		return;
	memcpy(p, data, n);
	buf->len += n;
}

void buf_consume(struct buf *buf, size_t n)
{
	buf->start += n;
	buf->len -= n;
	if (!buf->len)
		buf->start = 0;
}

void buf_clear(struct buf *buf)
{
	buf->start = buf->len = 0;
	buf->failed = false;
}

void buf_printf(struct buf *buf, const char *fmt, ...)
{
	va_list ap;
	void *p;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	p = buf_reserve(buf, (size_t)n + 1);
	if (!p)
		return;
	va_start(ap, fmt);
	vsnprintf(p, (size_t)n + 1, fmt, ap);
	va_end(ap);
	buf->len += (size_t)n;
}

void buf_put_u8(struct buf *buf, uint8_t v)
{
	buf_add(buf, &v, sizeof(v));
}

void buf_put_u16(struct buf *buf, uint16_t v)
{
	v = htole16(v);
	buf_add(buf, &v, sizeof(v));
}

void buf_put_u32(struct buf *buf, uint32_t v)
{
	v = htole32(v);
	buf_add(buf, &v, sizeof(v));
}

void buf_put_u64(struct buf *buf, uint64_t v)
{
	v = htole64(v);
	buf_add(buf, &v, sizeof(v));
}

void buf_put_bytes(struct buf *buf, const void *data, size_t n)
{
	if (n > UINT32_MAX) {
		buf->failed = true;
		return;
	}
	buf_put_u32(buf, (uint32_t)n);
	buf_add(buf, data, n);
}

void buf_put_str(struct buf *buf, const char *s)
{
	buf_put_bytes(buf, s, strlen(s));
}

static bool take(struct reader *r, void *ret, size_t n)
{
	if (r->bad || reader_left(r) < n) {
		r->bad = true;
		memset(ret, 0, n);
		return false;
	}
	memcpy(ret, r->p, n);
	r->p += n;
	return true;
}

uint8_t get_u8(struct reader *r)
{
	uint8_t v;

	take(r, &v, sizeof(v));
	return v;
}

uint16_t get_u16(struct reader *r)
{
	uint16_t v;

	take(r, &v, sizeof(v));
	return le16toh(v);
}

uint32_t get_u32(struct reader *r)
{
	uint32_t v;

	take(r, &v, sizeof(v));
	return le32toh(v);
}

uint64_t get_u64(struct reader *r)
{
	uint64_t v;

	take(r, &v, sizeof(v));
	return le64toh(v);
}

const uint8_t *get_bytes(struct reader *r, size_t *ret_n)
{
	const uint32_t n = get_u32(r);
	const uint8_t *p = r->p;

	if (r->bad || reader_left(r) < n) {
		r->bad = true;
		*ret_n = 0;
		return (const uint8_t *)"";
	}
	r->p += n;
	*ret_n = n;
	return p;
}

void get_str(struct reader *r, char *ret, size_t size)
{
	size_t n;
	const uint8_t *p = get_bytes(r, &n);

	ret[0] = '\0';
	if (r->bad || n >= size || memchr(p, '\0', n)) {
		r->bad = true;
		return;
	}
	memcpy(ret, p, n);
	ret[n] = '\0';
}
