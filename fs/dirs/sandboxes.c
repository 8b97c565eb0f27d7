/* SPDX-License-Identifier: MIT */
/* sandboxes.c - the directory of a sandbox: its files, settings and verbs */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/dirs/dirs.h"
#include "fs/dirs/info.h"
#include "fs/fork/rollback.h"
#include "fs/guest/guest_names.h"
#include "fs/sandbox/capture.h"
#include "fs/sandbox/job.h"
#include "fs/sandbox/machine.h"
#include "fs/sandbox/pause.h"
#include "fs/snapshot/snapshot.h"
#include "fs/start/start.h"
#include "vm/jail/jail.h"

static const struct err ok;

/* ---- verbs */

/* Begin a verb as the sandbox's task, whose end is the command's. False: it cannot begin, and the command is ended. */
static bool begin(struct sandbox *sb, const char *verb, struct command *command)
{
	struct err err;

	if (!task_begin(sb, verb, command_done, command, &err))
		return true;
	command_done(command, &err);
	return false;
}

static void verb_start(struct object *obj, const struct words *words, struct command *command)
{
	struct sandbox *sb = sandbox_of(obj);
	struct err err;

	(void)words;
	if (shape_check_start(&sb->shape, &err))
		command_done(command, &err);
	else
		start(sb, "start", false, command_done, command);
}

static void verb_kill(struct object *obj, const struct words *words, struct command *command)
{
	struct sandbox *sb = sandbox_of(obj);
	struct err err;

	(void)words;
	if (life_kill(sb, &err)) {
		command_done(command, &err);
		return;
	}
	err_set(&err, -EHOSTDOWN, "%s: %s was killed", sb->task.verb ? sb->task.verb : "", obj->name);
	task_end(sb, &err);
	command_done(command, &ok);
}

static void verb_stop(struct object *obj, const struct words *words, struct command *command)
{
	struct sandbox *sb = sandbox_of(obj);

	/* A VMM that does not answer will not be asked for more, and what it keeps waiting has been told. */
	if (sb->task.answered)
		verb_kill(obj, words, command);
	else if (begin(sb, "stop", command))
		machine_stop(sb, NULL, NULL);
}

static void on_paused(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;

	if (!err->code)
		sandbox_set_state(sb, SANDBOX_PAUSED);
	task_end(sb, err);
}

static void verb_pause(struct object *obj, const struct words *words, struct command *command)
{
	struct sandbox *sb = sandbox_of(obj);

	(void)words;
	if (begin(sb, "pause", command))
		machine_pause(sb, QUIESCE_PAUSE, on_paused, sb);
}

static void verb_resume(struct object *obj, const struct words *words, struct command *command)
{
	struct sandbox *sb = sandbox_of(obj);
	struct err err;

	(void)words;
	if (sb->state == SANDBOX_SUSPENDED)
		life_resume(sb, command_done, command);
	else if (sb->stalled && room_check(sb, &err))
		command_done(command, &err);
	else if (begin(sb, "resume", command))
		machine_resume(sb, true, NULL, NULL);
}

static void verb_suspend(struct object *obj, const struct words *words, struct command *command)
{
	(void)words;
	life_suspend(sandbox_of(obj), command_done, command);
}

/* ---- snapshot and checkpoint */

struct shot {
	struct sandbox *sb; /* a reference */
	struct command *command;
	struct snapshot *snap;
	mode_t umask;
	char name[STORE_NAME_MAX + 1]; /* "": unnamed */
};

static void shot_end(struct shot *shot, const struct err *err)
{
	command_done(shot->command, err);
	object_unref(&shot->sb->obj);
	free(shot);
}

static void on_saved(void *arg, const struct err *err)
{
	struct shot *shot = arg;

	if (err->code && !shot->snap->obj.gone)
		snapshot_drop(shot->snap); /* it was to have this name or none */
	shot_end(shot, err);
}

static void on_captured(void *arg, const struct err *err, struct template *template)
{
	struct shot *shot = arg;
	struct worker *worker;
	struct err failed = *err;

	if (failed.code || snapshot_new(shot->sb, template, shot->umask, &shot->snap, &failed)) {
		shot_end(shot, &failed);
		return;
	}
	if (!*shot->name) {
		snapshot_keep(shot->snap);
		shot_end(shot, &failed);
		return;
	}
	if (snapshot_save(shot->snap, shot->name, on_saved, shot, &worker, &failed)) {
		snapshot_drop(shot->snap);
		shot_end(shot, &failed);
		return;
	}
	shot->command->cancel = worker_cancel;
	shot->command->arg = worker;
}

