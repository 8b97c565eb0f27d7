/* SPDX-License-Identifier: MIT */
/*
 * acpi.c - the tables that describe the machine to the guest (ACPI 6.4, chapter 5)
 *
 * The RSDP comes first, at the start of the area that a kernel searches for it; the other tables follow, each
 * before the one that points at it.
 */
#include "vm/vmm/acpi.h"

#include <errno.h>
#include <string.h>

#include "util/buf.h"
#include "vm/vmm/dsdt.hex"
#include "vm/vmm/irq.h"
#include "vm/vmm/layout.h"
#include "vm/vmm/power.h"

enum {
	RSDP_SIZE = 36,
	RSDP_V1_SIZE = 20, /* what its first checksum covers */
	TABLE_LENGTH = 4,  /* offsets in a table's header */
	TABLE_CHECKSUM = 9,

	FADT_REVISION = 6,
	FADT_FLAGS_RESET_REG = 1 << 10,
	FADT_FLAGS_HW_REDUCED = 1 << 20,
	FADT_BOOT_NO_VGA = 1 << 2,
	FADT_BOOT_NO_CMOS_RTC = 1 << 5, /* Linux then takes the time from kvmclock */

	MADT_REVISION = 5,
	MADT_LOCAL_APIC = 0,
	MADT_IO_APIC = 1,
	MADT_CPU_ENABLED = 1 << 0,
	LOCAL_APIC_ADDR = 0xfee00000,

	ADDRESS_SPACE_IO = 1,
	ACCESS_BYTE = 1,
};

static void put_zeros(struct buf *buf, size_t n)
{
	while (n--)
		buf_put_u8(buf, 0);
}

static uint8_t checksum(const uint8_t *p, size_t n)
{
	uint8_t sum = 0;

	while (n--)
		sum += *p++;
	return (uint8_t)-sum;
}

/* Begin a table; returns its offset. Length and checksum come with table_end. */
static size_t table_begin(struct buf *buf, const char *signature, uint8_t revision)
{
	const size_t at = buf->len;

	buf_add(buf, signature, 4);
	buf_put_u32(buf, 0); /* length */
	buf_put_u8(buf, revision);
	buf_put_u8(buf, 0);            /* checksum */
	buf_add(buf, "SBXFS\0", 6);    /* OEM */
	buf_add(buf, "SBXVMM\0\0", 8); /* OEM's table */
	buf_put_u32(buf, 1);           /* its revision */
	buf_add(buf, "SBX\0", 4);      /* creator */
	buf_put_u32(buf, 1);
	return at;
}

static uint64_t table_end(struct buf *buf, size_t at)
{
	const uint32_t len = (uint32_t)(buf->len - at);
	uint8_t *table = buf_bytes(buf) + at;

	if (buf->failed)
		return 0;
	memcpy(table + TABLE_LENGTH, &len, sizeof(len));
	table[TABLE_CHECKSUM] = 0;
	table[TABLE_CHECKSUM] = checksum(table, len);
	while (buf->len % 8)
		buf_put_u8(buf, 0);
	return ACPI_ADDR + at;
}

/* A Generic Address Structure: one byte of I/O ports. */
static void put_port(struct buf *buf, uint16_t port)
{
	buf_put_u8(buf, ADDRESS_SPACE_IO);
	buf_put_u8(buf, 8); /* bits */
	buf_put_u8(buf, 0);
	buf_put_u8(buf, ACCESS_BYTE);
	buf_put_u64(buf, port);
}

