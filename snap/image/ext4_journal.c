/* SPDX-License-Identifier: MIT */
/*
 * ext4_journal.c - what a filesystem's journal still has to say
 *
 * The journal (jbd2; "Journal" in the kernel's Documentation/filesystems/ext4) is a ring of blocks in an
 * inode. A transaction is descriptor blocks, each followed by the blocks it lists, revoke blocks, and one
 * commit block; all carry its sequence number. Without the commit block it never happened. A revoke says that
 * older copies of a block in the journal must not be used: it has been freed and may hold data by now.
 *
 * Nothing is written: a first walk finds where the log ends and what was revoked, a second lists the blocks,
 * and the disk shows them in place of what it has. All of the journal is untrusted.
 */
#include "snap/image/ext4_journal.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "snap/image/ext4_disk.h"

enum { DESCRIPTOR = 1, COMMIT = 2, SUPERBLOCK_V1 = 3, SUPERBLOCK_V2 = 4, REVOKE = 5 };
enum { TAG_ESCAPE = 1, TAG_SAME_UUID = 2, TAG_DELETED = 4, TAG_LAST = 8 };
enum {
	FEATURE_REVOKE = 0x1,
	FEATURE_64BIT = 0x2,
	FEATURE_ASYNC_COMMIT = 0x4,
	FEATURE_CSUM_V2 = 0x8,
	FEATURE_CSUM_V3 = 0x10,
	FEATURES_KNOWN =
		FEATURE_REVOKE | FEATURE_64BIT | FEATURE_ASYNC_COMMIT | FEATURE_CSUM_V2 | FEATURE_CSUM_V3,
	HEADER = 12, /* magic, type, sequence; big-endian as all of it */
	UUID = 16,
	BLOCKS_MAX = 1 << 20, /* a journal of 4 GiB */
};

struct revoke {
	uint64_t block;
	uint32_t sequence; /* copies up to this transaction are void */
};

struct journal {
	ext2_filsys fs;
	uint64_t *map; /* journal block -> filesystem block */
	uint32_t nblocks, first, start, sequence;
	uint32_t features;
	uint32_t end;   /* sequence of the first transaction that is not complete */
	uint32_t steps; /* blocks walked over: the ring has only so many */
	uint8_t *block;
	struct revoke *revokes;
	size_t nrevokes, revokes_size;
	struct redo *redo;
	size_t nredo, redo_size;
};

