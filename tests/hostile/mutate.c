/* SPDX-License-Identifier: MIT */
/* mutate.c - answers that are nearly right */
#include "tests/hostile/mutate.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

enum { HELD_MAX = 8, OLD_MAX = 64 };

struct answer {
	uint16_t type, generation;
	uint32_t id;
	struct buf payload;
};

static uint64_t state;
static struct answer held[HELD_MAX], old[OLD_MAX];
static unsigned n_held, n_old;

/* Marsaglia, Xorshift RNGs, 2003, with the multiplication of xorshift64*. */
static uint64_t chance(void)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 2685821657736338717u >> 16;
}

static size_t below(size_t n)
{
	return n ? (size_t)(chance() % n) : 0;
}

void mutate_start(uint64_t seed)
{
	state = seed;
}

static uint64_t odd_number(void)
{
	static const uint64_t odd[] = {
		0,     1,     2,          7,          0xff,       0x7fff,     0xffff,        0x10000,
		4095,  4096,  0x7fffffff, 0x80000000, 0xffffffff, UINT64_MAX, INT64_MAX,     1ull << 63,
		65515, 65536, 0100644,    0040755,    0120777,    0xfffffff0, 0x100000000ull
	};

	return below(4) ? odd[below(sizeof(odd) / sizeof(*odd))] : chance();
}

static void set_number(struct buf *payload)
{
	const uint64_t number = htole64(odd_number());
	const size_t size = (size_t)1 << below(4);

	if (payload->len >= size)
		memcpy(buf_bytes(payload) + below(payload->len - size + 1), &number, size);
}

static void add_garbage(struct buf *payload, size_t n)
{
	if (payload->len + n > PROTO_PAYLOAD_MAX)
		n = PROTO_PAYLOAD_MAX - payload->len;
	while (n--)
		buf_put_u8(payload, below(3) ? (uint8_t)chance() : 0);
}

static void change(struct buf *payload)
{
	static const uint32_t stale = PROTO_STALE;
	const struct answer *other = &old[below(OLD_MAX)];
	uint32_t code;
	size_t i, n;

	switch (below(9)) {
	case 0: /* an errno; results may follow it */
		code = htole32(below(3) ? (uint32_t)below(200) : (uint32_t)odd_number());
		if (!below(8))
			code = htole32(stale);
		if (payload->len >= 4)
			memcpy(buf_bytes(payload), &code, 4);
		break;
	case 1:
		payload->len = below(payload->len + 1);
		break;
	case 2:
		add_garbage(payload, 1 + below(64));
		break;
	case 3:
		add_garbage(payload, below(PROTO_PAYLOAD_MAX));
		break;
	case 4: /* what another operation is answered with */
		if (other->type) {
			buf_clear(payload);
			buf_add(payload, buf_bytes(&other->payload), other->payload.len);
		}
		break;
	case 5:
		buf_clear(payload);
		add_garbage(payload, below(300));
		break;
	case 6:
		for (n = 1 + below(4); n && payload->len; n--)
			buf_bytes(payload)[below(payload->len)] ^= (uint8_t)(1u << below(8));
		break;
	default: /* most: success, and one or more fields that are not what they should be */
		for (i = 0; i < 1 + below(3); i++)
			set_number(payload);
	}
}

static void remember(const struct answer *answer)
{
	struct answer *to = &old[n_old++ % OLD_MAX];

	buf_release(&to->payload);
	*to = *answer;
	to->payload = (struct buf){ 0 };
	buf_add(&to->payload, buf_bytes(&answer->payload), answer->payload.len);
}

static void put(struct buf *out, const struct answer *answer, uint16_t type, uint16_t generation, uint32_t id)
{
	frame_put(out, type, generation, id, buf_bytes(&answer->payload), answer->payload.len);
}

/* Frames that nobody waits for, and bytes that are none. */
static void put_noise(struct buf *out, const struct answer *answer)
{
	static const uint16_t types[] = {
		F_READY,      F_ATTACHED,   F_QUIESCED,   F_PONG,     F_JOB_STARTED,   F_JOB_STDIN_MAX,
		F_JOB_STDOUT, F_JOB_STDERR, F_JOB_EXIT,   F_JOB_INFO, F_JOB_PART,      F_JOB_LIST_END,
		F_FS_REPLY,   F_RESIZED,    F_CLOCKED,    F_FS,       F_JOB_STDIN_EOF, 0,
		F_HOOKS,      F_GUEST_ASK,  F_GUEST_DONE, F_MODULES,  0xffff
	};
	const struct answer *other = &old[below(OLD_MAX)];
	const size_t at = out->len;
	size_t i;

	switch (below(6)) {
	case 0: /* twice */
		put(out, answer, answer->type, answer->generation, answer->id);
		break;
	case 1: /* in the name of a request that is answered, or is to come */
		put(out, answer, answer->type, answer->generation, answer->id + (uint32_t)below(9) - 4);
		break;
	case 2: /* another's answer once more */
		if (other->type)
			put(out, other, other->type, answer->generation, other->id);
		break;
	case 3:
		put(out, answer, types[below(sizeof(types) / sizeof(*types))], answer->generation,
		    below(2) ? answer->id : (uint32_t)below(20));
		break;
	case 4:
		put(out, answer, answer->type, (uint16_t)(answer->generation + below(5) - 2), answer->id);
		break;
	default: /* a frame of few bytes with something wrong in it, or half of one */
		frame_put(out, answer->type, answer->generation, answer->id, "hostile", below(8));
		i = below(out->len - at);
		buf_bytes(out)[at + i] ^= (uint8_t)(1 + below(255));
		if (i >= PROTO_HEADER - 4 &&
		    i < PROTO_HEADER) /* a length: the parser would wait for all of it */
			buf_bytes(out)[at] ^= 1;
		out->len -= below(out->len - at - PROTO_HEADER);
	}
}

void mutate(struct buf *out, uint16_t type, uint16_t generation, uint32_t id, const uint8_t *payload,
	    size_t len)
{
	struct answer answer = { type, generation, id, { 0 } };

	buf_add(&answer.payload, payload, len);
	remember(&answer);
	while (!below(3))
		put_noise(out, &answer);
	if (below(3))
		change(&answer.payload);
	if (n_held < HELD_MAX && !below(4)) {
		held[n_held++] = answer;
		return;
	}
	put(out, &answer, type, generation, id);
	buf_release(&answer.payload);
	while (!below(4))
		put_noise(out, &old[(n_old - 1) % OLD_MAX]);
	if (!below(3))
		mutate_release(out);
}

void mutate_release(struct buf *out)
{
	while (n_held) {
		struct answer *answer = &held[--n_held];

		put(out, answer, answer->type, answer->generation, answer->id);
		buf_release(&answer->payload);
	}
}
