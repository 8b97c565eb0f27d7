/* SPDX-License-Identifier: MIT */
/*
 * test_jail.c - a program that attacks what is around it, in the launcher's jails
 *
 * tests/hostile/vmm.c stands in for sbx-vmm, and once for QEMU. Everything is done twice where this is root: with user ids of
 * the range, and as an ordinary user, in a user namespace.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/hostile_programs.h"
#include "tests/unit/unit.h"
#include "util/io.h"
#include "util/loop.h"
#include "vm/jail/jail.h"
#include "vm/process.h"

enum { NOBODY = 65534, WAIT_MS = 20000 };

static char dir[] = "/tmp/sbx-test-jail-XXXXXX";
static char kernel[PATH_MAX], vmm[PATH_MAX], qemu[PATH_MAX];
static struct loop *loop;
static bool users; /* as an ordinary user */
static enum jail_kind kind = JAIL_VMM;

static struct jail_config config = { .uid_first = JAIL_UID_FIRST,
				     .uid_last = JAIL_UID_LAST,
				     .libexec = dir,
				     .kernel = kernel,
				     .initrd = kernel };

struct ended {
	bool yes;
	int status;
	char why[ERR_TEXT_MAX];
};

static void on_exit_process(void *arg, int status, const char *why)
{
	struct ended *ended = arg;

	ended->yes = true;
	ended->status = status;
	snprintf(ended->why, sizeof(ended->why), "%s", why);
}

static struct process *spawn(struct ended *ended, const int *keep, unsigned nkeep, const char *const *args)
{
	const struct process_spec spec = {
		.kind = kind, .args = args, .keep = keep, .nkeep = nkeep, .stdin_fd = -1
	};
	struct process *process;
	struct err err;

	*ended = (struct ended){ 0 };
	if (process_spawn(loop, &spec, on_exit_process, ended, &process, &err)) {
		fprintf(stderr, "%s\n", err.text);
		exit(1);
	}
	return process;
}

static void wait_for(struct ended *ended)
{
	const uint64_t give_up = now_mono_ns() + WAIT_MS * 1000000ull;

	while (!ended->yes && now_mono_ns() < give_up)
		CHECK(!loop_once(loop, 100));
	CHECK(ended->yes);
}

/* An attack, all of whose attempts must fail. */
static void must_fail(const int *keep, unsigned nkeep, const char *const *args)
{
	struct ended ended;

	spawn(&ended, keep, nkeep, args);
	wait_for(&ended);
	if (ended.status)
		fprintf(stderr, "attack %s: it %s\n", args[0], ended.why);
	CHECK(!ended.status);
}

#define ATTACK(...) must_fail(NULL, 0, (const char *const[]){ __VA_ARGS__, NULL })

/* ---- attacks */

static void it_finds_no_files(void)
{
	ATTACK("files", vmm, "/dev/kvm");
}

static void it_opens_no_layer_of_another(void)
{
	char layer[PATH_MAX];
	int fd;

	/* Open to all: it is not permissions that hold it back. */
	snprintf(layer, sizeof(layer), "%s/layer.qcow2", dir);
	fd = open(layer, O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
	CHECK(fd >= 0 && !fchmod(fd, 0666));
	close(fd);
	ATTACK("paths", layer, kernel);
	CHECK(!unlink(layer));
}

static void it_reaches_no_other_process(void)
{
	struct ended neighbour;
	struct process *process = spawn(&neighbour, NULL, 0, (const char *const[]){ "sleep", NULL });
	char self[16], other[16], victim[16];
	/* With the daemon's own id: in a user namespace it is the attacker's, too. */
	const pid_t pid = fork();

	if (!pid)
		for (;;)
			pause();
	CHECK(pid > 0);
	snprintf(self, sizeof(self), "%d", getpid());
	snprintf(other, sizeof(other), "%d", process_pid(process));
	snprintf(victim, sizeof(victim), "%d", pid);
	ATTACK("processes", self, other, victim);
	CHECK(!waitpid(pid, NULL, WNOHANG) && !neighbour.yes);
	CHECK(!kill(pid, SIGKILL) && waitpid(pid, NULL, 0) == pid);
	process_kill(process, SIGKILL);
	wait_for(&neighbour);
	CHECK(WIFSIGNALED(neighbour.status) && strstr(neighbour.why, "killed by signal 9"));
}

static void it_has_no_network(void)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	socklen_t size = sizeof(in);
	char port[16], name[64];
	int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int local = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(!bind(tcp, (struct sockaddr *)&in, sizeof(in)) && !listen(tcp, 5));
	CHECK(!getsockname(tcp, (struct sockaddr *)&in, &size));
	snprintf(port, sizeof(port), "%u", ntohs(in.sin_port));
	snprintf(name, sizeof(name), "sbx-test-jail-%d", getpid());
	memcpy(un.sun_path + 1, name, strlen(name));
	size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
	CHECK(!bind(local, (struct sockaddr *)&un, size) && !listen(local, 5));
	ATTACK("network", port, name);
	close(tcp);
	close(local);
}

