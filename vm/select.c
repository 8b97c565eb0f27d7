/* SPDX-License-Identifier: MIT */
/* select.c - choose how machines run */
#include "vm/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "util/buf.h"

/* Best first. */
const struct engine *const engines[] = { &engine_kvm, &engine_qemu, NULL };

static const struct engine *select_named(const struct engine_env *env, const char *name, char *how,
					 size_t how_size, struct err *err)
{
	const struct engine *const *engine;

	for (engine = engines; *engine; engine++) {
		if (strcmp((*engine)->name, name) != 0)
			continue;
		if (!(*engine)->probe(env, how, how_size, err))
			return *engine;
		err_prefix(err, "engine %s", name);
		return NULL;
	}
	err_set(err, -EINVAL, "there is no engine %s", name);
	return NULL;
}

const struct engine *engine_select(const struct engine_env *env, const char *name, char *how, size_t how_size,
				   struct err *err)
{
	const struct engine *const *engine;
	char this_how[ERR_TEXT_MAX];
	struct buf passed_over = { 0 };
	struct err why = { 0 };

	if (strcmp(name, "auto") != 0)
		return select_named(env, name, how, how_size, err);
	for (engine = engines; *engine; engine++) {
		if (!(*engine)->probe(env, this_how, sizeof(this_how), &why))
			break;
		buf_printf(&passed_over, "%s%s: %s", passed_over.len ? "; " : "", (*engine)->name, why.text);
	}
	if (!*engine)
		err_set(err, -ENODEV, "no engine works here: %.*s", (int)passed_over.len,
			(const char *)buf_bytes(&passed_over));
	else if (passed_over.len && !strstr(this_how, why.text)) /* it may have the same reason */
		snprintf(how, how_size, "%s (not %.*s)", this_how, (int)passed_over.len,
			 (const char *)buf_bytes(&passed_over));
	else
		snprintf(how, how_size, "%s", this_how);
	buf_release(&passed_over);
	return *engine;
}
