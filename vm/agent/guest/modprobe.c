/* SPDX-License-Identifier: MIT */
/*
 * modprobe.c - the kernel's modules for images that have none
 *
 * The kernel executes the program that /proc/sys/kernel/modprobe names when somebody mounts a filesystem, makes a
 * network device or opens a device for which it needs a module. Here that is the agent's own program under another
 * name, which takes no memory: /run/sbx/bin/modprobe, for people too. It looks into the host's file of modules
 * (mkmodules has its form), reads what is to be loaded, piece by piece by way of the agent (relay.c), and loads it
 * from memory. An image that has modules for this kernel, and a modprobe, uses those.
 */
#include "vm/agent/guest/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <unistd.h>

#define RUN "/run/sbx"

static const char program[] = RUN "/bin/modprobe", ask_socket[] = RUN "/modules";
static const char kmod_conf[] = "/run/modprobe.d/sbx.conf";
static const char *const own[] = { "/sbin/modprobe", "/usr/sbin/modprobe" };

enum {
	ANSWER_MS = 20000, /* a machine that is captured meanwhile asks again */
	INDEX_MAX = 4 << 20,
	MODULE_MAX = 32 << 20,
	LOADS_MAX = 64, /* of one call; nf_tables with all it needs is 12 */
	NAME_LEN = 64,
};

/* ---- in the agent */

/* What is opened to make the kernel load its module: there before it, as depmod's modules.devname says. */
static void make_nodes(void)
{
	static const struct {
		const char *path;
		mode_t mode;
		unsigned minor; /* of major 10 */
	} nodes[] = {
		{ "/dev/fuse", 0666, 229 },
		{ "/dev/net/tun", 0666, 200 },
		{ "/dev/loop-control", 0660, 237 },
		{ "/dev/mapper/control", 0600, 236 },
	};
	size_t i;

	mkdir("/dev/net", 0755);
	mkdir("/dev/mapper", 0755);
	for (i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++)
		(void)mknod(nodes[i].path, S_IFCHR | nodes[i].mode, makedev(10, nodes[i].minor));
}

int modprobe_offer(void)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	char exe[32];
	mode_t mask;
	int rc, fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	mkdir(RUN, 0755);
	mkdir(RUN "/bin", 0755);
	snprintf(exe, sizeof(exe), "/proc/%d/exe", getpid());
	snprintf(at.sun_path, sizeof(at.sun_path), "%s", ask_socket);
	unlink(at.sun_path);
	mask = umask(077);
	rc = bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0 || symlink(exe, program) < 0 ? -errno : 0;
	umask(mask);
	if (!rc)
		rc = write_file("/proc/sys/kernel/modprobe", 0, program);
	if (rc) {
		close(fd);
		return rc;
	}
	make_nodes();
	return fd;
}

/* ---- the file of modules */

struct module_pack {
	int fd;
	uint64_t which;
	char *index;   /* lines, terminated */
	uint64_t base; /* where its modules are */
};

static int connect_agent(struct err *err)
{
	const struct sockaddr_un any = { .sun_family = AF_UNIX };
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", ask_socket);
	/* The name that the kernel gives it is where the answer goes. */
	if (fd < 0 || bind(fd, (const struct sockaddr *)&any, sizeof(any.sun_family)) < 0 ||
	    connect(fd, (const struct sockaddr *)&to, sizeof(to)) < 0) {
		err_sys(err, -errno, "cannot ask the agent");
		if (fd >= 0)
			close(fd);
		return err->code;
	}
	return fd;
}

/* Up to PROTO_READ_BEST bytes; how many, or a negative errno. -ESTALE: of another file than before. */
static ssize_t read_piece(struct module_pack *pack, uint64_t offset, void *p, size_t n, struct err *err)
{
	static uint8_t answer[PROTO_READ_BEST + 64];
	struct pollfd pfd = { .fd = pack->fd, .events = POLLIN };
	struct buf ask = { 0 };
	struct reader r;
	uint64_t which;
	ssize_t got;
	int code;

	buf_put_u64(&ask, offset);
	buf_put_u32(&ask, (uint32_t)n);
	got = ask.failed ? -1 : send(pack->fd, buf_bytes(&ask), ask.len, 0);
	buf_release(&ask);
	if (got < 0)
		return err_sys(err, -errno, "cannot ask the agent");
	if (poll(&pfd, 1, ANSWER_MS) <= 0)
		return err_set(err, -ETIMEDOUT, "the host does not answer");
	got = recv(pack->fd, answer, sizeof(answer), 0);
	if (got < 0)
		return err_sys(err, -errno, "cannot hear the agent");
	r = reader_init(answer, (size_t)got);
	code = (int)get_u32(&r);
	which = get_u64(&r);
	if (r.bad || reader_left(&r) > n)
		return err_set(err, -EPROTO, "the host's answer is malformed");
	if (code)
		return err_sys(err, -code, "the host's file of modules");
	if (pack->which && pack->which != which)
		return err_set(err, -ESTALE, "the host's modules are others now");
	pack->which = which;
	memcpy(p, r.p, reader_left(&r));
	return (ssize_t)reader_left(&r);
}

