/* SPDX-License-Identifier: MIT */
/* test_kvm_devices.c - memory, address dispatch, interrupts and the serial port, without a virtual machine */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "vm/vmm/irq.h"
#include "vm/vmm/layout.h"
#include "vm/vmm/memory.h"
#include "vm/vmm/mmio.h"
#include "vm/vmm/power.h"
#include "vm/vmm/serial.h"

/* ---- memory */

static void guest_addresses_are_checked(void)
{
	struct guest_memory small, big;
	uint8_t *bytes;

	CHECK(guest_memory_reserve(&small, 1 << 20, NULL) == 0 &&
	      guest_memory_reserve(&big, 5ull << 30, NULL) == 0);
	bytes = small.host;

	CHECK(guest_ptr(&small, 0, 1 << 20) == bytes);
	CHECK(!guest_ptr(&small, 0, (1 << 20) + 1));
	CHECK(guest_ptr(&small, 1 << 20, 0) == bytes + (1 << 20));
	CHECK(!guest_ptr(&small, 1 << 20, 1));
	CHECK(!guest_ptr(&small, UINT64_MAX, 1));
	CHECK(!guest_ptr(&small, 1, UINT64_MAX));
	CHECK(!guest_ptr(&small, GUEST_HIGH_BASE, 1));

	bytes = big.host;
	CHECK(guest_ptr(&big, GUEST_LOW_MAX - 1, 1) == bytes + GUEST_LOW_MAX - 1);
	CHECK(!guest_ptr(&big, GUEST_LOW_MAX - 1, 2));
	CHECK(!guest_ptr(&big, GUEST_HIGH_BASE - 1, 1));
	CHECK(guest_ptr(&big, GUEST_HIGH_BASE, 1) == bytes + GUEST_LOW_MAX);
	CHECK(guest_ptr(&big, GUEST_HIGH_BASE, (2ull << 30)) == bytes + GUEST_LOW_MAX);
	CHECK(!guest_ptr(&big, GUEST_HIGH_BASE, (2ull << 30) + 1));
	CHECK(!guest_ptr(&big, GUEST_HIGH_BASE + (2ull << 30), 1));
	CHECK(!guest_ptr(&big, GUEST_HIGH_BASE + 1, UINT64_MAX));
	guest_memory_release(&small);
	guest_memory_release(&big);
}

static void only_sealed_templates_are_mapped(void)
{
	const char text[] = "template";
	struct guest_memory memory;
	struct err err = { 0 };
	const int fd = memfd_create("test", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	const struct guest_template template = { .ram_fd = fd, .overlay_fd = -1, .map_fd = -1 };

	CHECK(fd >= 0 && ftruncate(fd, 8192) == 0 && pwrite(fd, text, sizeof(text), 4096) == sizeof(text));
	CHECK(guest_memory_reserve(&memory, 100, &err) == -EINVAL);
	CHECK(guest_memory_reserve(&memory, 4096, &err) == 0);
	CHECK(guest_memory_map_template(&memory, &template, &err) == -EINVAL && strstr(err.text, "8192"));
	guest_memory_release(&memory);

	CHECK(guest_memory_reserve(&memory, 8192, &err) == 0);
	CHECK(guest_memory_map_template(&memory, &template, &err) == -EINVAL && strstr(err.text, "sealed"));
	CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK) == 0);
	CHECK(guest_memory_map_template(&memory, &template, &err) == 0);
	CHECK(!memcmp(memory.host + 4096, text, sizeof(text)) && !memory.host[0]);
	memory.host[4096] = 'T'; /* ours alone */
	CHECK(pread(fd, &memory.host[0], 1, 4096) == 1 && memory.host[0] == 't');
	guest_memory_release(&memory);
	CHECK(fcntl(fd, F_GETFD) < 0);
}

/* ---- address dispatch */

static uint64_t last_offset, last_value;
static unsigned last_size;

static uint64_t record_read(void *opaque, uint64_t offset, unsigned size)
{
	last_offset = offset;
	last_size = size;
	return (uintptr_t)opaque;
}

static void record_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	record_read(opaque, offset, size);
	last_value = value;
}

