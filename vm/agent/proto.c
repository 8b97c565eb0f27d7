/* SPDX-License-Identifier: MIT */
/*
 * proto.c - frames and records of the agent channel, encoded and decoded
 *
 * Compiled into both ends, so that neither can disagree with the other about a field. Decoders take bytes
 * from the other side of the virtual machine's wall: they check every length, bound every allocation by the
 * bytes that are really there, and hand out a record only when all of it was well-formed.
 */
#include "vm/agent/proto.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void put_id(struct buf *buf, const struct fs_id *id)
{
	buf_put_u64(buf, id->dev);
	buf_put_u64(buf, id->ino);
	buf_put_u64(buf, id->gen);
}

void fs_id_get(struct reader *r, struct fs_id *id)
{
	id->dev = get_u64(r);
	id->ino = get_u64(r);
	id->gen = get_u64(r);
}

void fs_file_put(struct buf *buf, uint32_t handle, const char *path, const struct fs_id *id)
{
	static const struct fs_id none;

	buf_put_u32(buf, handle);
	buf_put_str(buf, path);
	buf_put_u8(buf, id ? 1 : 0);
	put_id(buf, id ? id : &none);
}

static void put_time(struct buf *buf, const struct fs_time *time)
{
	buf_put_u64(buf, (uint64_t)time->sec);
	buf_put_u32(buf, time->nsec);
}

static void get_time(struct reader *r, struct fs_time *time)
{
	time->sec = (int64_t)get_u64(r);
	time->nsec = get_u32(r);
}

void fs_attr_put(struct buf *buf, const struct fs_attr *attr)
{
	put_id(buf, &attr->id);
	buf_put_u32(buf, attr->mode);
	buf_put_u32(buf, attr->nlink);
	buf_put_u32(buf, attr->uid);
	buf_put_u32(buf, attr->gid);
	buf_put_u64(buf, attr->rdev);
	buf_put_u64(buf, attr->size);
	buf_put_u64(buf, attr->blocks);
	put_time(buf, &attr->atime);
	put_time(buf, &attr->mtime);
	put_time(buf, &attr->ctime);
	buf_put_u32(buf, attr->flags);
}

void fs_attr_get(struct reader *r, struct fs_attr *attr)
{
	fs_id_get(r, &attr->id);
	attr->mode = get_u32(r);
	attr->nlink = get_u32(r);
	attr->uid = get_u32(r);
	attr->gid = get_u32(r);
	attr->rdev = get_u64(r);
	attr->size = get_u64(r);
	attr->blocks = get_u64(r);
	get_time(r, &attr->atime);
	get_time(r, &attr->mtime);
	get_time(r, &attr->ctime);
	attr->flags = get_u32(r);
}

/* ---- frames */

const char *frame_name(uint16_t type)
{
	static const char *const names[] = {
		[F_READY] = "READY",
		[F_ATTACH] = "ATTACH",
		[F_ATTACHED] = "ATTACHED",
		[F_QUIESCE] = "QUIESCE",
		[F_QUIESCED] = "QUIESCED",
		[F_UNQUIESCE] = "UNQUIESCE",
		[F_PING] = "PING",
		[F_PONG] = "PONG",
		[F_POWEROFF] = "POWEROFF",
		[F_HOOKS] = "HOOKS",
		[F_JOB_START] = "JOB_START",
		[F_JOB_STARTED] = "JOB_STARTED",
		[F_JOB_STDIN] = "JOB_STDIN",
		[F_JOB_STDIN_EOF] = "JOB_STDIN_EOF",
		[F_JOB_STDIN_MAX] = "JOB_STDIN_MAX",
		[F_JOB_STDOUT] = "JOB_STDOUT",
		[F_JOB_STDERR] = "JOB_STDERR",
		[F_JOB_STDOUT_MAX] = "JOB_STDOUT_MAX",
		[F_JOB_STDERR_MAX] = "JOB_STDERR_MAX",
		[F_JOB_EXIT] = "JOB_EXIT",
		[F_JOB_KILL] = "JOB_KILL",
		[F_JOB_RESIZE] = "JOB_RESIZE",
		[F_JOB_FORGET] = "JOB_FORGET",
		[F_JOB_LIST] = "JOB_LIST",
		[F_JOB_INFO] = "JOB_INFO",
		[F_JOB_LIST_END] = "JOB_LIST_END",
		[F_FS] = "FS",
		[F_FS_REPLY] = "FS_REPLY",
		[F_RESIZE] = "RESIZE",
		[F_RESIZED] = "RESIZED",
		[F_CLOCK] = "CLOCK",
		[F_CLOCKED] = "CLOCKED",
		[F_MODULES] = "MODULES",
		[F_MODULES_DATA] = "MODULES_DATA",
		[F_GUEST_ASK] = "GUEST_ASK",
		[F_GUEST_BEGUN] = "GUEST_BEGUN",
		[F_GUEST_DONE] = "GUEST_DONE",
	};

	return type < sizeof(names) / sizeof(names[0]) && names[type] ? names[type] : "an unknown frame";
}