/* A named snapshot is made where a mkdir or mv would make it. */
static int may_name(const struct caller *caller, struct fs *fs, const char *name, struct err *err)
{
	int rc = tree_may_make(caller, &fs->root, "snapshots", err);

	return rc ? rc : snapshot_name_check(fs, name, err);
}

static void shoot(struct object *obj, const struct words *words, struct command *command, bool go_on)
{
	struct shot *shot = calloc(1, sizeof(*shot));
	struct err err = { 0 };

	if (!shot) {
		err_sys(&err, -ENOMEM, "%s", words->word[0]);
	} else if (words->n < 2 || !may_name(&command->caller, obj->fs, words->word[1], &err)) {
		if (words->n > 1)
			snprintf(shot->name, sizeof(shot->name), "%s", words->word[1]);
		shot->umask = command_umask(command);
		shot->sb = sandbox_of(object_ref(obj));
		shot->command = command;
		if (!capture(shot->sb, go_on ? "checkpoint" : "snapshot",
			     CAPTURE_SYNC | (go_on ? CAPTURE_GO_ON : 0), on_captured, shot, &err))
			return;
		object_unref(obj);
	}
	free(shot);
	command_done(command, &err);
}

static void verb_snapshot(struct object *obj, const struct words *words, struct command *command)
{
	shoot(obj, words, command, false);
}

static void verb_checkpoint(struct object *obj, const struct words *words, struct command *command)
{
	shoot(obj, words, command, true);
}

#define IN(state) (1u << SANDBOX_##state)
enum {
	UP = IN(RUNNING) | IN(PAUSED),
	DOWN = IN(CREATED) | IN(STOPPED) | IN(CRASHED),
	STORED = IN(SUSPENDED),
};

static const struct verb verbs[] = {
	{ "start", "", "start its machine; returns when it takes commands", 0, 0, DOWN, IN(RUNNING),
	  verb_start },
	{ "stop", "", "ask the guest to power off, and kill the machine if it does not", 0, 0, UP, DOWN,
	  verb_stop },
	{ "kill", "", "end its machine at once", 0, 0, UP | DOWN | STORED, 0, verb_kill },
	{ "pause", "", "stop the machine where it is", 0, 0, IN(RUNNING), IN(PAUSED), verb_pause },
	{ "resume", "", "let it go on exactly where it was paused or suspended", 0, 0, IN(PAUSED) | STORED,
	  IN(RUNNING), verb_resume },
	{ "suspend", "",
	  "move the machine to the store; resume, or any access to its jobs, files and ports, brings it back",
	  0, 0, UP, STORED, verb_suspend },
	{ "snapshot", "[NAME]",
	  "capture the whole machine, which stays paused; with a name, saved when this returns", 0, 1,
	  UP | STORED, 0, verb_snapshot },
	{ "checkpoint", "[NAME]", "the same, but the machine goes on running", 0, 1, UP | STORED, 0,
	  verb_checkpoint },
	{ "rollback", "SNAPSHOT", "put an earlier state back; the one it replaces is kept as a snapshot", 1,
	  1, UP | STORED, 0, rollback_verb },
	{ "fork", "W [k=v ...]", "make the sandbox W, a running copy; N PREFIX [k=v ...] makes N of them", 1,
	  CTL_WORDS, UP | DOWN | STORED, 0, fork_verb },
	{ 0 },
};

static unsigned verb_state(const struct object *obj, const char **name)
{
	*name = sandbox_state_name(sandbox_of(obj)->state);
	return sandbox_of(obj)->state;
}

/* ---- state and settings */

static int state_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_printf(text, "%s\n", sandbox_state_name(sandbox_of(obj)->state));
	return 0;
}

