# SPDX-License-Identifier: MIT
"""What the daemon does for a fork and for a start, in numbers that depend on no host: a regression shows anywhere."""
import os
import shutil
import signal
import subprocess
import sys

import pytest

from harness import LAB, TOP, Sandbox, eventually, fields, write

sys.path.insert(0, str(TOP / "tests"))
from counts import Counts  # noqa: E402

pytestmark = pytest.mark.timing  # sanitizers call what the daemon does not

TIMES = 4
# System calls, and turns of the loop: with engine qemu there were 27, 42, 95 and 7, with kvm 30, 72, 87 and 8. What takes
# longer has more of a timer's in it.
FORK_READY, START_READY, FORK_NONE_READY, TURNS = 40, 80 if LAB else 60, 120, 16
# System calls of the process that copies a running fork's memory, whatever its size: some ten, one for each run of pages
# that it copies (70 to 90), and without PAGEMAP_SCAN (before Linux 6.7) one for each 16 MiB.
COPY = 300


@pytest.fixture
def one_cpu():
    """What the tests start meanwhile: there the pool prepares nothing while a fork is under way."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    yield
    os.sched_setaffinity(0, cpus)


@pytest.fixture
def counted(one_cpu, own_mount, new_warm_state, tmp_path):
    """A function: a daemon with so many machines ready, and what counts its system calls."""
    if not shutil.which("strace"):
        pytest.skip("there is no strace")
    started = []

    def make(pool):
        mount = own_mount(new_warm_state(), options=["--pool", str(pool), "--boot-snapshots", "2"])
        try:
            started.append(Counts(mount, tmp_path / "strace"))
        except AssertionError as e:
            pytest.skip(f"nothing can be traced here: {e}")
        return mount, started[0]

    yield make
    for counts in started:
        counts.stop()


def until_ready(mount, n):
    eventually(lambda: int(fields(mount / "status")["machines_ready"]) >= n, 60, "the pool does not fill")


def prepared(mount):
    """A snapshot of a machine that has run a command."""
    vm = mount.create("origin")
    vm.run("true")
    return vm.snapshot()


def test_of_a_machine_that_is_ready(counted):
    mount, counts = counted(1)
    snap = prepared(mount)
    snap.fork("first").remove()
    for i in range(TIMES):
        until_ready(mount, 2)  # one of the boot snapshot, one of this
        with counts.of("fork"):
            vm = snap.fork(f"w{i}")
        vm.remove()
        vm = mount.create(f"s{i}", start=False)
        with counts.of("start"):
            vm.ctl("start")
        assert vm.info["boot"] == "warm"
        vm.remove()
    least = {name: min(each) for name, each in counts.stop().items()}
    print(least)
    assert 0 < least["fork"] <= FORK_READY and 0 < least["start"] <= START_READY


def test_of_a_fork_with_none_ready(counted):
    mount, counts = counted(0)
    snap = prepared(mount)
    for i in range(TIMES):
        with counts.of("fork"):
            vm = snap.fork(f"w{i}")
        vm.remove()
    least = min(counts.stop()["fork"])
    print(least)
    assert 0 < least <= FORK_NONE_READY


def test_turns_of_the_loop(one_cpu, own_mount, new_warm_state):
    """Between two readings of status are those of a reading, too, and now and then a timer's."""
    mount = own_mount(new_warm_state(), options=["--pool", "1", "--boot-snapshots", "2"])
    snap = prepared(mount)
    snap.fork("first").remove()
    turns = lambda: int(fields(mount / "status")["loop_turns"])  # noqa: E731
    least = []
    for i in range(TIMES):
        until_ready(mount, 2)
        before = turns()
        vm = snap.fork(f"w{i}")
        least.append(turns() - before)
        vm.remove()
    print(least)
    assert 0 < min(least) <= TURNS


def calls_of_the_copy(vm, output):
    """System calls of the child that copies vm's memory while it is forked."""
    argv = ["strace", "-f", "-o", output, "-p", str(vm.pid)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as tracer:
        attached = tracer.stderr.readline()
        if "attached" not in attached:
            pytest.skip(f"nothing can be traced here: {attached}")
        vm.fork("w").remove()
        tracer.send_signal(signal.SIGINT)
        tracer.stderr.read()
    lines = [line.split(maxsplit=1) for line in output.read_text(errors="replace").splitlines()]
    child = next(pid for pid, call in lines if "/proc/self/pagemap" in call)
    return sum(pid == child and "resumed>" not in call for pid, call in lines)


def test_of_a_live_fork_whatever_its_memory(engine, own_mount, new_warm_state, tmp_path):
    """What is copied is what a machine wrote since it was forked itself; so it is with four times the memory."""
    if engine != "kvm":
        pytest.skip("with the engine qemu the daemon copies the memory, of which test_pause.py counts the pages")
    if not shutil.which("strace"):
        pytest.skip("there is no strace")
    mount = own_mount(new_warm_state(), options=["--pool", "0", "--boot-snapshots", "2"])
    calls = {}
    for size in "512M", "2G":
        write(mount / "ctl", f"create vm{size} image=base memory=256M memory_max={size}")
        vm = Sandbox(mount / f"vm{size}")
        assert vm.info["boot"] == "warm"
        vm.sh("head -c 4194304 /dev/urandom > /run/written")
        calls[size] = calls_of_the_copy(vm, tmp_path / size)
        vm.remove()
    print(calls)
    assert all(0 < n <= COPY for n in calls.values())
