/* SPDX-License-Identifier: MIT */
/*
 * stack.h - the program sbx-net: a machine's link, the filter, and libslirp behind it
 *
 * One thread and one poll(2): libslirp wants its descriptors polled, and says for how long.
 */
#ifndef SBX_VM_NET_STACK_H
#define SBX_VM_NET_STACK_H

#include "util/err.h"

/* Serve the daemon at this end of a control socket (messages.h) until it closes it. */
int stack_serve(int control_fd, struct err *err);

/* Give up all that the work does not need: files, programs, other sockets than of the Internet. */
int net_seccomp_enter(struct err *err);

#endif
