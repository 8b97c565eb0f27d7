# SPDX-License-Identifier: MIT
"""Commands as programs meet them: their control files, streams and users."""
import errno
import os
import select
import subprocess
import sys

import pytest

from harness import fails, limit, read, read_all, write

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
