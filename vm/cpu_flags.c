/* SPDX-License-Identifier: MIT */
/* cpu_flags.c - CPU features that programs look for once and then rely on */
#include "vm/cpu_flags.h"

#include <stdio.h>
#include <string.h>

/* What compilers, libc's string functions, crypto and numeric libraries, and the kernel itself choose by. */
static const char *const relied_on[] = {
	"sse3",        "pni",      "ssse3",       "sse4_1",     "sse4_2",     "popcnt",      "cx16",
	"movbe",       "aes",      "pclmulqdq",   "xsave",      "xsaveopt",   "xsavec",      "xsaves",
	"avx",         "f16c",     "fma",         "avx2",       "bmi1",       "bmi2",        "abm",
	"rdrand",      "rdseed",   "adx",         "sha_ni",     "vaes",       "vpclmulqdq",  "gfni",
	"erms",        "fsrm",     "fsgsbase",    "pcid",       "invpcid",    "smep",        "smap",
	"umip",        "pku",      "rdpid",       "clflushopt", "clwb",       "avx512f",     "avx512dq",
	"avx512cd",    "avx512bw", "avx512vl",    "avx512ifma", "avx512vbmi", "avx512_vnni", "avx512_bitalg",
	"avx512_bf16", "avx_vnni", "avx512_fp16", "rdtscp",     "pdpe1gb",    "sse4a",       "3dnowprefetch",
	NULL,
};

/* The words of the first CPU's line, each with a blank on both sides. */
static const char *flags(void)
{
	static char line[8192];
	size_t n;
	FILE *file;

	if (*line)
		return line;
	file = fopen("/proc/cpuinfo", "re");
	if (!file)
		return " "; /* not for ever: memory may be out now */
	while (fgets(line, sizeof(line) - 1, file))
		if (!strncmp(line, "flags", 5))
			break;
	fclose(file);
	n = strcspn(line, "\n");
	line[n] = ' ';
	line[n + 1] = 0;
	return line;
}

bool cpu_flags_have(const char *flag)
{
	char word[64];

	return snprintf(word, sizeof(word), " %s ", flag) < (int)sizeof(word) && strstr(flags(), word);
}

void cpu_flags_put(struct buf *text)
{
	const char *const *flag;

	for (flag = relied_on; *flag; flag++)
		if (cpu_flags_have(*flag))
			buf_printf(text, "cpu %s\n", *flag);
}
