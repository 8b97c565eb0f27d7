/* SPDX-License-Identifier: MIT */
/* engine_fixture.h - what tests of an engine share: its callbacks counted, disks, and what a process has open */
#ifndef SBX_TESTS_ENGINE_FIXTURE_H
#define SBX_TESTS_ENGINE_FIXTURE_H

#include <dirent.h>
#include <limits.h>
#include <string.h>

#include "snap/template.h"
#include "tests/unit/unit.h"
#include "vm/engine.h"
#include "vm/process.h"

static struct engine_env env;
static struct jail_config jail;
static char dir[] = "/tmp/sbx-test-engine-XXXXXX";
static unsigned overlays;

static unsigned ndone, nfrozen, ncaptured, nexited;
static struct err done_err, captured_err;
static struct template *captured;
static bool exit_clean;
static char exit_why[256];

static inline void on_done(void *arg, const struct err *err)
{
	(void)arg;
	ndone++;
	done_err = *err;
}

static inline void on_frozen(void *arg)
{
	(void)arg;
	nfrozen++;
}

static inline void on_captured(void *arg, const struct err *err, struct template *template)
{
	(void)arg;
	CHECK(!err->code == !!template);
	ncaptured++;
	captured_err = *err;
	captured = template;
}

static inline void on_exited(void *owner, bool clean, const char *why)
{
	(void)owner;
	nexited++;
	exit_clean = clean;
	snprintf(exit_why, sizeof(exit_why), "%s", why);
}

static const struct vm_events events = { .exited = on_exited };
static const struct vm_capture capture_calls = { .frozen = on_frozen, .done = on_captured };

static inline unsigned open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	CHECK(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* On `base`, or an empty disk. */
static inline void make_overlay(const char *base, char path[PATH_MAX])
{
	snprintf(path, PATH_MAX, "%s/%u.qcow2", dir, overlays++);
	if (base)
		shell("qemu-img create -q -f qcow2 -F qcow2 -b %s %s", strrchr(base, '/') + 1, path);
	else
		shell("qemu-img create -q -f qcow2 %s 64M", path);
}

#endif
