/* SPDX-License-Identifier: MIT */
/* net.c - the directory net/ of a sandbox */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/sandbox/sandbox.h"

static struct network *network_of(const struct object *obj)
{
	return &sandbox_of(obj)->network;
}

static int mode_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_printf(text, "%s\n", net_mode_name(network_of(obj)->mode));
	return 0;
}

static int mode_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	enum net_mode mode;

	(void)n;
	if (!net_mode_parse(text, &mode))
		return err_set(err, -EINVAL, "mode: \"%.32s\" is not none, allow, public or all", text);
	network_set_mode(sandbox_of(obj), mode);
	return 0;
}

static int allow_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_add(text, buf_bytes(&network_of(obj)->allow), network_of(obj)->allow.len);
	return 0;
}

static int allow_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	return network_set_allow(sandbox_of(obj), text, n, err);
}

static int publish_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_add(text, buf_bytes(&network_of(obj)->publish), network_of(obj)->publish.len);
	return 0;
}

static int publish_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	return network_set_publish(sandbox_of(obj), text, n, err);
}

static void publish_settle(struct object *obj, struct request *request)
{
	network_settle(sandbox_of(obj), request);
}

static int ip_show(struct object *obj, struct buf *text, struct err *err)
{
	char addr[NET_ADDR_TEXT];

	(void)err;
	net_addr_format(&network_of(obj)->addr, addr);
	buf_printf(text, "%s\n", addr);
	return 0;
}

static int connections_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	network_connections(sandbox_of(obj), text);
	return 0;
}

/* ---- denied */

static uint64_t denied_size(const struct object *obj)
{
	return tail_size(&network_of(obj)->denied);
}

static int denied_open(struct file *file, int flags)
{
	(void)flags;
	tail_open(&network_of(file->obj)->denied, file);
	return 0;
}

static void denied_read(struct file *file, uint64_t offset, bool nonblock, struct request *request)
{
	(void)nonblock;
	tail_read(&network_of(file->obj)->denied, file, offset, request);
}

static unsigned denied_poll(const struct file *file)
{
	return tail_poll(&network_of(file->obj)->denied, file);
}

static const struct stream_ops denied_ops = {
	.open = denied_open,
	.read = denied_read,
	.poll = denied_poll,
	.size = denied_size,
	.seekable = true,
};

static const struct entry files[] = {
	{ .name = "mode",
	  .mode = S_IFREG | 0644,
	  .show = mode_show,
	  .store = mode_store,
	  .help = "none | allow (what allow lists) | public (that, and what is globally reachable) | all" },
	{ .name = "allow",
	  .mode = S_IFREG | 0644,
	  .flags = ENTRY_APPEND,
	  .show = allow_show,
	  .store = allow_store,
	  .help = "HOST, *.DOMAIN or CIDR, with or without :PORT and /tcp or /udp, or host:PORT, a service "
		  "on "
		  "this host's loopback" },
	{ .name = "denied",
	  .mode = S_IFREG | 0444,
	  .stream = &denied_ops,
	  .help = "what was refused: time, protocol, destination, name, why; tail -f works" },
	{ .name = "connections",
	  .mode = S_IFREG | 0444,
	  .flags = ENTRY_COSTLY,
	  .show = connections_show,
	  .help = "those open now, one a line" },
	{ .name = "ip",
	  .mode = S_IFREG | 0444,
	  .show = ip_show,
	  .help = "the sandbox's address on this host" },
	{ .name = "publish",
	  .mode = S_IFREG | 0644,
	  .flags = ENTRY_APPEND,
	  .show = publish_show,
	  .store = publish_store,
	  .settle = publish_settle,
	  .help = "[ADDRESS:]PORT[:GUESTPORT][/udp]: this host listens there, on ip unless ADDRESS says "
		  "otherwise" },
	{ 0 },
};

const struct dir_ops net_dir = { .entries = files };
