/* SPDX-License-Identifier: MIT */
/*
 * job.c - commands the host runs in the guest
 *
 * A job is kept until the host forgets it, also after its command ended, because a fork made later asks for
 * it. Output is read from the command only as far as the host has asked (absolute offsets), so what nobody
 * reads stays in the pipe and the command stops, as it would in any pipe. Input is buffered here up to
 * STDIN_WINDOW.
 *
 * What a command left behind when it ended may hold its pipes still. Once the host has forgotten the job they are
 * read on, to nowhere, so that it neither stops nor dies of it.
 *
 * The command leads a session and a process group. The group's number stays taken while it has members, so
 * signals to it cannot hit a stranger as long as we notice its end: we adopt its orphans, hence hear of each
 * death, and ask after every one.
 */
#include "vm/agent/guest/agent.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "util/io.h"

enum { STDIN_WINDOW = 64 * 1024, PIPE_PAGES = 16 };

/* What the host has yet to be told. */
enum { TELL_STARTED = 1, TELL_STDIN = 2, TELL_EXIT = 4 };

enum { SLOT_STATUS, SLOT_STDIN, SLOT_STDOUT, SLOT_STDERR, SLOTS };

/* From the command to the host. */
struct stream {
	int fd;
	uint64_t at, max; /* sent; asked for */
	bool eof;         /* its end was sent */
};

struct guest_job {
	struct list link;
	uint32_t id;
	struct job_spec spec;
	pid_t pid;       /* and process group; 0: was never started */
	bool group_gone; /* no process of it is left: the number may be someone else's */
	bool reaped;
	int status;    /* whether the command could be run arrives here; -1 once it is known */
	uint8_t state; /* enum job_state */
	uint32_t code;
	struct err err;      /* why it failed */
	uint8_t shell;       /* likewise, as a shell's $? */
	size_t size;         /* of its spec */
	bool forgotten;      /* by the host: it has no id any more, and its output goes nowhere */
	uint64_t written[2]; /* how much output there was when it ended */
	unsigned tell;
	int early; /* a signal for a command that has not begun */

	int in_fd;
	struct buf in;
	uint64_t in_at, in_max; /* received from the host; granted and told */
	bool in_eof;            /* the host sends no more */
	bool in_broken;         /* nobody reads it */
	uint8_t in_last;        /* the last byte received, for the end of a terminal's input */
	struct stream out[2];
};

static struct guest_job *job_find(struct guest *guest, uint32_t id)
{
	struct guest_job *job;

	list_for_each (job, &guest->jobs, link)
		if (job->id == id && !job->forgotten)
			return job;
	return NULL;
}

static void stdin_close(struct guest_job *job)
{
	close_fd(&job->in_fd);
	buf_release(&job->in);
}

/* Nobody will read what the host sends: it must not wait for a grant. */
static void stdin_break(struct guest_job *job)
{
	stdin_close(job);
	if (!job->in_broken) {
		job->in_broken = true;
		job->tell |= TELL_STDIN;
	}
}

/* Before the command begins its group may not exist, and the signal would be lost. */
static void job_signal(struct guest_job *job, int signal)
{
	if (job->status >= 0) {
		if (job->early != SIGKILL)
			job->early = signal;
	} else if (job->pid && !job->group_gone) {
		kill(-job->pid, signal);
	}
}

/* End it, wherever it is. What a command that has ended left in the background goes on, as it does when a
 * shell ends. */
static void job_end(const struct guest_job *job)
{
	if (!job->pid || job->reaped)
		return;
	kill(job->pid, SIGKILL);
	kill(-job->pid, SIGKILL);
}

static void job_free(struct guest *guest, struct guest_job *job)
{
	job_end(job);
	close_fd(&job->status);
	close_fd(&job->out[0].fd);
	close_fd(&job->out[1].fd);
	stdin_close(job);
	job_spec_release(&job->spec);
	list_del(&job->link);
	guest->njobs--;
	guest->specs -= job->size;
	free(job);
}

