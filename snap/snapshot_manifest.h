/* SPDX-License-Identifier: MIT */
/* snapshot_manifest.h - what the manifest of a snapshot says */
#ifndef SBX_SNAP_SNAPSHOT_MANIFEST_H
#define SBX_SNAP_SNAPSHOT_MANIFEST_H

#include <stddef.h>
#include <stdint.h>

#include "snap/id.h"
#include "snap/store.h"
#include "util/buf.h"
#include "util/err.h"

enum { LAYER_FILE_MAX = ID_LEN + sizeof(".qcow2") };

struct snapshot_manifest {
	struct snapshot_meta meta; /* without name and sizes; meta.parent is the name at the time of saving */
	char origin[ID_SIZE];      /* the object it was saved as first: an import elsewhere keeps it */
	char parent_id[ID_SIZE];   /* origin of the parent, or "" */
	char disk[LAYER_FILE_MAX];
	uint64_t ram_size;
	uint32_t generation;
	uint32_t quiesced;
	unsigned nsources; /* objects that the RAM image refers to */
	char (*sources)[ID_SIZE];
};
void snapshot_manifest_release(struct snapshot_manifest *manifest);

/* out->failed says whether memory ran out. */
void snapshot_manifest_encode(const struct snapshot_manifest *manifest, struct buf *out);
/* Untrusted text, which is changed; `name` is the file's, for err. -EIO: damaged; -EINVAL: not ours. */
int snapshot_manifest_parse(char *text, size_t len, const char *name, struct snapshot_manifest *ret,
			    struct err *err);
/* Whether the machine is one that may run here, for a manifest that comes from elsewhere: -ERANGE says what is not
 * within SHAPE_MEMORY_LIMIT, SHAPE_CPUS_LIMIT, or the size of a disk; -EINVAL where numbers contradict. */
int snapshot_manifest_limits(const struct snapshot_manifest *manifest, struct err *err);

#endif
