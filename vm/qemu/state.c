/* SPDX-License-Identifier: MIT */
/*
 * state.c - the line before QEMU's stream in a template's device state
 *
 * QEMU's stream does not say which accelerator or version wrote it, and loading it into another machine fails
 * late, with a message about some device, or not at all. microvm is not a versioned machine type, so only
 * the same release series is safe. KVM scales the guest's time stamp counter where the host's runs at another
 * frequency; TCG does not.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/template.h"
#include "util/io.h"
#include "vm/qemu/tsc.h"
#include "vm/qemu/vm.h"

#define MAGIC "sbxfs-qemu-3"

static const char *accel_name(bool kvm)
{
	return kvm ? "kvm" : "tcg";
}

static int state_header_write(int fd, const struct qemu_machine *vm, struct err *err)
{
	char line[STATE_HEADER] = { 0 };
	int rc;

	snprintf(line, sizeof(line), "%s %s %s tsc %u\n", MAGIC, accel_name(vm->kvm), vm->version, tsc_khz());
	rc = pwrite_all(fd, line, sizeof(line), 0);
	return rc ? err_sys(err, rc, "cannot write the captured state") : 0;
}

int state_take(int fd, const struct qemu_machine *vm, int *ret, struct err *err)
{
	uint8_t part[16384];
	uint64_t at, n;
	struct stat st;
	int own, rc;

	if (fstat(fd, &st) < 0)
		return err_sys(err, -errno, "cannot examine the captured state");
	if (st.st_size <= STATE_HEADER || st.st_size > TEMPLATE_STATE_MAX)
		return err_set(err, -EPROTO, "the captured state has not the size it must have");
	own = memfd_new("sbx-state", (uint64_t)st.st_size);
	if (own < 0)
		return err_sys(err, own, "cannot create memory for the state");
	rc = state_header_write(own, vm, err);
	for (at = STATE_HEADER; !rc && at < (uint64_t)st.st_size; at += n) {
		n = (uint64_t)st.st_size - at < sizeof(part) ? (uint64_t)st.st_size - at : sizeof(part);
		rc = pread_all(fd, part, n, at);
		if (!rc)
			rc = pwrite_all(own, part, n, at);
		if (rc)
			err_sys(err, rc, "cannot copy the captured state");
	}
	if (!rc) {
		rc = memfd_seal(own);
		if (rc)
			err_sys(err, rc, "cannot seal the captured state");
	}
	if (rc)
		close(own);
	else
		*ret = own;
	return rc;
}

int state_header_check(int fd, const struct qemu_machine *vm, struct err *err)
{
	char line[STATE_HEADER + 1] = { 0 };
	char accel[8];
	unsigned theirs[2], ours[2], khz;

	if (pread_all(fd, line, STATE_HEADER, 0) ||
	    sscanf(line, MAGIC " %7s %u.%u.%*u tsc %u", accel, &theirs[0], &theirs[1], &khz) != 4)
		return err_set(err, -EINVAL, "the snapshot's device state is not QEMU's");
	if (sscanf(vm->version, "%u.%u", &ours[0], &ours[1]) != 2)
		return err_set(err, -EINVAL, "QEMU does not say its version");
	if (strcmp(accel, accel_name(vm->kvm)) != 0)
		return err_set(err, -EINVAL,
			       "the snapshot was taken with QEMU's accelerator %s, this host uses %s", accel,
			       accel_name(vm->kvm));
	if (memcmp(theirs, ours, sizeof(ours)) != 0)
		return err_set(err, -EINVAL, "the snapshot was taken by QEMU %u.%u, this host has %u.%u",
			       theirs[0], theirs[1], ours[0], ours[1]);
	if (!vm->kvm && !tsc_fits(khz))
		return err_set(
			err, -EINVAL,
			"the snapshot's clock runs at %u kHz, this host's at %u kHz, and TCG cannot scale",
			khz, tsc_khz());
	return 0;
}
