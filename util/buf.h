/* SPDX-License-Identifier: MIT */
/*
 * buf.h - a growable byte buffer, and little-endian encoding into and out of one
 *
 * A zero-initialised struct buf is empty and valid. When memory runs out the buffer is marked `failed` and
 * further additions are dropped, so that a writer checks once, at its end.
 */
#ifndef SBX_UTIL_BUF_H
#define SBX_UTIL_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
	uint8_t *data; /* len bytes from data + start */
	size_t start, len, size;
	bool failed;
};

void buf_release(struct buf *buf);
/* First byte; invalid after the next addition. May be NULL when there is none. */
static inline uint8_t *buf_bytes(const struct buf *buf)
{
	return buf->data ? buf->data + buf->start : NULL;
}
/* Room for n more bytes at the end, to be written and then claimed with buf_grow; NULL when out of memory. */
void *buf_reserve(struct buf *buf, size_t n);
void buf_grow(struct buf *buf, size_t n);
void buf_add(struct buf *buf, const void *data, size_t n);
/* Drop n bytes from the front. */
void buf_consume(struct buf *buf, size_t n);
void buf_clear(struct buf *buf);
/* Formatted text, without a terminating NUL. */
void buf_printf(struct buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void buf_put_u8(struct buf *buf, uint8_t v);
void buf_put_u16(struct buf *buf, uint16_t v);
void buf_put_u32(struct buf *buf, uint32_t v);
void buf_put_u64(struct buf *buf, uint64_t v);
/* A u32 length, then the bytes. */
void buf_put_bytes(struct buf *buf, const void *data, size_t n);
void buf_put_str(struct buf *buf, const char *s);

/*
 * Reading untrusted bytes: every get checks the bounds; the first that fails marks the reader `bad`, and from
 * then on all return zero or an empty string, so that a parser checks `bad` once, before it uses what it
 * read.
 */
struct reader {
	const uint8_t *p, *end;
	bool bad;
};

static inline struct reader reader_init(const void *data, size_t n)
{
	return (struct reader){ .p = data, .end = (const uint8_t *)data + n };
}
uint8_t get_u8(struct reader *r);
uint16_t get_u16(struct reader *r);
uint32_t get_u32(struct reader *r);
uint64_t get_u64(struct reader *r);
/* Points into the reader's data; *ret_n bytes. Never NULL. */
const uint8_t *get_bytes(struct reader *r, size_t *ret_n);
/* Copies a string of at most size - 1 bytes and terminates it; a longer one or one with a NUL inside is
 * bad. */
void get_str(struct reader *r, char *ret, size_t size);
/* What is left, without a length before it. */
static inline size_t reader_left(const struct reader *r)
{
	return (size_t)(r->end - r->p);
}

#endif
