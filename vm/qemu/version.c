/* SPDX-License-Identifier: MIT */
/*
 * version.c - what a host must have to restore what QEMU captured here
 *
 * The same is written before the saved state and checked by who loads that (state.c); here it is known before
 * anything is loaded, and named all at once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm/cpu_flags.h"
#include "vm/probe.h"
#include "vm/qemu/tsc.h"
#include "vm/qemu/vm.h"

/* "7.2", or "" while none ran yet. */
static char series[16];

void qemu_version_seen(const char *version)
{
	unsigned major, minor;

	if (sscanf(version, "%u.%u", &major, &minor) == 2)
		snprintf(series, sizeof(series), "%u.%u", major, minor);
}

static bool is_tcg(void)
{
	return kvm_probe()->err.code;
}

void qemu_requires(struct buf *text)
{
	if (*series)
		buf_printf(text, "qemu %s\n", series);
	buf_printf(text, "accelerator %s\n", is_tcg() ? "tcg" : "kvm");
	if (is_tcg())
		buf_printf(text, "tsc-khz %u\n", tsc_khz());
	else
		cpu_flags_put(text);
}

bool qemu_provides(const char *key, const char *value)
{
	/* Before the first one ran it is not known; that one will look itself. */
	if (!strcmp(key, "qemu"))
		return !*series || !strcmp(value, series);
	if (!strcmp(key, "accelerator"))
		return !strcmp(value, is_tcg() ? "tcg" : "kvm");
	if (!strcmp(key, "tsc-khz"))
		return tsc_fits((unsigned)strtoul(value, NULL, 10));
	return !strcmp(key, "cpu") && cpu_flags_have(value);
}