/* What it wrote and nobody asked for; closed where no more can come. */
static void stream_discard(struct stream *stream)
{
	uint8_t bytes[4096];
	unsigned left = PIPE_PAGES;
	ssize_t n;

	/* One page more than a pipe holds: who goes on writing is read in the loop. */
	do
		n = read(stream->fd, bytes, sizeof(bytes));
	while (n > 0 && left--);
	if (!n || (n < 0 && errno != EAGAIN && errno != EINTR))
		close_fd(&stream->fd);
}

/* The host wants no more of it. */
static void job_forget(struct guest *guest, struct guest_job *job)
{
	if (job->reaped && job->out[0].fd >= 0)
		stream_discard(&job->out[0]);
	if (job->reaped && job->out[1].fd >= 0)
		stream_discard(&job->out[1]);
	if (!job->reaped || (job->out[0].fd < 0 && job->out[1].fd < 0)) {
		job_free(guest, job);
		return;
	}
	job->forgotten = true;
	stdin_close(job);
	job_spec_release(&job->spec);
	guest->specs -= job->size;
	job->size = 0;
}

void guest_jobs_end(struct guest *guest)
{
	struct guest_job *job, *tmp;

	list_for_each_safe (job, tmp, &guest->jobs, link)
		job_free(guest, job);
}

void guest_jobs_forked(struct guest *guest)
{
	struct guest_job *job;

	list_for_each (job, &guest->jobs, link) {
		job->out[0].max = job->out[0].at;
		job->out[1].max = job->out[1].at;
	}
}

/* ---- start and end */

static void job_failed(struct guest_job *job, const struct err *err, uint8_t shell)
{
	job->state = JOB_FAILED;
	job->shell = shell;
	job->code = (uint32_t)-err->code;
	job->err = *err;
	job->tell |= TELL_STARTED;
	stdin_break(job);
}

static void refuse(struct guest *guest, uint32_t id, const struct err *err)
{
	struct buf more = { 0 };

	buf_put_u32(&more, 0);
	buf_put_u8(&more, EXIT_NOT_BEGUN);
	guest_send_result(guest, F_JOB_STARTED, id, err, &more);
	buf_release(&more);
}

/* The job of a frame, with its spec. 0, or a negative errno with the reason. */
static int job_new(struct guest *guest, const struct frame *frame, struct guest_job **ret, struct err *err)
{
	struct guest_job *job;
	struct reader r;
	size_t size;
	int rc;

	if (guest->njobs == GUEST_JOBS_MAX)
		return err_set(err, -EAGAIN, "the guest has %u jobs, as many as it can", guest->njobs);
	rc = record_end(&guest->record, frame, &r);
	size = reader_left(&r);
	if (!rc && size > GUEST_SPECS_MAX - guest->specs)
		return err_set(err, -EAGAIN,
			       "the guest keeps %zu bytes of commands and environments, as many as it can; "
			       "remove jobs that have ended",
			       guest->specs);
	job = calloc(1, sizeof(*job));
	if (!rc)
		rc = job ? job_spec_get(&r, &job->spec) : -ENOMEM;
	if (rc) {
		free(job);
		return err_sys(err, rc, "the job cannot be understood");
	}
	job->size = size;
	*ret = job;
	return 0;
}

static void job_start(struct guest *guest, const struct frame *frame)
{
	struct guest_process process;
	struct err err = { 0 };
	struct guest_job *job = NULL;
	int rc;

	if (job_find(guest, frame->id))
		return;
	rc = job_new(guest, frame, &job, &err);
	record_clear(&guest->record);
	if (rc) {
		refuse(guest, frame->id, &err);
		return;
	}
	job->id = frame->id;
	job->status = job->in_fd = job->out[0].fd = job->out[1].fd = -1;
	list_add(&guest->jobs, &job->link);
	guest->njobs++;
	guest->specs += job->size;
	if (guest_spawn(&job->spec, guest->name, guest->env, &process, &err)) {
		job_failed(job, &err, EXIT_NOT_BEGUN);
		return;
	}
	job->pid = process.pid;
	job->status = process.status;
	job->in_fd = process.in;
	job->out[0].fd = process.out;
	job->out[1].fd = process.error;
	if (job->in_fd >= 0)
		job->tell |= TELL_STDIN;
}

