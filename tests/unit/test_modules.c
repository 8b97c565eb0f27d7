/* SPDX-License-Identifier: MIT */
/* test_modules.c - the file of the kernel's modules, and how guests read it: by hand, and with the real agent */
#include <stddef.h>
#include <sys/un.h>

#include "tests/unit/agent_fixture.h"
#include "vm/agent/modules.h"

enum { SIZE = 100000 };

static char dir[] = "/tmp/test_modules.XXXXXX";
static char pack[sizeof(dir) + 8], place[sizeof(dir) + 8];
static uint8_t content[SIZE];

static void write_pack(const char *first)
{
	const int fd = open(pack, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	size_t i;

	for (i = 0; i < SIZE; i++)
		content[i] = (uint8_t)(i % 251);
	for (i = 0; first[i]; i++)
		content[i] = (uint8_t)first[i];
	CHECK(fd >= 0 && write(fd, content, SIZE) == SIZE);
	close(fd);
}

static struct modules *open_pack(void)
{
	struct modules *modules;
	struct err err = { 0 };

	CHECK(!modules_open(pack, &modules, &err));
	return modules;
}

static void another_file_is_refused(void)
{
	struct modules *modules;
	struct err err = { 0 };

	CHECK(modules_open("/nosuch/modules.pack", &modules, &err) == -ENOENT);
	write_pack("sbx-modules 2 6.1 0 abc\n");
	CHECK(modules_open(pack, &modules, &err) == -EINVAL && strstr(err.text, pack));
	/* Its first line is longer than any is. */
	write_pack("sbx-modules 1 6.1 0 abc");
	CHECK(modules_open(pack, &modules, &err) == -EINVAL);
	CHECK(modules_open(dir, &modules, &err) == -EISDIR);
}

static void pieces_are_read(void)
{
	struct modules *modules;
	uint8_t bytes[64];
	uint64_t which;

	write_pack("sbx-modules 1 6.1 0 abc\n");
	modules = open_pack();
	which = modules_which(modules);
	CHECK(modules_read(modules, 1000, bytes, 64) == 64 && !memcmp(bytes, content + 1000, 64));
	CHECK(modules_read(modules, SIZE - 10, bytes, 64) == 10);
	CHECK(modules_read(modules, SIZE + 10, bytes, 64) == 0);
	CHECK(modules_read(modules, UINT64_MAX, bytes, 64) == -EINVAL);
	modules_close(modules);
	write_pack("sbx-modules 1 6.1 0 abd\n");
	modules = open_pack();
	CHECK(modules_which(modules) != which);
	modules_close(modules);
	modules_close(NULL);
}

/* ---- a guest played by hand */

static void ask(const struct fixture *f, uint16_t generation, uint32_t id, uint64_t offset, uint32_t wanted)
{
	struct buf payload = { 0 }, frame = { 0 };

	buf_put_u64(&payload, offset);
	buf_put_u32(&payload, wanted);
	frame_put(&frame, F_MODULES, generation, id, buf_bytes(&payload), payload.len);
	CHECK(write(f->peer, buf_bytes(&frame), frame.len) == (ssize_t)frame.len);
	buf_release(&payload);
	buf_release(&frame);
}

static void say_half(const struct fixture *f)
{
	struct buf frame = { 0 };

	frame_put(&frame, F_MODULES, 1, 9, "12345678", 8);
	CHECK(write(f->peer, buf_bytes(&frame), frame.len) == (ssize_t)frame.len);
	buf_release(&frame);
}

/* The next frame for the guest of this type; false: there is none. */
static bool next(const struct fixture *f, struct frame_parser *parser, uint16_t type, struct frame *ret)
{
	uint8_t bytes[65536];
	ssize_t n;

	for (;;) {
		while (frame_parser_next(parser, ret))
			if (ret->type == type)
				return true;
		n = read(f->peer, bytes, sizeof(bytes));
		if (n <= 0)
			return false;
		CHECK(!frame_parser_feed(parser, bytes, (size_t)n));
	}
}

static void turn(struct fixture *f)
{
	CHECK(!loop_once(f->loop, 0));
}

static void check_piece(const struct frame *frame, uint32_t id, uint64_t which, size_t offset, size_t n)
{
	struct reader r = reader_init(frame->payload, frame->len);

	CHECK(frame->id == id && get_u32(&r) == 0 && get_u64(&r) == which);
	CHECK(!r.bad && reader_left(&r) == n && !memcmp(r.p, content + offset, n));
}

static void attach_by_hand(struct fixture *f, uint32_t generation)
{
	struct buf frame = { 0 };

	attach_soon(f, ATTACH_BOOT, generation, false);
	frame_put(&frame, F_ATTACHED, (uint16_t)generation, 0, "\0\0\0\0\0\0\0\0", 8);
	CHECK(write(f->peer, buf_bytes(&frame), frame.len) == (ssize_t)frame.len);
	buf_release(&frame);
	UNTIL(f, f->done);
}

static void who_asks_gets_a_piece(void)
{
	struct frame_parser parser = { 0 };
	struct modules *modules;
	struct frame frame;
	struct fixture f;
	uint64_t which;

	write_pack("sbx-modules 1 6.1 0 abc\n");
	modules = open_pack();
	which = modules_which(modules);
	setup_by_hand(&f);
	attach_by_hand(&f, 1);
	/* None are offered yet, too much is asked for, half a question: nothing is said. */
	ask(&f, 1, 1, 0, 10);
	turn(&f);
	agent_offer_modules(f.agent, NULL);
	ask(&f, 1, 1, 0, 10);
	turn(&f);
	CHECK(next(&f, &parser, F_MODULES_DATA, &frame) && frame.payload[0] == ENOENT);
	agent_offer_modules(f.agent, modules);
	ask(&f, 1, 2, 0, PROTO_READ_BEST + 1);
	turn(&f);
	ask(&f, 2, 3, 0, 10);
	turn(&f);
	say_half(&f);
	turn(&f);
	CHECK(!next(&f, &parser, F_MODULES_DATA, &frame));
	ask(&f, 1, 4, 500, PROTO_READ_BEST);
	turn(&f);
	CHECK(next(&f, &parser, F_MODULES_DATA, &frame));
	check_piece(&frame, 4, which, 500, PROTO_READ_BEST);
	ask(&f, 1, 5, SIZE - 5, 100);
	turn(&f);
	CHECK(next(&f, &parser, F_MODULES_DATA, &frame));
	check_piece(&frame, 5, which, SIZE - 5, 5);
	/* Between QUIESCE and UNQUIESCE nothing comes, and then it does. */
	agent_quiesce(f.agent, QUIESCE_PAUSE, WAIT_MS, on_done, &f);
	ask(&f, 1, 6, 0, 10);
	turn(&f);
	CHECK(!next(&f, &parser, F_MODULES_DATA, &frame));
	agent_unquiesce(f.agent);
	CHECK(next(&f, &parser, F_MODULES_DATA, &frame));
	check_piece(&frame, 6, which, 0, 10);
	/* What was asked under an older generation is not answered under the next. */
	agent_quiesce(f.agent, QUIESCE_PAUSE, WAIT_MS, on_done, &f);
	ask(&f, 1, 7, 0, 10);
	turn(&f);
	attach_by_hand(&f, 2);
	CHECK(!next(&f, &parser, F_MODULES_DATA, &frame));
	frame_parser_release(&parser);
	teardown(&f);
	modules_close(modules);
}

/* Who asks without end and takes nothing costs a piece, and not what it asked for. */
static void a_flood_of_questions_is_bounded(void)
{
	struct modules *modules;
	struct fixture f;
	unsigned i, j;

	write_pack("sbx-modules 1 6.1 0 abc\n");
	modules = open_pack();
	setup_by_hand(&f);
	attach_by_hand(&f, 1);
	agent_offer_modules(f.agent, modules);
	for (i = 0; i < 200; i++) {
		for (j = 0; j < 50; j++)
			ask(&f, 1, j, 0, PROTO_READ_BEST);
		turn(&f);
		CHECK(agent_backlog(f.agent) <= PROTO_READ_BEST + 64);
	}
	CHECK(agent_backlog(f.agent) > 0);
	teardown(&f);
	modules_close(modules);
}

/* ---- programs beside the real agent */

static int offer(void)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(at.sun_path, sizeof(at.sun_path), "%s", place);
	return fd >= 0 && !bind(fd, (const struct sockaddr *)&at, sizeof(at)) ? fd : -errno;
}

