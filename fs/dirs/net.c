/* SPDX-License-Identifier: MIT */
/* net.c - the directory net/ of a sandbox */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/dirs/dirs.h"
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
	life_setting_changed(sandbox_of(obj));
	return 0;
}

/* What a setter said; a record of the sandbox has what it set. */
static int changed(struct object *obj, int rc)
{
	if (!rc)
		life_setting_changed(sandbox_of(obj));
	return rc;
}

static int allow_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_add(text, buf_bytes(&network_of(obj)->allow), network_of(obj)->allow.len);
	return 0;
}

static int allow_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	return changed(obj, network_set_allow(sandbox_of(obj), text, n, err));
}

static int publish_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_add(text, buf_bytes(&network_of(obj)->publish), network_of(obj)->publish.len);
	return 0;
}

static int publish_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	int rc = network_check_publish(sandbox_of(obj), text, n, err);

	if (!rc)
		rc = network_set_publish(sandbox_of(obj), text, n, err);
	return changed(obj, rc);
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

static struct tail *denied_tail(const struct object *obj)
{
	return &network_of(obj)->denied;
}

static const struct entry files[] = {
	{ "mode", S_IFREG | 0644, 0,
	  "none | allow (what allow lists) | public (that, and what is globally reachable) | all",
	  .show = mode_show, .store = mode_store },
	{ "allow", S_IFREG | 0644, ENTRY_APPEND,
	  "HOST, *.DOMAIN or CIDR, with or without :PORT and /tcp or /udp, or host:PORT, a service on this "
	  "host's loopback",
	  .show = allow_show, .store = allow_store },
	{ "denied", S_IFREG | 0444, 0,
	  "what was refused: time, protocol, destination, name, why; tail -f works", .stream = &tail_ops,
	  .tail = denied_tail },
	{ "connections", S_IFREG | 0444, ENTRY_COSTLY, "those open now, one a line",
	  .show = connections_show },
	{ "ip", S_IFREG | 0444, 0, "the sandbox's address on this host", .show = ip_show },
	{ "publish", S_IFREG | 0644, ENTRY_APPEND,
	  "[ADDRESS:]PORT[:GUESTPORT][/udp]: this host listens there, on ip unless ADDRESS says otherwise",
	  .show = publish_show, .store = publish_store, .settle = publish_settle },
	{ 0 },
};

const struct dir_ops net_dir = { .entries = files };
