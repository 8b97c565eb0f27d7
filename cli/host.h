/* SPDX-License-Identifier: MIT */
/*
 * host.h - is this host set up for code of strangers? The checklist of docs/security.md, for sbx doctor
 */
#ifndef SBX_CLI_HOST_H
#define SBX_CLI_HOST_H

#include <stdbool.h>

/* A finding: whether it is as it should be, a word for what, and why. */
typedef void (*finding_fn)(bool ok, const char *what, const char *why);

/* root: where proc and sys are, "" for this host's. One finding for each thing that the host tells about. */
void host_check(const char *root, finding_fn finding);

#endif
