/* SPDX-License-Identifier: MIT */
/*
 * record.c - what is stored of a suspended sandbox beside its machine, and finding it again
 *
 * A text of "key value" lines (docs/format.md). The machine's own part - memory, device state, disk, shape - is the
 * snapshot's manifest's; what a user may change of the sandbox while it is stored is here.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "fs/life/life.h"
#include "fs/sandbox/job.h"
#include "fs/sandbox/sandbox.h"
#include "fs/sandbox/settings.h"
#include "fs/snapshot/snapshot.h"
#include "snap/id.h"
#include "snap/manifest.h"
#include "util/log.h"
#include "util/size.h"

enum { VERSION = 1 };
/* Bytes of the streams of all jobs, each of which may become two. */
enum { STREAMS_STORED_MAX = 4 << 20 };
static_assert(2 * STREAMS_STORED_MAX + (4 << 20) <= RECORD_MAX, "there is room for what else is said");
static const char kind[] = "sbxfs-sandbox";

int life_name(char ret[LIFE_NAME_SIZE])
{
	char id[ID_SIZE];
	const int rc = id_make(id);

	if (!rc)
		snprintf(ret, LIFE_NAME_SIZE, ".life-%s", id);
	return rc;
}

/* ---- writing */

/* Text of any bytes, and the end of the line. It may be megabytes, on the loop's thread. */
static void put_quoted(struct buf *out, const struct buf *text)
{
	const char *p = (const char *)buf_bytes(text);
	char *to = buf_reserve(out, 2 * text->len + 1), *const begin = to;
	size_t i;

	if (!to)
		return;
	for (i = 0; i < text->len; i++) {
		const char c = p[i];

		if (!c || c == '\n' || c == '\\') {
			*to++ = '\\';
			*to++ = (char)(!c ? '0' : c == '\n' ? 'n' : c);
		} else {
			*to++ = c;
		}
	}
	*to++ = '\n';
	buf_grow(out, (size_t)(to - begin));
}

static void add_quoted(struct buf *out, const char *key, const struct buf *text)
{
	buf_printf(out, "%s ", key);
	put_quoted(out, text);
}

/* What its directory shows of it before the guest is asked. One that nobody can open again is left out. */
static void add_job(struct buf *out, const struct job *job)
{
	if (job->nameless || !job->id)
		return;
	buf_printf(out, "job %" PRIu32 " %d %d %" PRIu32 " %d %s\n", job->id, (int)job->phase,
		   (int)job->state, job->code, job->shell, job->obj.name);
}

/* What the guest has sent and nobody has read yet, or was written and is not sent: no memory but the daemon's has it. */
static void add_stream(struct buf *out, const struct job *job, unsigned stream, const struct buf *data,
		       size_t *room)
{
	if (!data->len || job->nameless || !job->id)
		return;
	if (data->len > *room) {
		log_warn(
			"%s: the next daemon will not have %zu bytes of a stream of exec/%s: with what other "
			"jobs' have it is too much to be stored",
			job->sb->obj.name, data->len, job->obj.name);
		return;
	}
	*room -= data->len;
	buf_printf(out, "stream %" PRIu32 " %u ", job->id, stream);
	put_quoted(out, data);
}

/* All but its jobs, which its memory was stored with, at that time. */
static void put(const struct sandbox *sb, bool running, uint64_t stored, struct buf *ret)
{
	const uint32_t ttl = life_ttl(sb);
	struct buf rights = { 0 };
	char addr[NET_ADDR_TEXT];
	int i;

	manifest_begin(ret, kind, VERSION);
	manifest_add(ret, "name", sb->obj.name);
	manifest_add_number(ret, "stored", stored);
	manifest_add_number(ret, "running", running);
	manifest_add_number(ret, "created", sb->obj.ctime_ns);
	manifest_add_number(ret, "idle", sb->life.idle);
	manifest_add_number(ret, "end", ttl ? now_real_ns() + ttl * UINT64_C(1000000000) : 0);
	manifest_add(ret, "parent", sb->parent);
	manifest_add(ret, "parent-named", sb->parent_named);
	manifest_add_number(ret, "generation", sb->generation);
	manifest_add_number(ret, "next-job", sb->next_job);
	manifest_add_number(ret, "next-snapshot", sb->next_snapshot);
	manifest_add_number(ret, "boot-ns", sb->boot_ns);
	manifest_add_number(ret, "fork-ns", sb->fork_ns);
	manifest_add_number(ret, "warm", sb->warm);
	manifest_add_number(ret, "disk-below", sb->room.below);
	for (i = 0; i < LIMITS_ALL; i++)
		buf_printf(ret, "limit %d %" PRIu64 "\n", i, sb->limits.value[i]);
	rights_text(&sb->rights, &rights);
	add_quoted(ret, "rights", &rights);
	buf_release(&rights);
	manifest_add_number(ret, "forks-left", sb->rights.fork_left);
	manifest_add_number(ret, "checkpoints-left", sb->rights.checkpoint_left);
	add_quoted(ret, "env", &sb->env);
	manifest_add(ret, "net-mode", net_mode_name(sb->network.mode));
	net_addr_format(&sb->network.addr, addr);
	manifest_add(ret, "net-addr", addr);
	add_quoted(ret, "allow", &sb->network.allow);
	add_quoted(ret, "publish", &sb->network.publish);
}

