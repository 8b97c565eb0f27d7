/* SPDX-License-Identifier: MIT */
/*
 * pool.c - machines prepared ahead of time
 *
 * Stocks are ordered by use, the most recent first, and each has as many machines as its demand says (demand.h).
 * As many are prepared at a time as there are CPUs that no fork is under way on; where a bound on all of them is
 * reached, the stock used least recently gives way. A machine is loaded and then rehearsed (rehearsal.h). One that
 * is still loading can be taken, and is then a fork without a rehearsal; one that is rehearsing cannot.
 */
#include "fs/pool/pool.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#include "fs/pool/demand.h"
#include "fs/pool/rehearsal.h"
#include "util/log.h"
#include "vm/usage.h"

enum {
	SOON_NS = 5 * 1000 * 1000,  /* after a fork began: by then most are done */
	IDLE_NS = 20 * 1000 * 1000, /* for its first command, too */
	AT_A_TIME = 16,
};

struct stock {
	struct list link; /* pool->stocks */
	struct fs *fs;
	struct template *template; /* a reference */
	struct list machines;      /* struct ready */
	unsigned count;
	struct demand demand;
	uint64_t memory; /* bytes that only the last one had that was looked at; 0: none was */
};

struct ready {
	struct list link;
	struct stock *stock;
	struct vm *vm;
	struct layer *disk;
	bool preparing;
	struct rehearsal *rehearsal; /* under way */
	uint64_t memory;             /* bytes that only it has; 0 until that is known */
	struct memory_look *look;    /* under way */
};

struct pool {
	struct list stocks; /* struct stock */
	struct timer timer;
	unsigned preparing; /* machines */
	unsigned cpus;
	uint64_t forked_ns; /* when a fork began last */
};

static unsigned count_cpus(void)
{
	cpu_set_t set;

	/* It fails on hosts with more than the set holds: there are enough. */
	return sched_getaffinity(0, sizeof(set), &set) < 0 ? AT_A_TIME : (unsigned)CPU_COUNT(&set);
}

int pool_open(struct fs *fs, struct err *err)
{
	fs->pool = calloc(1, sizeof(*fs->pool));
	if (!fs->pool)
		return err_sys(err, -ENOMEM, "cannot make the pool");
	list_init(&fs->pool->stocks);
	fs->pool->cpus = count_cpus();
	return 0;
}

static void refill(void *arg);

static void schedule(struct fs *fs, uint64_t ns)
{
	timer_start(fs->loop, &fs->pool->timer, ns, refill, fs);
}

/* The pool has it no longer; what it was made of is somebody's. */
static void ready_give(struct ready *ready)
{
	struct fs *fs = ready->stock->fs;

	list_del(&ready->link);
	ready->stock->count--;
	fs->pool->preparing -= ready->preparing;
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
	return count(fs) - fs->pool->preparing;
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

static unsigned stock_ready(const struct stock *stock)
{
	const struct ready *ready;
	unsigned n = 0;

	list_for_each (ready, &stock->machines, link)
		n += !ready->preparing;
	return n;
}

/* The one prepared first, or one that loads. */
static struct ready *best(const struct stock *stock)
{
	struct ready *ready, *loading = NULL;

	list_for_each (ready, &stock->machines, link) {
		if (!ready->preparing)
			return ready;
		if (!loading && !ready->rehearsal)
			loading = ready;
	}
	return loading;
}

bool pool_take(struct fs *fs, const struct template *template, struct pooled *ret)
{
	struct stock *stock = find(fs, template);
	struct ready *ready = stock ? best(stock) : NULL;

	if (!ready)
		return false;
	fs->engine->background(ready->vm, false);
	*ret = (struct pooled){ ready->vm, ready->disk, !ready->preparing };
	fs->found_ready += !ready->preparing;
	ready_give(ready);
	return true;
}

void pool_want(struct fs *fs, struct template *template, bool found)
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
		stock->demand = (struct demand){ .least = fs->options.pool, .most = fs->options.pool_total };
		list_init(&stock->machines);
	} else {
		list_del(&stock->link);
	}
	list_insert(&fs->pool->stocks, fs->pool->stocks.next, &stock->link);
	fs->pool->forked_ns = now_mono_ns();
	demand_fork(&stock->demand, stock_ready(stock) + found, fs->pool->forked_ns);
	schedule(fs, SOON_NS);
}