/* Command and program are one now, or there was an error. */
static void job_status_ready(struct guest_job *job)
{
	struct guest_failure failure;
	ssize_t n = read(job->status, &failure, sizeof(failure));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	close_fd(&job->status);
	if (n == sizeof(failure)) {
		failure.err.text[sizeof(failure.err.text) - 1] = '\0';
		close_fd(&job->out[0].fd);
		close_fd(&job->out[1].fd);
		job_failed(job, &failure.err, failure.shell);
		return;
	}
	job->tell |= TELL_STARTED;
	if (job->early)
		job_signal(job, job->early);
}

/* What is in the pipes was written before the command ended, or by what it left behind. A terminal is hung up
 * when its leader ends, so its end is near anyway. */
static void note_written(struct guest_job *job)
{
	unsigned i;
	int n;

	for (i = 0; i < 2; i++) {
		n = 0;
		if (job->out[i].fd >= 0 && !job->spec.tty && ioctl(job->out[i].fd, FIONREAD, &n) < 0)
			n = 0;
		job->written[i] = job->spec.tty ? UINT64_MAX : job->out[i].at + (uint64_t)n;
	}
}

void guest_jobs_reaped(struct guest *guest, pid_t pid, int status)
{
	struct guest_job *job;

	list_for_each (job, &guest->jobs, link) {
		if (pid && job->pid == pid && !job->reaped) {
			job->reaped = true;
			note_written(job);
			/* A child that could not become its command says so before it ends. */
			if (job->status >= 0)
				job_status_ready(job);
			if (job->state == JOB_RUNNING) {
				job->state = WIFSIGNALED(status) ? JOB_SIGNALED : JOB_EXITED;
				job->code = (uint32_t)(WIFSIGNALED(status) ? WTERMSIG(status)
									   : WEXITSTATUS(status));
				job->tell |= TELL_EXIT;
			}
		}
		if (job->reaped && !job->group_gone && kill(-job->pid, 0) < 0 && errno == ESRCH) {
			job->group_gone = true;
			/* Of a pipe poll tells this, of a terminal nothing does. */
			if (job->spec.tty)
				stdin_break(job);
		}
	}
}

/* ---- input */

/* The end of input to a terminal is a character, and ends a line that is not yet whole only when it comes
 * twice. */
static void terminal_eof(struct guest_job *job)
{
	struct termios tio;

	if (tcgetattr(job->in_fd, &tio) < 0 || !(tio.c_lflag & ICANON))
		return;
	if (job->in_at && job->in_last != '\n')
		buf_put_u8(&job->in, tio.c_cc[VEOF]);
	buf_put_u8(&job->in, tio.c_cc[VEOF]);
}

static void stdin_write(struct guest_job *job)
{
	ssize_t n;

	if (job->in_fd < 0)
		return;
	while (job->in.len) {
		n = write(job->in_fd, buf_bytes(&job->in), job->in.len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			stdin_break(job);
			return;
		}
		buf_consume(&job->in, (size_t)n);
		/* Not for every byte: half a window at a time. */
		if (job->in_max - job->in_at <= STDIN_WINDOW / 2)
			job->tell |= TELL_STDIN;
	}
	if (job->in_eof)
		stdin_close(job);
}

static void stdin_data(struct guest_job *job, const struct frame *frame)
{
	/* Beyond the grant, after the end, or to a command that is gone: not ours to keep. */
	if (job->in_fd < 0 || job->in_eof || frame->len > job->in_max - job->in_at || !frame->len)
		return;
	buf_add(&job->in, frame->payload, frame->len);
	if (job->in.failed) {
		stdin_break(job);
		return;
	}
	job->in_at += frame->len;
	job->in_last = frame->payload[frame->len - 1];
	stdin_write(job);
}

static void stdin_eof(struct guest_job *job)
{
	if (job->in_eof)
		return;
	job->in_eof = true;
	if (job->in_fd >= 0 && job->spec.tty)
		terminal_eof(job);
	stdin_write(job);
}

/* ---- output */

