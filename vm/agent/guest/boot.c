/* SPDX-License-Identifier: MIT */
/*
 * boot.c - from the initramfs to the root disk
 *
 * The agent loads the modules the initramfs lists, mounts the root disk and makes it the root of its own
 * process, as switch_root does but without starting anything there. What it needs it has in memory; the
 * initramfs is emptied on the way, so that snapshots need not carry it.
 *
 * Disk and port appear some time after their driver. Their uevents are what we wait for, on a socket opened
 * before the first module, so that none is missed.
 */
#include "vm/agent/guest/agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char modules_dir[] = "/modules";
static const char new_root[] = "/new";
static const unsigned device_wait_ms = 20000;

static int uevents = -1;

int write_file(const char *path, int flags, const char *text)
{
	const size_t len = strlen(text);
	ssize_t n;
	int rc = 0, fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | flags, 0644);

	if (fd < 0)
		return -errno;
	n = write(fd, text, len);
	if (n < 0)
		rc = -errno;
	else if ((size_t)n != len)
		rc = -EIO;
	close(fd);
	return rc;
}

/* ---- waiting for devices */

static void open_uevents(void)
{
	const struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = 1 };

	uevents = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
	if (uevents < 0)
		return;
	if (bind(uevents, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		close(uevents);
		uevents = -1;
	}
}

static int64_t mono_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ll + ts.tv_nsec / 1000000;
}

/* Ask `there` again after every uevent, until it does not say -ENOENT or time is up. */
static int wait_for(int (*there)(const char *what), const char *what)
{
	const int64_t end = mono_ms() + device_wait_ms;
	struct pollfd pfd = { .fd = uevents, .events = POLLIN };
	char event[4096];
	int rc;
	int64_t left;

	for (;;) {
		rc = there(what);
		left = end - mono_ms();
		if (rc != -ENOENT || left <= 0)
			return rc;
		poll(&pfd, 1, (int)left);
		while (read(uevents, event, sizeof(event)) > 0)
			;
	}
}

static int device_there(const char *path)
{
	return access(path, F_OK) < 0 ? -errno : 0;
}

/* ---- modules */

static void load_module(const char *name)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", modules_dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	/* One that does not suit this machine is no error: a missing disk or port is, later. */
	(void)syscall(SYS_finit_module, fd, "", 0);
	close(fd);
	unlink(path);
}

static void load_modules(void)
{
	char path[256], name[128];
	FILE *list;

	snprintf(path, sizeof(path), "%s/list", modules_dir);
	list = fopen(path, "re");
	if (!list)
		return;
	while (fgets(name, sizeof(name), list)) {
		name[strcspn(name, "\n")] = '\0';
		load_module(name);
	}
	fclose(list);
	unlink(path);
	rmdir(modules_dir);
}

/* ---- mounts */

struct mount_point {
	const char *dir, *type, *options;
	unsigned long flags;
};

/* Of an image's root, a file or link where a mount goes would be followed or be in the way. */
static void make_mount_point(const char *dir)
{
	struct stat st;

	if (!lstat(dir, &st) && !S_ISDIR(st.st_mode))
		unlink(dir);
	mkdir(dir, 0755);
}

static void mount_all(const struct mount_point *points, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		make_mount_point(points[i].dir);
		/* Each is a convenience for the image's programs, and a kernel may lack it. */
		(void)mount(points[i].type, points[i].dir, points[i].type, points[i].flags,
			    points[i].options);
	}
}

