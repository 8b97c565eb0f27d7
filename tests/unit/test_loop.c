/* SPDX-License-Identifier: MIT */
#include "util/loop.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "tests/unit/unit.h"

enum { MS = 1000000 };

static struct loop *new_loop(void)
{
	struct loop *loop = loop_new();

	CHECK(loop);
	return loop;
}

/* ---- watches */

struct two {
	struct loop *loop;
	struct watch *watch[2];
	int calls;
};

/* Whichever is called first frees both: the other's event, perhaps fetched in the same round, must not
 * come. */
static void free_both(void *arg, uint32_t events)
{
	struct two *two = arg;

	CHECK(events & EPOLLIN);
	two->calls++;
	watch_free(two->watch[0]);
	watch_free(two->watch[1]);
	loop_stop(two->loop);
}

static void a_freed_watch_is_not_called(void)
{
	struct two two = { .loop = new_loop() };
	int a[2], b[2];

	CHECK(!pipe(a) && !pipe(b));
	CHECK(write(a[1], "x", 1) == 1 && write(b[1], "x", 1) == 1);
	two.watch[0] = watch_new(two.loop, a[0], EPOLLIN, free_both, &two);
	two.watch[1] = watch_new(two.loop, b[0], EPOLLIN, free_both, &two);
	CHECK(two.watch[0] && two.watch[1]);
	CHECK(loop_run(two.loop) == 0);
	CHECK(two.calls == 1);
	CHECK(loop_once(two.loop, 0) == 0);
	CHECK(two.calls == 1);
	loop_free(two.loop);
	close(a[0]);
	close(a[1]);
	close(b[0]);
	close(b[1]);
}

static void count_event(void *arg, uint32_t events)
{
	(void)events;
	++*(int *)arg;
}

static void watched_events_can_change(void)
{
	struct loop *loop = new_loop();
	struct watch *watch;
	int fds[2], calls = 0;

	CHECK(!pipe(fds) && write(fds[1], "x", 1) == 1);
	watch = watch_new(loop, fds[0], 0, count_event, &calls);
	CHECK(watch);
	CHECK(loop_once(loop, 0) == 0 && calls == 0);
	watch_set(watch, EPOLLIN);
	CHECK(loop_once(loop, 0) == 0 && calls == 1);
	CHECK(loop_once(loop, 0) == 0 && calls == 2); /* level triggered */
	watch_set(watch, 0);
	CHECK(loop_once(loop, 0) == 0 && calls == 2);
	watch_free(watch);
	loop_free(loop);
	close(fds[0]);
	close(fds[1]);
}

/* ---- timers */

struct tick {
	struct timer timer;
	bool fired;
	struct tick *stops; /* another to stop, or NULL */
};

static void tick(void *arg)
{
	struct tick *t = arg;

	t->fired = true;
	CHECK(!timer_running(&t->timer));
	if (t->stops)
		timer_stop(&t->stops->timer);
}

static void timers_fire_in_the_order_of_their_time(void)
{
	struct loop *loop = new_loop();
	struct tick stopped = { 0 }, moved = { 0 }, late = { 0 }, early = { .stops = &stopped };
	const uint64_t start = now_mono_ns();

	timer_start(loop, &late.timer, 20 * MS, tick, &late);
	timer_start(loop, &early.timer, 5 * MS, tick, &early);
	timer_start(loop, &stopped.timer, 10 * MS, tick, &stopped);
	timer_start(loop, &moved.timer, 1 * MS, tick, &moved);
	timer_start(loop, &moved.timer, 3600000ull * MS, tick, &moved);
	while (timer_running(&early.timer))
		CHECK(loop_once(loop, -1) == 0);
	CHECK(now_mono_ns() - start >= 5 * MS);
	CHECK(early.fired && !late.fired);
	while (timer_running(&late.timer))
		CHECK(loop_once(loop, -1) == 0);
	CHECK(now_mono_ns() - start >= 20 * MS);
	CHECK(late.fired && !stopped.fired && !moved.fired);
	CHECK(timer_running(&moved.timer) && !timer_running(&stopped.timer));
	timer_stop(&moved.timer);
	timer_stop(&moved.timer); /* harmless */
	loop_free(loop);
}

