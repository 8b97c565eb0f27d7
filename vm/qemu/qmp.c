/* SPDX-License-Identifier: MIT */
/*
 * qmp.c - a client of QEMU's machine protocol
 *
 * QEMU greets, we negotiate, and from then on each command has one reply; QEMU answers in order, and the id
 * we give each command proves it. Events may come between. QEMU ends every object with a newline and has none
 * inside, so a line is a message. (docs/interop/qmp-spec.txt in QEMU's source.)
 *
 * Commands go out one sendmsg each, since a descriptor belongs to the first byte of its command: QEMU takes
 * the descriptor received last. The socket's buffer holds far more than we ever have outstanding, so a send
 * that would block counts as a dead QEMU.
 *
 * QEMU's monitor reads a byte at a time, with some ten system calls for each. So commands have no newline, and
 * begin with what can be sent ahead while nobody waits (qmp_ahead): a machine starts at the seven bytes that follow.
 */
#include "vm/qemu/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/buf.h"

enum { LINE_BYTES_MAX = 1 << 20, READ_BYTES = 16 << 10, BEGINNING_MAX = 40 };

struct qmp_command {
	struct list link;
	unsigned id;
	char *text; /* not yet sent, because QEMU has not greeted; NULL afterwards */
	int pass_fd;
	qmp_reply_fn reply;
	void *arg;
};

struct qmp {
	int fd;
	struct watch *watch;
	const struct qmp_events *events;
	void *owner;
	bool busy; /* a callback may run: qmp_free leaves the struct to who called it */
	bool freed;
	bool greeted; /* capabilities are being negotiated */
	bool ready;
	bool ahead; /* the beginning of the next command has been sent */
	char version[32];
	unsigned next_id;
	struct list commands; /* awaiting their replies, oldest first */
	struct buf in;
	size_t scanned; /* bytes of `in` known to hold no newline */
};

const char *qmp_string(const cJSON *obj, const char *name)
{
	const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(obj, name));

	return value ? value : "";
}

static int number(const cJSON *obj, const char *name)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(obj, name);

	return cJSON_IsNumber(value) ? value->valueint : -1;
}

static void command_free(struct qmp_command *command)
{
	list_del(&command->link);
	if (command->pass_fd >= 0)
		close(command->pass_fd);
	cJSON_free(command->text);
	free(command);
}

static void lose(struct qmp *qmp, int code, const char *why)
{
	struct err err;

	watch_free(qmp->watch);
	qmp->watch = NULL;
	err_set(&err, code, "QEMU's control connection: %s", why);
	qmp->events->lost(qmp->owner, &err);
}

/* What the text of the command with this id begins with. */
static int beginning(unsigned id, char ret[BEGINNING_MAX])
{
	return snprintf(ret, BEGINNING_MAX, "{\"id\":%u,\"execute\":", id);
}