static struct mmio_region region_at(uint64_t base, uint64_t len, uintptr_t id)
{
	return (struct mmio_region){ "test", base, len, record_read, record_write, (void *)id };
}

static void accesses_find_their_region(void)
{
	struct mmio_bus bus = { .n = 0 };
	struct mmio_region r;
	struct err err = { 0 };

	r = region_at(0x3000, 0x1000, 3);
	CHECK(mmio_add(&bus, &r, &err) == 0);
	r = region_at(0x1000, 0x1000, 1);
	CHECK(mmio_add(&bus, &r, &err) == 0);
	r = region_at(0x2000, 0x1000, 2);
	CHECK(mmio_add(&bus, &r, &err) == 0);
	r = region_at(0x1fff, 1, 9);
	CHECK(mmio_add(&bus, &r, &err) == -EEXIST);
	r = region_at(0x800, 0x801, 9);
	CHECK(mmio_add(&bus, &r, &err) == -EEXIST);
	r = region_at(UINT64_MAX, 2, 9);
	CHECK(mmio_add(&bus, &r, &err) == -EINVAL);
	r = region_at(0x5000, 0, 9);
	CHECK(mmio_add(&bus, &r, &err) == -EINVAL);

	CHECK(mmio_read(&bus, 0x1000, 4) == 1 && last_offset == 0 && last_size == 4);
	CHECK(mmio_read(&bus, 0x2ffc, 4) == 2 && last_offset == 0xffc);
	CHECK(mmio_read(&bus, 0x2ffd, 4) == UINT64_MAX); /* would reach into the next */
	CHECK(mmio_read(&bus, 0x4000, 1) == UINT64_MAX);
	mmio_write(&bus, 0x3008, 8, 77);
	CHECK(last_offset == 8 && last_size == 8 && last_value == 77);
	last_value = 0;
	mmio_write(&bus, 0xfff, 1, 5);
	CHECK(last_value == 0);
}

/* ---- interrupts */

static void ioapic_write(struct mmio_bus *bus, uint8_t index, uint32_t value)
{
	mmio_write(bus, IOAPIC_BASE, 4, index);
	mmio_write(bus, IOAPIC_BASE + 0x10, 4, value);
}

static uint32_t ioapic_read(struct mmio_bus *bus, uint8_t index)
{
	mmio_write(bus, IOAPIC_BASE, 4, index);
	return (uint32_t)mmio_read(bus, IOAPIC_BASE + 0x10, 4);
}

static void ioapic_registers_behave(void)
{
	struct irqchip irqchip, copy;
	struct mmio_bus bus = { .n = 0 };
	struct mmio_region region;
	struct buf buf = { 0 };
	struct reader reader;
	struct err err = { 0 };

	irq_init(&irqchip, -1);
	region = irq_region(&irqchip);
	CHECK(mmio_add(&bus, &region, &err) == 0);
	CHECK(ioapic_read(&bus, 1) == 0x00170011);
	CHECK(ioapic_read(&bus, 0x10) == 0x10000 && ioapic_read(&bus, 0x11) == 0);
	ioapic_write(&bus, 0x10 + 2 * 16, 0xffffffff);
	CHECK(ioapic_read(&bus, 0x10 + 2 * 16) == 0xffffafff);
	ioapic_write(&bus, 0x11 + 2 * 16, 0x03000000);
	CHECK(ioapic_read(&bus, 0x11 + 2 * 16) == 0x03000000);
	ioapic_write(&bus, 0x40, 1); /* one past the last entry */
	CHECK(ioapic_read(&bus, 0x40) == 0);

	irq_pulse(&irqchip, 16);
	CHECK(irqchip.pending == 1u << 16);
	irq_save(&irqchip, &buf);
	irq_init(&copy, -1);
	reader = reader_init(buf_bytes(&buf), buf.len - 1);
	CHECK(irq_load(&copy, &reader, &err) == -EINVAL && !copy.pending);
	reader = reader_init(buf_bytes(&buf), buf.len);
	CHECK(irq_load(&copy, &reader, &err) == 0 && copy.select == irqchip.select &&
	      copy.pending == irqchip.pending &&
	      !memcmp(copy.entries, irqchip.entries, sizeof(copy.entries)));
	ioapic_write(&bus, 0x10 + 2 * 16, 0x31); /* unmasked: what was pending goes out */
	CHECK(!irqchip.pending);
	buf_release(&buf);
}

