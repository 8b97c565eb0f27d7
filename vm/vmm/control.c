/* SPDX-License-Identifier: MIT */
/*
 * control.c - the VMM's end of the control socket
 *
 * A request is carried out within the callback that reads it, but for a capture, whose answer comes when its
 * RAM is copied. The socket's other end is the daemon, which is trusted; its files are not.
 */
#include "vm/vmm/control.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "util/message.h"
#include "vm/vmm/freeze.h"
#include "vm/vmm/seccomp.h"
#include "vm/vmm/vmm.h"

struct control_server {
	struct loop *loop;
	struct vmm *vmm;
	struct watch *watch;
	int fd;
	struct freeze *capture; /* under way */
	bool failed;            /* the daemon's messages make no sense, or it is gone */
};

/* The socket's buffer holds more than the few replies that can be under way: a failure means no daemon. */
static void reply(struct control_server *server, enum control_type type, int code, const char *text,
		  const int *fds, unsigned nfds)
{
	struct control_reply message = { .type = type, .code = code };

	snprintf(message.text, sizeof(message.text), "%s", text);
	if (message_send(server->fd, &message, sizeof(message), fds, nfds) < 0) {
		server->failed = true;
		loop_stop(server->loop);
	}
}

static void reply_err(struct control_server *server, enum control_type type, const struct err *err)
{
	reply(server, type, err->code, err->code ? err->text : "", NULL, 0);
}

static void on_ended(void *arg, bool clean, const char *why)
{
	struct control_server *server = arg;

	reply(server, CONTROL_ENDED, clean ? 0 : -EIO, why, NULL, 0);
	loop_stop(server->loop);
}

static void on_stalled(void *arg)
{
	reply(arg, CONTROL_STALLED, 0, "", NULL, 0);
}

static void on_captured(void *arg, const struct err *err, const struct template_files *files)
{
	struct control_server *server = arg;
	const int fds[CONTROL_REPLY_FDS] = { files->ram, files->state, files->map };

	server->capture = NULL;
	if (err->code)
		reply_err(server, CONTROL_CAPTURED, err);
	else
		reply(server, CONTROL_CAPTURED, 0, "", fds, files->map < 0 ? 2 : 3);
}

/* The next disk is fds[0], which is the machine's when this succeeds. */
static void capture(struct control_server *server, const char *next_disk, int *fds)
{
	const bool disk = next_disk[0];
	struct err err = { 0 };

	if (server->capture)
		err_set(&err, -EBUSY, "a capture is under way");
	else if (server->vmm->stalled)
		err_set(&err, -ENOSPC, "the disk is full, and what the guest wrote is not on it yet");
	else if (!freeze_start(server->vmm, disk ? next_disk : NULL, fds[0], on_captured, server,
			       &server->capture, &err) &&
		 disk)
		fds[0] = -1;
	if (err.code)
		reply_err(server, CONTROL_CAPTURED, &err);
	else
		reply(server, CONTROL_FROZEN, 0, "", NULL, 0);
}

/* The descriptors of a request that come before its disk's. */
static unsigned files_of(const struct control_request *request)
{
	return request->layered ? 4 : 2;
}

/* The request's disk, if it has one: its layers are the last of the nfds descriptors, which are the chain's now. */
static int take_disk(const struct control_request *request, int *fds, unsigned nfds, struct chain **ret,
		     struct err *err)
{
	const unsigned first = files_of(request), n = nfds - first;
	int rc;

	*ret = NULL;
	if (!request->disk[0])
		return 0;
	rc = chain_adopt(request->disk, fds + first, n, true, ret, err);
	for (unsigned i = 0; !rc && i < n; i++)
		fds[first + i] = -1;
	return rc;
}

/* Become a machine: one that boots, or a fork. */
static void fill(struct vmm *vmm, const struct control_request *request, int *fds, unsigned nfds,
		 struct err *err)
{
	const struct guest_template template = { .ram_fd = fds[0],
						 .overlay_fd = request->layered ? fds[2] : -1,
						 .map_fd = request->layered ? fds[3] : -1 };
	struct vmm_boot boot = { .kernel_fd = fds[0], .initrd_fd = fds[1], .cmdline = request->cmdline };

