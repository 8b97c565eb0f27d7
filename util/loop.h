/* SPDX-License-Identifier: MIT */
/*
 * loop.h - the event loop: descriptors, timers, and slow work on threads
 *
 * One loop per process and one thread in it. Everything here but the body of a job's `run` is called from that
 * thread, so the program's state needs no locks (but see loop_set_lock). A callback may add and remove any
 * watch, timer or job, its own too: a removed watch is not called again, even when its event was already
 * fetched.
 */
#ifndef SBX_UTIL_LOOP_H
#define SBX_UTIL_LOOP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/heap.h"
#include "util/list.h"

struct loop;

/* NULL when out of memory or descriptors (errno says which). */
struct loop *loop_new(void);
/* All watches, timers and jobs must be gone. */
void loop_free(struct loop *loop);
/* Run until loop_stop; 0 or a negative errno of epoll_wait. */
int loop_run(struct loop *loop);
/* What was told before loop_run began is forgotten. */
void loop_stop(struct loop *loop);
/* Run one round of events, waiting at most timeout_ms (-1: without limit): for tests and nested clean-up. */
int loop_once(struct loop *loop, int timeout_ms);
/* How many rounds there were: a measure of work that depends on no host. */
uint64_t loop_rounds(const struct loop *loop);

/*
 * For a program with other threads that share its state: the loop holds `lock` except while it waits for
 * events, and whoever else holds it may call everything here but loop_run, loop_once and loop_free. The
 * thread that runs the loop must not hold it when it calls those. NULL: none.
 */
void loop_set_lock(struct loop *loop, pthread_mutex_t *lock);

/* A watched descriptor. events are EPOLLIN, EPOLLOUT...; level triggered. The descriptor stays the
 * caller's. */
typedef void (*watch_fn)(void *arg, uint32_t events);
struct watch;
struct watch *watch_new(struct loop *loop, int fd, uint32_t events, watch_fn fn, void *arg);
void watch_set(struct watch *watch, uint32_t events);
/* NULL is allowed. */
void watch_free(struct watch *watch);

/* A one-shot timer, embedded in the caller's struct; zero-initialised is a valid stopped timer. */
struct timer {
	struct heap_node node; /* loop.c's */
	struct loop *loop;
	uint64_t at_ns; /* CLOCK_MONOTONIC */
	uint64_t turn;  /* of those of one time, the one started first is called first */
	void (*fn)(void *arg);
	void *arg;
};
/* Call fn once after `ns` nanoseconds; a running timer is moved. */
void timer_start(struct loop *loop, struct timer *timer, uint64_t ns, void (*fn)(void *arg), void *arg);
/* Harmless on a stopped timer. */
void timer_stop(struct timer *timer);
bool timer_running(const struct timer *timer);

/*
 * Slow work: run(arg) on one of a small pool of threads, then done(arg, result of run) on the loop. Only run
 * and done may touch arg between the two. There is no cancel: give arg a flag that run polls, and wait for
 * done.
 */
int loop_work(struct loop *loop, int (*run)(void *arg), void (*done)(void *arg, int result), void *arg);
/* The same on a thread of its own, for work that waits for others: it holds up nobody, however long. */
int loop_thread(struct loop *loop, int (*run)(void *arg), void (*done)(void *arg, int result), void *arg);
/* How much of both has not been done with: run it until there is none before what their done callbacks need is freed. */
unsigned loop_working(const struct loop *loop);

/* CLOCK_MONOTONIC and CLOCK_REALTIME in nanoseconds. */
uint64_t now_mono_ns(void);
uint64_t now_real_ns(void);

#endif
