/* SPDX-License-Identifier: MIT */
/*
 * image.h - images as `sbx image` sees them: beside a running daemon or without one
 *
 * An image is a raw disk, kept as a layer, and a small record images/NAME that names it (docs/format.md). The
 * functions here need no struct store: they open the directory DIR, create what is missing in it, and take a
 * short lock that the daemon's collection of unneeded layers takes too. The daemon's own view
 * is in store.h. All of them may block on the disk.
 */
#ifndef SBX_SNAP_IMAGE_H
#define SBX_SNAP_IMAGE_H

#include <stdint.h>

#include "snap/qcow2/chain.h"
#include "snap/store.h"
#include "util/err.h"

/* Where the store is unless --state says otherwise: /var/lib/sbxfs for root, else $XDG_STATE_HOME/sbxfs or
 * ~/.local/state/sbxfs. For the caller to free; NULL when out of memory or homeless. */
char *store_default_dir(void);

/*
 * A new image is begun with a disk of `size` bytes, all zero, which is filled under the path image_draft_path
 * and has no name until it is published: whatever ends this process, nothing of it is left. -EEXIST: there is
 * an image of that name.
 */
struct image_draft;
int image_begin(const char *dir, const char *name, uint64_t size, struct image_draft **ret, struct err *err);
/* Valid, for children too, as long as the draft is; image_draft_fd is the same file. */
const char *image_draft_path(const struct image_draft *draft);
int image_draft_fd(const struct image_draft *draft);
/*
 * `source` says how it was made, in a line; config is what it says of commands (snap/image_config.h) or NULL.
 * Durable on return. Frees the draft, and so does image_abandon.
 */
int image_finish(struct image_draft *draft, const char *source, const struct buf *config, struct err *err);
void image_abandon(struct image_draft *draft);

/* All of it for a disk that exists: raw_file is copied (holes and zeros are left out) and may then go. */
int image_publish(const char *dir, const char *name, const char *raw_file, const char *source,
		  struct err *err);

/* The name goes at once; its disk stays while snapshots or machines need it. -ENOENT. */
int image_remove(const char *dir, const char *name, struct err *err);

/*
 * The disk of the image NAME, or of the named snapshot NAME if there is no such image; images/NAME and snapshots/NAME
 * say which. It is opened to be read, and stays whole whatever is removed meanwhile. -ENOENT.
 */
int image_open_disk(const char *dir, const char *name, struct chain **ret, struct err *err);

/* Every image in no order; image->disk is NULL. Records that cannot be read are skipped with a warning. */
int image_each(const char *dir, void (*each)(void *arg, const struct image *image), void *arg,
	       struct err *err);

/* For the store's collection: hold the lock (a descriptor to close, or a negative errno)... */
int image_lock(int images_fd);
/* ...and ask for the layer file of every image. A record that cannot be read is an error: what it needs is
 * unknown. So is anything but 0 from each. */
int image_layers(int images_fd, int (*each)(void *arg, const char *file), void *arg, struct err *err);

#endif
