/* SPDX-License-Identifier: MIT */
/* traced.h - an engine whose calls are told, for sbxfs -v */
#ifndef SBX_VM_TRACED_H
#define SBX_VM_TRACED_H

#include "vm/engine.h"

/* The same engine, with a line in the log for each call. One for the whole process. */
const struct engine *engine_traced(const struct engine *engine);

#endif
