/* SPDX-License-Identifier: MIT */
/*
 * loop.c - the event loop: descriptors, timers, and slow work on threads
 *
 * Watches freed during a round of events are only marked and freed at its end: epoll_wait may already have
 * handed us an event that points at them. Timers are a heap (heap.h): a start takes constant time, and a stop
 * logarithmic time on average.
 */
#include "util/loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "util/thread.h"

enum { ROUND = 64, WORKERS_MAX = 8 };

struct watch {
	struct loop *loop;
	int fd;
	watch_fn fn; /* NULL: freed, awaiting the end of the round */
	void *arg;
	struct list dead;
};

struct work {
	struct list link;
	int (*run)(void *arg);
	void (*done)(void *arg, int result);
	void *arg;
	int result;
	struct loop *loop; /* of one with a thread of its own */
	pthread_t thread;
	bool own_thread;
};

struct loop {
	int epfd;
	bool stop;
	bool waiting; /* in epoll_wait, without program_lock */
	pthread_mutex_t *program_lock;
	struct heap timers; /* the first of them on top */
	uint64_t turns;     /* of timers */
	uint64_t rounds;
	struct list dead; /* watches freed in this round */
	unsigned works;   /* whose done has not been called */

	int eventfd;
	struct watch *event_watch;
	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t more;
	struct list queue;    /* work not yet taken by a thread */
	struct list finished; /* work whose done is owed */
	pthread_t threads[WORKERS_MAX];
	unsigned nthreads, idle, queued;
	bool quit;
};

uint64_t now_mono_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t now_real_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void kick(struct loop *loop)
{
	const uint64_t one = 1;

	/* Cannot fail but for an overflow of the counter, which wakes the loop as well. */
	(void)!write(loop->eventfd, &one, sizeof(one));
}

/* loop->lock is held. */
static void ended(struct loop *loop, struct work *work)
{
	list_add(&loop->finished, &work->link);
	kick(loop);
}

static void *thread(void *arg)
{
	struct work *work = arg;
	struct loop *loop = work->loop;

	work->result = work->run(work->arg);
	pthread_mutex_lock(&loop->lock);
	ended(loop, work);
	pthread_mutex_unlock(&loop->lock);
	return NULL;
}

static void *worker(void *arg)
{
	struct loop *loop = arg;
	struct work *work;

	pthread_mutex_lock(&loop->lock);
	for (;;) {
		loop->idle++;
		while (list_empty(&loop->queue) && !loop->quit)
			pthread_cond_wait(&loop->more, &loop->lock);
		loop->idle--;
		work = list_first(&loop->queue, struct work, link);
		if (!work)
			break;
		list_del(&work->link);
		loop->queued--;
		pthread_mutex_unlock(&loop->lock);
		work->result = work->run(work->arg);
		pthread_mutex_lock(&loop->lock);
		ended(loop, work);
	}
	pthread_mutex_unlock(&loop->lock);
	return NULL;
}

static void finish_work(void *arg, uint32_t events)
{
	struct loop *loop = arg;
	struct list batch = LIST_INIT(batch);
	struct work *work;
	uint64_t n;

	(void)events;
	(void)!read(loop->eventfd, &n, sizeof(n));
	/* Take what is there now; work queued by a done callback waits for the next round. */
	pthread_mutex_lock(&loop->lock);
	while ((work = list_first(&loop->finished, struct work, link))) {
		list_del(&work->link);
		list_add(&batch, &work->link);
	}
	pthread_mutex_unlock(&loop->lock);
	while ((work = list_first(&batch, struct work, link))) {
		list_del(&work->link);
		if (work->own_thread)
			pthread_join(work->thread, NULL);
		work->done(work->arg, work->result);
		loop->works--;
		free(work);
	}
}

static bool is_before(const struct heap_node *x, const struct heap_node *y)
{
	const struct timer *a = container_of(x, const struct timer, node);
	const struct timer *b = container_of(y, const struct timer, node);

	return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->turn < b->turn;
}

static struct timer *first_timer(const struct loop *loop)
{
	return loop->timers.top ? container_of(loop->timers.top, struct timer, node) : NULL;
}

