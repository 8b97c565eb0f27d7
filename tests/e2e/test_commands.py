# SPDX-License-Identifier: MIT
"""Commands as programs meet them: their control files, streams and users."""
import errno
import os
import select
import signal
import subprocess
import sys
import time

import pytest

from harness import LAB, Sandbox, fails, fields, limit, poll_until, read, read_all, wait_gone, write

# ---- control files


def test_a_job_says_why(vm):
    """A job has an `error` of its own; the sandbox's is for the sandbox's verbs."""
    job = vm.job()
    with fails(errno.EINVAL, job / "error"):
        write(job / "tty", "maybe")
    assert "maybe" in read(job / "error") and read(vm / "error") == ""
    with fails(errno.EBUSY):
        job.ctl("kill")
    assert "pending" in read(job / "error")
    write(job / "tty", "0")
    assert read(job / "error") == ""
    job.start("/nosuch/program\0")
    job.wait()
    assert "/nosuch/program" in read(job / "error")


def test_stdin_that_was_not_opened_says_so(sbx, vm):
    job = vm.job("cat")
    with fails(errno.EPIPE, job / "error"):
        write(job / "stdin", "hello\n")
    assert "before" in read(job / "error") and "stdin" in read(job / "error")
    done = sbx.shell(f"echo hello > vm/exec/{job.path.name}/stdin", shell="bash")
    assert done.returncode == 1 and "Broken pipe" in done.stderr


@pytest.mark.parametrize("cmd", ["exit", "exec <&-; sleep 1000"])
def test_stdin_that_nobody_reads_says_so(vm, cmd):
    job = vm.job()
    fd = os.open(job / "stdin", os.O_WRONLY)
    job.start(cmd)
    with fails(errno.EPIPE, job / "error"):
        while True:
            os.write(fd, b"x" * 65536)
    assert "closed" in read(job / "error") or "ended" in read(job / "error")
    os.close(fd)


def test_stdin_after_its_end_says_so(vm):
    job = vm.job()
    fd = os.open(job / "stdin", os.O_WRONLY)
    job.start("cat; sleep 1000")
    job.ctl("eof")
    with fails(errno.EPIPE, job / "error"):
        os.write(fd, b"more")
    assert "end" in read(job / "error")
    os.close(fd)


