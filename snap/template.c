/* SPDX-License-Identifier: MIT */
/* template.c - a captured machine, from which forks are made */
#include "snap/template.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "snap/layer.h"
#include "util/closer.h"
#include "util/io.h"

struct template *template_new(void)
{
	struct template *template = calloc(1, sizeof(*template));

	if (!template)
		return NULL;
	template->refs = 1;
	template->ram_fd = -1;
	template->state_fd = template->map_fd = -1;
	return template;
}

/*
 * What a process hands over must be memory that nobody can change or cut off any more: no device that answers
 * late, no file that shrinks below a reader, no size that says another.
 */
static int check_file(int fd, const char *what, uint64_t min, uint64_t max, struct err *err)
{
	const int want = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
	const int seals = fcntl(fd, F_GET_SEALS); /* fails for what is not memory */
	struct statfs fs;
	struct stat st;

	if (seals < 0 || (seals & want) != want || fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
		return err_set(err, -EPROTO, "the captured %s is not sealed memory", what);
	if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY)
		return err_set(err, -EPROTO, "the captured %s cannot be read", what);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size < min ||
	    (uint64_t)st.st_size > max)
		return err_set(err, -EPROTO, "the captured %s has not the size it must have", what);
	return 0;
}

int template_adopt(struct template *template, const struct template_files *files, struct err *err)
{
	const uint64_t map_size = template_map_size(template->ram_size);
	int rc = check_file(files->ram, "memory", template->ram_size, template->ram_size, err);

	if (!rc)
		rc = check_file(files->state, "state", 1, TEMPLATE_STATE_MAX, err);
	if (!rc && template->base)
		rc = check_file(files->map, "map", map_size, map_size, err);
	if (rc)
		return rc;
	template->ram_fd = files->ram;
	template->state_fd = files->state;
	template->map_fd = files->map;
	return 0;
}

struct template *template_ref(struct template *template)
{
	template->refs++;
	return template;
}

void template_unref(struct template *template)
{
	if (!template || --template->refs)
		return;
	close_large(&template->ram_fd);
	close_large(&template->state_fd);
	close_fd(&template->map_fd);
	template_unref(template->base);
	layer_unref(template->disk);
	free(template);
}
