/* SPDX-License-Identifier: MIT */
/*
 * guest_kept.c - fs/: attributes that a guest told a moment ago, for those who ask again
 *
 * The kernel forgets the attributes of a directory with each name that is made or removed in it, and has to know them
 * for the next; it forgets a file's when it was read or written. So the agent tells a directory's attributes with
 * each change that it makes there, and the kernel's question is answered from that. What was told holds for as long
 * as the kernel would keep it itself, and until something is on its way to the guest that changes the file.
 */
#include <sys/stat.h>

#include "fs/guest/guest_names.h"

static const uint64_t valid_ns = (uint64_t)(GUEST_CACHE_S * 1e9);

void guest_touch(struct guest_node *gn)
{
	gn->kept_ns = 0;
	gn->touched++;
}

void guest_keep(struct guest_node *gn, const struct fs_attr *attr, uint64_t asked_ns)
{
	/* Not a link's, whose size is not the guest's. */
	if (gn->entry || (gn->type != S_IFREG && gn->type != S_IFDIR) || (attr->mode & S_IFMT) != gn->type ||
	    !fs_id_same(&attr->id, &gn->id))
		return;
	gn->kept = *attr;
	gn->kept_ns = asked_ns;
	gn->kept_voids = gn->guest->voids;
}

const struct fs_attr *guest_kept(const struct guest_node *gn)
{
	return gn->kept_ns && gn->kept_voids == gn->guest->voids && now_mono_ns() - gn->kept_ns < valid_ns
		       ? &gn->kept
		       : NULL;
}

void guest_keep_dir(struct guest_node *dir, unsigned touched, uint64_t asked_ns, struct reader *results)
{
	struct fs_attr attr;

	if (reader_left(results) && !guest_attr_get(results, &attr) && dir->touched == touched)
		guest_keep(dir, &attr, asked_ns);
}

/* relatime: the first time since it was written, and once a day. */
void guest_was_read(struct guest_node *gn)
{
	const struct fs_time *atime = &gn->kept.atime, *mtime = &gn->kept.mtime, *ctime = &gn->kept.ctime;

	if (atime->sec <= mtime->sec || atime->sec <= ctime->sec ||
	    now_real_ns() / 1000000000 > (uint64_t)atime->sec + 86400)
		gn->kept_ns = 0;
}