def test_python_opens_run(vm):
    script = "f = open('run', 'r+'); f.write('echo one; echo two\\n'); f.flush(); print(f.read(), end='')"
    done = subprocess.run([sys.executable, "-c", script], cwd=vm.path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("one\ntwo\n", "")
    script = "f = open('run', 'r+b', buffering=0); f.write(b'echo one; echo two'); print(f.read().decode(), end='')"
    done = subprocess.run([sys.executable, "-c", script], cwd=vm.path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("one\ntwo\n", "")


@pytest.mark.parametrize("shell", ["bash", "dash", "busybox sh"])
def test_lines_of_run(sbx, vm, shell):
    """`read` takes a line and leaves the rest to the next, though the file has a position now."""
    script = "exec 3<>vm/run; echo 'seq 5' >&3; read a <&3; read b <&3; echo $a-$b; cat <&3"
    assert sbx.ok(script, shell=shell) == "1-2\n3\n4\n5\n"
    script = "exec 3<>vm/run; echo 'seq 20000' >&3; n=0; while read x <&3; do n=$((n+x)); done; echo $n"
    assert sbx.ok(script, shell=shell) == f"{20000 * 20001 // 2}\n"
    script = "exec 3<>vm/run; echo 'seq 5' >&3; head -n 2 <&3 > /dev/null; cat <&3"
    if shell == "bash":
        assert sbx.ok(script, shell=shell) == "3\n4\n5\n"


def test_going_back_in_run(vm):
    fd = os.open(vm / "run", os.O_RDWR)
    os.write(fd, b"seq 100000")
    start = os.lseek(fd, 0, os.SEEK_CUR)
    data = read_all(fd, 1000)
    assert data == b"".join(b"%d\n" % i for i in range(1, 100001))
    os.lseek(fd, -50000, os.SEEK_CUR)
    assert read_all(fd) == data[-50000:]
    os.lseek(fd, start, os.SEEK_SET)  # so far back nothing is kept: the end it is at
    assert os.read(fd, 100) == b""
    os.close(fd)


def test_programs_read_streams(sbx, vm, tmp_path):
    """cp, cat, dd and tee, to which a file of some size is one with content at offsets."""
    for command in "cp {0} {1}", "cat {0} > {1}", "dd if={0} of={1} bs=1000 2> /dev/null", "tee {1} < {0} > /dev/null", "busybox cp {0} {1}":
        job = vm.job("seq 30000")
        out = tmp_path / "out"
        sbx.ok(command.format(job / "stdout", out))
        assert out.read_text() == "".join(f"{i}\n" for i in range(1, 30001)), command
        job.forget()


def test_emptying_env(sbx, vm):
    write(vm / "env", "A=1\nB=2\n")
    for command in ": > vm/env", "truncate -s 0 vm/env", "> vm/env":
        sbx.ok("echo A=1 > vm/env")
        sbx.ok(command, shell="bash")
        assert read(vm / "env") == "", command
    assert vm.run("echo [$A]") == "[]\n"
    sbx.ok("echo A=1 > vm/env; echo B=2 >> vm/env")
    assert read(vm / "env") == "A=1\nB=2\n"
    assert sbx.shell("echo nonsense > vm/env").returncode != 0
    assert read(vm / "env") == "A=1\nB=2\n"  # what is refused changes nothing
    job = vm.job()
    write(job / "env", "C=3")
    sbx.ok(f": > vm/exec/{job.path.name}/env")
    assert read(job / "env") == ""
    job.start("echo [$C]")
    assert job.output() == b"[]\n"
    with fails(errno.EBUSY, job / "error"):
        os.truncate(job / "env", 0)


def test_polling_for_reading(vm):
    """POLLIN waits, as for anything else: it holds until the value was read, and again when it changed."""
    job = vm.job()
    stdin = os.open(job / "stdin", os.O_WRONLY)
    job.start("read x; exit 3")
    for path, change, value in (
        (job / "status", lambda: os.write(stdin, b"go\n"), b"exited 3\n"),
        (vm / "state", lambda: vm.ctl("pause"), b"paused\n"),
    ):
        fd = os.open(path, os.O_RDONLY)
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        assert poller.poll(limit(10) * 1000)  # nothing was read yet
        assert os.read(fd, 100) == b"running\n"
        assert poller.poll(100) == []
        assert select.select([fd], [], [], 0.1)[0] == []
        change()
        assert poller.poll(limit(10) * 1000)[0][1] & select.POLLIN
        os.lseek(fd, 0, os.SEEK_SET)
        assert os.read(fd, 100) == value
        assert poller.poll(100) == []
        os.close(fd)
    os.close(stdin)


# ---- users


REOPEN = """
echo to stdout > /dev/stdout && echo to stderr > /dev/stderr && echo tee | tee /dev/stderr > /dev/null && cat /dev/stdin
"""


def test_a_users_streams_can_be_opened(vm):
    for user in "nobody", "root", "65534":
        job = vm.job()
        write(job / "user", user)
        fd = os.open(job / "stdin", os.O_WRONLY)
        job.start(REOPEN)
        os.write(fd, b"to stdin\n")
        os.close(fd)
        assert (job.output(), read(job / "stderr")) == (b"to stdout\nto stdin\n", "to stderr\ntee\n"), user
        assert job.wait() == "exited 0"


def test_a_users_streams_without_stdin(vm):
    job = vm.job()
    write(job / "user", "nobody")
    job.start("echo out > /dev/stdout; cat /dev/stdin; echo err > /dev/stderr")
    assert (job.output(), read(job / "stderr")) == (b"out\n", "err\n")
    assert vm.run("stat -c '%u %a' /dev/null") == "0 666\n"  # that one is everybody's


def test_a_users_terminal_can_be_opened(vm):
    job = vm.job()
    write(job / "user", "nobody")
    write(job / "tty", "1")
    job.start("echo one > /dev/tty; echo two > $(tty); echo three > /dev/stderr; stat -c %U,%a $(tty)")
    assert job.output() == b"one\r\ntwo\r\nthree\r\nnobody,620\r\n"


# ---- long commands and environments

WORD_MAX = 131071  # MAX_ARG_STRLEN of Linux, without the NUL


def test_a_long_shell_line(vm):
    line = f"x={'y' * 100000}; echo ${{#x}}"
    assert vm.run(line) == "100000\n"
    assert vm.job(line).output() == b"100000\n"
    line = "echo " + "z" * (WORD_MAX - 5)
    assert vm.run(line) == "z" * (WORD_MAX - 5) + "\n"
    job = vm.job()
    with fails(errno.E2BIG, job / "error"):
        job.start(line + "z")
    assert str(WORD_MAX) in read(job / "error") and "stdin" in read(job / "error")
    with fails(errno.E2BIG, vm / "error"):
        vm.run(line + "z")
    assert job.status == "pending"
    job.start("echo still usable")
    assert job.output() == b"still usable\n"


def test_a_long_argv(vm):
    argv = ["sh", "-c", "echo $#; for x; do echo ${#x}; done | sort -u", "sh", *["a" * 100000] * 10]
    data = "".join(word + "\0" for word in argv).encode()
    assert 1000000 < len(data) < 255 * 4096
    job = vm.job(data)
    assert job.output() == b"10\n100000\n"
    assert read(job / "cmd").rstrip("\n") == data.decode()
    job = vm.job()
    with fails(errno.E2BIG, job / "error"):  # a word that Linux does not take
        job.start(b"echo\0" + b"b" * (WORD_MAX + 1) + b"\0")
    for size in 255 * 4096 + 1, 256 * 4096, 2 << 20, (2 << 20) + 7:  # in one piece, or in several
        with fails(errno.E2BIG, job / "error"):
            job.start(b"echo\0" + b"c" * 1000 * (size // 1000) + b"\0" * (size % 1000 or 1))
        assert job.status == "pending"


def test_a_long_environment(vm):
    job = vm.job()
    env = "".join(f"V{i}={'e' * 10000}\n" for i in range(100))
    write(job / "env", env)
    assert read(job / "env") == env
    job.start(b"sh\0-c\0env | grep -c '^V[0-9]*=e*$'; echo $1\0sh\0" + b"w" * 100000 + b"\0")
    assert job.output() == b"100\n" + b"w" * 100000 + b"\n"
    many = "".join(f"N{i}={i}\n" for i in range(60000))
    write((other := vm.job()) / "env", many)
    write(other / "env", many)
    assert read(other / "env") == many
    job = vm.job()
    with fails(errno.E2BIG, job / "error"):
        write(job / "env", "A=" + "x" * (255 * 4096))
    write(job / "env", "A=" + "x" * WORD_MAX)  # with its name more than a word
    with fails(errno.E2BIG, job / "error"):
        job.start("true")


def test_more_than_a_program_can_take(vm):
    """2 MiB, the pointers to all words included: the guest's kernel refuses, and it is said."""
    job = vm.job(b"true\0" + b"a\0" * 500000)
    assert job.wait().startswith("failed ") and "too long" in job.status
    assert read(job / "exit") == "126\n"


def test_a_fork_has_long_jobs(vm):
    """Jobs are listed to a fork in as many frames as they need."""
    argv = b"sleep\0001000\0" + (b"0" * 99999 + b"\0") * 9
    job = vm.job(argv)
    other = vm.job(f"sleep 1000; : {'x' * 100000}")
    fork = vm.fork("w")
    for name in job.path.name, other.path.name:
        assert read(fork / "exec" / name / "status") == "running\n"
        assert read(fork / "exec" / name / "cmd") == read(vm / "exec" / name / "cmd")


def test_commands_are_bounded_together(vm):
    """Jobs keep their commands for forks: at most 16 MiB of them."""
    jobs = []
    with fails(errno.ENOMEM):
        for _ in range(20):
            jobs.append(vm.job())
            jobs[-1].start(b"true\0" + (b"a" * 99999 + b"\0") * 10)
    assert 14 <= len(jobs) <= 17 and "rmdir" in read(jobs[-1] / "error")
    assert vm.run("echo still") == "still\n"
    for job in jobs[:2]:
        job.forget()
    jobs[-1].start(b"echo\0" + (b"a" * 99999 + b"\0") * 9)
    assert len(jobs[-1].output()) == 900000


# ---- values of environments


def test_values_with_newlines(sbx, vm):
    job = vm.job()
    data = b"A=one\ntwo\n\0B=\0C=  blanks  \0"
    write(job / "env", data)
    assert read(job / "env").encode() == data
    job.start('printf "[%s]" "$A" "$B" "$C"')
    assert job.output() == b"[one\ntwo\n][][  blanks  ]"
    write(vm / "env", b"A=one\ntwo\0")
    assert vm.run('echo "$A"') == "one\ntwo\n"
    sbx.ok("printf 'B=three\\nfour\\0' >> vm/env")
    assert vm.run('echo "$A $B"') == "one\ntwo three\nfour\n"
    sbx.ok("env -i X='a\nb' Y=c env -0 > vm/env")
    assert vm.run('echo "$X $Y"') == "a\nb c\n"
    fork = vm.fork("w")
    assert fork.run('echo "$X $Y"') == "a\nb c\n" and read(fork / "env") == read(vm / "env")
    with fails(errno.EINVAL, vm / "error"):
        write(vm / "env", "A=one\ntwo\n")
    assert "two" in read(vm / "error") and "NUL" in read(vm / "error")


def test_values_of_forks(sbx, vm):
    vm.ctl('fork w env.MSG="two  words" env.LINES="a\\nb\\t\\"c\\"\\\\" env.JSON={"a":1} env.EMPTY=')
    assert sbx.ok("cat vm/error") == ""
    run = harness_run(sbx, "w")
    assert run('printf "[%s]" "$MSG" "$LINES" "$JSON" "${EMPTY-unset}"') == '[two  words][a\nb\t"c"\\][{"a":1}][]'
    for bad, word in (
        ('fork x env.A="one', "quote"),
        ('fork x env.A="one"two', "quote"),
        ("fork x env.A=one\ntwo", "newline"),
        ("fork x env.1A=x", "variable"),
        ('fork x env.A="\\x"', "quote"),
    ):
        with fails(errno.EINVAL, vm / "error"):
            vm.ctl(bad)
        assert word in read(vm / "error"), bad
    assert not os.path.exists(sbx / "x")
    write(sbx / "ctl", 'create y memory_max=512M memory=256M env.A="b c\\nd"')
    assert harness_run(sbx, "y")('echo "$A"') == "b c\nd\n"


def harness_run(sbx, name):
    return Sandbox(sbx / name).run


def test_a_sandboxs_environment_is_bounded(vm):
    """All of it travels to a fork's hooks in one frame."""
    full = "".join(f"V{i:04}={'x' * 25}\n" for i in range(1024))  # 32 bytes each
    write(vm / "env", full)
    assert vm.fork("w").run("env | grep -c ^V") == "1024\n"
    for more in full + "A=\n", "A=" + "x" * 40000:
        with fails(errno.E2BIG, vm / "error"):
            write(vm / "env", more)
        assert "32768" in read(vm / "error")
    assert read(vm / "env") == full
    with fails(errno.E2BIG, vm / "error"):
        vm.ctl("fork x env.A=1")
    short = "".join(f"{a}{b}=\n" for a in "ABCDEFGHIJKLMNOPQRSTUVWXYZ_" for b in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
    write(vm / "env", short)
    assert vm.fork("x").run("env | grep -c '^[A-Z_][A-Z0-9_]=$'") == "999\n"


# ---- how commands end


def test_the_status_as_shells_have_it(vm):
    for cmd, code in (
        ("exit 7", 7),
        ("kill -TERM $$", 143),
        ("nosuchcommand", 127),
        ("/nosuch/program\0", 127),
        ("/etc/passwd\0", 126),
        ("/root\0", 126),
    ):
        job = vm.job()
        assert read(job / "exit") == ""
        job.start(cmd)
        job.wait()
        assert read(job / "exit") == f"{code}\n", cmd
    for name, text in ("user", "nosuchuser"), ("cwd", "/nosuch"):
        job = vm.job()
        write(job / name, text)
        job.start("true\0")
        assert job.wait().startswith("failed ") and read(job / "exit") == "125\n"


def test_run_ends_with_its_command(vm):
    start = time.monotonic()
    assert vm.run("sleep 1000 & echo started; echo too >&2") == "started\ntoo\n"
    assert vm.run("(sleep 0.5; echo late) & echo early; wait") == "early\nlate\n"
    assert time.monotonic() - start < limit(60)


def test_all_that_a_command_wrote_is_read(vm):
    """The end is where it was when the command ended, however much of it is still in the pipe."""
    out = vm.run("sleep 1000 & head -c 300000 /dev/zero | tr '\\0' x")
    assert out == "x" * 300000
    job = vm.job()
    write(job / "linger", "0")
    job.start("(while :; do echo more; sleep 0.01; done) & head -c 30000 /dev/zero")
    assert job.wait() == "exited 0"
    assert job.output().replace(b"more\n", b"").count(b"\0") == 30000
    assert read(job / "stderr") == ""


def test_what_is_left_in_the_background_goes_on(vm):
    """Its output goes nowhere when the job is forgotten: it neither stops nor dies of that."""
    vm.run("rm -f /run/alive; (trap '' HUP; i=0; while :; do echo noise $i; i=$((i+1)); echo $i > /run/alive; done) &")
    seen = int(vm.sh("until n=$(cat /run/alive) && [ -n \"$n\" ]; do sleep 0.05; done 2> /dev/null; echo $n"))
    vm.sh(f"until n=$(cat /run/alive) && [ \"${{n:-0}}\" -gt {seen + 5000} ]; do sleep 0.1; done 2> /dev/null")


def test_timeouts(vm):
    job = vm.job()
    write(job / "timeout", "1")
    start = time.monotonic()
    job.start("echo begun; sleep 1000 & sleep 1000")
    assert job.wait() == "failed it took longer than 1 s"
    assert time.monotonic() - start >= 1
    assert (job.output(), read(job / "exit")) == (b"begun\n", "124\n")
    vm.sh("while grep -qsxz 1000 /proc/[0-9]*/cmdline; do sleep 0.05; done")
    job = vm.job()
    for bad, code in ("soon", errno.EINVAL), ("-1", errno.EINVAL), ("1000000000", errno.ERANGE):
        with fails(code, job / "error"):
            write(job / "timeout", bad)
    write(job / "timeout", "100")
    job.start("true")
    assert job.wait() == "exited 0"


def test_a_timeout_needs_no_guest(vm):
    """A machine that is paused, or whose VMM stands still, does not keep anyone waiting."""
    for halt, go_on in (
        (lambda: vm.ctl("pause"), lambda: vm.ctl("resume")),
        (lambda: os.kill(vm.pid, signal.SIGSTOP), lambda: os.kill(vm.pid, signal.SIGCONT)),
    ):
        job = vm.job()
        write(job / "timeout", "2")
        job.start("sleep 1000")
        halt()
        assert job.wait() == "failed it took longer than 2 s"
        assert job.output() == b""
        go_on()
        vm.sh("while grep -qsxz 1000 /proc/[0-9]*/cmdline; do sleep 0.05; done")


def test_hold(sbx, vm):
    """A job that somebody holds ends with them, however they end."""
    job = vm.job()
    one, two = os.open(job / "hold", os.O_WRONLY), os.open(job / "hold", os.O_WRONLY)
    job.start("echo $$; exec sleep 1000")
    fd = os.open(job / "stdout", os.O_RDONLY)
    pid = int(os.read(fd, 100))
    os.close(fd)
    os.close(one)
    assert job.status == "running"
    os.close(two)
    assert os.listdir(vm / "exec") == []
    vm.sh(f"while kill -0 {pid} 2> /dev/null; do sleep 0.05; done")
    with subprocess.Popen(["sleep", "1000"], stdin=open_job(vm, "held")) as process:
        assert os.listdir(vm / "exec") == ["held"]
        process.kill()
    assert os.listdir(vm / "exec") == []


def open_job(vm, name):
    return open(vm.job(name=name) / "hold", "w")


def test_reading_everything_of_jobs_takes_nothing(sbx, vm):
    """grep -r and its like: the jobs stay, and so does what they wrote."""
    done = vm.job("echo one; echo two >&2", name="done")
    done.wait()
    running = vm.job("sleep 1000", name="running")
    pending = vm.job(name="pending")
    for name in "hold", "stdin":
        with fails(errno.EINVAL):
            os.open(pending / name, os.O_RDONLY)
    readers = {
        "cp -r vm/exec/done $W 2> /dev/null; cat $W/done/stdout $W/done/stderr": "one\ntwo\n",
        "grep -rs one vm/exec/done | sort": "vm/exec/done/cmd:echo one; echo two >&2\nvm/exec/done/stdout:one\n",
        "tar cf - vm/exec/done 2> /dev/null | tar xOf - vm/exec/done/exit": "0\n",
        "find vm/exec/done -name stdout -exec cat {} ';' -exec cat {} ';'": "one\none\n",
    }
    for command, shown in readers.items():
        assert sbx.shell(f"W=$(mktemp -d); {command}; rm -r $W").stdout == shown, command
    assert sorted(os.listdir(vm / "exec")) == ["done", "pending", "running"]
    for _ in range(2):
        assert done.output() == b"one\n" and read(done / "stderr") == "two\n"
    # Of one that runs `wait` and the output block, and nothing else does.
    assert sbx.shell("timeout 1 grep -rs sleep vm/exec/running --exclude=std* --exclude=wait").stdout == "vm/exec/running/cmd:sleep 1000\n"
    assert running.status == "running"
    assert pending.start("echo three").output() == b"three\n"
    running.forget()


def test_output_that_is_read_again(vm):
    """What was read to its end is kept, the last 64K of it; before that, it is a stream."""
    job = vm.job("echo one; read x; echo two")
    fd, late = os.open(job / "stdout", os.O_RDONLY), os.open(job / "stdout", os.O_RDONLY)
    other = vm.job("seq 30000")
    assert other.output() == (whole := b"".join(b"%d\n" % i for i in range(1, 30001)))
    assert other.output() == whole[-65536:]
    assert job.wait() == "exited 0" and read_all(fd) == b"one\ntwo\n"
    assert os.read(late, 100) == b""  # the other had it
    with open(job / "stdout", "rb", buffering=0) as again:
        assert [again.read(4), again.read(1000), again.read(1000)] == [b"one\n", b"two\n", b""]
    os.close(fd)
    os.close(late)
    many = [vm.job("seq 30000", name=f"many{i}") for i in range(33)]
    for one in many:
        assert one.output() == whole
    assert [len(one.output()) for one in many] == [0] + [65536] * 32  # 2 MiB of a sandbox
    for one in many[1:]:
        one.forget()
    assert many[0].output() == b"" and job.output() == b""

def test_killing_tells_whether_it_was_heard(vm):
    job = vm.job("sleep 1000")
    os.kill(vm.pid, signal.SIGSTOP)
    with fails(errno.ETIMEDOUT, job / "error"):
        job.ctl("kill")
    os.kill(vm.pid, signal.SIGCONT)
    assert job.wait() == "signaled 15"
    job = vm.job("sleep 1000")
    vm.ctl("pause")
    with fails(errno.EAGAIN, job / "error"):
        job.ctl("kill")
    assert "paused" in read(job / "error")


# ---- a VMM that stands still


def clock(fn):
    start = time.monotonic()
    fn()
    return time.monotonic() - start


@pytest.mark.parametrize("verb", ["pause", "snapshot", "checkpoint"])
def test_a_vmm_that_stands_still(vm, verb):
    """Nobody waits for it without an end; when it goes on, so does the machine, as if nothing had been asked."""
    os.kill(vm.pid, signal.SIGSTOP)
    with fails(errno.ETIMEDOUT, vm / "error"):
        vm.ctl(verb)
    assert str(vm.pid) in read(vm / "error")
    with fails(errno.EBUSY, vm / "error"):
        vm.ctl("pause")
    assert "stop" in read(vm / "error")
    os.kill(vm.pid, signal.SIGCONT)
    assert vm.run("echo goes on") == "goes on\n"
    poll_until(vm / "state", lambda text: text == "running", 10)
    deadline = time.monotonic() + limit(20)
    while True:  # until what was given up is undone
        try:
            vm.ctl("pause")
            break
        except OSError as e:
            assert e.errno == errno.EBUSY and time.monotonic() < deadline
    vm.ctl("resume")
    assert vm.run("echo and on") == "and on\n"
    assert os.listdir(vm / "snapshots") == []


def test_stop_ends_a_vmm_that_stands_still(vm):
    pid = vm.pid
    os.kill(pid, signal.SIGSTOP)
    with fails(errno.ETIMEDOUT, vm / "error"):
        vm.ctl("checkpoint")
    assert clock(lambda: vm.ctl("stop")) < limit(5)
    assert vm.state == "stopped"
    wait_gone(pid)


def test_a_paused_vmm_that_stands_still(vm):
    vm.ctl("pause")
    os.kill(vm.pid, signal.SIGSTOP)
    with fails(errno.ETIMEDOUT, vm / "error"):
        vm.ctl("resume")
    os.kill(vm.pid, signal.SIGCONT)
    poll_until(vm / "state", lambda text: text == "running", 20)
    assert vm.run("echo goes on") == "goes on\n"


# ---- a store that is full


def test_a_full_store_pauses_the_machine(small_store):
    """No write of the guest is lost: it waits, and is done when there is room."""
    mount, small = small_store
    vm = mount.create("vm")
    ballast = small / "ballast"
    room = os.statvfs(small).f_bavail * 4096
    ballast.write_bytes(b"\0" * max(room - (20 << 20), 0))
    job = vm.job("for i in 1 2 3 4; do dd if=/dev/urandom of=/root/f$i bs=1M count=8 2>/dev/null; md5sum < /root/f$i > /run/f$i; done; sync; echo synced $?")
    vm.wait_state("paused", seconds=60)
    for text in read(vm / "error"), mount.log:
        assert "vm" in text and "resume" in text and "room" in text
    assert fields(mount / "status")["stalled"] == "1"
    with fails(errno.EAGAIN, vm / "error"):
        vm.run("true")
    assert "full" in read(vm / "error")
    for verb in "snapshot", "checkpoint", "fork w":
        with fails(errno.ENOSPC, vm / "error"):
            vm.ctl(verb)
    # Still full: what the guest wrote is tried again, and stands again. Its agent may have said before that it goes on.
    try:
        vm.ctl("resume")
    except OSError as refusal:
        assert refusal.errno in ((errno.ENOSPC, errno.ETIMEDOUT) if LAB else (errno.ENOSPC,))
    vm.wait_state("paused", seconds=30)
    assert "room" in read(vm / "error")
    ballast.unlink()
    vm.ctl("resume")
    assert job.output() == b"synced 0\n" and job.wait() == "exited 0"
    vm.sh("echo 3 > /proc/sys/vm/drop_caches")
    assert vm.sh("for i in 1 2 3 4; do md5sum < /root/f$i | cmp - /run/f$i && echo same; done") == "same\n" * 4
    assert fields(mount / "status")["stalled"] == "0"
    vm.ctl("checkpoint")
    vm.remove()


def test_a_full_store_and_stop(small_store):
    mount, small = small_store
    vm = mount.create("vm")
    (small / "ballast").write_bytes(b"\0" * max(os.statvfs(small).f_bavail * 4096 - (4 << 20), 0))
    vm.job("dd if=/dev/urandom of=/root/f bs=1M count=30; sync")
    vm.wait_state("paused", seconds=60)
    vm.ctl("stop")
    assert vm.state == "stopped"
    vm.remove()