static int read_all(struct module_pack *pack, uint64_t offset, void *p, size_t n, struct err *err)
{
	size_t done;
	ssize_t got;

	for (done = 0; done < n; done += (size_t)got) {
		got = read_piece(pack, offset + done, (char *)p + done,
				 n - done < PROTO_READ_BEST ? n - done : PROTO_READ_BEST, err);
		if (got < 0)
			return (int)got;
		if (!got)
			return err_set(err, -EIO, "the host's file of modules is cut short");
	}
	return 0;
}

static int open_pack(struct module_pack *pack, const char *release, struct err *err)
{
	char line[256] = "", of[66] = "", *end;
	unsigned long size = 0;
	ssize_t n;
	int rc;

	pack->fd = connect_agent(err);
	if (pack->fd < 0)
		return pack->fd;
	n = read_piece(pack, 0, line, sizeof(line) - 1, err);
	if (n < 0)
		return (int)n;
	end = strchr(line, '\n');
	if (!end || sscanf(line, "sbx-modules 1 %65s %lu ", of, &size) != 2 || size > INDEX_MAX)
		return err_set(err, -EPROTO, "the host has no modules");
	if (strcmp(of, release) != 0)
		return err_set(err, -ENOENT, "the host has modules for Linux %s, and this is %s", of,
			       release);
	pack->base = (uint64_t)(end + 1 - line) + size;
	pack->index = malloc(size + 1);
	if (!pack->index)
		return err_sys(err, -ENOMEM, "the index of modules");
	rc = read_all(pack, pack->base - size, pack->index, size, err);
	pack->index[rc ? 0 : size] = '\0';
	return rc;
}

static void close_pack(struct module_pack *pack)
{
	if (pack->fd >= 0)
		close(pack->fd);
	free(pack->index);
	*pack = (struct module_pack){ .fd = -1 };
}

/* ---- names */

/* The kernel, people and files write - or _ as they like. */
static void take_name(char ret[NAME_LEN], const char *name)
{
	char *p;

	snprintf(ret, NAME_LEN, "%s", name);
	for (p = ret; *p; p++)
		if (*p == '-')
			*p = '_';
}

/* Aliases of what needs no hardware have * and no other pattern. */
static bool matches(const char *pattern, size_t n, const char *name)
{
	for (; n && *pattern != '*'; pattern++, n--, name++)
		if (*name != *pattern)
			return false;
	if (!n)
		return !*name;
	do
		if (matches(pattern + 1, n - 1, name))
			return true;
	while (*name++);
	return false;
}

static const char *next_line(const char *line)
{
	line += strcspn(line, "\n");
	return *line ? line + 1 : line;
}

/* "m NAME ", or NULL. */
static const char *find_module(const struct module_pack *pack, const char *name, size_t n)
{
	const char *line;

	for (line = pack->index; *line; line = next_line(line))
		if (line[0] == 'm' && line[1] && !strncmp(line + 2, name, n) && line[2 + n] == ' ')
			return line;
	return NULL;
}

/* ---- what is to be loaded */

struct load {
	char name[NAME_LEN];
	void *data;
	size_t size;
};

struct loads {
	struct load load[LOADS_MAX];
	size_t n;
};

static bool is_there(const char *name)
{
	char path[96];

	snprintf(path, sizeof(path), "/sys/module/%s", name);
	return !access(path, F_OK);
}

static bool is_planned(const struct loads *loads, const char *name)
{
	size_t i;

	for (i = 0; i < loads->n && strcmp(loads->load[i].name, name) != 0; i++)
		;
	return i < loads->n;
}

static int plan_one(struct module_pack *pack, struct loads *loads, const char *line, struct err *err)
{
	struct load *load = &loads->load[loads->n];
	unsigned long long offset;
	char name[NAME_LEN];

	if (sscanf(line, "m %63s %llu %zu", name, &offset, &load->size) != 3 || load->size > MODULE_MAX)
		return err_set(err, -EPROTO, "the host's index of modules is malformed");
	if (is_there(name) || is_planned(loads, name))
		return 0;
	if (loads->n == LOADS_MAX)
		return err_set(err, -E2BIG, "%s needs too many modules", name);
	memcpy(load->name, name, sizeof(name));
	load->data = malloc(load->size + 1);
	if (!load->data)
		return err_sys(err, -ENOMEM, "the module %s", name);
	loads->n++;
	return read_all(pack, pack->base + offset, load->data, load->size, err);
}

/* A module, after those that it needs: the words of its line from the fourth on. */
static int plan(struct module_pack *pack, struct loads *loads, const char *line, struct err *err)
{
	const char *word = line, *end = line + strcspn(line, "\n"), *needed;
	size_t n, i;
	int rc = 0;

	for (i = 0; word < end && !rc; i++, word += n + (word[n] == ' ')) {
		n = strcspn(word, " \n");
		needed = i < 4 ? NULL : find_module(pack, word, n);
		if (needed)
			rc = plan_one(pack, loads, needed, err);
	}
	return rc ? rc : plan_one(pack, loads, line, err);
}

