/* SPDX-License-Identifier: MIT */
/*
 * serial.c - a 16550A serial port on a descriptor
 *
 * Registers as in the National Semiconductor PC16550D datasheet, with the names of linux/serial_reg.h: data and
 * interrupt enable are the divisor while LCR has DLAB. There is no line: characters take no time,
 * the modem lines are fixed (carrier, clear to send), and the divisor is only remembered.
 *
 * The interrupt line is the OR of the enabled conditions, and the I/O APIC gets an edge when it rises. A
 * driver that leaves its handler has seen IIR say "none", so that the line has fallen meanwhile.
 */
#include "vm/vmm/serial.h"

#include <errno.h>
#include <linux/serial_reg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum {
	REGS = 8,

	IER_MASK = UART_IER_RDI | UART_IER_THRI | UART_IER_RLSI | UART_IER_MSI,
	IIR_FIFO = 0xc0, /* the FIFOs are on */
	/* the bits that do not clear themselves */
	FCR_KEPT = UART_FCR_TRIGGER_MASK | UART_FCR_DMA_SELECT | UART_FCR_ENABLE_FIFO,
	MCR_MASK = UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT1 | UART_MCR_OUT2 | UART_MCR_LOOP,
};

static bool can_send(const struct serial *s)
{
	return s->out.len < SERIAL_OUT_MAX;
}

static unsigned fifo_size(const struct serial *s)
{
	return s->fcr & UART_FCR_ENABLE_FIFO ? SERIAL_FIFO : 1;
}

static void update_line(struct serial *s)
{
	const bool line =
		(s->ier & UART_IER_RDI && s->fifo_len) || (s->ier & UART_IER_THRI && s->thr_pending);

	if (line && !s->line)
		irq_pulse(s->irqchip, s->gsi);
	s->line = line;
}

static void update_watch(struct serial *s)
{
	if (s->watch)
		watch_set(s->watch, (s->fifo_len < fifo_size(s) ? EPOLLIN : 0) | (s->out.len ? EPOLLOUT : 0));
}

/* The other end is closed: forget it, or the loop would hear of it without end. */
static void hang_up(struct serial *s)
{
	watch_free(s->watch);
	s->watch = NULL;
	s->fd = -1;
	buf_clear(&s->out);
}

/* Write what the descriptor takes. */
static void flush(struct serial *s)
{
	ssize_t n;

	while (s->out.len) {
		n = send(s->fd, buf_bytes(&s->out), s->out.len, MSG_NOSIGNAL);
		if (n >= 0)
			buf_consume(&s->out, (size_t)n);
		else if (errno == EAGAIN)
			return;
		else if (errno != EINTR)
			hang_up(s);
	}
}

static void receive(struct serial *s)
{
	ssize_t n;

	if (s->fifo_len >= fifo_size(s))
		return;
	n = recv(s->fd, s->fifo + s->fifo_len, fifo_size(s) - s->fifo_len, 0);
	if (n > 0)
		s->fifo_len += (unsigned)n;
	else if (!n || (errno != EAGAIN && errno != EINTR))
		hang_up(s);
	update_line(s);
}

static void on_event(void *arg, uint32_t events)
{
	struct serial *s = arg;
	const bool stuck = !can_send(s);

	flush(s);
	if (stuck && can_send(s))
		s->thr_pending = true;
	if (events & ~(uint32_t)EPOLLOUT && s->fd >= 0)
		receive(s);
	update_line(s);
	update_watch(s);
}

static void transmit(struct serial *s, uint8_t byte)
{
	if (s->mcr & UART_MCR_LOOP) {
		if (s->fifo_len < fifo_size(s))
			s->fifo[s->fifo_len++] = byte;
	} else if (s->fd >= 0 && can_send(s)) {
		buf_add(&s->out, &byte, 1);
		flush(s);
		update_watch(s);
	}
	s->thr_pending = can_send(s);
	/* The transmitter was full for a moment: its interrupt is a new one. */
	s->line = s->ier & UART_IER_RDI && s->fifo_len;
	update_line(s);
}

static uint8_t take(struct serial *s)
{
	const uint8_t byte = s->fifo[0];

	if (!s->fifo_len)
		return 0;
	memmove(s->fifo, s->fifo + 1, --s->fifo_len);
	update_line(s);
	update_watch(s);
	return byte;
}

static uint8_t identify(struct serial *s)
{
	const uint8_t fifo = s->fcr & UART_FCR_ENABLE_FIFO ? IIR_FIFO : 0;

	if (s->ier & UART_IER_RDI && s->fifo_len)
		return fifo | UART_IIR_RDI;
	if (s->ier & UART_IER_THRI && s->thr_pending) {
		s->thr_pending = false;
		update_line(s);
		return fifo | UART_IIR_THRI;
	}
	return fifo | UART_IIR_NO_INT;
}

static uint8_t modem_status(const struct serial *s)
{
	/* In loopback the outputs are the inputs: DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to DCD. */
	if (s->mcr & UART_MCR_LOOP)
		return (uint8_t)((s->mcr & UART_MCR_DTR ? UART_MSR_DSR : 0) |
				 (s->mcr & UART_MCR_RTS ? UART_MSR_CTS : 0) |
				 (s->mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0) |
				 (s->mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0));
	return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
}

