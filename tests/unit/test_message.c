/* SPDX-License-Identifier: MIT */
/* test_message.c - descriptors that come with messages, and who closes them */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "util/closer.h"
#include "util/io.h"
#include "util/message.h"

enum { LONG_MS = 10 * 1000, MIB = 1 << 20 };

/* A message with the end of a pipe: the other end's end says that nobody has it. */
static int send_pipe(int to, int *ret_other)
{
	int ends[2], rc;

	CHECK(!pipe2(ends, O_CLOEXEC));
	rc = message_send(to, "x", 1, &ends[1], 1);
	close(ends[1]);
	*ret_other = ends[0];
	return rc;
}

static void those_that_are_wanted_come(void)
{
	int ends[2], other, fd;
	char byte;

	CHECK(!message_pair(SOCK_SEQPACKET, true, ends) && !send_pipe(ends[1], &other));
	CHECK(message_recv(ends[0], &byte, 1, NULL, &fd, 1, 0) == 1 && byte == 'x');
	CHECK(write(fd, "y", 1) == 1 && read(other, &byte, 1) == 1 && byte == 'y');
	close(fd);
	close(other);
	close(ends[0]);
	close(ends[1]);
}

/* On a kernel that cannot refuse them they are closed by whoever reads. */
static void others_cannot_be_sent(void)
{
	static const int types[] = { SOCK_STREAM, SOCK_SEQPACKET };
	int ends[2], other, value;
	socklen_t size;
	unsigned i;
	char byte;
	bool knows;

	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		CHECK(!message_pair(types[i], false, ends));
		size = sizeof(value);
		knows = !getsockopt(ends[0], SOL_SOCKET, 83, &value, &size);
		CHECK(!knows || !value);
		CHECK(send_pipe(ends[1], &other) == (knows ? -EPERM : 0));
		CHECK(knows || recv(ends[0], &byte, 1, 0) == 1);
		CHECK(fd_ready(other, 0, 0));
		/* Messages without come, and ours has the right still. */
		CHECK(!message_send(ends[1], "y", 1, NULL, 0) && recv(ends[0], &byte, 1, 0) == 1 &&
		      byte == 'y');
		CHECK(!send_pipe(ends[0], &value));
		close(value);
		close(other);
		close(ends[0]);
		close(ends[1]);
	}
}

static void what_nobody_has_received_is_closed(void)
{
	int ends[2], other, none = -1;

	CHECK(!message_pair(SOCK_SEQPACKET, true, ends) && !send_pipe(ends[1], &other));
	CHECK(!fd_ready(other, 0, 0));
	message_hang_up(&ends[0]);
	CHECK(ends[0] == -1 && fd_ready(other, 0, LONG_MS));
	CHECK(message_send(ends[1], "y", 1, NULL, 0) < 0);
	close(other);
	close(ends[1]);
	CHECK(!message_pair(SOCK_SEQPACKET, true, ends));
	message_hang_up(&ends[0]);
	CHECK(ends[0] == -1);
	close(ends[1]);
	message_hang_up(&none);
	CHECK(none == -1);
}

/* By whomever. */
static void all_are_closed(void)
{
	int ends[2], fd, none = -1;

	for (unsigned mib = 0; mib <= 64; mib += 32) {
		int number;

		fd = number = memfd_new("test", 64 * MIB);
		CHECK(fd >= 0);
		for (unsigned i = 0; i < mib; i++)
			CHECK(!pwrite_all(fd, "x", 1, (uint64_t)i * MIB) &&
			      !fallocate(fd, 0, (off_t)i * MIB, MIB));
		close_large(&fd);
		CHECK(fd == -1);
		for (unsigned ms = 0; ms < LONG_MS && fcntl(number, F_GETFD) >= 0; ms++)
			usleep(1000);
		CHECK(fcntl(number, F_GETFD) < 0 && errno == EBADF);
	}
	CHECK(!pipe2(ends, O_CLOEXEC));
	close_elsewhere(&ends[1]);
	CHECK(ends[1] == -1 && fd_ready(ends[0], 0, LONG_MS));
	close(ends[0]);
	close_large(&none);
	close_elsewhere(&none);
	CHECK(none == -1);
}

int main(void)
{
	TEST(those_that_are_wanted_come);
	TEST(others_cannot_be_sent);
	TEST(what_nobody_has_received_is_closed);
	TEST(all_are_closed);
	return 0;
}
