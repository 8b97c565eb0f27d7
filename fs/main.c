/* SPDX-License-Identifier: MIT */
/*
 * main.c - sbxfs: start and end
 *
 * Start: check what the command line names, go to the background, open the store, choose an engine, mount.
 * The parent waits on a pipe for the word that the tree is there, so that a script may use it when the
 * command returns. The daemon must never touch its own mount: paths are resolved before, and its working
 * directory is the root.
 *
 * End, by SIGTERM, SIGINT or an unmount: answer who waits, unmount, destroy all machines, wait for workers
 * and processes. Nothing is left, and the status is 0.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "fs/arguments.h"
#include "fs/fork/asked.h"
#include "fs/fs.h"
#include "fs/guest/guest_names.h"
#include "fs/notify.h"
#include "fs/pool/pool.h"
#include "fs/sandbox/admission.h"
#include "fs/sandbox/sandbox.h"
#include "fs/snapshot/compaction.h"
#include "fs/snapshot/files.h"
#include "fs/snapshot/snapshot.h"
#include "fs/snapshot/work.h"
#include "fs/start/boots.h"
#include "fs/tree/kept.h"
#include "fs/tree/mounter.h"
#include "fs/tree/session.h"
#include "util/io.h"
#include "util/log.h"
#include "vm/agent/modules.h"
#include "vm/jail/confine.h"
#include "vm/net/helper.h"
#include "vm/probe.h"
#include "vm/traced.h"

static int fail(const struct err *err)
{
	fprintf(stderr, "sbxfs: %s\n", err->text);
	return 1;
}

/* ---- to the background */

/* In the child: the descriptor to say "ready" to. In the parent this does not return. */
static int to_background(struct err *err)
{
	int fds[2];
	char word;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_sys(err, -errno, "cannot go to the background");
	pid = fork();
	if (pid < 0)
		return err_sys(err, -errno, "cannot go to the background");
	if (pid) {
		close(fds[1]);
		_exit(read(fds[0], &word, 1) == 1 ? 0 : 1);
	}
	close(fds[0]);
	setsid();
	return fds[1];
}

static void tell_parent(int fd, int null)
{
	if (fd < 0)
		return;
	mounter_be_quiet();
	if (null >= 0) {
		(void)standard_to(null);
		close(null);
	}
	(void)!write(fd, "", 1);
	close(fd);
}

/* ---- the daemon */

static void root_free(struct object *obj)
{
	(void)obj; /* part of struct fs */
}

static void on_signal(void *arg, uint32_t events)
{
	struct fs *fs = arg;

	(void)events;
	loop_stop(fs->loop);
}

/* What has something of its own in struct fs. */
static int (*const parts[])(struct fs *fs, struct err *err) = {
	kept_open,    admission_open, boots_open,    idle_open,       changes_open, pool_open,
	workers_open, room_open,      browsing_open, compaction_open, asked_open,
};

/* Where there are none, guests have only what their images have. */
static int open_modules(struct fs *fs, const char *path, struct err *err)
{
	const int rc = modules_open(path, &fs->modules, err);

	if (rc == -ENOENT)
		*err = (struct err){ 0 };
	return rc == -ENOENT ? 0 : rc;
}

/*
 * From here on it reads what others wrote. What needs rights to the host's files, and to processes, is asked of the
 * host before.
 */
static int give_up_privileges(struct fs *fs, const struct arguments *args, struct err *err)
{
	const struct confinement confinement = {
		.state = args->state_dir,
		.kernel = args->kernel,
		.initrd = args->initrd,
	};
	struct buf text = { 0 };
	int rc = store_make(args->state_dir, err);

	if (rc)
		return rc;
	fs->engine->requires(&text);
	buf_release(&text);
	fs->confined = !strcmp(launcher_mode(), "uids");
	if (fs->confined)
		return confine(&confinement, err);
	fs->filtered = launcher_jails();
	return fs->filtered ? confine_calls(err) : 0;
}

/* Without it no machine can be started, and those there were have ended with it. */
static bool launcher_lost;

static void on_launcher_end(void *arg, uint32_t events)
{
	struct fs *fs = arg;

	(void)events;
	launcher_lost = true;
	loop_stop(fs->loop);
}

/*
 * It is of no use before the end, and machines are worth more than an end that leaves nothing: they go on. The kernel
 * ends all requests to a mount that nobody serves, and the next daemon takes it away.
 */