static int sandbox_info(struct object *obj, struct buf *text, struct err *err)
{
	const struct sandbox *sb = sandbox_of(obj);
	const pid_t pid = sb->vm ? obj->fs->engine->pid(sb->vm) : 0;

	(void)err;
	info_word(text, "name", obj->name);
	info_word(text, "engine", obj->fs->engine->name);
	info_word(text, "image", sb->image);
	info_word(text, "parent", sb->parent);
	info_time(text, "created", obj->ctime_ns);
	if (sb->boot_ns)
		info_number(text, "boot_us", sb->boot_ns / 1000);
	if (sb->boot_ns)
		info_word(text, "boot", sb->warm ? "warm" : "cold");
	if (sb->fork_ns)
		info_number(text, "fork_us", sb->fork_ns / 1000);
	info_number(text, "generation", sb->generation);
	info_number(text, "pid", pid > 0 ? (uint64_t)pid : 0);
	info_number(text, "net_pid", (uint64_t)network_pid(sb));
	buf_printf(text, "jail %s\n", launcher_how());
	buf_printf(text, "cgroup %s\n", launcher_limits());
	return 0;
}

static struct list *stats_refresh(struct object *obj)
{
	return gauge_refresh(&sandbox_of(obj)->memory);
}

/* What the store has of its machine. */
static void add_stored(const struct sandbox *sb, struct buf *text)
{
	struct snapshot_meta meta;
	struct err err;

	if (!sb->life.stored || snapshot_get(sb->obj.fs->store, sb->life.stored->obj.name, &meta, &err))
		return;
	info_number(text, "stored", meta.ram_stored + meta.disk_stored);
	info_number(text, "own", meta.own);
	snapshot_meta_release(&meta);
}

static int sandbox_stats(struct object *obj, struct buf *text, struct err *err)
{
	const struct sandbox *sb = sandbox_of(obj);
	struct vm_memory memory = { 0 };
	struct vm_usage usage = { 0 };

	(void)err;
	if (sb->vm && !obj->fs->engine->usage(sb->vm, &usage))
		memory = sb->memory.seen;
	info_number(text, "cpu_us", usage.cpu_ns / 1000);
	info_number(text, "resident", memory.resident);
	info_number(text, "private", memory.private);
	info_number(text, "shared", memory.shared);
	info_number(text, "disk_written", usage.disk_written);
	info_number(text, "disk_stored", sb->disk ? layer_stored(sb->disk) : 0);
	info_number(text, "exits", usage.exits);
	add_stored(sb, text);
	return 0;
}

/* Settings of the hardware hold from one start to the next; a machine that runs has those it began with. */
static bool has_machine(const struct sandbox *sb)
{
	return sb->vm || sb->task.starting || sb->state == SANDBOX_RUNNING || sb->state == SANDBOX_PAUSED ||
	       sb->state == SANDBOX_SUSPENDED;
}

static int image_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_printf(text, "%s\n", sandbox_of(obj)->image);
	return 0;
}

static int image_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	struct sandbox *sb = sandbox_of(obj);

	(void)n;
	return sandbox_set_image(sb, text, err);
}

/* memory_max and cpus_max. */
static int maximum_store(struct object *obj, const char *key, const char *text, struct err *err)
{
	struct sandbox *sb = sandbox_of(obj);
	struct shape shape = sb->shape;
	int rc;

	if (has_machine(sb) || sb->state != SANDBOX_CREATED)
		return err_set(err, -EBUSY, "%s: cannot be changed once the sandbox has been started", key);
	rc = shape_set(&shape, key, text, err);
	if (!rc)
		rc = shape_check(&shape, err);
	if (!rc)
		sb->shape = shape;
	return rc;
}

/* memory and cpus, which a running guest is given at once. */
static void setting_write(struct object *obj, const char *key, const char *text, struct request *request)
{
	struct sandbox *sb = sandbox_of(obj);
	struct shape shape = sb->shape;
	struct command *command = command_new(COMMAND_WRITE, obj, request);
	struct words words;
	struct err err = { 0 };

	if (!command)
		return;
	if (!words_parse(text, request->size, &words, &err) && words.n != 1)
		err_set(&err, -EINVAL, "%s: exactly one value is expected", key);
	if (!err.code && !shape_set(&shape, key, words.word[0], &err))
		shape_check(&shape, &err);
	if (!err.code && has_machine(sb) && sb->state != SANDBOX_RUNNING)
		err_set(&err, -EAGAIN, "%s: %s is %s; resume it first", key, obj->name,
			sandbox_state_name(sb->state));
	if (err.code || !has_machine(sb)) {
		if (!err.code)
			sb->shape = shape;
		command_done(command, &err);
		return;
	}
	if (begin(sb, key, command))
		machine_resize(sb, &shape, NULL, NULL);
}

