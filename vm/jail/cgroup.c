/* SPDX-License-Identifier: MIT */
/*
 * cgroup.c - the launcher's control groups (Documentation/admin-guide/cgroup-v2.rst)
 *
 * A group whose children have controllers may not have processes itself, but for the root. So where the launcher
 * and the daemon are alone in a group, as services of systemd are, they move to one below it.
 */
#include "vm/jail/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/sched.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/io.h"

#define BASE "sbxfs-" /* and the launcher's pid */

enum {
	TEXT_MAX = 4096,        /* of a file of a group */
	CPU_PERIOD_US = 100000, /* the kernel's default */
	US_PER_MILLI_CPU = CPU_PERIOD_US / 1000,
};

static const char *const controllers[LIMITS] = {
	[LIMIT_MEMORY] = "memory", [LIMIT_CPU] = "cpu", [LIMIT_PIDS] = "pids", [LIMIT_IO] = "io"
};

static int write_at(int dir, const char *name, const char *text)
{
	const size_t n = strlen(text);
	const int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);
	int rc = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, n) != (ssize_t)n)
		rc = errno ? -errno : -EIO;
	close(fd);
	return rc;
}

/* ---- where we are */

/* The value of the line "0::" of /proc/self/cgroup: our group of version 2. */
static int own_path(char ret[PATH_MAX])
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[PATH_MAX];
	int rc = -ENOENT;

	while (f && rc && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "0::", 3) != 0)
			continue;
		line[strcspn(line, "\n")] = '\0';
		snprintf(ret, PATH_MAX, "%s", line + 3);
		rc = 0;
	}
	if (f)
		fclose(f);
	return rc;
}

/* Where version 2 is mounted. */
static int find_mount(char ret[PATH_MAX])
{
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	struct mntent *at;
	int rc = -ENOENT;

	while (mounts && rc && (at = getmntent(mounts))) {
		if (strcmp(at->mnt_type, "cgroup2") != 0)
			continue;
		snprintf(ret, PATH_MAX, "%s", at->mnt_dir);
		rc = 0;
	}
	if (mounts)
		endmntent(mounts);
	return rc;
}

static int open_own(struct cgroups *groups, struct err *err)
{
	char mount[PATH_MAX], own[PATH_MAX], path[2 * PATH_MAX];

	if (find_mount(mount) || own_path(own))
		return err_set(err, -ENOENT, "this host has no cgroups of version 2");
	snprintf(path, sizeof(path), "%s%s", mount, strcmp(own, "/") != 0 ? own : "");
	groups->own_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return groups->own_fd < 0 ? err_sys(err, -errno, "cannot open the cgroup %s", path) : 0;
}

/* ---- the groups of machines */

/* The text of a file of a group, "" if it cannot be read: a snapshot of it, cut at the size of ret. */
static const char *read_at(int dir, const char *name, char ret[TEXT_MAX])
{
	const int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	const ssize_t n = fd >= 0 ? read_some(fd, ret, TEXT_MAX - 1) : 0;

	ret[n > 0 ? n : 0] = '\0';
	if (fd >= 0)
		close(fd);
	return ret;
}

/* Is a word in one of the files that list words? */
static bool lists(int dir, const char *file, const char *word)
{
	const size_t n = strlen(word);
	char text[TEXT_MAX];
	const char *at;

	for (at = read_at(dir, file, text); *at; at += strcspn(at, " \n")) {
		at += strspn(at, " \n");
		if (strcspn(at, " \n") == n && !strncmp(at, word, n))
			return true;
	}
	return false;
}

/* Field 4 of /proc/PID/stat, behind the name, which may have anything in it; -1: there is no such process. */
static pid_t parent_of(pid_t pid)
{
	char name[32], text[TEXT_MAX];
	const char *at;

	snprintf(name, sizeof(name), "/proc/%d/stat", pid);
	at = strrchr(read_at(AT_FDCWD, name, text), ')');
	return at && strlen(at) > 4 ? (pid_t)strtol(at + 4, NULL, 10) : -1;
}

