/* SPDX-License-Identifier: MIT */
/* bar.h - a progress bar on stderr; whoever draws one looks first whether that is a terminal */
#ifndef SBX_CLI_BAR_H
#define SBX_CLI_BAR_H

void bar_draw(const char *label, unsigned percent);
void bar_clear(void);

#endif
