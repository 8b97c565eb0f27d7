/* SPDX-License-Identifier: MIT */
/*
 * server.c - the launcher's life: it makes the roots of jails, and then starts, signals and reaps processes
 *
 * It parses nothing but the requests of protocol.h, and holds nothing of a machine's: descriptors pass
 * through it. It waits for nobody but the daemon and processes that have ended.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <mntent.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/io.h"
#include "util/message.h"
#include "vm/jail/cgroup.h"
#include "vm/jail/priv.h"
#include "vm/jail/protocol.h"

struct jailed {
	pid_t pid;
	uid_t uid;            /* the place in the range, also where nobody takes it */
	struct cgroup *group; /* NULL: none, as for all of them */
};

struct server {
	const struct jail_config *config;
	struct jail jails[JAIL_KINDS];
	bool userns;
	int fd, self_fd, null_fd;
	struct jailed *children;
	unsigned n, size;
	uid_t next_uid;
	struct cgroups groups;
};

static const char nowhere[] = "; --jail=none starts machines without one";

/* ---- children */

static struct jailed *find(struct server *server, pid_t pid)
{
	unsigned i;

	for (i = 0; i < server->n; i++)
		if (server->children[i].pid == pid)
			return &server->children[i];
	return NULL;
}

static bool uid_used(const struct server *server, uid_t uid)
{
	unsigned i;

	for (i = 0; i < server->n; i++)
		if (server->children[i].uid == uid)
			return true;
	return false;
}

/* One that nobody has, and the one that was given back last comes last. */
static int take_uid(struct server *server, uid_t *ret, struct err *err)
{
	const struct jail_config *config = server->config;
	const uid_t count = config->uid_last - config->uid_first + 1;

	if (server->n >= count)
		return err_set(err, -EAGAIN, "all %u user ids of --jail-uids are in use", (unsigned)count);
	do {
		*ret = server->next_uid;
		server->next_uid = *ret == config->uid_last ? config->uid_first : *ret + 1;
	} while (uid_used(server, *ret));
	return 0;
}

static int reserve_child(struct server *server, struct err *err)
{
	const unsigned size = server->size ? 2 * server->size : 16;
	struct jailed *more;

	if (server->n < server->size)
		return 0;
	more = realloc(server->children, size * sizeof(*more));
	if (!more)
		return err_set(err, -ENOMEM, "out of memory");
	server->children = more;
	server->size = size;
	return 0;
}