static uint32_t be32_at(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static int read_block(const struct journal *journal, uint32_t at)
{
	unsigned size = journal->fs->blocksize;

	return disk_read(journal->block, size, journal->map[at] * size);
}

/* ---- finding it */

static int add_mapping(ext2_filsys fs, blk64_t *block, e2_blkcnt_t index, blk64_t ref, int offset, void *arg)
{
	struct journal *journal = arg;

	(void)fs;
	(void)ref;
	(void)offset;
	if (index < 0)
		return 0;
	if ((uint64_t)index >= journal->nblocks)
		return BLOCK_ABORT;
	journal->map[index] = *block;
	return 0;
}

static int map_journal(struct journal *journal, struct err *err)
{
	ext2_filsys fs = journal->fs;
	struct ext2_inode inode;
	uint64_t size;

	if (fs->super->s_journal_dev || !fs->super->s_journal_inum)
		return err_set(err, -EOPNOTSUPP, "the filesystem's journal is on another disk");
	if (ext2fs_read_inode(fs, fs->super->s_journal_inum, &inode))
		return err_set(err, -EIO, "the filesystem's journal cannot be found");
	size = EXT2_I_SIZE(&inode) / fs->blocksize;
	if (!size || size > BLOCKS_MAX)
		return err_set(err, -EIO, "the filesystem's journal has no sensible size");
	journal->nblocks = (uint32_t)size;
	journal->map = calloc(size, sizeof(*journal->map));
	journal->block = malloc(fs->blocksize);
	if (!journal->map || !journal->block)
		return err_set(err, -ENOMEM, "out of memory");
	if (ext2fs_block_iterate3(fs, fs->super->s_journal_inum, BLOCK_FLAG_READ_ONLY, NULL, add_mapping,
				  journal))
		return err_set(err, -EIO, "the filesystem's journal cannot be found");
	return 0;
}

static int read_superblock(struct journal *journal, struct err *err)
{
	const uint8_t *p = journal->block;
	uint32_t type;

	if (read_block(journal, 0))
		return err_set(err, -EIO, "the filesystem's journal cannot be read");
	type = be32_at(p + 4);
	if (be32_at(p) != JOURNAL_MAGIC || (type != SUPERBLOCK_V1 && type != SUPERBLOCK_V2) ||
	    be32_at(p + 12) != journal->fs->blocksize || be32_at(p + 16) > journal->nblocks)
		return err_set(err, -EIO, "the filesystem's journal is damaged");
	journal->nblocks = be32_at(p + 16);
	journal->first = be32_at(p + 20);
	journal->sequence = be32_at(p + 24);
	journal->start = be32_at(p + 28);
	journal->features = type == SUPERBLOCK_V2 ? be32_at(p + 40) : 0;
	if (journal->features & ~(uint32_t)FEATURES_KNOWN)
		return err_set(err, -EOPNOTSUPP, "the filesystem's journal has features %#x",
			       journal->features);
	if (journal->start && (!journal->first || journal->first >= journal->nblocks ||
			       journal->start < journal->first || journal->start >= journal->nblocks))
		return err_set(err, -EIO, "the filesystem's journal is damaged");
	return 0;
}

/* ---- walking it */

static uint32_t step(struct journal *journal, uint32_t at)
{
	journal->steps++;
	return at + 1 < journal->nblocks ? at + 1 : journal->first;
}

/* Where the records of a descriptor or revoke block end; a checksum may follow. */
static size_t usable(const struct journal *journal)
{
	bool tail = journal->features & (FEATURE_CSUM_V2 | FEATURE_CSUM_V3);

	return journal->fs->blocksize - (tail ? 4 : 0);
}

struct tag {
	uint64_t block;
	uint32_t flags;
};

/* The tag at *at of the descriptor in journal->block; false when there is none left. */
static bool next_tag(const struct journal *journal, size_t *at, struct tag *ret)
{
	bool wide = journal->features & FEATURE_64BIT, v3 = journal->features & FEATURE_CSUM_V3;
	size_t size = v3 ? 16 : 8 + (journal->features & FEATURE_CSUM_V2 ? 2u : 0u) + (wide ? 4u : 0u);
	const uint8_t *p = journal->block + *at;
	uint16_t flags;

	if (*at + size > usable(journal))
		return false;
	ret->block = be32_at(p);
	if (v3) {
		ret->flags = be32_at(p + 4);
		ret->block |= wide ? (uint64_t)be32_at(p + 8) << 32 : 0;
	} else {
		memcpy(&flags, p + 6, sizeof(flags));
		ret->flags = be16toh(flags);
		ret->block |= wide ? (uint64_t)be32_at(p + 8) << 32 : 0;
	}
	*at += size + (ret->flags & TAG_SAME_UUID ? 0 : UUID);
	return true;
}

/* Room for one more element at the end of an array; NULL when out of memory. */
static void *room(void *array, size_t n, size_t *size, size_t element)
{
	if (n < *size)
		return array;
	*size = *size ? 2 * *size : 256;
	return realloc(array, *size * element);
}

static int by_block(const void *a, const void *b)
{
	const struct revoke *x = a, *y = b;

	return x->block < y->block ? -1 : x->block > y->block;
}

/* Sort the revokes and keep the last of each block; those of the transaction that never happened are void. */
static void settle_revokes(struct journal *journal)
{
	struct revoke *revokes = journal->revokes;
	size_t n = 0;

	for (size_t i = 0; i < journal->nrevokes; i++)
		if ((int32_t)(revokes[i].sequence - journal->end) < 0)
			revokes[n++] = revokes[i];
	if (n)
		qsort(revokes, n, sizeof(*revokes), by_block);
	journal->nrevokes = 0;
	for (size_t i = 0; i < n; i++) {
		struct revoke *last = journal->nrevokes ? &revokes[journal->nrevokes - 1] : NULL;

		if (!last || last->block != revokes[i].block)
			revokes[journal->nrevokes++] = revokes[i];
		else if ((int32_t)(revokes[i].sequence - last->sequence) > 0)
			last->sequence = revokes[i].sequence;
	}
}

static bool revoked(const struct journal *journal, uint64_t block, uint32_t sequence)
{
	const struct revoke key = { block, 0 };
	const struct revoke *found =
		journal->nrevokes ? bsearch(&key, journal->revokes, journal->nrevokes, sizeof(key), by_block)
				  : NULL;

	return found && (int32_t)(found->sequence - sequence) >= 0;
}

static int add_redo(struct journal *journal, const struct tag *tag, uint32_t at, uint32_t sequence)
{
	uint64_t blocks = ext2fs_blocks_count(journal->fs->super);
	struct redo *more;

	if (tag->flags & TAG_DELETED || revoked(journal, tag->block, sequence))
		return 0;
	if (tag->block >= blocks || journal->map[at] >= blocks)
		return -EIO;
	more = room(journal->redo, journal->nredo, &journal->redo_size, sizeof(*more));
	if (!more)
		return -ENOMEM;
	journal->redo = more;
	more[journal->nredo] = (struct redo){
		.block = tag->block,
		.from = journal->map[at],
		.order = (uint32_t)journal->nredo,
		.escaped = tag->flags & TAG_ESCAPE,
	};
	journal->nredo++;
	return 0;
}

/* A descriptor block at *at, which then is its last data block. list: take down what it holds. */
static int walk_descriptor(struct journal *journal, uint32_t *at, uint32_t sequence, bool list)
{
	size_t offset = HEADER;
	struct tag tag;
	int rc = 0;

	while (!rc && next_tag(journal, &offset, &tag)) {
		*at = step(journal, *at);
		if (list)
			rc = add_redo(journal, &tag, *at, sequence);
		if (tag.flags & TAG_LAST)
			break;
	}
	return rc;
}

static int walk_revoke(struct journal *journal, uint32_t sequence)
{
	size_t size = journal->features & FEATURE_64BIT ? 8 : 4, end = be32_at(journal->block + HEADER);
	struct revoke *more;

	if (end > usable(journal))
		return -EIO;
	for (size_t at = HEADER + 4; at + size <= end; at += size) {
		uint64_t block = be32_at(journal->block + at);

		if (size == 8)
			block = block << 32 | be32_at(journal->block + at + 4);
		more = room(journal->revokes, journal->nrevokes, &journal->revokes_size, sizeof(*more));
		if (!more)
			return -ENOMEM;
		journal->revokes = more;
		more[journal->nrevokes++] = (struct revoke){ block, sequence };
	}
	return 0;
}

/* From the start to journal->end, or, when !list, to where the log ends, which sets journal->end. */
static int walk(struct journal *journal, bool list)
{
	uint32_t at = journal->start, sequence = journal->sequence;
	bool more = true;
	int rc = 0;

	journal->steps = 0;
	while (!rc && more && journal->steps < journal->nblocks && (!list || sequence != journal->end)) {
		if (read_block(journal, at))
			return -EIO;
		if (be32_at(journal->block) != JOURNAL_MAGIC || be32_at(journal->block + 8) != sequence)
			break;
		switch (be32_at(journal->block + 4)) {
		case DESCRIPTOR:
			rc = walk_descriptor(journal, &at, sequence, list);
			break;
		case REVOKE:
			rc = list ? 0 : walk_revoke(journal, sequence);
			break;
		case COMMIT:
			sequence++;
			break;
		default:
			more = false;
			break;
		}
		at = step(journal, at);
	}
	if (!list) {
		journal->end = sequence;
		settle_revokes(journal);
	}
	return rc;
}

int journal_apply(ext2_filsys fs, struct err *err)
{
	struct journal journal = { .fs = fs };
	int rc;

	if (!ext2fs_has_feature_journal(fs->super) || !ext2fs_has_feature_journal_needs_recovery(fs->super))
		return 0;
	rc = map_journal(&journal, err);
	if (!rc)
		rc = read_superblock(&journal, err);
	if (rc || !journal.start)
		goto out;
	rc = walk(&journal, false);
	if (!rc)
		rc = walk(&journal, true);
	if (rc) {
		err_sys(err, rc, "cannot read the filesystem's journal");
		goto out;
	}
	disk_set_redo(journal.redo, journal.nredo, fs->blocksize);
	journal.redo = NULL;
	rc = 1;
out:
	free(journal.map);
	free(journal.block);
	free(journal.revokes);
	free(journal.redo);
	return rc;
}
