/* SPDX-License-Identifier: MIT */
/*
 * serve.c - the agent's loop and its end of the channel
 *
 * poll(2) over an array that is filled anew in every round: what we want of a descriptor depends on grants
 * and on how much is queued for the host, and a machine has tens of jobs, not thousands.
 *
 * What the guest has to say unasked (output, exits, grants) is kept as state in the job and turned into a
 * frame only when the channel is open, so a quiesced channel needs no queue and a fork inherits nothing
 * half-said.
 *
 * A virtio port whose other end is closed polls as POLLHUP for as long as that lasts, so we leave it out of the
 * array meanwhile, and ask for the SIGIO that the driver raises when it changes (drivers/char/virtio_console.c,
 * send_sigio_to_port). It raises one for each message, too: so otherwise we do not ask.
 */
#include "vm/agent/guest/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* How often the port is read (for eight writes of a file), and how much may be to be sent, before that is sent: what the
 * port takes at once. And what it gives at once, a page. */
enum { PORT_READS = 64, SENT_AT_ONCE = 32 * 1024, PORT_PAGE = 4096 };
enum { SLOT_SIGNALS, SLOT_PORT, SLOT_RESIZE, SLOT_RELAY, SLOT_HOOKS, SLOT_ASK, SLOT_JOBS };

static const uint64_t resize_limit_ns = 25000000000u;

static uint64_t mono_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void set_hung_up(struct guest *guest, bool hung_up)
{
	struct pollfd fd = { .fd = guest->port };
	int flags;

	if (guest->hung_up == hung_up)
		return;
	guest->hung_up = hung_up;
	flags = fcntl(guest->port, F_GETFL);
	if (flags >= 0)
		(void)fcntl(guest->port, F_SETFL, hung_up ? flags | O_ASYNC : flags & ~O_ASYNC);
	/* It may have returned before we asked to be told. */
	if (hung_up && !poll(&fd, 1, 0))
		set_hung_up(guest, false);
}

/* ---- sending */

bool guest_may_send(const struct guest *guest)
{
	return guest->attached && !guest->quiesced && guest->out.len < GUEST_BACKLOG;
}

void guest_send(struct guest *guest, uint16_t type, uint32_t id, const void *payload, size_t len)
{
	const size_t before = guest->out.len;

	if (len <= PROTO_PAYLOAD_MAX)
		frame_put(&guest->out, type, guest->generation, id, payload, len);
	if (guest->out.failed) {
		/* Without memory the host gets no answer and sees a time-out; half a frame would be worse. */
		guest->out.len = before;
		guest->out.failed = false;
	}
}

void guest_send_record(struct guest *guest, uint16_t type, uint32_t id, const struct buf *record)
{
	const size_t before = guest->out.len;

	record_put(&guest->out, type, guest->generation, id, buf_bytes(record), record->len);
	if (guest->out.failed) { /* as above */
		guest->out.len = before;
		guest->out.failed = false;
	}
}

void guest_send_result(struct guest *guest, uint16_t type, uint32_t id, const struct err *err,
		       const struct buf *more)
{
	struct buf payload = { 0 };

	buf_put_u32(&payload, (uint32_t)-err->code);
	buf_put_str(&payload, err->code ? err->text : "");
	if (more)
		buf_add(&payload, buf_bytes(more), more->len);
	if (!payload.failed && !(more && more->failed))
		guest_send(guest, type, id, buf_bytes(&payload), payload.len);
	buf_release(&payload);
}

static size_t frame_size(const uint8_t *frame)
{
	struct reader r = reader_init(frame + PROTO_HEADER - 4, 4);

	return PROTO_HEADER + (size_t)get_u32(&r) + PROTO_TRAILER;
}

/* Forget what was queued for the old host; a frame that is partly out is still finished. */
static void drop_queued(struct guest *guest)
{
	guest->out.len = guest->head_left;
}

static void flush(struct guest *guest)
{
	size_t left, n;
	ssize_t rc;

	while (guest->out.len) {
		rc = write(guest->port, buf_bytes(&guest->out), guest->out.len);
		if (rc < 0 && errno == EINTR)
			continue;
		if (rc <= 0)
			return;
		for (left = (size_t)rc; left; left -= n) {
			if (!guest->head_left)
				guest->head_left = frame_size(buf_bytes(&guest->out));
			n = left < guest->head_left ? left : guest->head_left;
			guest->head_left -= n;
			buf_consume(&guest->out, n);
		}
	}
}

/* ---- identity */

