/* SPDX-License-Identifier: MIT */
/* launcher.c - the daemon's end of the launcher */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/io.h"
#include "util/log.h"
#include "util/message.h"
#include "vm/jail/priv.h"
#include "vm/jail/protocol.h"

/*
 * It answers in a fraction of a millisecond. Whoever waits for it waits with the daemon's loop, so one that was stopped,
 * or hangs, is waited for once, and not again until it has said something. At its start it goes through all jails.
 */
enum { ANSWER_MS = 5000, READY_MS = 120000 };

static struct {
	pid_t pid; /* 0: not started */
	int fd, pidfd, null_fd, layers_fd;
	char mode[16], how[ERR_TEXT_MAX], limits[ERR_TEXT_MAX];
	unsigned may_limit; /* bits of enum limit */
	bool may_renice;
	/* Answers that nobody waits for any more; they come before any other. Only the first may be of a SPAWN. */
	unsigned owed;
	bool owes_process;
	bool silent; /* it was waited for in vain, and has said nothing since */
} launcher = { .fd = -1, .pidfd = -1, .null_fd = -1, .layers_fd = -1 };

static void fall_silent(void)
{
	if (!launcher.silent)
		log_error("the launcher has not answered for %d s: until it does no machine can be started",
			  ANSWER_MS / 1000);
	launcher.silent = true;
}

/* Room for one more request, or an answer, in time. */
static bool ready(short events)
{
	/* Without one the call that follows says so. */
	return launcher.fd < 0 || fd_ready(launcher.fd, events, launcher.silent ? 0 : ANSWER_MS);
}

static int send_request(const struct launch_request *request, const int *fds, unsigned nfds)
{
	if (!ready(POLLOUT)) {
		fall_silent();
		return -ETIMEDOUT;
	}
	return message_send(launcher.fd, request, launch_size(request), fds, nfds);
}

static int send_head(enum launch_op op, pid_t pid, int value)
{
	static struct launch_request request;

	request.head = (struct launch_head){ .op = op, .pid = pid, .value = value };
	return send_request(&request, NULL, 0);
}

/*
 * Nobody else can end a machine, so one that cannot be told to must not be forgotten: hanging up ends the daemon
 * (launcher_fd), and the launcher and all machines with it.
 */
static void end_process(pid_t pid, int signal)
{
	if (send_head(LAUNCH_KILL, pid, signal) != -ETIMEDOUT)
		return;
	log_error("the launcher stands still, and takes no more: the end");
	(void)shutdown(launcher.fd, SHUT_RDWR);
}

/* Its end is not asked about: only its place is to be given back. */
static void reap_unasked(pid_t pid)
{
	if (!send_head(LAUNCH_REAP, pid, 0))
		launcher.owed++;
}

/* What is owed, as far as it comes in time. */
static int take_owed(void)
{
	struct launch_reply reply;
	int fd, rc;

	while (launcher.owed) {
		if (!ready(POLLIN)) {
			fall_silent();
			return -ETIMEDOUT;
		}
		rc = message_recv(launcher.fd, &reply, sizeof(reply), NULL, &fd, 1, 0);
		if (rc < 0)
			return rc;
		if (launcher.silent)
			log_info("the launcher answers again");
		launcher.silent = false;
		launcher.owed--;
		if (rc)
			close(fd);
		if (launcher.owes_process && !reply.code) {
			end_process(reply.value, SIGKILL);
			reap_unasked(reply.value);
		}
		launcher.owes_process = false;
	}
	launcher.silent = false; /* if it only took no more */
	return 0;
}

static int ask(const struct launch_request *request, const int *fds, unsigned nfds,
	       struct launch_reply *reply, int *ret_fd)
{
	int rc = take_owed();

	*reply = (struct launch_reply){ 0 };
	*ret_fd = -1;
	if (rc == -ETIMEDOUT && request->head.op == LAUNCH_REAP)
		reap_unasked(request->head.pid);
	if (!rc)
		rc = send_request(request, fds, nfds);
	if (!rc && !ready(POLLIN)) {
		launcher.owed++;
		launcher.owes_process = request->head.op == LAUNCH_SPAWN;
		fall_silent();
		rc = -ETIMEDOUT;
	}
	if (!rc)
		rc = message_recv(launcher.fd, reply, sizeof(*reply), NULL, ret_fd, 1, 0);
	if (rc < 0)
		return rc;
	reply->text[sizeof(reply->text) - 1] = '\0';
	if (!rc)
		*ret_fd = -1;
	return 0;
}

