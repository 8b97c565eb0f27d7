/* SPDX-License-Identifier: MIT */
/*
 * boot_key.c - what the memory of a machine that just booted follows from
 *
 * Kernel and initramfs count by their contents, so that a copy or another installation of the same is the same; an
 * image by the name of its layer, which is never used twice, its size and when it was written. What a host must have beside
 * is checked when a stored one is loaded, as of any snapshot (fs/sandbox/requirements.h).
 */
#include "fs/start/boot_key.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "util/program.h"

enum { CHUNK = 1 << 16 };

static int digest_file(int fd, const char *path, uint64_t ret[2], struct err *err)
{
	static uint8_t chunk[CHUNK];
	XXH3_state_t *state = XXH3_createState();
	XXH128_hash_t hash;
	ssize_t n;

	if (!state)
		return err_sys(err, -ENOMEM, "cannot read %s", path);
	XXH3_128bits_reset(state);
	while ((n = read(fd, chunk, sizeof(chunk))) > 0)
		XXH3_128bits_update(state, chunk, (size_t)n);
	hash = XXH3_128bits_digest(state);
	XXH3_freeState(state);
	if (n < 0)
		return err_sys(err, -errno, "cannot read %s", path);
	ret[0] = hash.high64;
	ret[1] = hash.low64;
	return 0;
}

static void look(const struct stat *st, uint64_t ret[7])
{
	const uint64_t seen[7] = { st->st_dev,
				   st->st_ino,
				   (uint64_t)st->st_size,
				   (uint64_t)st->st_mtim.tv_sec,
				   (uint64_t)st->st_mtim.tv_nsec,
				   (uint64_t)st->st_ctim.tv_sec,
				   (uint64_t)st->st_ctim.tv_nsec };

	memcpy(ret, seen, sizeof(seen));
}

static int file_digest(struct boot_file *file, const char *path, struct err *err)
{
	const int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t seen[7];
	struct stat st;
	int rc = 0;

	if (fd < 0 || fstat(fd, &st) < 0) {
		rc = err_sys(err, -errno, "cannot read %s", path);
	} else {
		look(&st, seen);
		if (memcmp(seen, file->seen, sizeof(seen)) != 0)
			rc = digest_file(fd, path, file->digest, err);
		memcpy(file->seen, seen, sizeof(seen));
		if (rc)
			file->seen[0] = ~file->seen[0];
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

int boot_files_read(const struct fs *fs, struct boot_files *files, struct err *err)
{
	const int rc = file_digest(&files->kernel, fs->env.kernel, err);

	return rc ? rc : file_digest(&files->initrd, fs->env.initrd, err);
}

int boot_key(const struct fs *fs, struct boot_files *files, const struct layer *image,
	     const struct shape *shape, char ret[BOOT_NAME_SIZE], struct err *err)
{
	const char *path = layer_path(image), *slash = strrchr(path, '/');
	char text[512];
	XXH128_hash_t hash;
	struct stat st;
	int n, rc = boot_files_read(fs, files, err);

	if (rc)
		return rc;
	if (stat(path, &st) < 0)
		return err_sys(err, -errno, "cannot read the image %s", path);
	n = snprintf(text, sizeof(text),
		     "sbxfs %s engine %s kernel %" PRIx64 "%016" PRIx64 " initramfs %" PRIx64 "%016" PRIx64
		     " image %s %lld %lld.%ld shape %" PRIu64 " %" PRIu64 " %u %u",
		     SBX_VERSION, fs->engine->name, files->kernel.digest[0], files->kernel.digest[1],
		     files->initrd.digest[0], files->initrd.digest[1], slash ? slash + 1 : path,
		     (long long)st.st_size, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, shape->memory,
		     shape->memory_max, shape->cpus, shape->cpus_max);
	hash = XXH3_128bits(text, (size_t)n);
	snprintf(ret, BOOT_NAME_SIZE, ".boot-%016" PRIx64 "%016" PRIx64, (uint64_t)hash.high64,
		 (uint64_t)hash.low64);
	return 0;
}