static void free_env(char **env)
{
	size_t i;

	for (i = 0; env && env[i]; i++)
		free(env[i]);
	free(env);
}

static char *take_string(struct reader *r)
{
	size_t n;
	const uint8_t *p = get_bytes(r, &n);

	return r->bad ? NULL : strndup((const char *)p, n);
}

static int identity_get(struct reader *r, struct guest_identity *ret, struct err *err)
{
	const uint8_t *entropy, *machine_id;
	size_t entropy_len, id_len;
	uint32_t version, n, i;

	version = get_u32(r);
	ret->generation = get_u32(r);
	ret->kind = get_u8(r);
	get_str(r, ret->name, sizeof(ret->name));
	ret->clock_ns = get_u64(r);
	entropy = get_bytes(r, &entropy_len);
	machine_id = get_bytes(r, &id_len);
	n = get_u32(r);
	if (r->bad || entropy_len != IDENTITY_ENTROPY || id_len != IDENTITY_MACHINE_ID ||
	    n > IDENTITY_ENV_MAX || ret->kind > ATTACH_WAKE_ANEW)
		return err_set(err, -EBADMSG, "the identity is malformed");
	if (version != PROTO_VERSION)
		return err_set(err, -EPROTO, "the host speaks version %u of the agent protocol, the guest %u",
			       version, PROTO_VERSION);
	memcpy(ret->entropy, entropy, sizeof(ret->entropy));
	memcpy(ret->machine_id, machine_id, sizeof(ret->machine_id));
	ret->env = calloc((size_t)n + 1, sizeof(*ret->env));
	for (i = 0; ret->env && i < n; i++) {
		ret->env[i] = take_string(r);
		if (!ret->env[i] || !strchr(ret->env[i], '='))
			break;
	}
	ret->copy = get_u32(r);
	if (ret->env && i == n && !r->bad)
		return 0;
	free_env(ret->env);
	ret->env = NULL;
	return err_set(err, -EBADMSG, "the environment in the identity is malformed");
}

/* ---- hooks before a capture: in a child, since the host may hear meanwhile what jobs write */

static void child_end(struct guest_child *child)
{
	if (!child->pid)
		return;
	kill(child->pid, SIGKILL);
	close(child->fd);
	*child = (struct guest_child){ .fd = -1 };
}

static void be_quiet(struct guest *guest, uint32_t tag)
{
	const struct err ok = { 0 };

	if (!guest->quiesced)
		guest_jobs_flush(guest);
	guest_send_result(guest, F_QUIESCED, tag, &ok, NULL);
	guest->quiesced = true;
}

/* In the child. */
static _Noreturn void run_hooks(const struct guest *guest, int fd)
{
	struct err err = { 0 };
	sigset_t child;

	guest_child_reset();
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	if (fd != STDERR_FILENO + 1)
		dup3(fd, STDERR_FILENO + 1, O_CLOEXEC);
	close_range(STDERR_FILENO + 2, ~0u, 0);
	guest->machine->hooks_run(HOOKS_SNAPSHOT, guest->env, &err);
	_exit(write(STDERR_FILENO + 1, &err, sizeof(err)) != sizeof(err));
}

/* Begun; false: there are none, or they cannot be run. */
static bool hooks_begin(struct guest *guest, uint32_t tag)
{
	int fds[2];
	pid_t pid;

	if (!guest->machine->hooks_there || !guest->machine->hooks_there(HOOKS_SNAPSHOT) ||
	    pipe2(fds, O_CLOEXEC) < 0)
		return false;
	pid = fork();
	if (!pid)
		run_hooks(guest, fds[1]);
	close(fds[1]);
	if (pid < 0) {
		close(fds[0]);
		return false;
	}
	guest->hooking = (struct guest_child){ .pid = pid, .fd = fds[0], .tag = tag };
	guest_send(guest, F_HOOKS, tag, NULL, 0);
	return true;
}

static void quiesce(struct guest *guest, const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);

	child_end(&guest->hooking);
	if (get_u8(&r) != QUIESCE_CAPTURE || guest->quiesced || !guest->attached ||
	    !hooks_begin(guest, frame->id))
		be_quiet(guest, frame->id);
}

static void hooks_ready(struct guest *guest, short revents)
{
	const uint32_t tag = guest->hooking.tag;
	struct err err = { 0 };

	if (!guest->hooking.pid || !revents)
		return;
	if (read(guest->hooking.fd, &err, sizeof(err)) != sizeof(err))
		err_set(&err, -EIO, "the hooks of snapshot.d were ended");
	child_end(&guest->hooking);
	if (err.code)
		guest_send_result(guest, F_QUIESCED, tag, &err, NULL);
	else
		be_quiet(guest, tag);
}

