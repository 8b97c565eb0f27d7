/* SPDX-License-Identifier: MIT */
/*
 * freeze.c - a stopped machine into a template
 *
 * Order: the disk is drained (vmm_stop), then the state is saved, which may write to RAM, then RAM is frozen,
 * then the machine moves to its next disk. All that happens in one call, so that no event of the loop comes
 * between state and RAM.
 *
 * The child says when it has copied all, before it ends: a kernel takes long to undo an address space of so many
 * pages, and somebody may wait for a fork.
 *
 * The child has one thread, and locks of the others may be held for ever in it: it makes system calls and
 * nothing else. What it copies it finds in three steps, each to save the next one work: pages that were never
 * touched are neither in our page table nor data in the template; pages that were are compared with zero; and
 * what is left is written in runs as long as possible. The first step ends with a bit for each page, and the
 * others go by these, so that memory which was never touched costs the kernel and us next to nothing.
 *
 * A fork copies only what it wrote, and what its template has over its own base: its page table tells a page of ours
 * from one of the file. A map says which pages are copied, and the capture goes over the same base. So what a capture
 * costs follows what was written since the base, and not the RAM; once that is half of what the base has, the next
 * capture is whole, and becomes a base. Each run will be a mapping in every fork, which takes time and memory of the
 * kernel's: short gaps between runs are copied, too, the longer the more runs there are, so that these stay some hundreds.
 */
#include "vm/vmm/freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snap/qcow2/disk.h"
#include "util/io.h"
#include "util/list.h"
#include "vm/vmm/state.h"
#include "vm/vmm/touched.h"
#include "vm/vmm/vmm.h"

enum {
	PAGE = RAM_PAGE,
	/* pages of a gap that is copied; it doubles with every so many runs */
	GAP = 16,
	GAP_DOUBLES = 64,
	GAP_SHIFT_MAX = 20
};

struct freeze {
	struct list link; /* vmm->leaving, once all is copied */
	struct vmm *vmm;
	freeze_fn done;
	void *arg;
	struct template_files files;
	pid_t pid;
	int copied_fd, pidfd;               /* an eventfd: 1 when all is copied; the child */
	struct watch *copied_watch, *watch; /* of these; copied_watch: NULL once done has been called */
};

/* ---- in the child: system calls only */

struct copy {
	const struct guest_memory *memory;
	int out_fd;
	int copied_fd;       /* an eventfd */
	int template_fd;     /* -1: what is not in the page table is zero */
	int map_fd;          /* -1: no map is wanted, and pages that are zero are left out */
	uint8_t *map;        /* pages that are copied */
	uint64_t map_size;   /* bytes */
	uint64_t start, end; /* over a base: the run that is not written yet */
	unsigned runs;       /* with it */
};

/* Add the pages in which the template has data. */
static int add_template(struct copy *copy)
{
	off_t at, end = 0;

	while ((at = lseek(copy->template_fd, end, SEEK_DATA)) >= 0) {
		end = lseek(copy->template_fd, at, SEEK_HOLE);
		if (end < 0)
			return errno;
		for (; at < end; at += PAGE)
			template_map_add(copy->map, (uint64_t)at);
	}
	return errno == ENXIO ? 0 : errno; /* no more data */
}

/* Which pages have to be looked at. One that was copied or overlaid may be zero now, where the base has something else. */
static int find_pages(struct copy *copy)
{
	const struct guest_memory *memory = copy->memory;
	const bool own = copy->map_fd >= 0;
	int rc = touched_add(TOUCHED_SCAN, memory->host, memory->size, own, copy->map);

	if (rc == -ENOTTY)
		rc = touched_add(TOUCHED_READ, memory->host, memory->size, own, copy->map);
	if (rc)
		return -rc;
	for (uint64_t i = 0; memory->overlaid && i < copy->map_size; i++)
		copy->map[i] |= memory->overlaid[i];
	if (!own && copy->template_fd >= 0)
		return add_template(copy);
	return 0;
}

static bool is_zero(const uint8_t *page)
{
	const uint64_t *p = (const uint64_t *)page, *end = p + PAGE / sizeof(*p);

	/* A line at a time; most pages differ in the first. */
	for (; p < end; p += 8)
		if (p[0] | p[1] | p[2] | p[3] | p[4] | p[5] | p[6] | p[7])
			return false;
	return true;
}

static int write_run(const struct copy *copy, uint64_t start, uint64_t end)
{
	if (start == end)
		return 0;
	return -pwrite_all(copy->out_fd, copy->memory->host + start, end - start, start);
}

