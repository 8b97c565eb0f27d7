/* SPDX-License-Identifier: MIT */
/* listeners.c - which ports of a machine's loopback somebody listens at */
#include "fs/sandbox/listeners.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/sandbox/sandbox.h"

enum {
	TIMEOUT_MS = 10000,
	READS_MAX = 128, /* of 32 KiB: some 25,000 sockets */
	LINE_BYTES = 256,
	LISTENING = 0x0a, /* TCP_LISTEN of the kernel's, in hexadecimal there */
};

static const char *const tables[] = { "/proc/1/net/tcp", "/proc/1/net/tcp6" };

struct asking {
	struct sandbox *sb; /* a reference */
	listeners_fn done;
	void *arg;
	unsigned table, reads;
	uint32_t handle;
	uint64_t offset;
	char line[LINE_BYTES]; /* what was read of it so far */
	size_t len;
	struct ports_seen ports;
};

bool ports_have(const struct ports_seen *ports, unsigned port)
{
	return ports->bit[port / 8] >> port % 8 & 1;
}

static void end(struct asking *asking, int rc)
{
	asking->done(asking->sb, asking->arg, rc ? NULL : &asking->ports, rc);
	object_unref(&asking->sb->obj);
	free(asking);
}

/* What can be reached by way of 127.0.0.1 or ::1. The kernel prints addresses as words of the machine's own order. */
static bool is_loopback(const char *address)
{
	static const char *const good[] = { "00000000", "0100007F", "00000000000000000000000000000000",
					    "00000000000000000000000001000000",
					    "0000000000000000FFFF00000100007F" };
	size_t i;

	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		if (!strcmp(address, good[i]))
			return true;
	return false;
}

/* "  0: 0100007F:1F90 00000000:0000 0A ..."; the heading is of another form. */
static void take_line(struct ports_seen *ports, const char *line)
{
	unsigned port, state;
	char address[33];

	if (sscanf(line, " %*d: %32[0-9A-F]:%4X %*32[0-9A-F]:%*4X %2X", address, &port, &state) == 3 &&
	    state == LISTENING && port && port < 65536 && is_loopback(address))
		ports->bit[port / 8] |= (uint8_t)(1u << port % 8);
}

static void take_text(struct asking *asking, const uint8_t *text, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		if (text[i] == '\n') {
			asking->line[asking->len] = 0;
			take_line(&asking->ports, asking->line);
			asking->len = 0;
		} else if (asking->len < sizeof(asking->line) - 1) {
			asking->line[asking->len++] = (char)text[i];
		}
	}
}

static void open_table(struct asking *asking);

static void ask(struct asking *asking, enum fs_op op, struct buf *args, agent_fs_fn fn)
{
	struct agent *agent = asking->sb->agent;
	const bool sent = agent && !args->failed && agent_fs(agent, op, args, TIMEOUT_MS, fn, asking);

	buf_release(args);
	if (!sent)
		end(asking, agent ? -ENOMEM : -EHOSTDOWN);
}

static void read_table(struct asking *asking);

static void close_table(const struct asking *asking)
{
	struct buf args = { 0 };

	buf_put_u32(&args, asking->handle);
	if (asking->sb->agent)
		(void)agent_fs(asking->sb->agent, FS_CLOSE, &args, TIMEOUT_MS, NULL, NULL);
	buf_release(&args);
}

static void on_read(void *arg, int err, struct reader *results)
{
	struct asking *asking = arg;
	const size_t n = err ? 0 : reader_left(results);

	if (n && ++asking->reads < READS_MAX) {
		take_text(asking, results->p, n);
		asking->offset += n;
		read_table(asking);
		return;
	}
	if (err != -EHOSTDOWN)
		close_table(asking);
	if (!err && n)
		err = -E2BIG;
	asking->table++;
	if (err || asking->table == sizeof(tables) / sizeof(tables[0]))
		end(asking, err);
	else
		open_table(asking);
}

static void read_table(struct asking *asking)
{
	struct buf args = { 0 };

	buf_put_u32(&args, asking->handle);
	buf_put_u64(&args, asking->offset);
	buf_put_u32(&args, PROTO_DATA_MAX);
	ask(asking, FS_READ, &args, on_read);
}

static void on_open(void *arg, int err, struct reader *results)
{
	struct asking *asking = arg;

	/* A kernel without IPv6 has no table of it. */
	if (err == -ENOENT && asking->table) {
		end(asking, 0);
		return;
	}
	asking->handle = err ? 0 : get_u32(results);
	if (err || results->bad)
		end(asking, err ? err : -EPROTO);
	else
		read_table(asking);
}

static void open_table(struct asking *asking)
{
	const char *path = tables[asking->table];
	struct buf args = { 0 };

	asking->offset = asking->len = 0;
	fs_file_put(&args, 0, path, NULL);
	buf_put_u32(&args, O_RDONLY);
	buf_put_u8(&args, false); /* of its owner, not of another user */
	ask(asking, FS_OPEN, &args, on_open);
}

void listeners_ask(struct sandbox *sb, listeners_fn done, void *arg)
{
	int rc = sandbox_usable(sb, NULL);
	struct asking *asking = rc ? NULL : calloc(1, sizeof(*asking));

	if (!asking) {
		done(sb, arg, NULL, rc ? rc : -ENOMEM);
		return;
	}
	asking->sb = sb;
	object_ref(&sb->obj);
	asking->done = done;
	asking->arg = arg;
	open_table(asking);
}
