/* SPDX-License-Identifier: MIT */
/*
 * ask.c - what programs in the guest ask of the host: forks and checkpoints of this machine
 *
 * One question is under way at a time; who comes meanwhile waits to be accepted. It is kept as state, like what jobs have
 * to say, so that copies of the machine need nothing: a question that the host has not begun is asked anew by each copy,
 * of its own host, which decides for itself. One that was begun is answered in a copy with which copy it is.
 */
#include "vm/agent/guest/ask.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vm/agent/guest/agent.h"

enum { WAITING_MAX = 128 };

int guest_ask_listen(void)
{
	const struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = GUEST_ASK_SOCKET };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -1;
	(void)mkdir("/run/sbx", 0755);
	/* What it is good for is decided outside, for all of the guest. */
	if (bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 || chmod(GUEST_ASK_SOCKET, 0666) < 0 ||
	    listen(fd, WAITING_MAX) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static void forget(struct guest_ask *ask)
{
	if (ask->client >= 0)
		close(ask->client);
	ask->client = -1;
	ask->state = ASK_NONE;
}

static void answer(struct guest_ask *ask, uint32_t number, const struct err *err)
{
	struct guest_answer a = { .error = -err->code, .number = number };

	memcpy(a.text, err->text, sizeof(a.text));
	if (ask->client >= 0)
		(void)send(ask->client, &a, sizeof(a), MSG_NOSIGNAL | MSG_DONTWAIT);
	forget(ask);
}

void guest_ask_end(struct guest *guest)
{
	forget(&guest->ask);
	if (guest->ask.listener >= 0)
		close(guest->ask.listener);
	guest->ask.listener = -1;
}

void guest_ask_poll(const struct guest *guest, struct pollfd *fd)
{
	const struct guest_ask *ask = &guest->ask;

	*fd = (struct pollfd){ .fd = -1, .events = POLLIN };
	if (ask->state == ASK_NONE)
		fd->fd = ask->listener;
	else if (ask->state == ASK_READING)
		fd->fd = ask->client;
}

static void read_question(struct guest_ask *ask)
{
	struct guest_question q;
	struct err err = { 0 };
	const ssize_t n = recv(ask->client, &q, sizeof(q), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n != sizeof(q)) {
		forget(ask);
		return;
	}
	q.name[PROTO_NAME_MAX] = '\0';
	if (!guest_verb_name(q.verb)) {
		err_set(&err, -EINVAL, "there is no such verb");
		answer(ask, 0, &err);
		return;
	}
	ask->state = ASK_READ;
	ask->id++;
	ask->verb = q.verb;
	ask->number = q.number;
	memcpy(ask->name, q.name, sizeof(ask->name));
}

void guest_ask_ready(struct guest *guest, short revents)
{
	struct guest_ask *ask = &guest->ask;

	if (!revents)
		return;
	if (ask->state == ASK_NONE) {
		ask->client = accept4(ask->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (ask->client < 0)
			return;
		ask->state = ASK_READING;
	}
	if (ask->state == ASK_READING)
		read_question(ask);
}

void guest_ask_flush(struct guest *guest)
{
	struct guest_ask *ask = &guest->ask;
	struct buf payload = { 0 };

	/* Hooks run: the host hears nothing of this kind until it has captured the machine. */
	if (ask->state != ASK_READ || !guest_may_send(guest) || guest->hooking.pid)
		return;
	buf_put_u8(&payload, ask->verb);
	buf_put_u32(&payload, ask->number);
	buf_put_str(&payload, ask->name);
	if (!payload.failed) {
		guest_send(guest, F_GUEST_ASK, ask->id, buf_bytes(&payload), payload.len);
		ask->state = ASK_SENT;
	}
	buf_release(&payload);
}

void guest_ask_attached(struct guest *guest, const struct guest_identity *identity)
{
	struct guest_ask *ask = &guest->ask;
	struct err err = { 0 };

	if (identity->kind == ATTACH_REHEARSE)
		return;
	/* What was on its way may be lost; the host knows it by its number. */
	if (ask->state == ASK_SENT)
		ask->state = ASK_READ;
	if (ask->state != ASK_BEGUN || identity->kind == ATTACH_RESUME)
		return;
	if (ask->verb == GUEST_FORK && !identity->copy)
		err_set(&err, -EINTR, "this machine is a copy that somebody else made meanwhile");
	answer(ask, ask->verb == GUEST_FORK ? identity->copy : ask->verb == GUEST_CHECKPOINT, &err);
}

void guest_ask_frame(struct guest *guest, const struct frame *frame)
{
	struct guest_ask *ask = &guest->ask;
	struct reader r = reader_init(frame->payload, frame->len);
	struct err err = { 0 };
	uint32_t code;

	if (frame->id != ask->id || ask->state < ASK_READ)
		return;
	if (frame->type == F_GUEST_BEGUN) {
		ask->state = ASK_BEGUN;
		return;
	}
	code = get_u32(&r);
	get_str(&r, err.text, sizeof(err.text));
	err.code = -(int)code;
	answer(ask, 0, &err);
}