static int program(void)
{
	const struct sockaddr_un any = { .sun_family = AF_UNIX };
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", place);
	CHECK(fd >= 0 && !bind(fd, (const struct sockaddr *)&any, sizeof(any.sun_family)));
	CHECK(!connect(fd, (const struct sockaddr *)&to, sizeof(to)));
	return fd;
}

static void program_asks(int fd, uint64_t offset, uint32_t wanted)
{
	struct buf payload = { 0 };

	buf_put_u64(&payload, offset);
	buf_put_u32(&payload, wanted);
	CHECK(send(fd, buf_bytes(&payload), payload.len, 0) == (ssize_t)payload.len);
	buf_release(&payload);
}

static void program_hears(struct fixture *f, int fd, size_t offset, size_t n)
{
	static uint8_t answer[65536];
	ssize_t got = -1;
	struct reader r;

	UNTIL(f, (got = recv(fd, answer, sizeof(answer), 0)) >= 0);
	r = reader_init(answer, (size_t)got);
	CHECK(!get_u32(&r) && get_u64(&r) && !r.bad);
	CHECK(reader_left(&r) == n && !memcmp(r.p, content + offset, n));
}

static void programs_read_by_way_of_the_agent(void)
{
	struct modules *modules;
	struct fixture f;
	int one, two, gone;

	write_pack("sbx-modules 1 6.1 0 abc\n");
	modules = open_pack();
	fake_machine.offer = offer;
	setup_real(&f);
	one = program();
	two = program();
	/* What a host did not answer is asked of the next. */
	program_asks(one, 5, 50);
	f.done = 0;
	agent_ping(f.agent, WAIT_MS, on_done, &f);
	UNTIL(&f, f.done);
	agent_offer_modules(f.agent, modules);
	attach_soon(&f, ATTACH_RESUME, 2, false);
	program_hears(&f, one, 5, 50);
	/* One that has ended, and two at once, in turn. */
	gone = program();
	program_asks(gone, 0, 10);
	close(gone);
	CHECK(send(one, "nonsense", 8, 0) == 8);
	program_asks(one, 100, 1000);
	program_asks(two, SIZE - 7, PROTO_READ_BEST);
	program_hears(&f, one, 100, 1000);
	program_hears(&f, two, SIZE - 7, 7);
	close(one);
	close(two);
	teardown(&f);
	unlink(place);
	modules_close(modules);
}

int main(void)
{
	CHECK(mkdtemp(dir));
	snprintf(pack, sizeof(pack), "%s/pack", dir);
	snprintf(place, sizeof(place), "%s/ask", dir);
	TEST(another_file_is_refused);
	TEST(pieces_are_read);
	TEST(who_asks_gets_a_piece);
	TEST(a_flood_of_questions_is_bounded);
	TEST(programs_read_by_way_of_the_agent);
	unlink(pack);
	rmdir(dir);
	return 0;
}
