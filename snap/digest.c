/* SPDX-License-Identifier: MIT */
/* digest.c - SHA-256 of what may be mostly zeroes */
#include "snap/digest.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "snap/qcow2/chain.h"
#include "util/zero.h"

static void add_number(struct digest *digest, uint64_t n)
{
	n = htole64(n);
	sha256_update(&digest->sha, sizeof(n), (const uint8_t *)&n);
}

void digest_begin(struct digest *digest, uint64_t size)
{
	sha256_init(&digest->sha);
	add_number(digest, size);
}

void digest_block(struct digest *digest, uint64_t offset, const void *data, size_t n)
{
	if (all_zero(data, n))
		return;
	add_number(digest, offset);
	sha256_update(&digest->sha, n, data);
}

void digest_end(struct digest *digest, char ret[DIGEST_TEXT])
{
	uint8_t bytes[SHA256_DIGEST_SIZE];

	sha256_digest(&digest->sha, sizeof(bytes), bytes);
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(ret + 2 * i, 3, "%02x", bytes[i]);
}

int digest_disk(int dir_fd, const char *file, char ret[DIGEST_TEXT], struct err *err)
{
	uint8_t *block = malloc(DIGEST_BLOCK);
	struct chain *chain = NULL;
	struct digest digest;
	uint64_t size, at;
	size_t n;
	int rc;

	if (!block)
		return err_set(err, -ENOMEM, "out of memory");
	rc = chain_open(dir_fd, file, false, &chain, err);
	if (rc)
		goto out;
	size = chain_size(chain);
	digest_begin(&digest, size);
	for (at = 0; !rc && at < size; at += n) {
		n = size - at < DIGEST_BLOCK ? (size_t)(size - at) : DIGEST_BLOCK;
		rc = chain_read(chain, block, n, at, err);
		if (!rc)
			digest_block(&digest, at, block, n);
	}
	if (!rc)
		digest_end(&digest, ret);
out:
	chain_free(chain);
	free(block);
	return rc;
}