static void on_mounter_end(void *arg, uint32_t events)
{
	struct watch **watch = arg;

	(void)events;
	log_error("the mounter was killed: when the daemon ends, its mount stays and has to be unmounted by "
		  "hand");
	watch_free(*watch);
	*watch = NULL;
}

static int fs_init(struct fs *fs, struct arguments *args, struct err *err)
{
	const struct owner owner = { geteuid(), args->has_group ? args->group : getegid(), args->mode };
	size_t i;
	int rc = 0;

	list_init(&fs->nodes);
	list_init(&fs->files);
	list_init(&fs->guest_files);
	list_init(&fs->guest_opened);
	list_init(&fs->requests);
	list_init(&fs->sandboxes);
	list_init(&fs->snapshots);
	object_init(&fs->root, OBJECT_ROOT, fs, "", &owner, root_free);
	gauge_init(&fs->memory, &fs->root, NULL);
	for (i = 0; !rc && i < sizeof(parts) / sizeof(parts[0]); i++)
		rc = parts[i](fs, err);
	if (rc)
		return rc;
	fs->loop = loop_new();
	if (!fs->loop)
		return err_sys(err, -errno, "cannot make an event loop");
	fs->net_helpers = net_helpers_new(fs->loop);
	if (!fs->net_helpers)
		return err_sys(err, -ENOMEM, "cannot keep helpers ready");
	fs->mountpoint = args->mountpoint;
	fs->env = (struct engine_env){
		.loop = fs->loop,
		.kernel = args->kernel,
		.initrd = args->initrd,
		.libexec = args->libexec_dir,
	};
	fs->engine = engine_select(&fs->env, args->engine, fs->engine_how, sizeof(fs->engine_how), err);
	if (!fs->engine)
		return err->code ? err->code : -ENODEV;
	if (log_verbose())
		fs->engine = engine_traced(fs->engine);
	rc = open_modules(fs, args->modules, err);
	if (!rc)
		rc = give_up_privileges(fs, args, err);
	if (rc)
		return rc;
	rc = store_open(args->state_dir, &fs->store, err);
	if (rc)
		return rc;
	rc = snapshots_load(fs, err);
	if (!rc)
		rc = boots_load(fs, err);
	if (!rc)
		rc = life_load(fs, err);
	if (!rc)
		compaction_want(fs);
	return rc;
}

/* Everything that was begun ends here; safe after an fs_init that failed on the way. -EPERM: but the mount. */
static int fs_release(struct fs *fs)
{
	struct sandbox *sb;
	struct index_node *image;
	int rc = 0;

	if (!fs->compaction) /* the last that fs_init opens before there is a loop */
		goto out;
	requests_abort(fs);
	if (fs->session)
		rc = session_unmount(fs->session);
	if (fs->store)
		store_retire(fs->store);
	while (fs->session && workers_owe(fs))
		loop_once(fs->loop, -1);
	idle_stop(fs);
	if (fs->options.keep)
		life_suspend_all(fs);
	life_keep_all(fs);
	changes_stop(fs);
	while ((sb = list_first(&fs->sandboxes, struct sandbox, link)))
		sandbox_remove(sb);
	room_close(fs);
	net_helpers_free(fs->net_helpers);
	boots_drop(fs);
	snapshots_cancel(fs);
	pool_drop(fs);
	compaction_cancel(fs);
	files_close(fs);
	guestfs_close_all(fs);
	while (fs->working || loop_working(fs->loop))
		loop_once(fs->loop, -1);
	nodes_forget(fs);
	session_free(fs->session);
	while ((image = fs->images.top))
		object_unref(container_of(image, struct object, by_name));
	if (fs->engine)
		fs->engine->shutdown();
	launcher_stop();
	mounter_stop();
	if (fs->store) {
		compaction_settle(fs);
		store_close(fs->store);
	}
	loop_free(fs->loop);
out:
	compaction_close(fs);
	browsing_close(fs);
	workers_close(fs);
	room_close(fs);
	pool_close(fs);
	boots_close(fs);
	changes_close(fs);
	idle_close(fs);
	admission_close(fs);
	kept_close(fs);
	modules_close(fs->modules);
	return rc;
}

/* A sandbox takes some ten descriptors here, and while it is started those of its disk. */
static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit); /* who then still finds too few says so */
}

/* What guests said, and memory of theirs, would be in one. With 0 a program that core_pattern names would get it. */
static void forbid_core_dumps(void)
{
	const struct rlimit limit = { 1, 1 };

	(void)setrlimit(RLIMIT_CORE, &limit);
}

