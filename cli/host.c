/* SPDX-License-Identifier: MIT */
/* host.c - is this host set up for code of strangers? */
#include "cli/host.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "util/io.h"

enum { TEXT_MAX = 4096 };

/* The beginning of a file of the kernel's, its last newline cut off; false: there is none. */
static bool read_text(const char *root, const char *path, char ret[TEXT_MAX])
{
	char name[PATH_MAX];
	ssize_t n = -1;
	int fd;

	snprintf(name, sizeof(name), "%s%s", root, path);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read_some(fd, ret, TEXT_MAX - 1);
		close(fd);
	}
	while (n > 0 && ret[n - 1] == '\n')
		n--;
	ret[n > 0 ? n : 0] = '\0';
	return n >= 0;
}

/* Threads of a core share its caches, and see each other in them. */
static void check_smt(const char *root, finding_fn finding)
{
	char text[TEXT_MAX];

	if (read_text(root, "/sys/devices/system/cpu/smt/active", text))
		finding(!strcmp(text, "0"), "smt",
			strcmp(text, "0") != 0 ? "on: two tenants may share a core, and its caches" : "off");
}

/* Who finds an own page merged with another's knows what is in that. */
static void check_ksm(const char *root, finding_fn finding)
{
	char text[TEXT_MAX];

	if (read_text(root, "/sys/kernel/mm/ksm/run", text))
		finding(strcmp(text, "1") != 0, "ksm",
			strcmp(text, "1") != 0
				? "off"
				: "on: equal pages of strangers are merged, which timing tells");
}

/* /dev/NAME as dm-crypt has it, or in memory. */
static bool is_encrypted(const char *root, const char *device)
{
	char path[PATH_MAX], text[TEXT_MAX];
	const char *name = strrchr(device, '/');

	name = name ? name + 1 : device;
	if (!strncmp(name, "zram", 4))
		return true;
	snprintf(path, sizeof(path), "/sys/block/%.64s/dm/uuid", name);
	return read_text(root, path, text) && !strncmp(text, "CRYPT-", 6);
}

static void check_swap(const char *root, finding_fn finding)
{
	char text[TEXT_MAX], line[PATH_MAX], *at, *end;
	const char *open_one = NULL;
	unsigned n = 0;

	if (!read_text(root, "/proc/swaps", text))
		return;
	/* The first line is a heading. */
	for (at = strchr(text, '\n'); at; at = end) {
		at++;
		end = strchr(at, '\n');
		n++;
		at[strcspn(at, " \t\n")] = '\0';
		if (!open_one && !is_encrypted(root, at))
			open_one = at;
	}
	snprintf(line, sizeof(line), "%.128s is not encrypted: memory of guests is written there",
		 open_one ? open_one : "");
	finding(!open_one, "swap", open_one ? line : n ? "encrypted, or in memory" : "none");
}

/* Of a daemon or machine it would have memory of guests. Both ask the kernel for none, wherever others' go. */
static void check_core(const char *root, finding_fn finding)
{
	char text[TEXT_MAX], line[256];

	if (!read_text(root, "/proc/sys/kernel/core_pattern", text))
		return;
	snprintf(line, sizeof(line), "none of sbxfs and machines; of others: %.128s", text);
	finding(true, "core dumps", line);
}

static void check_mitigations(const char *root, finding_fn finding)
{
	static const char dir_name[] = "/sys/devices/system/cpu/vulnerabilities";
	char path[PATH_MAX], text[TEXT_MAX], bad[256] = "";
	struct dirent *entry;
	size_t n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "%s%s", root, dir_name);
	dir = opendir(path);
	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/%.200s", dir_name, entry->d_name);
		if (entry->d_name[0] == '.' || !read_text(root, path, text) || !strstr(text, "ulnerable") ||
		    n >= sizeof(bad))
			continue;
		if (!strncmp(text, "Not affected", 12))
			continue;
		n += (size_t)snprintf(bad + n, sizeof(bad) - n, "%s%.40s",
				      n ? ", " : "vulnerable: ", entry->d_name);
	}
	closedir(dir);
	finding(!n, "mitigations", n ? bad : "nothing is vulnerable that the kernel knows of");
}

/* Which is the newest only its maker knows; the kernel knows what is missing. */
static void check_microcode(const char *root, finding_fn finding)
{
	char text[TEXT_MAX], line[128];
	const char *at, *value;

	if (!read_text(root, "/proc/cpuinfo", text))
		return;
	at = strstr(text, "\nmicrocode");
	value = at ? strchr(at, ':') : NULL;
	if (!value)
		return;
	value += 1 + strspn(value + 1, " \t");
	snprintf(line, sizeof(line), "%.*s; its maker says which is the newest", (int)strcspn(value, "\n"),
		 value);
	finding(strtoul(value, NULL, 16) && strncmp(value, "0xffffffff", 10) != 0, "microcode", line);
}

static void check_nested(const char *root, finding_fn finding)
{
	static const char *const modules[] = { "kvm_intel", "kvm_amd" };
	char path[96], text[TEXT_MAX];
	unsigned i;

	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "/sys/module/%s/parameters/nested", modules[i]);
		if (read_text(root, path, text))
			finding(text[0] == 'N' || text[0] == '0', "nested",
				text[0] == 'N' || text[0] == '0'
					? "off"
					: "on: guests reach the code for virtual machines in guests");
	}
}

void host_check(const char *root, finding_fn finding)
{
	check_smt(root, finding);
	check_ksm(root, finding);
	check_swap(root, finding);
	check_core(root, finding);
	check_mitigations(root, finding);
	check_microcode(root, finding);
	check_nested(root, finding);
}
