/* SPDX-License-Identifier: MIT */
/*
 * agent.c - an agent that lies, floods and stalls
 *
 * Runs as root in a stock guest: takes the agent's port away from PID 1 by binding virtio_console anew, and
 * answers the host's file requests itself. It keeps no files. What it says of a path is in the path's last
 * component:
 *
 *     TYPE[:KEY=VALUE]...      TYPE is one of f d l p c b s (a file of that type)
 *
 *     N=ERRNO     operation N (enum fs_op) fails with this errno; by handle too, of a file opened under this name
 *     N=silent    operation N is never answered
 *     N=late      operation N is answered half a second later
 *     N=trap      operation N, the first time after a READLINK was answered, is answered after the next RENAME
 *     N=short     operation N is answered with 0 and nothing else
 *     mode= size= nlink= uid= dev= ino= time= blocks=    that field of the attributes; mode is the whole of it, in octal
 *     to=NAME     a link's target, of those in `targets`
 *     list=KIND   a directory's contents: endless, many (n=N of them), bad, void, loop
 *     xattr=N     an extended attribute's size; xn=N bytes of it come each time, hash=N
 *     names=KIND  the list of them: good, secret (trusted.* and what is no known name too), void, open
 *     handle=N    the handle that OPEN and CREATE give
 *
 * A name that is no such thing does not exist. Asked for "m:ms=N", the agent answers nothing for so long, that
 * name included; for "m:flood=N", it sends frames that nobody asked for, for so long; from "m:jobs" on it lists more
 * jobs than there can be. What it holds back it tells the serial console, one line each. From "m:fuzz=SEED" to
 * "m:fuzz=0" what it says is changed by chance (mutate.h), and it answers what is no file's, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/hostile/mutate.h"
#include "tests/hostile/port.h"
#include "vm/agent/proto.h"

enum { HANDLES = 4096, HELD = 256, MANY = 16000 };

static int port;
static uint16_t generation;
static char *handles[HANDLES]; /* the names they were opened under */
static uint32_t last_handle;
static long long muted_until, flood_until;
static bool endless_jobs, fuzzes;
static bool link_read;

static struct held {
	uint32_t id;
	struct buf payload;
	bool rename; /* until a RENAME was answered; else until `due` */
	bool link;   /* of a READLINK */
	long long due;
} held[HELD];

static const struct {
	const char *name, *to;
} targets[] = {
	{ "plain", "f" },
	{ "up1", "../f" },
	{ "up2", "../../f" },
	{ "secret", "../../../../../secret" },
	{ "passwd", "/etc/passwd" },
	{ "root", "/" },
	{ "inside", "d/../../../../../../../../etc/passwd" },
};

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static void say(const char *word, unsigned n)
{
	int fd = open("/dev/console", O_WRONLY | O_NOCTTY);

	if (fd < 0)
		return;
	dprintf(fd, "hostile: %s %u\n", word, n);
	close(fd);
}

/* ---- frames */

static void put_bytes(struct buf *out)
{
	size_t at = 0;
	ssize_t n;

	while (at < out->len) {
		n = write(port, buf_bytes(out) + at, out->len - at);
		if (n <= 0 && errno != EINTR)
			exit(1);
		if (n > 0)
			at += (size_t)n;
	}
	buf_release(out);
}

static void put_frame(uint16_t type, uint32_t id, const void *payload, size_t len)
{
	struct buf out = { 0 };

	if (fuzzes)
		mutate(&out, type, generation, id, payload, len);
	else
		frame_put(&out, type, generation, id, payload, len);
	put_bytes(&out);
}

/* ---- what a name says */