void pool_forget(struct fs *fs, const struct template *template)
{
	struct stock *stock = find(fs, template);

	if (!stock)
		return;
	stock_free(stock);
	schedule(fs, IDLE_NS); /* others may have its share */
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

	while ((stock = list_first(&fs->pool->stocks, struct stock, link)))
		stock_free(stock);
	timer_stop(&fs->pool->timer);
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

static void on_memory(void *arg, const struct vm_memory *memory, size_t n)
{
	struct ready *ready = arg;

	(void)n; /* one */
	ready->look = NULL;
	ready->memory = ready->stock->memory = memory->private ? memory->private : 1;
	schedule(ready->stock->fs, 0);
}

/* It is done. How much memory it takes is looked at, since that bounds how many there may be. */
static void settle(struct ready *ready)
{
	struct fs *fs = ready->stock->fs;
	const int fd = fs->engine->memory(ready->vm);

	ready->preparing = false;
	fs->pool->preparing--;
	if (fd >= 0)
		ready->look = memory_look(fs->loop, &fd, 1, on_memory, ready);
	if (!ready->look && !ready->stock->memory)
		ready->stock->memory = 1; /* it cannot be known */
	schedule(fs, 0);
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
	struct ready *ready = arg;
	struct err failed = *err;

	if (!failed.code && ready->stock->template->quiesced &&
	    !rehearse(ready->stock->fs, ready->vm, ready->stock->template, &events, ready, on_rehearsed,
		      ready, &ready->rehearsal, &failed))
		return;
	if (failed.code)
		give_up(ready, &failed);
	else
		settle(ready);
}

static bool prepare(struct stock *stock)
{
	struct fs *fs = stock->fs;
	struct ready *ready = calloc(1, sizeof(*ready));
	struct err err = { 0 };

	if (!ready)
		return false;
	ready->stock = stock;
	if (layer_overlay(fs->store, stock->template->disk, &ready->disk, &err) ||
	    fs->engine->prepare(&fs->env, stock->template, layer_path(ready->disk), &events, ready, on_loaded,
				ready, &ready->vm, &err)) {
		log_warn("cannot keep a machine ready: %s", err.text);
		layer_unref(ready->disk);
		free(ready);
		return false;
	}
	fs->engine->background(ready->vm, true);
	list_add(&stock->machines, &ready->link);
	stock->count++;
	ready->preparing = true;
	fs->pool->preparing++;
	return true;
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

/* What they will have when all are known: those that are not are like the last of their stock. */
static uint64_t memory_expected(const struct fs *fs)
{
	struct stock *stock;
	struct ready *ready;
	uint64_t sum = 0;

	list_for_each (stock, &fs->pool->stocks, link)
		list_for_each (ready, &stock->machines, link)
			sum += ready->memory ? ready->memory : stock->memory;
	return sum;
}

/* Come within the bounds on all machines. */
static bool make_room(struct fs *fs, const struct stock *stock)
{
	struct ready *ready;

	while (count(fs) >= fs->options.pool_total || memory_expected(fs) >= fs->options.pool_memory) {
		ready = spare(fs, stock);
		if (!ready)
			return false;
		ready_end(ready);
	}
	return true;
}

/* CPUs that forks have: one each, and what one runs first has one. */
static unsigned busy(const struct fs *fs, uint64_t now_ns)
{
	return fs->forking ? fs->forking : now_ns - fs->pool->forked_ns < IDLE_NS;
}

/* How many may be prepared at a time now. */
static unsigned at_a_time(const struct fs *fs, uint64_t now_ns)
{
	const unsigned cpus = fs->pool->cpus, has = busy(fs, now_ns), free = cpus > has ? cpus - has : 0;

	return free < AT_A_TIME ? free : AT_A_TIME;
}

/* What is not worth keeping any more goes. How long the rest is. */
static uint64_t shrink(struct fs *fs, uint64_t now_ns)
{
	struct stock *stock, *next;
	struct ready *ready;
	uint64_t least = DEMAND_NONE_NS;

	for (stock = list_entry(fs->pool->stocks.next, struct stock, link); &stock->link != &fs->pool->stocks;
	     stock = next) {
		const unsigned want = demand_want(&stock->demand, now_ns);
		const uint64_t holds_ns = demand_holds_ns(&stock->demand, now_ns);

		next = list_entry(stock->link.next, struct stock, link);
		if (!want) {
			stock_free(stock);
			continue;
		}
		while (stock->count > want && (ready = list_first(&stock->machines, struct ready, link)))
			ready_end(ready);
		if (holds_ns < least)
			least = holds_ns;
	}
	return least;
}

/* Begin as many as may be; false: there is no room for another, or it failed. */
static bool fill(struct stock *stock, uint64_t now_ns)
{
	struct fs *fs = stock->fs;
	const unsigned want = demand_want(&stock->demand, now_ns);

	/* Until it is known what one takes, there is one. */
	while (stock->count < want && fs->pool->preparing < at_a_time(fs, now_ns) &&
	       (stock->memory || !stock->count))
		if (!make_room(fs, stock) || !prepare(stock))
			return false;
	return true;
}

static void refill(void *arg)
{
	struct fs *fs = arg;
	const uint64_t now_ns = now_mono_ns();
	uint64_t holds_ns = shrink(fs, now_ns);
	struct stock *stock;

	list_for_each (stock, &fs->pool->stocks, link) {
		if (!fill(stock, now_ns))
			break;
		if (stock->count >= demand_want(&stock->demand, now_ns))
			continue;
		/* It comes first: when one under way is done, which schedules, or when there are CPUs for it. */
		if (busy(fs, now_ns))
			holds_ns = IDLE_NS;
		break;
	}
	if (!list_empty(&fs->pool->stocks))
		schedule(fs, holds_ns);
}
