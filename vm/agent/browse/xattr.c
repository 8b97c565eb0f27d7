/* SPDX-License-Identifier: MIT */
/* xattr.c - extended attributes in an ext4 filesystem, as the guest's agent gives them (vm/agent/guest/xattr.c) */
#include <errno.h>
#include <string.h>

#include "vm/agent/browse/serve.h"
#include "vm/agent/proto.h"

static int add_name(char *name, char *value, size_t n, void *arg)
{
	(void)value;
	(void)n;
	buf_add(arg, name, strlen(name) + 1);
	return 0;
}

/* All of a value, or of the list. */
static errcode_t read_value(struct ext2_xattr_handle *attrs, const char *name, struct buf *ret)
{
	void *value = NULL;
	size_t n = 0;
	errcode_t rc;

	if (!*name)
		return ext2fs_xattrs_iterate(attrs, add_name, ret);
	rc = ext2fs_xattr_get(attrs, name, &value, &n);
	if (!rc && value)
		buf_add(ret, value, n);
	ext2fs_free_mem(&value);
	return rc;
}

int serve_xattr(ext2_filsys fs, ext2_ino_t ino, struct reader *args, struct buf *reply)
{
	struct ext2_xattr_handle *attrs = NULL;
	char name[256];
	struct buf all = { 0 };
	uint32_t offset, wanted;
	errcode_t rc;
	int err = 0;

	get_str(args, name, sizeof(name));
	offset = get_u32(args);
	wanted = get_u32(args);
	if (args->bad || wanted > PROTO_DATA_MAX)
		return -EINVAL;
	rc = ext2fs_xattrs_open(fs, ino, &attrs);
	if (!rc)
		rc = ext2fs_xattrs_read(attrs);
	if (!rc)
		rc = read_value(attrs, name, &all);
	if (attrs)
		ext2fs_xattrs_close(&attrs);
	if (rc == EXT2_ET_EA_KEY_NOT_FOUND)
		err = -ENODATA;
	else if (rc == EXT2_ET_NO_MEMORY || all.failed)
		err = -ENOMEM;
	else if (rc || all.len > FS_XATTR_MAX)
		err = -EIO;
	if (!err)
		fs_xattr_put(reply, buf_bytes(&all), all.len, offset, wanted);
	buf_release(&all);
	return err;
}
