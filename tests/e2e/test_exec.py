# SPDX-License-Identifier: MIT
"""Commands in the guest: exec/ and run."""
import contextlib
import errno
import hashlib
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from harness import fails, limit, poll_until, read, read_all, value, write, write_all

MIB = 1 << 20


def background(fn, *args):
    """Runs fn in a thread; call the result to wait for what it returns."""
    box = []
    thread = threading.Thread(target=lambda: box.append(fn(*args)), daemon=True)
    thread.start()

    def join(seconds=60):
        thread.join(limit(seconds))
        assert box, "still running, or failed"
        return box[0]

    return join


# ---- run


def test_run(vm):
    assert vm.run("echo out; echo err >&2; echo $((6 * 7))") == "out\nerr\n42\n"


def test_run_in_every_shell(sbx, vm):
    for shell in "bash", "dash", "busybox sh":
        assert sbx.ok("exec 3<>vm/run; echo 'echo from the guest' >&3; cat <&3", shell=shell) == "from the guest\n"


def test_run_is_one_command_an_open(vm):
    fd = os.open(vm / "run", os.O_RDWR)
    os.write(fd, b"sleep 1000\n")
    with fails(errno.EBUSY):
        os.write(fd, b"true\n")
    os.close(fd)


def test_run_at_once(vm):
    """Opens of one file are channels of their own."""
    fds = [os.open(vm / "run", os.O_RDWR) for _ in range(8)]
    for i, fd in enumerate(fds):
        os.write(fd, f"echo number {i}\n".encode())
    for i, fd in reversed(list(enumerate(fds))):
        assert read_all(fd) == f"number {i}\n".encode()
        os.close(fd)


def test_closing_run_kills_the_command(vm):
    fd = os.open(vm / "run", os.O_RDWR)
    os.write(fd, b"echo $$; exec sleep 1000\n")
    pid = int(os.read(fd, 100))
    os.close(fd)
    vm.sh(f"while kill -0 {pid} 2> /dev/null; do sleep 0.05; done")


def test_reading_run_without_a_command(vm):
    fd = os.open(vm / "run", os.O_RDWR)
    assert os.read(fd, 100) == b""
    os.close(fd)


# ---- the life of a job


def test_job(vm):
    job = vm.job()
    assert job.status == "pending"
    job.start("echo out; echo err >&2; exit 7")
    assert job.output() == b"out\n"
    assert read(job / "stderr") == "err\n"
    assert job.wait() == "exited 7" and job.status == "exited 7"
    job.forget()
    assert not os.path.exists(job.path)


def test_job_by_mktemp(sbx, vm):
    script = "j=$(mktemp -d vm/exec/XXXXXX) && echo 'echo hi' > $j/cmd && cat $j/stdout && cat $j/wait && rmdir $j"
    for shell in "bash", "dash", "busybox sh":
        assert sbx.ok(script, shell=shell) == "hi\nexited 0\n"
    assert os.listdir(vm / "exec") == []


def test_argv_needs_no_shell(vm):
    job = vm.job("echo\0$HOME\0two  words\0")
    assert job.output() == b"$HOME two  words\n"


def test_a_command_that_is_not_there(vm):
    assert vm.job("nosuchcommand").wait() == "exited 127"
    job = vm.job("/nosuch/command\0")
    assert job.wait().startswith("failed ")
    assert job.output() == b""


def test_signals(vm):
    job = vm.job("kill -SEGV $$")
    assert job.wait() == "signaled 11"
    for verb, status in ("kill", "signaled 15"), ("kill KILL", "signaled 9"), ("kill 1", "signaled 1"), ("kill SIGINT", "signaled 2"):
        job = vm.job("exec sleep 1000")
        job.ctl(verb)
        assert job.wait() == status, verb


def test_kill_reaches_the_process_group(vm):
    job = vm.job("sleep 1000 & sleep 1000 & wait")
    job.ctl("kill KILL")
    assert job.output() == b""  # no child is left that holds it open
    assert job.wait() == "signaled 9"


def test_killing_what_has_ended(vm):
    job = vm.job("true")
    job.wait()
    with contextlib.suppress(OSError):
        job.ctl("kill")
    assert job.status == "exited 0"


