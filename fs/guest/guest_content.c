/* SPDX-License-Identifier: MIT */
/*
 * guest_content.c - fs/: parts of a guest's files that are known before they are asked for
 *
 * Files are read without the kernel's cache, since the guest changes them itself, and a question to the guest costs
 * more than the bytes. So who reads on is asked for ahead, the content of a small file comes with the answer to open,
 * and a read is answered from that for as long as the kernel may keep attributes, counted from when it was asked for,
 * and until the host writes to the file or anything is known to have changed in the guest.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/guest/guest_names.h"

enum { WINDOW_MAX = 8 * PROTO_READ_BEST };

static const uint64_t valid_ns = (uint64_t)(GUEST_CACHE_S * 1e9);

void guest_content_drop(struct guest_file *file)
{
	kept_drop(file->node->guest->obj->fs, &file->kept);
	free(file->content.data);
	file->content = (struct guest_content){ 0 };
}

void guest_content_forget(struct kept *kept)
{
	guest_content_drop(container_of(kept, struct guest_file, kept));
}

static bool holds(const struct guest_file *file, const struct guest_content *content)
{
	return content->touched == file->node->touched && content->voids == file->node->guest->voids &&
	       now_mono_ns() - content->asked_ns < valid_ns;
}

void guest_content_keep(struct guest_file *file, const struct guest_content *content)
{
	const struct object *obj = file->node->guest->obj;

	guest_content_drop(file);
	if (!holds(file, content)) {
		free(content->data);
		return;
	}
	file->content = *content;
	/* Even where there is none of it, its end is something that is known. */
	kept_use(obj->fs, &file->kept, obj->owner.uid, content->len + sizeof(*content));
}

bool guest_content_answers(fuse_req_t req, struct guest_file *file, size_t size, uint64_t off)
{
	const struct guest_content *content = &file->content;
	uint64_t left;

	if (!content->data)
		return false;
	if (!holds(file, content)) {
		guest_content_drop(file);
		return false;
	}
	if (off < content->at)
		return false;
	left = off - content->at < content->len ? content->len - (off - content->at) : 0;
	if (left < size && !content->end)
		return false;
	if (size > left)
		size = left;
	fuse_reply_buf(req, left ? (const char *)content->data + (off - content->at) : NULL, size);
	file->next = off + size;
	return true;
}

size_t guest_content_want(struct guest_file *file, size_t size, uint64_t off)
{
	if (off != file->next) {
		file->window = 0;
		return size;
	}
	if (!file->window)
		file->window = PROTO_READ_BEST;
	else if (file->window < WINDOW_MAX)
		file->window *= 2;
	return size < file->window ? file->window : size;
}
