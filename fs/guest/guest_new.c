/* SPDX-License-Identifier: MIT */
/*
 * guest_new.c - fs/: directories that the host just made, of which it knows all names
 *
 * The kernel looks every name up before a file of that name is made, so who fills a directory (tar, cp -r, git clone)
 * asks the guest twice for each file, the first time for what is not there. So when a directory was made the guest is
 * asked for a listing of it, which nobody waits for (and which is not empty in a cgroup). If all of its names are
 * children that the kernel knows, then for as long as that may keep a name, a tenth of a second from when the guest
 * was asked, others are not there, and while names go on being looked up it is asked again. Whatever leaves a doubt
 * ends it: a change that failed, or whose answer nobody waited for, a name that was forgotten, an end of a command.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/guest/guest_names.h"

/* Directories with more names are not listed, or not known to lack any; longer names are the guest's to refuse (eCryptfs
 * has the shortest limit, 143). */
enum { LISTED_MAX = 64, KNOWN_MAX = 256, NAME_PLAIN_MAX = 128 };

static const uint64_t valid_ns = (uint64_t)(GUEST_CACHE_S * 1e9);

/* It waits for the listing. */
struct new_listing {
	struct guest_node *dir; /* a reference */
	uint64_t asked_ns, epoch, voids;
	unsigned doubts;
};

void guest_new_doubt(struct guest_node *dir)
{
	if (!dir)
		return;
	dir->made.ns = 0;
	dir->made.doubts++;
}

/* Only names that no filesystem takes for another's: FAT ignores case, and dots and blanks at the end, and has a
 * second name with a tilde for each. */
static bool is_plain(const struct guest_node *dir, const char *name)
{
	const char *p;

	for (p = name; *p; p++)
		if (!(*p >= 'a' && *p <= 'z') && !(*p >= 'A' && *p <= 'Z') && !(*p >= '0' && *p <= '9') &&
		    !strchr("._-+", *p))
			return false;
	return p > name && p - name <= NAME_PLAIN_MAX && p[-1] != '.' && !guest_child_like(dir, name);
}

/* Is every name of a whole listing a child? */
static bool all_known(const struct guest_node *dir, struct reader *results)
{
	const bool more = get_u8(results);
	uint32_t n = get_u32(results);
	struct dir_item item;

	for (; n && !more && !results->bad; n--) {
		guest_item_get(results, &item);
		if (!results->bad && !guest_child(dir, item.name))
			return false;
	}
	return !more && !results->bad;
}

static void on_listing(void *arg, int err, struct reader *results)
{
	struct new_listing *asked = arg;
	struct guest_node *dir = asked->dir;

	dir->made.asking = false;
	/* What a doubt came of meanwhile may have come after the listing. */
	if (!err && asked->doubts == dir->made.doubts && asked->voids == dir->guest->voids &&
	    asked->epoch == guest_epoch(dir) && all_known(dir, results)) {
		dir->made.ns = asked->asked_ns;
		dir->made.epoch = asked->epoch;
		dir->made.voids = asked->voids;
	} else {
		guest_new_doubt(dir);
	}
	free(asked);
	guest_unref(dir);
}

static void ask(struct guest_node *dir, uint64_t now)
{
	struct new_listing *asked = calloc(1, sizeof(*asked));
	struct agent_call *call;

	if (!asked)
		return;
	*asked = (struct new_listing){ guest_ref(dir), now, guest_epoch(dir), dir->guest->voids,
				       dir->made.doubts };
	call = guest_list(dir, 0, on_listing, asked);
	dir->made.asking = call;
	if (!call) {
		guest_unref(dir);
		free(asked);
	}
}

void guest_new_made(struct guest_node *dir)
{
	if (!dir->made.asking && !guest_usable(dir))
		ask(dir, now_mono_ns());
}

bool guest_new_lacks(struct guest_node *dir, const char *name)
{
	struct guest_made *made = &dir->made;
	const uint64_t now = now_mono_ns();

	if (!made->ns)
		return false;
	if (now - made->ns > valid_ns || made->voids != dir->guest->voids ||
	    made->epoch != guest_epoch(dir)) {
		/* A listing that is on its way may still renew it. */
		if (!made->asking)
			guest_new_doubt(dir);
		return false;
	}
	if (now - made->ns > valid_ns / 2 && !made->asking && dir->n_children <= LISTED_MAX)
		ask(dir, now);
	return dir->n_children <= KNOWN_MAX && !guest_child(dir, name) && is_plain(dir, name);
}
