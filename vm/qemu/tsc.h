/* SPDX-License-Identifier: MIT */
/* tsc.h - the frequency of the host's time stamp counter */
#ifndef SBX_VM_QEMU_TSC_H
#define SBX_VM_QEMU_TSC_H

/* In kHz, to about 10 ppm. Measured at the first call, which takes 20 ms. */
unsigned tsc_khz(void);

#endif
