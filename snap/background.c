/* SPDX-License-Identifier: MIT */
/* background.c - one thread that does the store's chores in the order they were asked for */
#include "snap/background.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

#include "util/list.h"
#include "util/thread.h"

struct chore {
	struct list link;
	void (*run)(void *arg);
	void *arg;
};

struct background {
	pthread_t thread;
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t wake;  /* chores were added, or stop was set */
	pthread_cond_t idle;  /* the last chore is done */
	struct list chores;   /* waiting, oldest first */
	bool busy, stop;
};

static void *work(void *arg)
{
	struct background *bg = arg;

	pthread_mutex_lock(&bg->lock);
	for (;;) {
		struct chore *chore = list_first(&bg->chores, struct chore, link);

		if (chore) {
			list_del(&chore->link);
			bg->busy = true;
			pthread_mutex_unlock(&bg->lock);
			chore->run(chore->arg);
			free(chore);
			pthread_mutex_lock(&bg->lock);
			bg->busy = false;
			continue;
		}
		pthread_cond_broadcast(&bg->idle);
		if (bg->stop)
			break;
		pthread_cond_wait(&bg->wake, &bg->lock);
	}
	pthread_mutex_unlock(&bg->lock);
	return NULL;
}

struct background *background_new(void)
{
	struct background *bg = calloc(1, sizeof(*bg));
	sigset_t all, old;
	int rc;

	if (!bg)
		return NULL;
	pthread_mutex_init(&bg->lock, NULL);
	pthread_cond_init(&bg->wake, NULL);
	pthread_cond_init(&bg->idle, NULL);
	list_init(&bg->chores);
	/* Signals are the main thread's affair, but for the one with which a filter says what it refuses. */
	sigfillset(&all);
	sigdelset(&all, SIGSYS);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	rc = thread_start(&bg->thread, work, bg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc) {
		free(bg);
		return NULL;
	}
	return bg;
}

void background_free(struct background *bg)
{
	if (!bg)
		return;
	pthread_mutex_lock(&bg->lock);
	bg->stop = true;
	pthread_cond_signal(&bg->wake);
	pthread_mutex_unlock(&bg->lock);
	pthread_join(bg->thread, NULL);
	pthread_mutex_destroy(&bg->lock);
	pthread_cond_destroy(&bg->wake);
	pthread_cond_destroy(&bg->idle);
	free(bg);
}

void background_run(struct background *bg, void (*run)(void *arg), void *arg)
{
	struct chore *chore = malloc(sizeof(*chore));

	if (!chore) {
		background_flush(bg);
		run(arg);
		return;
	}
	chore->run = run;
	chore->arg = arg;
	pthread_mutex_lock(&bg->lock);
	list_add(&bg->chores, &chore->link);
	pthread_cond_signal(&bg->wake);
	pthread_mutex_unlock(&bg->lock);
}

void background_flush(struct background *bg)
{
	pthread_mutex_lock(&bg->lock);
	while (!list_empty(&bg->chores) || bg->busy)
		pthread_cond_wait(&bg->idle, &bg->lock);
	pthread_mutex_unlock(&bg->lock);
}
