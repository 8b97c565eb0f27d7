/* SPDX-License-Identifier: MIT */
/* test_proto.c - the codec of the agent channel: round trips, truncation, and finding one's feet again */
#include <errno.h>
#include <string.h>

#include "tests/unit/unit.h"
#include "vm/agent/proto.h"

static char *const env[] = { (char *)"A=1", (char *)"B=two  words", (char *)"C=", NULL };

static struct job_spec spec_full(void)
{
	return (struct job_spec){
		.name = "job-1",
		.cmd = (char *)"echo\0$HOME\0",
		.cmd_len = 11,
		.is_argv = 1,
		.cwd = (char *)"/usr",
		.user = (char *)"nobody",
		.env = (char **)env,
		.tty = 1,
		.rows = 24,
		.cols = 80,
		.merge = 1,
		.stdin_open = 1,
	};
}

static void check_spec(const struct job_spec *spec)
{
	size_t i;

	CHECK(!strcmp(spec->name, "job-1"));
	CHECK(spec->cmd_len == 11 && !memcmp(spec->cmd, "echo\0$HOME\0", 12));
	CHECK(spec->is_argv == 1);
	CHECK(!strcmp(spec->cwd, "/usr") && !strcmp(spec->user, "nobody"));
	for (i = 0; env[i]; i++)
		CHECK(!strcmp(spec->env[i], env[i]));
	CHECK(!spec->env[i]);
	CHECK(spec->tty == 1 && spec->rows == 24 && spec->cols == 80);
	CHECK(spec->merge == 1 && spec->stdin_open == 1);
}

static void job_spec_round_trip(void)
{
	const struct job_spec spec = spec_full();
	struct job_spec got;
	struct buf buf = { 0 };
	struct reader r;

	job_spec_put(&buf, &spec);
	CHECK(!buf.failed);
	r = reader_init(buf_bytes(&buf), buf.len);
	CHECK(!job_spec_get(&r, &got));
	CHECK(!reader_left(&r));
	check_spec(&got);
	job_spec_release(&got);
	buf_release(&buf);
}

static void job_spec_defaults_stay_null(void)
{
	const struct job_spec spec = { .cmd = (char *)"true", .cmd_len = 4 };
	struct job_spec got;
	struct buf buf = { 0 };
	struct reader r;

	job_spec_put(&buf, &spec);
	r = reader_init(buf_bytes(&buf), buf.len);
	CHECK(!job_spec_get(&r, &got));
	CHECK(!got.cwd && !got.user && !got.env && !got.name[0] && !strcmp(got.cmd, "true"));
	job_spec_release(&got);
	buf_release(&buf);
}

static void job_info_round_trip_and_truncated(void)
{
	struct job_info info = {
		.id = 7,
		.spec = spec_full(),
		.state = JOB_SIGNALED,
		.code = 9,
		.stdin_at = 1,
		.stdin_max = 1ull << 40,
		.stdout_at = 3,
		.stderr_at = 4,
		.stdin_eof = 1,
		.stderr_eof = 1,
	};
	struct job_info got;
	struct buf buf = { 0 };
	struct reader r;
	size_t n;

	job_info_put(&buf, &info);
	r = reader_init(buf_bytes(&buf), buf.len);
	CHECK(!job_info_get(&r, &got));
	CHECK(got.id == 7 && got.state == JOB_SIGNALED && got.code == 9);
	CHECK(got.stdin_at == 1 && got.stdin_max == 1ull << 40 && got.stdout_at == 3 && got.stderr_at == 4);
	CHECK(got.stdin_eof == 1 && got.stdout_eof == 0 && got.stderr_eof == 1);
	check_spec(&got.spec);
	job_spec_release(&got.spec);
	for (n = 0; n < buf.len; n++) {
		r = reader_init(buf_bytes(&buf), n);
		CHECK(job_info_get(&r, &got) == -EBADMSG);
	}
	buf_release(&buf);
}