def test_removing_a_job_kills_it(vm):
    job = vm.job("echo $$; exec sleep 1000")
    fd = os.open(job / "stdout", os.O_RDONLY)
    pid = int(os.read(fd, 100))
    blocked = background(lambda: errno_of(lambda: os.read(fd, 100)))
    job.forget()
    assert blocked() in (errno.ENODEV, 0)
    os.close(fd)
    vm.sh(f"while kill -0 {pid} 2> /dev/null; do sleep 0.05; done")


def errno_of(fn):
    try:
        fn()
    except OSError as e:
        return e.errno
    return 0


def test_names_of_jobs(vm):
    vm.job(name="a")
    with fails(errno.EEXIST):
        vm.job(name="a")
    for bad in ".x", "x" * 65, "a b":
        with fails(errno.EINVAL):
            vm.job(name=bad)
    vm.job(name="x" * 64)


def test_many_jobs(vm):
    jobs = [vm.job(f"echo {i}; exit {i}") for i in range(50)]
    for i, job in enumerate(jobs):
        assert job.output() == f"{i}\n".encode()
        assert job.wait() == f"exited {i}"


def test_orphans_keep_stdout_open(vm):
    """End of file comes when the last process has closed it, wait returns when the command ended."""
    job = vm.job("(sleep 0.5; echo late) & echo early")
    assert job.wait() == "exited 0"
    assert job.output() == b"early\nlate\n"


# ---- settings


def test_cwd_env_user(vm):
    write(vm / "env", "MACHINE=m\nBOTH=machine\n")
    job = vm.job()
    write(job / "cwd", "/usr\n")
    write(job / "env", "JOB=j\nBOTH=job\nSPACES=a  b\n")
    job.start('pwd; echo "$MACHINE $JOB $BOTH $SPACES $SBX_NAME"')
    assert job.output() == b"/usr\nm j job a  b vm\n"
    job = vm.job()
    write(job / "user", "nobody")
    job.start("id -un; id -u; touch /root/x")
    assert job.output().split() == [b"nobody", b"65534"]
    assert job.wait() == "exited 1"


def test_a_user_or_directory_that_is_not_there(vm):
    for name, text in ("user", "nosuchuser"), ("cwd", "/no/such/directory"):
        job = vm.job()
        write(job / name, text)
        with contextlib.suppress(OSError):
            job.start("true")
            assert job.wait().startswith("failed ")
        assert job.status.startswith("failed ")


def test_default_environment(vm):
    env = dict(line.split("=", 1) for line in vm.sh("env").splitlines())
    assert "/bin" in env["PATH"] and env["HOME"] == "/root" and env["SBX_NAME"] == "vm"


def test_tty(vm):
    job = vm.job()
    write(job / "tty", "1")
    fd = os.open(job / "stdin", os.O_WRONLY)
    job.start("tty; stty size; read line; echo got $line; sleep 1000")
    out = os.open(job / "stdout", os.O_RDONLY)
    text = os.read(out, 100)
    job.ctl("resize 33 99")
    os.write(fd, b"hello\n")
    while b"got hello\r\n" not in text:
        text += os.read(out, 1000)
    assert text.startswith(b"/dev/pts/")
    os.write(fd, b"\x03")  # the terminal turns ^C into SIGINT
    assert job.wait() == "signaled 2"
    os.close(fd)
    os.close(out)


def test_tty_resize(vm):
    job = vm.job()
    write(job / "tty", "1")
    job.start("trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.1; done")
    out = os.open(job / "stdout", os.O_RDONLY)
    text = os.read(out, 100)
    job.ctl("resize 33 99")
    assert text + read_all(out) == b"ready\r\n33 99\r\n"
    os.close(out)


# ---- streams


def test_stdin_follows_the_fifo_rule(vm):
    """The end comes when the last writer closes, not the first."""
    job = vm.job()
    one = os.open(job / "stdin", os.O_WRONLY)
    two = os.open(job / "stdin", os.O_WRONLY)
    job.start("cat")
    os.write(one, b"one\n")
    os.close(one)
    os.write(two, b"two\n")
    os.close(two)
    assert job.output() == b"one\ntwo\n"
    assert job.wait() == "exited 0"


def test_stdin_that_nobody_opened_is_empty(vm):
    job = vm.job("cat; echo end")
    assert job.output() == b"end\n"


