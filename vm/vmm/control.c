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
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
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
	if (control_send(server->fd, &message, sizeof(message), fds, nfds) < 0) {
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

static void on_captured(void *arg, const struct err *err, int ram_fd, int state_fd)
{
	struct control_server *server = arg;
	const int fds[] = { ram_fd, state_fd };

	server->capture = NULL;
	if (err->code) {
		reply_err(server, CONTROL_CAPTURED, err);
		return;
	}
	reply(server, CONTROL_CAPTURED, 0, "", fds, 2);
	close(ram_fd);
	close(state_fd);
}

static void capture(struct control_server *server, const char *next_disk)
{
	struct err err = { 0 };
	const char *slash = next_disk ? strrchr(next_disk, '/') : NULL;
	const int fd = next_disk ? qcow2_open_file(AT_FDCWD, next_disk, true, &err) : -1;

	if (server->capture)
		err_set(&err, -EBUSY, "a capture is under way");
	else if (!err.code)
		freeze_start(server->vmm, slash ? slash + 1 : next_disk, fd, on_captured, server,
			     &server->capture, &err);
	if (err.code && fd >= 0)
		close(fd);
	if (err.code)
		reply_err(server, CONTROL_CAPTURED, &err);
	else
		reply(server, CONTROL_FROZEN, 0, "", NULL, 0);
}

static void serve(struct control_server *server, const struct control_request *request,
		  int fds[CONTROL_FDS_MAX])
{
	const char *disk = request->disk[0] ? request->disk : NULL;
	struct vmm_boot boot = { .kernel = request->kernel,
				 .initrd = request->initrd[0] ? request->initrd : NULL,
				 .cmdline = request->cmdline };
	struct vmm *vmm = server->vmm;
	struct err err = { 0 };

	switch (request->type) {
	case CONTROL_BOOT:
		if ((!disk || !chain_open_path(disk, true, &boot.disk, &err)) && !vmm_boot(vmm, &boot, &err))
			vmm_run(vmm, &err);
		if (!vmm->disk)
			chain_free(boot.disk);
		break;
	case CONTROL_LOAD:
		if (!disk || !chain_open_path(disk, true, &boot.disk, &err))
			vmm_load(vmm, fds[0], fds[1], boot.disk, &err);
		if (!vmm->disk)
			chain_free(boot.disk);
		if (vmm->memory.template_fd == fds[0])
			fds[0] = -1; /* the machine's */
		break;
	case CONTROL_RUN:
		vmm_run(vmm, &err);
		break;
	case CONTROL_STOP:
		vmm_stop(vmm, &err);
		break;
	case CONTROL_CAPTURE:
		capture(server, disk);
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
	rc = control_recv(server->fd, &request, sizeof(request), fds);
	if (rc == -EAGAIN)
		return;
	if (rc < 0) {
		server->failed = rc != -EPIPE; /* the daemon lets go of us: no failure */
		loop_stop(server->loop);
		return;
	}
	request.disk[sizeof(request.disk) - 1] = request.kernel[sizeof(request.kernel) - 1] = '\0';
	request.initrd[sizeof(request.initrd) - 1] = request.cmdline[sizeof(request.cmdline) - 1] = '\0';
	serve(server, &request, fds);
	for (i = 0; i < CONTROL_FDS_MAX; i++)
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
