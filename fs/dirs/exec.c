/* SPDX-License-Identifier: MIT */
/* exec.c - the directory exec/ and what is in it */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/dirs/dirs.h"
#include "fs/sandbox/admission.h"
#include "fs/sandbox/job.h"
#include "fs/sandbox/sandbox.h"
#include "fs/sandbox/settings.h"
#include "util/size.h"

enum { TIMEOUT_MAX = 99999999 };

/* ---- settings, before the start */

static void add_line(struct buf *text, const struct buf *value)
{
	buf_add(text, buf_bytes(value), value->len);
	text->failed |= value->failed;
	if (value->len && buf_bytes(value)[value->len - 1] != '\n')
		buf_add(text, "\n", 1);
}

static int check_pending(const struct job *job, struct err *err)
{
	if (job->phase != JOB_PENDING)
		return err_set(err, -EBUSY, "exec/%s has already been started", job->obj.name);
	return 0;
}

static int set(struct job *job, struct buf *field, const char *what, const char *text, size_t n,
	       struct err *err)
{
	int rc = check_pending(job, err);

	if (!rc && memchr(text, 0, n))
		rc = err_set(err, -EINVAL, "%s: NUL bytes are not allowed", what);
	if (!rc)
		rc = job_room(job, field, n, err);
	if (rc)
		return rc;
	buf_clear(field);
	buf_add(field, text, n);
	job_count(job);
	return field->failed ? err_sys(err, -ENOMEM, "%s", what) : 0;
}

static int set_flag(struct job *job, bool *field, const char *what, const char *text, size_t n,
		    struct err *err)
{
	int rc = check_pending(job, err);

	if (!rc && (n != 1 || (*text != '0' && *text != '1')))
		rc = err_set(err, -EINVAL, "%s: \"%.64s\" is neither 0 nor 1", what, text);
	if (!rc)
		*field = *text == '1';
	return rc;
}

static int cmd_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	add_line(text, &job_of(obj)->cmd);
	return 0;
}

static int cmd_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	struct job *job = job_of(obj);
	int rc = check_pending(job, err);

	if (rc)
		return rc;
	if (!n)
		return err_set(err, -EINVAL, "exec/%s: the command is empty", obj->name);
	rc = job_room(job, &job->cmd, n, err);
	if (rc)
		return rc;
	buf_clear(&job->cmd);
	buf_add(&job->cmd, text, n);
	rc = job_start(job, false, err);
	if (rc)
		buf_clear(&job->cmd);
	else
		input_pump(job);
	job_count(job);
	return rc;
}

static int cwd_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	add_line(text, &job_of(obj)->cwd);
	return 0;
}

static int cwd_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	if (*text != '/')
		return err_set(err, -EINVAL, "cwd: \"%.64s\" is not an absolute path", text);
	return set(job_of(obj), &job_of(obj)->cwd, "cwd", text, n, err);
}

static int user_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	add_line(text, &job_of(obj)->user);
	return 0;
}

static int user_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	return set(job_of(obj), &job_of(obj)->user, "user", text, n, err);
}

static int env_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	env_text(&job_of(obj)->env, text);
	return 0;
}

static int env_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	struct job *job = job_of(obj);
	struct buf env = { 0 };
	int rc = check_pending(job, err);

	if (!rc)
		rc = job_room(job, &job->env, n, err);
	if (!rc)
		rc = env_parse(text, n, &env, err);
	if (rc)
		return rc;
	buf_release(&job->env);
	job->env = env;
	job_count(job);
	return 0;
}

static int tty_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_printf(text, "%d\n", job_of(obj)->tty);
	return 0;
}

static int tty_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	return set_flag(job_of(obj), &job_of(obj)->tty, "tty", text, n, err);
}

static int linger_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_printf(text, "%d\n", job_of(obj)->linger);
	return 0;
}

static int linger_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	return set_flag(job_of(obj), &job_of(obj)->linger, "linger", text, n, err);
}

static int timeout_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	buf_printf(text, "%u\n", job_of(obj)->timeout);
	return 0;
}

static int timeout_store(struct object *obj, const char *text, size_t n, struct err *err)
{
	struct job *job = job_of(obj);
	uint64_t seconds = 0;
	int rc = check_pending(job, err);

	(void)n;
	if (rc)
		return rc;
	if (number_parse(text, &seconds) == -EINVAL)
		return err_set(err, -EINVAL, "timeout: \"%.64s\" is not a number of seconds", text);
	if (seconds > TIMEOUT_MAX || strlen(text) > 9)
		return err_set(err, -ERANGE, "timeout: %.64s is not between 0 (none) and %d seconds", text,
			       TIMEOUT_MAX);
	job->timeout = (uint32_t)seconds;
	return 0;
}

/* ---- hold */

/* For writing, so that nobody holds it by chance who reads whatever there is, and ends it by closing that; nor is
 * that a failure for `error`. */
