/* SPDX-License-Identifier: MIT */
/* port.h - the agent channel's port, taken from the agent */
#ifndef SBX_TESTS_HOSTILE_PORT_H
#define SBX_TESTS_HOSTILE_PORT_H

/* Its descriptor, once the driver was bound anew: the agent's is dead then. Ends the program where it cannot. */
int port_take(void);

#endif
