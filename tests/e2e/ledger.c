/* SPDX-License-Identifier: MIT */
/*
 * ledger.c - ledger PORT FILE: a server that has something to lose
 *
 * It counts in memory, ten times a second, and has one connection to an SQLite database, on which each client's line
 * of SQL is executed: a transaction that one client begins is still open for the next. "ticks" and "pid" are answered
 * by itself. libsqlite3's header may not be there where this is built.
 */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct sqlite3;
int sqlite3_open(const char *name, struct sqlite3 **ret);
int sqlite3_exec(struct sqlite3 *db, const char *sql, int (*row)(void *, int, char **, char **), void *arg,
		 char **why);

static atomic_ulong ticks;

static void *count(void *arg)
{
	const struct timespec tenth = { .tv_nsec = 100 * 1000 * 1000 };

	for (;;) {
		nanosleep(&tenth, NULL);
		ticks++;
	}
	return arg;
}

static int on_row(void *arg, int n, char **text, char **names)
{
	int i;

	(void)names;
	for (i = 0; i < n; i++)
		dprintf(*(int *)arg, "%s%c", text[i] ? text[i] : "", i + 1 < n ? ' ' : '\n');
	return 0;
}

static void answer(struct sqlite3 *db, int fd)
{
	char line[512] = "", *why = NULL;
	size_t at = 0;
	ssize_t n;

	while (at < sizeof(line) - 1 && !strchr(line, '\n') &&
	       (n = read(fd, line + at, sizeof(line) - 1 - at)) > 0)
		at += (size_t)n;
	if (!strcmp(line, "ticks\n"))
		dprintf(fd, "%lu\n", ticks);
	else if (!strcmp(line, "pid\n"))
		dprintf(fd, "%d\n", (int)getpid());
	else if (*line)
		dprintf(fd, "%s\n", sqlite3_exec(db, line, on_row, &fd, &why) ? why : "ok");
}

int main(int argc, char **argv)
{
	const struct sockaddr_in at = { .sin_family = AF_INET,
					.sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 0)) };
	const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	struct sqlite3 *db;
	pthread_t thread;
	int fd;

	signal(SIGPIPE, SIG_IGN); /* a client may go, or be cut off, when it is answered */
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (argc != 3 || sqlite3_open(argv[2], &db) || pthread_create(&thread, NULL, count, NULL) ||
	    bind(listener, (const struct sockaddr *)&at, sizeof(at)) < 0 || listen(listener, 16) < 0)
		return 1;
	for (;;) {
		fd = accept(listener, NULL, NULL);
		if (fd < 0 && errno != ECONNABORTED)
			return 1;
		if (fd < 0)
			continue;
		answer(db, fd);
		close(fd);
	}
}
