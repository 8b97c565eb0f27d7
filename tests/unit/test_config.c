/* SPDX-License-Identifier: MIT */
#include "fs/config.h"

#include <fcntl.h>
#include <string.h>

#include "fs/arguments.h"
#include "fs/options.h"
#include "tests/unit/unit.h"

/* ---- files */

static char seen[512];

static int note(void *arg, const char *name, const char *value, struct err *err)
{
	const size_t n = strlen(seen);

	(void)arg;
	if (!strcmp(name, "bad"))
		return err_set(err, -ERANGE, "not that");
	snprintf(seen + n, sizeof(seen) - n, "%s=%s;", name, value);
	return 0;
}

/* What was said of it, or what fn was called with. */
static const char *parse(const char *text)
{
	static struct err err;
	char copy[512];

	err = (struct err){ 0 };
	seen[0] = '\0';
	snprintf(copy, sizeof(copy), "%s", text);
	CHECK(config_parse(copy, "f", note, NULL, &err) == err.code);
	return err.code ? err.text : seen;
}

static void lines_of_a_file(void)
{
	CHECK(!strcmp(parse(""), ""));
	CHECK(!strcmp(parse("keep = yes"), "keep=yes;"));
	CHECK(!strcmp(parse("# a = b\n\n \t\n  # c\nnet=none\n"), "net=none;"));
	CHECK(!strcmp(parse("  pool\t=  3 \r\npool=4"), "pool=3;pool=4;"));
	CHECK(!strcmp(parse("limits = cpu=2,pids=9 # no comment"), "limits=cpu=2,pids=9 # no comment;"));
	CHECK(!strcmp(parse("= 3"), "=3;"));
}

static void lines_that_are_wrong(void)
{
	CHECK(!strcmp(parse("\nkeep\n"), "f:2: \"keep\" is not NAME = VALUE"));
	CHECK(!strcmp(parse("keep =\n"), "f:1: keep has no value"));
	CHECK(!strcmp(parse("a = 1\nbad = 2\nb = 3\n"), "f:2: not that"));
	CHECK(!strcmp(seen, "a=1;"));
}

static void files(void)
{
	static const char zero[] = "keep = yes\0untrusted = no";
	char path[] = "/tmp/test_config.XXXXXX";
	const int fd = mkstemp(path);
	struct buf text = { 0 };
	struct err err = { 0 };

	CHECK(fd >= 0 && dprintf(fd, "a = 1\nb = 2") > 0);
	seen[0] = '\0';
	CHECK(!config_read(path, &text, note, NULL, &err) && !strcmp(seen, "a=1;b=2;"));
	buf_release(&text);
	CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, zero, sizeof(zero), 0) == sizeof(zero));
	CHECK(config_read(path, &text, note, NULL, &err) == -EINVAL && strstr(err.text, "NUL"));
	buf_release(&text);
	CHECK(ftruncate(fd, 1 << 20) == 0);
	CHECK(config_read(path, &text, note, NULL, &err) == -EFBIG);
	buf_release(&text);
	CHECK(unlink(path) == 0 && close(fd) == 0);
	CHECK(config_read(path, &text, note, NULL, &err) == -ENOENT && strstr(err.text, path));
	buf_release(&text);
}

/* ---- lists */

static int note_word(void *arg, char *word, size_t n)
{
	const size_t len = strlen(seen);

	(void)arg;
	snprintf(seen + len, sizeof(seen) - len, "%.*s;", (int)n, word);
	return n == 4 && !memcmp(word, "stop", n) ? 7 : 0;
}

static int words(const char *list)
{
	char copy[128];

	seen[0] = '\0';
	snprintf(copy, sizeof(copy), "%s", list);
	return config_each_word(copy, note_word, NULL);
}

static void words_of_a_list(void)
{
	char quoted[] = "\"a,b\"", open_quote[] = "\"a";

	CHECK(!words("") && !strcmp(seen, ""));
	CHECK(!words(",a,,b=c,") && !strcmp(seen, "a;b=c;"));
	CHECK(!words("l=\"a,b\",c") && !strcmp(seen, "l=\"a,b\";c;"));
	CHECK(!words("l=\"a,b") && !strcmp(seen, "l=\"a,b;"));
	CHECK(words("a,stop,b") == 7 && !strcmp(seen, "a;stop;"));
	CHECK(!strcmp(config_unquote(quoted), "a,b"));
	CHECK(!strcmp(config_unquote(open_quote), "\"a"));
}

/* ---- all of it, as the program is called */

static struct arguments args;
static struct options options;
static int status;

/* The words of one line, with blanks between them. */
static int call(const char *line)
{
	static char text[1024];
	char *argv[16], *at = text, *word;
	int argc = 0;

	buf_release(&args.config);
	buf_release(&args.mount_options);
	args = (struct arguments){ .engine = "auto", .mode = 0755 };
	options = (struct options){ .pool = 2 };
	status = -1;
	snprintf(text, sizeof(text), "%s", line);
	while ((word = strsep(&at, " ")))
		argv[argc++] = word;
	argv[argc] = NULL;
	return arguments_parse(argc, argv, &args, &options, &status);
}