/* The daemon, which is our parent, or one that it has started before anything else: we, and what mounts. */
static bool is_ours(pid_t pid)
{
	return pid == getppid() || parent_of(pid) == getppid();
}

static int move_to(int dir, pid_t pid)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", pid);
	return write_at(dir, "daemon/cgroup.procs", text);
}

/* All of us out of our group, which can then be one that only has groups; -EBUSY: others are in it. */
static int make_way(const struct cgroups *groups)
{
	enum { FEW = 8 };
	char text[TEXT_MAX], *end;
	const char *at;
	pid_t ours[FEW];
	int rc = 0, n = 0;

	for (at = read_at(groups->own_fd, "cgroup.procs", text); *at; at = end) {
		const pid_t pid = (pid_t)strtol(at, &end, 10);

		if (end == at)
			break;
		if (n == FEW || !is_ours(pid))
			return -EBUSY;
		ours[n++] = pid;
	}
	if (mkdirat(groups->base_fd, "daemon", 0755) < 0)
		return -errno;
	while (!rc && n)
		rc = move_to(groups->base_fd, ours[--n]);
	return rc;
}

static int enable_one(const struct cgroups *groups, const char *controller, bool *moved)
{
	char text[16];
	int rc;

	snprintf(text, sizeof(text), "+%s", controller);
	rc = write_at(groups->own_fd, "cgroup.subtree_control", text);
	if (rc == -EBUSY && !*moved) {
		*moved = true;
		rc = make_way(groups);
		if (!rc)
			rc = write_at(groups->own_fd, "cgroup.subtree_control", text);
	}
	return rc ? rc : write_at(groups->base_fd, "cgroup.subtree_control", text);
}

static int enable(struct cgroups *groups, struct err *err)
{
	bool moved = false;
	int i, rc;

	for (i = 0; i < LIMITS; i++) {
		if (!lists(groups->own_fd, "cgroup.controllers", controllers[i]))
			continue;
		rc = enable_one(groups, controllers[i], &moved);
		if (rc == -EBUSY)
			return err_set(err, rc,
				       "others are in the daemon's cgroup; it needs one to itself, and "
				       "delegated (systemd: Delegate=yes)");
		if (rc)
			return err_sys(err, rc, "cannot use the cgroup controller %s", controllers[i]);
		groups->have |= 1u << i;
	}
	return groups->have ? 0 : err_set(err, -ENOENT, "the cgroups here have no controllers");
}