static void stream_end(struct guest *guest, struct guest_job *job, unsigned i)
{
	close_fd(&job->out[i].fd);
	job->out[i].eof = true;
	if (!job->forgotten)
		guest_send(guest, i ? F_JOB_STDERR : F_JOB_STDOUT, job->id, NULL, 0);
}

static void stream_read(struct guest *guest, struct guest_job *job, unsigned i)
{
	uint8_t bytes[PROTO_DATA_MAX];
	struct stream *stream = &job->out[i];
	const uint64_t want = job->forgotten ? sizeof(bytes) : stream->max - stream->at;
	ssize_t n = read(stream->fd, bytes, want < sizeof(bytes) ? want : sizeof(bytes));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	/* A terminal whose last process is gone says EIO. */
	if (n <= 0) {
		stream_end(guest, job, i);
		return;
	}
	stream->at += (uint64_t)n;
	if (!job->forgotten)
		guest_send(guest, i ? F_JOB_STDERR : F_JOB_STDOUT, job->id, bytes, (size_t)n);
}

static bool stream_wanted(const struct stream *stream)
{
	return !stream->eof && stream->max > stream->at;
}

static void stream_want(struct guest_job *job, unsigned i, const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	const uint64_t max = get_u64(&r);

	if (!r.bad && max > job->out[i].max)
		job->out[i].max = max;
}

/* ---- the loop's side */

unsigned guest_jobs_poll(struct guest *guest, struct pollfd *fds)
{
	const bool may_send = guest_may_send(guest);
	struct guest_job *job;
	unsigned n = 0, i;

	list_for_each (job, &guest->jobs, link) {
		struct pollfd *slot = fds + n;

		slot[SLOT_STATUS] = (struct pollfd){ .fd = job->status, .events = POLLIN };
		/* Asked for nothing it still tells when the last reader closes. */
		slot[SLOT_STDIN] = (struct pollfd){ .fd = job->in_fd, .events = job->in.len ? POLLOUT : 0 };
		for (i = 0; i < 2; i++) {
			const bool read_it = job->forgotten ||
					     (may_send && job->status < 0 && stream_wanted(&job->out[i]));

			slot[SLOT_STDOUT + i] =
				(struct pollfd){ .fd = read_it ? job->out[i].fd : -1, .events = POLLIN };
		}
		/* A terminal nobody holds open hangs up for good, while its output is still to be read. */
		if (job->spec.tty && !job->in.len)
			slot[SLOT_STDIN].fd = -1;
		n += SLOTS;
	}
	return n;
}

void guest_jobs_ready(struct guest *guest, const struct pollfd *fds)
{
	struct guest_job *job, *tmp;
	unsigned i;

	list_for_each_safe (job, tmp, &guest->jobs, link) {
		if (fds[SLOT_STATUS].revents)
			job_status_ready(job);
		if (fds[SLOT_STDIN].revents & (POLLERR | POLLHUP) && !(fds[SLOT_STDIN].revents & POLLOUT))
			stdin_break(job);
		else if (fds[SLOT_STDIN].revents)
			stdin_write(job);
		for (i = 0; i < 2; i++)
			if (fds[SLOT_STDOUT + i].revents && job->out[i].fd >= 0 &&
			    (job->forgotten || guest_may_send(guest)))
				stream_read(guest, job, i);
		fds += SLOTS;
		if (job->forgotten && job->out[0].fd < 0 && job->out[1].fd < 0)
			job_free(guest, job);
	}
}

static void tell_stdin(struct guest *guest, struct guest_job *job)
{
	struct buf payload = { 0 };

	if (job->in_broken)
		job->in_max = UINT64_MAX;
	else
		job->in_max = job->in_at - job->in.len + STDIN_WINDOW;
	buf_put_u64(&payload, job->in_max);
	guest_send(guest, F_JOB_STDIN_MAX, job->id, buf_bytes(&payload), payload.len);
	buf_release(&payload);
}

static void tell_exit(struct guest *guest, struct guest_job *job)
{
	struct buf payload = { 0 };

	buf_put_u8(&payload, job->state == JOB_SIGNALED);
	buf_put_u32(&payload, job->code);
	buf_put_u64(&payload, job->written[0]);
	buf_put_u64(&payload, job->written[1]);
	guest_send(guest, F_JOB_EXIT, job->id, buf_bytes(&payload), payload.len);
	buf_release(&payload);
}

