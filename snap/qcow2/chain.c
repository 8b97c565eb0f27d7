/* SPDX-License-Identifier: MIT */
/*
 * chain.c - read a disk through all its layers
 *
 * A layer has a cluster if its L2 entry says where it is, or that it is zero; otherwise the layer below is
 * asked. L1 tables are read when the chain is opened, L2 tables when they are first needed, and then kept:
 * one is 64 KiB for 512 MiB of disk. A raw layer has everything and is always the bottom.
 */
#include "snap/qcow2/chain.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snap/qcow2/format.h"
#include "snap/qcow2/header.h"
#include "snap/store_priv.h"
#include "util/io.h"

struct link {
	int fd;
	char file[LAYER_FILE_MAX];
	bool raw;
	uint64_t size;      /* of the disk as this layer has it */
	uint64_t file_size; /* host bytes */
	uint64_t *l1;       /* as on disk: big-endian */
	uint64_t **l2;      /* NULL: not read yet; as on disk */
};

struct chain {
	unsigned n;
	struct link *links; /* the top first */
};

void chain_free(struct chain *chain)
{
	if (!chain)
		return;
	for (unsigned i = 0; i < chain->n; i++) {
		struct link *link = &chain->links[i];

		for (size_t k = 0; link->l2 && k < QCOW2_L1_ENTRIES(link->size); k++)
			free(link->l2[k]);
		free(link->l2);
		free(link->l1);
		close(link->fd);
	}
	free(chain->links);
	free(chain);
}

uint64_t chain_size(const struct chain *chain)
{
	return chain->links[0].size;
}

unsigned chain_length(const struct chain *chain)
{
	return chain->n;
}

const char *chain_file(const struct chain *chain, unsigned i)
{
	return chain->links[i].file;
}

/* Fill in the link for an opened file; ret_below is the next one's name, or "". */
static int read_layer(struct link *link, char *ret_below, size_t below_size, struct err *err)
{
	struct qcow2_info info = { 0 };
	size_t entries;
	struct stat st;
	int rc;

	if (fstat(link->fd, &st) < 0)
		return err_sys(err, -errno, "cannot read layer %s", link->file);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "layer %s is not a file", link->file);
	link->file_size = (uint64_t)st.st_size;
	link->raw = id_valid(link->file, ".raw");
	ret_below[0] = '\0';
	if (link->raw) {
		link->size = link->file_size;
		return 0;
	}
	rc = qcow2_read_header(link->fd, &info, err);
	if (rc) {
		err_prefix(err, "layer %s", link->file);
		return rc;
	}
	link->size = info.size;
	entries = (size_t)QCOW2_L1_ENTRIES(info.size);
	link->l1 = calloc(entries, sizeof(*link->l1));
	link->l2 = calloc(entries, sizeof(*link->l2));
	if (!link->l1 || !link->l2)
		return err_set(err, -ENOMEM, "out of memory");
	rc = pread_all(link->fd, link->l1, entries * sizeof(*link->l1), info.l1_offset);
	if (rc)
		return err_sys(err, rc, "cannot read the L1 table of layer %s", link->file);
	snprintf(ret_below, below_size, "%s", info.backing);
	return 0;
}

int chain_open(int layers_fd, const char *file, struct chain **ret, struct err *err)
{
	struct chain *chain = calloc(1, sizeof(*chain));
	char next[QCOW2_BACKING_MAX + 1];
	int rc = 0;

	if (!chain)
		return err_set(err, -ENOMEM, "out of memory");
	snprintf(next, sizeof(next), "%s", file);
	while (!rc && next[0]) {
		struct link *link, *more;

		if (!id_valid(next, ".qcow2") && !id_valid(next, ".raw"))
			rc = err_set(err, -EINVAL, "'%s' is not the name of a layer", next);
		else if (chain->n > LAYER_DEPTH_MAX)
			rc = err_set(err, -EINVAL, "layer %.40s has more than %d layers below it", file,
				     LAYER_DEPTH_MAX);
		if (rc)
			break;
		more = realloc(chain->links, (chain->n + 1) * sizeof(*more));
		if (!more) {
			rc = err_set(err, -ENOMEM, "out of memory");
			break;
		}
		chain->links = more;
		link = &more[chain->n];
		*link = (struct link){ .fd = openat(layers_fd, next,
						    O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) };
		snprintf(link->file, sizeof(link->file), "%.*s", (int)sizeof(link->file) - 1, next);
		if (link->fd < 0) {
			rc = errno == ENOENT ? err_set(err, -EINVAL, "layer %s is missing", next)
					     : err_sys(err, -errno, "cannot open layer %s", next);
			break;
		}
		chain->n++;
		rc = read_layer(link, next, sizeof(next), err);
		if (!rc && link->size < chain->links[0].size)
			rc = err_set(err, -EINVAL, "layer %s is smaller than the disk above it", link->file);
	}
	if (rc) {
		chain_free(chain);
		return rc;
	}
	*ret = chain;
	return 0;
}

