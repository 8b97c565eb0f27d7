/* SPDX-License-Identifier: MIT */
/* test_archive_forged.c - archives whose checksums are all right, and which lie */
#include "tests/unit/archive_stores.h"

struct forgery {
	const char *from, *to; /* bytes in its layers, as many of each, or NULL */
	const char *without;   /* an ending: members that are left out, or NULL */
	void (*manifest)(struct snapshot_manifest *manifest);
	const char *
		base; /* a key of what is said of the base, whose value is to be another; "": left out; NULL */
};

static void forge_manifest(struct member_reader *r, struct member_writer *w, const struct forgery *forgery)
{
	struct snapshot_manifest manifest;
	struct buf in = { 0 }, out = { 0 };
	struct err err = { 0 };
	const uint8_t *data;
	uint64_t at;
	size_t n;

	while (member_read(r, &at, &data, &n, &err) > 0)
		buf_add(&in, data, n);
	CHECK(!snapshot_manifest_parse((char *)buf_bytes(&in), in.len, "it", &manifest, &err));
	forgery->manifest(&manifest);
	snapshot_manifest_encode(&manifest, &out);
	CHECK(!member_begin(w, "manifest", out.len, &err));
	CHECK(!member_chunk(w, 0, buf_bytes(&out), out.len, false, &err) && !member_end(w, out.len, &err));
	snapshot_manifest_release(&manifest);
	buf_release(&in);
	buf_release(&out);
}

/* Change a line of what the archive says of its base. */
static void forge_base(struct member_reader *r, struct member_writer *w, const struct forgery *forgery)
{
	struct buf in = { 0 }, out = { 0 };
	struct manifest manifest;
	struct err err = { 0 };
	const uint8_t *data;
	char *key, *value;
	uint64_t at;
	size_t n;

	while (member_read(r, &at, &data, &n, &err) > 0)
		buf_add(&in, data, n);
	CHECK(!manifest_open(&manifest, (char *)buf_bytes(&in), in.len, "sbxfs-base", 1, "it", &err));
	manifest_begin(&out, "sbxfs-base", 1);
	while (manifest_next(&manifest, &key, &value)) {
		const bool chosen = !strncmp(forgery->base + (*forgery->base == '-'), key, strlen(key));

		if (chosen && *forgery->base == '-')
			continue;
		if (chosen)
			value[7] = value[7] == '0' ? '1' : '0';
		manifest_add(&out, key, value);
	}
	manifest_end(&out);
	CHECK(!member_begin(w, "base", out.len, &err));
	CHECK(!member_chunk(w, 0, buf_bytes(&out), out.len, false, &err) && !member_end(w, out.len, &err));
	buf_release(&in);
	buf_release(&out);
}

/* Copies the present member; returns how often `from` was in it. */
static unsigned forge_member(struct member_reader *r, struct member_writer *w, const char *name, bool drop,
			     const struct forgery *forgery)
{
	const bool layer = strstr(name, ".raw") || strstr(name, ".qcow2");
	uint8_t copy[MEMBER_CHUNK], *found;
	struct err err = { 0 };
	const uint8_t *data;
	unsigned times = 0;
	uint64_t at;
	size_t n;
	int rc;

	if (!drop)
		CHECK(!member_begin(w, name, r->size, &err));
	while ((rc = member_read(r, &at, &data, &n, &err)) > 0) {
		memcpy(copy, data, n);
		found = layer && forgery->from ? memmem(copy, n, forgery->from, strlen(forgery->from)) : NULL;
		if (found) {
			memcpy(found, forgery->to, strlen(forgery->to));
			times++;
		}
		if (!drop)
			CHECK(!member_chunk(w, at, copy, n, true, &err));
	}
	CHECK(!rc);
	if (!drop)
		CHECK(!member_end(w, r->size, &err));
	return times;
}