/* TCG is no security boundary: its authors say so. */
static int check_untrusted(const struct fs *fs, struct err *err)
{
	if (!launcher_jails())
		return err_set(err, -EPERM, "--untrusted: machines would run without a jail");
	if (kvm_probe()->err.code)
		return err_set(err, -EPERM,
			       "--untrusted: engine %s would emulate the CPU, which is no boundary: %s",
			       fs->engine->name, kvm_probe()->err.text);
	return 0;
}

static int serve(struct fs *fs, struct arguments *args, int ready_fd, struct err *err)
{
	struct watch *watch, *launcher = NULL, *mounter = NULL;
	sigset_t signals;
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	const int notify_fd = notify_open();
	int fd, end, rc;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	raise_file_limit();
	forbid_core_dumps();
	/* First of all: the launcher shall have nothing that was read from anywhere. */
	args->jail.libexec = args->libexec_dir;
	args->jail.kernel = args->kernel;
	args->jail.initrd = args->initrd;
	args->jail.layers = args->layers_dir;
	rc = session_prepare(args->mountpoint, arguments_mount_options(args), err);
	if (rc)
		return rc;
	rc = launcher_start(&args->jail, err);
	if (rc) {
		mounter_stop();
		return rc;
	}
	rc = fs_init(fs, args, err);
	if (!rc && args->untrusted)
		rc = check_untrusted(fs, err);
	if (!rc) {
		rc = limits_check_host(&fs->options.limits, err);
		if (rc)
			err_prefix(err, "--limits");
	}
	if (!rc)
		rc = session_mount(fs, args->mountpoint, arguments_mount_options(args), &fs->session, err);
	if (rc) {
		(void)fs_release(fs);
		return rc;
	}
	fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	watch = fd >= 0 ? watch_new(fs->loop, fd, EPOLLIN, on_signal, fs) : NULL;
	if (watch)
		launcher = watch_new(fs->loop, launcher_fd(), 0, on_launcher_end, fs);
	if (launcher)
		mounter = watch_new(fs->loop, mounter_fd(), 0, on_mounter_end, &mounter);
	if (mounter) {
		/* fs_init found one. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
		log_info("%s: mounted, engine %s (%s)", args->mountpoint, fs->engine->name, fs->engine_how);
		tell_parent(ready_fd, null);
		notify_ready(notify_fd);
		rc = loop_run(fs->loop);
		if (launcher_lost)
			rc = err_set(err, -EIO, "the launcher was killed, and all machines with it: the end");
	} else {
		rc = err_sys(err, -ENOMEM, "cannot watch for signals");
	}
	watch_free(mounter);
	watch_free(launcher);
	watch_free(watch);
	if (fd >= 0)
		close(fd);
	end = fs_release(fs);
	if (!rc && end)
		rc = err_sys(err, end, "%s could not be unmounted", args->mountpoint);
	return rc;
}

int main(int argc, char **argv)
{
	static struct arguments args = { .engine = "auto",
					 .mode = 0755,
					 .jail = { .uid_first = JAIL_UID_FIRST, .uid_last = JAIL_UID_LAST } };
	static struct fs fs = {
		.options = { .shape = { .memory = 512u << 20,
					.memory_max = 2048u << 20,
					.cpus = 1,
					.cpus_max = 4 },
			     .net = NET_PUBLIC,
			     .pool = 2,
			     .pool_total = 16,
			     .pool_memory = UINT64_C(1) << 30,
			     .max_sandboxes = 4096,
			     .max_per_user = 4096,
			     .max_jobs = 1024,
			     .max_jobs_total = 65536,
			     .max_jobs_per_user = 16384,
			     .max_memory = UINT64_MAX,
			     .max_memory_per_user = UINT64_MAX,
			     .boot_timeout_ms = 60000,
			     .fork_timeout_ms = 30000,
			     .boot_snapshots = 8,
			     .stop_timeout_ms = 10000 },
	};
	struct err err = { 0 };
	int ready_fd = -1, status;

	fs.options.limits = limits_none;
	if (arguments_parse(argc, argv, &args, &fs.options, &status))
		return status;
	if (arguments_find(&args, &err))
		return fail(&err);
	if (!args.foreground) {
		ready_fd = to_background(&err);
		if (ready_fd < 0)
			return fail(&err);
	}
	if (chdir("/") < 0)
		err_sys(&err, -errno, "cannot leave the working directory");
	if (err.code || serve(&fs, &args, ready_fd, &err))
		return fail(&err);
	return 0;
}