/* By its name, or all that have such an alias. */
static int plan_name(struct module_pack *pack, struct loads *loads, const char *name, struct err *err)
{
	const char *line = find_module(pack, name, strlen(name)), *module;
	size_t n;
	int rc = 0;
	bool found = line;

	if (line)
		return plan(pack, loads, line, err);
	for (line = pack->index; *line && !rc; line = next_line(line)) {
		n = line[0] == 'a' && line[1] ? strcspn(line + 2, " \n") : 0;
		if (!n || line[2 + n] != ' ' || !matches(line + 2, n, name))
			continue;
		module = line + 2 + n + 1;
		module = find_module(pack, module, strcspn(module, "\n"));
		found |= module != NULL;
		rc = module ? plan(pack, loads, module, err) : 0;
	}
	return rc || found || is_there(name) ? rc : err_set(err, -ENOENT, "no module %s", name);
}

static int load_all(const struct loads *loads, const char *name, const char *parameters, struct err *err)
{
	const struct load *load = loads->load;
	size_t i;

	for (i = 0; i < loads->n; i++, load++)
		if (syscall(SYS_init_module, load->data, load->size,
			    strcmp(load->name, name) ? "" : parameters) < 0 &&
		    errno != EEXIST)
			return err_sys(err, -errno, "cannot load %s", load->name);
	return 0;
}

static void free_loads(struct loads *loads)
{
	while (loads->n)
		free(loads->load[--loads->n].data);
}

/* ---- others' modprobe */

/* One that has modules of its own for this kernel, and is not just asking us. */
static void let_image(const char *release, char **argv)
{
	char path[128];
	size_t i;

	snprintf(path, sizeof(path), "/lib/modules/%.65s/modules.dep", release);
	if (getenv("MODPROBE_MODULE") || access(path, R_OK))
		return;
	for (i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		if (!access(own[i], X_OK)) {
			argv[0] = (char *)own[i];
			execv(own[i], argv);
		}
}

/* kmod's modprobe finds no modules in such an image: it is told to ask here for them. */
static void tell_kmod(const struct module_pack *pack)
{
	static const char tmp[] = "/run/modprobe.d/.sbx";
	const char *line;
	struct buf text = { 0 };
	int n;

	if ((access("/bin/kmod", X_OK) && access("/usr/bin/kmod", X_OK)) || !access(kmod_conf, F_OK))
		return;
	for (line = pack->index; *line; line = next_line(line)) {
		n = line[0] == 'm' && line[1] ? (int)strcspn(line + 2, " \n") : 0;
		if (n)
			buf_printf(&text, "install %.*s %s %.*s $CMDLINE_OPTS\n", n, line + 2, program, n,
				   line + 2);
	}
	buf_put_u8(&text, 0);
	mkdir("/run/modprobe.d", 0755);
	if (!text.failed && !write_file(tmp, O_CREAT | O_TRUNC, (const char *)buf_bytes(&text)))
		(void)rename(tmp, kmod_conf);
	buf_release(&text);
}

/* ---- the program */

static int load(const char *name, const char *parameters, const char *release, struct err *err)
{
	struct module_pack pack = { .fd = -1 };
	struct loads loads = { .n = 0 };
	int rc = open_pack(&pack, release, err);

	if (!rc) {
		tell_kmod(&pack);
		rc = plan_name(&pack, &loads, name, err);
	}
	close_pack(&pack);
	/* What a module asks the kernel for while it is loaded comes to another process of ours. */
	if (!rc)
		rc = load_all(&loads, name, parameters, err);
	free_loads(&loads);
	return rc;
}

static int load_named(const char *word, const char *parameters, const char *release, struct err *err)
{
	char name[NAME_LEN];
	int rc, tries;

	take_name(name, word);
	/* A fork may be served by a host that has other files. */
	for (rc = -ESTALE, tries = 0; rc == -ESTALE && tries < 3; tries++)
		rc = load(name, parameters, release, err);
	return rc;
}

static void add_word(char *text, size_t size, const char *word)
{
	const size_t n = strlen(text);

	snprintf(text + n, size - n, "%s%s", n ? " " : "", word);
}

int modprobe_main(int argc, char **argv)
{
	bool quiet = false, all = false;
	char parameters[1024] = "";
	struct utsname uts;
	struct err err = { 0 };
	int c, i, status = 0;

	uname(&uts);
	let_image(uts.release, argv);
	while ((c = getopt(argc, argv, "+qabsv")) >= 0) {
		quiet |= c == 'q';
		all |= c == 'a';
		if (c == '?')
			return 1;
	}
	if (optind == argc) {
		fprintf(stderr,
			"usage: modprobe [-q] MODULE [PARAMETER=VALUE...] | modprobe [-q] -a MODULE...\n");
		return 1;
	}
	for (i = optind + 1; i < argc && !all; i++)
		add_word(parameters, sizeof(parameters), argv[i]);
	for (i = optind; i < (all ? argc : optind + 1); i++) {
		if (!load_named(argv[i], parameters, uts.release, &err))
			continue;
		status = 1;
		if (!quiet)
			fprintf(stderr, "modprobe: %s: %s\n", argv[i], err.text);
	}
	return status;
}
