/* SPDX-License-Identifier: MIT */
/*
 * identity.c - who the machine is
 *
 * Forks wake up with the same memory, so each would draw the same "random" numbers, believe in the same time
 * and use the same names. All of that is put right before the host lets anyone use the machine, randomness
 * first: what comes later, and the hooks, may draw on it.
 *
 * An image need not have /etc/hostname or /etc/machine-id, nor a disk that can be written; then only the
 * kernel's part is done. A disk that could be written and was not is an error, since two forks would share an
 * identity.
 */
#include "vm/agent/guest/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int add_entropy(const struct guest_identity *identity, struct err *err)
{
	struct {
		int bits, bytes;
		uint8_t data[IDENTITY_ENTROPY];
	} pool = { .bits = IDENTITY_ENTROPY * 8, .bytes = IDENTITY_ENTROPY };
	static int fd = -1; /* kept: a fork need not open it */
	int rc = 0;

	if (fd < 0)
		fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, -errno, "/dev/urandom");
	memcpy(pool.data, identity->entropy, sizeof(pool.data));
	/* struct rand_pool_info with its flexible array; see random(4). */
	if (ioctl(fd, RNDADDENTROPY, &pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
		rc = err_sys(err, -errno, "cannot reseed the kernel's random numbers");
	explicit_bzero(&pool, sizeof(pool));
	return rc;
}

static int set_clock(const struct guest_identity *identity, struct err *err)
{
	const int rc = clock_set(identity->clock_ns);

	return rc ? err_sys(err, rc, "cannot set the clock") : 0;
}

/*
 * Overwrite in place: on a full disk a file of the same size can still be written, a new one cannot. One that
 * the image forbids to write stays as it is.
 */
static int write_etc(const char *path, const char *text, struct err *err)
{
	const size_t len = strlen(text);
	struct stat st;
	ssize_t n;
	int rc = 0, fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644);

	if (fd < 0) {
		if (errno == EROFS || errno == ENOENT || errno == EACCES || errno == EPERM ||
		    errno == ELOOP || errno == ENOTDIR)
			return 0;
		return err_sys(err, -errno, "%s", path);
	}
	n = write(fd, text, len);
	/* A truncation costs as much as the write, also one that changes nothing. */
	if (n < 0 || fstat(fd, &st) < 0 || (st.st_size != (off_t)len && ftruncate(fd, (off_t)len) < 0))
		rc = err_sys(err, -errno, "%s", path);
	else if ((size_t)n != len)
		rc = err_sys(err, -ENOSPC, "%s", path);
	close(fd);
	return rc;
}

static const char hostname_file[] = "/etc/hostname", machine_id_file[] = "/etc/machine-id";

/* The contents of its files. */
struct texts {
	char name[PROTO_NAME_MAX + 2], machine_id[IDENTITY_MACHINE_ID * 2 + 2], generation[16];
};

static void write_texts(const struct guest_identity *identity, struct texts *ret)
{
	unsigned i;

	snprintf(ret->name, sizeof(ret->name), "%s\n", identity->name);
	for (i = 0; i < IDENTITY_MACHINE_ID; i++)
		snprintf(ret->machine_id + 2 * i, 3, "%02x", identity->machine_id[i]);
	snprintf(ret->machine_id + sizeof(ret->machine_id) - 2, 2, "\n");
	snprintf(ret->generation, sizeof(ret->generation), "%u\n", identity->generation);
}

static int set_host_name(const struct guest_identity *identity, const struct texts *texts, struct err *err)
{
	if (sethostname(identity->name, strlen(identity->name)) < 0)
		return err_sys(err, -errno, "cannot set the host name");
	return write_etc(hostname_file, texts->name, err);
}

static int set_names(const struct guest_identity *identity, const struct texts *texts, struct err *err)
{
	const int rc = set_host_name(identity, texts, err);

	return rc ? rc : write_etc(machine_id_file, texts->machine_id, err);
}

static const char run_dir[] = "/run/sbx", name_file[] = "name", generation_file[] = "generation";

/* Make a file in run_dir as .NAME, and put it in the place of `as`. */
static int publish_as(const char *as, const char *name, const char *text, struct err *err)
{
	char path[64], tmp[64];
	int rc;

	snprintf(path, sizeof(path), "%s/%s", run_dir, as);
	snprintf(tmp, sizeof(tmp), "%s/.%s", run_dir, name);
	rc = write_file(tmp, O_CREAT | O_TRUNC, text);
	if (rc == -ENOENT) {
		mkdir(run_dir, 0755);
		rc = write_file(tmp, O_CREAT | O_TRUNC, text);
	}
	if (!rc && rename(tmp, path) < 0)
		rc = -errno;
	return rc ? err_sys(err, rc, "%s", path) : 0;
}