static void add_jobs_now(const struct sandbox *sb, struct buf *ret)
{
	size_t room = STREAMS_STORED_MAX;
	const struct job *job;

	list_for_each (job, &sb->jobs, link) {
		add_job(ret, job);
		add_stream(ret, job, 0, &job->in.data, &room);
		add_stream(ret, job, 1, &job->out[0].data, &room);
		add_stream(ret, job, 2, &job->out[1].data, &room);
		if (input_end_waits(&job->in) && !job->nameless && job->id)
			manifest_add_number(ret, "stdin-end", job->id);
	}
}

void life_record(const struct sandbox *sb, uint64_t stored_ns, struct buf *ret)
{
	put(sb, false, stored_ns, ret);
	add_jobs_now(sb, ret);
	manifest_end(ret);
}

int life_chown(struct sandbox *sb, const struct owner *owner, struct err *err)
{
	if (!sb->life.stored)
		return 0;
	return snapshot_set_owner(sb->obj.fs->store, sb->life.stored->obj.name, owner, err);
}

/* ---- reading */

struct life_record {
	char name[STORE_NAME_MAX + 1];
	char parent[2 * STORE_NAME_MAX + 32], parent_named[STORE_NAME_MAX + 1];
	uint64_t stored, running, created, idle, end, generation, next_job, next_snapshot, boot_ns, fork_ns,
		warm, below;
	struct limits limits;
	uint64_t forks_left, checkpoints_left;
	struct buf env, allow, publish, jobs, streams, ends, rights;
	enum net_mode mode;
	struct net_addr addr;
};

static void record_release(struct life_record *record)
{
	buf_release(&record->env);
	buf_release(&record->allow);
	buf_release(&record->publish);
	buf_release(&record->jobs);
	buf_release(&record->streams);
	buf_release(&record->ends);
	buf_release(&record->rights);
}

static bool unquote(const char *p, struct buf *ret)
{
	char c;

	for (; *p; p++) {
		c = *p;
		if (c == '\\') {
			c = *++p;
			if (c != '0' && c != 'n' && c != '\\')
				return false;
			c = (char)(c == '0' ? 0 : c == 'n' ? '\n' : c);
		}
		buf_add(ret, &c, 1);
	}
	return !ret->failed;
}

static bool copy_word(char *ret, size_t size, const char *value)
{
	return snprintf(ret, size, "%s", value) < (int)size;
}

static bool take_limit(const char *value, struct limits *limits)
{
	unsigned i;
	uint64_t n;

	if (sscanf(value, "%u %" SCNu64, &i, &n) != 2 || i >= LIMITS_ALL)
		return false;
	limits->value[i] = n;
	return true;
}

static bool add_line(struct buf *lines, const char *value)
{
	buf_printf(lines, "%s\n", value);
	return !lines->failed;
}

static bool take_text(const char *key, const char *value, struct life_record *record)
{
	if (!strcmp(key, "name"))
		return name_valid(value) && copy_word(record->name, sizeof(record->name), value);
	if (!strcmp(key, "parent"))
		return copy_word(record->parent, sizeof(record->parent), value);
	if (!strcmp(key, "parent-named"))
		return (!*value || name_valid(value)) &&
		       copy_word(record->parent_named, sizeof(record->parent_named), value);
	if (!strcmp(key, "limit"))
		return take_limit(value, &record->limits);
	if (!strcmp(key, "env"))
		return unquote(value, &record->env);
	if (!strcmp(key, "rights"))
		return unquote(value, &record->rights);
	if (!strcmp(key, "allow"))
		return unquote(value, &record->allow);
	if (!strcmp(key, "publish"))
		return unquote(value, &record->publish);
	if (!strcmp(key, "net-mode"))
		return net_mode_parse(value, &record->mode);
	if (!strcmp(key, "net-addr"))
		return net_addr_parse(value, &record->addr);
	if (!strcmp(key, "job"))
		return add_line(&record->jobs, value);
	if (!strcmp(key, "stream"))
		return add_line(&record->streams, value);
	if (!strcmp(key, "stdin-end"))
		return add_line(&record->ends, value);
	return false;
}

