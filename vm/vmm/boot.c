/* SPDX-License-Identifier: MIT */
/*
 * boot.c - a Linux kernel into memory, and the first CPU to its first instruction
 *
 * A bzImage is a setup part, which only its header interests us of, and a compressed kernel that unpacks
 * itself. We put the latter at the address it prefers (16 MiB in practice), the initrd as high as it may be,
 * and all small things below 1 MiB (layout.h).
 */
#include "vm/vmm/boot.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "util/io.h"
#include "vm/vmm/layout.h"
#include "vm/vmm/power.h"

enum {
	SECTOR = 512,
	SETUP_HEADER = 0x1f1, /* offset of struct setup_header in the file and in the zero page */
	BOOT_FLAG = 0xaa55,
	PROTOCOL_MIN = 0x020c, /* brought xloadflags */
	ENTRY_64 = 0x200,      /* from the start of the loaded kernel */
	LOADER_UNDEFINED = 0xff,
	PAGE = 4096,

	E820_RAM = 1,
	E820_RESERVED = 2,

	PTE_PRESENT = 1 << 0,
	PTE_WRITE = 1 << 1,
	PTE_HUGE = 1 << 7,

	RESET_PORT = POWER_PORT + POWER_RESET,

	CODE_SELECTOR = 0x10, /* __BOOT_CS */
	DATA_SELECTOR = 0x18, /* __BOOT_DS */
	TSS_SELECTOR = 0x20,
};

#define CR0_PE (1ull << 0)
#define CR0_ET (1ull << 4)
#define CR0_PG (1ull << 31)
#define CR4_PAE (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)

static int read_file(int fd, const char *what, void *buf, size_t len, uint64_t offset, struct err *err)
{
	const int rc = pread_all(fd, buf, len, offset);

	if (rc == -EIO)
		return err_set(err, -EINVAL, "%s is cut short", what);
	return rc ? err_sys(err, rc, "cannot read %s", what) : 0;
}

static int file_size(int fd, const char *what, uint64_t *ret, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, -errno, "cannot read %s", what);
	*ret = (uint64_t)st.st_size;
	return 0;
}

static int read_header(int fd, struct setup_header *header, struct err *err)
{
	int rc = read_file(fd, "the kernel", header, sizeof(*header), SETUP_HEADER, err);

	if (rc)
		return rc;
	if (header->boot_flag != BOOT_FLAG || memcmp(&header->header, "HdrS", 4) != 0)
		return err_set(err, -EINVAL, "the kernel is not a bzImage");
	if (header->version < PROTOCOL_MIN || !(header->xloadflags & XLF_KERNEL_64))
		return err_set(err, -EINVAL, "the kernel has no 64-bit entry point");
	return 0;
}

static int load_kernel(const struct guest_memory *memory, int fd, struct setup_header *header,
		       struct err *err)
{
	uint64_t size = 0, setup;
	void *to;
	int rc = file_size(fd, "the kernel", &size, err);

	if (!rc)
		rc = read_header(fd, header, err);
	if (rc)
		return rc;
	/* 0 means 4, for kernels older than all this. */
	setup = (uint64_t)((header->setup_sects ? header->setup_sects : 4) + 1) * SECTOR;
	if (setup >= size || header->init_size < size - setup || header->pref_address < HIGH_RAM_ADDR)
		return err_set(err, -EINVAL, "the header of the kernel contradicts its size");
	/* It unpacks itself within init_size bytes from where it is. */
	to = header->pref_address < guest_low_size(memory)
		     ? guest_ptr(memory, header->pref_address, header->init_size)
		     : NULL;
	if (!to)
		return err_set(err, -ENOMEM, "the kernel needs %llu MiB of memory",
			       (unsigned long long)(header->pref_address + header->init_size) >> 20);
	return read_file(fd, "the kernel", to, size - setup, setup, err);
}

static int load_initrd(const struct guest_memory *memory, int fd, struct setup_header *header,
		       struct err *err)
{
	const uint64_t kernel_end = header->pref_address + header->init_size;
	uint64_t size = 0, end, at;
	int rc = file_size(fd, "the initrd", &size, err);

	if (rc)
		return rc;
	end = guest_low_size(memory);
	if (end > (uint64_t)header->initrd_addr_max + 1)
		end = (uint64_t)header->initrd_addr_max + 1;
	at = (end - size) / PAGE * PAGE;
	if (!size || end < kernel_end || size > end - kernel_end || at < kernel_end)
		return err_set(err, -ENOMEM, "the initrd does not fit into memory");
	header->ramdisk_image = (uint32_t)at;
	header->ramdisk_size = (uint32_t)size;
	return read_file(fd, "the initrd", guest_ptr(memory, at, size), size, 0, err);
}

static void add_e820(struct boot_params *params, uint64_t start, uint64_t end, uint32_t type)
{
	if (start < end)
		params->e820_table[params->e820_entries++] =
			(struct boot_e820_entry){ .addr = start, .size = end - start, .type = type };
}