static void a_shell_line_has_no_nul(void)
{
	struct job_spec spec = { .cmd = (char *)"a\0b", .cmd_len = 3 };
	struct buf buf = { 0 };
	struct reader r;

	job_spec_put(&buf, &spec);
	r = reader_init(buf_bytes(&buf), buf.len);
	CHECK(job_spec_get(&r, &spec) == -EBADMSG);
	buf_release(&buf);
}

static void a_count_beyond_the_payload_is_refused(void)
{
	struct buf buf = { 0 };
	struct job_spec spec;
	struct reader r;

	buf_put_str(&buf, "name");
	buf_put_str(&buf, "true");
	buf_put_u8(&buf, 0);
	buf_put_str(&buf, "");
	buf_put_str(&buf, "");
	buf_put_u32(&buf, UINT32_MAX);
	r = reader_init(buf_bytes(&buf), buf.len);
	CHECK(job_spec_get(&r, &spec) == -EBADMSG);
	buf_release(&buf);
}

static void too_large_a_spec_is_refused(void)
{
	static char line[PROTO_SPEC_MAX];
	struct job_spec spec = { .cmd = line, .cmd_len = sizeof(line) };
	struct buf buf = { 0 };
	struct reader r;

	memset(line, 'x', sizeof(line));
	job_spec_put(&buf, &spec);
	r = reader_init(buf_bytes(&buf), buf.len);
	CHECK(job_spec_get(&r, &spec) == -E2BIG);
	buf_release(&buf);
}

static void long_records_come_in_parts(void)
{
	struct job_spec spec = spec_full();
	static char words[300000];
	struct frame_parser parser = { 0 };
	struct record record = { 0 };
	struct buf one = { 0 }, stream = { 0 };
	struct job_spec got;
	struct frame frame;
	struct reader r;
	unsigned parts = 0, records = 0;

	memset(words, 'w', sizeof(words));
	spec.cmd = words;
	spec.cmd_len = sizeof(words);
	spec.is_argv = 1;
	job_spec_put(&one, &spec);
	record_put(&stream, F_JOB_START, 1, 7, buf_bytes(&one), one.len);
	record_put(&stream, F_JOB_START, 1, 8, "short", 5);
	CHECK(!frame_parser_feed(&parser, buf_bytes(&stream), stream.len));
	while (frame_parser_next(&parser, &frame)) {
		if (frame.type == F_JOB_PART) {
			record_part(&record, &frame);
			parts++;
			continue;
		}
		CHECK(frame.type == F_JOB_START && !record_end(&record, &frame, &r));
		if (frame.id == 7) {
			CHECK(!job_spec_get(&r, &got) && got.cmd_len == sizeof(words));
			job_spec_release(&got);
			record_clear(&record);
		} else {
			CHECK(reader_left(&r) == 5);
		}
		records++;
	}
	CHECK(parts == sizeof(words) / PROTO_PAYLOAD_MAX && records == 2);
	frame_parser_release(&parser);
	buf_release(&one);
	buf_release(&stream);
}

static void records_are_bounded(void)
{
	static const uint8_t bytes[PROTO_PAYLOAD_MAX];
	struct frame part = { .type = F_JOB_PART, .id = 1, .len = sizeof(bytes), .payload = bytes };
	const struct frame end = { .type = F_JOB_START, .id = 1, .len = 1, .payload = bytes };
	const struct frame other = { .type = F_JOB_START, .id = 2, .len = 1, .payload = bytes };
	struct record record = { 0 };
	struct reader r;
	unsigned i;

	for (i = 0; i < 1000; i++)
		record_part(&record, &part);
	CHECK(record.buf.len <= PROTO_RECORD_MAX);
	CHECK(record_end(&record, &end, &r) == -E2BIG);
	record_clear(&record);
	/* A part with another id begins anew, and a frame with another id has none. */
	record_part(&record, &part);
	part.id = 2;
	record_part(&record, &part);
	CHECK(!record_end(&record, &other, &r) && reader_left(&r) == sizeof(bytes) + 1);
	record_clear(&record);
	record_part(&record, &part);
	CHECK(!record_end(&record, &end, &r) && reader_left(&r) == 1);
	record_clear(&record);
}