static int take_line(const char *key, const char *value, struct life_record *record)
{
	const struct {
		const char *key;
		uint64_t *field, max;
	} numbers[] = {
		{ "stored", &record->stored, UINT64_MAX },
		{ "running", &record->running, 1 },
		{ "created", &record->created, UINT64_MAX },
		{ "idle", &record->idle, LIFE_SECONDS_MAX },
		{ "end", &record->end, UINT64_MAX },
		{ "generation", &record->generation, UINT32_MAX },
		{ "next-job", &record->next_job, UINT32_MAX },
		{ "next-snapshot", &record->next_snapshot, UINT32_MAX },
		{ "boot-ns", &record->boot_ns, UINT64_MAX },
		{ "fork-ns", &record->fork_ns, UINT64_MAX },
		{ "warm", &record->warm, 1 },
		{ "forks-left", &record->forks_left, RIGHTS_MAX },
		{ "checkpoints-left", &record->checkpoints_left, RIGHTS_MAX },
		{ "disk-below", &record->below, UINT64_MAX },
	};
	size_t i;

	for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (!strcmp(key, numbers[i].key))
			return number_parse(value, numbers[i].field) || *numbers[i].field > numbers[i].max
				       ? -EINVAL
				       : 0;
	return take_text(key, value, record) ? 0 : -EINVAL;
}

static int record_read(struct fs *fs, const char *name, struct life_record *ret, struct err *err)
{
	struct manifest lines;
	struct buf text = { 0 };
	char *key, *value;
	int rc = snapshot_record(fs->store, name, &text, err);

	*ret = (struct life_record){ .limits = limits_none };
	if (!rc)
		rc = manifest_open(&lines, (char *)buf_bytes(&text), text.len, kind, VERSION, name, err);
	while (!rc && manifest_next(&lines, &key, &value)) {
		rc = take_line(key, value, ret);
		if (rc)
			err_set(err, rc, "its record has an invalid line: \"%.20s %.60s\"", key, value);
	}
	if (!rc && !*ret->name)
		rc = err_set(err, -EINVAL, "its record lacks a name");
	buf_release(&text);
	if (rc)
		record_release(ret);
	return rc;
}

/* ---- changes */

/* What is stored of one that runs is older: jobs that were begun since are not in that memory. */
static int put_older(const struct sandbox *sb, bool running, struct buf *text, struct err *err)
{
	struct life_record before;
	const int rc = record_read(sb->obj.fs, sb->life.stored->obj.name, &before, err);

	if (rc)
		return rc;
	put(sb, running, before.stored, text);
	manifest_add_lines(text, "job", &before.jobs);
	manifest_add_lines(text, "stream", &before.streams);
	manifest_add_lines(text, "stdin-end", &before.ends);
	record_release(&before);
	return 0;
}

void life_changed(struct sandbox *sb)
{
	const bool running = sb->state != SANDBOX_SUSPENDED;
	struct buf text = { 0 };
	struct err err;
	int rc = 0;

	list_del(&sb->life.change);
	if (!sb->life.stored)
		return;
	if (running || sb->life.damaged) {
		rc = put_older(sb, running, &text, &err);
	} else {
		put(sb, false, sb->life.stored_ns, &text);
		add_jobs_now(sb, &text);
	}
	if (!rc) {
		manifest_end(&text);
		rc = snapshot_set_record(sb->obj.fs->store, sb->life.stored->obj.name, &text, &err);
	}
	buf_release(&text);
	if (rc)
		log_warn("%s: the next daemon will not know of this change: %s", sb->obj.name, err.text);
}

/* ---- finding them again */

static void add_job_of(struct sandbox *sb, char *line)
{
	const struct owner owner = { sb->obj.owner.uid, sb->obj.owner.gid, 0700 };
	unsigned id, phase, state, code, shell;
	char name[STORE_NAME_MAX + 1];
	struct job *job;

	if (sscanf(line, "%u %u %u %u %u %64s", &id, &phase, &state, &code, &shell, name) != 6 || !id ||
	    phase > JOB_ENDED || state > JOB_FAILED || shell > UINT8_MAX || !name_valid(name))
		return;
	job = job_new(sb, name, &owner);
	if (!job)
		return;
	job->remembered = true;
	job_number(job, id);
	job->phase = (enum job_phase)phase;
	job->state = (enum job_state)state;
	job->code = code;
	job->shell = (uint8_t)shell;
	/* Nothing is granted either way until the guest has said how far it is. */
	job->in.max = job->in.at = 0;
}

