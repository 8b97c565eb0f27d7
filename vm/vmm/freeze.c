/* SPDX-License-Identifier: MIT */
/*
 * freeze.c - a stopped machine into a template
 *
 * Order: the disk is drained (vmm_stop), then the state is saved, which may write to RAM, then RAM is frozen,
 * then the machine moves to its next disk. All that happens in one call, so that no event of the loop comes
 * between state and RAM.
 *
 * The child has one thread, and locks of the others may be held for ever in it: it makes system calls and
 * nothing else. What it copies it finds in three steps, each to save the next one work: pages that were never
 * touched are neither in our page table nor data in the template; pages that were are compared with zero; and
 * what is left is written in runs as long as possible.
 */
#include "vm/vmm/freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snap/qcow2/disk.h"
#include "util/io.h"
#include "vm/vmm/state.h"
#include "vm/vmm/vmm.h"

enum { PAGE = 4096, WINDOW = 512 /* pages whose entries are read at once */ };

/* Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)

struct freeze {
	struct vmm *vmm;
	freeze_fn done;
	void *arg;
	int ram_fd, state_fd;
	pid_t pid;
	int pidfd;
	struct watch *watch;
};

/* ---- in the child: system calls only */

struct copy {
	const uint8_t *host;
	uint64_t size;
	int out_fd, pagemap_fd;
	int template_fd;               /* -1: what is not in the page table is zero */
	uint64_t data_start, data_end; /* the template's data at or after the current page */
};

/* Does the template have data in this page? Pages are asked for in order. */
static bool in_template(struct copy *copy, uint64_t offset)
{
	off_t start, end;

	if (copy->template_fd < 0)
		return false;
	if (offset >= copy->data_end) {
		start = lseek(copy->template_fd, (off_t)offset, SEEK_DATA);
		end = start < 0 ? -1 : lseek(copy->template_fd, start, SEEK_HOLE);
		/* ENXIO: no more data. */
		copy->data_start = start < 0 ? copy->size : (uint64_t)start;
		copy->data_end = end < 0 ? copy->size : (uint64_t)end;
	}
	return offset + PAGE > copy->data_start;
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
	return -pwrite_all(copy->out_fd, copy->host + start, end - start, start);
}

static int copy_window(struct copy *copy, uint64_t start, uint64_t end)
{
	uint64_t entries[WINDOW], at, run = end;
	const size_t bytes = (end - start) / PAGE * sizeof(entries[0]);
	const uint64_t where = (uintptr_t)(copy->host + start) / PAGE * sizeof(entries[0]);
	int rc = -pread_all(copy->pagemap_fd, entries, bytes, where);

	for (at = start; !rc && at < end; at += PAGE) {
		const bool ours = entries[(at - start) / PAGE] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED);
		const bool wanted = (ours || in_template(copy, at)) && !is_zero(copy->host + at);

		if (wanted && run == end) {
			run = at;
		} else if (!wanted && run != end) {
			rc = write_run(copy, run, at);
			run = end;
		}
	}
	return rc ? rc : write_run(copy, run, end);
}

/* The child's whole life; its exit status is 0 or an errno. */
__attribute__((noreturn)) static void child(struct copy *copy, pid_t parent)
{
	enum { OUT_FD = 3, TEMPLATE_FD, FIRST_OTHER };
	const uint64_t window = (uint64_t)WINDOW * PAGE;
	uint64_t at;
	int out_fd, template_fd, rc = 0;

	/* Who would take the copy if the parent is gone? */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(ESRCH);
	/*
	 * Keep nothing but the two files: neither the VM, which would outlive its process with our reference,
	 * nor sockets that others wait to see closed.
	 */
	out_fd = fcntl(copy->out_fd, F_DUPFD, FIRST_OTHER);
	template_fd = copy->template_fd < 0 ? -1 : fcntl(copy->template_fd, F_DUPFD, FIRST_OTHER);
	if (out_fd < 0 || dup2(out_fd, OUT_FD) < 0 ||
	    (template_fd >= 0 && dup2(template_fd, TEMPLATE_FD) < 0))
		_exit(EBADF);
	copy->out_fd = OUT_FD;
	copy->template_fd = template_fd < 0 ? -1 : TEMPLATE_FD;
	syscall(SYS_close_range, template_fd < 0 ? TEMPLATE_FD : FIRST_OTHER, ~0u, 0);
	copy->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (copy->pagemap_fd < 0)
		_exit(errno);
	for (at = 0; !rc && at < copy->size; at += window)
		rc = copy_window(copy, at, at + window < copy->size ? at + window : copy->size);
	_exit(rc);
}

/* ---- in the machine's process */

static void freeze_free(struct freeze *capture)
{
	watch_free(capture->watch);
	if (capture->pid > 0) {
		kill(capture->pid, SIGKILL);
		waitpid(capture->pid, NULL, 0);
	}
	if (capture->pidfd >= 0)
		close(capture->pidfd);
	if (capture->ram_fd >= 0)
		close(capture->ram_fd);
	if (capture->state_fd >= 0)
		close(capture->state_fd);
	free(capture);
}

void freeze_cancel(struct freeze *capture)
{
	if (capture)
		freeze_free(capture);
}

static int seal(int fd, struct err *err)
{
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_sys(err, -errno, "cannot seal the captured machine");
	return 0;
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
	return seal(capture->ram_fd, err);
}

static void on_child(void *arg, uint32_t events)
{
	struct freeze *capture = arg;
	struct err err = { 0 };

	(void)events;
	if (wait_child(capture, &err)) {
		capture->done(capture->arg, &err, -1, -1);
	} else {
		capture->done(capture->arg, &err, capture->ram_fd, capture->state_fd);
		capture->ram_fd = capture->state_fd = -1;
	}
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

static int freeze(struct freeze *capture, struct err *err)
{
	const struct guest_memory *memory = &capture->vmm->memory;
	struct copy copy = { .host = memory->host, .size = memory->size, .template_fd = memory->template_fd };
	const pid_t parent = getpid();

	capture->ram_fd = memfd_create("sbx-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (capture->ram_fd < 0 || ftruncate(capture->ram_fd, (off_t)memory->size) < 0)
		return err_sys(err, -errno, "cannot make a file for the RAM");
	copy.out_fd = capture->ram_fd;
	/* Without the handlers and locks of fork(3), which the child has no use for. */
	capture->pid = _Fork();
	if (capture->pid < 0)
		return err_sys(err, -errno, "cannot fork to freeze the RAM");
	if (!capture->pid)
		child(&copy, parent);
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
		.vmm = vmm, .done = done, .arg = arg, .ram_fd = -1, .state_fd = -1, .pidfd = -1
	};
	rc = save_state(vmm, &capture->state_fd, err);
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
