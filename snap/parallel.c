/* SPDX-License-Identifier: MIT */
/*
 * parallel.c - do many independent pieces of one job on all cores
 *
 * Threads live as long as the job: starting one costs some 20 us, a job takes milliseconds to seconds. The
 * calling thread works too, so a host that gives us no thread only makes it slower.
 */
#include "snap/parallel.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "util/thread.h"

enum { THREADS_MAX = 16 };

struct parallel_job {
	int (*piece)(void *arg, size_t i, void *scratch, struct err *err);
	void *arg;
	size_t n, scratch_size;
	struct progress *progress;
	atomic_size_t next;
	atomic_bool stop;
	pthread_mutex_t mutex; /* guards err */
	struct err err;
};

static void fail(struct parallel_job *job, const struct err *err)
{
	pthread_mutex_lock(&job->mutex);
	if (!job->err.code)
		job->err = *err;
	pthread_mutex_unlock(&job->mutex);
	atomic_store(&job->stop, true);
}

static void *work(void *arg)
{
	struct parallel_job *job = arg;
	struct err err = { 0 };
	void *scratch = malloc(job->scratch_size);
	size_t i;
	int rc;

	if (!scratch) {
		err_set(&err, -ENOMEM, "out of memory");
		fail(job, &err);
		return NULL;
	}
	while (!atomic_load(&job->stop) && (i = atomic_fetch_add(&job->next, 1)) < job->n) {
		rc = job->piece(job->arg, i, scratch, &err);
		if (!rc && job->progress) {
			atomic_store(&job->progress->permille, (unsigned)((i + 1) * 1000 / job->n));
			if (atomic_load(&job->progress->cancel))
				rc = err_set(&err, -ECANCELED, "interrupted");
		}
		if (rc) {
			err.code = rc;
			fail(job, &err);
		}
	}
	free(scratch);
	return NULL;
}

int parallel_run(size_t n, int (*piece)(void *arg, size_t i, void *scratch, struct err *err), void *arg,
		 size_t scratch_size, struct progress *progress, struct err *err)
{
	struct parallel_job job = {
		.piece = piece, .arg = arg, .n = n, .scratch_size = scratch_size, .progress = progress
	};
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t threads[THREADS_MAX];
	unsigned running = 0;

	pthread_mutex_init(&job.mutex, NULL);
	while (running + 1 < THREADS_MAX && (long)running + 1 < cpus && running + 1 < n &&
	       !thread_start(&threads[running], work, &job))
		running++;
	work(&job);
	while (running)
		pthread_join(threads[--running], NULL);
	pthread_mutex_destroy(&job.mutex);
	if (job.err.code)
		return err_set(err, job.err.code, "%s", job.err.text);
	return 0;
}