static int call(const struct launch_head *head, struct launch_reply *reply)
{
	static struct launch_request request;
	int fd, rc;

	request.head = *head;
	rc = ask(&request, NULL, 0, reply, &fd);
	if (fd >= 0)
		close(fd);
	return rc ? rc : reply->code;
}

/* May we put a process back to our own priority? Asked while we may still do what the launcher may. */
static bool may_raise(void)
{
	const int own = getpriority(PRIO_PROCESS, 0);

	/* Nothing is above -20: setpriority would succeed without a right to. */
	if (own <= -20 || setpriority(PRIO_PROCESS, 0, own - 1) < 0)
		return false;
	(void)setpriority(PRIO_PROCESS, 0, own);
	return true;
}

static void learn_limits(void)
{
	struct launch_reply reply;
	const int rc = call(&(struct launch_head){ .op = LAUNCH_LIMITS }, &reply);

	launcher.may_limit = rc ? 0 : (unsigned)reply.value;
	snprintf(launcher.limits, sizeof(launcher.limits), "%s", rc ? "none" : reply.text);
}

int launcher_start(const struct jail_config *config, struct err *err)
{
	const pid_t self = getpid();
	struct launch_reply hello;
	int ends[2], none, rc;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(err, -errno, "cannot start the launcher");
	launcher.null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	launcher.pid = launcher.null_fd < 0 ? -1 : fork();
	if (launcher.pid < 0) {
		rc = err_sys(err, -errno, "cannot start the launcher");
		launcher.pid = 0;
		close_fd(&launcher.null_fd);
		close(ends[0]);
		close(ends[1]);
		return rc;
	}
	if (!launcher.pid) {
		close(ends[0]);
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != self)
			_exit(1);
		launcher_serve(config, ends[1]);
	}
	close(ends[1]);
	launcher.fd = ends[0];
	/* Now: a daemon that is confined may not. */
	launcher.pidfd = (int)syscall(SYS_pidfd_open, launcher.pid, 0);
	rc = fd_ready(launcher.fd, POLLIN, READY_MS) ? 0 : -ETIMEDOUT;
	launcher.silent = rc;
	if (!rc)
		rc = message_recv(launcher.fd, &hello, sizeof(hello), NULL, &none, 1, 0);
	if (rc < 0)
		err_sys(err, rc, "the launcher does not answer");
	else if (hello.code)
		rc = err_set(err, hello.code, "%.*s", ERR_TEXT_MAX - 1, hello.text);
	if (rc) {
		launcher_stop();
		return rc;
	}
	snprintf(launcher.mode, sizeof(launcher.mode), "%.15s", hello.mode);
	snprintf(launcher.how, sizeof(launcher.how), "%.*s", ERR_TEXT_MAX - 1, hello.text);
	learn_limits();
	launcher.may_renice = may_raise();
	return 0;
}

int launcher_fd(void)
{
	return launcher.fd;
}

void launcher_stop(void)
{
	if (!launcher.pid)
		return;
	close(launcher.fd);
	close(launcher.null_fd);
	close_fd(&launcher.layers_fd);
	/* A daemon that has given up its privileges may not kill. */
	if (!fd_ready(launcher.pidfd, POLLIN, launcher.silent ? 0 : ANSWER_MS) &&
	    kill(launcher.pid, SIGKILL) < 0)
		log_warn("the launcher stands still, and is not waited for");
	else
		while (waitpid(launcher.pid, NULL, 0) < 0 && errno == EINTR)
			;
	close_fd(&launcher.pidfd);
	launcher.pid = 0;
	launcher.fd = launcher.null_fd = -1;
	launcher.owed = 0;
	launcher.owes_process = launcher.silent = false;
}

const char *launcher_mode(void)
{
	return launcher.mode;
}

bool launcher_jails(void)
{
	return launcher.pid && strcmp(launcher.mode, "none") != 0;
}

const char *launcher_how(void)
{
	return launcher.how;
}

/* A descriptor, or a negative errno. */
static int get_fd(const struct launch_head *head)
{
	static struct launch_request request;
	struct launch_reply reply;
	int fd, rc;

	request.head = *head;
	rc = ask(&request, NULL, 0, &reply, &fd);
	if (!rc && reply.code)
		rc = reply.code;
	if (!rc && fd >= 0)
		return fd;
	close_fd(&fd);
	return rc ? rc : -EPROTO;
}