	if (nfds < files_of(request)) {
		err_set(err, -EPROTO, "a request without files");
		return;
	}
	if (take_disk(request, fds, nfds, &boot.disk, err))
		return;
	if (request->type == CONTROL_LOAD)
		vmm_load(vmm, &template, fds[1], boot.disk, err);
	else if (!vmm_boot(vmm, &boot, err))
		vmm_run(vmm, err);
	if (!vmm->disk)
		chain_free(boot.disk);
	if (vmm->memory.template_fd == fds[0])
		fds[0] = -1; /* the machine's */
	if (request->layered && vmm->memory.overlay_fd == fds[2])
		fds[2] = -1;
}

static void serve(struct control_server *server, const struct control_request *request, int *fds,
		  unsigned nfds)
{
	struct vmm *vmm = server->vmm;
	struct err err = { 0 };

	switch (request->type) {
	case CONTROL_BOOT:
	case CONTROL_LOAD:
		fill(vmm, request, fds, nfds, &err);
		break;
	case CONTROL_RUN:
		vmm_run(vmm, &err);
		break;
	case CONTROL_STOP:
		vmm_stop(vmm, &err);
		break;
	case CONTROL_CAPTURE:
		capture(server, request->disk, fds);
		return;
	default:
		err_set(&err, -EPROTO, "unknown request %u", request->type);
	}
	reply_err(server, CONTROL_DONE, &err);
}

static void on_request(void *arg, uint32_t events)
{
	struct control_server *server = arg;
	struct control_request request;
	int fds[CONTROL_FDS_MAX], rc;
	unsigned i;

	(void)events;
	rc = message_recv(server->fd, &request, sizeof(request), NULL, fds, CONTROL_FDS_MAX, MSG_DONTWAIT);
	if (rc == -EAGAIN)
		return;
	if (rc < 0) {
		server->failed = rc != -EPIPE; /* the daemon lets go of us: no failure */
		loop_stop(server->loop);
		return;
	}
	request.disk[sizeof(request.disk) - 1] = request.cmdline[sizeof(request.cmdline) - 1] = '\0';
	serve(server, &request, fds, (unsigned)rc);
	for (i = 0; i < (unsigned)rc; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* Inherited descriptors are not close-on-exec and may be blocking; -1 is none. */
static int own(int fd)
{
	const int flags = fd < 0 ? 0 : fcntl(fd, F_GETFL);

	if (fd < 0)
		return 0;
	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0
		       ? -errno
		       : 0;
}

int control_serve(struct loop *loop, const struct control_fds *fds, uint64_t memory, unsigned cpus,
		  struct vmm_stats *stats, struct err *err)
{
	struct control_server server = { .loop = loop, .fd = fds->control };
	const struct vmm_config config = { .memory = memory,
					   .cpus = cpus,
					   .agent_fd = fds->agent,
					   .console_fd = fds->console,
					   .net_fd = fds->net,
					   .stats = stats,
					   .ended = on_ended,
					   .stalled = on_stalled,
					   .arg = &server };
	int rc = own(fds->control);

	if (!rc)
		rc = own(fds->agent);
	if (!rc)
		rc = own(fds->console);
	if (!rc)
		rc = own(fds->net);
	if (rc)
		return err_sys(err, rc, "the inherited descriptors are not usable");
	rc = vmm_create(loop, &config, &server.vmm, err);
	if (!rc)
		rc = seccomp_enter(err);
	if (rc) {
		/* In place of READY: the daemon has a caller to tell. */
		reply(&server, CONTROL_DONE, err->code, err->text, NULL, 0);
		goto out;
	}
	server.watch = watch_new(loop, server.fd, EPOLLIN, on_request, &server);
	if (!server.watch) {
		rc = err_sys(err, -errno, "cannot watch the control socket");
		goto out;
	}
	/* What was needed to make the filter, most of what was allocated so far. */
	malloc_trim(0);
	reply(&server, CONTROL_READY, 0, "", NULL, 0);
	if (!server.failed)
		rc = loop_run(loop);
	if (!rc && server.failed)
		rc = err_set(err, -EPROTO, "lost the daemon");
out:
	freeze_cancel(server.capture);
	watch_free(server.watch);
	vmm_free(server.vmm);
	close(server.fd);
	return rc;
}
