/* SPDX-License-Identifier: MIT */
/*
 * cmdline.c - the command line that makes QEMU the machine we want
 *
 * The machine is microvm: virtio-mmio devices described in ACPI, no PCI, no option ROMs, qboot as firmware.
 * The device list is the same for a boot and for a fork, in the same order, because that order decides which
 * virtio-mmio slot a device has, and the saved state names slots. A fork has no kernel: what the firmware
 * loaded is in its RAM, and the files would only be read into the heap again.
 *
 * Guest flushes end in the page cache (no-flush). A sandbox never outlives the daemon, so nothing on disk is
 * needed after a host crash but what a named snapshot has synced. The numbers behind the choices here are in
 * docs/qemu.md.
 */
#include "vm/qemu/cmdline.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "vm/kernel_args.h"
#include "vm/net/link.h"
#include "vm/qemu/tsc.h"

/* MiB of translated code a TCG process keeps before it starts over. */
enum { TB_MIB = 64 };

/*
 * edd=off, pci=off: no probing of what is not there. cryptomgr.notests, nowatchdog: work at boot that
 * nobody looks at. panic=-1 reboot=t: a panicking kernel reboots, by a triple fault since microvm has no
 * other reset (docs/system/i386/microvm.rst), and that ends QEMU (-no-reboot).
 */
#define KERNEL_ARGS                                                                                          \
	"console=ttyS0 quiet panic=-1 reboot=t edd=off pci=off nowatchdog cryptomgr.notests "                \
	"random.trust_cpu=on sbx.report=boot"
/*
 * TCG's clocks are the host's; measuring one against another under load only finds them wrong (tsc.c). TCG
 * translates away every speculation there is, and the mitigations cost a tenth of the boot.
 */
#define KERNEL_ARGS_TCG "no_timer_check tsc=reliable mitigations=off"

__attribute__((format(printf, 2, 3))) static void arg(struct qemu_args *args, const char *fmt, ...)
{
	va_list ap;

	if (args->n == QEMU_ARGS_MAX) {
		args->failed = true;
		return;
	}
	va_start(ap, fmt);
	if (vasprintf(&args->argv[args->n], fmt, ap) < 0) {
		args->argv[args->n] = NULL;
		args->failed = true;
	} else {
		args->n++;
	}
	va_end(ap);
}

static void args_list(struct qemu_args *args, const char *const *list)
{
	for (; *list; list++)
		arg(args, "%s", *list);
}

void qemu_disk_node_name(char name[QEMU_NODE_NAME_MAX], unsigned n)
{
	snprintf(name, QEMU_NODE_NAME_MAX, "disk%u", n);
}

static bool add_string(cJSON *obj, const char *name, const char *value)
{
	return cJSON_AddStringToObject(obj, name, value);
}

static bool add_cache(cJSON *obj)
{
	cJSON *cache = cJSON_AddObjectToObject(obj, "cache");

	return cache && cJSON_AddFalseToObject(cache, "direct") && cJSON_AddTrueToObject(cache, "no-flush");
}

static cJSON *file_node(unsigned set)
{
	cJSON *file = cJSON_CreateObject();
	char path[32];

	snprintf(path, sizeof(path), "/dev/fdset/%u", set);
	/* Layers are handed from writer to readers by us, in order; a lock could only be in the way. */
	if (file && add_string(file, "driver", "file") && add_string(file, "filename", path) &&
	    add_string(file, "aio", "threads") && add_string(file, "locking", "off") &&
	    add_string(file, "discard", "unmap") && add_cache(file))
		return file;
	cJSON_Delete(file);
	return NULL;
}

/* A node with its file, but without what is below it. */
static cJSON *layer_node(bool raw, unsigned set)
{
	cJSON *node = cJSON_CreateObject(), *file = file_node(set);

	if (node && file && add_string(node, "driver", raw ? "raw" : "qcow2") &&
	    add_string(node, "discard", "unmap") && add_cache(node) &&
	    cJSON_AddItemToObject(node, "file", file))
		return node;
	if (!cJSON_GetObjectItem(node, "file"))
		cJSON_Delete(file);
	cJSON_Delete(node);
	return NULL;
}

cJSON *qemu_disk_node(unsigned n, const struct disk *disk, unsigned first_set, bool detached)
{
	char name[QEMU_NODE_NAME_MAX];
	cJSON *above = NULL, *node;
	unsigned i = disk->n;

	/* From the bottom up: each node takes the one below into itself. */
	while (i--) {
		node = layer_node(disk->files[i].raw, first_set + i);
		if (!node || (!above && !disk->files[i].raw && !cJSON_AddNullToObject(node, "backing")) ||
		    (above && !cJSON_AddItemToObject(node, "backing", above))) {
			cJSON_Delete(node);
			cJSON_Delete(above);
			return NULL;
		}
		above = node;
		if (detached)
			break;
	}
	qemu_disk_node_name(name, n);
	if (above && add_string(above, "node-name", name))
		return above;
	cJSON_Delete(above);
	return NULL;
}

/* Hand over the disk's files: QEMU opens them as /dev/fdset/N, by the way in which it wants to use them. */
static void add_disk_files(struct qemu_args *args, const struct qemu_config *config)
{
	unsigned i;

	for (i = 0; i < config->disk->n; i++) {
		arg(args, "-add-fd");
		arg(args, "fd=%d,set=%u", config->disk_fd + (int)i, QEMU_FIRST_SET + i);
	}
	/* When it has become a layer below another, it is read only. */
	arg(args, "-add-fd");
	arg(args, "fd=%d,set=%u", config->disk_reading_fd, QEMU_FIRST_SET);
}