/* fork(2), in a pid namespace of its own, with a pidfd. */
static pid_t clone_child(bool namespace, const struct cgroup *group, int *ret_pidfd)
{
	struct clone_args args = {
		.flags = CLONE_PIDFD | (namespace ? CLONE_NEWPID : 0) | (group ? CLONE_INTO_CGROUP : 0),
		.pidfd = (uintptr_t)ret_pidfd,
		.exit_signal = SIGCHLD,
		.cgroup = group ? (uint64_t)group->fd : 0,
	};

	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

static int start(struct server *server, const struct jail *jail, const int *fds, unsigned nfds,
		 char *const *argv, int *ret_pidfd, struct err *err)
{
	struct jail_entry entry = {
		.jail = jail,
		.none = server->config->none,
		.userns = server->userns,
		.launcher_fd = server->self_fd,
		.null_fd = server->null_fd,
		.fds = fds,
		.nfds = nfds,
		.argv = argv,
	};
	struct jailed child = { 0 };
	int rc;

	if (!jail->program)
		return err_set(err, jail->err.code, "%s", jail->err.text);
	rc = reserve_child(server, err);
	if (!rc)
		rc = take_uid(server, &entry.uid, err);
	if (!rc)
		rc = cgroup_take(&server->groups, &child.group, err);
	if (rc)
		return rc;
	child.uid = entry.uid;
	child.pid = clone_child(!entry.none, child.group, ret_pidfd);
	if (!child.pid)
		jail_enter(&entry);
	if (child.pid < 0) {
		rc = err_sys(err, -errno, "cannot start %s", jail->name);
		cgroup_drop(&server->groups, child.group);
		return rc;
	}
	server->children[server->n++] = child;
	return child.pid;
}

static int reap(struct server *server, pid_t pid)
{
	struct jailed *child = find(server, pid);
	struct cgroup *group;
	int status = 0;

	if (!child)
		return 0;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	group = child->group;
	cgroup_kill(group); /* without a PID namespace something may be left of it */
	*child = server->children[--server->n];
	cgroup_drop(&server->groups, group);
	return status;
}

/* ---- requests */

static int check_spawn(const struct launch_request *request, unsigned nfds, char *argv[], struct err *err)
{
	const char *text = request->text, *end = text + request->head.text_len;
	unsigned i;

	if (request->head.kind < 0 || request->head.kind >= JAIL_KINDS || nfds < LAUNCH_FDS_MIN ||
	    request->head.nargs >= LAUNCH_ARGS_MAX || request->head.text_len > sizeof(request->text))
		return err_set(err, -EPROTO, "a request of the daemon makes no sense");
	for (i = 0; i < request->head.nargs; i++) {
		argv[1 + i] = (char *)text;
		text = memchr(text, '\0', (size_t)(end - text));
		if (!text)
			return err_set(err, -EPROTO, "a request of the daemon is cut short");
		text++;
	}
	argv[1 + i] = NULL;
	return 0;
}

static void reply(struct server *server, int value, int fd, const struct err *err)
{
	struct launch_reply message = { .code = err->code, .value = value };

	memcpy(message.text, err->text, sizeof(message.text));
	(void)message_send(server->fd, &message, sizeof(message), &fd, fd >= 0);
}

static void spawn(struct server *server, const struct launch_request *request, const int *fds, unsigned nfds)
{
	char *argv[LAUNCH_ARGS_MAX + 2];
	struct jail *jail;
	struct err err = { 0 };
	int pid = -1, pidfd = -1;

	if (!check_spawn(request, nfds, argv, &err)) {
		jail = &server->jails[request->head.kind];
		argv[0] = jail->program;
		pid = start(server, jail, fds, nfds, argv, &pidfd, &err);
	}
	reply(server, pid, pidfd, &err);
	if (pidfd >= 0)
		close(pidfd);
	cgroups_spare(&server->groups); /* for the next one, while nobody waits */
}

/* A mount of our own on the directory, attached to nothing. */
static void send_layers(struct server *server)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
					       MOUNT_ATTR_NOEXEC };
	struct err err = { 0 };
	int fd = -1;

	errno = ENOENT; /* where there are none */
	if (!server->config->none && server->config->layers)
		fd = open_tree(AT_FDCWD, server->config->layers, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (fd < 0 || mount_setattr(fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
		err_sys(&err, -errno, "cannot mount the layers read-only");
	reply(server, 0, err.code ? -1 : fd, &err);
	if (fd >= 0)
		close(fd);
}

/* What a limit ended. */
static void send_end(struct server *server, pid_t pid)
{
	static const struct err unknown = { -ESRCH, "the launcher does not know this process" };
	const struct jailed *child = find(server, pid);
	struct err err = { 0 };

	if (!child) {
		reply(server, 0, -1, &unknown);
		return;
	}
	if (cgroup_starved(child->group))
		snprintf(err.text, sizeof(err.text), "out of memory");
	reply(server, reap(server, pid), -1, &err);
}

static void send_limit(struct server *server, const struct launch_head *head)
{
	static const struct err unknown = { -ESRCH, "the launcher does not know this process" };
	const struct jailed *child = find(server, head->pid);
	struct err err = { 0 };

	if (child)
		(void)cgroup_limit(&server->groups, child->group, (enum limit)head->value, head->amount,
				   server->config->layers, &err);
	reply(server, 0, -1, child ? &err : &unknown);
}

/* fd: a descriptor to send, or why there is none. */
static void send_fd(struct server *server, int fd, const char *what)
{
	struct err err = { 0 };

	if (fd < 0)
		err_sys(&err, fd, "cannot open %s", what);
	reply(server, 0, fd, &err);
	close_fd(&fd);
}

static void send_call(struct server *server, pid_t thread)
{
	static const struct err ok;

	reply(server, (int)jail_call_of(thread), -1, &ok);
}

static void send_limits(struct server *server)
{
	struct err err = { 0 };

	snprintf(err.text, sizeof(err.text), "%s", server->groups.how);
	reply(server, (int)server->groups.have, -1, &err);
}

static void serve(struct server *server, const struct launch_request *request, const int *fds, unsigned nfds)
{
	const struct jailed *child = find(server, request->head.pid);

	switch (request->head.op) {
	case LAUNCH_SPAWN:
		spawn(server, request, fds, nfds);
		break;
	case LAUNCH_LAYERS:
		send_layers(server);
		break;
	case LAUNCH_REAP:
		send_end(server, request->head.pid);
		break;
	case LAUNCH_LIMIT:
		send_limit(server, &request->head);
		break;
	case LAUNCH_PROC:
		send_fd(server,
			child ? jail_open_proc(child->pid, (enum launch_proc)request->head.value) : -ESRCH,
			"a file of a process");
		break;
	case LAUNCH_CALL:
		send_call(server, request->head.value);
		break;
	case LAUNCH_RESOLVERS:
		send_fd(server, jail_open_resolvers(), "resolv.conf");
		break;
	case LAUNCH_LIMITS:
		send_limits(server);
		break;
	case LAUNCH_KILL:
		if (child && request->head.value == SIGKILL)
			cgroup_kill(child->group);
		if (child)
			kill(request->head.pid, request->head.value);
		break;
	case LAUNCH_NICE:
		/* Its group is it, with all of its threads; but one that has not come to its setsid yet is alone,
		 * and its threads will be as nice as it is. */
		if (child) {
			(void)setpriority(PRIO_PROCESS, (id_t)request->head.pid, request->head.value);
			(void)setpriority(PRIO_PGRP, (id_t)request->head.pid, request->head.value);
		}
		break;
	}
}

static void run(struct server *server)
{
	static struct launch_request request;
	int fds[LAUNCH_FDS_MAX], n, i;
	size_t size;
	unsigned at;

	for (;;) {
		n = message_recv(server->fd, &request, sizeof(request), &size, fds, LAUNCH_FDS_MAX, 0);
		if (n < 0)
			break;
		if (size >= sizeof(request.head) && size == launch_size(&request))
			serve(server, &request, fds, (unsigned)n);
		for (i = 0; i < n; i++)
			close(fds[i]);
	}
	/* The daemon is gone. */
	for (at = 0; at < server->n; at++)
		kill(server->children[at].pid, SIGKILL);
	while (server->n)
		reap(server, server->children[0].pid);
}

/* ---- the start */

static int write_proc(const char *path, const char *text, struct err *err)
{
	const int fd = open(path, O_WRONLY | O_CLOEXEC);
	const bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	const int rc = ok ? 0 : err_sys(err, -errno, "cannot write %s", path);

	if (fd >= 0)
		close(fd);
	return rc;
}

/* A user namespace in which this user has its own id, and we have all capabilities. */
static int enter_userns(struct err *err)
{
	char uid_map[64], gid_map[64];
	int rc = 0;

	snprintf(uid_map, sizeof(uid_map), "%u %u 1", geteuid(), geteuid());
	snprintf(gid_map, sizeof(gid_map), "%u %u 1", getegid(), getegid());
	/* Who may not be looked at may not write its own maps either. */
	if (prctl(PR_SET_DUMPABLE, 1) < 0 || unshare(CLONE_NEWUSER) < 0)
		rc = err_sys(err, -errno, "user namespaces are not to be had here");
	if (!rc)
		rc = write_proc("/proc/self/setgroups", "deny", err);
	if (!rc)
		rc = write_proc("/proc/self/uid_map", uid_map, err);
	if (!rc)
		rc = write_proc("/proc/self/gid_map", gid_map, err);
	return rc;
}

static bool may_all(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	const unsigned want = 1u << CAP_SYS_ADMIN | 1u << CAP_SETUID | 1u << CAP_SETGID | 1u << CAP_SETPCAP;

	return !geteuid() && !syscall(SYS_capget, &header, data) && (data[0].effective & want) == want;
}

/* Are the ids there, where root is one of a container? */
static int check_uids(const struct jail_config *config, struct err *err)
{
	unsigned inside, outside, count;
	bool mapped = false;
	FILE *f = fopen("/proc/self/uid_map", "re");

	while (f && fscanf(f, "%u %u %u", &inside, &outside, &count) == 3)
		mapped |= config->uid_first >= inside && config->uid_last - inside < count;
	if (f)
		fclose(f);
	if (mapped)
		return 0;
	return err_set(err, -ERANGE,
		       "the user ids %u to %u do not exist here: name others with --jail-uids%s",
		       config->uid_first, config->uid_last, nowhere);
}

/*
 * Copies of the mounts of other daemons, which would keep those from ending when they are unmounted. Where mounts are
 * shared, the unmounting reaches this copy; where they are not, it may not be there. Those of a user namespace's are
 * locked, and stay.
 */
static void let_go_of_mounts(void)
{
	FILE *mounts = setmntent("/proc/self/mounts", "r");
	struct mntent *mount;

	if (!mounts)
		return;
	while ((mount = getmntent(mounts)))
		if (!strcmp(mount->mnt_type, "fuse.sbxfs"))
			(void)umount2(mount->mnt_dir, MNT_DETACH);
	endmntent(mounts);
}

static int make_jails(struct server *server, struct err *err)
{
	unsigned kind;
	int rc = 0;

	server->userns = !may_all();
	if (server->userns)
		rc = enter_userns(err);
	else
		rc = check_uids(server->config, err);
	if (!rc && (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0))
		rc = err_sys(err, -errno, "cannot have mounts of our own");
	if (!rc)
		let_go_of_mounts();
	for (kind = 0; !rc && kind < JAIL_KINDS; kind++)
		if (server->jails[kind].program)
			rc = jail_make_root(&server->jails[kind], server->userns, err);
	return rc;
}

/* What a process wrote before it ended. */
static void read_log(int log_fd, char *text, size_t size)
{
	const ssize_t n = pread(log_fd, text, size - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
}

/* Into each jail, once, and out again: what does not work here is found out now. */
static int try_jail(struct server *server, const struct jail *jail, struct err *err)
{
	int fds[LAUNCH_FDS_MIN] = { server->null_fd, memfd_new("sbx-log", 4096) }, pidfd = -1, status, pid;
	char text[160];

	if (fds[1] < 0)
		return err_sys(err, fds[1], "cannot make a log");
	pid = start(server, jail, fds, LAUNCH_FDS_MIN, NULL, &pidfd, err);
	if (pid >= 0) {
		status = reap(server, pid);
		close(pidfd);
		read_log(fds[1], text, sizeof(text));
		if (status)
			pid = err_set(err, -EPERM, "%s: %s", jail->name, text);
	}
	close(fds[1]);
	return pid < 0 ? pid : 0;
}

static int prepare(struct server *server, struct err *err)
{
	unsigned kind;
	size_t end;
	int rc;

	for (kind = 0; kind < JAIL_KINDS; kind++)
		jail_describe(kind, server->config, &server->jails[kind]);
	server->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	server->self_fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (server->null_fd < 0 || server->self_fd < 0)
		return err_sys(err, -errno, "cannot make a launcher");
	cgroups_open(&server->groups);
	if (server->config->none)
		return 0;
	/* The keys of who started the daemon are nobody's business in a jail; kernels may have no keys. */
	(void)syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
	rc = make_jails(server, err);
	for (kind = 0; !rc && kind < JAIL_KINDS; kind++)
		if (server->jails[kind].program)
			rc = try_jail(server, &server->jails[kind], err);
	(void)prctl(PR_SET_DUMPABLE, 0);
	if (rc) {
		err_prefix(err, "no jail can be made");
		end = strlen(err->text);
		if (!strstr(err->text, nowhere))
			snprintf(err->text + end, sizeof(err->text) - end, "%s", nowhere);
	}
	return rc;
}

static void say_ready(struct server *server, const struct err *err)
{
	const struct jail_config *config = server->config;
	struct launch_reply ready = { .code = err->code };
	const char *mode = config->none ? "none" : server->userns ? "userns" : "uids";

	snprintf(ready.mode, sizeof(ready.mode), "%s", mode);
	if (err->code)
		snprintf(ready.text, sizeof(ready.text), "%s", err->text);
	else if (config->none)
		snprintf(ready.text, sizeof(ready.text),
			 "machines run as the daemon's user, with all it may");
	else if (server->userns)
		snprintf(ready.text, sizeof(ready.text), "namespaces, in a user namespace with user id %u",
			 (unsigned)geteuid());
	else
		snprintf(ready.text, sizeof(ready.text), "namespaces, user ids %u-%u", config->uid_first,
			 config->uid_last);
	(void)message_send(server->fd, &ready, sizeof(ready), NULL, 0);
}

/* Nothing of the daemon's but the socket, which becomes descriptor 3. */
static void detach(struct server *server)
{
	const struct sigaction ignore = { .sa_handler = SIG_IGN };
	sigset_t none;
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)prctl(PR_SET_NAME, "sbxfs-launcher");
	if (null < 0 || standard_to(null) || dup2(server->fd, 3) < 0 || close_range(4, ~0u, 0) < 0 ||
	    fcntl(3, F_SETFD, FD_CLOEXEC) < 0)
		_exit(1);
	server->fd = 3;
	setsid();
	sigaction(SIGPIPE, &ignore, NULL);
	sigaction(SIGINT, &ignore, NULL);
	sigaction(SIGHUP, &ignore, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

void launcher_serve(const struct jail_config *config, int fd)
{
	struct server server = { .config = config, .fd = fd, .next_uid = config->uid_first };
	struct err err = { 0 };
	unsigned kind;
	int rc;

	detach(&server);
	/* What it makes are roots for other users; a service's mask would keep these out of them. */
	umask(022);
	rc = prepare(&server, &err);
	say_ready(&server, &err);
	if (!rc)
		run(&server);
	for (kind = 0; kind < JAIL_KINDS; kind++)
		jail_release(&server.jails[kind]);
	free(server.children);
	cgroups_close(&server.groups);
	_exit(rc ? 1 : 0);
}
