/* SPDX-License-Identifier: MIT */
/* dns.c - messages of the domain name system, as far as a relay has to understand them */
#include "vm/net/dns.h"

#include <ctype.h>
#include <string.h>

#include "vm/net/bytes.h"

enum {
	QR = 0x8000,
	OPCODE = 0x7800,
	RD = 0x0100,
	RA = 0x0080,
	CLASS_IN = 1,
	TYPE_A = 1,
	TYPE_AAAA = 28,
	POINTER = 0xc0,
	LABEL_MAX = 63,
	RECORD = 10, /* type, class, ttl and length of a record */
};

/* A name without pointers, as questions have it. Its end, or 0. */
static size_t take_name(const uint8_t *msg, size_t n, size_t at, char ret[NAME_TEXT_MAX + 1])
{
	size_t len, out = 0, i;

	while (at < n && msg[at]) {
		len = msg[at++];
		if (len > LABEL_MAX || len >= n - at || out + len + 1 > NAME_TEXT_MAX)
			return 0;
		if (out)
			ret[out++] = '.';
		for (i = 0; i < len; i++, at++) {
			if (!isalnum(msg[at]) && msg[at] != '-' && msg[at] != '_')
				return 0;
			ret[out++] = (char)tolower(msg[at]);
		}
	}
	ret[out] = 0;
	return at < n ? at + 1 : 0;
}

/* Behind a name that may end with a pointer; 0: it does not fit. */
static size_t skip_name(const uint8_t *msg, size_t n, size_t at)
{
	while (at < n) {
		if ((msg[at] & POINTER) == POINTER)
			return at + 2 <= n ? at + 2 : 0;
		if (msg[at] > LABEL_MAX)
			return 0;
		if (!msg[at])
			return at + 1;
		at += 1 + (size_t)msg[at];
	}
	return 0;
}

static bool take_question(const uint8_t *msg, size_t n, struct dns_question *ret)
{
	size_t at;

	if (n < DNS_HEADER || n > DNS_MESSAGE_MAX || get16(msg + 4) != 1)
		return false;
	at = take_name(msg, n, DNS_HEADER, ret->name);
	if (!at || n - at < 4 || get16(msg + at + 2) != CLASS_IN)
		return false;
	ret->id = get16(msg);
	ret->type = get16(msg + at);
	ret->end = at + 4;
	return true;
}

bool dns_parse_query(const uint8_t *msg, size_t n, struct dns_question *ret)
{
	return take_question(msg, n, ret) && !(get16(msg + 2) & (QR | OPCODE)) && !get16(msg + 6);
}

bool dns_is_answer(const uint8_t *msg, size_t n, const struct dns_question *question)
{
	struct dns_question found;

	return take_question(msg, n, &found) && (get16(msg + 2) & (QR | OPCODE)) == QR &&
	       found.type == question->type && !strcmp(found.name, question->name);
}

void dns_each_address(const uint8_t *msg, size_t n,
		      void (*each)(void *arg, const struct net_addr *addr, uint32_t ttl), void *arg)
{
	struct dns_question question;
	struct net_addr addr;
	size_t at, len;
	unsigned left;

	if (!take_question(msg, n, &question))
		return;
	at = question.end;
	for (left = get16(msg + 6); left; left--) {
		at = skip_name(msg, n, at);
		if (!at || n - at < RECORD)
			return;
		len = get16(msg + at + 8);
		if (len > n - at - RECORD)
			return;
		if (get16(msg + at + 2) == CLASS_IN && ((get16(msg + at) == TYPE_A && len == 4) ||
							(get16(msg + at) == TYPE_AAAA && len == 16))) {
			addr = len == 4 ? net_addr_v4(msg + at + RECORD) : net_addr_v6(msg + at + RECORD);
			each(arg, &addr, get32(msg + at + 4));
		}
		at += RECORD + len;
	}
}

size_t dns_refusal(const uint8_t *msg, const struct dns_question *question, unsigned code, uint8_t *ret,
		   size_t size)
{
	if (question->end > size)
		return 0;
	memcpy(ret, msg, question->end);
	put16(ret + 2, QR | RA | (get16(msg + 2) & RD) | code);
	put16(ret + 4, 1);
	memset(ret + 6, 0, 6);
	return question->end;
}

void dns_set_id(uint8_t *msg, uint16_t id)
{
	put16(msg, id);
}