def test_eof_by_verb(vm):
    job = vm.job()
    fd = os.open(job / "stdin", os.O_WRONLY)
    job.start("cat")
    os.write(fd, b"text")
    job.ctl("eof")
    assert job.output() == b"text"
    os.close(fd)


def test_writing_to_a_command_that_ended(vm):
    job = vm.job()
    fd = os.open(job / "stdin", os.O_WRONLY)
    job.start("true")
    job.wait()
    with fails(errno.EPIPE):
        write_all(fd, b"x" * MIB)
    os.close(fd)


def through(job, cmd, data):
    """What a command makes of its stdin."""
    stdin = os.open(job / "stdin", os.O_WRONLY)
    job.start(cmd)
    out = background(job.output)
    write_all(stdin, data)
    os.close(stdin)
    return out()


def test_binary_is_unchanged(vm):
    data = bytes(range(256)) * 64 + b"\r\n\0\x03\x04"
    assert through(vm.job(), "cat\0", data) == data


def test_a_mebibyte_through_cat_beside_ten_others(vm):
    data = random.Random(1).randbytes(MIB)
    others = [vm.job("while :; do echo busy; sleep 0.01; done") for _ in range(10)]
    reading = [os.open(other / "stdout", os.O_RDONLY) for other in others]
    job = vm.job()
    got = through(job, "cat", data)
    assert len(got) == MIB and hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    assert job.wait() == "exited 0"
    for fd in reading:
        assert os.read(fd, 5) == b"busy\n"
        os.close(fd)
    for other in others:
        other.forget()


def test_a_stalled_reader_stalls_only_its_own_job(vm):
    """Jobs that nobody reads stop in the guest; those that are read go on, and nothing is lost."""
    stalled = [vm.job("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo xxxxxxxxx") for _ in range(3)]
    stalled.append(vm.job("head -c 3000000 /dev/zero"))
    fd = os.open(stalled[3] / "stdout", os.O_RDONLY)  # opened, and never read for now
    assert vm.run("echo still quick") == "still quick\n"
    assert len(vm.job("head -c 1000000 /dev/zero").output()) == 1000000
    assert read(vm / "fs/etc/hostname") == "vm\n"
    assert stalled[3].status == "running"
    assert len(read_all(fd)) == 3000000
    os.close(fd)
    for job in stalled[:3]:
        lines = job.output().splitlines()
        assert lines[:3000] == [b"line %d" % i for i in range(3000)] and lines[3000:] == [b"xxxxxxxxx"]
    assert stalled[3].wait() == "exited 0"


def test_a_stalled_command_stalls_only_its_writer(vm):
    job = vm.job()
    fd = os.open(job / "stdin", os.O_WRONLY)
    job.start("sleep 1000")
    blocked = background(lambda: errno_of(lambda: write_all(fd, b"x" * (4 * MIB))))
    assert vm.run("echo quick") == "quick\n"
    job.ctl("kill")
    assert blocked() == errno.EPIPE
    os.close(fd)


def test_reads_return_what_is_there(vm):
    """A read does not wait for more than the command has written."""
    job = vm.job("echo first; sleep 1000")
    fd = os.open(job / "stdout", os.O_RDONLY)
    assert os.read(fd, 65536) == b"first\n"
    job.ctl("kill")
    assert os.read(fd, 65536) == b""
    os.close(fd)