static void add_machine(struct qemu_args *args, const struct qemu_config *config)
{
	arg(args, "-machine");
	arg(args,
	    "microvm,acpi=on,rtc=on,pit=off,pic=off,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off,"
	    "mem-merge=off,dump-guest-core=off,memory-backend=ram");
	arg(args, "-bios");
	arg(args, "qboot.rom");
	arg(args, "-accel");
	if (config->kvm)
		arg(args, "kvm");
	else
		arg(args, "tcg,thread=multi,tb-size=%d", TB_MIB);
	arg(args, "-cpu");
	/* For TCG x86-64-v2 and a random number instruction: what more it offers would be slow in
	 * software. */
	arg(args, "%s", config->kvm ? "host,migratable=on" : "Nehalem,-spec-ctrl,+rdrand,+arat");
	arg(args, "-smp");
	arg(args, "%" PRIu32, config->shape->cpus_max);
	arg(args, "-m");
	arg(args, "%" PRIu64 "B", config->ram_size);
	arg(args, "-object");
	arg(args, "memory-backend-file,id=ram,size=%" PRIu64 "B,mem-path=/proc/self/fd/%d,share=%s",
	    config->ram_size, config->ram_fd, config->fork ? "off" : "on");
}

static void add_devices(struct qemu_args *args, const struct qemu_config *config)
{
	static const char *const rng[] = { "-object", "rng-builtin,id=rng", "-device",
					   "virtio-rng-device,rng=rng", NULL };
	/* The guest says which memory is free; docs/design.md has why a fork's does not (sbx.report=boot). */
	static const char *const balloon[] = { "-device", "virtio-balloon-device,free-page-reporting=on",
					       NULL };
	cJSON *disk = qemu_disk_node(0, config->disk, QEMU_FIRST_SET, false);
	char *text = disk ? cJSON_PrintUnformatted(disk) : NULL;

	arg(args, "-chardev");
	arg(args, "socket,id=qmp,fd=%d", config->qmp_fd);
	arg(args, "-mon");
	arg(args, "chardev=qmp,mode=control");
	arg(args, "-chardev");
	arg(args, "socket,id=console,fd=%d", config->console_fd);
	arg(args, "-serial");
	arg(args, "chardev:console");
	arg(args, "-chardev");
	arg(args, "socket,id=agent,fd=%d", config->agent_fd);
	arg(args, "-device");
	arg(args, "virtio-serial-device,max_ports=2");
	arg(args, "-device");
	arg(args, "virtserialport,chardev=agent,name=sbx.agent,nr=1");
	add_disk_files(args, config);
	arg(args, "-blockdev");
	if (text)
		arg(args, "%s", text);
	else
		args->failed = true;
	arg(args, "-device");
	/* What does not fit a full disk is kept while the machine stands; other failures are the guest's EIO. */
	arg(args, "virtio-blk-device,id=" QEMU_DISK_ID ",drive=disk0,werror=enospc,rerror=report");
	args_list(args, rng);
	args_list(args, balloon);
	arg(args, "-netdev");
	arg(args, "dgram,id=net,local.type=fd,local.str=%d", config->net_fd);
	arg(args, "-device");
	arg(args, "virtio-net-device,netdev=net,mac=" LINK_MAC ",guest_announce=off,host_mtu=%d", LINK_MTU);
	cJSON_free(text);
	cJSON_Delete(disk);
}

static void add_kernel(struct qemu_args *args, const struct qemu_config *config)
{
	char args_text[KERNEL_ARGS_SIZE];

	arg(args, "-kernel");
	arg(args, "%s", config->kernel);
	arg(args, "-initrd");
	arg(args, "%s", config->initrd);
	arg(args, "-append");
	kernel_args(config->shape, args_text);
	if (config->kvm)
		arg(args, KERNEL_ARGS " %s", args_text);
	else
		arg(args, KERNEL_ARGS " " KERNEL_ARGS_TCG " tsc_early_khz=%u %s", tsc_khz(), args_text);
}

int qemu_args_build(struct qemu_args *args, const struct qemu_config *config)
{
	/*
	 * The saved state is a device stream without the leading configuration section (capture.c), which the
	 * loading side would insist on; x-events reports when it is loaded.
	 */
	static const char *const common[] = {
		"-nodefaults",
		"-no-user-config",
		"-no-reboot",
		"-display",
		"none",
		"-sandbox",
		"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-global",
		"virtio-mmio.force-legacy=false",
		"-global",
		"migration.send-configuration=off",
		"-global",
		"migration.x-events=on",
		/* A fork has not moved to where others look for it. */
		"-global",
		"migration.announce-rounds=0",
		NULL,
	};
	static const char *const incoming[] = { "-S", "-incoming", "defer", NULL };

	*args = (struct qemu_args){ .n = 0 };
	args_list(args, common);
	add_machine(args, config);
	add_devices(args, config);
	if (config->fork)
		args_list(args, incoming);
	else
		add_kernel(args, config);
	return args->failed ? -ENOMEM : 0;
}

void qemu_args_release(struct qemu_args *args)
{
	while (args->n)
		free(args->argv[--args->n]);
}
