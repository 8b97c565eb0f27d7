/* SPDX-License-Identifier: MIT */
/*
 * pool.c - machines prepared ahead of time
 *
 * Stocks are ordered by use, the most recent first. One machine is prepared at a time, some milliseconds
 * after the last fork, so that a burst of forks has the host's CPUs to itself; where a bound on all of them
 * is reached, the stock used least recently gives way. A machine is loaded and then rehearsed (rehearsal.h).
 * One that is still loading can be taken, and is then a fork without a rehearsal; one that is rehearsing
 * cannot.
 */
#include "fs/pool/pool.h"

#include <errno.h>
#include <stdlib.h>

#include "fs/pool/rehearsal.h"
#include "util/log.h"
#include "vm/usage.h"

enum { IDLE_NS = 20 * 1000 * 1000 };

struct stock {
	struct list link; /* pool->stocks */
	struct fs *fs;
	struct template *template; /* a reference */
	struct list machines;      /* struct ready */
	unsigned count;
};

struct ready {
	struct list link;
	struct stock *stock;
	struct vm *vm;
	struct layer *disk;
	struct rehearsal *rehearsal; /* under way */
	uint64_t memory;             /* bytes that only it has; 0 until that is known */
	struct memory_look *look;    /* under way */
};

struct pool {
	struct list stocks; /* struct stock */
	struct timer timer;
	struct ready *preparing; /* the one under way, or NULL */
};

int pool_open(struct fs *fs, struct err *err)
{
	fs->pool = calloc(1, sizeof(*fs->pool));
	if (!fs->pool)
		return err_sys(err, -ENOMEM, "cannot make the pool");
	list_init(&fs->pool->stocks);
	return 0;
}

static void refill(void *arg);

static void schedule(struct fs *fs)
{
	timer_start(fs->loop, &fs->pool->timer, IDLE_NS, refill, fs);
}

/* The pool has it no longer; what it was made of is somebody's. */
static void ready_give(struct ready *ready)
{
	struct fs *fs = ready->stock->fs;

	list_del(&ready->link);
	ready->stock->count--;
	if (fs->pool->preparing == ready)
		fs->pool->preparing = NULL;
	memory_forget(ready->look);
	free(ready);
}

static void ready_end(struct ready *ready)
{
	const struct ready was = *ready;
	const struct engine *engine = ready->stock->fs->engine;

	ready_give(ready);
	rehearsal_cancel(was.rehearsal);
	engine->destroy(was.vm);
	layer_unref(was.disk);
}

static void stock_free(struct stock *stock)
{
	struct ready *ready;

	while ((ready = list_first(&stock->machines, struct ready, link)))
		ready_end(ready);
	list_del(&stock->link);
	template_unref(stock->template);
	free(stock);
}

static struct stock *find(const struct fs *fs, const struct template *template)
{
	struct stock *stock;

	list_for_each (stock, &fs->pool->stocks, link)
		if (stock->template == template)
			return stock;
	return NULL;
}

static unsigned count(const struct fs *fs)
{
	struct stock *stock;
	unsigned n = 0;

	list_for_each (stock, &fs->pool->stocks, link)
		n += stock->count;
	return n;
}

unsigned pool_count(const struct fs *fs)
{
	return count(fs) - (fs->pool->preparing ? 1 : 0);
}

uint64_t pool_memory(const struct fs *fs)
{
	struct stock *stock;
	struct ready *ready;
	uint64_t sum = 0;

	list_for_each (stock, &fs->pool->stocks, link)
		list_for_each (ready, &stock->machines, link)
			sum += ready->memory;
	return sum;
}

/* The one prepared first; the one under way is last. */
static struct ready *best(const struct stock *stock)
{
	struct ready *ready;

	list_for_each (ready, &stock->machines, link)
		if (!ready->rehearsal)
			return ready;
	return NULL;
}

bool pool_take(struct fs *fs, const struct template *template, struct pooled *ret)
{
	struct stock *stock = find(fs, template);
	struct ready *ready = stock ? best(stock) : NULL;

	if (!ready)
		return false;
	fs->engine->background(ready->vm, false);
	*ret = (struct pooled){ ready->vm, ready->disk, ready != fs->pool->preparing };
	ready_give(ready);
	return true;
}

void pool_want(struct fs *fs, struct template *template)
{
	struct stock *stock = find(fs, template);

	if (!fs->options.pool)
		return;
	if (!stock) {
		stock = calloc(1, sizeof(*stock));
		if (!stock)
			return; /* it goes without */
		stock->fs = fs;
		stock->template = template_ref(template);
		list_init(&stock->machines);
	} else {
		list_del(&stock->link);
	}
	list_insert(&fs->pool->stocks, fs->pool->stocks.next, &stock->link);
	schedule(fs);
}