static int hold_open(struct file *file, int flags)
{
	if ((flags & O_ACCMODE) == O_RDONLY)
		return -EINVAL;
	job_of(file->obj)->holders++;
	return 0;
}

static void hold_release(struct file *file)
{
	struct job *job = job_of(file->obj);

	if (!--job->holders && !job->obj.gone)
		job_remove(job);
}

static const struct stream_ops hold_ops = {
	.open = hold_open,
	.release = hold_release,
};

/* ---- status */

static int exit_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	if (job_of(obj)->phase == JOB_ENDED)
		buf_printf(text, "%u\n", job_of(obj)->shell);
	return 0;
}

static int status_show(struct object *obj, struct buf *text, struct err *err)
{
	(void)err;
	job_status(job_of(obj), text);
	buf_add(text, "\n", 1);
	return 0;
}

static void wait_read(struct file *file, uint64_t offset, bool nonblock, struct request *request)
{
	struct job *job = job_of(file->obj);
	struct buf text = { 0 };
	size_t n;

	if (job->phase != JOB_ENDED) {
		if (nonblock)
			request_err(request, -EAGAIN);
		else
			list_add(&job->waiting, &request->link);
		job_wake(job);
		return;
	}
	status_show(file->obj, &text, NULL);
	if (text.failed) {
		buf_release(&text);
		request_err(request, -ENOMEM);
		return;
	}
	n = offset < text.len ? text.len - offset : 0;
	request_data(request, n ? buf_bytes(&text) + offset : NULL, n < request->size ? n : request->size);
	buf_release(&text);
}

static int wait_open(struct file *file, int flags)
{
	(void)flags;
	list_add(&file->obj->files, &file->link);
	return 0;
}

static unsigned wait_poll(const struct file *file)
{
	return job_of(file->obj)->phase == JOB_ENDED ? POLLIN | POLLRDNORM : 0;
}

static const struct stream_ops wait_ops = { .open = wait_open, .read = wait_read, .poll = wait_poll };

/* ---- ctl */

static int parse_signal(const char *text, uint32_t *ret, struct err *err)
{
	uint64_t number;
	int i;

	if (!number_parse(text, &number)) {
		if (!number || number >= (uint64_t)NSIG)
			return err_set(err, -EINVAL, "kill: there is no signal \"%.32s\"", text);
		*ret = (uint32_t)number;
		return 0;
	}
	if (!strncmp(text, "SIG", 3))
		text += 3;
	for (i = 1; i < NSIG; i++)
		if (sigabbrev_np(i) && !strcmp(text, sigabbrev_np(i))) {
			*ret = (uint32_t)i;
			return 0;
		}
	return err_set(err, -EINVAL, "kill: there is no signal \"%.32s\"", text);
}

static void verb_kill(struct object *obj, const struct words *words, struct command *command)
{
	struct job *job = job_of(obj);
	struct err err = { 0 };
	uint32_t number = SIGTERM;

	if ((words->n < 2 || !parse_signal(words->word[1], &number, &err)) && job->phase == JOB_STARTED &&
	    !sandbox_usable(job->sb, &err))
		agent_job_kill(job->sb->agent, job->id, number, JOB_KILL_MS, command_done, command);
	else
		command_done(command, &err);
}

static void verb_eof(struct object *obj, const struct words *words, struct command *command)
{
	struct job *job = job_of(obj);
	const struct err ok = { 0 };

	(void)words;
	input_end(job);
	job_wake(job);
	command_done(command, &ok);
}

static void verb_resize(struct object *obj, const struct words *words, struct command *command)
{
	struct job *job = job_of(obj);
	struct err err = { 0 };
	uint64_t rows, cols;

	if (number_parse(words->word[1], &rows) || number_parse(words->word[2], &cols) || !rows ||
	    rows > UINT16_MAX || !cols || cols > UINT16_MAX) {
		err_set(&err, -EINVAL, "resize: rows and columns are numbers from 1 to %d", UINT16_MAX);
	} else if (job->phase != JOB_STARTED || !sandbox_usable(job->sb, &err)) {
		job->rows = (uint16_t)rows;
		job->cols = (uint16_t)cols;
		if (job->phase == JOB_STARTED)
			agent_job_resize(job->sb->agent, job->id, job->rows, job->cols);
	}
	command_done(command, &err);
}

#define IN(phase) (1u << (phase))

static const struct verb job_verbs[] = {
	{ "kill", "[SIG]", "send a signal, TERM by default, to the command's process group", 0, 1,
	  IN(JOB_STARTED) | IN(JOB_ENDED), 0, verb_kill },
	{ "eof", "", "end the command's stdin, whoever still has it open", 0, 0,
	  IN(JOB_PENDING) | IN(JOB_STARTED), IN(JOB_ENDED), verb_eof },
	{ "resize", "R C", "set the rows and columns of its terminal", 2, 2,
	  IN(JOB_PENDING) | IN(JOB_STARTED), IN(JOB_ENDED), verb_resize },
	{ 0 },
};

