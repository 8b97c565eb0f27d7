/* SPDX-License-Identifier: MIT */
/* denied.c - a system call that a filter refuses ends the process, and the last line of its log says which */
#include "util/denied.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static void on_denied(int signal, siginfo_t *info, void *context)
{
	char line[] = "the filter refuses system call    \n";
	char *digit = line + sizeof(line) - 3;
	int call = info->si_syscall;

	(void)signal;
	(void)context;
	/* Signal handlers have no printf. */
	do {
		*digit-- = (char)('0' + call % 10);
		call /= 10;
	} while (call > 0 && *digit == ' ');
	(void)!write(STDERR_FILENO, line, sizeof(line) - 1);
	_exit(DENIED_STATUS);
}

int denied_report(void)
{
	struct sigaction action = { .sa_sigaction = on_denied, .sa_flags = SA_SIGINFO };

	return sigaction(SIGSYS, &action, NULL) < 0 ? -errno : 0;
}

scmp_filter_ctx denied_filter(const int *allowed, size_t n, int *rc)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_TRAP);

	*rc = filter ? denied_report() : -ENOMEM;
	for (size_t i = 0; !*rc && i < n; i++)
		*rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
	if (*rc && filter) {
		seccomp_release(filter);
		filter = NULL;
	}
	return filter;
}

int filter_allow(scmp_filter_ctx filter, const struct call_rule *rules, size_t n)
{
	int rc = 0;

	for (size_t i = 0; !rc && i < n; i++)
		rc = seccomp_rule_add(
			filter, SCMP_ACT_ALLOW, rules[i].call, 1,
			SCMP_CMP(rules[i].arg, SCMP_CMP_MASKED_EQ, rules[i].mask, rules[i].value));
	return rc;
}

int filter_enter(scmp_filter_ctx filter, int rc)
{
	if (!rc)
		rc = seccomp_load(filter);
	if (filter)
		seccomp_release(filter);
	return rc;
}