static void tell_started(struct guest *guest, struct guest_job *job)
{
	struct buf pid = { 0 };

	buf_put_u32(&pid, (uint32_t)job->pid);
	buf_put_u8(&pid, job->shell);
	guest_send_result(guest, F_JOB_STARTED, job->id, &job->err, &pid);
	buf_release(&pid);
}

void guest_jobs_flush(struct guest *guest)
{
	struct guest_job *job;
	unsigned i;

	list_for_each (job, &guest->jobs, link) {
		/* Nothing of a job before it is known to have started. */
		if (!guest_may_send(guest))
			return;
		if (job->status >= 0 || job->forgotten)
			continue;
		if (job->tell & TELL_STARTED)
			tell_started(guest, job);
		if (job->tell & TELL_STDIN && job->in_max != UINT64_MAX)
			tell_stdin(guest, job);
		if (job->tell & TELL_EXIT)
			tell_exit(guest, job);
		job->tell = 0;
		/* A stream that never was ends when someone asks for it. */
		for (i = 0; i < 2; i++)
			if (job->out[i].fd < 0 && stream_wanted(&job->out[i]))
				stream_end(guest, job, i);
	}
}

/* ---- frames */

static void job_kill(struct guest_job *job, const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	const uint32_t signal = get_u32(&r);

	if (!r.bad && signal > 0 && signal < (uint32_t)_NSIG)
		job_signal(job, (int)signal);
}

static void job_resize(struct guest_job *job, const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	struct winsize size = { .ws_row = get_u16(&r), .ws_col = get_u16(&r) };

	if (r.bad || !job->spec.tty || job->out[0].fd < 0)
		return;
	ioctl(job->out[0].fd, TIOCSWINSZ, &size);
	job->spec.rows = size.ws_row;
	job->spec.cols = size.ws_col;
}

static void job_list(struct guest *guest, uint32_t tag)
{
	struct buf payload = { 0 };
	struct guest_job *job;

	list_for_each (job, &guest->jobs, link) {
		if (job->forgotten)
			continue;
		struct job_info info = {
			.id = job->id,
			.spec = job->spec,
			.state = job->state,
			.code = job->code,
			.shell = job->shell,
			.stdin_at = job->in_at,
			.stdin_max = job->in_max,
			.stdout_at = job->out[0].at,
			.stderr_at = job->out[1].at,
			.stdin_eof = job->in_eof,
			.stdout_eof = job->out[0].eof,
			.stderr_eof = job->out[1].eof,
		};

		buf_clear(&payload);
		job_info_put(&payload, &info);
		if (!payload.failed)
			guest_send_record(guest, F_JOB_INFO, tag, &payload);
	}
	buf_release(&payload);
	guest_send(guest, F_JOB_LIST_END, tag, NULL, 0);
}

void guest_job_frame(struct guest *guest, const struct frame *frame)
{
	struct guest_job *job;

	if (frame->type == F_JOB_START) {
		job_start(guest, frame);
		return;
	}
	if (frame->type == F_JOB_PART) {
		record_part(&guest->record, frame);
		return;
	}
	if (frame->type == F_JOB_LIST) {
		job_list(guest, frame->id);
		return;
	}
	job = job_find(guest, frame->id);
	if (!job)
		return;
	switch (frame->type) {
	case F_JOB_STDIN:
		stdin_data(job, frame);
		break;
	case F_JOB_STDIN_EOF:
		stdin_eof(job);
		break;
	case F_JOB_STDOUT_MAX:
		stream_want(job, 0, frame);
		break;
	case F_JOB_STDERR_MAX:
		stream_want(job, 1, frame);
		break;
	case F_JOB_KILL:
		job_kill(job, frame);
		break;
	case F_JOB_RESIZE:
		job_resize(job, frame);
		break;
	case F_JOB_FORGET:
		job_forget(guest, job);
		break;
	default:
		break;
	}
}