int launcher_layers(void)
{
	if (!launcher_jails())
		return -ENOENT;
	if (launcher.layers_fd < 0)
		launcher.layers_fd = get_fd(&(struct launch_head){ .op = LAUNCH_LAYERS });
	return launcher.layers_fd;
}

int launcher_open_proc(pid_t pid, enum launch_proc file)
{
	if (!launcher.pid)
		return jail_open_proc(pid, file);
	return get_fd(&(struct launch_head){ .op = LAUNCH_PROC, .pid = pid, .value = (int32_t)file });
}

int launcher_open_resolvers(void)
{
	if (!launcher.pid)
		return jail_open_resolvers();
	return get_fd(&(struct launch_head){ .op = LAUNCH_RESOLVERS });
}

long launcher_call_of(pid_t thread)
{
	struct launch_reply reply;

	if (!launcher.pid)
		return jail_call_of(thread);
	return call(&(struct launch_head){ .op = LAUNCH_CALL, .value = thread }, &reply) ? -1 : reply.value;
}

bool launcher_may_renice(void)
{
	return launcher.may_renice;
}

static int put_args(struct launch_request *request, const char *const *args, struct err *err)
{
	size_t n;

	for (; *args; args++) {
		n = strlen(*args) + 1;
		if (request->head.nargs == LAUNCH_ARGS_MAX - 1 ||
		    n > sizeof(request->text) - request->head.text_len)
			return err_set(err, -E2BIG, "a program has too many arguments");
		memcpy(request->text + request->head.text_len, *args, n);
		request->head.text_len += (uint32_t)n;
		request->head.nargs++;
	}
	return 0;
}

int launcher_spawn(const struct launch *launch, pid_t *ret_pid, int *ret_pidfd, struct err *err)
{
	static struct launch_request request;
	const int null_fd = launcher.null_fd;
	int fds[LAUNCH_FDS_MAX] = { launch->stdin_fd >= 0 ? launch->stdin_fd : null_fd, launch->log_fd };
	struct launch_reply reply;
	int rc;

	if (!launcher.pid)
		return err_set(err, -ESRCH, "there is no launcher");
	if (launch->nkeep > LAUNCH_FDS_MAX - LAUNCH_FDS_MIN)
		return err_set(err, -E2BIG, "a program is given too many descriptors");
	if (launch->nkeep)
		memcpy(fds + LAUNCH_FDS_MIN, launch->keep, launch->nkeep * sizeof(*fds));
	request.head = (struct launch_head){ .op = LAUNCH_SPAWN, .kind = (int32_t)launch->kind };
	rc = put_args(&request, launch->args, err);
	if (rc)
		return rc;
	rc = ask(&request, fds, LAUNCH_FDS_MIN + launch->nkeep, &reply, ret_pidfd);
	if (rc)
		return err_sys(err, rc, "the launcher does not answer");
	if (!reply.code && *ret_pidfd < 0)
		return err_set(err, -EPROTO, "the launcher sent no descriptor");
	*ret_pid = reply.value;
	return reply.code ? err_set(err, reply.code, "%s", reply.text) : 0;
}

void launcher_kill(pid_t pid, int signal)
{
	end_process(pid, signal);
}

void launcher_nice(pid_t pid, int value)
{
	if (!launcher.silent)
		(void)send_head(LAUNCH_NICE, pid, value);
}

int launcher_reap(pid_t pid, int *ret_status, bool *ret_starved)
{
	struct launch_reply reply;
	const int rc = call(&(struct launch_head){ .op = LAUNCH_REAP, .pid = pid }, &reply);

	*ret_status = rc ? *ret_status : reply.value;
	*ret_starved = !rc && reply.text[0];
	return rc;
}

int launcher_limit(pid_t pid, enum limit limit, uint64_t value, struct err *err)
{
	struct launch_reply reply;
	const struct launch_head head = {
		.op = LAUNCH_LIMIT, .pid = pid, .value = (int32_t)limit, .amount = value
	};
	const int rc = call(&head, &reply);

	return rc ? err_set(err, rc, "%s", reply.text[0] ? reply.text : "the launcher does not answer") : 0;
}

bool launcher_may_limit(enum limit limit)
{
	return launcher.may_limit & 1u << limit;
}

const char *launcher_limits(void)
{
	return launcher.limits;
}