struct loop *loop_new(void)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int error;

	if (!loop)
		return NULL;
	loop->timers.before = is_before;
	list_init(&loop->dead);
	list_init(&loop->queue);
	list_init(&loop->finished);
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->more, NULL);
	loop->eventfd = -1;
	loop->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epfd >= 0)
		loop->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->eventfd >= 0)
		loop->event_watch = watch_new(loop, loop->eventfd, EPOLLIN, finish_work, loop);
	if (!loop->event_watch) {
		error = errno;
		loop_free(loop);
		errno = error; /* the caller's to read; freeing reads an empty eventfd */
		return NULL;
	}
	return loop;
}

static void reap_dead(struct loop *loop)
{
	struct watch *w;

	while ((w = list_first(&loop->dead, struct watch, dead))) {
		list_del(&w->dead);
		free(w);
	}
}

void loop_free(struct loop *loop)
{
	unsigned i;

	if (!loop)
		return;
	pthread_mutex_lock(&loop->lock);
	loop->quit = true;
	pthread_cond_broadcast(&loop->more);
	pthread_mutex_unlock(&loop->lock);
	for (i = 0; i < loop->nthreads; i++)
		pthread_join(loop->threads[i], NULL);
	if (loop->eventfd >= 0)
		finish_work(loop, 0);
	watch_free(loop->event_watch);
	reap_dead(loop);
	if (loop->eventfd >= 0)
		close(loop->eventfd);
	if (loop->epfd >= 0)
		close(loop->epfd);
	pthread_mutex_destroy(&loop->lock);
	pthread_cond_destroy(&loop->more);
	free(loop);
}

void loop_stop(struct loop *loop)
{
	loop->stop = true;
	if (loop->waiting)
		kick(loop);
}

/* Milliseconds until the first timer, rounded up so that it is due when epoll_wait returns; capped by
 * `limit`. */
static int wait_ms(struct loop *loop, int limit)
{
	const struct timer *t = first_timer(loop);
	uint64_t now, ms;

	if (!t)
		return limit;
	now = now_mono_ns();
	ms = t->at_ns <= now ? 0 : (t->at_ns - now + 999999) / 1000000;
	if (limit >= 0 && ms > (uint64_t)limit)
		return limit;
	return ms > 3600000 ? 3600000 : (int)ms;
}

static void run_timers(struct loop *loop)
{
	const uint64_t now = now_mono_ns();
	struct timer *t;

	while ((t = first_timer(loop)) && t->at_ns <= now) {
		timer_stop(t);
		t->fn(t->arg);
	}
}

static void lock_program(struct loop *loop)
{
	if (loop->program_lock)
		pthread_mutex_lock(loop->program_lock);
}

static void unlock_program(struct loop *loop)
{
	if (loop->program_lock)
		pthread_mutex_unlock(loop->program_lock);
}

void loop_set_lock(struct loop *loop, pthread_mutex_t *lock)
{
	loop->program_lock = lock;
}

/* One round; instead of one, 1 if `stops` and the loop is to stop, which another thread may have said until now. */
static int run_round(struct loop *loop, int timeout_ms, bool stops)
{
	struct epoll_event events[ROUND];
	int i, n, error;

	lock_program(loop);
	if (stops && loop->stop) {
		unlock_program(loop);
		return 1;
	}
	timeout_ms = wait_ms(loop, timeout_ms);
	loop->waiting = true;
	unlock_program(loop);
	n = epoll_wait(loop->epfd, events, ROUND, timeout_ms);
	error = errno;
	lock_program(loop);
	loop->waiting = false;
	loop->rounds++;
	if (n < 0 && error != EINTR) {
		unlock_program(loop);
		return -error;
	}
	for (i = 0; i < n; i++) {
		struct watch *w = events[i].data.ptr;

		if (w->fn)
			w->fn(w->arg, events[i].events);
	}
	run_timers(loop);
	reap_dead(loop);
	unlock_program(loop);
	return 0;
}

int loop_once(struct loop *loop, int timeout_ms)
{
	return run_round(loop, timeout_ms, false);
}

