/* SPDX-License-Identifier: MIT */
/* browser.c - the files of a disk that no machine runs on: the daemon's end */
#include "vm/agent/browser.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/log.h"
#include "vm/disk_files.h"
#include "vm/process.h"

/* Reading a journal of a GiB comes first. */
enum { ATTACH_MS = 20000 };

struct browse {
	struct process *process;
	struct agent *agent;
	int channel;
	bool ending, freed; /* callbacks are being called; browse_free was called from one */
	void (*done)(void *arg, const struct err *err); /* NULL once called */
	void (*exited)(void *arg);
	void *arg;
};

/* A helper has no jobs; one that a disk has taken over may say otherwise, and nobody listens. */
static const struct agent_events events = { 0 };

static void on_attached(void *arg, const struct err *err)
{
	struct browse *browse = arg;
	void (*done)(void *arg, const struct err *err) = browse->done;

	browse->done = NULL;
	if (done)
		done(browse->arg, err);
}

static void on_exited(void *arg, int status, const char *why)
{
	struct browse *browse = arg;
	bool unasked = !browse->done; /* otherwise done says it */

	if (status)
		log_warn("sbx-browse %s", why);
	browse->process = NULL;
	/* What is pending, the attach too, ends here; and who hears of it may have had enough. */
	browse->ending = true;
	agent_free(browse->agent);
	browse->agent = NULL;
	if (unasked && !browse->freed)
		browse->exited(browse->arg);
	browse->ending = false;
	if (browse->freed)
		browse_free(browse);
}

static int spawn(struct browse *browse, struct loop *loop, const char *layer_path, int channel,
		 struct err *err)
{
	struct disk disk;
	int keep[DISK_FILES_MAX];
	char number[16];
	const char *const args[] = { disk.name, number, NULL };
	struct process_spec spec = { .kind = JAIL_BROWSE, .args = args, .keep = keep, .stdin_fd = channel };
	unsigned i;
	int rc = disk_open(&disk, layer_path, DISK_READ_ONLY, err);

	if (rc)
		return rc;
	for (i = 0; i < disk.n; i++)
		keep[i] = disk.files[i].fd;
	spec.nkeep = disk.n;
	snprintf(number, sizeof(number), "%u", disk.n);
	rc = process_spawn(loop, &spec, on_exited, browse, &browse->process, err);
	disk_close(&disk);
	return rc;
}

int browse_new(struct loop *loop, const char *layer_path, void (*done)(void *arg, const struct err *err),
	       void (*exited)(void *arg), void *arg, struct browse **ret, struct err *err)
{
	const struct identity identity = { .name = "browse", .generation = 1, .kind = ATTACH_BOOT };
	struct browse *browse = calloc(1, sizeof(*browse));
	int ends[2] = { -1, -1 }, rc;

	if (!browse)
		return err_set(err, -ENOMEM, "out of memory");
	browse->channel = -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
		rc = err_sys(err, -errno, "cannot make a channel");
		goto fail;
	}
	/* Only the daemon's end must not block. */
	browse->channel = ends[0];
	if (fcntl(ends[0], F_SETFL, O_NONBLOCK) < 0) {
		rc = err_sys(err, -errno, "cannot make a channel");
		goto fail;
	}
	rc = spawn(browse, loop, layer_path, ends[1], err);
	if (rc)
		goto fail;
	close(ends[1]);
	ends[1] = -1;
	browse->agent = agent_new(loop, browse->channel, &events, browse);
	if (!browse->agent) {
		rc = err_set(err, -ENOMEM, "out of memory");
		goto fail;
	}
	browse->done = done;
	browse->exited = exited;
	browse->arg = arg;
	agent_attach(browse->agent, &identity, ATTACH_MS, on_attached, browse);
	*ret = browse;
	return 0;
fail:
	if (ends[1] >= 0)
		close(ends[1]);
	browse_free(browse);
	return rc;
}

struct agent *browse_agent(const struct browse *browse)
{
	return browse->agent;
}

void browse_free(struct browse *browse)
{
	if (!browse)
		return;
	browse->done = NULL;
	browse->freed = true;
	if (browse->ending)
		return;
	if (browse->process)
		process_abandon(browse->process);
	agent_free(browse->agent);
	if (browse->channel >= 0)
		close(browse->channel);
	free(browse);
}