/* It is the machine that it was. */
static bool goes_on(uint8_t kind)
{
	return kind == ATTACH_RESUME || kind == ATTACH_WAKE || kind == ATTACH_WAKE_ANEW;
}

static void attach(struct guest *guest, const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	struct guest_identity identity = { 0 };
	struct err err = { 0 };

	/* The header's generation, so that even a refusal reaches the one who asked. */
	guest->generation = frame->generation;
	guest->quiesced = false;
	drop_queued(guest);
	record_clear(&guest->record);
	child_end(&guest->hooking);
	if (!identity_get(&r, &identity, &err)) {
		guest->attaching = true;
		if (identity.kind != ATTACH_RESUME && identity.kind != ATTACH_WAKE) {
			guest_files_close(&guest->files);
			guest_jobs_forked(guest);
		}
		identity.renamed = goes_on(identity.kind) && strcmp(guest->name, identity.name) != 0;
		guest->machine->attach(&identity, &err);
	}
	if (!err.code) {
		guest->attached = true;
		guest_relay_again(guest, mono_ns());
		if (guest->relay.socket < 0 && guest->machine->offer)
			guest->relay.socket = guest->machine->offer();
		if (identity.kind != ATTACH_REHEARSE)
			memcpy(guest->name, identity.name, sizeof(guest->name));
		if (identity.kind != ATTACH_REHEARSE && !goes_on(identity.kind)) {
			free_env(guest->env);
			guest->env = identity.env;
			identity.env = NULL;
		}
		guest_ask_attached(guest, &identity);
	}
	free_env(identity.env);
	explicit_bzero(&identity, sizeof(identity));
	guest_send_result(guest, F_ATTACHED, 0, &err, NULL);
}

/* ---- resizing: in a child, since the kernel may take long to free a block of memory */

static void resize_answer(struct guest *guest, uint32_t tag, const struct err *err)
{
	struct buf size = { 0 };
	uint32_t cpus;
	uint64_t memory;

	guest->machine->size(&cpus, &memory);
	buf_put_u32(&size, cpus);
	buf_put_u64(&size, memory);
	guest_send_result(guest, F_RESIZED, tag, err, &size);
	buf_release(&size);
}

static void resize(struct guest *guest, const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	const uint32_t cpus = get_u32(&r);
	const uint64_t memory = get_u64(&r);
	struct err err = { 0 };
	int fds[2];
	pid_t pid;

	if (r.bad)
		return;
	child_end(&guest->resize);
	if (pipe2(fds, O_CLOEXEC) < 0) {
		err_sys(&err, -errno, "cannot make a pipe");
		resize_answer(guest, frame->id, &err);
		return;
	}
	pid = fork();
	if (!pid) {
		guest_child_reset();
		/* The commands' pipes must not stay open because of us. */
		if (fds[1] != STDERR_FILENO + 1)
			dup3(fds[1], STDERR_FILENO + 1, O_CLOEXEC);
		close_range(STDERR_FILENO + 2, ~0u, 0);
		guest->machine->resize(cpus, memory, &err);
		_exit(write(STDERR_FILENO + 1, &err, sizeof(err)) != sizeof(err));
	}
	close(fds[1]);
	if (pid < 0) {
		err_sys(&err, -errno, "cannot make a process");
		close(fds[0]);
		resize_answer(guest, frame->id, &err);
		return;
	}
	guest->resize = (struct guest_child){ pid, fds[0], frame->id, mono_ns() + resize_limit_ns };
}

static void resize_ready(struct guest *guest, short revents)
{
	const uint32_t tag = guest->resize.tag;
	struct err err = { 0 };

	if (!guest->resize.pid)
		return;
	if (revents) {
		if (read(guest->resize.fd, &err, sizeof(err)) != sizeof(err))
			err_set(&err, -EIO, "resizing ended too early");
	} else if (mono_ns() >= guest->resize.deadline_ns) {
		err_set(&err, -ETIMEDOUT, "the guest could not free the memory in %u seconds",
			(unsigned)(resize_limit_ns / 1000000000u));
	} else {
		return;
	}
	child_end(&guest->resize);
	resize_answer(guest, tag, &err);
}

/* ---- the clock */

