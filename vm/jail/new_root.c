/* SPDX-License-Identifier: MIT */
/*
 * new_root.c - the root directory of a kind of jail
 *
 * Made once, when the launcher starts, and copied with its mount namespace by each process that enters: all
 * that differs between two machines comes as descriptors. It is a tmpfs in which the files of the table are
 * bound, one by one, read-only; the host's root is unmounted from below it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vm/jail/priv.h"

/* Exists everywhere, and what is in it is not needed: the place of the new root until it is one. */
#define STAGE "/tmp"

enum { KVM_MAJOR = 10, KVM_MINOR = 232 }; /* Documentation/admin-guide/devices.txt */

/* Mounts taken from the host's tree before the stage covers a part of it. */
struct taken {
	int files[JAIL_FILES_MAX];
	int proc, kvm;
};

static int stage_path(char ret[PATH_MAX], const char *to, struct err *err)
{
	if (snprintf(ret, PATH_MAX, STAGE "%s", to) >= PATH_MAX)
		return err_set(err, -ENAMETOOLONG, "%.64s...: the path is too long", to);
	return 0;
}

/* The directories above a path on the stage. */
static int make_parents(char *path, struct err *err)
{
	char *slash = path + strlen(STAGE);

	while ((slash = strchr(slash + 1, '/'))) {
		*slash = '\0';
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return err_sys(err, -errno, "cannot make %s", path);
		*slash = '/';
	}
	return 0;
}

