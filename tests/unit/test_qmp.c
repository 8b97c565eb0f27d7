/* SPDX-License-Identifier: MIT */
/* test_qmp.c - the QMP client against a QEMU played by the test */
#include "vm/qemu/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/unit.h"

#define GREETING                                                                                             \
	"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, \"package\": "      \
	"\"\"}, "                                                                                            \
	"\"capabilities\": [\"oob\"]}}\r\n"

static struct loop *loop;
static struct qmp *qmp;
static int peer; /* QEMU's end */
static unsigned nready, nevents, nlost, nreplies;
static char version[32], event[64], reason[64], value[64];
static struct err lost_err, reply_err;

static void on_ready(void *owner, const char *v)
{
	(void)owner;
	nready++;
	snprintf(version, sizeof(version), "%s", v);
}

static void on_event(void *owner, const char *name, const cJSON *data)
{
	(void)owner;
	nevents++;
	snprintf(event, sizeof(event), "%s", name);
	snprintf(reason, sizeof(reason), "%s", qmp_string(data, "reason"));
}

static void on_lost(void *owner, const struct err *err)
{
	(void)owner;
	nlost++;
	lost_err = *err;
	qmp_free(qmp);
	qmp = NULL;
}

static void on_reply(void *arg, const struct err *err, const cJSON *ret)
{
	nreplies++;
	reply_err = *err;
	snprintf(value, sizeof(value), "%s", qmp_string(ret, "value"));
	if (arg) {
		/* What a machine does that is destroyed in a callback. */
		qmp_free(qmp);
		qmp = NULL;
	}
}

static const struct qmp_events events = { .ready = on_ready, .event = on_event, .lost = on_lost };

static void set_up(void)
{
	int fds[2];

	nready = nevents = nlost = nreplies = 0;
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds));
	peer = fds[1];
	qmp = qmp_new(loop, fds[0], &events, NULL);
	CHECK(qmp);
}

static void tear_down(void)
{
	qmp_free(qmp);
	qmp = NULL;
	close(peer);
	loop_once(loop, 0);
}