static int memory_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_printf(text, "%" PRIu64 "\n", sandbox_of(obj)->shape.memory);
	return 0;
}

static void memory_write(struct object *obj, const char *text, struct request *request)
{
	setting_write(obj, "memory", text, request);
}

static int memory_max_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_printf(text, "%" PRIu64 "\n", sandbox_of(obj)->shape.memory_max);
	return 0;
}

static int memory_max_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	(void)n;
	return maximum_store(obj, "memory_max", text, err);
}

static int cpus_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_printf(text, "%u\n", sandbox_of(obj)->shape.cpus);
	return 0;
}

static void cpus_write(struct object *obj, const char *text, struct request *request)
{
	setting_write(obj, "cpus", text, request);
}

static int cpus_max_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_printf(text, "%u\n", sandbox_of(obj)->shape.cpus_max);
	return 0;
}

static int cpus_max_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	(void)n;
	return maximum_store(obj, "cpus_max", text, err);
}

static int env_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	env_text(&sandbox_of(obj)->env, text);
	return 0;
}

static int env_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	struct sandbox *sb = sandbox_of(obj);
	struct buf env = { 0 };
	int rc = env_parse(text, n, &env, err);

	if (!rc)
		rc = env_fits(&env, err);
	if (rc) {
		buf_release(&env);
		return rc;
	}
	buf_release(&sb->env);
	sb->env = env;
	life_setting_changed(sb);
	return 0;
}

/* ---- life */

static int idle_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_printf(text, "%" PRIu32 "\n", sandbox_of(obj)->life.idle);
	return 0;
}

static int store_seconds(struct object *obj, const char *key, const char *text,
			 void (*set)(struct sandbox *, uint32_t), struct err *err)
{
	uint32_t seconds;
	const int rc = life_seconds(key, text, &seconds, err);

	if (rc)
		return rc;
	set(sandbox_of(obj), seconds);
	life_setting_changed(sandbox_of(obj));
	return 0;
}

static int idle_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	(void)n;
	return store_seconds(obj, "idle", text, life_set_idle, err);
}

static int ttl_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_printf(text, "%" PRIu32 "\n", life_ttl(sandbox_of(obj)));
	return 0;
}

static int ttl_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	(void)n;
	return store_seconds(obj, "ttl", text, life_set_ttl, err);
}

static int guest_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	rights_text(&sandbox_of(obj)->rights, text);
	return 0;
}

static int guest_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	struct sandbox *sb = sandbox_of(obj);
	int rc;

	if (memchr(text, '\0', n))
		return err_set(err, -EINVAL, "guest: it has a NUL byte in it");
	rc = rights_parse(text, &sb->rights, err);
	if (!rc)
		life_setting_changed(sb);
	return rc;
}

/* ---- fs/ */

static int files_usable(struct object *obj)
{
	return sandbox_usable(sandbox_of(obj), NULL);
}

static struct agent *files_agent(const struct object *obj)
{
	return sandbox_of(obj)->agent;
}

static uint64_t files_epoch(const struct object *obj)
{
	return sandbox_of(obj)->epoch;
}

static void files_path(const struct object *obj, char *ret, size_t size)
{
	snprintf(ret, size, "%s", obj->name);
}

static struct node *files_mount(struct object *obj, const struct entry *entry)
{
	static const struct guest_ops ops = { .usable = files_usable,
					      .agent = files_agent,
					      .epoch = files_epoch,
					      .path = files_path,
					      .lost = -EHOSTDOWN };
	struct sandbox *sb = sandbox_of(obj);

	sb->files.obj = obj;
	sb->files.ops = &ops;
	return guestfs_root(&sb->files, entry);
}

/* ---- the directory */

