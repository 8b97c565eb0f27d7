/* SPDX-License-Identifier: MIT */
/* thread.h - threads that cost little */
#ifndef SBX_UTIL_THREAD_H
#define SBX_UTIL_THREAD_H

#include <pthread.h>

/*
 * Bytes of a thread's stack, in place of the 8 MiB that are common. Where a host has transparent huge pages for all
 * memory, the first byte that is written in an aligned 2 MiB of a mapping costs all of these; malloc's arenas are
 * aligned, and the kernel places the next stack so that it ends where one of them begins. No smaller mapping has room
 * for a huge page.
 */
enum { THREAD_STACK = 1 << 20 };

/* Start run(arg) on a thread with such a stack; signals are blocked as in the caller. Returns 0 or an errno that is
 * positive, as pthread_create(3). */
int thread_start(pthread_t *ret, void *(*run)(void *arg), void *arg);

#endif
