/* SPDX-License-Identifier: MIT */
/* terminal.c - the serial console of a machine on the terminal of the one who started it */
#include "vm/vmm/terminal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

enum { CHUNK = 256, ESCAPE = 'A' - '@' };

struct terminal {
	struct watch *in, *out; /* in: standard input; NULL at its end */
	int fd;                 /* our end */
	void (*quit)(void *arg);
	void *arg;
	bool raw, escaped;
	struct termios saved;
};

/* Standard output may block: whoever looks at it sets the pace. */
static void print(const char *p, ssize_t n)
{
	ssize_t done;

	for (; n > 0; p += done, n -= done) {
		done = write(STDOUT_FILENO, p, (size_t)n);
		if (done < 0 && errno == EINTR)
			done = 0;
		else if (done < 0)
			return;
	}
}

static void on_output(void *arg, uint32_t events)
{
	struct terminal *t = arg;
	char chunk[CHUNK];
	ssize_t n;

	(void)events;
	while ((n = recv(t->fd, chunk, sizeof(chunk), MSG_DONTWAIT)) > 0)
		print(chunk, n);
	if (!n) {
		watch_free(t->out);
		t->out = NULL;
	}
}

static void type(struct terminal *t, char c)
{
	if (t->raw && !t->escaped && c == ESCAPE) {
		t->escaped = true;
		return;
	}
	if (t->escaped && c == 'x')
		t->quit(t->arg);
	t->escaped = false;
	/* A machine that does not listen loses what is typed, as on any serial line. */
	(void)send(t->fd, &c, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void on_input(void *arg, uint32_t events)
{
	struct terminal *t = arg;
	char chunk[CHUNK];
	ssize_t i, n = read(STDIN_FILENO, chunk, sizeof(chunk));

	(void)events;
	for (i = 0; i < n; i++)
		type(t, chunk[i]);
	if (!n || (n < 0 && errno != EINTR && errno != EAGAIN)) {
		watch_free(t->in);
		t->in = NULL;
	}
}

static void set_raw(struct terminal *t)
{
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &t->saved) < 0)
		return; /* no terminal */
	raw = t->saved;
	cfmakeraw(&raw);
	raw.c_oflag = t->saved.c_oflag; /* a line feed of ours still begins a line */
	t->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

int terminal_open(struct loop *loop, void (*quit)(void *arg), void *arg, struct terminal **ret, int *ret_fd,
		  struct err *err)
{
	struct terminal *t = calloc(1, sizeof(*t));
	int fds[2];
	int rc;

	if (!t)
		return err_set(err, -ENOMEM, "out of memory");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) {
		rc = err_sys(err, -errno, "cannot make a socket for the console");
		free(t);
		return rc;
	}
	t->fd = fds[0];
	t->quit = quit;
	t->arg = arg;
	t->out = watch_new(loop, t->fd, EPOLLIN, on_output, t);
	if (!t->out) {
		rc = err_sys(err, -errno, "cannot watch the console");
		close(fds[1]);
		terminal_close(t);
		return rc;
	}
	/* NULL for what cannot be waited for, such as a file: the machine then hears nothing. */
	t->in = watch_new(loop, STDIN_FILENO, EPOLLIN, on_input, t);
	set_raw(t);
	*ret = t;
	*ret_fd = fds[1];
	return 0;
}

void terminal_close(struct terminal *t)
{
	if (!t)
		return;
	if (t->out)
		on_output(t, 0);
	watch_free(t->in);
	watch_free(t->out);
	if (t->raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &t->saved);
	close(t->fd);
	free(t);
}
