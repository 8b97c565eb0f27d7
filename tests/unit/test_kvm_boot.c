/* SPDX-License-Identifier: MIT */
/* test_kvm_boot.c - what a guest's kernel finds in its memory: itself, the zero page and the ACPI tables */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/bzimage.h"
#include "tests/unit/unit.h"
#include "vm/vmm/acpi.h"
#include "vm/vmm/boot.h"
#include "vm/vmm/irq.h"
#include "vm/vmm/layout.h"
#include "vm/vmm/power.h"

enum { MEMORY = 64 << 20, SETUP_SECTS = 4, PAYLOAD = 8192, PREF = 16 << 20, INIT_SIZE = 8 << 20 };

static struct guest_memory memory;
static char path[] = "/tmp/sbx-test-kernel-XXXXXX";

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* ---- ACPI */

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t total = 0;

	while (n--)
		total += *p++;
	return total;
}

/* The table at this address, whole and with a good checksum. */
static const uint8_t *table(uint64_t gpa, const char *signature)
{
	const uint8_t *t = guest_ptr(&memory, gpa, 36);

	CHECK(t && gpa >= ACPI_ADDR && !memcmp(t, signature, 4));
	CHECK(get32(t + 4) >= 36 && guest_ptr(&memory, gpa, get32(t + 4)));
	CHECK(gpa + get32(t + 4) <= ACPI_ADDR + ACPI_SIZE && sum(t, get32(t + 4)) == 0);
	return t;
}

static bool contains(const uint8_t *t, const void *what, size_t n)
{
	return memmem(t, get32(t + 4), what, n);
}

static void check_dsdt(const uint8_t *dsdt)
{
	const char id[] = "LNRO0005";
	const uint8_t *at = dsdt;
	uint32_t slot;
	/* An I/O descriptor with 16-bit decoding (ACPI 6.4, 6.4.2.5), base, base, alignment 0, length 8. */
	const uint8_t serial[] = {
		0x47, 1, SERIAL_PORT & 0xff, SERIAL_PORT >> 8, SERIAL_PORT & 0xff, SERIAL_PORT >> 8, 0, 8
	};
	/* Extended interrupt (6.4.3.6): consumer, edge, active high, exclusive. */
	const uint8_t serial_irq[] = { 0x89, 6, 0, 3, 1, SERIAL_IRQ, 0, 0, 0 };
	/* Name (_S5, Package (4) { 5 ... */
	const uint8_t s5[] = { '_', 'S', '5', '_', 0x12, 0x07, 4, 0x0a, POWER_S5 };

	CHECK(contains(dsdt, serial, sizeof(serial)) && contains(dsdt, serial_irq, sizeof(serial_irq)));
	CHECK(contains(dsdt, s5, sizeof(s5)));
	for (slot = 0; slot < VIRTIO_SLOTS; slot++) {
		const uint32_t base = VIRTIO_BASE + slot * VIRTIO_SLOT;
		/* 32-bit fixed memory (6.4.3.4): writable, base, length; then its interrupt. */
		uint8_t resources[12 + 9] = { 0x86, 9, 0, 1 };
		const uint8_t irq[] = { 0x89, 6, 0, 3, 1, (uint8_t)(VIRTIO_IRQ + slot), 0, 0, 0 };

		memcpy(resources + 4, &base, 4);
		memcpy(resources + 8, &(uint32_t){ VIRTIO_SLOT }, 4);
		memcpy(resources + 12, irq, sizeof(irq));
		CHECK(contains(dsdt, resources, sizeof(resources)));
	}
	for (slot = 0; (at = memmem(at, get32(dsdt + 4) - (size_t)(at - dsdt), id, 8)); slot++)
		at += 8;
	CHECK(slot == VIRTIO_SLOTS);
}

static void acpi_tables_describe_the_machine(void)
{
	const uint8_t *rsdp, *xsdt, *fadt, *madt;
	unsigned i;

	memset(guest_ptr(&memory, 0, MEMORY), 0, HIGH_RAM_ADDR);
	CHECK(acpi_write(&memory, 3, NULL) == 0);
	rsdp = guest_ptr(&memory, ACPI_ADDR, 36);
	CHECK(!memcmp(rsdp, "RSD PTR ", 8) && sum(rsdp, 20) == 0 && sum(rsdp, 36) == 0 && rsdp[15] == 2);
	xsdt = table(get64(rsdp + 24), "XSDT");
	CHECK(get32(xsdt + 4) == 36 + 2 * 8);
	fadt = table(get64(xsdt + 36), "FACP");
	CHECK(get32(fadt + 4) == 276 && get32(fadt + 112) & 1 << 20);
	CHECK(get64(fadt + 120) == POWER_PORT + POWER_RESET && fadt[128] == POWER_RESET_VALUE);
	CHECK(get64(fadt + 248) == POWER_PORT + POWER_SLEEP_CONTROL);
	CHECK(get64(fadt + 260) == POWER_PORT + POWER_SLEEP_STATUS);
	check_dsdt(table(get64(fadt + 140), "DSDT"));

	madt = table(get64(xsdt + 44), "APIC");
	CHECK(get32(madt + 4) == 44 + 3 * 8 + 12);
	for (i = 0; i < 3; i++)
		CHECK(madt[44 + 8 * i] == 0 && madt[44 + 8 * i + 3] == i &&
		      get32(madt + 44 + 8 * i + 4) == 1);
	CHECK(madt[68] == 1 && get32(madt + 72) == IOAPIC_BASE && get32(madt + 76) == 0);
	CHECK(acpi_write(&(struct guest_memory){ .host = memory.host, .size = ACPI_ADDR }, 1, NULL) ==
	      -EINVAL);
}