static int set_attributes(int fd, const char *path, uint64_t attributes, struct err *err)
{
	struct mount_attr attr = { .attr_set = attributes };

	if (mount_setattr(fd, path, AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
		return err_sys(err, -errno, "cannot set the attributes of a mount");
	return 0;
}

/* A mount that is not in the tree, on a new file or directory. */
int jail_place(int mount_fd, const char *to, uint64_t attributes, struct err *err)
{
	char path[PATH_MAX];
	struct stat st;
	int fd, rc = stage_path(path, to, err);

	if (!rc)
		rc = make_parents(path, err);
	if (rc)
		return rc;
	if (fstat(mount_fd, &st) < 0)
		return err_sys(err, -errno, "cannot make %s", path);
	if (S_ISDIR(st.st_mode))
		fd = mkdir(path, 0755) < 0 && errno != EEXIST ? -1 : open(path, O_PATH | O_CLOEXEC);
	else
		fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0444);
	if (fd < 0)
		return err_sys(err, -errno, "cannot make %s", path);
	close(fd);
	rc = set_attributes(mount_fd, "", attributes, err);
	if (!rc && move_mount(mount_fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		rc = err_sys(err, -errno, "cannot bind %s", to);
	return rc;
}

int jail_take(const char *path, unsigned flags, int *ret, struct err *err)
{
	*ret = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);
	return *ret < 0 ? err_sys(err, -errno, "cannot take %s into a jail", path) : 0;
}

static int take_all(const struct jail *jail, bool userns, struct taken *taken, struct err *err)
{
	unsigned i;
	int rc = 0;

	for (i = 0; !rc && i < jail->nfiles; i++)
		rc = jail_take(jail->files[i].from, 0, &taken->files[i], err);
	/* A user namespace may mount its own /proc only where there is one already (enter.c). */
	if (!rc && (jail->flags & JAIL_PROC) && userns)
		rc = jail_take("/proc", AT_RECURSIVE, &taken->proc, err);
	if (!rc && (jail->flags & JAIL_KVM) && userns && !access("/dev/kvm", R_OK | W_OK))
		rc = jail_take("/dev/kvm", 0, &taken->kvm, err);
	return rc;
}

static void give_back(struct taken *taken)
{
	unsigned i;

	for (i = 0; i < JAIL_FILES_MAX; i++)
		if (taken->files[i] >= 0)
			close(taken->files[i]);
	if (taken->proc >= 0)
		close(taken->proc);
	if (taken->kvm >= 0)
		close(taken->kvm);
}

static int make_dir(const char *name, struct err *err)
{
	char path[PATH_MAX];
	int rc = stage_path(path, name, err);

	if (!rc && mkdir(path, 0755) < 0 && errno != EEXIST)
		rc = err_sys(err, -errno, "cannot make %s", path);
	return rc;
}

/*
 * /dev/kvm may belong to root or a group, and the process has an id that owns nothing: a node of its own, on
 * a tmpfs of its own, since devices work nowhere else in the jail.
 */
static int make_kvm_node(struct err *err)
{
	struct stat st;
	int rc;

	if (stat("/dev/kvm", &st) < 0 || !S_ISCHR(st.st_mode))
		return 0; /* this host has none */
	if (major(st.st_rdev) != KVM_MAJOR || minor(st.st_rdev) != KVM_MINOR)
		return err_set(err, -ENODEV, "/dev/kvm is another device");
	rc = make_dir("/dev", err);
	if (rc)
		return rc;
	if (mount("tmpfs", STAGE "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=4k,nr_inodes=4") < 0)
		return err_sys(err, -errno, "cannot mount a jail's /dev");
	if (mknod(STAGE "/dev/kvm", S_IFCHR | 0666, makedev(KVM_MAJOR, KVM_MINOR)) < 0 ||
	    chmod(STAGE "/dev/kvm", 0666) < 0)
		return err_sys(err, -errno, "cannot make a jail's /dev/kvm");
	return set_attributes(AT_FDCWD, STAGE "/dev", MOUNT_ATTR_RDONLY, err);
}

/* Everything into the tmpfs on the stage. */
static int furnish(const struct jail *jail, bool userns, struct taken *taken, struct err *err)
{
	const uint64_t inert = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID;
	unsigned i;
	int rc = 0;

	for (i = 0; !rc && i < jail->nfiles; i++)
		rc = jail_place(taken->files[i], jail->files[i].to, inert | MOUNT_ATTR_NODEV, err);
	if (!rc && (jail->flags & JAIL_PROC))
		rc = make_dir("/proc", err);
	if (!rc && taken->proc >= 0) {
		rc = make_dir("/host", err);
		if (!rc && move_mount(taken->proc, "", AT_FDCWD, STAGE "/host", MOVE_MOUNT_F_EMPTY_PATH) < 0)
			rc = err_sys(err, -errno, "cannot bind the host's /proc");
	}
	if (!rc && taken->kvm >= 0)
		rc = jail_place(taken->kvm, "/dev/kvm", inert | MOUNT_ATTR_NOEXEC, err);
	else if (!rc && (jail->flags & JAIL_KVM) && !userns)
		rc = make_kvm_node(err);
	return rc;
}

/* From the stage to the root, and the host's tree away. */
int jail_turn(struct err *err)
{
	if (chdir(STAGE) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
		return err_sys(err, -errno, "cannot make a jail's root the root");
	if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return err_sys(err, -errno, "cannot unmount the host's root");
	return set_attributes(AT_FDCWD, "/",
			      MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
			      err);
}

int jail_stage(struct err *err)
{
	if (mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=256k,nr_inodes=1k") < 0)
		return err_sys(err, -errno, "cannot mount a jail's root");
	return 0;
}

int jail_proc(struct err *err)
{
	int rc = make_dir("/proc", err);

	if (!rc && mount("proc", STAGE "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY,
			 "subset=pid") < 0)
		rc = err_sys(err, -errno, "cannot mount a /proc of processes");
	return rc;
}

static int make_root(const struct jail *jail, bool userns, struct err *err)
{
	struct taken taken = { .proc = -1, .kvm = -1 };
	unsigned i;
	int rc;

	for (i = 0; i < JAIL_FILES_MAX; i++)
		taken.files[i] = -1;
	rc = take_all(jail, userns, &taken, err);
	if (!rc)
		rc = jail_stage(err);
	if (!rc)
		rc = furnish(jail, userns, &taken, err);
	if (!rc)
		rc = jail_turn(err);
	give_back(&taken);
	return rc;
}

/* In the process that makes the root: say how it went, and stay until the launcher has taken hold of it. */
__attribute__((noreturn)) static void make_and_wait(const struct jail *jail, bool userns, int channel)
{
	struct err err = { 0 };
	char byte;

	if (unshare(CLONE_NEWNS) < 0)
		err_sys(&err, -errno, "cannot make a mount namespace");
	else
		make_root(jail, userns, &err);
	(void)!write(channel, &err, sizeof(err));
	_exit(read(channel, &byte, 1) < 0);
}

static int take_hold(struct jail *jail, pid_t pid, struct err *err)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)pid);
	jail->root_fd = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/root", (int)pid);
	jail->dir_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return jail->root_fd < 0 || jail->dir_fd < 0 ? err_sys(err, -errno, "cannot keep a jail's root") : 0;
}

int jail_make_root(struct jail *jail, bool userns, struct err *err)
{
	struct err made = { 0 };
	int ends[2], rc;
	pid_t pid;

	/* In a process of its own: nobody comes back from another mount namespace to where he was. */
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(err, -errno, "cannot make a jail's root");
	pid = fork();
	if (!pid) {
		close(ends[0]);
		make_and_wait(jail, userns, ends[1]);
	}
	close(ends[1]);
	if (pid < 0)
		rc = err_sys(err, -errno, "cannot make a jail's root");
	else if (read(ends[0], &made, sizeof(made)) != sizeof(made))
		rc = err_set(err, -EIO, "cannot make a jail's root: its process ended");
	else if (made.code)
		rc = err_set(err, made.code, "%s", made.text);
	else
		rc = take_hold(jail, pid, err);
	close(ends[0]);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return rc;
}