const char *guest_verb_name(uint8_t verb)
{
	static const char *const names[] = {
		[GUEST_FORK] = "fork", [GUEST_CHECKPOINT] = "checkpoint", [GUEST_SUSPEND] = "suspend"
	};

	return verb < sizeof(names) / sizeof(names[0]) ? names[verb] : NULL;
}

const char *fs_op_name(enum fs_op op)
{
	static const char *const names[] = {
		[FS_GETATTR] = "getattr",
		[FS_SETATTR] = "setattr",
		[FS_READDIR] = "readdir",
		[FS_READLINK] = "readlink",
		[FS_OPEN] = "open",
		[FS_CREATE] = "create",
		[FS_READ] = "read",
		[FS_WRITE] = "write",
		[FS_CLOSE] = "close",
		[FS_FSYNC] = "fsync",
		[FS_MKDIR] = "mkdir",
		[FS_UNLINK] = "unlink",
		[FS_RMDIR] = "rmdir",
		[FS_RENAME] = "rename",
		[FS_SYMLINK] = "symlink",
		[FS_LINK] = "link",
		[FS_MKNOD] = "mknod",
		[FS_STATFS] = "statfs",
		[FS_SYNC] = "sync",
		[FS_LOOKUP] = "lookup",
		[FS_OPENDIR] = "opendir",
		[FS_SEEK] = "seek",
		[FS_FALLOCATE] = "fallocate",
		[FS_GETXATTR] = "getxattr",
		[FS_SETXATTR] = "setxattr",
		[FS_REMOVEXATTR] = "removexattr",
		[FS_XATTR_PART] = "xattr_part",
	};

	return (unsigned)op < sizeof(names) / sizeof(names[0]) && names[op] ? names[op]
									    : "an unknown operation";
}

uint64_t fs_hash(const uint8_t *p, size_t n)
{
	uint64_t h = 14695981039346656037u;

	while (n--)
		h = (h ^ *p++) * 1099511628211u;
	return h;
}

void fs_xattr_put(struct buf *buf, const uint8_t *value, size_t n, uint32_t offset, uint32_t wanted)
{
	buf_put_u64(buf, fs_hash(value, n));
	buf_put_u32(buf, (uint32_t)n);
	if (offset < n)
		buf_add(buf, value + offset, n - offset < wanted ? n - offset : wanted);
}

/* ---- job_spec */

/* An optional string: "" stands for NULL, since neither a directory nor a user has an empty name. */
static void put_opt(struct buf *buf, const char *s)
{
	buf_put_str(buf, s ? s : "");
}

static int get_dup(struct reader *r, char **ret)
{
	size_t n;
	const uint8_t *p = get_bytes(r, &n);

	*ret = NULL;
	if (r->bad || memchr(p, '\0', n))
		return -EBADMSG;
	*ret = strndup((const char *)p, n);
	return *ret ? 0 : -ENOMEM;
}

static int get_opt(struct reader *r, char **ret)
{
	int rc = get_dup(r, ret);

	if (!rc && !**ret) {
		free(*ret);
		*ret = NULL;
	}
	return rc;
}

void job_spec_put(struct buf *buf, const struct job_spec *spec)
{
	uint32_t n = 0, i;

	buf_put_str(buf, spec->name);
	buf_put_bytes(buf, spec->cmd, spec->cmd_len);
	buf_put_u8(buf, !!spec->is_argv);
	put_opt(buf, spec->cwd);
	put_opt(buf, spec->user);
	while (spec->env && spec->env[n])
		n++;
	buf_put_u32(buf, n);
	for (i = 0; i < n; i++)
		buf_put_str(buf, spec->env[i]);
	buf_put_u8(buf, !!spec->tty);
	buf_put_u16(buf, spec->rows);
	buf_put_u16(buf, spec->cols);
	buf_put_u8(buf, !!spec->merge);
	buf_put_u8(buf, !!spec->stdin_open);
}