/* ---- kernels */

static struct setup_header good_header(void)
{
	return bzimage_header(SETUP_SECTS, PREF, INIT_SIZE);
}

static int load(const struct setup_header *header, const char *initrd, const char *cmdline, uint64_t *entry,
		struct err *err)
{
	static uint8_t file[(SETUP_SECTS + 1) * 512 + PAYLOAD];
	int fd = open(path, O_RDWR | O_TRUNC | O_CLOEXEC), initrd_fd = -1, rc;

	memset(file, 0, sizeof(file));
	memcpy(file + 0x1f1, header, sizeof(*header));
	memset(file + sizeof(file) - PAYLOAD, 0xc3, PAYLOAD);
	CHECK(fd >= 0 && write(fd, file, sizeof(file)) == sizeof(file));
	if (initrd) {
		initrd_fd = open(initrd, O_RDONLY | O_CLOEXEC);
		CHECK(initrd_fd >= 0);
	}
	rc = boot_load(&memory, fd, initrd_fd, cmdline, entry, err);
	close(initrd_fd);
	close(fd);
	return rc;
}

static void a_kernel_is_put_where_it_wants_to_be(void)
{
	const struct setup_header header = good_header();
	const struct boot_params *zero;
	uint64_t entry = 0;
	struct err err;

	CHECK(load(&header, path, "quiet", &entry, &err) == 0);
	CHECK(entry == PREF + 0x200);
	CHECK(*(uint8_t *)guest_ptr(&memory, PREF, 1) == 0xc3);
	CHECK(*(uint8_t *)guest_ptr(&memory, PREF + PAYLOAD - 1, 1) == 0xc3);
	CHECK(!strcmp(guest_ptr(&memory, CMDLINE_ADDR, 6), "quiet"));
	zero = guest_ptr(&memory, ZERO_PAGE_ADDR, sizeof(*zero));
	CHECK(zero->hdr.cmd_line_ptr == CMDLINE_ADDR && zero->hdr.type_of_loader == 0xff);
	CHECK(zero->hdr.ramdisk_size == (SETUP_SECTS + 1) * 512 + PAYLOAD);
	CHECK(zero->hdr.ramdisk_image % 4096 == 0);
	CHECK(zero->hdr.ramdisk_image + zero->hdr.ramdisk_size <= MEMORY);
	CHECK(zero->hdr.ramdisk_image >= PREF + INIT_SIZE);
	/* mov $value, %al; mov $port, %dx; out %al, %dx */
	CHECK(!memcmp(
		guest_ptr(&memory, 0xffff0, 6),
		((const uint8_t[]){ 0xb0, POWER_RESET_VALUE, 0xba, POWER_RESET, POWER_PORT >> 8, 0xee }), 6));
	CHECK(zero->e820_entries == 3 && zero->e820_table[2].addr == HIGH_RAM_ADDR);
	CHECK(zero->e820_table[2].addr + zero->e820_table[2].size == MEMORY && zero->e820_table[2].type == 1);
}

static void bad_kernels_are_refused(void)
{
	struct setup_header header = good_header();
	char cmdline[CMDLINE_MAX + 1];
	uint64_t entry = 0;
	struct err err;

	header.boot_flag = 0;
	CHECK(load(&header, NULL, "", &entry, &err) == -EINVAL && strstr(err.text, "not a bzImage"));
	header = good_header();
	header.xloadflags = 0;
	CHECK(load(&header, NULL, "", &entry, &err) == -EINVAL && strstr(err.text, "64-bit"));
	header = good_header();
	header.version = 0x20b;
	CHECK(load(&header, NULL, "", &entry, &err) == -EINVAL);
	header = good_header();
	header.setup_sects = 255; /* the kernel would begin after the end */
	CHECK(load(&header, NULL, "", &entry, &err) == -EINVAL && strstr(err.text, "contradicts"));
	header = good_header();
	header.init_size = PAYLOAD - 1;
	CHECK(load(&header, NULL, "", &entry, &err) == -EINVAL);
	header = good_header();
	header.pref_address = 0; /* over the tables */
	CHECK(load(&header, NULL, "", &entry, &err) == -EINVAL);
	header = good_header();
	header.pref_address = MEMORY - INIT_SIZE + 4096;
	CHECK(load(&header, NULL, "", &entry, &err) == -ENOMEM && strstr(err.text, "MiB"));
	header.pref_address = UINT64_MAX - 100;
	CHECK(load(&header, NULL, "", &entry, &err) == -ENOMEM);
	header = good_header();
	header.initrd_addr_max = PREF + INIT_SIZE; /* no room between */
	CHECK(load(&header, path, "", &entry, &err) == -ENOMEM);
	header.initrd_addr_max = 0;
	CHECK(load(&header, path, "", &entry, &err) == -ENOMEM);
	header = good_header();
	memset(cmdline, 'a', CMDLINE_MAX);
	cmdline[CMDLINE_MAX] = '\0';
	CHECK(load(&header, NULL, cmdline, &entry, &err) == -E2BIG);
	header = good_header();
	CHECK(load(&header, "/dev", "", &entry, &err) == -EISDIR && strstr(err.text, "the initrd"));
	CHECK(entry == 0);
}

int main(void)
{
	int fd = mkstemp(path);

	CHECK(fd >= 0 && close(fd) == 0);
	CHECK(guest_memory_reserve(&memory, MEMORY, NULL) == 0 && guest_memory_map_zero(&memory, NULL) == 0);
	TEST(acpi_tables_describe_the_machine);
	TEST(a_kernel_is_put_where_it_wants_to_be);
	TEST(bad_kernels_are_refused);
	guest_memory_release(&memory);
	unlink(path);
	return 0;
}
