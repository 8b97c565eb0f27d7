/* SPDX-License-Identifier: MIT */
/*
 * track.h - which pages of its memory a QEMU process writes, as userfaultfd(2) tells
 *
 * sbx-track.so in QEMU (vm/qemu/preload/) makes a userfaultfd when the process starts, and sends it here. With it the
 * daemon has pages of the process write-protected in the kernel's asynchronous mode: a write takes the protection
 * away by itself, nobody waits, and the page map says afterwards which pages still have it. Linux 6.7 or newer
 * (UFFD_FEATURE_WP_ASYNC, PAGEMAP_SCAN); elsewhere track_take says why not.
 *
 * A process can hold the lock of its own memory, which all but track_take wait for: those are [worker] functions, and
 * so may be closing a userfaultfd (process_keeps in vm/process.h). Addresses are the process' own.
 */
#ifndef SBX_VM_QEMU_TRACK_H
#define SBX_VM_QEMU_TRACK_H

#include <stdint.h>

#include "util/err.h"

/* In QEMU: a SOCK_SEQPACKET socket, over which one message comes, of this byte and a descriptor. */
enum { TRACK_FD = 9, TRACK_BYTE = 'u' };

/*
 * What came over our end of the socket: a userfaultfd that is ready, the caller's, or a negative errno. Never waits.
 */
int track_take(int socket, struct err *err);

/* [worker] Follow the writes to this memory from the next track_written on; and no longer. 0 or a negative errno. */
int track_begin(int uffd, uint64_t start, uint64_t size);
int track_end(int uffd, uint64_t start, uint64_t size);

struct pagemap_run; /* util/pagemap.h */
/*
 * [worker] The runs of pages from *at on, below end, that are the process' own (no file's) and were written since this
 * was last asked, or since track_begin; from now on those count as not written. Returns how many, at most max, in order, with *at
 * behind what was looked at, or a negative errno: -EPERM where writes are not followed. pagemap_fd: /proc/PID/pagemap.
 */
int track_written(int pagemap_fd, uint64_t *at, uint64_t end, struct pagemap_run *runs, unsigned max);

#endif