/* A launcher's group and those in it, if nothing lives there: the kernel refuses otherwise. */
static void remove_base(int own_fd, const char *name)
{
	const int fd = openat(own_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
			(void)unlinkat(dirfd(dir), entry->d_name, AT_REMOVEDIR);
	if (dir)
		closedir(dir);
	else if (fd >= 0)
		close(fd);
	(void)unlinkat(own_fd, name, AT_REMOVEDIR);
}

/* What is left of launchers that were killed. */
static void remove_stale(int own_fd)
{
	const int fd = openat(own_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *entry;
	int pid;

	while (dir && (entry = readdir(dir)))
		if (sscanf(entry->d_name, BASE "%d", &pid) == 1 && pid > 0 &&
		    (pid == getpid() || (kill(pid, 0) < 0 && errno == ESRCH)))
			remove_base(own_fd, entry->d_name);
	if (dir)
		closedir(dir);
	else if (fd >= 0)
		close(fd);
}

static int make_base(struct cgroups *groups, struct err *err)
{
	remove_stale(groups->own_fd);
	snprintf(groups->name, sizeof(groups->name), BASE "%d", getpid());
	if (mkdirat(groups->own_fd, groups->name, 0755) < 0)
		return err_sys(err, -errno, "cannot make a cgroup");
	groups->base_fd = openat(groups->own_fd, groups->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return groups->base_fd < 0 ? err_sys(err, -errno, "cannot open a cgroup") : 0;
}

/* A process can be made in a group. */
static int try_group(struct cgroups *groups, struct err *err)
{
	struct clone_args args = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD };
	struct cgroup *group;
	pid_t pid;
	int rc = cgroup_take(groups, &group, err);

	if (rc)
		return rc;
	args.cgroup = (uint64_t)group->fd;
	pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (!pid)
		_exit(0);
	if (pid < 0)
		rc = err_sys(err, -errno, "cannot start a process in a cgroup");
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	cgroup_drop(groups, group);
	return rc;
}

void cgroups_open(struct cgroups *groups)
{
	struct err err = { 0 };
	size_t n;
	int i, rc;

	*groups = (struct cgroups){ .own_fd = -1, .base_fd = -1 };
	rc = open_own(groups, &err);
	if (!rc)
		rc = make_base(groups, &err);
	if (!rc)
		rc = enable(groups, &err);
	if (!rc)
		rc = try_group(groups, &err);
	if (rc) {
		cgroups_close(groups);
		snprintf(groups->how, sizeof(groups->how), "none: %.240s", err.text);
		return;
	}
	for (i = 0, n = 0; i < LIMITS; i++)
		if (groups->have & 1u << i)
			n += (size_t)snprintf(groups->how + n, sizeof(groups->how) - n, "%s%s", n ? ", " : "",
					      controllers[i]);
}

void cgroups_close(struct cgroups *groups)
{
	struct cgroup *left;

	if (groups->spare)
		cgroup_drop(groups, groups->spare);
	groups->spare = NULL;
	while ((left = groups->left)) {
		groups->left = left->left;
		free(left);
	}
	close_fd(&groups->base_fd);
	/* Not where the daemon is in it itself, as it has to stay: then whoever delegated ours removes both. */
	if (groups->own_fd >= 0 && groups->name[0])
		remove_base(groups->own_fd, groups->name);
	close_fd(&groups->own_fd);
	groups->have = 0;
}

/* ---- one machine's */

static int make(struct cgroups *groups, struct cgroup **ret, struct err *err)
{
	struct cgroup *group = calloc(1, sizeof(*group));
	char name[32];

	if (!group)
		return err_set(err, -ENOMEM, "out of memory");
	group->number = ++groups->next;
	snprintf(name, sizeof(name), "%" PRIu64, group->number);
	if (mkdirat(groups->base_fd, name, 0755) < 0) {
		free(group);
		return err_sys(err, -errno, "cannot make a cgroup for a machine");
	}
	group->fd = openat(groups->base_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (group->fd < 0) {
		err_sys(err, -errno, "cannot open the cgroup of a machine");
		cgroup_drop(groups, group);
		return err ? err->code : -EIO;
	}
	/* A part of it is of no use. */
	if (groups->have & 1u << LIMIT_MEMORY)
		(void)write_at(group->fd, "memory.oom.group", "1");
	*ret = group;
	return 0;
}

static bool removed(const struct cgroups *groups, const struct cgroup *group)
{
	char name[32];

	snprintf(name, sizeof(name), "%" PRIu64, group->number);
	return unlinkat(groups->base_fd, name, AT_REMOVEDIR) == 0 || errno != EBUSY;
}

/* Try again. */
static void remove_left(struct cgroups *groups)
{
	struct cgroup **at = &groups->left, *group;

	while ((group = *at)) {
		if (!removed(groups, group)) {
			at = &group->left;
			continue;
		}
		*at = group->left;
		free(group);
	}
}

void cgroups_spare(struct cgroups *groups)
{
	if (groups->base_fd < 0)
		return;
	remove_left(groups);
	/* Who needs one that cannot be made hears why. */
	if (!groups->spare)
		(void)make(groups, &groups->spare, NULL);
}

int cgroup_take(struct cgroups *groups, struct cgroup **ret, struct err *err)
{
	*ret = groups->spare;
	groups->spare = NULL;
	return *ret || groups->base_fd < 0 ? 0 : make(groups, ret, err);
}

void cgroup_drop(struct cgroups *groups, struct cgroup *group)
{
	if (!group)
		return;
	close_fd(&group->fd);
	if (groups->base_fd >= 0 && !removed(groups, group)) {
		group->left = groups->left;
		groups->left = group;
	} else {
		free(group);
	}
}

/* The disk that a path is on, as io.max wants it: not a part of one. */
static int find_device(const char *path, char *ret, size_t size, struct err *err)
{
	char name[64], text[TEXT_MAX];
	struct stat st;

	if (!path || stat(path, &st) < 0)
		return err_sys(err, -errno, "cannot find the disk of the store");
	snprintf(name, sizeof(name), "/sys/dev/block/%u:%u/partition", major(st.st_dev), minor(st.st_dev));
	snprintf(ret, size, "%u:%u", major(st.st_dev), minor(st.st_dev));
	if (!major(st.st_dev) || access("/sys/dev/block", X_OK) < 0)
		return err_set(err, -EOPNOTSUPP,
			       "the store is on a filesystem without a disk of its own, whose use cannot be "
			       "limited");
	if (access(name, F_OK) < 0)
		return 0;
	snprintf(name, sizeof(name), "/sys/dev/block/%u:%u/../dev", major(st.st_dev), minor(st.st_dev));
	read_at(AT_FDCWD, name, text);
	text[strcspn(text, "\n")] = '\0';
	snprintf(ret, size, "%.24s", text);
	return 0;
}

static int put_value(enum limit limit, uint64_t value, const char *store, char *ret, size_t size,
		     struct err *err)
{
	char number[24] = "max", device[32];
	int rc = 0;

	if (value != LIMIT_NONE)
		snprintf(number, sizeof(number), "%" PRIu64,
			 limit == LIMIT_CPU ? value * US_PER_MILLI_CPU : value);
	if (limit == LIMIT_CPU) {
		snprintf(ret, size, "%s %d", number, CPU_PERIOD_US);
	} else if (limit == LIMIT_IO) {
		rc = find_device(store, device, sizeof(device), err);
		snprintf(ret, size, "%s rbps=%s wbps=%s", device, number, number);
	} else {
		snprintf(ret, size, "%s", number);
	}
	return rc;
}

/*
 * The kernel makes whoever writes a lower limit wait until what is above it was given back or its owners have
 * been ended; and we are who writes.
 */
static int check_memory(const struct cgroup *group, uint64_t value, struct err *err)
{
	char text[TEXT_MAX];
	const uint64_t used = strtoull(read_at(group->fd, "memory.current", text), NULL, 10);

	if (value >= used)
		return 0;
	return err_set(err, -EBUSY, "memory: it uses %" PRIu64 "M already, more than this limit", used >> 20);
}

int cgroup_limit(const struct cgroups *groups, const struct cgroup *group, enum limit limit, uint64_t value,
		 const char *store, struct err *err)
{
	char name[32], text[96];
	int rc;

	if ((unsigned)limit >= LIMITS)
		return err_set(err, -EPROTO, "a request of the daemon makes no sense");
	if (!group || !(groups->have & 1u << limit))
		return err_set(err, -EOPNOTSUPP,
			       "cgroups that could limit %s are not to be had here (%.160s)",
			       controllers[limit], groups->how);
	rc = limit == LIMIT_MEMORY ? check_memory(group, value, err) : 0;
	if (!rc)
		rc = put_value(limit, value, store, text, sizeof(text), err);
	if (rc)
		return rc;
	snprintf(name, sizeof(name), "%s.max", controllers[limit]);
	rc = write_at(group->fd, name, text);
	return rc ? err_sys(err, rc, "the kernel refuses \"%s\" for %s", text, name) : 0;
}

void cgroup_kill(const struct cgroup *group)
{
	if (group)
		(void)write_at(group->fd, "cgroup.kill", "1");
}

bool cgroup_starved(const struct cgroup *group)
{
	static const char key[] = "oom_kill ";
	char text[TEXT_MAX];
	const char *at = group ? strstr(read_at(group->fd, "memory.events", text), key) : NULL;

	return at && strtoul(at + strlen(key), NULL, 10);
}