/* ---- power */

static int power_event = -1;

static void on_power(void *arg, enum power_event event)
{
	(void)arg;
	power_event = (int)event;
}

static void power_ports_end_the_machine(void)
{
	struct power power = { .event = on_power };
	struct mmio_bus pio = { .n = 0 };
	struct err err = { 0 };

	CHECK(power_add(&power, &pio, &err) == 0);
	mmio_write(&pio, POWER_PORT, 1, 5 << 2); /* without SLP_EN */
	mmio_write(&pio, POWER_PORT, 1, 3 << 2 | 1 << 5);
	mmio_write(&pio, POWER_PORT + 2, 1, 2);
	mmio_write(&pio, 0x64, 1, 0xd1);
	CHECK(power_event == -1);
	mmio_write(&pio, POWER_PORT, 1, 5 << 2 | 1 << 5);
	CHECK(power_event == POWER_OFF);
	mmio_write(&pio, POWER_PORT + 2, 1, 1);
	CHECK(power_event == POWER_RESET_REQUEST);
	power_event = -1;
	mmio_write(&pio, 0x64, 1, 0xfe);
	CHECK(power_event == POWER_RESET_REQUEST);
}

/* ---- the serial port */

struct port {
	struct loop *loop;
	struct irqchip irqchip;
	struct mmio_bus pio;
	struct serial serial;
	int peer;
	int fd;
};

