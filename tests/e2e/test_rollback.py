# SPDX-License-Identifier: MIT
"""Rollback: an earlier state under the same name; what it replaces is kept as a snapshot."""
import errno
import os

import pytest

from harness import Sandbox, Snapshot, fails, read, value, wait_gone, write

MARK = "echo {0} > /root/mark; echo {0} > /run/mark"
LOOK = "cat /root/mark /run/mark"  # a file on the disk, and one in memory


def checkpoint(vm, mark):
    """Mark the machine and capture it; it goes on."""
    vm.sh(MARK.format(mark))
    vm.ctl("checkpoint")
    return Snapshot((vm / "snapshots/latest").resolve())


def test_to_an_unnamed_snapshot(vm):
    first = checkpoint(vm, "first")
    checkpoint(vm, "second")
    vm.sh(MARK.format("third"))
    pid, generation = vm.pid, int(vm.info["generation"])
    vm.ctl(f"rollback {first.name}")
    assert vm.state == "running" and vm.run(LOOK) == "first\nfirst\n"
    assert vm.run("hostname; cat /run/sbx/name") == "vm\nvm\n"  # the same name
    assert vm.pid != pid
    wait_gone(pid)
    assert int(vm.info["generation"]) != generation
    assert vm.info["parent"] == f"vm/snapshots/{first.name}"


@pytest.mark.any_engine
def test_to_latest(vm):
    checkpoint(vm, "first")
    checkpoint(vm, "second")
    vm.sh(MARK.format("third"))
    vm.ctl("rollback latest")
    assert vm.run(LOOK) == "second\nsecond\n"


@pytest.mark.any_engine
def test_to_a_named_snapshot(sbx, vm):
    vm.sh(MARK.format("named"))
    vm.ctl("checkpoint golden")
    vm.sh(MARK.format("later"))
    vm.ctl("rollback golden")
    assert vm.run(LOOK) == "named\nnamed\n"
    # It may be anyone's.
    other = Snapshot(sbx / "snapshots/golden").fork("other")
    other.sh(MARK.format("other"))
    other.ctl("checkpoint others")
    vm.ctl("rollback others")
    assert vm.run(LOOK) == "other\nother\n" and vm.run("hostname") == "vm\n"


@pytest.mark.any_engine
def test_what_is_replaced_is_kept(vm):
    first = checkpoint(vm, "first")
    vm.sh(MARK.format("lost?"))
    before = set(os.listdir(vm / "snapshots"))
    vm.ctl(f"rollback {first.name}")
    kept = set(os.listdir(vm / "snapshots")) - before
    assert len(kept) == 1
    assert os.readlink(vm / "snapshots/latest") == kept.pop()
    assert Snapshot((vm / "snapshots/latest").resolve()).fork("w").run(LOOK) == "lost?\nlost?\n"
    # Going there undoes the rollback.
    vm.ctl("rollback latest")
    assert vm.run(LOOK) == "lost?\nlost?\n"


def test_again_and_again(vm):
    """Back and forth, with changes in between; nothing adds up."""
    first = checkpoint(vm, "first")
    for i in range(5):
        vm.sh(MARK.format(i))
        vm.ctl(f"rollback {first.name}")
        assert vm.run(LOOK) == "first\nfirst\n"
    assert len(os.listdir(vm / "snapshots")) == 7  # first, five replaced states, and the link


def test_jobs_after_a_rollback(vm):
    """Those of the earlier state are there and go on; later ones are gone."""
    server = vm.job(name="server")
    stdin = os.open(server / "stdin", os.O_WRONLY)
    stdout = os.open(server / "stdout", os.O_RDONLY)
    server.start("n=0; while read line; do n=$((n+1)); echo $n $line; done")
    os.write(stdin, b"a\n")
    assert os.read(stdout, 100) == b"1 a\n"
    first = checkpoint(vm, "first")
    os.write(stdin, b"b\n")
    assert os.read(stdout, 100) == b"2 b\n"
    later = vm.job("sleep 1000", name="later")
    vm.ctl(f"rollback {first.name}")
    os.chmod(vm / "exec/server", 0o750)  # of the job there is now, not of the one the kernel has in mind
    assert os.stat(vm / "exec/server").st_mode & 0o777 == 0o750
    assert os.listdir(vm / "exec") == ["server"]
    assert value(vm / "exec/server/status") == "running"
    with fails(errno.ENODEV):
        os.write(stdin, b"c\n")  # the file of a job that is no more
    for fd in stdin, stdout:
        os.close(fd)
    assert not os.path.exists(later.path)
    with open(vm / "exec/server/stdin", "wb", buffering=0) as stdin, open(vm / "exec/server/stdout", "rb", buffering=0) as stdout:
        stdin.write(b"d\n")
        assert stdout.read(100) == b"2 d\n"
    assert vm.job("true").wait() == "exited 0"


