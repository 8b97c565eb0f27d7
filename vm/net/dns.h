/* SPDX-License-Identifier: MIT */
/*
 * dns.h - messages of the domain name system (RFC 1035), as far as a relay has to understand them
 *
 * Pure functions on untrusted bytes. Numbers are in network order in the message.
 */
#ifndef SBX_VM_NET_DNS_H
#define SBX_VM_NET_DNS_H

#include "vm/net/address.h"
#include "vm/net/rules.h"

enum { DNS_HEADER = 12, DNS_MESSAGE_MAX = 4096, DNS_SERVFAIL = 2, DNS_REFUSED = 5 };

struct dns_question {
	uint16_t id, type;
	char name[NAME_TEXT_MAX + 1]; /* lower case, no dot at its end; "" is the root */
	size_t end;                   /* where the question ends in the message */
};

/* A standard query with one question for the Internet; false: it is none. A name with bytes other than
 * letters, digits, - and _ is none that is asked for here. */
bool dns_parse_query(const uint8_t *msg, size_t n, struct dns_question *ret);
/* Is this an answer to that question, whatever its id? */
bool dns_is_answer(const uint8_t *msg, size_t n, const struct dns_question *question);
/* Each address in an answer that dns_is_answer took. */
void dns_each_address(const uint8_t *msg, size_t n,
		      void (*each)(void *arg, const struct net_addr *addr, uint32_t ttl), void *arg);
/* An answer without records to a query; its length, at most `size`. */
size_t dns_refusal(const uint8_t *msg, const struct dns_question *question, unsigned code, uint8_t *ret,
		   size_t size);
void dns_set_id(uint8_t *msg, uint16_t id);

#endif
