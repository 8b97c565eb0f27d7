/* SPDX-License-Identifier: MIT */
/* thread.c - threads that cost little */
#include "util/thread.h"

int thread_start(pthread_t *ret, void *(*run)(void *arg), void *arg)
{
	pthread_attr_t attr;
	int rc = pthread_attr_init(&attr);

	if (rc)
		return rc;
	rc = pthread_attr_setstacksize(&attr, THREAD_STACK);
	if (!rc)
		rc = pthread_create(ret, &attr, run, arg);
	pthread_attr_destroy(&attr);
	return rc;
}
