/* SPDX-License-Identifier: MIT */
/*
 * image_base.c - the image `base`
 *
 * A static busybox under all its names and the few files programs expect. It is small enough to be made in a
 * second and good for everything that needs a shell.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/images.h"

static const char busybox[] = "/bin/busybox";

static const struct {
	const char *path;
	mode_t mode;
} dirs[] = {
	{ "bin", 0755 },
	{ "dev", 0755 },
	{ "etc", 0755 },
	{ "etc/sbx", 0755 },
	{ "etc/sbx/fork.d", 0755 },
	{ "home", 0755 },
	{ "lib", 0755 },
	{ "mnt", 0755 },
	{ "opt", 0755 },
	{ "proc", 0555 },
	{ "root", 0700 },
	{ "run", 0755 },
	{ "sbin", 0755 },
	{ "srv", 0755 },
	{ "sys", 0555 },
	{ "tmp", 01777 },
	{ "usr/bin", 0755 },
	{ "usr/sbin", 0755 },
	{ "usr/local/bin", 0755 },
	{ "var/log", 0755 },
	{ "var/tmp", 01777 },
};

static const struct {
	const char *path, *text;
} files[] = {
	{ "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"
			"nobody:x:65534:65534:nobody:/:/bin/sh\n" },
	{ "etc/group", "root:x:0:\n"
		       "tty:x:5:\n"
		       "nogroup:x:65534:\n" },
	{ "etc/hosts", "127.0.0.1\tlocalhost\n"
		       "::1\tlocalhost\n" },
	{ "etc/hostname", "base\n" },
	{ "etc/shells", "/bin/sh\n" },
	{ "etc/profile", "PS1='\\u@\\h:\\w\\$ '\n" },
	{ "etc/os-release", "NAME=sbxfs\n"
			    "ID=sbxfs\n"
			    "PRETTY_NAME=\"sbxfs base image (busybox)\"\n" },
};

/* Base is the same whoever makes it when: all is root's and of 1970. */
static int add_file(struct ext4 *fs, const char *path, mode_t mode, const void *data, size_t n,
		    struct err *err)
{
	const struct ext4_attr attr = { .mode = S_IFREG | mode };
	int rc;

	rc = ext4_file(fs, path, &attr, err);
	if (!rc)
		rc = ext4_write(fs, 0, data, n, err);
	return rc ? rc : ext4_end(fs, n, err);
}

static int add_layout(struct ext4 *fs, struct err *err)
{
	int rc = 0;
	size_t i;

	for (i = 0; !rc && i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		const struct ext4_attr attr = { .mode = S_IFDIR | dirs[i].mode };

		rc = ext4_dir(fs, dirs[i].path, &attr, err);
	}
	for (i = 0; !rc && i < sizeof(files) / sizeof(files[0]); i++)
		rc = add_file(fs, files[i].path, 0644, files[i].text, strlen(files[i].text), err);
	return rc;
}

/* Does the program need no interpreter, that is, no shared libraries? */
static bool is_static(const uint8_t *elf, size_t n)
{
	Elf64_Ehdr header;
	Elf64_Phdr segment;
	size_t i;

	if (n < sizeof(header))
		return false;
	memcpy(&header, elf, sizeof(header));
	if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
	    header.e_phentsize != sizeof(segment) || header.e_phoff > n ||
	    header.e_phnum > (n - header.e_phoff) / sizeof(segment))
		return false;
	for (i = 0; i < header.e_phnum; i++) {
		memcpy(&segment, elf + header.e_phoff + i * sizeof(segment), sizeof(segment));
		if (segment.p_type == PT_INTERP)
			return false;
	}
	return true;
}

static int add_busybox(struct ext4 *fs, struct err *err)
{
	void *elf = MAP_FAILED;
	struct stat st;
	int rc, fd = open(busybox, O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && !fstat(fd, &st))
		elf = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (elf == MAP_FAILED) {
		rc = err_sys(err, -errno, "%s, of Debian's package busybox-static", busybox);
	} else if (!is_static(elf, (size_t)st.st_size)) {
		rc = err_set(err, -ENOEXEC, "%s is not static: Debian's package busybox-static is needed",
			     busybox);
	} else {
		rc = add_file(fs, "bin/busybox", 0755, elf, (size_t)st.st_size, err);
	}
	if (elf != MAP_FAILED)
		munmap(elf, (size_t)st.st_size);
	if (fd >= 0)
		close(fd);
	return rc;
}

/* busybox tells its names, with the directory each belongs in: "usr/bin/awk". */
static int add_applets(struct ext4 *fs, struct err *err)
{
	const struct ext4_attr attr = { .mode = S_IFLNK | 0777 };
	char path[256];
	FILE *list = popen("/bin/busybox --list-full", "re");
	unsigned n = 0;
	int rc = 0;

	if (!list)
		return err_sys(err, -errno, "%s", busybox);
	while (!rc && fgets(path, sizeof(path), list)) {
		path[strcspn(path, "\n")] = '\0';
		if (!*path || !strcmp(path, "bin/busybox"))
			continue;
		rc = ext4_symlink(fs, path, busybox, &attr, err);
		n++;
	}
	if (pclose(list) && !rc)
		rc = err_set(err, -EIO, "%s does not list its applets", busybox);
	return !rc && !n ? err_set(err, -EIO, "%s has no applets", busybox) : rc;
}

int image_base(struct ext4 *fs, struct err *err)
{
	int rc = add_layout(fs, err);

	if (!rc)
		rc = add_busybox(fs, err);
	return rc ? rc : add_applets(fs, err);
}
