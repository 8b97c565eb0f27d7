/* SPDX-License-Identifier: MIT */
/* fuzz_manifest.c - a snapshot's manifest, as it is and with a checksum that fits */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "snap/manifest.h"
#include "snap/snapshot_manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is accepted must come out the same when it is written and read again. */
static void parse(char *text, size_t len)
{
	struct snapshot_manifest manifest, again;
	struct buf first = { 0 }, second = { 0 };
	char *copy;

	if (snapshot_manifest_parse(text, len, "manifest", &manifest, NULL))
		return;
	snapshot_manifest_encode(&manifest, &first);
	if (first.failed)
		abort();
	copy = malloc(first.len);
	if (!copy)
		abort();
	memcpy(copy, buf_bytes(&first), first.len);
	if (snapshot_manifest_parse(copy, first.len, "manifest", &again, NULL))
		abort();
	snapshot_manifest_encode(&again, &second);
	if (second.failed || first.len != second.len ||
	    memcmp(buf_bytes(&first), buf_bytes(&second), first.len) != 0)
		abort();
	snapshot_manifest_release(&manifest);
	snapshot_manifest_release(&again);
	buf_release(&first);
	buf_release(&second);
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf text = { 0 };
	char *copy = malloc(size + 1);

	if (!copy)
		return 0;
	memcpy(copy, data, size);
	parse(copy, size);
	free(copy);

	manifest_begin(&text, "sbxfs-snapshot", 1);
	buf_add(&text, data, size);
	manifest_end(&text);
	if (!text.failed)
		parse((char *)buf_bytes(&text), text.len);
	buf_release(&text);
	return 0;
}
