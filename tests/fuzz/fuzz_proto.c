/* SPDX-License-Identifier: MIT */
/*
 * fuzz_proto.c - the agent channel's parser and decoders on arbitrary bytes
 *
 * The first byte says in what portions the rest arrives. Every frame found is decoded as every record there
 * is, and a record that decodes must survive being encoded and decoded again.
 */
#include <stdlib.h>
#include <string.h>

#include "vm/agent/proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_info(const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	struct job_info info, again;
	struct buf one = { 0 }, two = { 0 };

	if (job_info_get(&r, &info))
		return;
	job_info_put(&one, &info);
	r = reader_init(buf_bytes(&one), one.len);
	if (one.failed || job_info_get(&r, &again) || reader_left(&r))
		abort();
	job_info_put(&two, &again);
	if (two.failed || one.len != two.len ||
	    __builtin_memcmp(buf_bytes(&one), buf_bytes(&two), one.len) != 0)
		abort();
	job_spec_release(&info.spec);
	job_spec_release(&again.spec);
	buf_release(&one);
	buf_release(&two);
}

static void check_frame(const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	struct job_spec spec;
	struct fs_attr attr;

	if (frame->len > PROTO_PAYLOAD_MAX)
		abort();
	if (!job_spec_get(&r, &spec))
		job_spec_release(&spec);
	r = reader_init(frame->payload, frame->len);
	fs_attr_get(&r, &attr);
	check_info(frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const size_t portion = size ? (size_t)data[0] + 1 : 1;
	struct frame_parser parser = { 0 };
	struct frame frame;
	size_t at, n;
	void *p;

	for (at = 1; at < size; at += n) {
		n = size - at < portion ? size - at : portion;
		p = portion % 2 ? frame_parser_room(&parser, portion) : NULL;
		if (p) {
			memcpy(p, data + at, n);
			frame_parser_fed(&parser, n);
		} else if (frame_parser_feed(&parser, data + at, n)) {
			abort();
		}
		while (frame_parser_next(&parser, &frame))
			check_frame(&frame);
	}
	if (parser.skipped > size)
		abort();
	frame_parser_release(&parser);
	return 0;
}
