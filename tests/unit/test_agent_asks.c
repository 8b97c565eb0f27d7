/* SPDX-License-Identifier: MIT */
/*
 * test_agent_asks.c - what a program in the guest asks for, through the real agent, and what hooks say to a capture
 *
 * The test is the program and the host; what a copy of the machine does is done by the one there is, which is told that
 * it became one.
 */
#include "tests/unit/agent_fixture.h"
#include "vm/agent/guest/ask.h"

/* A program asks: its connection. */
static int ask(uint8_t verb, uint32_t number, const char *name)
{
	struct guest_question q = { .verb = verb, .number = number };
	struct sockaddr_un addr;
	const socklen_t size = fake_address(&addr);
	const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(q.name, sizeof(q.name), "%s", name);
	CHECK(!connect(fd, (const struct sockaddr *)&addr, size));
	CHECK(send(fd, &q, sizeof(q), 0) == sizeof(q));
	return fd;
}

static struct guest_answer answer_of(struct fixture *f, int fd)
{
	struct guest_answer a = { 0 };
	ssize_t n = -1;

	UNTIL(f, (n = recv(fd, &a, sizeof(a), MSG_DONTWAIT)) >= 0);
	CHECK(n == sizeof(a));
	close(fd);
	return a;
}

static void become(struct fixture *f, enum attach_kind kind, uint32_t generation, uint32_t copy)
{
	const struct identity identity = {
		.name = "vm", .generation = generation, .kind = kind, .copy = copy
	};

	f->done = 0;
	agent_attach(f->agent, &identity, WAIT_MS, on_done, f);
	UNTIL(f, f->done);
	CHECK(!f->err.code);
}

static void a_question_is_answered(void)
{
	const struct err no = { -EPERM, "it is not listed" }, ok = { 0 };
	struct guest_answer a;
	struct fixture f;
	int first, second;

	setup_real(&f);
	first = ask(GUEST_CHECKPOINT, 3, "name");
	second = ask(GUEST_FORK, 2, "");
	UNTIL(&f, f.asked);
	CHECK(f.asked_verb == GUEST_CHECKPOINT && f.asked_number == 3 && !strcmp(f.asked_name, "name"));
	/* One at a time: an answer to something else is none. */
	agent_guest_done(f.agent, f.asked_id + 1, &ok);
	agent_guest_done(f.agent, f.asked_id, &no);
	a = answer_of(&f, first);
	CHECK(a.error == EPERM && !strcmp(a.text, "it is not listed"));
	UNTIL(&f, f.asked == 2);
	CHECK(f.asked_verb == GUEST_FORK && f.asked_number == 2);
	agent_guest_begun(f.agent, f.asked_id);
	agent_guest_done(f.agent, f.asked_id, &ok);
	a = answer_of(&f, second);
	CHECK(!a.error && !a.number);
	/* Who is gone hinders nobody, nor who asks for what there is not. */
	close(ask(GUEST_FORK, 1, ""));
	UNTIL(&f, f.asked == 3);
	agent_guest_done(f.agent, f.asked_id, &ok);
	a = answer_of(&f, ask(77, 0, ""));
	CHECK(a.error == EINVAL && f.asked == 3);
	teardown(&f);
}

/* The copies say which they are; a machine that somebody else copied meanwhile does not. */
static void copies_know_their_number(void)
{
	struct fixture f;
	int fd, i;

	setup_real(&f);
	fd = ask(GUEST_FORK, 8, "");
	UNTIL(&f, f.asked);
	agent_guest_begun(f.agent, f.asked_id);
	become(&f, ATTACH_REHEARSE, 2, 0);
	become(&f, ATTACH_FORK, 3, 5);
	CHECK(answer_of(&f, fd).number == 5);
	fd = ask(GUEST_FORK, 8, "");
	UNTIL(&f, f.asked == 2);
	agent_guest_begun(f.agent, f.asked_id);
	become(&f, ATTACH_FORK, 4, 0);
	CHECK(answer_of(&f, fd).error == EINTR);
	for (i = 0; i < 2; i++) {
		fd = i ? ask(GUEST_SUSPEND, 0, "") : ask(GUEST_CHECKPOINT, 0, "x");
		UNTIL(&f, f.asked == 3 + (unsigned)i);
		agent_guest_begun(f.agent, f.asked_id);
		become(&f, ATTACH_RETURN, 5 + (uint32_t)i, 0);
		CHECK(answer_of(&f, fd).number == !i); /* the checkpoint's; of a suspend there is none */
	}
	teardown(&f);
}

/* What no host has begun is asked anew, by the machine that goes on and by its copies; a rehearsal hears nothing. */
static void what_was_not_begun_is_asked_again(void)
{
	const struct err ok = { 0 };
	struct fixture f;
	uint32_t id;
	int fd;

	setup_real(&f);
	fd = ask(GUEST_FORK, 1, "");
	UNTIL(&f, f.asked == 1);
	id = f.asked_id;
	become(&f, ATTACH_RESUME, 2, 0);
	UNTIL(&f, f.asked == 2);
	become(&f, ATTACH_REHEARSE, 3, 0);
	CHECK(!loop_once(f.loop, 100) && f.asked == 2);
	become(&f, ATTACH_FORK, 4, 0);
	UNTIL(&f, f.asked == 3);
	CHECK(f.asked_id == id);
	/* A pause of one that was begun changes nothing. */
	agent_guest_begun(f.agent, id);
	become(&f, ATTACH_RESUME, 5, 0);
	agent_guest_done(f.agent, id, &ok);
	CHECK(!answer_of(&f, fd).error && f.asked == 3);
	teardown(&f);
}

/* Hooks refuse a capture, and the guest goes on; or let it be. */
static void hooks_run_before_a_capture(void)
{
	struct fixture f;

	setenv("FAKE_HOOKS", "refuse", 1);
	setup_real(&f);
	f.done = 0;
	agent_quiesce(f.agent, QUIESCE_CAPTURE, WAIT_MS, on_done, &f);
	UNTIL(&f, f.done);
	CHECK(f.err.code == -EBUSY && !strcmp(f.err.text, "not now"));
	f.done = 0;
	agent_ping(f.agent, WAIT_MS, on_done, &f);
	UNTIL(&f, f.done);
	CHECK(!f.err.code);
	f.done = 0;
	agent_quiesce(f.agent, QUIESCE_PAUSE, WAIT_MS, on_done, &f);
	UNTIL(&f, f.done);
	CHECK(!f.err.code);
	teardown(&f);
	setenv("FAKE_HOOKS", "agree", 1);
	setup_real(&f);
	f.done = 0;
	agent_quiesce(f.agent, QUIESCE_CAPTURE, WAIT_MS, on_done, &f);
	UNTIL(&f, f.done);
	CHECK(!f.err.code);
	unsetenv("FAKE_HOOKS");
	teardown(&f);
}

int main(void)
{
	/* The address is this test's group's. */
	setpgid(0, 0);
	TEST(a_question_is_answered);
	TEST(copies_know_their_number);
	TEST(what_was_not_begun_is_asked_again);
	TEST(hooks_run_before_a_capture);
	return 0;
}
