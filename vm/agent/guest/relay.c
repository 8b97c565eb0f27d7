/* SPDX-License-Identifier: MIT */
/*
 * relay.c - what programs of this machine read of the host's file of modules
 *
 * A program (modprobe.c) asks with a datagram, the payload of an F_MODULES, and gets the payload of the answer with
 * another. One is asked for at a time, and the others wait in the socket, where the kernel bounds them. What is not
 * answered when the machine becomes another is asked anew there.
 */
#include "vm/agent/guest/agent.h"

#include <sys/socket.h>

/* An older host does not answer. */
static const uint64_t patience_ns = 10000000000;

void guest_relay_asked(struct guest *guest, uint64_t now_ns)
{
	struct guest_relay *relay = &guest->relay;
	struct iovec iov = { relay->ask, sizeof(relay->ask) };
	struct msghdr msg = {
		.msg_name = &relay->from, .msg_namelen = sizeof(relay->from), .msg_iov = &iov, .msg_iovlen = 1
	};

	/* Whoever cannot be answered, or says something else, is root, and hears nothing. */
	if (recvmsg(relay->socket, &msg, MSG_DONTWAIT) != sizeof(relay->ask) || msg.msg_flags & MSG_TRUNC ||
	    !msg.msg_namelen)
		return;
	relay->from_len = msg.msg_namelen;
	relay->asked = true;
	relay->sent = false;
	relay->tag++;
	relay->deadline_ns = now_ns + patience_ns;
}

void guest_relay_again(struct guest *guest, uint64_t now_ns)
{
	guest->relay.sent = false;
	guest->relay.deadline_ns = now_ns + patience_ns;
}

void guest_relay_flush(struct guest *guest, uint64_t now_ns)
{
	struct guest_relay *relay = &guest->relay;

	if (now_ns >= relay->deadline_ns)
		relay->asked = false;
	if (!relay->asked || relay->sent || !guest_may_send(guest))
		return;
	guest_send(guest, F_MODULES, relay->tag, relay->ask, sizeof(relay->ask));
	relay->sent = true;
}

void guest_relay_frame(struct guest *guest, const struct frame *frame)
{
	struct guest_relay *relay = &guest->relay;

	if (!relay->asked || frame->id != relay->tag)
		return;
	/* It may have ended meanwhile. */
	(void)!sendto(relay->socket, frame->payload, frame->len, MSG_DONTWAIT,
		      (struct sockaddr *)&relay->from, relay->from_len);
	relay->asked = false;
}