static void set_clock(struct guest *guest, const struct frame *frame)
{
	struct reader r = reader_init(frame->payload, frame->len);
	const uint64_t real_ns = get_u64(&r);

	if (!r.bad)
		guest->machine->clock(real_ns);
}

/* ---- the end */

static void power_off(struct guest *guest)
{
	struct err err = { 0 };

	if (guest->machine->hooks_run && !guest->powering_off)
		(void)guest->machine->hooks_run(HOOKS_STOP, guest->env, &err);
	guest->powering_off = true;
	guest->machine->poweroff();
}

/* ---- frames */

static void handle(struct guest *guest, const struct frame *frame)
{
	if (frame->type == F_ATTACH) {
		attach(guest, frame);
		return;
	}
	if (frame->generation != guest->generation)
		return;
	switch (frame->type) {
	case F_QUIESCE:
		quiesce(guest, frame);
		return;
	case F_UNQUIESCE:
		child_end(&guest->hooking);
		set_clock(guest, frame);
		guest->quiesced = false;
		return;
	case F_POWEROFF:
		power_off(guest);
		return;
	default:
		break;
	}
	/* A host that has quiesced the guest asks for nothing, and would get no answer. */
	if (guest->quiesced)
		return;
	if (frame->type == F_PING)
		guest_send(guest, F_PONG, frame->id, NULL, 0);
	else if (!guest->attached)
		return;
	else if (frame->type == F_CLOCK) {
		set_clock(guest, frame);
		guest_send(guest, F_CLOCKED, frame->id, NULL, 0);
	} else if (frame->type == F_FS)
		guest_files_frame(guest, frame);
	else if (frame->type == F_RESIZE)
		resize(guest, frame);
	else if (frame->type == F_MODULES_DATA)
		guest_relay_frame(guest, frame);
	else if (frame->type == F_GUEST_BEGUN || frame->type == F_GUEST_DONE)
		guest_ask_frame(guest, frame);
	else
		guest_job_frame(guest, frame);
}

/*
 * Read what is there, but not without end; false when the host is gone for good. The port gives at most a page at a
 * time, so a write of the host's is many of those, and the loop around us costs more than a read. But what is
 * answered, and was less than a page, was mostly all: that is sent before anything else is looked for.
 */
static bool receive(struct guest *guest)
{
	struct frame frame;
	ssize_t n;
	void *p;
	int i;

	for (i = 0; i < PORT_READS && guest->out.len < SENT_AT_ONCE; i++) {
		p = frame_parser_room(&guest->in, PORT_PAGE);
		if (!p) { /* as if what there was had been lost: the host will time out */
			frame_parser_release(&guest->in);
			return true;
		}
		n = read(guest->port, p, PORT_PAGE);
		if (!n || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			set_hung_up(guest, true);
			return guest->machine->host_returns;
		}
		if (n < 0)
			return true;
		frame_parser_fed(&guest->in, (size_t)n);
		while (frame_parser_next(&guest->in, &frame))
			handle(guest, &frame);
		if (n < PORT_PAGE && guest->out.len)
			return true;
	}
	return true;
}

/* ---- children and signals */

static void reap(struct guest *guest)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		guest_jobs_reaped(guest, pid, status);
	guest_jobs_reaped(guest, 0, 0);
}

static void read_signals(struct guest *guest)
{
	struct signalfd_siginfo info;

	while (read(guest->signals, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGIO)
			set_hung_up(guest, false);
		else if (info.ssi_signo != SIGCHLD)
			power_off(guest);
	}
}

/* ---- the loop */

/* For poll(2): until then, or until `timeout` if that is sooner. */
static int sooner(int timeout, uint64_t deadline_ns)
{
	const uint64_t now = mono_ns();
	const int left = now >= deadline_ns ? 0 : (int)((deadline_ns - now) / 1000000 + 1);

	return timeout < 0 || left < timeout ? left : timeout;
}

