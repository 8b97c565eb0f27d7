/* SPDX-License-Identifier: MIT */
/* test_host.c - the checklist for hosts, on hosts that are made up */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/host.h"
#include "tests/unit/unit.h"

static char dir[] = "/tmp/sbx-test-host-XXXXXX";
static char text[4096];

static void note(bool ok, const char *what, const char *why)
{
	const size_t n = strlen(text);

	snprintf(text + n, sizeof(text) - n, "%s %s: %s\n", ok ? "ok" : "no", what, why);
}

/* Does the host say so? */
static bool says(const char *line)
{
	text[0] = '\0';
	host_check(dir, note);
	return strstr(text, line);
}

static void set(const char *path, const char *value)
{
	sh_in(dir, "mkdir -p $(dirname %s) && printf '%s' > %s", path, value, path);
}

static void a_host_that_tells_nothing(void)
{
	text[0] = '\0';
	host_check(dir, note);
	CHECK(!text[0]);
}

static void threads_of_a_core(void)
{
	set("sys/devices/system/cpu/smt/active", "1\\n");
	CHECK(says("no smt: on"));
	set("sys/devices/system/cpu/smt/active", "0\\n");
	CHECK(says("ok smt: off\n"));
}

static void merged_pages(void)
{
	set("sys/kernel/mm/ksm/run", "1\\n");
	CHECK(says("no ksm: on"));
	set("sys/kernel/mm/ksm/run", "0\\n");
	CHECK(says("ok ksm: off\n"));
	set("sys/kernel/mm/ksm/run", "2\\n"); /* stopped, and all of them unmerged */
	CHECK(says("ok ksm: off\n"));
}

static void swap(void)
{
	const char *heading = "Filename\\t\\t\\t\\tType\\t\\tSize\\t\\tUsed\\t\\tPriority\\n";
	char value[512];

	set("proc/swaps", heading);
	CHECK(says("ok swap: none\n"));
	snprintf(value, sizeof(value), "%s/dev/sda2 partition 1 0 -2\\n", heading);
	set("proc/swaps", value);
	CHECK(says("no swap: /dev/sda2 is not encrypted"));
	snprintf(value, sizeof(value), "%s/dev/zram0 partition 1 0 -2\\n/dev/dm-1 partition 1 0 -2\\n",
		 heading);
	set("proc/swaps", value);
	CHECK(says("no swap: /dev/dm-1 is not encrypted"));
	set("sys/block/dm-1/dm/uuid", "LVM-x\\n");
	CHECK(says("no swap: /dev/dm-1 is not encrypted"));
	set("sys/block/dm-1/dm/uuid", "CRYPT-PLAIN-swap\\n");
	CHECK(says("ok swap: encrypted, or in memory\n"));
}

static void mitigations(void)
{
	set("sys/devices/system/cpu/vulnerabilities/l1tf", "Not affected\\n");
	set("sys/devices/system/cpu/vulnerabilities/spectre_v2", "Mitigation: Retpolines\\n");
	CHECK(says("ok mitigations: "));
	set("sys/devices/system/cpu/vulnerabilities/mds",
	    "Vulnerable: Clear CPU buffers attempted, no microcode\\n");
	CHECK(says("no mitigations: vulnerable: mds\n"));
	/* One that is mitigated, but not with threads. */
	set("sys/devices/system/cpu/vulnerabilities/mds", "Mitigation: Clear CPU buffers; SMT vulnerable\\n");
	CHECK(says("no mitigations: vulnerable: mds\n"));
}

static void microcode(void)
{
	set("proc/cpuinfo", "processor\\t: 0\\nmicrocode\\t: 0x2b000571\\ncpu MHz : 1\\n");
	CHECK(says("ok microcode: 0x2b000571; "));
	set("proc/cpuinfo", "processor\\t: 0\\nmicrocode\\t: 0xffffffff\\n");
	CHECK(says("no microcode: 0xffffffff; "));
	set("proc/cpuinfo", "processor\\t: 0\\n");
	CHECK(!says("microcode"));
}

static void nested(void)
{
	set("sys/module/kvm_intel/parameters/nested", "Y\\n");
	CHECK(says("no nested: on"));
	set("sys/module/kvm_intel/parameters/nested", "N\\n");
	set("sys/module/kvm_amd/parameters/nested", "0\\n");
	CHECK(says("ok nested: off\nok nested: off\n"));
}

int main(void)
{
	scratch_dir(dir);
	TEST(a_host_that_tells_nothing);
	TEST(threads_of_a_core);
	TEST(merged_pages);
	TEST(swap);
	TEST(mitigations);
	TEST(microcode);
	TEST(nested);
	return 0;
}