static const struct entry files[] = {
	{ "ctl", S_IFREG | 0644, ENTRY_FRESH | ENTRY_SHARED,
	  "takes the verbs below; reading lists those possible now", .verbs = verbs, .state = verb_state },
	{ "error", S_IFREG | 0444, 0, "why the last command here failed; empty if it did not fail",
	  .show = object_error },
	{ "state", S_IFREG | 0444, ENTRY_POLL,
	  "created | running | paused | stopped | crashed | suspended; poll wakes when it changes",
	  .show = state_show },
	{ "info", S_IFREG | 0444, 0,
	  "name, engine, image, parent, created, boot_us or fork_us, generation, pid of its VMM, net_pid of "
	  "its sbx-net",
	  .show = sandbox_info },
	{ "image", S_IFREG | 0644, ENTRY_SHARED, "the image its disk begins with; set before the start",
	  .show = image_show, .store = image_store },
	{ "memory", S_IFREG | 0644, ENTRY_SHARED, "in bytes; K, M and G are accepted", .show = memory_show,
	  .command = memory_write },
	{ "cpus", S_IFREG | 0644, ENTRY_SHARED, "how many CPUs", .show = cpus_show, .command = cpus_write },
	{ "memory_max", S_IFREG | 0644, ENTRY_SHARED,
	  "the most that memory can be set to; set before the start", .show = memory_max_show,
	  .store = memory_max_store },
	{ "cpus_max", S_IFREG | 0644, ENTRY_SHARED, "the same for cpus", .show = cpus_max_show,
	  .store = cpus_max_store },
	{ "limits", S_IFREG | 0644, ENTRY_SHARED,
	  "memory, cpu, pids, io, disk: what it may use of the host; a line changes one, and max ends it",
	  .show = limits_show, .command = limits_write },
	{ "guest", S_IFREG | 0644, ENTRY_APPEND | ENTRY_SHARED,
	  "what sbx-guest may ask for in its guest, and how often yet: fork N, checkpoint N, suspend; "
	  "inherit N: "
	  "and in its copies, N deep",
	  .show = guest_show, .store = guest_store },
	{ "env", S_IFREG | 0600, ENTRY_APPEND | ENTRY_LONG,
	  "K=V lines for commands run from now on; as exec/J/env, up to 32K", .show = env_show,
	  .store = env_store },
	{ "idle", S_IFREG | 0644, ENTRY_SHARED,
	  "seconds without work after which it is suspended; 0: never. Work is a verb, a job's open stream, "
	  "an open "
	  "file, a connection, a network flow, and more than 2 % of a CPU",
	  .show = idle_show, .store = idle_store },
	{ "ttl", S_IFREG | 0644, ENTRY_SHARED,
	  "seconds until it is removed, counting down; 0: no end. error warns who has something of it open",
	  .show = ttl_show, .store = ttl_store },
	{ "console", S_IFREG | 0400, 0, "the serial console; tail -f works", .stream = &tail_ops,
	  .tail = console_tail },
	{ "stats", S_IFREG | 0444, ENTRY_COSTLY, "cpu_us, resident, private and shared memory, disk bytes",
	  .show = sandbox_stats, .refresh = stats_refresh },
	{ "run", S_IFREG | 0600, ENTRY_FRESH | ENTRY_POSITIONED,
	  "open read-write, write one command line, read its output to the end", .stream = &run_ops },
	{ "exec", S_IFDIR | 0755, ENTRY_SHARED,
	  "jobs: commands with streams and a status; mktemp -d exec/XXXX works", .dir = &exec_dir },
	{ "net", S_IFDIR | 0755, 0, "what the machine may reach, and how it is reached", .dir = &net_dir },
	{ "tcp", S_IFDIR | 0755, 0,
	  "ports of the machine's loopback; ls lists those that somebody listens at", .dir = &tcp_dir },
	{ "fs", S_IFDIR | 0755, 0, "the files of the machine", .mount = files_mount },
	{ "snapshots", S_IFDIR | 0755, ENTRY_SHARED,
	  "unnamed snapshots, which live as long as the sandbox, and the link latest",
	  .dir = &vm_snapshots_dir },
	{ "forks", S_IFDIR | 0755, ENTRY_SHARED,
	  "mkdir forks the sandbox as it is now; lists the forks that exist, as links", .dir = &forks_dir },
	{ 0 },
};

static const struct dir_ops sandbox_dir = { .entries = files, .chown = sandbox_chown };

const struct entry sandbox_entry = {
	"VM", S_IFDIR, 0,
	"a sandbox: mkdir makes it (configure it, then start it), rmdir kills and removes it",
	.dir = &sandbox_dir
};