static unsigned verb_state(const struct object *obj, const char **name)
{
	static const char *const names[] = { "pending", "running", "ended" };

	*name = names[job_of(obj)->phase];
	return job_of(obj)->phase;
}

/* ---- the directories */

static const struct entry job_files[] = {
	{ "cmd", S_IFREG | 0600, ENTRY_LONG,
	  "writing a shell command line starts it; text with NUL bytes is an argv. One write, up to 1020K",
	  .show = cmd_show, .store = cmd_store },
	{ "error", S_IFREG | 0400, 0, "why the last write here failed; empty if it did not",
	  .show = object_error },
	{ "cwd", S_IFREG | 0600, 0, "its working directory; set before the start, like env, user and tty",
	  .show = cwd_show, .store = cwd_store },
	{ "env", S_IFREG | 0600, ENTRY_APPEND | ENTRY_LONG,
	  "K=V lines, added to the sandbox's env; or NULs between its values, as env -0 prints",
	  .show = env_show, .store = env_store },
	{ "user", S_IFREG | 0600, 0, "the user it runs as; root if empty", .show = user_show,
	  .store = user_store },
	{ "tty", S_IFREG | 0600, 0, "1: a terminal instead of three pipes", .show = tty_show,
	  .store = tty_store },
	{ "linger", S_IFREG | 0600, 0,
	  "1: stdout and stderr end when all processes closed them; 0: with the command", .show = linger_show,
	  .store = linger_store },
	{ "timeout", S_IFREG | 0600, 0, "seconds after which it is killed, whatever the guest does; 0: none",
	  .show = timeout_show, .store = timeout_store },
	{ "hold", S_IFREG | 0200, 0,
	  "the job ends, as by rmdir, when the last who opened this for writing has closed it or died",
	  .stream = &hold_ops },
	{ "stdin", S_IFREG | 0200, 0,
	  "what the command reads; it ends when the last writer closes it, and is empty unless opened before "
	  "the start",
	  .stream = &stdin_ops },
	{ "stdout", S_IFREG | 0400, 0,
	  "its output; reads block, poll works, and it ends when all processes have closed it. Who opens it "
	  "after it was read to its end reads the last 64K again",
	  .stream = &stdout_ops },
	{ "stderr", S_IFREG | 0400, 0, "the same for stderr", .stream = &stderr_ops },
	{ "status", S_IFREG | 0400, ENTRY_POLL,
	  "pending | running | exited N | signaled N | failed REASON; poll wakes when it changes",
	  .show = status_show },
	{ "exit", S_IFREG | 0400, ENTRY_POLL,
	  "once it ended, what a shell's $? would be: N, 128 + signal, 127: no such program, 126: cannot be "
	  "executed, 125: not begun, 124: timeout",
	  .show = exit_show },
	{ "wait", S_IFREG | 0400, 0, "reading blocks until the command ends, then gives its status",
	  .stream = &wait_ops },
	{ "ctl", S_IFREG | 0600, ENTRY_FRESH, "takes the verbs below; reading lists those possible now",
	  .verbs = job_verbs, .state = verb_state },
	{ 0 },
};

static const struct dir_ops job_dir = { .entries = job_files };

static const struct entry job_entry = {
	"J", S_IFDIR, 0,
	"a job, which runs one command: mkdir makes it (any name), rmdir kills and removes it",
	.dir = &job_dir
};

static struct job *find(const struct sandbox *sb, const char *name)
{
	const struct object *obj = object_named(&sb->job_names, name);

	return obj ? job_of(obj) : NULL;
}

static struct object *exec_find(struct object *dir, const char *name, const struct entry **ret)
{
	struct job *job = find(sandbox_of(dir), name);

	*ret = &job_entry;
	return job ? &job->obj : NULL;
}

static void exec_list(struct object *dir, struct listing *listing)
{
	struct job *job;

	list_for_each (job, &sandbox_of(dir)->jobs, link)
		if (!job->nameless)
			listing_add(listing, job->obj.name, &job->obj, &job_entry);
}

static void exec_mkdir(struct object *dir, const char *name, struct command *command)
{
	struct job *job = NULL;
	struct err err;

	if (find(sandbox_of(dir), name))
		err_set(&err, -EEXIST, "there is an exec/%s already", name);
	else if (!admit_job(sandbox_of(dir), &err) &&
		 !(job = job_new(sandbox_of(dir), name, &command->child)))
		err_sys(&err, -ENOMEM, "cannot make exec/%s", name);
	if (job)
		command_made(command, &job->obj, &job_entry, false);
	else
		command_done(command, &err);
}

static int exec_rmdir(struct object *dir, const char *name, struct err *err)
{
	struct job *job = find(sandbox_of(dir), name);

	if (!job)
		return err_set(err, -ENOENT, "there is no job exec/%s", name);
	job_remove(job);
	return 0;
}

const struct dir_ops exec_dir = {
	.child = &job_entry,
	.find = exec_find,
	.list = exec_list,
	.mkdir = exec_mkdir,
	.rmdir = exec_rmdir,
};