static void end(void)
{
	buf_release(&args.config);
	buf_release(&args.mount_options);
}

static void a_command_line(void)
{
	CHECK(!call("sbxfs --pool 3 --keep -f /m") && options.pool == 3 && options.keep && args.foreground);
	CHECK(!strcmp(args.operand, "/m") && !strcmp(arguments_mount_options(&args), ""));
	CHECK(!call("sbxfs -o ro,pool=4,untrusted -o max_read=9,keep=no --keep /m"));
	CHECK(options.pool == 4 && args.untrusted && options.keep);
	CHECK(!strcmp(arguments_mount_options(&args), "ro,max_read=9"));
	CHECK(!call("sbxfs -o state=\"/a,b\",engine=qemu /m") && !strcmp(args.state, "/a,b"));
	CHECK(!strcmp(args.engine, "qemu"));
	CHECK(!call("sbxfs --group 7 --mode 1775 /m") && args.has_group && args.group == 7 &&
	      args.mode == 01775);
	CHECK(call("sbxfs --pool many /m") == PROGRAM_EXIT && status == PROGRAM_USAGE);
	CHECK(call("sbxfs -o pool=many /m") == PROGRAM_EXIT && status == PROGRAM_USAGE);
	CHECK(call("sbxfs -o keep=perhaps /m") == PROGRAM_EXIT && status == PROGRAM_USAGE);
	CHECK(call("sbxfs --group no/such /m") == PROGRAM_EXIT && status == PROGRAM_USAGE);
	CHECK(call("sbxfs /m /n") == PROGRAM_EXIT && status == PROGRAM_USAGE);
	CHECK(call("sbxfs") == PROGRAM_EXIT && status == PROGRAM_USAGE);
	end();
}

/* The command line counts more than the file, wherever it names it. */
static void a_command_line_with_a_file(void)
{
	char path[] = "/tmp/test_config.XXXXXX", line[256];
	const int fd = mkstemp(path);

	CHECK(fd >= 0 && dprintf(fd, "pool = 5\nkeep = yes\nuntrusted = no\nnet = none\nstate = /s\n") > 0);
	snprintf(line, sizeof(line), "sbxfs --pool 6 --config %s --untrusted /m", path);
	CHECK(!call(line) && options.pool == 6 && options.keep && args.untrusted && options.net == NET_NONE);
	CHECK(!strcmp(args.state, "/s"));
	snprintf(line, sizeof(line), "mount.fuse.sbxfs none /m -o config=%s,keep=no", path);
	CHECK(!call(line) && options.pool == 5 && !options.keep);
	CHECK(ftruncate(fd, 0) == 0 && lseek(fd, 0, SEEK_SET) == 0 && dprintf(fd, "config = /x\n") > 0);
	CHECK(call(line) == PROGRAM_EXIT && status == PROGRAM_USAGE);
	CHECK(unlink(path) == 0 && close(fd) == 0);
	CHECK(call(line) == PROGRAM_EXIT && status == PROGRAM_USAGE);
	end();
}

/* With no file of options: what this host has in /etc/sbxfs.conf does not count. */
static int call_mount(const char *operands, const char *list)
{
	char path[] = "/tmp/test_config.XXXXXX", line[512];
	const int fd = mkstemp(path);
	int rc;

	CHECK(fd >= 0);
	snprintf(line, sizeof(line), "/sbin/mount.fuse.sbxfs %s -o config=%s%s", operands, path, list);
	rc = call(line);
	CHECK(unlink(path) == 0 && close(fd) == 0);
	return rc;
}

static void what_mount_calls(void)
{
	CHECK(!call_mount("store /m -n -v",
			  ",rw,noauto,user=joe,x-y=z,pool=7,defaults,_netdev,noatime,keep"));
	CHECK(options.pool == 7 && options.keep && !args.foreground && !strcmp(args.operand, "/m"));
	CHECK(!strcmp(arguments_mount_options(&args), "fsname=store,rw,noatime"));
	/* its own word, and ours */
	CHECK(!call_mount("s /m", ",group,group=7") && args.group == 7);
	CHECK(!strcmp(arguments_mount_options(&args), "fsname=s"));
	CHECK(call_mount("s /m -f", "") == PROGRAM_EXIT && status == 0);
	CHECK(call_mount("s /m -f", ",pool=x") == PROGRAM_EXIT && status == PROGRAM_USAGE);
	CHECK(call_mount("s", "") == PROGRAM_EXIT && status == PROGRAM_USAGE);
	CHECK(call_mount("s,suid /m", "") == PROGRAM_EXIT && status == PROGRAM_USAGE);
	end();
}

int main(void)
{
	TEST(lines_of_a_file);
	TEST(lines_that_are_wrong);
	TEST(files);
	TEST(words_of_a_list);
	TEST(a_command_line);
	TEST(a_command_line_with_a_file);
	TEST(what_mount_calls);
	return 0;
}