static int get_cmd(struct reader *r, struct job_spec *spec)
{
	size_t n;
	const uint8_t *p = get_bytes(r, &n);

	if (r->bad)
		return -EBADMSG;
	spec->cmd = malloc(n + 1);
	if (!spec->cmd)
		return -ENOMEM;
	memcpy(spec->cmd, p, n);
	spec->cmd[n] = '\0';
	spec->cmd_len = n;
	spec->is_argv = !!get_u8(r);
	/* A shell line with a NUL inside would be run cut off. */
	return !spec->is_argv && memchr(p, '\0', n) ? -EBADMSG : 0;
}

static int get_env(struct reader *r, struct job_spec *spec)
{
	const uint32_t n = get_u32(r);
	uint32_t i;
	int rc;

	/* Each has a length of four bytes at least, which bounds what is allocated here. */
	if (r->bad || n > reader_left(r) / 4)
		return -EBADMSG;
	if (!n)
		return 0;
	spec->env = calloc((size_t)n + 1, sizeof(*spec->env));
	if (!spec->env)
		return -ENOMEM;
	for (i = 0; i < n; i++) {
		rc = get_dup(r, &spec->env[i]);
		if (rc)
			return rc;
	}
	return 0;
}

int job_spec_get(struct reader *r, struct job_spec *ret)
{
	struct job_spec spec = { 0 };
	const size_t before = reader_left(r);
	int rc;

	get_str(r, spec.name, sizeof(spec.name));
	rc = get_cmd(r, &spec);
	if (rc)
		goto fail;
	rc = get_opt(r, &spec.cwd);
	if (rc)
		goto fail;
	rc = get_opt(r, &spec.user);
	if (rc)
		goto fail;
	rc = get_env(r, &spec);
	if (rc)
		goto fail;
	spec.tty = !!get_u8(r);
	spec.rows = get_u16(r);
	spec.cols = get_u16(r);
	spec.merge = !!get_u8(r);
	spec.stdin_open = !!get_u8(r);
	if (r->bad)
		rc = -EBADMSG;
	else if (before - reader_left(r) > PROTO_SPEC_MAX)
		rc = -E2BIG;
	if (rc)
		goto fail;
	*ret = spec;
	return 0;
fail:
	job_spec_release(&spec);
	return rc;
}

void job_spec_release(struct job_spec *spec)
{
	size_t i;

	for (i = 0; spec->env && spec->env[i]; i++)
		free(spec->env[i]);
	free(spec->env);
	free(spec->cmd);
	free(spec->cwd);
	free(spec->user);
	*spec = (struct job_spec){ 0 };
}

/* ---- job_info */

void job_info_put(struct buf *buf, const struct job_info *info)
{
	buf_put_u32(buf, info->id);
	job_spec_put(buf, &info->spec);
	buf_put_u8(buf, info->state);
	buf_put_u32(buf, info->code);
	buf_put_u8(buf, info->shell);
	buf_put_u64(buf, info->stdin_at);
	buf_put_u64(buf, info->stdin_max);
	buf_put_u64(buf, info->stdout_at);
	buf_put_u64(buf, info->stderr_at);
	buf_put_u8(buf, info->stdin_eof);
	buf_put_u8(buf, info->stdout_eof);
	buf_put_u8(buf, info->stderr_eof);
}

int job_info_get(struct reader *r, struct job_info *ret)
{
	struct job_info info = { .id = get_u32(r) };
	int rc = job_spec_get(r, &info.spec);

	if (rc)
		return rc;
	info.state = get_u8(r);
	info.code = get_u32(r);
	info.shell = get_u8(r);
	info.stdin_at = get_u64(r);
	info.stdin_max = get_u64(r);
	info.stdout_at = get_u64(r);
	info.stderr_at = get_u64(r);
	info.stdin_eof = get_u8(r);
	info.stdout_eof = get_u8(r);
	info.stderr_eof = get_u8(r);
	if (r->bad || info.state > JOB_FAILED) {
		job_spec_release(&info.spec);
		return -EBADMSG;
	}
	*ret = info;
	return 0;
}