static void it_gains_no_privileges(void)
{
	char uid[16];

	snprintf(uid, sizeof(uid), "%u", getuid());
	ATTACK("privileges", users ? uid : "-");
}

static void it_has_what_it_was_given(void)
{
	const int keep[] = { open("/dev/null", O_RDONLY | O_CLOEXEC), open("/dev/null", O_RDONLY) };
	int inherited = open("/etc/passwd", O_RDONLY); /* somebody forgot O_CLOEXEC */

	CHECK(inherited >= 0);
	must_fail(keep, 2, (const char *const[]){ "leftovers", "2", NULL });
	close(inherited);
	close(keep[0]);
	close(keep[1]);
}

/* A pipe's other end that it keeps tells whether anything of it still lives. */
static void it_leaves_no_orphan(void)
{
	struct ended ended;
	struct process *process;
	int ends[2];
	char byte;

	CHECK(!pipe2(ends, O_CLOEXEC));
	process = spawn(&ended, &ends[1], 1, (const char *const[]){ "orphan", NULL });
	close(ends[1]);
	CHECK(read(ends[0], &byte, 1) == 1); /* the orphan lives */
	process_kill(process, SIGKILL);
	wait_for(&ended);
	/* The process is not over before its children are. */
	CHECK(poll(&(struct pollfd){ .fd = ends[0], .events = POLLIN }, 1, 0) == 1);
	CHECK(read(ends[0], &byte, 1) == 0);
	close(ends[0]);
}

static void its_log_is_bounded_and_plain(void)
{
	struct ended ended;
	const char *c;

	spawn(&ended, NULL, 0, (const char *const[]){ "log", NULL });
	wait_for(&ended);
	CHECK(!ended.status);
	for (c = ended.why; *c; c++)
		CHECK(*c >= ' ' && *c <= '~');
	CHECK(strstr(ended.why, "exited with status 0: ?[31mred"));
}

static void it_has_no_pages_that_can_be_waited_for(void)
{
	ATTACK("waits");
}

/* Whoever has its descriptors last, the daemon for one, closes them at once. */
static void its_sockets_do_not_linger(void)
{
	static const enum jail_kind kinds[] = { JAIL_VMM, JAIL_QEMU, JAIL_NET };
	const int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		kind = kinds[i];
		must_fail(&tcp, 1, (const char *const[]){ "lingers", NULL });
	}
	kind = JAIL_VMM;
	close(tcp);
}

/* What is kept with a process is closed when it has ended, and not when it is let go of. */
static void what_is_kept_with_it_is_closed_after_it(void)
{
	struct ended ended;
	struct process *process = spawn(&ended, NULL, 0, (const char *const[]){ "sleep", NULL });
	int ends[2];

	CHECK(*process_keeps(process) == -1 && !pipe2(ends, O_CLOEXEC));
	*process_keeps(process) = ends[1];
	process_abandon(process);
	CHECK(!fd_ready(ends[0], 0, 0));
	process_reap_abandoned();
	CHECK(fd_ready(ends[0], 0, 0));
	close(ends[0]);
}

/* In QEMU's place: behind an allow-list, and with files of the guest's in its jail. */
static void in_qemus_place_it_has_no_more(void)
{
	const int keep[] = { open("/dev/null", O_RDONLY | O_CLOEXEC) };
	char self[16];

	kind = JAIL_QEMU;
	snprintf(self, sizeof(self), "%d", getpid());
	ATTACK("calls");
	ATTACK("waits", "but for a userfaultfd");
	ATTACK("files", qemu, "/dev/kvm", JAIL_KERNEL, JAIL_INITRD);
	ATTACK("paths", kernel, vmm);
	ATTACK("processes", self);
	it_has_no_network();
	it_gains_no_privileges();
	must_fail(keep, 1, (const char *const[]){ "leftovers", "1", NULL });
	its_log_is_bounded_and_plain();
	close(keep[0]);
	kind = JAIL_VMM;
}