static void attr_round_trip(void)
{
	const struct fs_attr attr = { { 1, 2, 3 }, 0100644, 2,         3,          4,          5,
				      6,           7,       { -8, 9 }, { 10, 11 }, { 12, 13 }, 14 };
	struct fs_attr got;
	struct buf buf = { 0 };
	struct reader r;

	fs_attr_put(&buf, &attr);
	r = reader_init(buf_bytes(&buf), buf.len);
	fs_attr_get(&r, &got);
	CHECK(!r.bad && !reader_left(&r));
	CHECK(fs_id_same(&got.id, &attr.id) && got.mode == 0100644 && got.nlink == 2 && got.uid == 3 &&
	      got.gid == 4);
	CHECK(got.rdev == 5 && got.size == 6 && got.blocks == 7);
	CHECK(got.atime.sec == -8 && got.atime.nsec == 9 && got.mtime.sec == 10 && got.mtime.nsec == 11);
	CHECK(got.ctime.sec == 12 && got.ctime.nsec == 13 && got.flags == 14);
	buf_release(&buf);
}

/* ---- frames */

static void feed(struct frame_parser *parser, const struct buf *stream, size_t from, size_t to)
{
	CHECK(!frame_parser_feed(parser, buf_bytes(stream) + from, to - from));
}

static void check_next(struct frame_parser *parser, uint16_t type, uint32_t id, const char *payload)
{
	struct frame f;

	CHECK(frame_parser_next(parser, &f) == 1);
	CHECK(f.type == type && f.generation == 5 && f.id == id);
	CHECK(f.len == strlen(payload) && !memcmp(f.payload, payload, f.len));
}

static void frames_byte_by_byte(void)
{
	struct frame_parser parser = { 0 };
	struct buf stream = { 0 };
	struct frame f;
	size_t i, got = 0;

	frame_put(&stream, F_PING, 5, 1, NULL, 0);
	frame_put(&stream, F_JOB_STDIN, 5, 2, "hello", 5);
	for (i = 0; i < stream.len; i++) {
		feed(&parser, &stream, i, i + 1);
		while (frame_parser_next(&parser, &f)) {
			got++;
			CHECK(f.id == got && f.generation == 5);
			CHECK(f.type == (got == 1 ? F_PING : F_JOB_STDIN));
		}
	}
	CHECK(got == 2 && !parser.skipped);
	frame_parser_release(&parser);
	buf_release(&stream);
}

/* In any portions, and more room than is needed: what a frame was in is used again, and not before the next is asked for. */
static void frames_received_in_place(void)
{
	static uint8_t payload[PROTO_DATA_MAX];
	struct frame_parser parser = { 0 };
	struct buf stream = { 0 };
	struct frame f;
	uint32_t got = 0;
	size_t at, n;
	void *p;

	memset(payload, 'w', sizeof(payload));
	for (uint32_t id = 1; id <= 40; id++)
		frame_put(&stream, F_JOB_STDIN, 5, id, payload, sizeof(payload) - id);
	for (at = 0; at < stream.len; at += n) {
		p = frame_parser_room(&parser, 4096);
		n = stream.len - at < 4000 ? stream.len - at : 4000 - at % 7;
		CHECK(p);
		memcpy(p, buf_bytes(&stream) + at, n);
		frame_parser_fed(&parser, n);
		while (frame_parser_next(&parser, &f)) {
			CHECK(f.id == ++got && f.len == sizeof(payload) - got);
			CHECK(!memcmp(f.payload, payload, f.len));
		}
	}
	CHECK(got == 40 && !parser.skipped && parser.buf.size < 4 * PROTO_PAYLOAD_MAX);
	frame_parser_release(&parser);
	buf_release(&stream);
}

static void largest_frame(void)
{
	static uint8_t payload[PROTO_PAYLOAD_MAX];
	struct frame_parser parser = { 0 };
	struct buf stream = { 0 };
	struct frame f;

	frame_put(&stream, F_JOB_STDIN, 5, 1, payload, sizeof(payload));
	feed(&parser, &stream, 0, stream.len);
	CHECK(frame_parser_next(&parser, &f) == 1 && f.len == PROTO_PAYLOAD_MAX);
	CHECK(!frame_parser_next(&parser, &f));
	frame_parser_release(&parser);
	buf_release(&stream);
}

