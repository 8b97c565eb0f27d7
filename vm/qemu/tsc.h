/* SPDX-License-Identifier: MIT */
/* tsc.h - the frequency of the host's time stamp counter */
#ifndef SBX_VM_QEMU_TSC_H
#define SBX_VM_QEMU_TSC_H

#include <stdbool.h>

/* In kHz, to about 10 ppm. Measured at the first call, which takes 20 ms. */
unsigned tsc_khz(void);
/* Whether a guest that was told another frequency would not notice: to 250 ppm, what KVM tolerates as well
 * before it scales. */
bool tsc_fits(unsigned khz);

#endif
