/* SPDX-License-Identifier: MIT */
/*
 * pieces.c - what a guest reads of the kernel's modules
 *
 * The guest asks for a piece and gets it: nothing is kept but what it asked for last, and nothing is read before the
 * channel is empty. One that asks without end gets a piece in each turn of the loop, as a reader of a file would.
 */
#include <errno.h>

#include "vm/agent/channel_priv.h"
#include "vm/agent/modules.h"

void agent_offer_modules(struct agent *agent, const struct modules *modules)
{
	agent->modules = modules;
	agent->offered = true;
}

bool channel_piece_asked(struct agent *agent, const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	const uint64_t offset = get_u64(&r);
	const uint32_t wanted = get_u32(&r);

	if (r.bad || wanted > PROTO_READ_BEST || !agent->offered || agent->piece.open)
		return false;
	agent->piece.open = true;
	agent->piece.id = frame->id;
	agent->piece.offset = offset;
	agent->piece.wanted = wanted;
	return true;
}

/* The payload of an F_MODULES_DATA. */
static void put_piece(struct buf *buf, const struct modules *modules, uint64_t offset, size_t wanted)
{
	uint8_t bytes[PROTO_READ_BEST];
	const ssize_t n = modules ? modules_read(modules, offset, bytes, wanted) : -ENOENT;

	buf_put_u32(buf, n < 0 ? (uint32_t)-n : 0);
	buf_put_u64(buf, modules ? modules_which(modules) : 0);
	buf_add(buf, bytes, n > 0 ? (size_t)n : 0);
}

void channel_piece_send(struct agent *agent)
{
	struct buf payload = { 0 };

	if (!agent->piece.open || agent->freed || agent->lost || agent->holding || agent->out.len)
		return;
	agent->piece.open = false;
	put_piece(&payload, agent->modules, agent->piece.offset, agent->piece.wanted);
	/* Without memory, who asked waits in vain and says so. */
	if (!payload.failed)
		(void)channel_send(agent, F_MODULES_DATA, agent->piece.id, buf_bytes(&payload), payload.len);
	buf_release(&payload);
}
