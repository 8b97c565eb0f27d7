/* SPDX-License-Identifier: MIT */
/*
 * ask.h - what sbx-guest and the agent say to each other
 *
 * A connection to the agent's socket (AF_UNIX, SOCK_SEQPACKET) is one question and one answer, each a message. The
 * answer comes in every machine in which the one who asked finds itself.
 */
#ifndef SBX_VM_AGENT_GUEST_ASK_H
#define SBX_VM_AGENT_GUEST_ASK_H

#include <stdint.h>

#include "util/err.h"
#include "vm/agent/proto.h"

#define GUEST_ASK_SOCKET "/run/sbx/guest"

struct guest_question {
	uint8_t verb; /* enum guest_verb */
	uint32_t number;
	char name[PROTO_NAME_MAX + 1];
};

struct guest_answer {
	int32_t error; /* 0, or an errno */
	/* 0 in the machine that asked; in copies of it, which of them it is, from 1 on */
	uint32_t number;
	char text[ERR_TEXT_MAX]; /* with an errno */
};

#endif