static const char *last(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static const char *get(const char *name, const char *key)
{
	const size_t n = strlen(key);
	const char *p = name;

	while ((p = strchr(p, ':'))) {
		p++;
		if (!strncmp(p, key, n) && p[n] == '=')
			return p + n + 1;
	}
	return NULL;
}

static bool is(const char *value, const char *word)
{
	const size_t n = strlen(word);

	return value && !strncmp(value, word, n) && (!value[n] || value[n] == ':');
}

static uint64_t number(const char *name, const char *key, uint64_t otherwise, int base)
{
	const char *value = get(name, key);

	return value ? strtoull(value, NULL, base) : otherwise;
}

static const char *op_value(const char *name, unsigned op)
{
	char key[8];

	snprintf(key, sizeof(key), "%u", op);
	return get(name, key);
}

static bool exists(const char *name)
{
	return !*name || (strchr("fdlpcbs", *name) && (!name[1] || name[1] == ':' || name[1] == '-'));
}

static const char *target_of(const char *name)
{
	const char *to = get(name, "to");
	size_t i;

	for (i = 0; i < sizeof(targets) / sizeof(*targets); i++)
		if (is(to, targets[i].name))
			return targets[i].to;
	return "f";
}

static uint32_t mode_of(const char *name)
{
	switch (*name) {
	case 'f':
		return S_IFREG | 0644;
	case 'l':
		return S_IFLNK | 0777;
	case 'p':
		return S_IFIFO | 0666;
	case 'c':
		return S_IFCHR | 0666;
	case 'b':
		return S_IFBLK | 0666;
	case 's':
		return S_IFSOCK | 0666;
	default:
		return S_IFDIR | 0755;
	}
}

static uint64_t hash(const char *name)
{
	uint64_t h = 14695981039346656037u;

	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 1099511628211u;
	return h;
}

static void put_attr(struct buf *reply, const char *name)
{
	const uint64_t time = number(name, "time", 0, 0);
	struct fs_attr attr = {
		.id = { number(name, "dev", 1, 0), number(name, "ino", hash(name), 0), 1 },
		.mode = (uint32_t)number(name, "mode", mode_of(name), 8),
		.nlink = (uint32_t)number(name, "nlink", 1, 0),
		.uid = (uint32_t)number(name, "uid", 0, 0),
		.gid = (uint32_t)number(name, "uid", 0, 0),
		.rdev = *name == 'b' ? 0x800 : 0x103, /* sda, null */
		.size = number(name, "size", *name == 'l' ? strlen(target_of(name)) : 100, 0),
		.blocks = number(name, "blocks", 8, 0),
	};

	attr.atime = attr.mtime = attr.ctime = (struct fs_time){ (int64_t)time, (uint32_t)time };

	fs_attr_put(reply, &attr);
	if (S_ISLNK(attr.mode))
		buf_put_str(reply, target_of(name));
}

/* ---- listings */

static void put_entry(struct buf *out, uint64_t cookie, const void *name, size_t n, const char *like)
{
	buf_put_u64(out, cookie);
	buf_put_bytes(out, name, n);
	put_attr(out, like);
}

static void put_listing(struct buf *reply, const char *dir, uint64_t cookie)
{
	const char *kind = get(dir, "list");
	struct buf entries = { 0 };
	static const char long_name[300] = { [0 ... 299] = 'f' };
	uint32_t n = 0;
	char name[64];
	bool more = false;

	if (is(kind, "endless") || is(kind, "many") || is(kind, "loop")) {
		more = true;
		while (entries.len < 60000 && more) {
			if (is(kind, "many") && cookie >= number(dir, "n", MANY, 0)) {
				more = false;
				break;
			}
			snprintf(name, sizeof(name), "f-%llu", (unsigned long long)cookie);
			cookie++;
			put_entry(&entries, is(kind, "loop") ? 0 : cookie, name, strlen(name), "f");
			n++;
		}
	} else if (is(kind, "void")) {
		more = true;
	} else if (is(kind, "bad")) {
		put_entry(&entries, 1, "f-good", 6, "f");
		put_entry(&entries, 2, "", 0, "f");
		put_entry(&entries, 3, ".", 1, "f");
		put_entry(&entries, 4, "..", 2, "f");
		put_entry(&entries, 5, "a/b", 3, "f");
		put_entry(&entries, UINT64_MAX, "/", 1, "f");
		put_entry(&entries, 1ull << 63, "f-type", 6, "f:mode=37777777777");
		n = 7;
	} else if (is(kind, "long")) {
		put_entry(&entries, 1, long_name, sizeof(long_name), "f");
		n = 1;
	} else if (is(kind, "nul")) {
		put_entry(&entries, 1, "f\0f", 3, "f");
		n = 1;
	} else {
		put_entry(&entries, 1, "f", 1, "f");
		n = 1;
	}
	buf_put_u8(reply, more);
	buf_put_u32(reply, is(kind, "count") ? UINT32_MAX : n);
	buf_add(reply, buf_bytes(&entries), entries.len);
	buf_release(&entries);
}

/* ---- requests */

/* Answer now, later or never. */
static void reply(uint32_t id, unsigned op, const char *value, uint32_t code, struct buf *results)
{
	struct buf payload = { 0 };
	bool trap = is(value, "trap") && link_read;
	unsigned i;

	if (is(value, "short"))
		buf_clear(results);
	buf_put_u32(&payload, code);
	buf_add(&payload, buf_bytes(results), code ? 0 : results->len);
	if (is(value, "silent")) {
		buf_release(&payload);
		return;
	}
	if (trap)
		link_read = false;
	if (trap || is(value, "late")) {
		for (i = 0; i < HELD && held[i].payload.len; i++)
			;
		if (i < HELD) {
			held[i] = (struct held){ id, payload, trap, op == FS_READLINK, now_ms() + 500 };
			if (trap)
				say("holds", i);
			return;
		}
	}
	put_frame(F_FS_REPLY, id, buf_bytes(&payload), payload.len);
	buf_release(&payload);
}

/* What is due. A rename has to take place on the host too before what waited for it is. */
static void release(bool renamed)
{
	struct buf out = { 0 };
	unsigned i;

	mutate_release(&out);
	put_bytes(&out);
	for (i = 0; i < HELD; i++) {
		if (held[i].rename && renamed) {
			held[i].rename = false;
			held[i].due = now_ms() + 200;
		}
		if (!held[i].payload.len || held[i].rename || now_ms() < held[i].due)
			continue;
		link_read |= held[i].link;
		put_frame(F_FS_REPLY, held[i].id, buf_bytes(&held[i].payload), held[i].payload.len);
		buf_release(&held[i].payload);
		held[i] = (struct held){ 0 };
	}
}

/* The name that an open file was opened under, or the last one of a path. */
static void get_file(struct reader *r, char *name)
{
	const uint32_t handle = get_u32(r);
	char path[PATH_MAX];
	struct fs_id id;

	get_str(r, path, sizeof(path));
	get_u8(r);
	fs_id_get(r, &id);
	snprintf(name, NAME_MAX + 1, "%.255s",
		 handle && handle < HANDLES && handles[handle] ? handles[handle] : last(path));
}

static void get_name(struct reader *r, char *name)
{
	get_file(r, name);
	get_str(r, name, NAME_MAX + 1);
}

/* What an operation is on, first; false: it names nothing. */
static bool get_object(unsigned op, struct reader *r, char *name)
{
	uint32_t handle;

	*name = 0;
	switch (op) {
	case FS_CREATE:
	case FS_MKDIR:
	case FS_UNLINK:
	case FS_RMDIR:
	case FS_RENAME:
	case FS_SYMLINK:
	case FS_MKNOD:
	case FS_LOOKUP:
		get_name(r, name);
		return true;
	case FS_READ:
	case FS_WRITE:
	case FS_CLOSE:
	case FS_FSYNC:
	case FS_SEEK:
	case FS_FALLOCATE:
		handle = get_u32(r);
		if (handle && handle < HANDLES && handles[handle])
			snprintf(name, NAME_MAX + 1, "%.255s", handles[handle]);
		return false;
	case FS_SYNC:
		return false;
	default:
		get_file(r, name);
		return true;
	}
}

static void put_handle(struct buf *results, const char *name)
{
	last_handle = last_handle % (HANDLES - 1) + 1;
	free(handles[last_handle]);
	handles[last_handle] = strdup(name);
	buf_put_u32(results, (uint32_t)number(name, "handle", last_handle, 0));
}

/* A value, or a list; false: it has no ACL. */
static bool put_xattr(struct buf *results, const char *name, struct reader *r)
{
	static const char good[] = "user.a\0user.b", secret[] = "user.a\0trusted.b\0system.c\0d\0security.e",
			  open[] = { 'u', 's', 'e', 'r', '.', 'a' };
	const char *kind = get(name, "names");
	char attr[NAME_MAX + 1];
	const char *list = is(kind, "secret") ? secret : is(kind, "open") ? open : good;
	const size_t n = is(kind, "secret") ? sizeof(secret) : is(kind, "open") ? sizeof(open) : sizeof(good);
	size_t i;

	get_str(r, attr, sizeof(attr));
	buf_put_u64(results, number(name, "hash", (uint64_t)now_ms(), 0));
	if (!*attr) {
		buf_put_u32(results, is(kind, "void") ? 7 : (uint32_t)n);
		buf_add(results, is(kind, "void") ? "\0\0\0user" : list, is(kind, "void") ? 7 : n);
		return true;
	}
	if (!strncmp(attr, "system.", 7) && !get(name, "xattr"))
		return false;
	buf_put_u32(results, (uint32_t)number(name, "xattr", 4, 0));
	for (i = number(name, "xn", 4, 0); i; i--)
		buf_put_u8(results, 'x');
	return true;
}

static void request(const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	const unsigned op = get_u8(&r);
	char name[NAME_MAX + 1], to[NAME_MAX + 1];
	struct buf results = { 0 };
	const char *value;
	uint32_t code = 0;
	uint64_t n;

	if (get_object(op, &r, name) && !exists(name))
		code = ENOENT;
	if (*name == 'm' && get(name, "ms"))
		muted_until = now_ms() + (long long)number(name, "ms", 0, 0);
	if (*name == 'm' && get(name, "flood"))
		flood_until = now_ms() + (long long)number(name, "flood", 0, 0);
	if (*name == 'm' && get(name, "fuzz")) {
		fuzzes = number(name, "fuzz", 0, 0);
		mutate_start(number(name, "fuzz", 0, 0));
	}
	endless_jobs |= !strcmp(name, "m:jobs");
	if (now_ms() < muted_until) {
		buf_release(&results);
		return;
	}
	value = op_value(name, op);
	if (value && *value >= '0' && *value <= '9')
		code = (uint32_t)strtoul(value, NULL, 0);
	switch (op) {
	case FS_GETATTR:
	case FS_SETATTR:
	case FS_LOOKUP:
	case FS_MKDIR:
	case FS_SYMLINK:
	case FS_MKNOD:
		put_attr(&results, name);
		break;
	case FS_LINK:
		get_name(&r, to);
		put_attr(&results, to);
		break;
	case FS_OPENDIR:
		put_handle(&results, name);
		put_listing(&results, name, 0);
		break;
	case FS_READDIR:
		put_listing(&results, name, get_u64(&r));
		break;
	case FS_READLINK:
		buf_put_str(&results, target_of(name));
		break;
	case FS_OPEN:
	case FS_CREATE:
		put_handle(&results, name);
		put_attr(&results, name);
		break;
	case FS_READ:
		n = get_u64(&r);
		if (is(get(name, "data"), "much"))
			buf_reserve(&results, 60000), buf_grow(&results, 60000);
		else if (!n)
			buf_add(&results, "hostile\n", 8);
		break;
	case FS_WRITE:
		(void)get_u64(&r);
		(void)get_u8(&r);
		buf_put_u32(&results, is(get(name, "data"), "much") ? UINT32_MAX : (uint32_t)reader_left(&r));
		break;
	case FS_SEEK:
		n = get_u64(&r);
		buf_put_u64(&results, number(name, "seek", n, 0));
		break;
	case FS_GETXATTR:
		if (!put_xattr(&results, name, &r) && !code)
			code = ENODATA;
		break;
	case FS_STATFS:
		for (n = 0; n < 6; n++)
			buf_put_u64(&results, number(name, "size", 4096, 0));
		buf_put_u32(&results, 255);
		break;
	default:
		break;
	}
	reply(frame->id, op, value, code, &results);
	buf_release(&results);
	if (op == FS_RENAME && !is(value, "silent"))
		release(true);
}

/* ---- floods */

static void put_jobs(uint32_t tag, unsigned n)
{
	char cmd[900];
	struct job_info info = { .spec = { .cmd = cmd, .cmd_len = sizeof(cmd) } };
	struct buf record = { 0 };

	memset(cmd, 'x', sizeof(cmd));
	for (; n; n--) {
		info.id = n;
		snprintf(info.spec.name, sizeof(info.spec.name), "job%u", n);
		buf_clear(&record);
		job_info_put(&record, &info);
		put_frame(F_JOB_INFO, tag, buf_bytes(&record), record.len);
	}
	buf_release(&record);
}

/* Answers to nothing, and parts of what never ends. */
static void put_nonsense_frames(void)
{
	static const uint16_t types[] = { F_JOB_STDOUT, F_JOB_STDERR,    F_JOB_EXIT, F_JOB_PART,
					  F_FS_REPLY,   F_JOB_STDIN_MAX, F_ATTACHED, F_READY,
					  F_PONG,       F_HOOKS,         F_MODULES };
	static char bytes[16000] = { [9] = PROTO_READ_BEST >> 8 }; /* of F_MODULES: what is wanted */
	static uint32_t n;

	put_frame(types[n % (sizeof(types) / sizeof(*types))], n / 2, bytes, 16 << n % 10);
	put_jobs(n++, 1);
}

/* And questions of all kinds, of a guest that may ask for nothing. */
static void put_nonsense(void)
{
	static uint32_t n;
	struct buf payload = { 0 };

	put_nonsense_frames();
	buf_put_u8(&payload, (uint8_t)(n % 5));
	buf_put_u32(&payload, n * 1000003);
	buf_put_str(&payload,
		    n % 3 ? "x" : "../../../../../../../../../../etc/passwd and more than a name can have");
	put_frame(F_GUEST_ASK, n++ % 7, buf_bytes(&payload), payload.len);
	buf_release(&payload);
}

/* What is no file's, answered as by a guest in which each command says a line and ends. */
static void answer_plainly(const struct frame *frame)
{
	struct buf payload = { 0 };

	buf_put_u32(&payload, 0);
	buf_put_str(&payload, "");
	buf_put_u32(&payload, 1); /* a process, or processors */
	if (frame->type == F_JOB_START) {
		buf_put_u8(&payload, 0);
		put_frame(F_JOB_STARTED, frame->id, buf_bytes(&payload), payload.len);
		put_frame(F_JOB_STDIN_MAX, frame->id, "\0\0\1\0\0\0\0", 8);
		put_frame(F_JOB_STDOUT, frame->id, "hostile\n", 8);
		put_frame(F_JOB_STDOUT, frame->id, NULL, 0);
		put_frame(F_JOB_STDERR, frame->id, NULL, 0);
		buf_clear(&payload);
		buf_put_u8(&payload, 0);
		buf_put_u32(&payload, 7);
		buf_put_u64(&payload, 8);
		buf_put_u64(&payload, 0);
		put_frame(F_JOB_EXIT, frame->id, buf_bytes(&payload), payload.len);
	} else if (frame->type == F_RESIZE) {
		buf_put_u64(&payload, 256 << 20);
		put_frame(F_RESIZED, frame->id, buf_bytes(&payload), payload.len);
	} else if (frame->type == F_CLOCK) {
		put_frame(F_CLOCKED, frame->id, NULL, 0);
	}
	buf_release(&payload);
}

static void handle(const struct frame *frame)
{
	generation = frame->generation;
	if (frame->type == F_FS)
		request(frame);
	else if (frame->type == F_QUIESCE)
		put_frame(F_QUIESCED, frame->id, NULL, 0);
	else if (frame->type == F_PING)
		put_frame(F_PONG, frame->id, NULL, 0);
	else if (frame->type == F_ATTACH)
		put_frame(F_ATTACHED, 0, "\0\0\0\0\0\0\0", 8);
	else if (frame->type == F_JOB_LIST) {
		put_jobs(frame->id, endless_jobs ? 20000 : 0);
		put_frame(F_JOB_LIST_END, frame->id, NULL, 0);
	} else if (fuzzes)
		answer_plainly(frame);
}

int main(void)
{
	struct frame_parser parser = { 0 };
	struct pollfd fd = { .events = POLLIN };
	char bytes[32768];
	struct frame frame;
	ssize_t n;

	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	port = port_take();
	say("serves", 0);
	fd.fd = port;
	for (;;) {
		const bool floods = now_ms() < flood_until;

		if (floods)
			put_nonsense();
		if (poll(&fd, 1, floods ? 0 : 50) > 0) {
			n = read(port, bytes, sizeof(bytes));
			if (n > 0)
				frame_parser_feed(&parser, bytes, (size_t)n);
			else
				usleep(10000);
			while (frame_parser_next(&parser, &frame))
				handle(&frame);
		}
		release(false);
	}
}