/* Programs watch these: each changes in one step. */
static int publish(const char *name, const char *text, struct err *err)
{
	return publish_as(name, name, text, err);
}

static int publish_all(const struct texts *texts, struct err *err)
{
	const int rc = publish(name_file, texts->name, err);

	return rc ? rc : publish(generation_file, texts->generation, err);
}

/* ---- a rehearsal */

enum { SMALL = 255 }; /* bytes of a file that may be ours */

/* All of a small text, terminated; false: there is none, or it is none of ours. */
static bool read_small(const char *path, char text[SMALL + 1])
{
	ssize_t n;
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return false;
	n = read(fd, text, SMALL);
	close(fd);
	if (n <= 0 || n == SMALL || memchr(text, '\0', (size_t)n))
		return false;
	text[n] = '\0';
	return true;
}

/* Write what the file has already: once with a line more, so that it is cut as for a name that is shorter. */
static int rewrite(const char *path, struct err *err)
{
	char text[SMALL + 2];
	size_t len;
	int rc;

	if (!read_small(path, text))
		return 0;
	len = strlen(text);
	memcpy(text + len, "\n", 2);
	rc = write_etc(path, text, err);
	text[len] = '\0';
	return rc ? rc : write_etc(path, text, err);
}

/* As publish() does, but in the place of a file that is of no interest: a fork would wake up who watches the
 * real one, and it is not one yet. */
static int rehearse_publish(const char *name, struct err *err)
{
	static const char as[] = ".rehearsal";
	char path[64], other[64];
	int rc;

	snprintf(path, sizeof(path), "%s/%s", run_dir, name);
	snprintf(other, sizeof(other), "%s/%s", run_dir, as);
	if (access(path, F_OK) < 0)
		return 0;
	rc = write_file(other, O_CREAT | O_TRUNC, "");
	rc = rc ? err_sys(err, rc, "%s", other) : publish_as(as, name, "\n", err);
	unlink(other);
	return rc;
}

/*
 * What a fork's identity makes the guest do, so that all it needs is in memory and translated when the fork
 * comes. No file's content is different afterwards, and the two that programs watch are not touched.
 */
static int rehearse_names(struct err *err)
{
	char name[HOST_NAME_MAX + 1];
	int rc;

	if (gethostname(name, sizeof(name)) < 0 || sethostname(name, strlen(name)) < 0)
		return err_sys(err, -errno, "cannot set the host name");
	rc = rewrite(hostname_file, err);
	if (!rc)
		rc = rewrite(machine_id_file, err);
	if (!rc)
		rc = rehearse_publish(name_file, err);
	if (!rc)
		rc = rehearse_publish(generation_file, err);
	hooks_look();
	return rc;
}

/* The same machine. Of what was stored there may be a copy that went on before, and drew the same random numbers. */
static int go_on(const struct guest_identity *identity, const struct texts *texts, struct err *err)
{
	const bool woken = identity->kind != ATTACH_RESUME;
	unsigned ended = 0;
	int rc = 0;

	if (woken) {
		rc = add_entropy(identity, err);
		ended = network_end_connections(false);
	}
	if (!rc)
		rc = set_clock(identity, err);
	if (!rc && identity->renamed)
		rc = set_host_name(identity, texts, err);
	if (!rc && identity->renamed)
		rc = publish(name_file, texts->name, err);
	if (!rc && identity->renamed)
		hooks_renamed(identity->name);
	network_let_run(ended);
	if (!rc && woken)
		rc = hooks_run(HOOKS_RESUME, identity->env, err);
	return rc;
}

int identity_apply(const struct guest_identity *identity, struct err *err)
{
	const bool copied = identity->kind == ATTACH_FORK || identity->kind == ATTACH_RETURN;
	struct texts texts;
	unsigned ended = 0;
	int rc;

	write_texts(identity, &texts);
	if (identity->kind == ATTACH_RESUME || identity->kind == ATTACH_WAKE ||
	    identity->kind == ATTACH_WAKE_ANEW)
		return go_on(identity, &texts, err);
	rc = add_entropy(identity, err);
	if (!rc)
		rc = set_clock(identity, err);
	if (!rc && identity->kind == ATTACH_REHEARSE) {
		network_let_run(network_end_connections(true));
		return rehearse_names(err);
	}
	if (!rc && copied)
		ended = network_end_connections(false);
	if (!rc)
		rc = set_names(identity, &texts, err);
	if (!rc)
		rc = publish_all(&texts, err);
	network_let_run(ended);
	if (rc)
		return rc;
	hooks_identity(identity->name, identity->generation);
	hooks_look();
	if (copied)
		rc = hooks_run(HOOKS_FORK, identity->env, err);
	if (!rc && identity->kind == ATTACH_RETURN)
		rc = hooks_run(HOOKS_RESUME, identity->env, err);
	return rc;
}
