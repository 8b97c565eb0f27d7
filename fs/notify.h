/* SPDX-License-Identifier: MIT */
/*
 * notify.h - tell the service manager that the tree is there (sd_notify(3))
 *
 * The protocol is one datagram to the socket that NOTIFY_SOCKET names; libsystemd would bring compressors and a
 * cipher library into the daemon for it.
 */
#ifndef SBX_FS_NOTIFY_H
#define SBX_FS_NOTIFY_H

/* While the daemon still sees the socket's path. -1: nobody wants to know. */
int notify_open(void);
/* The tree is there. Closes fd; -1 is allowed. */
void notify_ready(int fd);

#endif