/* Over a base: as one with the run before it, and the gap between them, if that is short. */
static int copy_run(struct copy *copy, uint64_t start, uint64_t end)
{
	const unsigned doubled = copy->runs / GAP_DOUBLES;
	const uint64_t gap = (uint64_t)GAP * PAGE << (doubled < GAP_SHIFT_MAX ? doubled : GAP_SHIFT_MAX);
	int rc = 0;

	if (copy->runs && start - copy->end <= gap) {
		for (; copy->end < start; copy->end += PAGE)
			template_map_add(copy->map, copy->end);
	} else {
		rc = write_run(copy, copy->start, copy->end);
		copy->start = start;
		copy->runs++;
	}
	copy->end = end;
	return rc;
}

/* Without one: but for what is zero. */
static int copy_filled(const struct copy *copy, uint64_t start, uint64_t end)
{
	uint64_t at;
	int rc = 0;

	for (; !rc && start < end; start = at) {
		for (; start < end && is_zero(copy->memory->host + start); start += PAGE)
			;
		for (at = start; at < end && !is_zero(copy->memory->host + at); at += PAGE)
			;
		if (start < at)
			rc = write_run(copy, start, at);
	}
	return rc;
}

static int copy_pages(struct copy *copy)
{
	const uint64_t size = copy->memory->size;
	uint64_t at = 0, end;
	int rc = find_pages(copy);

	while (!rc && (at = template_map_next(copy->map, size, at, true)) < size) {
		end = template_map_next(copy->map, size, at, false);
		rc = copy->map_fd >= 0 ? copy_run(copy, at, end) : copy_filled(copy, at, end);
		at = end;
	}
	if (!rc)
		rc = write_run(copy, copy->start, copy->end);
	if (!rc && copy->map_fd >= 0)
		rc = -pwrite_all(copy->map_fd, copy->map, copy->map_size, 0);
	return rc;
}

/* The child's whole life; its exit status is 0 or an errno. */
__attribute__((noreturn)) static void child(struct copy *copy, pid_t parent)
{
	enum { FIRST = 3, FILES = 4, FIRST_OTHER = FIRST + FILES };
	int *const files[FILES] = { &copy->out_fd, &copy->copied_fd, &copy->template_fd, &copy->map_fd };
	const uint64_t one = 1;
	int rc;

	/* Who would take the copy if the parent is gone? */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(ESRCH);
	/*
	 * Keep nothing but the files: neither the VM, which would outlive its process with our reference,
	 * nor sockets that others wait to see closed.
	 */
	for (int i = 0; i < FILES; i++)
		if (*files[i] >= 0 && (*files[i] = fcntl(*files[i], F_DUPFD, FIRST_OTHER)) < 0)
			_exit(EBADF);
	for (int i = 0; i < FILES; i++) {
		if (*files[i] < 0)
			close(FIRST + i);
		else if ((*files[i] = dup2(*files[i], FIRST + i)) < 0)
			_exit(EBADF);
	}
	syscall(SYS_close_range, FIRST_OTHER, ~0u, 0);
	rc = copy_pages(copy);
	/* Failures are in the exit status. */
	if (!rc && write(copy->copied_fd, &one, sizeof(one)) != sizeof(one))
		rc = errno;
	_exit(rc);
}

/* ---- in the machine's process */

static void close_files(struct template_files *files)
{
	close_fd(&files->ram);
	close_fd(&files->state);
	close_fd(&files->map);
}

static void freeze_free(struct freeze *capture)
{
	list_del(&capture->link);
	watch_free(capture->copied_watch);
	watch_free(capture->watch);
	if (capture->pid > 0) {
		kill(capture->pid, SIGKILL);
		waitpid(capture->pid, NULL, 0);
	}
	close_fd(&capture->copied_fd);
	close_fd(&capture->pidfd);
	close_files(&capture->files);
	free(capture);
}

void freeze_cancel(struct freeze *capture)
{
	if (capture)
		freeze_free(capture);
}

void freeze_forget(struct vmm *vmm)
{
	struct freeze *capture;

	while ((capture = list_first(&vmm->leaving, struct freeze, link)))
		freeze_free(capture);
}

static int seal(int fd, struct err *err)
{
	const int rc = memfd_seal(fd);

	return rc ? err_sys(err, rc, "cannot seal the captured machine") : 0;
}

static int wait_child(struct freeze *capture, struct err *err)
{
	int status;
	pid_t pid;

	do
		pid = waitpid(capture->pid, &status, 0);
	while (pid < 0 && errno == EINTR);
	capture->pid = 0;
	if (pid < 0)
		return err_sys(err, -errno, "cannot wait for the copy of the RAM");
	if (WIFSIGNALED(status))
		return err_set(err, -EIO, "the copy of the RAM was killed by signal %d", WTERMSIG(status));
	if (WEXITSTATUS(status))
		return err_sys(err, -WEXITSTATUS(status), "cannot copy the RAM");
	return 0;
}

/* What came of it. */
static void tell(struct freeze *capture, struct err *err)
{
	if (!err->code && capture->files.map >= 0)
		(void)seal(capture->files.map, err);
	if (!err->code)
		(void)seal(capture->files.ram, err);
	capture->done(capture->arg, err, &capture->files);
}