static const struct mount_point early[] = {
	{ "/proc", "proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
	{ "/sys", "sysfs", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
	{ "/dev", "devtmpfs", "mode=755", MS_NOSUID },
};

static const struct mount_point late[] = {
	{ "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC },
	{ "/dev/shm", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV },
	{ "/run", "tmpfs", "mode=755", MS_NOSUID | MS_NODEV },
	{ "/sys/fs/cgroup", "cgroup2", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
};

static const char *const dev_links[][2] = {
	{ "/proc/self/fd", "/dev/fd" },
	{ "/proc/self/fd/0", "/dev/stdin" },
	{ "/proc/self/fd/1", "/dev/stdout" },
	{ "/proc/self/fd/2", "/dev/stderr" },
};

static int move_mount_below(const char *root, const char *dir)
{
	char target[64];

	snprintf(target, sizeof(target), "%s%s", root, dir);
	make_mount_point(target);
	return mount(dir, target, NULL, MS_MOVE, NULL) < 0 ? -errno : 0;
}

static int enter_root(const char *device, struct err *err)
{
	size_t i;
	int rc;

	rc = wait_for(device_there, device);
	if (rc)
		return err_sys(err, rc, "the root disk %s", device);
	mkdir(new_root, 0755);
	if (mount(device, new_root, "ext4", 0, NULL) < 0)
		return err_sys(err, -errno, "cannot mount %s as ext4", device);
	for (i = 0; i < sizeof(early) / sizeof(early[0]); i++) {
		rc = move_mount_below(new_root, early[i].dir);
		if (rc)
			return err_sys(err, rc, "cannot move %s to the root disk", early[i].dir);
	}
	unlink("/init");
	if (chdir(new_root) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
	    chdir("/") < 0)
		return err_sys(err, -errno, "cannot make %s the root", device);
	return 0;
}

static void loopback_up(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	ioctl(fd, SIOCSIFFLAGS, &ifr);
	close(fd);
}

/* ---- sbx-guest, from the initramfs to /run */

static const char guest_program[] = "/sbx-guest";
static const char guest_bin[] = "/run/sbx/bin";

/* Before the root is another. */
static int take_program(void)
{
	const int fd = open(guest_program, O_RDONLY | O_CLOEXEC);

	unlink(guest_program);
	return fd;
}

/* Without it a machine is as good as any; who looks for it misses it. */
static void put_program(int from)
{
	char path[64];
	struct stat st;
	int to;

	if (from < 0)
		return;
	(void)mkdir("/run/sbx", 0755);
	(void)mkdir(guest_bin, 0755);
	snprintf(path, sizeof(path), "%s%s", guest_bin, guest_program);
	to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	if (to >= 0 && (fstat(from, &st) < 0 || sendfile(to, from, NULL, (size_t)st.st_size) != st.st_size))
		unlink(path);
	if (to >= 0) {
		(void)fchmod(to, 0755);
		close(to);
	}
	close(from);
}

/* ---- the kernel's command line */

static void parse_args(struct boot_args *args)
{
	char line[4096] = "", *word, *save;
	FILE *file = fopen("/proc/cmdline", "re");

	*args = (struct boot_args){ .root = "/dev/vda" };
	if (!file)
		return;
	if (fgets(line, sizeof(line), file)) {
		for (word = strtok_r(line, " \n", &save); word; word = strtok_r(NULL, " \n", &save)) {
			if (!strncmp(word, "sbx.root=", 9))
				snprintf(args->root, sizeof(args->root), "%s", word + 9);
			else if (!strncmp(word, "sbx.cpus=", 9))
				args->cpus = (uint32_t)strtoul(word + 9, NULL, 10);
			else if (!strncmp(word, "sbx.memory=", 11))
				args->memory = strtoull(word + 11, NULL, 10);
			else if (!strncmp(word, "sbx.init=", 9))
				snprintf(args->init, sizeof(args->init), "%s", word + 9);
			else if (!strcmp(word, "sbx.report=boot"))
				args->report_boot = true;
		}
	}
	fclose(file);
}

int boot_machine(struct boot_args *args, struct err *err)
{
	size_t i;
	int program, rc;

	mount_all(early, sizeof(early) / sizeof(early[0]));
	parse_args(args);
	open_uevents();
	load_modules();
	program = take_program();
	rc = enter_root(args->root, err);
	mount_all(late, sizeof(late) / sizeof(late[0]));
	for (i = 0; i < sizeof(dev_links) / sizeof(dev_links[0]); i++)
		/* What else could be done here? A shell says more plainly that /dev/fd is missing. */
		(void)!symlink(dev_links[i][0], dev_links[i][1]);
	put_program(program);
	loopback_up();
	network_up();
	if (!rc)
		network_resolver();
	return rc;
}

/* ---- the channel's port */

static bool port_has_name(int ports, const char *device, const char *name)
{
	char path[256], text[64] = "";
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%.200s/name", device);
	fd = openat(ports, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return false;
	text[strcspn(text, "\n")] = '\0';
	return !strcmp(text, name);
}

static int open_port(const char *name)
{
	DIR *ports = opendir("/sys/class/virtio-ports");
	struct dirent *entry;
	char path[256];
	int fd;

	if (!ports)
		return -ENOENT;
	while ((entry = readdir(ports)) && !port_has_name(dirfd(ports), entry->d_name, name))
		;
	if (entry)
		snprintf(path, sizeof(path), "/dev/%.200s", entry->d_name);
	closedir(ports);
	if (!entry)
		return -ENOENT;
	fd = open(path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int boot_open_port(struct err *err)
{
	const int fd = wait_for(open_port, PROTO_PORT);

	close(uevents);
	uevents = -1;
	if (fd < 0)
		return err_sys(err, fd, "the virtio port %s", PROTO_PORT);
	/* To whom the driver's SIGIO goes, when it is asked for (serve.c). */
	if (fcntl(fd, F_SETOWN, getpid()) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
		err_sys(err, -errno, "the virtio port %s", PROTO_PORT);
		close(fd);
		return err->code;
	}
	return fd;
}
