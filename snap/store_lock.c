/* SPDX-License-Identifier: MIT */
/* store_lock.c - one daemon has a store at a time, and the next one waits for one that is ending */
#include "snap/store_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/file.h>
#include <sys/time.h>
#include <unistd.h>

#include "util/io.h"
#include "util/log.h"

static int open_lock(int *ret, int dir_fd, const char *dir, const char *name, struct err *err)
{
	*ret = openat(dir_fd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	return *ret < 0 ? err_sys(err, -errno, "cannot create %s/%s", dir, name) : 0;
}

static volatile sig_atomic_t late;

static void on_alarm(int sig)
{
	(void)sig;
	late = 1;
}

/* flock with an end: 0, -EWOULDBLOCK, or what else was wrong. */
static int lock_for_a_while(int fd, unsigned ms)
{
	/* Again and again, for the one that comes between the look at `late` and the wait. */
	const struct itimerval timer = { { 0, 50000 }, { ms / 1000, (suseconds_t)(ms % 1000) * 1000 } },
			       none = { 0 };
	const struct sigaction action = { .sa_handler = on_alarm };
	struct sigaction before;
	int rc;

	late = 0;
	if (sigaction(SIGALRM, &action, &before) < 0 || setitimer(ITIMER_REAL, &timer, NULL) < 0)
		return -errno;
	do {
		rc = flock(fd, LOCK_EX) < 0 ? -errno : 0;
	} while (rc == -EINTR && !late);
	(void)setitimer(ITIMER_REAL, &none, NULL);
	(void)sigaction(SIGALRM, &before, NULL);
	return rc == -EINTR ? -EWOULDBLOCK : rc;
}

static int take_serving(int fd, const char *dir, struct err *err)
{
	const int rc = lock_for_a_while(fd, STORE_LOCK_PATIENCE_MS);

	if (rc == -EWOULDBLOCK)
		return err_set(err, -EBUSY, "another sbxfs uses the store %s", dir);
	return rc ? err_sys(err, rc, "cannot lock %s", dir) : 0;
}

static int take_store(int fd, const char *dir, struct err *err)
{
	int rc = flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
	sigset_t ends, before;

	if (rc == -EWOULDBLOCK) {
		log_info("waiting for the sbxfs that had the store %s and is ending", dir);
		/* A daemon blocks these until its loop hears them. This one has made nothing yet, so they may end it. */
		sigemptyset(&ends);
		sigaddset(&ends, SIGTERM);
		sigaddset(&ends, SIGINT);
		(void)pthread_sigmask(SIG_UNBLOCK, &ends, &before);
		do {
			rc = flock(fd, LOCK_EX) < 0 ? -errno : 0;
		} while (rc == -EINTR);
		(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	return rc ? err_sys(err, rc, "cannot lock %s", dir) : 0;
}

int store_lock_take(struct store_lock *lock, int dir_fd, const char *dir, struct err *err)
{
	int rc;

	rc = open_lock(&lock->serving_fd, dir_fd, dir, "serving", err);
	if (!rc)
		rc = open_lock(&lock->fd, dir_fd, dir, "lock", err);
	if (!rc)
		rc = take_serving(lock->serving_fd, dir, err);
	if (!rc)
		rc = take_store(lock->fd, dir, err);
	if (rc)
		store_lock_release(lock);
	return rc;
}

void store_lock_yield(struct store_lock *lock)
{
	/* Explicitly: a process that was forked meanwhile may have the descriptor. */
	if (lock->serving_fd >= 0)
		(void)flock(lock->serving_fd, LOCK_UN);
	close_fd(&lock->serving_fd);
}

void store_lock_release(struct store_lock *lock)
{
	store_lock_yield(lock);
	close_fd(&lock->fd);
}