def test_of_a_paused_sandbox(vm):
    """It runs afterwards, as a fork does; its paused state is the one that is kept."""
    first = checkpoint(vm, "first")
    vm.sh(MARK.format("second"))
    vm.ctl("pause")
    vm.ctl(f"rollback {first.name}")
    assert vm.state == "running" and vm.run(LOOK) == "first\nfirst\n"
    vm.ctl("rollback latest")
    assert vm.run(LOOK) == "second\nsecond\n"


@pytest.mark.any_engine
def test_size_and_environment_are_the_snapshots(vm):
    write(vm / "env", "MODE=first\n")
    first = checkpoint(vm, "first")
    write(vm / "memory", "512M\n")
    write(vm / "cpus", "2\n")
    write(vm / "env", "MODE=second\n")
    vm.ctl(f"rollback {first.name}")
    assert value(vm / "memory") == str(256 << 20) and value(vm / "cpus") == "1"
    assert vm.run("nproc; echo $MODE") == "1\nfirst\n"
    vm.ctl("rollback latest")
    assert value(vm / "memory") == str(512 << 20) and vm.run("nproc; echo $MODE") == "2\nsecond\n"


def test_forks_of_it_live_on(vm):
    first = checkpoint(vm, "first")
    fork = vm.fork("w")
    fork.sh(MARK.format("fork"))
    vm.ctl(f"rollback {first.name}")
    assert fork.run(LOOK) == "fork\nfork\n"
    assert first.fork("w2").run(LOOK) == "first\nfirst\n"


# ---- failures


@pytest.mark.any_engine
def test_no_such_snapshot(vm):
    for name in "latest", "17", "nothing":
        with fails(errno.ENOENT, vm / "error"):
            vm.ctl(f"rollback {name}")
    assert vm.state == "running" and os.listdir(vm / "snapshots") == []
    with fails(errno.EINVAL, vm / "error"):
        vm.ctl("rollback")


@pytest.mark.any_engine
def test_not_running(vm):
    first = checkpoint(vm, "first")
    vm.ctl("kill")
    with fails(errno.EBUSY, vm / "error"):
        vm.ctl(f"rollback {first.name}")
    assert vm.state == "stopped" and "latest" in os.listdir(vm / "snapshots")


@pytest.mark.any_engine
def test_a_failing_rollback_leaves_it(vm):
    """The earlier state has a hook that refuses; the sandbox goes on as it was, jobs and all."""
    vm.sh("printf '#!/bin/sh\\nexit 3\\n' > /etc/sbx/fork.d/10-fail; chmod +x /etc/sbx/fork.d/10-fail")
    bad = checkpoint(vm, "bad")
    vm.sh("rm /etc/sbx/fork.d/10-fail")
    vm.sh(MARK.format("good"))
    job = vm.job("while sleep 1; do :; done", name="loop")
    with fails(errno.EIO, vm / "error"):
        vm.ctl(f"rollback {bad.name}")
    assert "10-fail" in read(vm / "error")
    assert vm.state == "running" and vm.run(LOOK) == "good\ngood\n"
    assert value(vm / "exec/loop/status") == "running" and job.status == "running"
    assert vm.run("hostname") == "vm\n" and vm.job("true").wait() == "exited 0"


@pytest.mark.any_engine
def test_verbs_during_a_rollback(sbx, vm):
    """One at a time; rmdir and kill always work."""
    first = checkpoint(vm, "first")
    pid = os.fork()
    if pid == 0:
        try:
            vm.ctl(f"rollback {first.name}")
        finally:
            os._exit(0)
    seen = set()
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        try:
            vm.ctl("checkpoint")
        except OSError as e:
            seen.add(e.errno)
    assert seen <= {errno.EBUSY, errno.EHOSTDOWN}, seen
    assert vm.state == "running" and vm.run(LOOK) == "first\nfirst\n"
    vm.remove()
    assert not os.path.exists(sbx / "vm")
    assert Sandbox(vm.path).name == "vm"
