/* SPDX-License-Identifier: MIT */
/* test_probe.c - the measurement of /dev/kvm, and the choice of an engine */
#include "vm/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "vm/engine.h"

static void what_is_not_kvm_fails_with_a_reason(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct err err = { 0 };
	double mips = -1;

	CHECK(fd >= 0);
	CHECK(kvm_measure_mips(fd, &mips, &err) < 0);
	CHECK(err.code < 0 && *err.text && mips == -1);
	close(fd);
}

static void a_guest_loop_runs_at_some_speed(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	struct err err = { 0 };
	double mips = 0;

	if (fd < 0) {
		printf("no /dev/kvm here: ");
		return;
	}
	CHECK(!kvm_measure_mips(fd, &mips, &err));
	/* Emulation does about one, hardware thousands; nothing does these. */
	CHECK(isfinite(mips) && mips > 0.01 && mips < 100000);
	close(fd);
}

static void the_verdict_is_stable_and_explained(void)
{
	const struct kvm_probe *probe = kvm_probe();

	CHECK(probe == kvm_probe());
	CHECK(probe->how && *probe->how);
	if (probe->err.code)
		CHECK(*probe->err.text);
	else
		CHECK(probe->mips >= 20);
}

static void engines_are_chosen_by_name(void)
{
	const struct engine_env env = { .kernel = "", .initrd = "", .libexec = "" };
	const struct engine *engine;
	struct err err = { 0 };
	char how[256] = "";

	CHECK(!engine_select(&env, "none-such", how, sizeof(how), &err));
	CHECK(err.code == -EINVAL && strstr(err.text, "none-such"));
	engine = engine_select(&env, "qemu", how, sizeof(how), &err);
	CHECK(engine == &engine_qemu && *how);
	engine = engine_select(&env, "auto", how, sizeof(how), &err);
	CHECK(engine && *how);
}

static void no_qemu_in_the_path_is_said(void)
{
	const struct engine_env env = { .kernel = "", .initrd = "", .libexec = "" };
	struct err err = { 0 };
	char how[256] = "";

	CHECK(!setenv("PATH", "/none:/such", 1));
	CHECK(!engine_select(&env, "qemu", how, sizeof(how), &err));
	CHECK(err.code == -ENOENT && strstr(err.text, "qemu-system-x86_64"));
}

int main(void)
{
	TEST(what_is_not_kvm_fails_with_a_reason);
	TEST(a_guest_loop_runs_at_some_speed);
	TEST(the_verdict_is_stable_and_explained);
	TEST(engines_are_chosen_by_name);
	TEST(no_qemu_in_the_path_is_said);
	return 0;
}