static void garbage_is_skipped(void)
{
	struct frame_parser parser = { 0 };
	struct buf stream = { 0 };
	struct frame f;

	buf_printf(&stream, "SSSBX1 and SBX0, some noise longer than a header S");
	frame_put(&stream, F_PING, 5, 3, "abc", 3);
	feed(&parser, &stream, 0, stream.len);
	check_next(&parser, F_PING, 3, "abc");
	CHECK(!frame_parser_next(&parser, &f));
	CHECK(parser.skipped == stream.len - 16 - 3 - 4);
	frame_parser_release(&parser);
	buf_release(&stream);
}

static void too_long_a_frame_is_no_frame(void)
{
	struct frame_parser parser = { 0 };
	struct buf stream = { 0 };

	buf_put_u32(&stream, PROTO_MAGIC);
	buf_put_u32(&stream, F_PING);
	buf_put_u32(&stream, 1);
	buf_put_u32(&stream, PROTO_PAYLOAD_MAX + 1);
	frame_put(&stream, F_PING, 5, 3, "abc", 3);
	feed(&parser, &stream, 0, stream.len);
	check_next(&parser, F_PING, 3, "abc");
	frame_parser_release(&parser);
	buf_release(&stream);
}

/* Wherever the stream is cut, the preamble brings the parser to the next frame and the cut one is not
 * believed. */
static void resync_after_any_cut(void)
{
	static uint8_t zeros[PROTO_RESYNC];
	struct buf stream = { 0 }, whole = { 0 };
	size_t cut;

	frame_put(&whole, F_JOB_STDIN, 5, 1, "written before the cut", 22);
	for (cut = 0; cut <= whole.len; cut++) {
		struct frame_parser parser = { 0 };
		struct frame f;

		buf_clear(&stream);
		buf_add(&stream, buf_bytes(&whole), cut);
		buf_add(&stream, zeros, sizeof(zeros));
		frame_put(&stream, F_ATTACH, 5, 9, "new", 3);
		feed(&parser, &stream, 0, stream.len);
		if (cut == whole.len)
			check_next(&parser, F_JOB_STDIN, 1, "written before the cut");
		check_next(&parser, F_ATTACH, 9, "new");
		CHECK(!frame_parser_next(&parser, &f));
		CHECK(parser.skipped > 0);
		frame_parser_release(&parser);
	}
	buf_release(&whole);
	buf_release(&stream);
}

/* A frame whose middle is missing claims the next one as its payload: that one is found again. */
static void frames_inside_a_cut_one_are_found(void)
{
	struct frame_parser parser = { 0 };
	struct buf stream = { 0 }, cut = { 0 };

	frame_put(&cut, F_JOB_STDOUT, 5, 1, "0123456789012345678901234567890123456789", 40);
	buf_add(&stream, buf_bytes(&cut), 20);
	frame_put(&stream, F_PING, 5, 2, "a", 1);
	frame_put(&stream, F_PING, 5, 3, "bc", 2);
	feed(&parser, &stream, 0, stream.len);
	check_next(&parser, F_PING, 2, "a");
	check_next(&parser, F_PING, 3, "bc");
	frame_parser_release(&parser);
	buf_release(&cut);
	buf_release(&stream);
}

int main(void)
{
	TEST(job_spec_round_trip);
	TEST(job_spec_defaults_stay_null);
	TEST(job_info_round_trip_and_truncated);
	TEST(a_shell_line_has_no_nul);
	TEST(a_count_beyond_the_payload_is_refused);
	TEST(too_large_a_spec_is_refused);
	TEST(long_records_come_in_parts);
	TEST(records_are_bounded);
	TEST(attr_round_trip);
	TEST(frames_byte_by_byte);
	TEST(frames_received_in_place);
	TEST(largest_frame);
	TEST(garbage_is_skipped);
	TEST(too_long_a_frame_is_no_frame);
	TEST(resync_after_any_cut);
	TEST(frames_inside_a_cut_one_are_found);
	return 0;
}
