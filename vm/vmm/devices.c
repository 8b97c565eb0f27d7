/* SPDX-License-Identifier: MIT */
/* devices.c - which devices a machine has */
#include <errno.h>
#include <unistd.h>

#include "snap/qcow2/disk.h"
#include "vm/vmm/virtio/balloon.h"
#include "vm/vmm/virtio/blk.h"
#include "vm/vmm/virtio/console.h"
#include "vm/vmm/virtio/net.h"
#include "vm/vmm/virtio/rng.h"
#include "vm/vmm/vmm.h"

#define AGENT_PORT "sbx.agent" /* PROTO_PORT of vm/agent/proto.h */

static int plug(struct vmm *vmm, unsigned slot, struct err *err)
{
	const struct mmio_region region =
		virtio_mmio_region(&vmm->virtio[slot], VIRTIO_BASE + slot * VIRTIO_SLOT);

	return mmio_add(&vmm->mmio, &region, err);
}

static struct virtio_host host(struct vmm *vmm, unsigned slot)
{
	return (struct virtio_host){
		.loop = vmm->loop, .memory = &vmm->memory, .irqchip = &vmm->irqchip, .gsi = VIRTIO_IRQ + slot
	};
}

static int add_console(struct vmm *vmm, struct err *err)
{
	const struct virtio_host h = host(vmm, VIRTIO_CONSOLE);
	const int fd = vmm->config.agent_fd;
	int rc;

	if (fd < 0)
		return 0;
	rc = virtio_console_new(&h, fd, AGENT_PORT, &vmm->virtio[VIRTIO_CONSOLE].dev, err);
	if (rc)
		return rc;
	vmm->config.agent_fd = -1;                                  /* the device's */
	virtio_console_hold(vmm->virtio[VIRTIO_CONSOLE].dev, true); /* until the machine runs */
	return plug(vmm, VIRTIO_CONSOLE, err);
}

static int add_net(struct vmm *vmm, struct err *err)
{
	const struct virtio_host h = host(vmm, VIRTIO_NET);
	const int fd = vmm->config.net_fd;
	int rc;

	if (fd < 0)
		return 0;
	rc = virtio_net_new(&h, fd, &vmm->virtio[VIRTIO_NET].dev, err);
	if (rc)
		return rc;
	vmm->config.net_fd = -1; /* the device's */
	virtio_net_hold(vmm->virtio[VIRTIO_NET].dev, true);
	return plug(vmm, VIRTIO_NET, err);
}

static int add_disk(struct vmm *vmm, struct chain *chain, struct err *err)
{
	const struct virtio_host h = host(vmm, VIRTIO_BLK);
	int rc;

	if (!chain)
		return 0;
	rc = qcow2_open(vmm->loop, chain, &vmm->disk, err);
	if (!rc)
		rc = virtio_blk_new(&h, vmm->disk, "root", &vmm->virtio[VIRTIO_BLK].dev, err);
	if (!rc && vmm->config.stalled)
		virtio_blk_on_full(vmm->virtio[VIRTIO_BLK].dev, vmm_stall, vmm);
	return rc ? rc : plug(vmm, VIRTIO_BLK, err);
}

int devices_add(struct vmm *vmm, struct chain *disk, struct err *err)
{
	const struct virtio_host rng = host(vmm, VIRTIO_RNG);
	const struct virtio_host balloon = host(vmm, VIRTIO_BALLOON);
	int rc = add_console(vmm, err);

	if (!rc)
		rc = add_disk(vmm, disk, err);
	if (!rc)
		rc = virtio_rng_new(&rng, &vmm->virtio[VIRTIO_RNG].dev, err);
	if (!rc)
		rc = plug(vmm, VIRTIO_RNG, err);
	if (!rc)
		rc = virtio_balloon_new(&balloon, &vmm->virtio[VIRTIO_BALLOON].dev, err);
	if (!rc)
		rc = plug(vmm, VIRTIO_BALLOON, err);
	return rc ? rc : add_net(vmm, err);
}

void devices_release(struct vmm *vmm)
{
	unsigned i;

	for (i = 0; i < VIRTIO_SLOTS; i++)
		virtio_free(vmm->virtio[i].dev);
	qcow2_close(vmm->disk);
	if (vmm->config.agent_fd >= 0)
		close(vmm->config.agent_fd);
	if (vmm->config.net_fd >= 0)
		close(vmm->config.net_fd);
}
