/* SPDX-License-Identifier: MIT */
/*
 * fuzz_ctl.c - what users and guests write: commands, settings, environments, link targets
 *
 * Beside memory errors: a rewritten link never leaves the guest's root, however deep it is.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fs/guest/symlink.h"
#include "fs/sandbox/settings.h"
#include "fs/tree/ctl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_link(const char *target)
{
	static const char root[] = "/root/of/it", dir[] = "/one/two";
	const size_t len = sizeof(root) - 1;
	char ret[4096];
	const char *p = ret;
	int depth = 2;
	size_t n;

	if (symlink_rewrite(root, dir, target, ret, sizeof(ret)))
		return;
	/* Absolute it is below the root, and goes up nowhere. */
	if (*ret == '/') {
		if (strncmp(ret, root, len) != 0 || (ret[len] && ret[len] != '/'))
			abort();
		p += len;
		depth = 0;
	}
	for (; *p; p += n + (p[n] == '/')) {
		n = strcspn(p, "/");
		if (n == 2 && !memcmp(p, "..", 2))
			depth--;
		else if (n && !(n == 1 && *p == '.'))
			depth++;
		if (depth < 0)
			abort();
	}
}

/* What the file reads is what it was written. */
static void check_env(const struct buf *env)
{
	struct buf text = { 0 }, again = { 0 };

	env_text(env, &text);
	if (text.failed || env_parse((const char *)buf_bytes(&text), text.len, &again, NULL) ||
	    again.len != env->len || (env->len && memcmp(buf_bytes(&again), buf_bytes(env), env->len) != 0))
		abort();
	buf_release(&text);
	buf_release(&again);
}

/* What the file `guest` reads can be written again, and says the same. */
static void check_rights(const char *text)
{
	struct rights rights = { 0 }, again = { 0 };
	struct buf one = { 0 }, two = { 0 };

	if (rights_parse(text, &rights, NULL))
		return;
	rights_text(&rights, &one);
	buf_add(&one, "", 1);
	if (one.failed || rights_parse((const char *)buf_bytes(&one), &again, NULL))
		abort();
	rights_text(&again, &two);
	buf_add(&two, "", 1);
	if (two.failed || strcmp((const char *)buf_bytes(&one), (const char *)buf_bytes(&two)) != 0)
		abort();
	buf_release(&one);
	buf_release(&two);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct shape shape = { 0 };
	struct overrides overrides = { 0 };
	struct buf env = { 0 };
	struct words words;
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = 0;
	if (!words_parse(text, size, &words, NULL)) {
		(void)overrides_parse(words.word, true, &overrides, NULL);
		(void)shape_set(&shape, "memory", words.word[0], NULL);
		(void)shape_set(&shape, "cpus", words.word[0], NULL);
		overrides_release(&overrides);
	}
	if (!env_parse(text, size, &env, NULL)) {
		check_env(&env);
		free(env_array(&env));
		buf_release(&env);
	}
	check_link(text);
	check_rights(text);
	free(text);
	return 0;
}
