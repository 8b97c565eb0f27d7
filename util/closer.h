/* SPDX-License-Identifier: MIT */
/* closer.h - files that are closed by somebody who has the time */
#ifndef SBX_UTIL_CLOSER_H
#define SBX_UTIL_CLOSER_H

/*
 * Close *fd, if it is one, on a thread of its own, and forget it: the last one who closes memory of a GiB waits some
 * 65 ms for the kernel to free it. Here, if it has little memory, or if there is no thread to be had.
 */
void close_large(int *fd);
/* The same, whatever it is: for what somebody else has sent. */
void close_elsewhere(int *fd);

#endif
