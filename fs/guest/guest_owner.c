/* SPDX-License-Identifier: MIT */
/*
 * guest_owner.c - fs/: changes of owner that change nothing
 *
 * tar and cp -p give each file that they just made and wrote the owner that it has, and then its mode. A question to
 * the guest costs far more than what it does for this one. So where the guest said a moment ago that the owner is
 * that, the answer is given at once, and the change goes with the next question: in it, if that changes more of the
 * same file, or before it. Nothing is left out, since the guest may have changed the owner unheard, and the time of the
 * last change is what is seen of it; and whatever the host asks later, commands included, comes later. All that cannot
 * be heard any more is that a guest would not do what was so already.
 */
#include <sys/stat.h>

#include "fs/guest/guest_names.h"
#include "util/log.h"

enum { OWNER = FSV_UID | FSV_GID };

static void done(void *arg, int err, struct reader *results)
{
	(void)arg;
	(void)results;
	if (err)
		log_info("a guest did not change the owner of a file to what it was: errno %d", -err);
}

/* Nothing has taken it along. */
static void send_alone(void *arg)
{
	struct guest_mount *guest = arg;
	const struct guest_owner owner = guest->owner;
	const struct fs_attr want = { .uid = owner.uid, .gid = owner.gid };
	struct buf args = { 0 };

	guest->owner.node = NULL;
	if (owner.node && owner.epoch == guest_epoch(owner.node) && guest_agent(owner.node) &&
	    !guest_put_file(&args, owner.node)) {
		buf_put_u32(&args, owner.valid);
		fs_attr_put(&args, &want);
		if (!args.failed)
			(void)agent_fs(guest_agent(owner.node), FS_SETATTR, &args, GUEST_TIMEOUT_MS, done,
				       NULL);
	}
	buf_release(&args);
	guest_unref(owner.node);
	object_unref(guest->obj);
}

/* Its owner is this, and with a change of it nothing else would change: set-user-ID bits and capabilities end. */
static bool is_so(const struct fs_attr *attr, unsigned valid, const struct fs_attr *want)
{
	return valid & OWNER && !(valid & ~(unsigned)OWNER) &&
	       (!(valid & FSV_UID) || attr->uid == want->uid) &&
	       (!(valid & FSV_GID) || attr->gid == want->gid) && !(attr->mode & (S_ISUID | S_ISGID)) &&
	       attr->flags & FSA_NO_XATTR;
}

bool guest_owner_answers(fuse_req_t req, struct guest_node *gn, unsigned valid, const struct fs_attr *want)
{
	const struct fs_attr *attr = guest_kept(gn);
	struct guest_mount *guest = gn->guest;
	struct stat st;

	if (!attr || gn->type != S_IFREG || !is_so(attr, valid, want) || guest_usable(gn))
		return false;
	guest_stat(gn, attr, &st);
	object_ref(guest->obj); /* for send_alone */
	agent_before_next(guest_agent(gn), send_alone, guest);
	guest_unref(guest->owner.node); /* of another machine */
	guest->owner = (struct guest_owner){ guest_ref(gn), guest_epoch(gn), valid, want->uid, want->gid };
	guest_ahead_void(guest);
	guest_touch(gn);
	fuse_reply_attr(req, &st, 0); /* its time of change is another */
	return true;
}

unsigned guest_owner_with(struct guest_node *gn, unsigned valid, struct fs_attr *want)
{
	struct guest_owner *owner = &gn->guest->owner;
	const unsigned more = owner->valid & ~valid;

	if (owner->node != gn || owner->epoch != guest_epoch(gn))
		return valid;
	if (more & FSV_UID)
		want->uid = owner->uid;
	if (more & FSV_GID)
		want->gid = owner->gid;
	owner->node = NULL;
	guest_unref(gn); /* the caller has another */
	return valid | more;
}