struct turn {
	struct timer timer;
	uint64_t at_ns;
	struct order *order;
};

struct order {
	uint64_t last_ns;
	unsigned fired;
};

static void take_turn(void *arg)
{
	struct turn *turn = arg;

	CHECK(turn->at_ns >= turn->order->last_ns);
	turn->order->last_ns = turn->at_ns;
	turn->order->fired++;
}

/* Each costs little, however many there are, and those that are left fire in order. */
static void a_great_many_timers(void)
{
	enum { N = 200000, KEPT = 5 };
	struct loop *loop = new_loop();
	struct turn *turns = calloc(N, sizeof(*turns));
	struct order order = { 0 };
	const uint64_t began_ns = now_mono_ns();
	uint32_t random = 1;
	unsigned i;

	CHECK(turns);
	for (i = 0; i < N; i++) {
		random = random * 1664525 + 1013904223;
		timer_start(loop, &turns[i].timer, 3600000ull * MS + (i % 2 ? i : random), take_turn,
			    &turns[i]);
	}
	for (i = 0; i < N; i++) {
		random = random * 1664525 + 1013904223;
		if (i % KEPT)
			timer_stop(&turns[i].timer);
		else
			timer_start(loop, &turns[i].timer, random >> 12, take_turn, &turns[i]);
		turns[i].at_ns = turns[i].timer.at_ns;
		turns[i].order = &order;
	}
	while (order.fired < N / KEPT)
		CHECK(loop_once(loop, -1) == 0);
	for (i = 0; i < N; i++)
		CHECK(!timer_running(&turns[i].timer));
	CHECK(now_mono_ns() - began_ns < 10000ull * MS);
	free(turns);
	loop_free(loop);
}

/* ---- work */

struct job {
	struct loop *loop;
	pthread_t loop_thread;
	int seen, *left;
};

static int run_job(void *arg)
{
	struct job *job = arg;

	CHECK(!pthread_equal(pthread_self(), job->loop_thread));
	job->seen = 1;
	return -7;
}

static void job_done(void *arg, int result)
{
	struct job *job = arg;

	CHECK(pthread_equal(pthread_self(), job->loop_thread));
	CHECK(job->seen == 1 && result == -7);
	job->seen = 2;
	if (--*job->left == 0)
		loop_stop(job->loop);
}

static void work_runs_elsewhere_and_ends_here(void)
{
	enum { N = 200 };
	struct loop *loop = new_loop();
	struct job jobs[N];
	int i, left = N;

	for (i = 0; i < N; i++) {
		jobs[i] = (struct job){ .loop = loop, .loop_thread = pthread_self(), .left = &left };
		CHECK(loop_work(loop, run_job, job_done, &jobs[i]) == 0);
	}
	CHECK(loop_run(loop) == 0);
	for (i = 0; i < N; i++)
		CHECK(jobs[i].seen == 2);
	loop_free(loop);
}

struct waiting {
	struct job job;
	int fd;
};

static int wait_for_others(void *arg)
{
	struct waiting *waiting = arg;
	char byte;

	CHECK(read(waiting->fd, &byte, 1) == 1);
	return run_job(&waiting->job);
}