static void forge(const char *from, const char *to, const struct forgery *forgery)
{
	int in = open(path_of(from), O_RDONLY | O_CLOEXEC);
	int out = open(path_of(to), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	char name[MEMBER_NAME_MAX + 1];
	struct member_reader r;
	struct member_writer w;
	struct err err = { 0 };
	unsigned times = 0;
	uint64_t size;

	CHECK(!member_reader_begin(&r, in, &err) && !member_writer_begin(&w, out, &err));
	while (member_next(&r, name, &size, &err) > 0) {
		if (!strcmp(name, "manifest") && forgery->manifest)
			forge_manifest(&r, &w, forgery);
		else if (!strcmp(name, "base") && forgery->base)
			forge_base(&r, &w, forgery);
		else
			times += forge_member(&r, &w, name,
					      forgery->without && strstr(name, forgery->without), forgery);
	}
	CHECK(!err.code && !times == !forgery->from);
	CHECK(!member_writer_end(&w, &err));
	member_reader_release(&r);
	member_writer_release(&w);
	close(in);
	close(out);
}

static void verify(struct store *store, const char *name)
{
	struct err err = { 0 };
	struct visit *work;

	CHECK(!snapshot_verify_begin(store, name, NULL, &work, &err));
	CHECK(!snapshot_verify_end(work, snapshot_visit_run(work), &err));
}

/* Bytes of its disk. */
static bool disk_has(struct store *store, const char *name, uint64_t at, const char *bytes)
{
	struct err err = { 0 };
	struct layer *disk;
	struct chain *chain;
	char found[16];
	bool has;

	CHECK(!snapshot_disk(store, name, &disk, &err));
	CHECK(!chain_open(store->layers_fd, disk->file, false, &chain, &err));
	CHECK(!chain_read(chain, found, strlen(bytes), at, &err));
	has = !memcmp(found, bytes, strlen(bytes));
	chain_free(chain);
	layer_unref(disk);
	return has;
}

/* Whichever comes first has the names, and each has its own disk. */
static void a_layer_is_no_other_of_its_name(void)
{
	const struct forgery bottom = { .from = "bottom", .to = "bOTTOM" };
	const struct forgery middle = { .from = "\1\1\1\1", .to = "evil" };
	struct store *first = open_store("first"), *second = open_store("second");
	struct err err = { 0 };
	unsigned before;

	forge("two.sbx", "bottom.sbx", &bottom);
	forge("one.sbx", "middle.sbx", &middle);
	for (unsigned turn = 0; turn < 2; turn++) {
		struct store *store = turn ? second : first;

		before = count_files(store);
		if (turn)
			CHECK(!import_from(store, "true", "two.sbx", &err));
		CHECK(!import_from(store, "bottom", "bottom.sbx", &err));
		CHECK(!import_from(store, "middle", "middle.sbx", &err));
		if (!turn)
			CHECK(!import_from(store, "true", "two.sbx", &err));
		store_close(store);
		store = open_store(turn ? "second" : "first");
		check_snapshot(store, "true", 2);
		verify(store, "true");
		verify(store, "bottom");
		verify(store, "middle");
		CHECK(disk_has(store, "bottom", MIB, "bOTTOM") && disk_has(store, "bottom", 2 * MIB, "\1\1"));
		CHECK(disk_has(store, "middle", MIB, "bottom") && disk_has(store, "middle", 2 * MIB, "evil"));
		CHECK(!snapshot_remove(store, "bottom", &err) && !snapshot_remove(store, "middle", &err));
		check_snapshot(store, "true", 2);
		CHECK(!snapshot_remove(store, "true", &err));
		CHECK(!store_gc(store, &(uint64_t){ 0 }, &err) && count_files(store) == before);
		store_close(store);
	}
}

static void refuse_file(struct store *store, const char *file, int expected, const char *words)
{
	unsigned before = count_files(store);
	struct err err = { 0 };

	CHECK(import_from(store, "bad", file, &err) == expected && strstr(err.text, words));
	CHECK(count_files(store) == before);
}

/* The store's own layers are not for the archive to stand on. */
static void what_does_not_come_is_not_taken_from_others(void)
{
	struct store *a = open_store("a");

	forge("two.sbx", "forged.sbx", &(struct forgery){ .without = ".raw" });
	refuse_file(a, "forged.sbx", -EINVAL, "may use");
	forge("two.sbx", "forged.sbx", &(struct forgery){ .without = ".qcow2" });
	refuse_file(a, "forged.sbx", -EINVAL, "may use");
	check_snapshot(a, "two", 2);
	store_close(a);
}

/*
 * Who gives a store another snapshot with the origin of a genuine one does not get it under those that build on
 * that.
 */
static void a_base_is_what_the_archive_was_made_with(void)
{
	const struct forgery evil = { .from = "\1\1\1\1", .to = "evil" };
	struct store *store = open_store("base");
	struct err err = { 0 };

	forge("one.sbx", "evil.sbx", &evil);
	CHECK(!import_from(store, "evil", "evil.sbx", &err));
	refuse_file(store, "two-since-one.sbx", -EIO, "content is another");
	CHECK(!snapshot_remove(store, "evil", &err));
	CHECK(!import_from(store, "one", "one.sbx", &err));
	forge("two-since-one.sbx", "forged.sbx", &(struct forgery){ .base = "ram" });
	refuse_file(store, "forged.sbx", -EIO, "memory is another");
	forge("two-since-one.sbx", "forged.sbx", &(struct forgery){ .base = "-ram" });
	refuse_file(store, "forged.sbx", -EIO, "memory is another");
	forge("two-since-one.sbx", "forged.sbx", &(struct forgery){ .base = "disk" });
	refuse_file(store, "forged.sbx", -EIO, "content is another");
	forge("two-since-one.sbx", "forged.sbx", &(struct forgery){ .base = "-disk" });
	refuse_file(store, "forged.sbx", -EINVAL, "does not say");
	forge("two-since-one.sbx", "forged.sbx", &(struct forgery){ .base = "origin" });
	refuse_file(store, "forged.sbx", -EINVAL, "does not have");
	CHECK(!import_from(store, "two", "two-since-one.sbx", &err));
	check_snapshot(store, "two", 2);
	store_close(store);
}

/* Merging layers changes the file that others stand on, and not what is in it. */
static void a_merged_base_is_the_same(void)
{
	char one[DIGEST_TEXT], two[DIGEST_TEXT];
	struct store *a = open_store("a");
	struct err err = { 0 };
	struct layer *disk;
	char command[512];

	CHECK(!snapshot_disk(a, "two", &disk, &err));
	CHECK(!digest_disk(a->layers_fd, disk->file, one, &err));
	snprintf(command, sizeof(command), "cd %s/layers && qemu-img convert -f qcow2 -O raw %s flat.raw",
		 store_dir(a), disk->file);
	CHECK(system(command) == 0); /* NOLINT(cert-env33-c): a test's own words */
	snprintf(command, sizeof(command), "cd %s/layers && mv flat.raw 00000000000000000000000000000000.raw",
		 store_dir(a));
	CHECK(system(command) == 0); /* NOLINT(cert-env33-c): a test's own words */
	CHECK(!digest_disk(a->layers_fd, "00000000000000000000000000000000.raw", two, &err));
	CHECK(!strcmp(one, two) && strlen(one) == 64);
	CHECK(!unlinkat(a->layers_fd, "00000000000000000000000000000000.raw", 0));
	CHECK(!digest_disk(a->layers_fd, disk->base->file, two, &err) && strcmp(one, two) != 0);
	layer_unref(disk);
	store_close(a);
}

static uint64_t number_at(const uint8_t *p, size_t n)
{
	uint64_t ret = 0;

	memcpy(&ret, p, n);
	return ret; /* these tests run on little-endian hosts */
}

static void seal(uint8_t *header, size_t n)
{
	const uint64_t sum = XXH3_64bits(header, n - sizeof(sum));

	memcpy(header + n - sizeof(sum), &sum, sizeof(sum));
}

/* The archive as a program wrote it that knew version 1: without digests. */
static void as_version_1(const char *from, const char *to)
{
	struct buf text = { 0 };
	uint8_t *bytes, *end;
	size_t at = 24;
	FILE *file;

	CHECK(!read_file_at(AT_FDCWD, path_of(from), 64 * MIB, &text));
	bytes = buf_bytes(&text);
	while (strcmp((char *)bytes + at + 8, "digests") != 0) {
		at += 88;
		while (number_at(bytes + at + 8, 4))
			at += 32 + number_at(bytes + at + 12, 4);
		at += 32;
	}
	end = bytes + text.len - 88;
	memmove(bytes + at, end, 88);
	bytes[at + 72]--;
	seal(bytes + at, 88);
	bytes[8] = 1;
	seal(bytes, 24);
	file = fopen(path_of(to), "we");
	CHECK(file && fwrite(bytes, at + 88, 1, file) == 1 && !fclose(file));
	buf_release(&text);
}

static void archives_of_version_1(void)
{
	struct store *store = open_store("old");
	struct err err = { 0 };

	as_version_1("one.sbx", "old-one.sbx");
	as_version_1("two-since-one.sbx", "old-two.sbx");
	CHECK(!import_from(store, "one", "old-one.sbx", &err));
	check_snapshot(store, "one", 1);
	refuse_file(store, "old-two.sbx", -EINVAL, "export it anew");
	store_close(store);
}

/* Everything in it is as it was sent. */
static void digests_have_to_fit(void)
{
	struct store *store = open_store("digests");
	const unsigned before = count_files(store);
	struct buf text = { 0 };
	uint64_t packed, sum;
	uint8_t *bytes;
	struct err err = { 0 };
	size_t at;
	int fd;

	CHECK(!read_file_at(AT_FDCWD, path_of("two.sbx"), 64 * MIB, &text));
	bytes = buf_bytes(&text);
	for (at = 24; strcmp((char *)bytes + at + 8, "state") != 0; at += 32) {
		at += 88;
		while (number_at(bytes + at + 8, 4))
			at += 32 + number_at(bytes + at + 12, 4);
	}
	/* A byte of the state, with the other checksums made to fit. */
	at += 88;
	packed = number_at(bytes + at + 12, 4);
	CHECK(packed);
	bytes[at + 32] ^= 1;
	sum = XXH3_64bits(bytes + at + 32, packed);
	memcpy(bytes + at + 16, &sum, sizeof(sum));
	seal(bytes + at, 32);
	fd = memfd_new("archive", text.len);
	CHECK(fd >= 0 && !pwrite_all(fd, bytes, text.len, 0));
	CHECK(import_fd(store, "bad", fd, &err) == -EIO && strstr(err.text, "digests"));
	CHECK(count_files(store) == before);
	close(fd);
	buf_release(&text);
	store_close(store);
}

static void much_memory(struct snapshot_manifest *manifest)
{
	manifest->meta.shape.memory = manifest->meta.shape.memory_max = UINT64_MAX;
}

static void many_cpus(struct snapshot_manifest *manifest)
{
	manifest->meta.shape.cpus_max = SHAPE_CPUS_LIMIT + 1;
}

static void other_ram(struct snapshot_manifest *manifest)
{
	manifest->ram_size = RAM * 1024ull;
}

static void large_disk(struct snapshot_manifest *manifest)
{
	manifest->meta.disk_logical = UINT64_MAX / 512 * 512;
}

static void small_disk(struct snapshot_manifest *manifest)
{
	manifest->meta.disk_logical = DISK / 2;
}

static void larger_disk(struct snapshot_manifest *manifest)
{
	manifest->meta.disk_logical = 2 * DISK;
}

static void limits_hold(void)
{
	static const struct {
		void (*manifest)(struct snapshot_manifest *manifest);
		int rc;
		const char *words;
	} lies[] = {
		{ much_memory, -ERANGE, "limit of 64G" }, { many_cpus, -ERANGE, "65 cpus" },
		{ other_ram, -EINVAL, "RAM of" },         { large_disk, -ERANGE, "a disk of" },
		{ small_disk, -EINVAL, "allows for" },    { larger_disk, -EINVAL, "size" },
	};
	struct store *store = open_store("limits");

	for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		forge("two.sbx", "forged.sbx", &(struct forgery){ .manifest = lies[i].manifest });
		refuse_file(store, "forged.sbx", lies[i].rc, lies[i].words);
	}
	store_close(store);
}

/* What the forgeries are made of. */
static void export_genuine(void)
{
	struct store *a = first_store();

	CHECK(!export_to(a, "one", NULL, "one.sbx") && !export_to(a, "two", NULL, "two.sbx"));
	CHECK(!export_to(a, "two", "one", "two-since-one.sbx"));
	store_close(a);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	scratch_dir(root);
	export_genuine();
	TEST(a_layer_is_no_other_of_its_name);
	TEST(what_does_not_come_is_not_taken_from_others);
	TEST(a_base_is_what_the_archive_was_made_with);
	TEST(a_merged_base_is_the_same);
	TEST(archives_of_version_1);
	TEST(digests_have_to_fit);
	TEST(limits_hold);
	return 0;
}