static int transmit(struct qmp *qmp, struct qmp_command *command)
{
	char sent[BEGINNING_MAX];
	const int skip = qmp->ahead ? beginning(command->id, sent) : 0;
	union {
		struct cmsghdr header; /* for its alignment */
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec iov = { .iov_base = command->text + skip, .iov_len = strlen(command->text + skip) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *cmsg;
	ssize_t n;

	if (command->pass_fd >= 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &command->pass_fd, sizeof(int));
	}
	do
		n = sendmsg(qmp->fd, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if ((size_t)n < iov.iov_len)
		return -EAGAIN;
	qmp->ahead = false;
	cJSON_free(command->text);
	command->text = NULL;
	if (command->pass_fd >= 0)
		close(command->pass_fd);
	command->pass_fd = -1;
	return 0;
}

void qmp_ahead(struct qmp *qmp)
{
	char text[BEGINNING_MAX];
	int n;

	if (!qmp->ready || qmp->ahead)
		return;
	n = beginning(qmp->next_id + 1, text);
	/* A part would leave half a command; what is broken shows with the command itself. */
	qmp->ahead = send(qmp->fd, text, (size_t)n, MSG_NOSIGNAL) == n;
}

int qmp_send(struct qmp *qmp, const char *name, cJSON *arguments, int pass_fd, qmp_reply_fn reply, void *arg)
{
	struct qmp_command *command = calloc(1, sizeof(*command));
	cJSON *message = cJSON_CreateObject();
	int rc = -ENOMEM;

	if (!command)
		goto fail;
	list_init(&command->link);
	command->pass_fd = -1;
	if (!message)
		goto fail;
	command->id = ++qmp->next_id;
	command->reply = reply;
	command->arg = arg;
	if (!cJSON_AddNumberToObject(message, "id", command->id) ||
	    !cJSON_AddStringToObject(message, "execute", name))
		goto fail;
	if (arguments && !cJSON_AddItemToObject(message, "arguments", arguments))
		goto fail;
	arguments = NULL; /* the message owns it now */
	command->text = cJSON_PrintUnformatted(message);
	if (!command->text)
		goto fail;
	if (pass_fd >= 0) {
		command->pass_fd = fcntl(pass_fd, F_DUPFD_CLOEXEC, 0);
		if (command->pass_fd < 0) {
			rc = -errno;
			goto fail;
		}
	}
	rc = 0;
	if (qmp->ready)
		rc = transmit(qmp, command);
	if (rc)
		goto fail;
	list_add(&qmp->commands, &command->link);
	goto out;

fail:
	if (command)
		command_free(command);
out:
	cJSON_Delete(message);
	cJSON_Delete(arguments);
	return rc;
}

/* Until this is answered QEMU takes no other command. */
static int negotiate(struct qmp *qmp, const cJSON *greeting)
{
	static const char negotiation[] = "{\"execute\":\"qmp_capabilities\"}\n";
	const cJSON *version = cJSON_GetObjectItemCaseSensitive(
		cJSON_GetObjectItemCaseSensitive(greeting, "version"), "qemu");

	if (!cJSON_IsObject(version))
		return -EPROTO;
	snprintf(qmp->version, sizeof(qmp->version), "%d.%d.%d", number(version, "major"),
		 number(version, "minor"), number(version, "micro"));
	if (send(qmp->fd, negotiation, strlen(negotiation), MSG_NOSIGNAL) != (ssize_t)strlen(negotiation))
		return -EIO;
	qmp->greeted = true;
	return 0;
}

/* What was asked for before now goes out. */
static int negotiated(struct qmp *qmp, const cJSON *message)
{
	struct qmp_command *command;
	int rc;

	if (!cJSON_GetObjectItemCaseSensitive(message, "return"))
		return -EPROTO;
	qmp->ready = true;
	list_for_each (command, &qmp->commands, link) {
		rc = transmit(qmp, command);
		if (rc)
			return rc;
	}
	qmp->events->ready(qmp->owner, qmp->version);
	return 0;
}

static int handle_reply(struct qmp *qmp, const cJSON *message)
{
	struct qmp_command *command = list_first(&qmp->commands, struct qmp_command, link);
	const cJSON *id = cJSON_GetObjectItemCaseSensitive(message, "id");
	const cJSON *error = cJSON_GetObjectItemCaseSensitive(message, "error");
	const cJSON *ret = cJSON_GetObjectItemCaseSensitive(message, "return");
	qmp_reply_fn reply;
	struct err err = { 0 };
	void *arg;

	if (!command || !cJSON_IsNumber(id) || cJSON_GetNumberValue(id) != command->id || (!error && !ret))
		return -EPROTO;
	reply = command->reply;
	arg = command->arg;
	command_free(command);
	if (error)
		err_set(&err, -EIO, "QEMU: %s", qmp_string(error, "desc"));
	reply(arg, &err, error ? NULL : ret);
	return 0;
}

static int handle_line(struct qmp *qmp, const char *line, size_t n)
{
	const cJSON *greeting;
	const char *event;
	cJSON *message;
	int rc = -EPROTO;

	errno = 0;
	message = cJSON_ParseWithLength(line, n);
	/* The parser does not say why it gives up; malloc does. */
	if (!message && errno == ENOMEM)
		rc = -ENOMEM;
	if (!cJSON_IsObject(message))
		goto out;
	greeting = cJSON_GetObjectItemCaseSensitive(message, "QMP");
	event = qmp_string(message, "event");
	if (!qmp->greeted) {
		if (greeting)
			rc = negotiate(qmp, greeting);
	} else if (*event) {
		rc = 0;
		qmp->events->event(qmp->owner, event, cJSON_GetObjectItemCaseSensitive(message, "data"));
	} else if (!qmp->ready) {
		rc = negotiated(qmp, message);
	} else {
		rc = handle_reply(qmp, message);
	}
out:
	cJSON_Delete(message);
	return rc;
}

/* Handle the whole lines that are there, until a callback frees qmp. */
static int handle_input(struct qmp *qmp)
{
	const char *line, *end;
	size_t n;
	int rc;

	for (;;) {
		line = (const char *)buf_bytes(&qmp->in);
		end = memchr(line + qmp->scanned, '\n', qmp->in.len - qmp->scanned);
		if (!end)
			break;
		n = (size_t)(end - line) + 1;
		rc = handle_line(qmp, line, n);
		if (rc || qmp->freed)
			return rc;
		buf_consume(&qmp->in, n);
		qmp->scanned = 0;
	}
	qmp->scanned = qmp->in.len;
	return qmp->in.len > LINE_BYTES_MAX ? -EMSGSIZE : 0;
}

bool qmp_poll(struct qmp *qmp)
{
	void *room = buf_reserve(&qmp->in, READ_BYTES);
	ssize_t n;
	int rc;

	if (!room) {
		lose(qmp, -ENOMEM, "out of memory");
		return false;
	}
	n = recv(qmp->fd, room, READ_BYTES, 0);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return errno == EINTR;
	if (n <= 0) {
		lose(qmp, -ECONNRESET, "closed");
		return false;
	}
	buf_grow(&qmp->in, (size_t)n);
	qmp->busy = true;
	rc = handle_input(qmp);
	qmp->busy = false;
	if (qmp->freed) {
		free(qmp);
		return false;
	}
	if (rc)
		lose(qmp, rc, rc == -EPROTO ? "QEMU said something that is not QMP" : strerror(-rc));
	return !rc;
}

static void on_readable(void *arg, uint32_t events)
{
	(void)events;
	qmp_poll(arg);
}

struct qmp *qmp_new(struct loop *loop, int fd, const struct qmp_events *events, void *owner)
{
	struct qmp *qmp = calloc(1, sizeof(*qmp));

	if (!qmp)
		return NULL;
	qmp->fd = fd;
	qmp->events = events;
	qmp->owner = owner;
	list_init(&qmp->commands);
	qmp->watch = watch_new(loop, fd, EPOLLIN, on_readable, qmp);
	if (!qmp->watch) {
		free(qmp);
		return NULL;
	}
	return qmp;
}

void qmp_free(struct qmp *qmp)
{
	struct qmp_command *command;

	if (!qmp)
		return;
	while ((command = list_first(&qmp->commands, struct qmp_command, link)))
		command_free(command);
	watch_free(qmp->watch);
	close(qmp->fd);
	buf_release(&qmp->in);
	qmp->freed = true;
	if (!qmp->busy)
		free(qmp);
}