static uint64_t put_fadt(struct buf *buf, uint64_t dsdt)
{
	const size_t at = table_begin(buf, "FACP", FADT_REVISION);

	put_zeros(buf, 109 - 36); /* fixed hardware: there is none */
	buf_put_u16(buf, FADT_BOOT_NO_VGA | FADT_BOOT_NO_CMOS_RTC);
	buf_put_u8(buf, 0);
	buf_put_u32(buf, FADT_FLAGS_RESET_REG | FADT_FLAGS_HW_REDUCED);
	put_port(buf, POWER_PORT + POWER_RESET);
	buf_put_u8(buf, POWER_RESET_VALUE);
	buf_put_u16(buf, 0); /* Arm's flags */
	buf_put_u8(buf, 4);  /* minor version */
	buf_put_u64(buf, 0); /* FACS */
	buf_put_u64(buf, dsdt);
	put_zeros(buf, 244 - 148); /* fixed hardware again, with wide addresses */
	put_port(buf, POWER_PORT + POWER_SLEEP_CONTROL);
	put_port(buf, POWER_PORT + POWER_SLEEP_STATUS);
	buf_add(buf, "SBXVMM\0\0", 8); /* hypervisor's vendor */
	return table_end(buf, at);
}

static uint64_t put_madt(struct buf *buf, unsigned cpus)
{
	const size_t at = table_begin(buf, "APIC", MADT_REVISION);
	unsigned i;

	buf_put_u32(buf, LOCAL_APIC_ADDR);
	buf_put_u32(buf, 0); /* no 8259 */
	for (i = 0; i < cpus; i++) {
		buf_put_u8(buf, MADT_LOCAL_APIC);
		buf_put_u8(buf, 8); /* length */
		buf_put_u8(buf, (uint8_t)i);
		buf_put_u8(buf, (uint8_t)i); /* APIC ID */
		buf_put_u32(buf, MADT_CPU_ENABLED);
	}
	buf_put_u8(buf, MADT_IO_APIC);
	buf_put_u8(buf, 12); /* length */
	buf_put_u8(buf, 0);  /* ID */
	buf_put_u8(buf, 0);
	buf_put_u32(buf, IOAPIC_BASE);
	buf_put_u32(buf, 0); /* its first line */
	return table_end(buf, at);
}

static uint64_t put_dsdt(struct buf *buf)
{
	const size_t at = buf->len;

	buf_add(buf, dsdt_aml_code, sizeof(dsdt_aml_code));
	return table_end(buf, at);
}

static void make_rsdp(uint8_t rsdp[RSDP_SIZE], uint64_t xsdt)
{
	const uint32_t len = RSDP_SIZE;

	memset(rsdp, 0, RSDP_SIZE);
	/* ACPI fields are of fixed length, without a terminator.
	 * NOLINTBEGIN(bugprone-not-null-terminated-result) */
	memcpy(rsdp, "RSD PTR ", 8);
	memcpy(rsdp + 9, "SBXFS", 5);
	/* NOLINTEND(bugprone-not-null-terminated-result) */
	rsdp[15] = 2; /* revision */
	memcpy(rsdp + 20, &len, sizeof(len));
	memcpy(rsdp + 24, &xsdt, sizeof(xsdt));
	rsdp[8] = checksum(rsdp, RSDP_V1_SIZE);
	rsdp[32] = checksum(rsdp, RSDP_SIZE);
}

int acpi_write(const struct guest_memory *memory, unsigned cpus, struct err *err)
{
	struct buf buf = { 0 };
	uint64_t dsdt, fadt, madt, xsdt;
	uint8_t rsdp[RSDP_SIZE], *area;
	size_t at;
	int rc = 0;

	put_zeros(&buf, (RSDP_SIZE + 7) / 8 * 8);
	dsdt = put_dsdt(&buf);
	fadt = put_fadt(&buf, dsdt);
	madt = put_madt(&buf, cpus);
	at = table_begin(&buf, "XSDT", 1);
	buf_put_u64(&buf, fadt);
	buf_put_u64(&buf, madt);
	xsdt = table_end(&buf, at);
	area = guest_ptr(memory, ACPI_ADDR, ACPI_SIZE);
	if (buf.failed) {
		rc = err_set(err, -ENOMEM, "out of memory");
	} else if (!area || buf.len > ACPI_SIZE) {
		rc = err_set(err, -EINVAL, "no room for the ACPI tables");
	} else {
		make_rsdp(rsdp, xsdt);
		memcpy(area, buf_bytes(&buf), buf.len);
		memcpy(area, rsdp, RSDP_SIZE);
	}
	buf_release(&buf);
	return rc;
}