static void each_has_an_id_of_its_own(void)
{
	struct ended one, two;

	if (users)
		return; /* an ordinary user has one */
	spawn(&one, NULL, 0, (const char *const[]){ "uid", NULL });
	spawn(&two, NULL, 0, (const char *const[]){ "uid", NULL });
	wait_for(&one);
	wait_for(&two);
	CHECK(strstr(one.why, "uid 19") && strstr(two.why, "uid 19"));
	CHECK(strcmp(one.why, two.why) != 0);
}

/* All that was started ends with the launcher, however that ends. */
static void everything_ends_with_the_launcher(void)
{
	struct ended ended;
	struct process *process = spawn(&ended, NULL, 0, (const char *const[]){ "sleep", NULL });

	(void)process;
	launcher_stop();
	wait_for(&ended);
	CHECK(ended.status == SIGKILL);
	CHECK(!launcher_start(&config, NULL));
}

/* Our only child. */
static pid_t the_launcher(void)
{
	char path[64];
	FILE *children;
	int pid;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
	children = fopen(path, "re");
	CHECK(children && fscanf(children, "%d", &pid) == 1);
	fclose(children);
	return pid;
}

static uint64_t ms_since(uint64_t start)
{
	return (now_mono_ns() - start) / 1000000;
}

static int try_spawn(const int *keep, unsigned nkeep, struct err *err)
{
	const struct process_spec spec = { .kind = JAIL_VMM,
					   .args = (const char *const[]){ "sleep", NULL },
					   .keep = keep,
					   .nkeep = nkeep,
					   .stdin_fd = -1 };
	struct process *process;

	return process_spawn(loop, &spec, on_exit_process, NULL, &process, err);
}

/* It was stopped: who asks is told so, and nothing that was asked meanwhile is lost, or stays. */
static void a_launcher_that_stands_still_is_waited_for_once(void)
{
	const pid_t launcher = the_launcher();
	uint64_t start = now_mono_ns();
	struct ended old, new;
	struct process *process;
	struct err err;
	int ends[2];
	char byte;

	if (users)
		return; /* the next is theirs: both wait for seconds */
	process = spawn(&old, NULL, 0, (const char *const[]){ "sleep", NULL });
	CHECK(!pipe2(ends, O_CLOEXEC) && !kill(launcher, SIGSTOP));
	CHECK(try_spawn(&ends[1], 1, &err) == -ETIMEDOUT && strstr(err.text, "launcher does not answer"));
	close(ends[1]);
	CHECK(ms_since(start) >= 4900);
	start = now_mono_ns();
	CHECK(try_spawn(NULL, 0, &err) == -ETIMEDOUT);
	process_kill(process, SIGKILL);
	CHECK(ms_since(start) < 2000 && !loop_once(loop, 50) && !old.yes);
	CHECK(!kill(launcher, SIGCONT));
	wait_for(&old);
	CHECK(WIFSIGNALED(old.status));
	process = spawn(&new, NULL, 0, (const char *const[]){ "sleep", NULL });
	/* What it started for the first request after all is gone. */
	CHECK(read(ends[0], &byte, 1) == 0);
	close(ends[0]);
	process_kill(process, SIGKILL);
	wait_for(&new);
	CHECK(WIFSIGNALED(new.status) && strstr(new.why, "killed by signal 9"));
}

/* No signal is lost: where there is no more room for them, all ends. */
static void a_launcher_that_takes_no_more_is_hung_up_on(void)
{
	const pid_t launcher = the_launcher();
	struct process *process;
	struct ended ended;
	unsigned n;

	if (!users)
		return;
	process = spawn(&ended, NULL, 0, (const char *const[]){ "sleep", NULL });
	CHECK(!kill(launcher, SIGSTOP));
	for (n = 0; n < 100000 && !fd_ready(launcher_fd(), 0, 0); n++)
		process_kill(process, SIGCONT);
	CHECK(n >= 50 && n < 100000);
	launcher_stop(); /* it is killed, and not waited for again */
	CHECK(kill(launcher, 0) < 0 && errno == ESRCH);
	wait_for(&ended);
	CHECK(!launcher_start(&config, NULL));
}

