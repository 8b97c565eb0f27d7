/* SPDX-License-Identifier: MIT */
/* terminal.h - the serial console of a machine on the terminal of the one who started it */
#ifndef SBX_VM_VMM_TERMINAL_H
#define SBX_VM_VMM_TERMINAL_H

#include "util/err.h"
#include "util/loop.h"

struct terminal;

/*
 * Standard input goes to the machine, what it says to standard output. A terminal is set to raw mode;
 * Ctrl-A x then calls quit(arg), Ctrl-A Ctrl-A is a Ctrl-A. *ret_fd is the machine's end, a non-blocking
 * stream socket that the caller owns.
 */
int terminal_open(struct loop *loop, void (*quit)(void *arg), void *arg, struct terminal **ret, int *ret_fd,
		  struct err *err);
/* Prints what the machine has said last, and restores the terminal. NULL is allowed. */
void terminal_close(struct terminal *terminal);

#endif
