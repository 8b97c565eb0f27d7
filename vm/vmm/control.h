/* SPDX-License-Identifier: MIT */
/*
 * control.h - what sbxfs and sbx-vmm say to each other
 *
 * A SOCK_SEQPACKET socket pair; one struct a message (util/message.h), in host byte order, since both ends are built together.
 * The daemon sends one request and waits for its reply; CONTROL_FROZEN, _STALLED and _ENDED come by themselves.
 * A VMM whose daemon closes the socket ends.
 *
 *   READY                 from the VMM, once: the machine is made and empty
 *   BOOT     disk, cmdline; fds: kernel, initrd, the disk's layers
 *                         start from power-on; the machine runs when it is answered
 *   LOAD     disk, layered; fds: RAM, state, if layered what lies over that RAM and its map, the disk's layers
 *                         become a fork; still stopped when it is answered
 *   RUN                   let the vCPUs run
 *   STOP                  stop them and drain the disk
 *   CAPTURE  disk; fds: the next overlay
 *                         FROZEN when the machine may run again, then the reply with fds: RAM, state, and a map if
 *                         that RAM lies over the one that the machine was loaded with (snap/template.h)
 *
 * The VMM opens nothing: all it works on are descriptors. A disk is those of its chain, the topmost layer first
 * (snap/qcow2/chain.h), and the name of that.
 *
 * STALLED means that the disk is full: the machine is stopped as by STOP, and RUN tries again.
 *
 * Every request is answered by DONE with code 0, or a negative errno and a sentence.
 */
#ifndef SBX_VM_VMM_CONTROL_H
#define SBX_VM_VMM_CONTROL_H

#include <stdint.h>

#include "snap/qcow2/chain.h"
#include "snap/qcow2/header.h"
#include "util/err.h"
#include "util/loop.h"

struct vmm_stats;

enum control_type {
	CONTROL_READY = 1,
	CONTROL_BOOT,
	CONTROL_LOAD,
	CONTROL_RUN,
	CONTROL_STOP,
	CONTROL_CAPTURE,
	CONTROL_FROZEN,
	CONTROL_CAPTURED,
	CONTROL_DONE,
	CONTROL_ENDED,
	CONTROL_STALLED,
};

enum {
	CONTROL_CMDLINE_MAX = 1024,
	CONTROL_FDS_MAX = 4 + QCOW2_CHAIN_MAX, /* of a request; the kernel's limit is 253 */
	CONTROL_REPLY_FDS = 3,
};

struct control_request {
	uint32_t type;
	char disk[QCOW2_NAME_MAX + 1];
	char cmdline[CONTROL_CMDLINE_MAX]; /* BOOT only */
	uint32_t layered;                  /* LOAD only: a bool */
};

struct control_reply {
	uint32_t type;
	int32_t code;            /* DONE, CAPTURED: 0 or a negative errno. ENDED: 0 if the guest wanted it */
	char text[ERR_TEXT_MAX]; /* the sentence, if code is not 0, and of ENDED */
};

struct control_fds {
	int control, agent, console, net; /* all sockets, inherited; all but control may be -1 */
};

/* Make a machine, serve it until it or the daemon ends. */
int control_serve(struct loop *loop, const struct control_fds *fds, uint64_t memory, unsigned cpus,
		  struct vmm_stats *stats, struct err *err);

#endif
