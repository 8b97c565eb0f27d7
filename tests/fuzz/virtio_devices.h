/* SPDX-License-Identifier: MIT */
/* virtio_devices.h - every virtio device, in a machine of 64 KiB, for fuzzers */
#ifndef SBX_FUZZ_VIRTIO_DEVICES_H
#define SBX_FUZZ_VIRTIO_DEVICES_H

#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "snap/qcow2/chain.h"
#include "tests/fuzz/qcow2_image.h"
#include "util/log.h"
#include "vm/vmm/virtio/balloon.h"
#include "vm/vmm/virtio/blk.h"
#include "vm/vmm/virtio/console.h"
#include "vm/vmm/virtio/net.h"
#include "vm/vmm/virtio/rng.h"
#include "vm/vmm/virtio/transport.h"

enum { RAM_SIZE = 64 << 10, QUEUE_NUM = 8, QUEUE_STRIDE = 0x400 };

struct machine_with_device {
	struct loop *loop;
	struct guest_memory ram;
	struct irqchip irqchip;
	struct virtio_mmio mmio;
	struct mmio_region regs;
	struct qcow2 *disk;
	int peer; /* the console's or network's other end */
};

static char fuzz_dir[] = "/dev/shm/sbx-fuzz-XXXXXX";
static char fuzz_disk[64];
static struct loop *fuzz_loop;

static void fuzz_clean_up(void)
{
	unlink(fuzz_disk);
	rmdir(fuzz_dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Once: a directory for the disk. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const struct rlimit limit = { 16 << 20, 16 << 20 };

	(void)argc;
	(void)argv;
	fuzz_loop = loop_new();
	if (!fuzz_loop || !mkdtemp(fuzz_dir) || signal(SIGXFSZ, SIG_IGN) == SIG_ERR ||
	    setrlimit(RLIMIT_FSIZE, &limit))
		abort();
	snprintf(fuzz_disk, sizeof(fuzz_disk), "%s/d.qcow2", fuzz_dir);
	atexit(fuzz_clean_up);
	log_threshold = LOG_ERROR;
	return 0;
}

static void open_disk(struct machine_with_device *m)
{
	uint8_t image[IMAGE_BYTES];
	struct chain *chain = NULL;
	int fd = open(fuzz_disk, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	image_make(image, 0);
	if (fd < 0)
		abort();
	image_write(fd, image);
	if (close(fd) || chain_open_path(fuzz_disk, true, &chain, NULL) ||
	    qcow2_open(m->loop, chain, &m->disk, NULL))
		abort();
}

/* Devices 0 to 4; RAM is all zero. */
static void machine_make(struct machine_with_device *m, unsigned kind)
{
	struct virtio_host host = { .memory = &m->ram, .irqchip = &m->irqchip, .gsi = 16 };
	struct virtio_device *dev = NULL;
	int fds[2], rc;

	*m = (struct machine_with_device){ .loop = fuzz_loop,
					   .ram = { .size = RAM_SIZE, .template_fd = -1 },
					   .peer = -1 };
	/* Of its own, so that the sanitizer sees a byte too many. */
	m->ram.host = aligned_alloc(4096, RAM_SIZE);
	if (!m->ram.host)
		abort();
	memset(m->ram.host, 0, RAM_SIZE);
	irq_init(&m->irqchip, -1);
	host.loop = m->loop;
	if (kind % 5 == 0) {
		rc = virtio_rng_new(&host, &dev, NULL);
	} else if (kind % 5 == 1) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds))
			abort();
		m->peer = fds[0];
		rc = virtio_console_new(&host, fds[1], "sbx.agent", &dev, NULL);
	} else if (kind % 5 == 2) {
		rc = virtio_balloon_new(&host, &dev, NULL);
	} else if (kind % 5 == 3) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds))
			abort();
		m->peer = fds[0];
		rc = virtio_net_new(&host, fds[1], &dev, NULL);
	} else {
		open_disk(m);
		rc = virtio_blk_new(&host, m->disk, "root", &dev, NULL);
	}
	if (rc)
		abort();
	m->mmio = (struct virtio_mmio){ .dev = dev };
	m->regs = virtio_mmio_region(&m->mmio, 0xd0000000);
}

static void machine_free(struct machine_with_device *m)
{
	virtio_free(m->mmio.dev);
	qcow2_close(m->disk);
	if (m->peer >= 0)
		close(m->peer);
	loop_once(m->loop, 0);
	free(m->ram.host);
}

static void set_reg(struct machine_with_device *m, uint64_t offset, uint32_t value)
{
	m->regs.write(m->regs.opaque, offset, 4, value);
}

/* Bring the device up like a driver, with queue i's rings at i * QUEUE_STRIDE: 0, 0x100 and 0x200 from
 * there. */
static void machine_start(struct machine_with_device *m, uint32_t ring_features)
{
	unsigned i;

	set_reg(m, VIRTIO_MMIO_STATUS, 0);
	set_reg(m, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	set_reg(m, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	set_reg(m, VIRTIO_MMIO_DRIVER_FEATURES, 1);
	set_reg(m, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	set_reg(m, VIRTIO_MMIO_DRIVER_FEATURES,
		ring_features & (uint32_t)m->mmio.dev->offered &
			(1u << VIRTIO_RING_F_INDIRECT_DESC | 1u << VIRTIO_RING_F_EVENT_IDX |
			 1u << VIRTIO_NET_F_MRG_RXBUF));
	set_reg(m, VIRTIO_MMIO_STATUS, 0xb);
	for (i = 0; i < m->mmio.dev->ops->nqueues; i++) {
		set_reg(m, VIRTIO_MMIO_QUEUE_SEL, i);
		set_reg(m, VIRTIO_MMIO_QUEUE_NUM, QUEUE_NUM);
		set_reg(m, VIRTIO_MMIO_QUEUE_DESC_LOW, i * QUEUE_STRIDE);
		set_reg(m, VIRTIO_MMIO_QUEUE_AVAIL_LOW, i * QUEUE_STRIDE + 0x100);
		set_reg(m, VIRTIO_MMIO_QUEUE_USED_LOW, i * QUEUE_STRIDE + 0x200);
		set_reg(m, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	set_reg(m, VIRTIO_MMIO_STATUS, 0xf);
}

#endif
