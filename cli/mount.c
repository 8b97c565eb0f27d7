/* SPDX-License-Identifier: MIT */
/* mount.c - where the mounted filesystem is, and why it refused something */
#include "cli/mount.h"

#include <errno.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the only sbxfs is mounted. */
static int find_mount(char *ret, size_t size)
{
	const char *env = getenv("SBX_MOUNT");
	struct mntent *m;
	unsigned found = 0;
	FILE *mounts;

	if (env && *env) {
		snprintf(ret, size, "%s", env);
		return 0;
	}
	mounts = setmntent("/proc/mounts", "r");
	if (!mounts) {
		fprintf(stderr, "sbx: cannot read /proc/mounts: %s\n", strerror(errno));
		return -1;
	}
	while ((m = getmntent(mounts)))
		if (!strcmp(m->mnt_type, "fuse.sbxfs") && !found++)
			snprintf(ret, size, "%s", m->mnt_dir);
	endmntent(mounts);
	if (found == 1)
		return 0;
	fprintf(stderr, "sbx: %s; set SBX_MOUNT, or give a path\n",
		found ? "more than one sbxfs is mounted" : "no sbxfs is mounted");
	return -1;
}

int find_in_mount(const char *dir, const char *name, char ret[PATH_MAX])
{
	char mount[PATH_MAX];
	int n;

	if (strchr(name, '/')) {
		n = snprintf(ret, PATH_MAX, "%s", name);
	} else {
		if (find_mount(mount, sizeof(mount)))
			return -1;
		n = snprintf(ret, PATH_MAX, "%s/%s%s", mount, dir, name);
	}
	if (n >= 0 && n < PATH_MAX)
		return 0;
	fprintf(stderr, "sbx: cannot use %.80s: %s\n", name, strerror(ENAMETOOLONG));
	return -1;
}

int mount_complain(const char *program, const char *dir, const char *what)
{
	char path[PATH_MAX + 80], why[512] = "";
	const int saved = errno;
	FILE *f;

	snprintf(path, sizeof(path), "%s/error", dir);
	f = fopen(path, "re");
	if (f && !fgets(why, sizeof(why), f))
		*why = '\0';
	if (f)
		fclose(f);
	if (*why)
		fprintf(stderr, "%s: %s", program, why);
	else
		fprintf(stderr, "%s: %s: %s\n", program, what, strerror(saved));
	return -1;
}
