/* SPDX-License-Identifier: MIT */
/* test_agent_files.c - the guest's files: the host's end and the real agent */
#include "tests/unit/agent_fixture.h"

static int fs(struct fixture *f, enum fs_op op, const struct buf *args)
{
	f->done = 0;
	CHECK(agent_fs(f->agent, op, args, WAIT_MS, on_fs, f));
	CHECK(!f->done);
	UNTIL(f, f->done);
	return f->fs_err;
}

/* Of a name in a directory. */
static int fs_name(struct fixture *f, enum fs_op op, const char *dir, const char *name, struct buf *args)
{
	buf_clear(args);
	fs_file_put(args, 0, dir, NULL);
	buf_put_str(args, name);
	return fs(f, op, args);
}

static int fs_path(struct fixture *f, enum fs_op op, const char *dir, const char *name, struct buf *args)
{
	char path[256];

	snprintf(path, sizeof(path), "%s%s", dir, name);
	buf_clear(args);
	fs_file_put(args, 0, path, NULL);
	if (op == FS_OPEN) {
		buf_put_u32(args, O_RDWR);
		buf_put_u8(args, 0);
	}
	if (op == FS_READDIR)
		buf_put_u64(args, 0);
	return fs(f, op, args);
}

static void files_are_made_read_and_removed(void)
{
	char dir[] = "/tmp/test_agent.XXXXXX";
	struct buf args = { 0 };
	struct fs_attr attr;
	struct reader r;
	struct fixture f;
	uint32_t handle;

	CHECK(mkdtemp(dir));
	setup_real(&f);
	fs_file_put(&args, 0, dir, NULL);
	buf_put_str(&args, "file");
	buf_put_u32(&args, O_WRONLY | O_EXCL);
	buf_put_u32(&args, 04777);
	buf_put_u32(&args, 026);
	buf_put_u32(&args, geteuid());
	buf_put_u32(&args, getegid());
	buf_put_u8(&args, 0);
	CHECK(!fs(&f, FS_CREATE, &args));
	r = reader_init(buf_bytes(&f.results), f.results.len);
	handle = get_u32(&r);
	fs_attr_get(&r, &attr);
	CHECK(!r.bad && handle && S_ISREG(attr.mode) && (attr.mode & 07777) == 04751 && !attr.size);
	CHECK(fs(&f, FS_CREATE, &args) == -EEXIST);

	buf_clear(&args);
	buf_put_u32(&args, handle);
	buf_put_u64(&args, 2);
	buf_put_u8(&args, 0);
	buf_add(&args, "text", 4);
	CHECK(!fs(&f, FS_WRITE, &args));
	buf_clear(&args);
	buf_put_u32(&args, handle);
	CHECK(!fs(&f, FS_CLOSE, &args) && fs(&f, FS_CLOSE, &args) == -EBADF);

	CHECK(!fs_path(&f, FS_OPEN, dir, "/file", &args));
	r = reader_init(buf_bytes(&f.results), f.results.len);
	CHECK(get_u32(&r) != handle);
	handle = handle + 1;
	buf_clear(&args);
	buf_put_u32(&args, handle);
	buf_put_u64(&args, 0);
	buf_put_u32(&args, PROTO_DATA_MAX);
	CHECK(!fs(&f, FS_READ, &args) && f.results.len == 6 && !memcmp(buf_bytes(&f.results), "\0\0text", 6));
	buf_clear(&args);
	buf_put_u32(&args, handle);
	buf_put_u64(&args, 0);
	buf_put_u32(&args, PROTO_DATA_MAX + 1);
	CHECK(fs(&f, FS_READ, &args) == -EINVAL);

	/* A fork's host is another: it has no files open. */
	attach_soon(&f, ATTACH_FORK, 2, false);
	UNTIL(&f, f.done);
	buf_clear(&args);
	buf_put_u32(&args, handle);
	buf_put_u64(&args, 0);
	buf_put_u32(&args, 10);
	CHECK(fs(&f, FS_READ, &args) == -EBADF);
	CHECK(!fs_name(&f, FS_UNLINK, dir, "file", &args) &&
	      fs_path(&f, FS_GETATTR, dir, "/file", &args) == -ENOENT &&
	      fs_name(&f, FS_LOOKUP, dir, "file", &args) == -ENOENT);
	CHECK(!fs_name(&f, FS_RMDIR, "/tmp", dir + strlen("/tmp/"), &args));
	buf_release(&args);
	teardown(&f);
}

