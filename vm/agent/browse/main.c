/* SPDX-License-Identifier: MIT */
/*
 * main.c - sbx-browse: the files of a disk that no machine runs on, for the daemon (vm/agent/browser.h)
 *
 *	sbx-browse FILE N
 *
 * Talks the agent channel's protocol on standard input, which is a socket. The disk's N files are descriptors
 * 3, 4, ..., from the topmost, which is called FILE. It gives up everything but reading them and talking, and
 * only then looks at what is in them.
 */
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/denied.h"
#include "util/io.h"
#include "util/program.h"
#include "util/size.h"
#include "vm/agent/browse/serve.h"
#include "vm/agent/proto.h"

static const struct program program = {
	.name = "sbx-browse",
	.forms = "FILE N",
	.about = "Shows sbxfs the files of a snapshot's disk, whose topmost file is called FILE: confines "
		 "itself,\n"
		 "and speaks the agent's protocol on standard input, a socket. Descriptors 3 and following\n"
		 "are the disk's N files. sbxfs starts it.\n",
};

enum { CHANNEL = 0, FIRST_FILE = 3, READ_SIZE = 64 * 1024 };

static int confine(void)
{
	static const int allowed[] = {
		SCMP_SYS(read),
		SCMP_SYS(write),
		SCMP_SYS(pread64),
		SCMP_SYS(brk),
		SCMP_SYS(mmap),
		SCMP_SYS(munmap),
		SCMP_SYS(mremap),
		SCMP_SYS(mprotect),
		SCMP_SYS(madvise),
		SCMP_SYS(futex),
		SCMP_SYS(getrandom),
		SCMP_SYS(clock_gettime),
		SCMP_SYS(exit_group),
		SCMP_SYS(rt_sigreturn),
		SCMP_SYS(restart_syscall),
		SCMP_SYS(close),
		SCMP_SYS(fstat),
		SCMP_SYS(newfstatat),
		/* what libc asks for on its way: qsort how much memory there is, before it sorts more than a
		 * little, as libext2fs does with a journal's blocks; an abort who it is */
		SCMP_SYS(sysinfo),
		SCMP_SYS(writev),
		SCMP_SYS(rt_sigprocmask),
		SCMP_SYS(getpid),
		SCMP_SYS(gettid),
		SCMP_SYS(tgkill),
	};
	int rc;
	scmp_filter_ctx filter = denied_filter(allowed, sizeof(allowed) / sizeof(allowed[0]), &rc);

	return filter_enter(filter, rc);
}

/* ---- the channel */

static int put_frame(uint16_t type, uint16_t generation, uint32_t id, const struct buf *payload)
{
	struct buf out = { 0 };
	int rc;

	frame_put(&out, type, generation, id, buf_bytes(payload), payload->len);
	rc = out.failed ? -ENOMEM : write_all(CHANNEL, buf_bytes(&out), out.len);
	buf_release(&out);
	return rc;
}

struct browse_session {
	struct browse_server server;
	struct err broken; /* why there are no files; said in answer to F_ATTACH */
	uint16_t generation;
};

static int attach(struct browse_session *session, const struct frame *frame, struct buf *payload)
{
	struct reader args = reader_init(frame->payload, frame->len);
	uint32_t version = get_u32(&args), generation = get_u32(&args);

	session->generation = (uint16_t)generation;
	if (args.bad || version != PROTO_VERSION) {
		buf_put_u32(payload, EPROTO);
		buf_put_str(payload, "sbx-browse and the daemon are of different versions");
	} else {
		buf_put_u32(payload, (uint32_t)-session->broken.code);
		buf_put_str(payload, session->broken.text);
	}
	return put_frame(F_ATTACHED, session->generation, frame->id, payload);
}

static int file_operation(struct browse_session *session, const struct frame *frame, struct buf *payload)
{
	struct reader args = reader_init(frame->payload, frame->len);
	struct buf results = { 0 };
	uint8_t op = get_u8(&args);
	int rc = session->broken.code;

	if (!rc)
		rc = args.bad ? -EINVAL : serve(&session->server, op, &args, &results);
	buf_put_u32(payload, (uint32_t)-rc);
	if (!rc && results.len)
		buf_add(payload, buf_bytes(&results), results.len);
	buf_release(&results);
	return put_frame(F_FS_REPLY, session->generation, frame->id, payload);
}

static int handle(struct browse_session *session, const struct frame *frame)
{
	struct buf payload = { 0 };
	int rc = 0;

	if (frame->type == F_ATTACH)
		rc = attach(session, frame, &payload);
	else if (frame->type == F_FS)
		rc = file_operation(session, frame, &payload);
	else if (frame->type == F_PING)
		rc = put_frame(F_PONG, session->generation, frame->id, &payload);
	buf_release(&payload);
	return rc;
}

/* Until the daemon closes its end. */
static int talk(struct browse_session *session)
{
	static uint8_t bytes[READ_SIZE];
	struct frame_parser parser = { 0 };
	struct frame frame;
	ssize_t n;
	int rc = 0;

	while (!rc && (n = read(CHANNEL, bytes, sizeof(bytes))) != 0) {
		if (n < 0 && errno != EINTR)
			rc = -errno;
		if (n <= 0)
			continue;
		rc = frame_parser_feed(&parser, bytes, (size_t)n);
		while (!rc && frame_parser_next(&parser, &frame))
			rc = handle(session, &frame);
	}
	frame_parser_release(&parser);
	return rc;
}

int main(int argc, char **argv)
{
	static struct browse_session session;
	struct chain *chain;
	struct err err = { 0 };
	int fds[QCOW2_CHAIN_MAX], status;
	uint64_t n, i;

	if (program_next(&program, argc, argv, &status) == PROGRAM_EXIT)
		return status;
	if (argc - optind != 2 || number_parse(argv[optind + 1], &n) || n < 1 || n > QCOW2_CHAIN_MAX)
		return program_refuse(&program, "the name of a layer and a number of files are needed");
	for (i = 0; i < n; i++)
		fds[i] = FIRST_FILE + (int)i;
	if (confine()) {
		fprintf(stderr, "sbx-browse: cannot confine itself\n");
		return 1;
	}
	if (chain_adopt(argv[optind], fds, (unsigned)n, false, &chain, &err)) {
		fprintf(stderr, "sbx-browse: %s\n", err.text);
		return 1;
	}
	server_open(&session.server, chain, &session.broken);
	return talk(&session) ? 1 : 0;
}