def test_nonblocking_reads(vm):
    job = vm.job("read x; echo done")
    job.forget()
    job = vm.job()
    stdin = os.open(job / "stdin", os.O_WRONLY)
    job.start("read x; echo done; read x")
    fd = os.open(job / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    with fails(errno.EAGAIN):
        os.read(fd, 100)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    os.write(stdin, b"go\n")
    assert poller.poll(limit(10) * 1000) == [(fd, select.POLLIN)]
    assert os.read(fd, 100) == b"done\n"
    os.close(stdin)
    assert poller.poll(limit(10) * 1000)
    assert os.read(fd, 100) == b""
    os.close(fd)


def test_poll_on_status(vm):
    job = vm.job()
    stdin = os.open(job / "stdin", os.O_WRONLY)
    job.start("read x; exit 3")
    waiting = background(lambda: poll_until(job / "status", lambda text: text != "running", 20))
    os.write(stdin, b"go\n")
    assert waiting() == "exited 3"
    os.close(stdin)


def test_many_waiters(vm):
    job = vm.job()
    stdin = os.open(job / "stdin", os.O_WRONLY)
    job.start("cat > /dev/null; exit 5")
    waiting = [background(job.wait) for _ in range(20)]
    os.close(stdin)
    assert [wait() for wait in waiting] == ["exited 5"] * 20


# ---- Ctrl-C

# A shell without job control has its background processes ignore SIGINT, and the test run may be one.
READER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
fd = os.open(sys.argv[1], os.O_RDONLY)
print('open', flush=True)
os.read(fd, 100)
"""
WRITER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
fd = os.open(sys.argv[1], os.O_WRONLY)
print('open', flush=True)
while True:
    os.write(fd, b'x' * 1000000)
"""


def interrupted_after(script, path):
    """Seconds from SIGINT to the end of a program that blocks on the file."""
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout.readline() == b"open\n"
        wchan = f"/proc/{process.pid}/stat"
        deadline = time.monotonic() + limit(10)
        while open(wchan).read().rsplit(")", 1)[1].split()[0] == "R":  # until it sleeps in its system call
            assert time.monotonic() < deadline
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        code = process.wait(limit(10))
        assert code != 0
        return time.monotonic() - start


def test_ctrl_c_on_a_blocked_read(vm):
    job = vm.job("sleep 1000")
    for name in "stdout", "stderr", "wait":
        assert interrupted_after(READER, job / name) < limit(1)
    assert job.status == "running"


def test_ctrl_c_on_a_blocked_write(vm):
    job = vm.job()
    keep = os.open(job / "stdin", os.O_WRONLY)
    job.start("sleep 1000")
    assert interrupted_after(WRITER, job / "stdin") < limit(1)
    assert job.status == "running"
    os.close(keep)


def test_ctrl_c_loses_nothing(vm):
    """Output that an interrupted reader did not get is there for the next."""
    job = vm.job()
    stdin = os.open(job / "stdin", os.O_WRONLY)
    job.start("cat")
    interrupted_after(READER, job / "stdout")
    os.write(stdin, b"precious")
    os.close(stdin)
    assert job.output() == b"precious"


# ---- clients


PYTHON_CLIENT = """
import os, sys, tempfile
os.chdir(sys.argv[1])
job = tempfile.mkdtemp(dir="vm/exec", prefix="py")
with open(job + "/stdin", "wb", buffering=0) as stdin:
    with open(job + "/cmd", "w") as cmd:
        cmd.write("tr a-z A-Z")
    stdin.write(b"from python")
with open(job + "/stdout", "rb") as stdout:
    print(stdout.read().decode())
with open(job + "/wait") as wait:
    print(wait.read(), end="")
os.rmdir(job)
"""


def test_a_python_client(sbx, vm):
    done = subprocess.run(
        [sys.executable, "-c", PYTHON_CLIENT, sbx.path], capture_output=True, text=True, timeout=limit(30), check=True
    )
    assert done.stdout == "FROM PYTHON\nexited 0\n"


def test_a_shell_client_with_stdin(sbx, vm):
    script = """
        mkdir vm/exec/j
        exec 3> vm/exec/j/stdin
        echo 'wc -c' > vm/exec/j/cmd
        head -c 100000 /dev/zero >&3
        exec 3>&-
        cat vm/exec/j/stdout
        read what code < vm/exec/j/wait
        echo $what $code
        rmdir vm/exec/j
    """
    for shell in "bash", "dash", "busybox sh":
        assert sbx.ok(script, shell=shell) == "100000\nexited 0\n", shell


def test_commands_of_a_paused_machine_go_on(vm):
    job = vm.job("for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")
    fd = os.open(job / "stdout", os.O_RDONLY)
    assert os.read(fd, 100)
    vm.ctl("pause")
    assert job.status == "running"
    vm.ctl("resume")
    assert read_all(fd).endswith(b"5\n")
    assert job.wait() == "exited 0"
    os.close(fd)


@pytest.mark.timeout(limit(180))
def test_long_output(vm):
    """16 MiB, checked on both sides."""
    job = vm.job("dd if=/dev/urandom of=/run/data bs=65536 count=256 2> /dev/null; cat /run/data")
    digest = hashlib.sha256(job.output()).hexdigest()
    assert vm.run("sha256sum < /run/data").split()[0] == digest
    assert value(job / "status") == "exited 0"