static void write_zero_page(const struct guest_memory *memory, struct boot_params *params,
			    const struct setup_header *header)
{
	const uint64_t low = guest_low_size(memory);

	memset(params, 0, sizeof(*params));
	params->hdr = *header;
	params->hdr.type_of_loader = LOADER_UNDEFINED;
	params->hdr.cmd_line_ptr = CMDLINE_ADDR;
	add_e820(params, 0, EBDA_ADDR, E820_RAM);
	add_e820(params, EBDA_ADDR, HIGH_RAM_ADDR, E820_RESERVED);
	add_e820(params, HIGH_RAM_ADDR, low, E820_RAM);
	add_e820(params, GUEST_HIGH_BASE, GUEST_HIGH_BASE + memory->size - low, E820_RAM);
}

int boot_write_tables(const struct guest_memory *memory, struct err *err)
{
	/* Flat segments, as __BOOT_CS and __BOOT_DS are defined: 64-bit code, writable data. */
	static const uint64_t gdt[] = { 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff };
	enum { ENTRIES = PAGE / 8, DIRECTORIES = 4 };
	uint64_t *tables = guest_ptr(memory, PAGE_TABLES_ADDR, (2 + DIRECTORIES) * PAGE);
	void *gdt_ptr = guest_ptr(memory, GDT_ADDR, sizeof(gdt));
	uint64_t i;

	if (!tables || !gdt_ptr)
		return err_set(err, -ENOMEM, "no room for page tables");
	memcpy(gdt_ptr, gdt, sizeof(gdt));
	memset(tables, 0, (2 + DIRECTORIES) * PAGE);
	tables[0] = (PAGE_TABLES_ADDR + PAGE) | PTE_PRESENT | PTE_WRITE;
	for (i = 0; i < DIRECTORIES; i++)
		tables[ENTRIES + i] = (PAGE_TABLES_ADDR + (2 + i) * PAGE) | PTE_PRESENT | PTE_WRITE;
	for (i = 0; i < DIRECTORIES * ENTRIES; i++)
		tables[2 * ENTRIES + i] = i << 21 | PTE_PRESENT | PTE_WRITE | PTE_HUGE;
	return 0;
}

/*
 * All the firmware there is: where a PC's begins after a reset, which is where a kernel jumps to in 16-bit
 * mode that has no better way to reset (Linux on reduced-hardware ACPI, unless told reboot=a).
 */
static void write_reset_code(const struct guest_memory *memory)
{
	/* mov $value, %al; mov $port, %dx; out %al, %dx; 1: hlt; jmp 1b */
	static const uint8_t code[] = {
		0xb0, POWER_RESET_VALUE, 0xba, RESET_PORT & 0xff, RESET_PORT >> 8, 0xee, 0xf4, 0xeb, 0xfd
	};
	void *to = guest_ptr(memory, RESET_ADDR, sizeof(code));

	if (to)
		memcpy(to, code, sizeof(code));
}

int boot_load(const struct guest_memory *memory, int kernel_fd, int initrd_fd, const char *cmdline,
	      uint64_t *ret_entry, struct err *err)
{
	struct setup_header header;
	struct boot_params *params = guest_ptr(memory, ZERO_PAGE_ADDR, sizeof(*params));
	char *cmdline_ptr = guest_ptr(memory, CMDLINE_ADDR, CMDLINE_MAX);
	int rc;

	if (!params || !cmdline_ptr)
		return err_set(err, -ENOMEM, "no memory to boot in");
	rc = load_kernel(memory, kernel_fd, &header, err);
	if (!rc && initrd_fd >= 0)
		rc = load_initrd(memory, initrd_fd, &header, err);
	if (!rc && (strlen(cmdline) >= CMDLINE_MAX || strlen(cmdline) > header.cmdline_size))
		rc = err_set(err, -E2BIG, "the kernel's command line is too long");
	if (!rc)
		rc = boot_write_tables(memory, err);
	if (rc)
		return rc;
	memcpy(cmdline_ptr, cmdline, strlen(cmdline) + 1);
	write_zero_page(memory, params, &header);
	write_reset_code(memory);
	*ret_entry = header.pref_address + ENTRY_64;
	return 0;
}

int boot_set_registers(int vcpu_fd, uint64_t entry, struct err *err)
{
	const struct kvm_regs regs = { .rip = entry, .rsi = ZERO_PAGE_ADDR, .rsp = BOOT_STACK, .rflags = 2 };
	struct kvm_segment code = {
		.selector = CODE_SELECTOR, .limit = ~0u, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	struct kvm_segment data = {
		.selector = DATA_SELECTOR, .limit = ~0u, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1
	};
	/* VMX does not enter a guest without a task register: a busy 64-bit TSS. */
	struct kvm_segment tss = { .selector = TSS_SELECTOR, .limit = 0x67, .type = 11, .present = 1 };
	struct kvm_sregs sregs;

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
		return err_sys(err, -errno, "cannot read the first CPU's registers");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.tr = tss;
	sregs.gdt = (struct kvm_dtable){ .base = GDT_ADDR, .limit = 4 * 8 - 1 };
	sregs.idt = (struct kvm_dtable){ .base = 0, .limit = 0 };
	sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
	sregs.cr3 = PAGE_TABLES_ADDR;
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_LME | EFER_LMA;
	if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0)
		return err_sys(err, -errno, "cannot set the first CPU's registers");
	return 0;
}
