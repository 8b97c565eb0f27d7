/* SPDX-License-Identifier: MIT */
/*
 * main.c - sbx-guest: what a program in a sandbox asks of it
 *
 * The agent puts it into /run/sbx/bin. It asks, waits for the answer, which comes once in every copy of the machine, and
 * prints which of them this is.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/program.h"
#include "vm/agent/guest/ask.h"

enum { FORM_FORK, FORM_CHECKPOINT, FORM_SUSPEND };

static const struct program program = {
	.name = "sbx-guest",
	.forms = "fork N\n"
		 "checkpoint NAME\n"
		 "suspend",
	.about = "Does to the sandbox it runs in what the sandbox's file `guest` allows.\n"
		 "fork returns once in every copy: it prints 0 in the machine that asked, and 1 to N in the\n"
		 "new ones, which are called as that one, with .1, .2 and so on behind it. checkpoint saves\n"
		 "the machine as the snapshot THIS.NAME, and prints 0; in machines that begin with it, 1.\n",
	.stop_at_operand = true,
};

static int complain(const char *verb, int error, const char *text)
{
	fprintf(stderr, "sbx-guest: %s: %s%s%s\n", verb, strerror(error), *text ? ": " : "", text);
	return 1;
}

static int ask(const struct guest_question *question)
{
	const struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = GUEST_ASK_SOCKET };
	const char *verb = guest_verb_name(question->verb);
	struct guest_answer answer;
	ssize_t n;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return complain(verb, errno, "this machine's agent is not to be reached");
	if (send(fd, question, sizeof(*question), MSG_NOSIGNAL) < 0)
		return complain(verb, errno, "");
	do
		n = recv(fd, &answer, sizeof(answer), 0);
	while (n < 0 && errno == EINTR);
	if (n != sizeof(answer))
		return complain(verb, n < 0 ? errno : EPIPE, "the agent did not answer");
	answer.text[sizeof(answer.text) - 1] = '\0';
	if (answer.error)
		return complain(verb, answer.error, answer.text);
	printf("%u\n", answer.number);
	return fflush(stdout) ? complain(verb, errno, "") : 0;
}

static bool parse_number(const char *text, uint32_t *ret)
{
	unsigned long n;
	char *end;

	errno = 0;
	n = strtoul(text, &end, 10);
	*ret = (uint32_t)n;
	return *text >= '0' && *text <= '9' && !*end && !errno && n && n <= UINT32_MAX;
}

int main(int argc, char **argv)
{
	struct guest_question question = { 0 };
	int status;

	if (program_next(&program, argc, argv, &status) != PROGRAM_OPERANDS)
		return status;
	argc -= optind;
	argv += optind;
	if (!argc)
		return program_refuse(&program, "a verb is needed");
	if (!strcmp(argv[0], "fork")) {
		question.verb = GUEST_FORK;
		if (argc != 2)
			return program_refuse_form(&program, FORM_FORK);
		if (!parse_number(argv[1], &question.number))
			return program_refuse(&program, "\"%s\" is not a number of copies", argv[1]);
	} else if (!strcmp(argv[0], "checkpoint")) {
		question.verb = GUEST_CHECKPOINT;
		if (argc != 2)
			return program_refuse_form(&program, FORM_CHECKPOINT);
		if (strlen(argv[1]) > PROTO_NAME_MAX)
			return program_refuse(&program, "\"%s\" is too long for a name", argv[1]);
		memcpy(question.name, argv[1], strlen(argv[1]));
	} else if (!strcmp(argv[0], "suspend")) {
		question.verb = GUEST_SUSPEND;
		if (argc != 1)
			return program_refuse_form(&program, FORM_SUSPEND);
	} else {
		return program_refuse(&program, "there is no verb \"%s\"", argv[0]);
	}
	return ask(&question);
}