static void attributes_are_set(void)
{
	char dir[] = "/tmp/test_agent.XXXXXX", path[64];
	const struct fs_attr want = {
		.mode = 0640, .size = 12345, .atime = { 1ll << 33, 123456789 }, .mtime = { -1, 999999999 }
	};
	struct buf args = { 0 };
	struct fs_attr attr;
	struct fixture f;
	struct reader r;
	int fd;

	CHECK(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/f", dir);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && !close(fd));
	setup_real(&f);
	fs_file_put(&args, 0, path, NULL);
	buf_put_u32(&args, FSV_MODE | FSV_SIZE | FSV_ATIME | FSV_MTIME);
	fs_attr_put(&args, &want);
	CHECK(!fs(&f, FS_SETATTR, &args));
	r = reader_init(buf_bytes(&f.results), f.results.len);
	fs_attr_get(&r, &attr);
	CHECK(!r.bad && attr.mode == (S_IFREG | 0640) && attr.size == 12345);
	/* one after 2242, and one before 1970 */
	CHECK(attr.atime.sec == want.atime.sec && attr.atime.nsec == want.atime.nsec);
	CHECK(attr.mtime.sec == want.mtime.sec && attr.mtime.nsec == want.mtime.nsec);
	CHECK(!unlink(path) && !rmdir(dir));
	buf_release(&args);
	teardown(&f);
}

static void links_are_not_followed(void)
{
	char dir[] = "/tmp/test_agent.XXXXXX", path[64];
	struct buf args = { 0 };
	struct fs_attr attr;
	struct fixture f;
	struct reader r;

	CHECK(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/link", dir);
	CHECK(!symlink("/etc/passwd", path));
	setup_real(&f);
	CHECK(!fs_path(&f, FS_GETATTR, dir, "/link", &args));
	r = reader_init(buf_bytes(&f.results), f.results.len);
	fs_attr_get(&r, &attr);
	CHECK(S_ISLNK(attr.mode));
	CHECK(!fs_path(&f, FS_READLINK, dir, "/link", &args));
	r = reader_init(buf_bytes(&f.results), f.results.len);
	CHECK(get_u32(&r) == strlen("/etc/passwd") && !memcmp(r.p, "/etc/passwd", strlen("/etc/passwd")));
	CHECK(fs_path(&f, FS_OPEN, dir, "/link", &args) == -ELOOP);
	CHECK(fs_path(&f, FS_OPEN, "/proc/self/root", "/etc/passwd", &args) == -ELOOP);
	CHECK(!unlink(path) && !rmdir(dir));
	buf_release(&args);
	teardown(&f);
}

static void only_regular_files_are_opened(void)
{
	char dir[] = "/tmp/test_agent.XXXXXX", path[64];
	struct buf args = { 0 };
	struct fixture f;

	CHECK(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/fifo", dir);
	CHECK(!mkfifo(path, 0600));
	setup_real(&f);
	CHECK(fs_path(&f, FS_OPEN, dir, "/fifo", &args) == -EACCES);
	CHECK(fs_path(&f, FS_OPEN, "/dev", "/null", &args) == -EACCES);
	CHECK(fs_path(&f, FS_OPEN, dir, "", &args) == -EISDIR);
	CHECK(!unlink(path) && !rmdir(dir));
	buf_release(&args);
	teardown(&f);
}

static void paths_that_are_none(void)
{
	static const char *const bad[] = { "",       "etc",     "/etc/",   "//etc",
					   "/./etc", "/etc/..", "/../etc", "/etc/." };
	static const char *const names[] = { "", ".", "..", "a/b", "/", "../etc" };
	struct buf args = { 0 };
	struct fixture f;
	size_t i;

	setup_real(&f);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(fs_path(&f, FS_GETATTR, bad[i], "", &args) == -EINVAL);
	CHECK(!fs_path(&f, FS_GETATTR, "/", "", &args));
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		CHECK(fs_name(&f, FS_RMDIR, "/", names[i], &args) == -EINVAL);
		CHECK(fs_name(&f, FS_LOOKUP, "/tmp", names[i], &args) == -EINVAL);
	}
	buf_clear(&args);
	CHECK(fs(&f, FS_GETATTR, &args) == -EINVAL);
	CHECK(fs(&f, (enum fs_op)99, &args) == -ENOSYS);
	buf_release(&args);
	teardown(&f);
}

/* More names than one reply holds, each seen once. */
static void a_large_directory_is_listed_in_parts(void)
{
	enum { NFILES = 1500 };
	char dir[] = "/tmp/test_agent.XXXXXX", name[PROTO_NAME_MAX];
	static bool seen[NFILES];
	struct buf args = { 0 };
	struct fs_attr attr;
	struct fixture f;
	struct reader r;
	unsigned i, n, parts = 0, total = 0;
	uint64_t cookie = 0;
	bool more = true;
	int dirfd, fd;

	CHECK(mkdtemp(dir));
	dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(dirfd >= 0);
	for (i = 0; i < NFILES; i++) {
		snprintf(name, sizeof(name), "file-with-a-longer-name-%u", i);
		fd = openat(dirfd, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
		CHECK(fd >= 0 && !close(fd));
	}
	setup_real(&f);
	for (; more; parts++) {
		buf_clear(&args);
		fs_file_put(&args, 0, dir, NULL);
		buf_put_u64(&args, cookie);
		CHECK(!fs(&f, FS_READDIR, &args));
		r = reader_init(buf_bytes(&f.results), f.results.len);
		more = get_u8(&r);
		for (n = get_u32(&r); n; n--, total++) {
			cookie = get_u64(&r);
			get_str(&r, name, sizeof(name));
			fs_attr_get(&r, &attr);
			CHECK(!r.bad && S_ISREG(attr.mode) &&
			      sscanf(name, "file-with-a-longer-name-%u", &i) == 1);
			CHECK(i < NFILES && !seen[i]);
			seen[i] = true;
		}
		CHECK(!r.bad && !reader_left(&r));
	}
	CHECK(total == NFILES && parts > 1);
	for (i = 0; i < NFILES; i++) {
		snprintf(name, sizeof(name), "file-with-a-longer-name-%u", i);
		CHECK(!unlinkat(dirfd, name, 0));
	}
	CHECK(!close(dirfd) && !rmdir(dir));
	buf_release(&args);
	teardown(&f);
}

static struct fs_attr attr_of(struct fixture *f, size_t skip)
{
	struct reader r = reader_init(buf_bytes(&f->results) + skip, f->results.len - skip);
	struct fs_attr attr;

	fs_attr_get(&r, &attr);
	CHECK(!r.bad);
	return attr;
}

static int fs_checked(struct fixture *f, enum fs_op op, const char *path, const struct fs_id *id,
		      const char *name)
{
	struct buf args = { 0 };
	int rc;

	fs_file_put(&args, 0, path, id);
	if (name)
		buf_put_str(&args, name);
	if (op == FS_OPEN) {
		buf_put_u32(&args, O_RDONLY);
		buf_put_u8(&args, 0);
	}
	rc = fs(f, op, &args);
	buf_release(&args);
	return rc;
}

/* A directory that is made anew has the number of the one before, as a rule. */
static void a_file_is_known_by_its_id(void)
{
	char dir[] = "/tmp/test_agent.XXXXXX", path[64], inner[80];
	struct buf args = { 0 };
	struct fixture f;
	struct fs_id id;

	CHECK(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/d", dir);
	snprintf(inner, sizeof(inner), "%s/f", path);
	CHECK(!mkdir(path, 0700) && !mkdir(inner, 0700));
	setup_real(&f);
	CHECK(!fs_path(&f, FS_GETATTR, path, "", &args));
	id = attr_of(&f, 0).id;
	CHECK(!fs_checked(&f, FS_GETATTR, path, &id, NULL) && !fs_checked(&f, FS_LOOKUP, path, &id, "f"));
	CHECK(!rmdir(inner) && !rmdir(path) && !mkdir(path, 0700) && !mkdir(inner, 0700));
	CHECK(fs_checked(&f, FS_GETATTR, path, &id, NULL) == -ESTALE);
	CHECK(fs_checked(&f, FS_LOOKUP, path, &id, "f") == -ESTALE);
	CHECK(fs_checked(&f, FS_UNLINK, path, &id, "f") == -ESTALE);
	CHECK(fs_checked(&f, FS_OPENDIR, path, &id, NULL) == -ESTALE);
	CHECK(!rmdir(inner) && !rmdir(path));
	CHECK(fs_checked(&f, FS_GETATTR, path, &id, NULL) == -ESTALE);
	CHECK(fs_checked(&f, FS_GETATTR, path, NULL, NULL) == -ENOENT);
	CHECK(!rmdir(dir));
	buf_release(&args);
	teardown(&f);
}

static void what_is_open_is_used_by_its_handle(void)
{
	char dir[] = "/tmp/test_agent.XXXXXX", path[64], moved[64];
	struct buf args = { 0 };
	struct fixture f;
	struct reader r;
	uint32_t handle;
	int fd;

	CHECK(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/f", dir);
	snprintf(moved, sizeof(moved), "%s/g", dir);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && write(fd, "text", 4) == 4 && !close(fd));
	setup_real(&f);
	CHECK(!fs_path(&f, FS_OPEN, path, "", &args));
	r = reader_init(buf_bytes(&f.results), f.results.len);
	handle = get_u32(&r);
	CHECK(!rename(path, moved));
	buf_clear(&args);
	fs_file_put(&args, handle, "", NULL);
	CHECK(!fs(&f, FS_GETATTR, &args) && attr_of(&f, 0).size == 4 && attr_of(&f, 0).nlink == 1);
	/* A directory too, also when it was removed. */
	CHECK(!fs_path(&f, FS_OPENDIR, dir, "", &args));
	r = reader_init(buf_bytes(&f.results), f.results.len);
	handle = get_u32(&r);
	CHECK(handle && !get_u8(&r) && get_u32(&r) == 1);
	CHECK(!unlink(moved) && !rmdir(dir));
	buf_clear(&args);
	fs_file_put(&args, handle, "", NULL);
	buf_put_u64(&args, 0);
	CHECK(fs(&f, FS_READDIR, &args) == -ENOENT); /* as getdents(2) has it */
	buf_clear(&args);
	fs_file_put(&args, handle, "", NULL);
	buf_put_str(&args, "new");
	CHECK(fs(&f, FS_LOOKUP, &args) == -ENOENT);
	buf_clear(&args);
	fs_file_put(&args, handle + 1, "", NULL);
	CHECK(fs(&f, FS_GETATTR, &args) == -EBADF);
	buf_release(&args);
	teardown(&f);
}

int main(void)
{
	TEST(files_are_made_read_and_removed);
	TEST(attributes_are_set);
	TEST(links_are_not_followed);
	TEST(only_regular_files_are_opened);
	TEST(paths_that_are_none);
	TEST(a_large_directory_is_listed_in_parts);
	TEST(a_file_is_known_by_its_id);
	TEST(what_is_open_is_used_by_its_handle);
	return 0;
}
