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

static void on_exited(void *arg, int status)
{
	struct browse *browse = arg;
	bool unasked = !browse->done; /* otherwise done says it */

	(void)status;
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

static int spawn(struct browse *browse, struct loop *loop, const char *libexec, const char *layer_path,
		 int channel, struct err *err)
{
	const char *slash = strrchr(layer_path, '/');
	char *program = NULL, *dir = NULL;
	int rc = -ENOMEM;

	if (!slash)
		return err_set(err, -EINVAL, "%s is not the path of a layer", layer_path);
	if (asprintf(&program, "%s/sbx-browse", libexec) < 0) {
		program = NULL;
		goto out;
	}
	dir = strndup(layer_path, (size_t)(slash - layer_path));
	if (dir) {
		const char *const argv[] = { program, dir, slash + 1, NULL };
		const struct process_spec spec = {
			.argv = argv,
			.stdin_fd = channel,
			.stdout_fd = -1,
			.stderr_fd = -1,
		};

		rc = process_spawn(loop, &spec, on_exited, browse, &browse->process, err);
	}
out:
	if (rc == -ENOMEM)
		err_set(err, rc, "out of memory");
	free(program);
	free(dir);
	return rc;
}

int browse_new(struct loop *loop, const char *libexec, const char *layer_path,
	       void (*done)(void *arg, const struct err *err), void (*exited)(void *arg), void *arg,
	       struct browse **ret, struct err *err)
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
	rc = spawn(browse, loop, libexec, layer_path, ends[1], err);
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
