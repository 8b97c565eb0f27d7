/* SPDX-License-Identifier: MIT */
/*
 * serial.h - a 16550A serial port on a descriptor
 *
 * What the guest sends goes to the descriptor at once; when that is full it waits in a buffer, and when the
 * buffer is full too the transmitter stays busy, as a slow line would. What arrives is read only while the
 * receiver has room, so that nothing is dropped in either direction.
 *
 * Threads: with the device lock held (mmio.h).
 */
#ifndef SBX_VM_VMM_SERIAL_H
#define SBX_VM_VMM_SERIAL_H

#include <stdbool.h>
#include <stdint.h>

#include "util/buf.h"
#include "util/err.h"
#include "util/loop.h"
#include "vm/vmm/irq.h"
#include "vm/vmm/mmio.h"

enum { SERIAL_FIFO = 16, SERIAL_OUT_MAX = 4096 };

struct serial {
	struct loop *loop;
	struct irqchip *irqchip;
	unsigned gsi;
	int fd;              /* -1: nobody listens */
	struct watch *watch; /* NULL: the other end is closed */
	struct buf out; /* sent by the guest, not yet taken by the descriptor; not part of the saved state */

	/* The registers. */
	uint8_t ier, fcr, lcr, mcr, scr;
	uint16_t divisor;
	bool thr_pending; /* the transmitter became empty, and the guest has not been told by IIR */
	uint8_t fifo[SERIAL_FIFO];
	unsigned fifo_len;
	bool line; /* of the interrupt */
};

/* fd: a non-blocking stream socket, which stays the caller's; or -1, which swallows what the guest sends. */
int serial_init(struct serial *serial, struct loop *loop, struct irqchip *irqchip, unsigned gsi, int fd,
		struct err *err);
struct mmio_region serial_region(struct serial *serial, uint64_t port);
/* Stop watching; what waits is dropped if the descriptor does not take it at once. */
void serial_release(struct serial *serial);

void serial_save(const struct serial *serial, struct buf *buf);
/* On failure the port is as before. */
int serial_load(struct serial *serial, struct reader *reader, struct err *err);
/* After a load, with the interrupt controller in place: raise what may have been lost. */
void serial_kick(struct serial *serial);

#endif