static void wait_for_work(struct guest *guest, nfds_t *ret_n)
{
	struct pollfd *fds = guest->fds;
	const bool may_send = guest_may_send(guest);
	int timeout = -1;
	nfds_t n;

	fds[SLOT_SIGNALS] = (struct pollfd){ .fd = guest->signals, .events = POLLIN };
	fds[SLOT_PORT] = (struct pollfd){ .fd = guest->hung_up ? -1 : guest->port };
	if (guest->out.len)
		fds[SLOT_PORT].events |= POLLOUT;
	if (guest->out.len < GUEST_BACKLOG)
		fds[SLOT_PORT].events |= POLLIN;
	fds[SLOT_RESIZE] = (struct pollfd){ .fd = -1 };
	if (guest->resize.pid && may_send) {
		fds[SLOT_RESIZE] = (struct pollfd){ .fd = guest->resize.fd, .events = POLLIN };
		timeout = sooner(timeout, guest->resize.deadline_ns);
	}
	fds[SLOT_RELAY] = (struct pollfd){ .fd = may_send && !guest->relay.asked ? guest->relay.socket : -1,
					   .events = POLLIN };
	if (guest->relay.asked)
		timeout = sooner(timeout, guest->relay.deadline_ns);
	fds[SLOT_HOOKS] =
		(struct pollfd){ .fd = guest->hooking.pid ? guest->hooking.fd : -1, .events = POLLIN };
	guest_ask_poll(guest, &fds[SLOT_ASK]);
	n = SLOT_JOBS + guest_jobs_poll(guest, fds + SLOT_JOBS);
	if (poll(fds, n, timeout) < 0)
		n = 0;
	*ret_n = n;
}

static void serve(struct guest *guest)
{
	struct pollfd *fds = guest->fds;
	nfds_t n;

	for (;;) {
		/* A quiesced guest's own QUIESCED still has to get out, so this is not may_send's affair. */
		if (!guest->hung_up)
			flush(guest);
		wait_for_work(guest, &n);
		if (!n)
			continue; /* EINTR or ENOMEM */
		/* Jobs first: their slots are those of the list as it was polled. */
		guest_jobs_ready(guest, fds + SLOT_JOBS);
		if (guest_may_send(guest))
			resize_ready(guest, fds[SLOT_RESIZE].revents);
		if (fds[SLOT_RELAY].revents)
			guest_relay_asked(guest, mono_ns());
		hooks_ready(guest, fds[SLOT_HOOKS].revents);
		guest_ask_ready(guest, fds[SLOT_ASK].revents);
		if (fds[SLOT_SIGNALS].revents)
			read_signals(guest);
		if (fds[SLOT_PORT].revents & POLLIN) {
			if (!receive(guest))
				return;
		} else if (fds[SLOT_PORT].revents & (POLLHUP | POLLERR)) {
			set_hung_up(guest, true);
			if (!guest->machine->host_returns)
				return;
		}
		/* Applying an identity waits for children too and may swallow their SIGCHLD; what a job's group does is
		 * told by no signal. */
		if (fds[SLOT_SIGNALS].revents || guest->attaching || !list_empty(&guest->jobs))
			reap(guest);
		guest->attaching = false;
		guest_jobs_flush(guest);
		if (guest->relay.asked)
			guest_relay_flush(guest, mono_ns());
		guest_ask_flush(guest);
	}
}

static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGIO);
	/* How busybox and others ask PID 1 to halt, power off and reboot. A sandbox ends in all three
	 * cases. */
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int guest_serve(int port, const struct guest_machine *machine)
{
	static struct guest guest;
	struct buf ready = { 0 };
	int rc = 0;

	guest = (struct guest){ .machine = machine,
				.port = port,
				.signals = -1,
				.resize.fd = -1,
				.relay.socket = -1,
				.hooking.fd = -1,
				.ask = { .listener = machine->listen ? machine->listen() : -1,
					 .client = -1 } };
	list_init(&guest.jobs);
	/* What is queued stays below this, so that no answer is lost for want of memory later. */
	if (!buf_reserve(&guest.out, 2 * GUEST_BACKLOG) ||
	    !buf_reserve(&guest.in.buf, 4 * PROTO_PAYLOAD_MAX)) {
		rc = -ENOMEM;
		goto out;
	}
	guest.signals = open_signals();
	if (guest.signals < 0) {
		rc = -errno;
		goto out;
	}
	signal(SIGPIPE, SIG_IGN);
	buf_put_u32(&ready, PROTO_VERSION);
	guest_send(&guest, F_READY, 0, buf_bytes(&ready), ready.len);
	serve(&guest);
out:
	buf_release(&ready);
	child_end(&guest.resize);
	child_end(&guest.hooking);
	guest_ask_end(&guest);
	guest_jobs_end(&guest);
	guest_files_close(&guest.files);
	free_env(guest.env);
	frame_parser_release(&guest.in);
	record_clear(&guest.record);
	buf_release(&guest.out);
	if (guest.relay.socket >= 0)
		close(guest.relay.socket);
	if (guest.signals >= 0)
		close(guest.signals);
	return rc;
}
