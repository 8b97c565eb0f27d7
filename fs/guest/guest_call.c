/* SPDX-License-Identifier: MIT */
/* guest_call.c - fs/: requests that wait for a guest's agent */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/guest/guest_errno.h"
#include "fs/guest/guest_names.h"
#include "util/log.h"

struct agent *guest_agent(const struct guest_node *gn)
{
	return gn->guest->ops->agent(gn->guest->obj);
}

uint64_t guest_epoch(const struct guest_node *gn)
{
	return gn->guest->ops->epoch(gn->guest->obj);
}

struct agent_call *guest_list(const struct guest_node *dir, uint64_t cookie, agent_fs_fn done, void *arg)
{
	struct agent_call *call = NULL;
	struct buf args = { 0 };

	if (!guest_put_file(&args, dir)) {
		buf_put_u64(&args, cookie);
		if (!args.failed)
			call = agent_fs(guest_agent(dir), FS_READDIR, &args, GUEST_TIMEOUT_MS, done, arg);
	}
	buf_release(&args);
	return call;
}

int guest_errno(const struct guest_node *gn, enum fs_op op, int err)
{
	return err == -EHOSTDOWN ? gn->guest->ops->lost : guest_errno_allowed(op, err);
}

int guest_usable(const struct guest_node *gn)
{
	return gn->guest->ops->usable(gn->guest->obj);
}

void guest_call_free(struct guest_call *gc)
{
	timer_stop(&gc->lock_timer);
	guest_unref(gc->node);
	guest_unref(gc->node2);
	guest_unref(gc->of);
	free(gc->name);
	free(gc->name2);
	buf_release(&gc->value);
	free(gc);
}

/* What was to be made may be there, now or later, and nobody will say so. */
static void doubt(const struct guest_call *gc)
{
	if (gc->op != FS_CREATE && gc->op != FS_MKDIR && gc->op != FS_MKNOD && gc->op != FS_SYMLINK &&
	    gc->op != FS_LINK && gc->op != FS_RENAME)
		return;
	guest_new_doubt(gc->node);
	guest_new_doubt(gc->node2);
}

static void on_interrupt(void *arg)
{
	struct guest_call *gc = arg;

	doubt(gc);
	gc->request = NULL;
	if (gc->opens)
		return; /* the handle in the answer has to be closed */
	agent_fs_cancel(gc->call);
	guest_call_free(gc);
}

static void is_for(struct guest_call *gc, struct request *request)
{
	gc->request = request;
	request->cancel = on_interrupt;
	request->arg = gc;
}

void guest_call_give_up(struct guest_call *gc)
{
	struct reader nothing = reader_init("", 0);

	doubt(gc);
	agent_fs_give_up(gc->call, GUEST_LOCKED_MS);
	gc->done(gc, -ETIMEDOUT, &nothing);
}

static void on_reply(void *arg, int err, struct reader *results)
{
	struct guest_call *gc = arg;

	struct guest_node *gn = gc->node;
	struct guest_name *name = list_first(&gn->names, struct guest_name, link);

	timer_stop(&gc->lock_timer);
	if (err)
		doubt(gc);
	/* The name it was asked by is another file's, or none's: the kernel asks again, by another or a handle. */
	if (err == -ESTALE && name)
		guest_name_free(name);
	gc->done(gc, guest_errno(gn, gc->op, err), results);
}

struct guest_call *guest_call_new(fuse_req_t req, struct guest_node *gn, const char *name,
				  void (*done)(struct guest_call *gc, int err, struct reader *results))
{
	struct request *request = request_new_ending(req, 0);
	struct guest_call *gc;

	if (!request)
		return NULL;
	gc = calloc(1, sizeof(*gc));
	if (gc && name)
		gc->name = strdup(name);
	if (!gc || (name && !gc->name)) {
		free(gc);
		request_err(request, -ENOMEM);
		return NULL;
	}
	gc->request = request;
	gc->node = guest_ref(gn);
	gc->done = done;
	gc->caller = fuse_req_ctx(req)->pid;
	return gc;
}

struct guest_call *guest_call_make(fuse_req_t req, fuse_ino_t parent, const char *name, uint32_t type,
				   void (*done)(struct guest_call *gc, int err, struct reader *results),
				   struct buf *args, int *rc)
{
	struct guest_node *dir = guest_node_of(req, parent);
	struct guest_call *gc = guest_call_new(req, dir, name, done);

	if (!gc)
		return NULL;
	gc->type = type;
	*rc = guest_put_name(args, dir, name);
	return gc;
}

static bool changes_files(enum fs_op op)
{
	return op != FS_GETATTR && op != FS_LOOKUP && op != FS_READDIR && op != FS_OPENDIR &&
	       op != FS_READLINK && op != FS_OPEN && op != FS_STATFS && op != FS_FSYNC && op != FS_SEEK &&
	       op != FS_GETXATTR;
}

/* The files whose attributes it may change: directories, and what has the names. */
static void touch(const struct guest_call *gc)
{
	const struct guest_node *dirs[] = { gc->node, gc->node2 };
	const char *names[] = { gc->name, gc->name2 };
	const struct guest_name *name;

	for (int i = 0; i < 2; i++) {
		if (!dirs[i])
			continue;
		guest_touch(i ? gc->node2 : gc->node);
		name = names[i] ? guest_child(dirs[i], names[i]) : NULL;
		if (name)
			guest_touch(name->node);
	}
}