uint64_t loop_rounds(const struct loop *loop)
{
	return loop->rounds;
}

int loop_run(struct loop *loop)
{
	int rc;

	lock_program(loop);
	loop->stop = false;
	unlock_program(loop);
	do
		rc = run_round(loop, -1, true);
	while (!rc);
	return rc < 0 ? rc : 0;
}

struct watch *watch_new(struct loop *loop, int fd, uint32_t events, watch_fn fn, void *arg)
{
	struct watch *w = calloc(1, sizeof(*w));
	struct epoll_event ev = { .events = events, .data.ptr = w };

	if (!w)
		return NULL;
	w->loop = loop;
	w->fd = fd;
	w->fn = fn;
	w->arg = arg;
	list_init(&w->dead);
	if (epoll_ctl(loop->epfd, EPOLL_CTL_ADD, fd, &ev) < 0) {
		free(w);
		return NULL;
	}
	return w;
}

void watch_set(struct watch *w, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };

	(void)epoll_ctl(w->loop->epfd, EPOLL_CTL_MOD, w->fd, &ev);
}

void watch_free(struct watch *w)
{
	if (!w)
		return;
	(void)epoll_ctl(w->loop->epfd, EPOLL_CTL_DEL, w->fd, NULL);
	w->fn = NULL;
	list_add(&w->loop->dead, &w->dead);
}

void timer_start(struct loop *loop, struct timer *timer, uint64_t ns, void (*fn)(void *arg), void *arg)
{
	timer_stop(timer);
	timer->loop = loop;
	timer->at_ns = now_mono_ns() + ns;
	timer->fn = fn;
	timer->arg = arg;
	timer->turn = loop->turns++;
	heap_add(&loop->timers, &timer->node);
	/* The loop waits for the timer that was first before: another thread holds the lock. */
	if (loop->waiting)
		kick(loop);
}

void timer_stop(struct timer *timer)
{
	if (!timer->loop)
		return;
	heap_remove(&timer->loop->timers, &timer->node);
	timer->loop = NULL;
}

bool timer_running(const struct timer *timer)
{
	return timer->loop;
}

/* Signals belong to the loop's thread, but for the one with which a filter says what it refuses (denied.h). */
static int start_thread(pthread_t *ret, void *(*run)(void *arg), void *arg)
{
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	sigdelset(&all, SIGSYS);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = thread_start(ret, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return rc;
}

/* error is positive, or 0. */
static int given(struct loop *loop, struct work *work, int error)
{
	if (error)
		free(work);
	else
		loop->works++;
	return -error;
}

int loop_work(struct loop *loop, int (*run)(void *arg), void (*done)(void *arg, int result), void *arg)
{
	struct work *work = malloc(sizeof(*work));
	int rc = 0;

	if (!work)
		return -ENOMEM;
	*work = (struct work){ .run = run, .done = done, .arg = arg };
	pthread_mutex_lock(&loop->lock);
	if (loop->queued >= loop->idle && loop->nthreads < WORKERS_MAX) {
		rc = start_thread(&loop->threads[loop->nthreads], worker, loop);
		if (!rc)
			loop->nthreads++;
		else if (loop->nthreads)
			rc = 0; /* the others will get to it */
	}
	if (!rc) {
		list_add(&loop->queue, &work->link);
		loop->queued++;
		pthread_cond_signal(&loop->more);
	}
	pthread_mutex_unlock(&loop->lock);
	return given(loop, work, rc);
}

int loop_thread(struct loop *loop, int (*run)(void *arg), void (*done)(void *arg, int result), void *arg)
{
	struct work *work = malloc(sizeof(*work));
	int rc;

	if (!work)
		return -ENOMEM;
	*work = (struct work){ .run = run, .done = done, .arg = arg, .loop = loop, .own_thread = true };
	/* It ends in finish_work, on this thread, and so not before work->thread is set. */
	rc = start_thread(&work->thread, thread, work);
	return given(loop, work, rc);
}

unsigned loop_working(const struct loop *loop)
{
	return loop->works;
}