static uint64_t serial_read(void *opaque, uint64_t offset, unsigned size)
{
	struct serial *s = opaque;

	(void)size;
	switch (offset) {
	case UART_RX:
		return s->lcr & UART_LCR_DLAB ? s->divisor & 0xff : take(s);
	case UART_IER:
		return s->lcr & UART_LCR_DLAB ? s->divisor >> 8 : s->ier;
	case UART_IIR:
		return identify(s);
	case UART_LCR:
		return s->lcr;
	case UART_MCR:
		return s->mcr;
	case UART_LSR:
		return (s->fifo_len ? UART_LSR_DR : 0) | (can_send(s) ? UART_LSR_THRE | UART_LSR_TEMT : 0);
	case UART_MSR:
		return modem_status(s);
	default:
		return s->scr;
	}
}

static void write_ier(struct serial *s, uint8_t value)
{
	/* Enabling the interrupt of an empty transmitter raises it. */
	if (value & UART_IER_THRI && !(s->ier & UART_IER_THRI) && can_send(s))
		s->thr_pending = true;
	s->ier = value & IER_MASK;
	update_line(s);
}

static void write_fcr(struct serial *s, uint8_t value)
{
	/* Both FIFOs are cleared when they are turned on or off. */
	if (value & UART_FCR_CLEAR_RCVR || (value ^ s->fcr) & UART_FCR_ENABLE_FIFO)
		s->fifo_len = 0;
	s->fcr = value & FCR_KEPT;
	update_line(s);
	update_watch(s);
}

static void serial_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct serial *s = opaque;
	const uint8_t byte = value & 0xff;

	(void)size;
	switch (offset) {
	case UART_TX:
		if (s->lcr & UART_LCR_DLAB)
			s->divisor = (s->divisor & 0xff00) | byte;
		else
			transmit(s, byte);
		break;
	case UART_IER:
		if (s->lcr & UART_LCR_DLAB)
			s->divisor = (uint16_t)((s->divisor & 0xff) | byte << 8);
		else
			write_ier(s, byte);
		break;
	case UART_FCR:
		write_fcr(s, byte);
		break;
	case UART_LCR:
		s->lcr = byte;
		break;
	case UART_MCR:
		s->mcr = byte & MCR_MASK;
		break;
	case UART_SCR:
		s->scr = byte;
		break;
	default: /* line and modem status are read-only */
		break;
	}
}

int serial_init(struct serial *s, struct loop *loop, struct irqchip *irqchip, unsigned gsi, int fd,
		struct err *err)
{
	*s = (struct serial){ .loop = loop, .irqchip = irqchip, .gsi = gsi, .fd = fd, .divisor = 1 };
	if (fd < 0)
		return 0;
	s->watch = watch_new(loop, fd, EPOLLIN, on_event, s);
	return s->watch ? 0 : err_sys(err, -errno, "cannot watch the console");
}

void serial_release(struct serial *s)
{
	watch_free(s->watch);
	s->watch = NULL;
	buf_release(&s->out);
}

struct mmio_region serial_region(struct serial *s, uint64_t port)
{
	return (struct mmio_region){ "serial port", port, REGS, serial_read, serial_write, s };
}

void serial_save(const struct serial *s, struct buf *buf)
{
	buf_put_u8(buf, s->ier);
	buf_put_u8(buf, s->fcr);
	buf_put_u8(buf, s->lcr);
	buf_put_u8(buf, s->mcr);
	buf_put_u8(buf, s->scr);
	buf_put_u16(buf, s->divisor);
	buf_put_u8(buf, s->thr_pending);
	buf_put_bytes(buf, s->fifo, s->fifo_len);
}

int serial_load(struct serial *s, struct reader *reader, struct err *err)
{
	const uint8_t *fifo;
	size_t fifo_len;
	struct serial loaded = *s;

	loaded.ier = get_u8(reader) & IER_MASK;
	loaded.fcr = get_u8(reader) & FCR_KEPT;
	loaded.lcr = get_u8(reader);
	loaded.mcr = get_u8(reader) & MCR_MASK;
	loaded.scr = get_u8(reader);
	loaded.divisor = get_u16(reader);
	loaded.thr_pending = get_u8(reader) & 1;
	fifo = get_bytes(reader, &fifo_len);
	if (reader->bad)
		return err_set(err, -EINVAL, "the saved state of the serial port is cut short");
	if (fifo_len > fifo_size(&loaded))
		return err_set(err, -EINVAL, "the saved serial port holds more characters than fit");
	memcpy(loaded.fifo, fifo, fifo_len);
	loaded.fifo_len = (unsigned)fifo_len;
	*s = loaded;
	update_watch(s);
	return 0;
}

void serial_kick(struct serial *s)
{
	/*
	 * A guest that waited for a full transmitter was promised an interrupt, but what filled it stayed
	 * with the machine that was captured: here the transmitter is empty.
	 */
	if (s->ier & UART_IER_THRI)
		s->thr_pending = true;
	s->line = false;
	update_line(s);
}
