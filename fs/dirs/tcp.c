/* SPDX-License-Identifier: MIT */
/*
 * tcp.c - the directory tcp/ of a sandbox: connections to ports of its machine's loopback
 *
 * Each open of tcp/PORT is a connection of its own, by way of the agent: a job without a name, whose command the
 * agent runs itself (vm/agent/guest/dial.c). Every port can be looked up, and open(2) tells whether somebody
 * listens there: ECONNREFUSED if nobody does. A name is an object of its own for as long as somebody knows it.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/dirs/dirs.h"
#include "fs/sandbox/admission.h"
#include "fs/sandbox/job.h"
#include "fs/sandbox/listeners.h"
#include "fs/sandbox/sandbox.h"
#include "fs/tree/file.h"
#include "vm/net/rules.h"

struct port {
	struct object obj;
	struct sandbox *sb; /* holds as long as the port is not gone */
	uint16_t number;
};

static struct port *port_of(const struct object *obj)
{
	return container_of(obj, struct port, obj);
}

/* ---- connections */

static void connect_begun(void *arg, const struct err *err)
{
	struct file *file = arg;
	const struct port *port = port_of(file->obj);
	struct err why;

	if (err->code && !port->obj.gone) {
		err_set(&why, err->code, "tcp/%s: %s", port->obj.name, err->text);
		object_report(&port->sb->obj, &why);
	}
	file_opened(file, err->code);
}

static void port_connect(struct file *file)
{
	struct port *port = port_of(file->obj);
	struct sandbox *sb = port->sb;
	struct job *job = NULL;
	struct err err;
	int rc = sandbox_usable(sb, &err);

	if (!rc)
		rc = admit_job(sb, &err);
	if (!rc) {
		job = job_new(sb, "", &sb->obj.owner);
		rc = job ? 0 : err_sys(&err, -ENOMEM, "it cannot be connected to");
	}
	if (!rc) {
		/* An argument vector that begins with an empty word is the agent's own. */
		buf_add(&job->cmd, "\0dial", sizeof("\0dial"));
		buf_add(&job->cmd, port->obj.name, strlen(port->obj.name));
		job->linger = true;
		job->in.writers = 1;
		job->begun = (struct pending){ connect_begun, file };
		file->priv = job;
		object_ref(&job->obj);
		list_add(&job->out[0].files, &file->link);
		output_open(job, 0);
		rc = job_start(job, false, &err);
	}
	if (!rc)
		return;
	if (job)
		job->begun = (struct pending){ 0 };
	connect_begun(file, &err);
}

static void port_release(struct file *file)
{
	struct job *job = file->priv;

	if (!job)
		return;
	list_del(&file->link);
	output_close(job, 0);
	job->in.writers = 0;
	if (!job->obj.gone) {
		if (job->begun.done || job->phase == JOB_PENDING) {
			job->begun = (struct pending){ 0 };
			job_remove(job);
		} else {
			job_leave(job);
		}
	}
	object_unref(&job->obj);
}

static void port_read(struct file *file, uint64_t offset, bool nonblock, struct request *request)
{
	struct job *job = file->priv;

	(void)offset;
	if (job->obj.gone)
		request_err(request, -ENODEV);
	else
		output_read(job, 0, nonblock, request);
}

static void port_write(struct file *file, const char *data, bool nonblock, struct request *request)
{
	struct job *job = file->priv;

	if (job->obj.gone)
		request_err(request, -ENODEV);
	else
		input_write(job, data, nonblock, request);
}

static unsigned port_poll(const struct file *file)
{
	const struct job *job = file->priv;

	return job->obj.gone ? POLLIN | POLLRDNORM | POLLERR | POLLHUP
			     : output_poll(&job->out[0]) | input_poll(&job->in);
}

static const struct stream_ops port_ops = {
	.connect = port_connect,
	.release = port_release,
	.read = port_read,
	.write = port_write,
	.poll = port_poll,
};

/* ---- names */

static const struct entry port_entry = {
	"PORT", S_IFREG | 0600, ENTRY_FRESH,
	"each open, read-write, is a connection to that port, whatever net/mode says; ECONNREFUSED: nobody "
	"listens",
	.stream = &port_ops
};

static void port_free(struct object *obj)
{
	struct port *port = port_of(obj);

	list_del(&obj->siblings);
	object_leave(obj);
	free(port);
}

/* What place_ino of its names needs: an object's inode numbers are two ranges here, one for the ports themselves. */
static uint64_t port_ino(struct sandbox *sb, unsigned number)
{
	if (!sb->ports_ino)
		sb->ports_ino = object_inos(sb->obj.fs, 2);
	return sb->ports_ino + number;
}

static struct object *tcp_find(struct object *dir, const char *name, const struct entry **ret)
{
	struct sandbox *sb = sandbox_of(dir);
	struct object *known;
	struct port *port;
	uint16_t number;

	*ret = &port_entry;
	if (!parse_port(name, &number) || *name == '0')
		return NULL;
	known = object_named(&sb->port_names, name);
	if (known)
		return known;
	port = calloc(1, sizeof(*port));
	if (!port)
		return NULL;
	object_init(&port->obj, OBJECT_PORT, sb->obj.fs, name, &sb->obj.owner, port_free);
	port->obj.ino = port_ino(sb, number);
	port->obj.log = &sb->obj;
	port->sb = sb;
	port->number = number;
	list_add(&sb->ports, &port->obj.siblings);
	object_enter(&sb->port_names, &port->obj);
	/* Our own reference lasts until the next one is found; by then the kernel has one, or nobody. */
	object_unref(sb->last_port);
	sb->last_port = &port->obj;
	return &port->obj;
}

static void on_listeners(struct sandbox *sb, void *arg, const struct ports_seen *ports, int err)
{
	struct listing *listing = arg;
	struct object named = { .ino = 0 };
	char name[8];
	unsigned i;

	for (i = 1; i < 65536 && !err; i++)
		if (ports_have(ports, i)) {
			snprintf(name, sizeof(name), "%u", i);
			named.ino = port_ino(sb, i);
			listing_add(listing, name, &named, &port_entry);
		}
	listing_end(listing, err);
}

static void tcp_gather(struct object *dir, struct listing *listing)
{
	listeners_ask(sandbox_of(dir), on_listeners, listing);
}

const struct dir_ops tcp_dir = {
	.child = &port_entry,
	.find = tcp_find,
	.gather = tcp_gather,
};