void guest_call_send(struct guest_call *gc, enum fs_op op, int rc, struct buf *args)
{
	const struct guest_name *name = list_first(&gc->node->names, struct guest_name, link);
	unsigned timeout_ms;

	if (!rc)
		rc = guest_usable(gc->node);
	if (!rc && args->failed)
		rc = -ENOMEM;
	gc->op = op;
	if (log_verbose() && gc->request)
		log_debug("request %" PRIu64 ": %s %s in fs/ of %s", gc->request->number, fs_op_name(op),
			  gc->name ? gc->name
			  : name   ? name->name
				   : "/",
			  gc->node->guest->obj->name);
	if (changes_files(op)) {
		guest_ahead_void(gc->node->guest);
		touch(gc);
	}
	gc->sent_ns = now_mono_ns();
	gc->changes = gc->node->guest->changes;
	gc->voids = gc->node->guest->voids;
	gc->touched = gc->node->touched;
	gc->touched2 = gc->node2 ? gc->node2->touched : 0;
	if (!rc) {
		timeout_ms = op == FS_RENAME && gc->node != gc->node2 ? GUEST_LOCKED_MS : GUEST_TIMEOUT_MS;
		gc->call = agent_fs(guest_agent(gc->node), op, args, timeout_ms, on_reply, gc);
		if (!gc->call)
			rc = -ENOMEM;
	}
	buf_release(args);
	if (rc) {
		request_err(gc->request, rc);
		guest_call_free(gc);
		return;
	}
	is_for(gc, gc->request);
	guest_lock_watch(gc);
}

struct guest_call *guest_call_ahead(struct guest_node *gn, enum fs_op op, int rc, struct buf *args,
				    void (*done)(struct guest_call *gc, int err, struct reader *results))
{
	const struct guest_name *name = list_first(&gn->names, struct guest_name, link);
	struct guest_call *gc = rc || args->failed ? NULL : calloc(1, sizeof(*gc));

	if (gc) {
		gc->node = guest_ref(gn);
		gc->done = done;
		gc->op = op;
		gc->opens = op == FS_OPEN;
		gc->sent_ns = now_mono_ns();
		gc->changes = gn->guest->changes;
		gc->voids = gn->guest->voids;
		gc->touched = gn->touched;
		gc->epoch = guest_epoch(gn);
		gc->call = agent_fs(guest_agent(gn), op, args, GUEST_TIMEOUT_MS, on_reply, gc);
	}
	buf_release(args);
	if (!gc)
		return NULL;
	if (!gc->call) {
		guest_call_free(gc);
		return NULL;
	}
	log_debug("ahead: %s %s in fs/ of %s", fs_op_name(op), name ? name->name : "/", gn->guest->obj->name);
	return gc;
}

void guest_call_take_over(struct guest_call *gc, struct guest_call *from)
{
	log_debug("request %" PRIu64 ": was asked ahead", from->request->number);
	is_for(gc, from->request);
	from->request = NULL;
	gc->fi = from->fi;
	gc->caller = from->caller;
	gc->size = from->size;
	gc->plus = from->plus;
	gc->offset = from->offset;
	guest_call_free(from);
}

bool guest_call_adopt(struct guest_call *gc, fuse_req_t req)
{
	struct request *request = request_new_ending(req, 0);

	if (!request)
		return false;
	log_debug("request %" PRIu64 ": was asked ahead", request->number);
	is_for(gc, request);
	return true;
}

void guest_done_err(struct guest_call *gc, int err, struct reader *results)
{
	(void)results;
	request_err(gc->request, err);
	guest_call_free(gc);
}

/* ---- entries */

int guest_entry_of(struct guest_node *dir, const char *name, struct fs_attr *attr, struct reader *results,
		   uint64_t asked_ns, bool fifo, struct fuse_entry_param *ret, struct guest_node **ret_node)
{
	const double left = GUEST_CACHE_S - (double)(now_mono_ns() - asked_ns) * 1e-9;
	struct guest_node *gn;
	int rc = guest_attr_check(attr);

	if (rc)
		return rc;
	guest_link_attr(dir, results, attr);
	if (!attr->nlink)
		attr->nlink = 1; /* it was found by its name */
	gn = guest_found(dir, name, &attr->id, attr->mode & S_IFMT);
	if (!gn)
		return -ENOMEM;
	gn->fifo |= fifo;
	*ret = (struct fuse_entry_param){
		.ino = node_id(guest_known(gn)),
		.generation = 1,
		.attr_timeout = left > 0 && !guest_is_elsewhere(gn, attr) ? left : 0,
		.entry_timeout = left > 0 ? left : 0,
	};
	/* One that has other names, or is open, is there also when this name is not. */
	if (!S_ISDIR(gn->type) && (attr->nlink > 1 || !list_empty(&gn->files)))
		ret->entry_timeout = 0;
	guest_told(gn);
	guest_told_bare(gn, attr, asked_ns);
	guest_stat(gn, attr, &ret->attr);
	*ret_node = gn;
	guest_unref(gn);
	return 0;
}

int guest_entry(struct guest_call *gc, struct reader *results, struct fuse_entry_param *ret,
		struct guest_node **ret_node)
{
	struct guest_node *dir = gc->node2 ? gc->node2 : gc->node;
	struct fs_attr attr;
	int rc;

	if (guest_attr_get(results, &attr) || (gc->type && (attr.mode & S_IFMT) != gc->type))
		return -EIO;
	/*
	 * As long as it may be kept from when it comes: it was so at some time after it was asked for. But where
	 * the host has changed something since it was asked for, it may have been so before that.
	 */
	rc = guest_entry_of(dir, gc->name, &attr, results,
			    gc->changes == dir->guest->changes ? now_mono_ns() : 0, gc->fifo, ret, ret_node);
	if (!rc && gc->changes == dir->guest->changes)
		guest_keep(*ret_node, &attr, gc->sent_ns);
	return rc;
}
