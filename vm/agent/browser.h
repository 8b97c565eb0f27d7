/* SPDX-License-Identifier: MIT */
/*
 * browser.h - the files of a disk that no machine runs on, read-only
 *
 * A helper process, sbx-browse, reads the ext4 filesystem through the layers and answers the file operations
 * of vm/agent/proto.h like a guest's agent does, so callers use agent_fs() for both. What changes something
 * is -EROFS. The disk is a guest's work and may be hostile: the helper can read its layers and talk on its
 * channel, and nothing else (seccomp).
 *
 * Shown is what had reached the disk when the layer was frozen, with the journal applied.
 */
#ifndef SBX_VM_AGENT_BROWSER_H
#define SBX_VM_AGENT_BROWSER_H

#include "util/err.h"
#include "util/loop.h"
#include "vm/agent/channel.h"

struct browse;

/*
 * Start a helper for a frozen layer. done is called once, when files can be asked for or with the reason why
 * they cannot; exited once, when the helper dies after that, and then only browse_free may follow. Both may
 * free.
 */
int browse_new(struct loop *loop, const char *layer_path, void (*done)(void *arg, const struct err *err),
	       void (*exited)(void *arg), void *arg, struct browse **ret, struct err *err);
struct agent *browse_agent(const struct browse *browse);
/* Ends the helper; what is pending on its agent ends with -EHOSTDOWN. NULL is allowed. */
void browse_free(struct browse *browse);

#endif