static void on_copied(void *arg, uint32_t events)
{
	struct freeze *capture = arg;
	struct err err = { 0 };

	(void)events;
	watch_free(capture->copied_watch);
	capture->copied_watch = NULL;
	/* From here on it only waits for its child to end. */
	list_add(&capture->vmm->leaving, &capture->link);
	tell(capture, &err);
	close_files(&capture->files);
}

static void on_child(void *arg, uint32_t events)
{
	struct freeze *capture = arg;
	struct err err = { 0 };

	(void)events;
	(void)wait_child(capture, &err);
	if (capture->copied_watch)
		tell(capture, &err);
	freeze_free(capture);
}

static int save_state(struct vmm *vmm, int *ret_fd, struct err *err)
{
	struct buf buf = { 0 };
	int fd = -1, rc = state_save(vmm, &buf, err);

	if (rc)
		goto out;
	fd = memfd_create("sbx-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	rc = fd < 0 ? -errno : write_all(fd, buf_bytes(&buf), buf.len);
	if (rc)
		err_sys(err, rc, "cannot keep the machine's state");
	if (!rc)
		rc = seal(fd, err);
out:
	buf_release(&buf);
	if (!rc)
		*ret_fd = fd;
	else if (fd >= 0)
		close(fd);
	return rc;
}

/* The map of a capture that goes over a base, if this one does. A mapping of the file would be in the way of its seal. */
static int make_map(struct freeze *capture, struct copy *copy, struct err *err)
{
	const struct guest_memory *memory = copy->memory;

	if (memory->template_fd < 0 || fd_stored(memory->overlay_fd) > fd_stored(memory->template_fd) / 2)
		return 0;
	capture->files.map = memfd_new("sbx-map", copy->map_size);
	if (capture->files.map < 0)
		return err_sys(err, capture->files.map, "cannot make a map of the RAM");
	copy->map_fd = capture->files.map;
	return 0;
}

static int freeze(struct freeze *capture, struct err *err)
{
	const struct guest_memory *memory = &capture->vmm->memory;
	struct copy copy = { .memory = memory,
			     .template_fd = memory->template_fd,
			     .map_fd = -1,
			     .map_size = template_map_size(memory->size) };
	const pid_t parent = getpid();
	int rc;

	capture->files.ram = memfd_new("sbx-ram", memory->size);
	if (capture->files.ram < 0)
		return err_sys(err, capture->files.ram, "cannot make a file for the RAM");
	rc = make_map(capture, &copy, err);
	if (rc)
		return rc;
	copy.out_fd = capture->files.ram;
	capture->copied_fd = copy.copied_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (capture->copied_fd >= 0)
		capture->copied_watch =
			watch_new(capture->vmm->loop, capture->copied_fd, EPOLLIN, on_copied, capture);
	if (!capture->copied_watch)
		return err_sys(err, -errno, "cannot wait for the copy of the RAM");
	copy.map = calloc(1, copy.map_size);
	if (!copy.map)
		return err_set(err, -ENOMEM, "out of memory");
	/* Without the handlers and locks of fork(3), which the child has no use for. */
	capture->pid = _Fork();
	if (!capture->pid)
		child(&copy, parent);
	rc = -errno;
	free(copy.map);
	if (capture->pid < 0)
		return err_sys(err, rc, "cannot fork to freeze the RAM");
	capture->pidfd = (int)syscall(SYS_pidfd_open, capture->pid, 0);
	if (capture->pidfd >= 0)
		capture->watch = watch_new(capture->vmm->loop, capture->pidfd, EPOLLIN, on_child, capture);
	return capture->watch ? 0 : err_sys(err, -errno, "cannot wait for the copy of the RAM");
}

int freeze_start(struct vmm *vmm, const char *next_disk, int next_fd, freeze_fn done, void *arg,
		 struct freeze **ret, struct err *err)
{
	struct freeze *capture;
	int rc;

	if (vmm->standing < vmm->ncpus || !vmm->clock_held)
		return err_set(err, -EBUSY, "the machine is not stopped");
	if (!next_disk != !vmm->disk)
		return err_set(err, -EINVAL, "the machine has %s disk", vmm->disk ? "a" : "no");
	capture = malloc(sizeof(*capture));
	if (!capture)
		return err_set(err, -ENOMEM, "out of memory");
	*capture = (struct freeze){
		.vmm = vmm, .done = done, .arg = arg, .files = { -1, -1, -1 }, .copied_fd = -1, .pidfd = -1
	};
	list_init(&capture->link);
	rc = save_state(vmm, &capture->files.state, err);
	if (!rc)
		rc = freeze(capture, err);
	/* After the freeze, which may still fail: there is no way back from here. */
	if (!rc && next_disk)
		rc = qcow2_switch(vmm->disk, next_disk, next_fd, err);
	if (rc)
		freeze_free(capture);
	else
		*ret = capture;
	return rc;
}