static void port_open(struct port *port)
{
	struct err err = { 0 };
	struct mmio_region region;
	int fds[2];

	memset(port, 0, sizeof(*port));
	port->loop = loop_new();
	CHECK(port->loop && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
	port->peer = fds[0];
	port->fd = fds[1];
	irq_init(&port->irqchip, -1);
	CHECK(serial_init(&port->serial, port->loop, &port->irqchip, SERIAL_IRQ, port->fd, &err) == 0);
	region = serial_region(&port->serial, SERIAL_PORT);
	CHECK(mmio_add(&port->pio, &region, &err) == 0);
}

static void port_close(struct port *port)
{
	serial_release(&port->serial);
	if (port->peer >= 0)
		close(port->peer);
	close(port->fd);
	CHECK(loop_once(port->loop, 0) == 0);
	loop_free(port->loop);
}

static uint8_t in(struct port *port, unsigned reg)
{
	return (uint8_t)mmio_read(&port->pio, SERIAL_PORT + reg, 1);
}

static void out(struct port *port, unsigned reg, uint8_t value)
{
	mmio_write(&port->pio, SERIAL_PORT + reg, 1, value);
}

/* Did the line rise since the last time? All lines are masked, so that pulses are kept. */
static bool interrupted(struct port *port)
{
	const bool pending = port->irqchip.pending & 1u << SERIAL_IRQ;

	port->irqchip.pending = 0;
	return pending;
}

static void serial_sends_and_receives(void)
{
	struct port port;
	char text[8] = "";

	port_open(&port);
	CHECK(in(&port, 5) == 0x60 && in(&port, 2) == 0x01);
	out(&port, 0, 'h');
	out(&port, 0, 'i');
	CHECK(read(port.peer, text, sizeof(text)) == 2 && !strcmp(text, "hi"));

	out(&port, 1, 1);
	CHECK(!interrupted(&port) && write(port.peer, "xy", 2) == 2);
	CHECK(loop_once(port.loop, 1000) == 0);
	CHECK(interrupted(&port) && in(&port, 2) == 0x04 && in(&port, 5) & 1);
	CHECK(in(&port, 0) == 'x' && !(in(&port, 5) & 1)); /* no FIFO: one at a time */
	CHECK(loop_once(port.loop, 1000) == 0 && interrupted(&port));
	CHECK(in(&port, 0) == 'y' && in(&port, 2) == 0x01);

	out(&port, 3, 0x80); /* DLAB */
	out(&port, 0, 0x34);
	out(&port, 1, 0x12);
	CHECK(in(&port, 0) == 0x34 && in(&port, 1) == 0x12);
	out(&port, 3, 0x03);
	CHECK(in(&port, 1) == 1);
	out(&port, 4, 0x1b); /* loop back, with DTR, RTS and OUT2 */
	CHECK(in(&port, 6) == 0xb0);
	out(&port, 0, 'L');
	CHECK(in(&port, 0) == 'L' && read(port.peer, text, 1) < 0);
	port_close(&port);
}

static void serial_interrupts_when_the_transmitter_is_empty(void)
{
	struct port port;

	port_open(&port);
	out(&port, 1, 2);
	CHECK(interrupted(&port));
	CHECK(in(&port, 2) == 0x02);
	CHECK(in(&port, 2) == 0x01); /* reading it clears it */
	out(&port, 0, 'a');
	CHECK(interrupted(&port) && in(&port, 2) == 0x02);
	port_close(&port);
}

static void serial_waits_for_a_slow_reader(void)
{
	struct port port;
	char chunk[4096];
	size_t sent = 0, got = 0;
	ssize_t n;

	port_open(&port);
	while (in(&port, 5) & 0x20 && sent < 1 << 20) {
		out(&port, 0, (uint8_t)('a' + sent % 26));
		sent++;
	}
	CHECK(sent > SERIAL_OUT_MAX && sent < 1 << 20);
	out(&port, 1, 2);
	CHECK(!interrupted(&port));
	while (got < sent) {
		n = read(port.peer, chunk, sizeof(chunk));
		for (ssize_t i = 0; i < n; i++, got++)
			CHECK(chunk[i] == 'a' + (char)(got % 26));
		CHECK(loop_once(port.loop, 0) == 0);
	}
	CHECK(interrupted(&port) && in(&port, 5) & 0x20);
	port_close(&port);
}

static void serial_survives_its_listener(void)
{
	struct port port;

	port_open(&port);
	close(port.peer);
	port.peer = -1;
	CHECK(loop_once(port.loop, 1000) == 0);
	out(&port, 0, 'a');
	CHECK(in(&port, 5) & 0x20);
	CHECK(loop_once(port.loop, 0) == 0);
	port_close(&port);
}

static void serial_state_goes_to_a_fork(void)
{
	struct port source, fork;
	struct buf buf = { 0 };
	struct reader reader;
	struct err err = { 0 };
	size_t len;

	port_open(&source);
	out(&source, 2, 0x01);
	out(&source, 1, 3);
	CHECK(write(source.peer, "input", 5) == 5 && loop_once(source.loop, 1000) == 0);
	serial_save(&source.serial, &buf);

	port_open(&fork);
	for (len = 0; len < buf.len; len++) {
		reader = reader_init(buf_bytes(&buf), len);
		CHECK(serial_load(&fork.serial, &reader, &err) == -EINVAL && in(&fork, 1) == 0);
	}
	buf.data[buf.start + 1] = 0; /* five characters, and no FIFO */
	reader = reader_init(buf_bytes(&buf), buf.len);
	CHECK(serial_load(&fork.serial, &reader, &err) == -EINVAL);
	buf.data[buf.start + 1] = 1;
	reader = reader_init(buf_bytes(&buf), buf.len);
	CHECK(serial_load(&fork.serial, &reader, &err) == 0 && !reader_left(&reader));
	CHECK(!interrupted(&fork));
	serial_kick(&fork.serial);
	CHECK(interrupted(&fork) && in(&fork, 2) == 0xc4);
	for (len = 0; len < 5; len++)
		CHECK(in(&fork, 0) == (uint8_t) "input"[len]);
	CHECK(in(&fork, 2) == 0xc2); /* the transmitter's interrupt may have been lost: here it is */
	buf_release(&buf);
	port_close(&source);
	port_close(&fork);
}

int main(void)
{
	TEST(guest_addresses_are_checked);
	TEST(only_sealed_templates_are_mapped);
	TEST(accesses_find_their_region);
	TEST(ioapic_registers_behave);
	TEST(power_ports_end_the_machine);
	TEST(serial_sends_and_receives);
	TEST(serial_interrupts_when_the_transmitter_is_empty);
	TEST(serial_waits_for_a_slow_reader);
	TEST(serial_survives_its_listener);
	TEST(serial_state_goes_to_a_fork);
	return 0;
}