/* More than there are workers, all of them waiting for what comes after them. */
static void work_that_waits_has_a_thread_of_its_own(void)
{
	enum { N = 20 };
	struct loop *loop = new_loop();
	struct waiting waiting[N];
	int i, left = N + 1, fds[2];
	struct job last = { .loop = loop, .loop_thread = pthread_self(), .left = &left };

	CHECK(pipe(fds) == 0);
	for (i = 0; i < N; i++) {
		waiting[i] = (struct waiting){ last, fds[0] };
		CHECK(loop_thread(loop, wait_for_others, job_done, &waiting[i]) == 0);
	}
	CHECK(loop_work(loop, run_job, job_done, &last) == 0);
	CHECK(loop_working(loop) == N + 1);
	while (left > N)
		CHECK(loop_once(loop, -1) == 0);
	CHECK(loop_working(loop) == N);
	CHECK(write(fds[1], "12345678901234567890", N) == N);
	while (left)
		CHECK(loop_once(loop, -1) == 0);
	for (i = 0; i < N; i++)
		CHECK(waiting[i].job.seen == 2);
	CHECK(!loop_working(loop));
	close(fds[0]);
	close(fds[1]);
	loop_free(loop);
}

/* ---- a loop with a lock */

enum { STOPS = 2000 };

struct rounds {
	pthread_mutex_t lock;
	struct loop *loop;
	struct timer timer;
	atomic_uint runs; /* that have begun */
	bool told;
};

/* Round after round, so that the other thread comes at any point of one. */
static void on_round(void *arg)
{
	struct rounds *r = arg;

	if (!r->told)
		atomic_fetch_add(&r->runs, 1);
	r->told = true;
	timer_start(r->loop, &r->timer, 0, on_round, r);
}

/* Every run once. The last round's timer goes with it: a loop that did not hear of the stop would wait for ever. */
static void *stop_often(void *arg)
{
	struct rounds *r = arg;

	for (unsigned i = 1; i <= STOPS; i++) {
		while (atomic_load(&r->runs) < i)
			;
		while (pthread_mutex_trylock(&r->lock))
			;
		timer_stop(&r->timer);
		loop_stop(r->loop);
		pthread_mutex_unlock(&r->lock);
	}
	return NULL;
}

static void another_thread_may_stop_it_at_any_time(void)
{
	struct rounds r = { .lock = PTHREAD_MUTEX_INITIALIZER, .loop = new_loop() };
	pthread_t thread;

	loop_set_lock(r.loop, &r.lock);
	CHECK(pthread_create(&thread, NULL, stop_often, &r) == 0);
	for (unsigned i = 0; i < STOPS; i++) {
		pthread_mutex_lock(&r.lock);
		r.told = false;
		timer_start(r.loop, &r.timer, 0, on_round, &r);
		pthread_mutex_unlock(&r.lock);
		CHECK(loop_run(r.loop) == 0);
	}
	CHECK(pthread_join(thread, NULL) == 0);
	loop_free(r.loop);
}

struct stack {
	struct loop *loop;
	size_t size;
};

static int measure_stack(void *arg)
{
	struct stack *stack = arg;
	pthread_attr_t attr;

	CHECK(pthread_getattr_np(pthread_self(), &attr) == 0);
	CHECK(pthread_attr_getstacksize(&attr, &stack->size) == 0);
	pthread_attr_destroy(&attr);
	return 0;
}

static void stack_measured(void *arg, int result)
{
	struct stack *stack = arg;

	CHECK(result == 0);
	loop_stop(stack->loop);
}

/* Whatever the host's huge pages are set to, and wherever the kernel puts a stack. */
static void a_stack_has_no_room_for_a_huge_page(void)
{
	struct stack stack = { .loop = new_loop() };

	CHECK(loop_work(stack.loop, measure_stack, stack_measured, &stack) == 0);
	CHECK(loop_run(stack.loop) == 0);
	CHECK(stack.size && stack.size < 2 << 20);
	loop_free(stack.loop);
}

int main(void)
{
	TEST(a_freed_watch_is_not_called);
	TEST(watched_events_can_change);
	TEST(timers_fire_in_the_order_of_their_time);
	TEST(a_great_many_timers);
	TEST(work_runs_elsewhere_and_ends_here);
	TEST(work_that_waits_has_a_thread_of_its_own);
	TEST(another_thread_may_stop_it_at_any_time);
	TEST(a_stack_has_no_room_for_a_huge_page);
	return 0;
}