/* ---- frames */

void frame_put(struct buf *buf, uint16_t type, uint16_t generation, uint32_t id, const void *payload,
	       size_t len)
{
	buf_put_u32(buf, PROTO_MAGIC);
	buf_put_u16(buf, type);
	buf_put_u16(buf, generation);
	buf_put_u32(buf, id);
	buf_put_u32(buf, (uint32_t)len);
	buf_add(buf, payload, len);
	buf_put_u32(buf, PROTO_TRAILER_MAGIC);
}

void record_clear(struct record *record)
{
	buf_release(&record->buf);
	*record = (struct record){ 0 };
}

void record_part(struct record *record, const struct frame *frame)
{
	if (record->id != frame->id)
		record_clear(record);
	record->id = frame->id;
	if (frame->len > PROTO_RECORD_MAX - record->buf.len)
		record->overlong = true;
	if (!record->overlong && !record->failed)
		buf_add(&record->buf, frame->payload, frame->len);
	record->failed |= record->buf.failed;
	if (record->overlong || record->failed)
		buf_release(&record->buf); /* what is left of it is not kept */
}

int record_end(struct record *record, const struct frame *frame, struct reader *ret)
{
	if (record->id != frame->id)
		record_clear(record);
	*ret = reader_init(frame->payload, frame->len);
	if (!record->buf.len && !record->overlong && !record->failed)
		return 0;
	record_part(record, frame);
	if (record->overlong || record->failed)
		return record->overlong ? -E2BIG : -ENOMEM;
	*ret = reader_init(buf_bytes(&record->buf), record->buf.len);
	return 0;
}

void record_put(struct buf *buf, uint16_t type, uint16_t generation, uint32_t id, const void *data,
		size_t len)
{
	const uint8_t *p = data;

	for (; len > PROTO_PAYLOAD_MAX; p += PROTO_PAYLOAD_MAX, len -= PROTO_PAYLOAD_MAX)
		frame_put(buf, F_JOB_PART, generation, id, p, PROTO_PAYLOAD_MAX);
	frame_put(buf, type, generation, id, p, len);
}

void frame_parser_release(struct frame_parser *parser)
{
	buf_release(&parser->buf);
	*parser = (struct frame_parser){ 0 };
}

int frame_parser_feed(struct frame_parser *parser, const void *data, size_t n)
{
	buf_add(&parser->buf, data, n);
	return parser->buf.failed ? -ENOMEM : 0;
}

void *frame_parser_room(struct frame_parser *parser, size_t n)
{
	return buf_reserve(&parser->buf, n);
}

void frame_parser_fed(struct frame_parser *parser, size_t n)
{
	buf_grow(&parser->buf, n);
}

/* Drop what cannot be the beginning of a frame: at least `n` bytes, then up to the next possible magic. */
static void skip(struct frame_parser *parser, size_t n)
{
	const uint8_t *p = buf_bytes(&parser->buf);
	const uint8_t *next = memchr(p + n, PROTO_MAGIC & 0xff, parser->buf.len - n);

	n = next ? (size_t)(next - p) : parser->buf.len;
	parser->skipped += n;
	buf_consume(&parser->buf, n);
}

int frame_parser_next(struct frame_parser *parser, struct frame *frame)
{
	buf_consume(&parser->buf, parser->pending);
	parser->pending = 0;
	while (parser->buf.len >= PROTO_HEADER) {
		struct reader r = reader_init(buf_bytes(&parser->buf), parser->buf.len);
		struct frame f;
		uint32_t magic;

		magic = get_u32(&r);
		f.type = get_u16(&r);
		f.generation = get_u16(&r);
		f.id = get_u32(&r);
		f.len = get_u32(&r);
		f.payload = r.p;
		if (magic != PROTO_MAGIC || f.len > PROTO_PAYLOAD_MAX) {
			skip(parser, 1);
			continue;
		}
		if (reader_left(&r) < (size_t)f.len + PROTO_TRAILER)
			return 0;
		r.p += f.len;
		if (get_u32(&r) != PROTO_TRAILER_MAGIC) {
			/* Cut in two. Frames that came after may lie within what it claimed. */
			skip(parser, 1);
			continue;
		}
		parser->pending = PROTO_HEADER + (size_t)f.len + PROTO_TRAILER;
		*frame = f;
		return 1;
	}
	return 0;
}