static void say(const char *text)
{
	CHECK(send(peer, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
	loop_once(loop, 0);
}

/* What the client has sent since the last call; *ret_fd is a descriptor that came along, or -1. */
static const char *heard(int *ret_fd)
{
	static char text[4096];
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = text, .iov_len = sizeof(text) - 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.bytes,
			      .msg_controllen = sizeof(control.bytes) };
	const struct cmsghdr *cmsg;
	ssize_t n = recvmsg(peer, &msg, MSG_CMSG_CLOEXEC);

	text[n > 0 ? n : 0] = 0;
	if (ret_fd) {
		*ret_fd = -1;
		cmsg = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
		if (cmsg)
			memcpy(ret_fd, CMSG_DATA(cmsg), sizeof(int));
	}
	return text;
}

static void negotiate(void)
{
	say(GREETING);
	CHECK(!strcmp(heard(NULL), "{\"execute\":\"qmp_capabilities\"}\n"));
	say("{\"return\": {}}\r\n");
	CHECK(nready == 1);
}

static void greeting_is_negotiated(void)
{
	set_up();
	negotiate();
	CHECK(!strcmp(version, "7.2.22"));
	tear_down();
}

static void commands_wait_for_the_negotiation(void)
{
	set_up();
	CHECK(!qmp_send(qmp, "stop", NULL, -1, on_reply, NULL));
	CHECK(!*heard(NULL));
	negotiate();
	CHECK(!strcmp(heard(NULL), "{\"id\":1,\"execute\":\"stop\"}"));
	say("{\"return\": {\"value\": \"x\"}, \"id\": 1}\r\n");
	CHECK(nreplies == 1 && !reply_err.code && !strcmp(value, "x"));
	tear_down();
}

static void replies_come_in_pieces_and_between_events(void)
{
	set_up();
	negotiate();
	CHECK(!qmp_send(qmp, "a", NULL, -1, on_reply, NULL));
	CHECK(!qmp_send(qmp, "b", NULL, -1, on_reply, NULL));
	say("{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-shut");
	CHECK(nevents == 0);
	say("down\"}}\r\n{\"return\": {\"value\": \"1\"}, \"id\": 1}\r\n{\"error\": {\"class\": "
	    "\"GenericError\", \"desc\": \"no such thing\"}, \"id\": 2}\r\n{\"ev");
	CHECK(nevents == 1 && !strcmp(event, "SHUTDOWN") && !strcmp(reason, "guest-shutdown"));
	CHECK(nreplies == 2 && reply_err.code == -EIO && strstr(reply_err.text, "no such thing"));
	CHECK(!nlost);
	tear_down();
}

static void a_descriptor_travels_with_its_command(void)
{
	cJSON *args = cJSON_CreateObject();
	int fd, pipe_fds[2];
	char c = 0;

	set_up();
	negotiate();
	CHECK(!pipe2(pipe_fds, O_CLOEXEC));
	cJSON_AddStringToObject(args, "fdname", "state");
	CHECK(!qmp_send(qmp, "getfd", args, pipe_fds[1], on_reply, NULL));
	close(pipe_fds[1]);
	CHECK(!strcmp(heard(&fd), "{\"id\":1,\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"state\"}}"));
	CHECK(fd >= 0);
	CHECK(write(fd, "y", 1) == 1 && read(pipe_fds[0], &c, 1) == 1 && c == 'y');
	close(fd);
	/* Nobody else holds it: the pipe ends. */
	CHECK(read(pipe_fds[0], &c, 1) == 0);
	close(pipe_fds[0]);
	tear_down();
}

static void a_beginning_sent_ahead_is_not_sent_twice(void)
{
	set_up();
	qmp_ahead(qmp); /* too early: QEMU has not greeted */
	CHECK(!*heard(NULL));
	negotiate();
	qmp_ahead(qmp);
	qmp_ahead(qmp);
	CHECK(!strcmp(heard(NULL), "{\"id\":1,\"execute\":"));
	CHECK(!qmp_send(qmp, "cont", NULL, -1, on_reply, NULL));
	CHECK(!strcmp(heard(NULL), "\"cont\"}"));
	CHECK(!qmp_send(qmp, "stop", NULL, -1, on_reply, NULL));
	CHECK(!strcmp(heard(NULL), "{\"id\":2,\"execute\":\"stop\"}"));
	say("{\"return\": {}, \"id\": 1}\r\n{\"return\": {}, \"id\": 2}\r\n");
	CHECK(nreplies == 2 && !nlost);
	tear_down();
}

static void being_freed_in_a_callback_ends_it(void)
{
	set_up();
	negotiate();
	CHECK(!qmp_send(qmp, "a", NULL, -1, on_reply, &loop));
	CHECK(!qmp_send(qmp, "b", NULL, -1, on_reply, NULL));
	say("{\"return\": {}, \"id\": 1}\r\n{\"return\": {}, \"id\": 2}\r\n");
	CHECK(nreplies == 1 && !qmp && !nlost);
	tear_down();
}

static void nonsense_loses_the_connection(void)
{
	static const char *const nonsense[] = {
		"hello\r\n",
		"[]\r\n",
		"{}\r\n",
		"{\"return\": {}, \"id\": 2}\r\n",
		"{\"return\": {}}\r\n",
		"{\"return\": {}, \"id\": \"1\"}\r\n",
		"{\"id\": 1}\r\n",
		"{\"QMP\": {}}\r\n",
	};
	size_t i;

	for (i = 0; i < sizeof(nonsense) / sizeof(*nonsense); i++) {
		set_up();
		negotiate();
		CHECK(!qmp_send(qmp, "a", NULL, -1, on_reply, NULL));
		say(nonsense[i]);
		CHECK(nlost == 1 && lost_err.code == -EPROTO && !nreplies && !qmp);
		tear_down();
	}
	set_up();
	say("{\"return\": {}}\r\n"); /* before it has greeted */
	CHECK(nlost == 1 && lost_err.code == -EPROTO);
	tear_down();
}

static void an_endless_line_loses_the_connection(void)
{
	char chunk[4096];
	unsigned i;

	memset(chunk, ' ', sizeof(chunk));
	set_up();
	for (i = 0; i < 1024 && !nlost; i++) {
		CHECK(send(peer, chunk, sizeof(chunk), MSG_NOSIGNAL) == sizeof(chunk));
		loop_once(loop, 0);
	}
	CHECK(nlost == 1 && lost_err.code == -EMSGSIZE);
	tear_down();
}

static void the_end_of_qemu_is_told_once(void)
{
	set_up();
	negotiate();
	CHECK(!qmp_send(qmp, "a", NULL, -1, on_reply, NULL));
	shutdown(peer, SHUT_RDWR);
	loop_once(loop, 0);
	CHECK(nlost == 1 && lost_err.code == -ECONNRESET && !nreplies);
	tear_down();
}

int main(void)
{
	loop = loop_new();
	CHECK(loop);
	TEST(greeting_is_negotiated);
	TEST(commands_wait_for_the_negotiation);
	TEST(replies_come_in_pieces_and_between_events);
	TEST(a_descriptor_travels_with_its_command);
	TEST(a_beginning_sent_ahead_is_not_sent_twice);
	TEST(being_freed_in_a_callback_ends_it);
	TEST(nonsense_loses_the_connection);
	TEST(an_endless_line_loses_the_connection);
	TEST(the_end_of_qemu_is_told_once);
	loop_free(loop);
	return 0;
}
