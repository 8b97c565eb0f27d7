/* SPDX-License-Identifier: MIT */
/*
 * listing.c - directories, read for the host with the attributes of their entries
 *
 * A cookie is the offset that the filesystem gave the entry. An open directory goes on from where it is when
 * the host asks for what follows, which spares the filesystem a search.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vm/agent/guest/files.h"

/*
 * Entries of a listing go on until the reply is this large; a name, its attr and a link's target fit above. Of an open
 * directory it ends where the kernel's buffer does, once there are some hundred: so many a program takes at once, more
 * would be older when it comes to them, and to go on within what was in a buffer the kernel would sort that part of the
 * directory anew.
 */
enum { READDIR_FULL = PROTO_PAYLOAD_MAX - 8192, READDIR_ENOUGH = 12 * 1024, DENTS = 4096 };

struct dirent64_head {
	uint64_t ino;
	int64_t off;
	uint16_t len;
	uint8_t type;
	char name[];
};

struct entries {
	struct buf buf;
	uint32_t count;
};

static void add(struct entries *entries, int dir, const struct dirent64_head *entry)
{
	struct fs_attr attr;
	struct buf target = { 0 };

	if (!strcmp(entry->name, ".") || !strcmp(entry->name, "..") || guest_attr(dir, entry->name, &attr))
		return; /* the last: gone since, or a mount that is dead */
	if (S_ISLNK(attr.mode) && guest_put_target(&target, dir, entry->name))
		return;
	buf_put_u64(&entries->buf, (uint64_t)entry->off);
	buf_put_str(&entries->buf, entry->name);
	fs_attr_put(&entries->buf, &attr);
	buf_add(&entries->buf, buf_bytes(&target), target.len);
	buf_release(&target);
	entries->count++;
}

/* 1: there is more; 0: it was the end. */
static int read_entries(int dir, struct entries *entries, size_t enough)
{
	static _Alignas(struct dirent64_head) char bytes[DENTS];
	const struct dirent64_head *entry;
	long n, at;

	for (;;) {
		n = syscall(SYS_getdents64, dir, bytes, sizeof(bytes));
		if (n <= 0)
			return n ? -errno : 0;
		for (at = 0; at < n; at += entry->len) {
			entry = (const void *)(bytes + at);
			if (entries->buf.len >= READDIR_FULL)
				return 1;
			add(entries, dir, entry);
		}
		if (entries->buf.len >= enough)
			return 1;
	}
}

static int list(struct guest_request *rq, int dir, uint64_t cookie, size_t enough)
{
	struct entries entries = { 0 };
	int rc = 0, more = 0;

	if (lseek(dir, (off_t)cookie, SEEK_SET) < 0)
		rc = -errno;
	if (!rc) {
		guest_has_xattr_begin(dir);
		more = read_entries(dir, &entries, enough);
		guest_has_xattr_end();
	}
	if (more < 0)
		rc = more;
	if (!rc && entries.buf.failed)
		rc = -ENOMEM;
	if (!rc) {
		buf_put_u8(&rq->reply, (uint8_t)more);
		buf_put_u32(&rq->reply, entries.count);
		buf_add(&rq->reply, buf_bytes(&entries.buf), entries.buf.len);
	}
	buf_release(&entries.buf);
	return rc;
}

/* A descriptor for reading, of the very directory that another stands for. */
static int open_dir(int fd)
{
	const int dir = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return dir < 0 ? -errno : dir;
}

int guest_op_readdir(struct guest_request *rq)
{
	struct guest_ref file;
	uint64_t cookie;
	int dir, rc = guest_file_get(rq, O_DIRECTORY, &file);

	cookie = get_u64(&rq->args);
	if (!rc && rq->args.bad)
		rc = -EINVAL;
	dir = file.fd;
	if (!rc && file.ours) {
		dir = open_dir(file.fd);
		rc = dir < 0 ? dir : 0;
	}
	if (!rc)
		rc = list(rq, dir, cookie, file.ours ? READDIR_FULL : READDIR_ENOUGH);
	if (!rc && dir != file.fd)
		close(dir);
	guest_ref_close(&file);
	return rc;
}

int guest_op_opendir(struct guest_request *rq)
{
	struct guest_ref file;
	uint32_t handle;
	int dir = -1, rc = guest_file_get(rq, O_DIRECTORY, &file);

	if (!rc) {
		dir = open_dir(file.fd);
		rc = dir < 0 ? dir : 0;
	}
	guest_ref_close(&file);
	if (!rc)
		rc = guest_handle_new(rq->files, dir, &handle);
	if (rc) {
		if (dir >= 0)
			close(dir);
		return rc;
	}
	buf_put_u32(&rq->reply, handle);
	rc = list(rq, dir, 0, READDIR_ENOUGH);
	if (rc)
		guest_handle_close(rq->files, handle);
	return rc;
}