/* The L2 entry of a cluster in host byte order, 0 where there is no table. */
static int find_entry(struct link *link, uint64_t cluster, uint64_t *ret, struct err *err)
{
	uint64_t l1 = be64toh(link->l1[cluster / QCOW2_L2_ENTRIES]), offset = l1 & QCOW2_OFFSET;
	uint64_t **table = &link->l2[cluster / QCOW2_L2_ENTRIES];
	int rc;

	if (!offset) {
		*ret = 0;
		return 0;
	}
	if (!*table) {
		uint64_t *entries;

		if (offset % QCOW2_CLUSTER || offset > link->file_size)
			return err_set(err, -EINVAL, "an L2 table of layer %s is out of place", link->file);
		entries = malloc(QCOW2_CLUSTER);
		if (!entries)
			return err_set(err, -ENOMEM, "out of memory");
		rc = pread_all(link->fd, entries, QCOW2_CLUSTER, offset);
		if (rc) {
			free(entries);
			return err_sys(err, rc, "cannot read an L2 table of layer %s", link->file);
		}
		*table = entries;
	}
	*ret = be64toh((*table)[cluster % QCOW2_L2_ENTRIES]);
	return 0;
}

/*
 * The topmost layer that has the cluster: *ret_offset is where in its file, 0 for zeroes, and *ret_link NULL
 * if none has it.
 */
static int resolve(struct chain *chain, uint64_t cluster, struct link **ret_link, uint64_t *ret_offset,
		   struct err *err)
{
	for (unsigned i = 0; i < chain->n; i++) {
		struct link *link = &chain->links[i];
		uint64_t entry = 0;
		int rc;

		*ret_link = link;
		if (link->raw) {
			*ret_offset = cluster * QCOW2_CLUSTER;
			return 0;
		}
		rc = find_entry(link, cluster, &entry, err);
		if (rc)
			return rc;
		if (entry & QCOW2_COMPRESSED)
			return err_set(err, -EINVAL, "layer %s has compressed clusters", link->file);
		*ret_offset = entry & QCOW2_ZERO_FLAG ? 0 : entry & QCOW2_OFFSET;
		if (*ret_offset % QCOW2_CLUSTER || *ret_offset > link->file_size)
			return err_set(err, -EINVAL, "a cluster of layer %s is out of place", link->file);
		if (*ret_offset || entry & QCOW2_ZERO_FLAG)
			return 0;
	}
	*ret_link = NULL;
	return 0;
}

int chain_map(struct chain *chain, uint64_t cluster, struct err *err)
{
	struct link *link;
	uint64_t offset;
	int rc = resolve(chain, cluster, &link, &offset, err);

	if (rc)
		return rc;
	if (!link || link == &chain->links[chain->n - 1])
		return CHAIN_BOTTOM;
	return offset ? CHAIN_DATA : CHAIN_ZERO;
}

/* Like pread_all, but a file that ends before is zero there: its last cluster may be cut short. */
static int read_padded(int fd, uint8_t *data, size_t n, uint64_t offset)
{
	while (n) {
		ssize_t got = pread(fd, data, n, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got) {
			memset(data, 0, n);
			break;
		}
		data += got;
		n -= (size_t)got;
		offset += (uint64_t)got;
	}
	return 0;
}

int chain_read(struct chain *chain, void *data, size_t n, uint64_t offset, struct err *err)
{
	uint8_t *to = data;

	if (offset > chain_size(chain) || n > chain_size(chain) - offset)
		return err_set(err, -EINVAL, "%zu bytes at %llu are not on the disk", n,
			       (unsigned long long)offset);
	while (n) {
		size_t skip = offset % QCOW2_CLUSTER, part = QCOW2_CLUSTER - skip;
		struct link *link = NULL;
		uint64_t at = 0;
		int rc = resolve(chain, offset / QCOW2_CLUSTER, &link, &at, err);

		if (rc)
			return rc;
		if (part > n)
			part = n;
		if (!link || (!link->raw && !at))
			memset(to, 0, part);
		else if ((rc = read_padded(link->fd, to, part, at + skip)))
			return err_sys(err, rc, "cannot read layer %s", link->file);
		to += part;
		n -= part;
		offset += part;
	}
	return 0;
}