/* ---- jails that cannot be made */

static int in_child(int (*run)(void))
{
	const pid_t pid = fork();
	int status;

	if (!pid)
		_exit(run());
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool put(const char *path, const char *text)
{
	const int fd = open(path, O_WRONLY | O_CLOEXEC);
	const bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

/* An ordinary user where there are no user namespaces to be had. */
static int without_userns(void)
{
	struct err err = { 0 };
	char map[64];
	const unsigned uid = geteuid();

	snprintf(map, sizeof(map), "%u %u 1", uid, uid);
	if (unshare(CLONE_NEWUSER) < 0 || !put("/proc/self/uid_map", map) ||
	    !put("/proc/sys/user/max_user_namespaces", "0") || (!uid && setresuid(uid, uid, uid)))
		return 2;
	if (!launcher_start(&config, &err))
		return 3;
	return strstr(err.text, "user namespaces are not to be had") && strstr(err.text, "--jail=none") ? 0
													: 4;
}

static void without_namespaces_it_does_not_start(void)
{
	if (!users)
		return;
	CHECK(!in_child(without_userns));
}

static int with_unmapped_ids(void)
{
	struct err err = { 0 };

	if (unshare(CLONE_NEWUSER) < 0 || !put("/proc/self/setgroups", "deny") ||
	    !put("/proc/self/uid_map", "0 0 1") || !put("/proc/self/gid_map", "0 0 1"))
		return 2;
	if (!launcher_start(&config, &err))
		return 3;
	return strstr(err.text, "--jail-uids") ? 0 : 4;
}

static void without_its_ids_it_does_not_start(void)
{
	if (users)
		return;
	CHECK(!in_child(with_unmapped_ids));
}

static void a_program_that_is_not_there_says_so(void)
{
	const struct process_spec spec = { .kind = JAIL_BROWSE,
					   .args = (const char *const[]){ NULL },
					   .stdin_fd = -1 };
	struct process *process;
	struct err err = { 0 };

	CHECK(process_spawn(loop, &spec, on_exit_process, NULL, &process, &err) == -ENOENT);
	CHECK(strstr(err.text, "sbx-browse"));
}

/* ---- */

static void run_all(void)
{
	struct err err = { 0 };

	loop = loop_new();
	CHECK(loop);
	if (launcher_start(&config, &err))
		fprintf(stderr, "%s\n", err.text);
	CHECK(!err.code && launcher_jails());
	CHECK(!strcmp(launcher_mode(), users ? "userns" : "uids"));
	TEST(it_finds_no_files);
	TEST(it_opens_no_layer_of_another);
	TEST(it_reaches_no_other_process);
	TEST(it_has_no_network);
	TEST(it_gains_no_privileges);
	TEST(it_has_what_it_was_given);
	TEST(it_has_no_pages_that_can_be_waited_for);
	TEST(its_sockets_do_not_linger);
	TEST(it_leaves_no_orphan);
	TEST(its_log_is_bounded_and_plain);
	TEST(what_is_kept_with_it_is_closed_after_it);
	TEST(in_qemus_place_it_has_no_more);
	TEST(each_has_an_id_of_its_own);
	TEST(everything_ends_with_the_launcher);
	TEST(a_launcher_that_stands_still_is_waited_for_once);
	TEST(a_launcher_that_takes_no_more_is_hung_up_on);
	TEST(without_namespaces_it_does_not_start);
	TEST(without_its_ids_it_does_not_start);
	TEST(a_program_that_is_not_there_says_so);
	launcher_stop();
	loop_free(loop);
}

static int run_as_user(void)
{
	if (!getuid() && (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
			  setresuid(NOBODY, NOBODY, NOBODY) < 0 || prctl(PR_SET_DUMPABLE, 1) < 0))
		return 1;
	users = true;
	run_all();
	return 0;
}

int main(void)
{
	scratch_dir(dir);
	hostile_programs(dir);
	snprintf(vmm, sizeof(vmm), "%s/sbx-vmm", dir);
	snprintf(kernel, sizeof(kernel), "%s/kernel", dir);
	snprintf(qemu, sizeof(qemu), "%s/" QEMU_PROGRAM, dir);
	sh_in(dir, "echo kernel > kernel && chmod 644 kernel");
	if (!getuid())
		run_all();
	CHECK(!in_child(run_as_user));
	return 0;
}
