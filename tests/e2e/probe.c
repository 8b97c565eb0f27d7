/* SPDX-License-Identifier: MIT */
/*
 * probe.c - a static program the tests put into guests, for what busybox cannot tell
 *
 *   probe               who am I: host name, machine id, 16 bytes of getrandom(2)
 *   probe serve         the same for each line read, with CLOCK_REALTIME in ns as it was when the line came
 *   probe sleep S       sleep S seconds by CLOCK_MONOTONIC; prints how many ns of it passed
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static long long now(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static void tell(long long time)
{
	char host[256] = "", id[64] = "";
	unsigned char random[16] = { 0 };
	FILE *file;
	size_t i;

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		exit(1);
	gethostname(host, sizeof(host) - 1);
	file = fopen("/etc/machine-id", "r");
	if (file && fgets(id, sizeof(id), file))
		id[strcspn(id, "\n")] = '\0';
	if (file)
		fclose(file);
	printf("%lld %s %s ", time, host, id);
	for (i = 0; i < sizeof(random); i++)
		printf("%02x", random[i]);
	printf("\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char line[64];
	long long start;

	if (argc == 2 && !strcmp(argv[1], "serve")) {
		while (read(STDIN_FILENO, line, sizeof(line)) > 0)
			tell(now(CLOCK_REALTIME));
	} else if (argc == 3 && !strcmp(argv[1], "sleep")) {
		const struct timespec span = { .tv_sec = atoi(argv[2]) };

		start = now(CLOCK_MONOTONIC);
		printf("sleeping\n");
		fflush(stdout);
		clock_nanosleep(CLOCK_MONOTONIC, 0, &span, NULL);
		printf("%lld\n", now(CLOCK_MONOTONIC) - start);
	} else {
		tell(now(CLOCK_REALTIME));
	}
	return 0;
}