void pool_forget(struct fs *fs, const struct template *template)
{
	struct stock *stock = find(fs, template);

	if (stock)
		stock_free(stock);
}

bool pool_prepares(const struct fs *fs)
{
	return fs->pool->preparing;
}

void pool_close(struct fs *fs)
{
	free(fs->pool);
	fs->pool = NULL;
}

void pool_drop(struct fs *fs)
{
	struct stock *stock;

	timer_stop(&fs->pool->timer);
	while ((stock = list_first(&fs->pool->stocks, struct stock, link)))
		stock_free(stock);
}

static void on_exited(void *owner, bool clean, const char *why)
{
	(void)clean;
	(void)why;
	ready_end(owner);
}

static const struct vm_events events = { .exited = on_exited };

/* It will not get better: no further one is made until the next fork asks. */
static void give_up(struct ready *ready, const struct err *err)
{
	log_warn("cannot keep a machine ready: %s", err->text);
	if (ready)
		ready_end(ready);
}

static void on_memory(void *arg, const struct vm_memory *memory)
{
	struct ready *ready = arg;

	ready->look = NULL;
	ready->memory = memory->private;
	schedule(ready->stock->fs);
}

/* It is done. The next is begun when it is known how much memory this one takes. */
static void settle(struct ready *ready)
{
	struct fs *fs = ready->stock->fs;
	const int fd = fs->engine->memory(ready->vm);

	fs->pool->preparing = NULL;
	if (fd >= 0)
		ready->look = memory_look(fs->loop, &fd, 1, on_memory, ready);
	if (!ready->look)
		schedule(fs);
}

static void on_rehearsed(void *arg, const struct err *err)
{
	struct ready *ready = arg;

	ready->rehearsal = NULL;
	if (err->code) {
		give_up(ready, err);
		return;
	}
	settle(ready);
}

static void on_loaded(void *arg, const struct err *err)
{
	struct fs *fs = arg;
	/* NULL: it is somebody's by now. No other was begun since, as long as that fork is under way. */
	struct ready *ready = fs->pool->preparing;
	struct err failed = *err;

	if (!failed.code && ready && ready->stock->template->quiesced &&
	    !rehearse(fs, ready->vm, ready->stock->template, &events, ready, on_rehearsed, ready,
		      &ready->rehearsal, &failed))
		return;
	if (failed.code) {
		give_up(ready, &failed);
		return;
	}
	if (ready)
		settle(ready);
	else
		schedule(fs);
}

static void prepare(struct stock *stock)
{
	struct fs *fs = stock->fs;
	struct ready *ready = calloc(1, sizeof(*ready));
	struct err err = { 0 };

	if (!ready)
		return;
	ready->stock = stock;
	if (layer_overlay(fs->store, stock->template->disk, &ready->disk, &err) ||
	    fs->engine->prepare(&fs->env, stock->template, layer_path(ready->disk), &events, ready, on_loaded,
				fs, &ready->vm, &err)) {
		log_warn("cannot keep a machine ready: %s", err.text);
		layer_unref(ready->disk);
		free(ready);
		return;
	}
	fs->engine->background(ready->vm, true);
	list_add(&stock->machines, &ready->link);
	stock->count++;
	fs->pool->preparing = ready;
}

/* The machine that can be spared best: of a stock used less recently than this one. NULL: there is none. */
static struct ready *spare(const struct fs *fs, const struct stock *stock)
{
	struct stock *last = list_entry(fs->pool->stocks.prev, struct stock, link);
	struct ready *ready;

	for (; last != stock; last = list_entry(last->link.prev, struct stock, link)) {
		ready = list_first(&last->machines, struct ready, link);
		if (ready)
			return ready;
	}
	return NULL;
}

/* Come within the bounds on all machines. */
static bool make_room(struct fs *fs, const struct stock *stock)
{
	struct ready *ready;

	while (count(fs) >= fs->options.pool_total || pool_memory(fs) >= fs->options.pool_memory) {
		ready = spare(fs, stock);
		if (!ready)
			return false;
		ready_end(ready);
	}
	return true;
}

static void refill(void *arg)
{
	struct fs *fs = arg;
	struct stock *stock;

	if (fs->pool->preparing)
		return; /* its end schedules the next */
	if (fs->forking) {
		schedule(fs);
		return;
	}
	list_for_each (stock, &fs->pool->stocks, link) {
		if (stock->count >= fs->options.pool)
			continue;
		if (make_room(fs, stock))
			prepare(stock);
		return;
	}
}