/* To the job that has it; what belongs to none is left out. */
static void add_stream_of(struct sandbox *sb, char *line)
{
	unsigned id, stream;
	struct buf *data;
	struct job *job;
	int at = 0;

	if (sscanf(line, "%u %u%n", &id, &stream, &at) != 2 || line[at] != ' ' || stream > 2 || !id)
		return;
	job = job_find(sb, id);
	if (!job)
		return;
	data = stream ? &job->out[stream - 1].data : &job->in.data;
	if (!unquote(line + at + 1, data))
		buf_release(data);
	streams_count(job);
}

/* The end of a stdin that the guest was not told of. */
static void add_end_of(struct sandbox *sb, char *line)
{
	struct job *job = NULL;
	uint64_t id;

	if (!number_parse(line, &id) && id && id <= UINT32_MAX)
		job = job_find(sb, (uint32_t)id);
	if (job)
		job->in.eof = true;
}

static void each_line(struct sandbox *sb, struct buf *lines, void (*add)(struct sandbox *sb, char *line))
{
	char *line, *rest;

	buf_add(lines, "", 1);
	if (lines->failed)
		return;
	for (line = strtok_r((char *)buf_bytes(lines), "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		add(sb, line);
}

static void settle_ttl(struct sandbox *sb, uint64_t end)
{
	const uint64_t now = now_real_ns();

	if (end)
		life_set_ttl(sb, end > now ? (uint32_t)((end - now) / 1000000000 + 1) : 1);
}

static void say_when(struct sandbox *sb, uint64_t stored)
{
	const time_t seconds = (time_t)(stored / 1000000000);
	char date[32];
	struct err err;
	struct tm tm;

	gmtime_r(&seconds, &tm);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &tm);
	err_set(&err, -EIO,
		"%s is as it was at %s, when it was last suspended: the daemon ended without "
		"suspending it",
		sb->obj.name, date);
	log_warn("%s", err.text);
	object_report(&sb->obj, &err);
}

static void fill(struct sandbox *sb, struct life_record *record, const struct snapshot_meta *meta)
{
	struct err err;

	sb->obj.ctime_ns = record->created;
	memcpy(sb->parent, record->parent, sizeof(sb->parent));
	memcpy(sb->parent_named, record->parent_named, sizeof(sb->parent_named));
	memcpy(sb->image, meta->image, sizeof(sb->image));
	sb->shape = meta->shape;
	sb->limits = record->limits;
	sb->env = record->env;
	record->env = (struct buf){ 0 };
	buf_add(&sb->requires, buf_bytes(&meta->requires), meta->requires.len);
	buf_add(&record->rights, "", 1);
	if (!record->rights.failed &&
	    !rights_parse((const char *)buf_bytes(&record->rights), &sb->rights, &err)) {
		sb->rights.fork_left = (unsigned)record->forks_left;
		sb->rights.checkpoint_left = (unsigned)record->checkpoints_left;
	}
	sb->generation = (uint32_t)record->generation;
	sb->next_job = (uint32_t)record->next_job;
	if (sb->next_job < meta->next_job)
		sb->next_job = meta->next_job;
	sb->next_snapshot = (unsigned)record->next_snapshot;
	sb->boot_ns = record->boot_ns;
	sb->fork_ns = record->fork_ns;
	sb->warm = record->warm;
	sb->room.below = record->below;
	sb->life.first_job = sb->next_job;
	network_restore(sb, record->mode, &record->addr, &record->allow, &record->publish);
	each_line(sb, &record->jobs, add_job_of);
	each_line(sb, &record->streams, add_stream_of);
	each_line(sb, &record->ends, add_end_of);
	life_set_idle(sb, (uint32_t)record->idle);
}

/* A crash came between a new one and the end of the one before: the newer holds. */
static bool superseded(struct fs *fs, const char *name, const struct life_record *record, struct err *err)
{
	struct sandbox *other = sandbox_find(fs, record->name);
	struct life_record of_other;
	bool newer = true;

	if (!other || !other->life.stored)
		return false;
	if (!record_read(fs, other->life.stored->obj.name, &of_other, err)) {
		newer = of_other.stored < record->stored;
		record_release(&of_other);
	}
	if (newer) {
		sandbox_remove(other);
		return false;
	}
	if (snapshot_remove(fs->store, name, err))
		log_warn("%s", err->text);
	return true;
}

static int add(struct fs *fs, const char *name, struct err *err)
{
	struct owner owner = { fs->root.owner.uid, fs->root.owner.gid, 0700 };
	struct snapshot_meta meta;
	struct life_record record;
	struct sandbox *sb;
	int rc = record_read(fs, name, &record, err);

	if (rc)
		return rc;
	rc = snapshot_get(fs->store, name, &meta, err);
	if (rc) {
		record_release(&record);
		return rc;
	}
	if (superseded(fs, name, &record, err))
		goto out;
	(void)snapshot_owner(fs->store, name, &owner, err);
	rc = sandbox_new(fs, record.name, &owner, &sb, err);
	if (rc)
		goto out;
	fill(sb, &record, &meta);
	sb->life.stored = snapshot_new_life(sb, name, NULL, NULL);
	if (!sb->life.stored) {
		rc = err_sys(err, -ENOMEM, "%s", record.name);
		sandbox_remove(sb);
		goto out;
	}
	sb->life.stored_ns = record.stored;
	sb->life.asleep = sb->life.anew = true;
	sb->state = SANDBOX_SUSPENDED;
	sb->born = true;
	network_sleep(sb);
	if (record.running)
		say_when(sb, record.stored);
	settle_ttl(sb, record.end);
out:
	record_release(&record);
	snapshot_meta_release(&meta);
	return rc;
}

/*
 * What it may do, use and reach is not known, or its machine is not there: it is shown, so that somebody hears of it
 * and can take it away, and never goes on.
 */
static void add_damaged(struct fs *fs, const char *life, const struct err *why)
{
	struct owner owner = { fs->root.owner.uid, fs->root.owner.gid, 0700 };
	struct life_record record;
	struct snapshot_meta meta;
	char name[STORE_NAME_MAX + 1] = "";
	struct sandbox *sb;
	struct err err;

	if (!record_read(fs, life, &record, &err)) {
		memcpy(name, record.name, sizeof(name));
		record_release(&record);
	} else if (!snapshot_get(fs->store, life, &meta, &err)) {
		memcpy(name, meta.source, sizeof(name));
		snapshot_meta_release(&meta);
	}
	if (sandbox_name_check(fs, name, &err))
		snprintf(name, sizeof(name), "damaged-%.8s", life + strlen(".life-"));
	(void)snapshot_owner(fs->store, life, &owner, &err);
	if (sandbox_new(fs, name, &owner, &sb, &err)) {
		log_warn("%s", err.text);
		return;
	}
	sb->life.stored = snapshot_new_life(sb, life, NULL, NULL);
	if (!sb->life.stored) {
		sandbox_remove(sb);
		return;
	}
	sb->life.asleep = sb->life.damaged = true;
	sb->state = SANDBOX_SUSPENDED;
	sb->born = true;
	err_set(&err, -EIO, "%s cannot be brought back: %s", name, why->text);
	object_report(&sb->obj, &err);
}

struct life_names {
	struct buf text; /* one after the other, each LIFE_NAME_SIZE */
};

static void add_name(void *arg, const char *name)
{
	struct life_names *names = arg;

	buf_add(&names->text, name, LIFE_NAME_SIZE);
}

/* What is stored is not what was stored, or of another time. */
static bool is_damage(int rc)
{
	return rc == -EIO || rc == -EINVAL || rc == -ENOENT;
}

int life_load(struct fs *fs, struct err *err)
{
	struct life_names names = { 0 }, damaged = { 0 };
	const char *name;
	struct err why;
	size_t at;
	bool failed;
	int rc;

	/* Names first: some of them may go. Those of damaged ones are given when the others have theirs. */
	life_snapshot_list(fs->store, add_name, &names);
	for (at = 0; at < names.text.len; at += LIFE_NAME_SIZE) {
		name = (const char *)buf_bytes(&names.text) + at;
		rc = add(fs, name, &why);
		if (rc)
			log_warn("a suspended sandbox cannot be brought back, %s: %s", name, why.text);
		if (is_damage(rc))
			add_name(&damaged, name);
	}
	for (at = 0; at < damaged.text.len; at += LIFE_NAME_SIZE) {
		name = (const char *)buf_bytes(&damaged.text) + at;
		/* For the reason. */
		rc = add(fs, name, &why);
		if (is_damage(rc))
			add_damaged(fs, name, &why);
	}
	failed = names.text.failed || damaged.text.failed;
	buf_release(&names.text);
	buf_release(&damaged.text);
	return failed ? err_sys(err, -ENOMEM, "cannot list suspended sandboxes") : 0;
}
