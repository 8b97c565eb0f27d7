/* SPDX-License-Identifier: MIT */
/*
 * fuzz_net_filter.c - frames of a hostile guest, answers of hostile resolvers, and rules of any text
 *
 * What goes on to the stack is held against a second, simpler opinion: whole, from the guest's address, and to
 * one that the mode allows.
 */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "util/buf.h"
#include "vm/net/filter.h"
#include "vm/net/link.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct filter filter;
static struct flow_board board;
static struct dns_client client;
static bool asked, cutting; /* a policy is being set: what it ends is told to the stack */

static void to_guest(void *arg, const uint8_t *frame, size_t n)
{
	(void)arg;
	(void)frame;
	if (n < ETH_HEADER || n > LINK_FRAME_MAX)
		abort();
}

/* Did the stack, which is trusted, say that somebody there connected to the guest? */
static bool is_inbound(const uint8_t *ip)
{
	const struct net_addr to = net_addr_v4(ip + 16);
	unsigned i;

	for (i = 0; i < FLOWS_MAX; i++)
		if (board.flow[i].state && board.flow[i].inbound && net_addr_equal(&board.flow[i].peer, &to))
			return true;
	return false;
}

static void check_ip4(const uint8_t *ip, size_t n)
{
	static const uint8_t guest[] = { 10, 0, 2, 15 };

	if (ip[0] != 0x45 || n != (size_t)(ip[2] << 8 | ip[3]) || (ip[6] & 0x3f) || ip[7] ||
	    memcmp(ip + 12, guest, 4) != 0)
		abort();
	if (is_inbound(ip))
		return;
	if (ip[16] == 127 || ip[16] == 0 || ip[16] >= 224 || filter.policy.mode == NET_NONE)
		abort();
	/* Of the link the gateway alone, and that if a rule has it. */
	if (ip[16] == 10 && !ip[17] && ip[18] == 2 && (ip[19] != 2 || !filter.policy.rules.n))
		abort();
}

static void to_stack(void *arg, const uint8_t *frame, size_t n)
{
	static const uint8_t guest6[16] = { 0xfd, [15] = 0x15 };
	const uint8_t *ip = frame + ETH_HEADER;

	(void)arg;
	if (n < ETH_HEADER + 28)
		abort();
	if (frame[12] == 8 && frame[13] == 6)
		return;
	if (frame[12] == 8 && frame[13] == 0) {
		if (!cutting)
			check_ip4(ip, n - ETH_HEADER);
		return;
	}
	if (frame[12] != 0x86 || frame[13] != 0xdd || n < ETH_HEADER + IP6_HEADER ||
	    (ip[6] != IPPROTO_TCP && ip[6] != IPPROTO_UDP && ip[6] != IPPROTO_ICMPV6))
		abort();
	if (ip[6] != IPPROTO_ICMPV6 && memcmp(ip + 8, guest6, 16) != 0)
		abort();
}

static void denied(void *arg, const struct denial *denial)
{
	(void)arg;
	if (!denial->why || !*denial->why)
		abort();
}

static void query(void *arg, const struct dns_client *who, const uint8_t *msg, size_t n)
{
	(void)arg;
	(void)msg;
	if (n < who->question.end)
		abort();
	client = *who;
	asked = true;
}

static uint32_t number(void *arg)
{
	(void)arg;
	return 12345;
}

static bool own(const struct net_addr *addr)
{
	return addr->bytes[0] == 42;
}

static void set_policy(struct reader *r)
{
	struct rules rules;
	size_t n = get_u8(r);
	const uint8_t mode = get_u8(r) % NET_MODES;

	n = n < reader_left(r) ? n : reader_left(r);
	cutting = true;
	if (!rules_parse((const char *)r->p, n, &rules, NULL))
		filter_set_policy(&filter, mode, &rules, 1);
	cutting = false;
	rules_release(&rules);
	r->p += n;
}

static void act(struct reader *r)
{
	static uint8_t frame[LINK_FRAME_MAX + 64];
	const uint8_t what = get_u8(r);
	size_t n = get_u16(r) % (reader_left(r) < 600 ? reader_left(r) + 1 : 600);
	uint8_t *exact = malloc(n ? n : 1); /* so that the sanitizer sees a byte too many */

	if (!exact)
		abort();
	memcpy(frame, r->p, n);
	memcpy(exact, r->p, n);
	r->p += n;
	switch (what % 6) {
	case 0:
	case 1:
		if (n >= PACKET_LOOK)
			(void)packet_needs_nobody(exact, n);
		filter_from_guest(&filter, exact, n, what);
		break;
	case 2:
		filter_from_stack(&filter, exact, n, what);
		break;
	case 3:
		if (asked)
			filter_answer(&filter, &client, exact, n, what);
		break;
	case 4:
		if (asked)
			filter_no_answer(&filter, &client);
		flows_sweep(&filter.flows, (uint64_t)what << 33);
		break;
	case 5:
		set_policy(r);
		break;
	}
	free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct filter_calls calls = { to_guest, to_stack, denied, query, number, NULL };
	struct reader r = reader_init(data, size);
	struct buf text = { 0 };
	unsigned i;

	/* Only what was used: the table is large. */
	for (i = 0; i < 64; i++)
		memset(&board.flow[i], 0, sizeof(board.flow[i]));
	board.used = 0;
	memset(&filter, 0, sizeof(filter));
	filter_init(&filter, &calls, &board, own);
	asked = false;
	set_policy(&r);
	for (i = 0; i < 60 && reader_left(&r); i++)
		act(&r);
	flows_show(&board, &text);
	buf_release(&text);
	filter_release(&filter);
	return 0;
}
