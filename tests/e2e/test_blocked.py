# SPDX-License-Identifier: MIT
"""A capture that its VMM holds up: who asked for it is told after a minute, and nobody else notices.

A VMM that was taken over can stand still in the middle of a capture; SIGSTOP does that. It can also hold the locks of
the memory that it shares with others: tests/hostile/vmm.c does that from outside, with 300 threads. What it does in the
jail itself, tests/unit/test_waits.c tries.
"""
import contextlib
import errno
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from harness import LAB, TOP, children, eventually, fails, limit, outcome, read, reap
from test_floods import TRIES, p99, sample
from test_hostile_guest import neighbour  # noqa: F401

pytestmark = [
    pytest.mark.timing,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may touch a VMM in its jail"),
]


@pytest.fixture(scope="session")
def taken_over(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "vmm"
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-pthread"]
    subprocess.run(["gcc", *flags, "-o", path, TOP / "tests/hostile/vmm.c"], check=True)
    return path


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def memory_held(pid, taken_over):
    """The memory that forks have of their template."""
    shared = [fd for fd in Path(f"/proc/{pid}/fd").iterdir() if os.readlink(fd).startswith("/memfd:sbx-")]
    held = max(shared, key=lambda fd: os.stat(fd).st_size)
    flags = int(re.search(r"flags:\s*(\d+)", Path(f"/proc/{pid}/fdinfo/{held.name}").read_text())[1], 8)
    told, tell = os.pipe()
    before = children()
    files = [os.open(held, flags & os.O_ACCMODE), tell]  # as it has it itself
    # Process 1, as it is in a jail, and nice: it is about waiting, and not about who has the CPU.
    script = f"exec nice -n19 unshare -p -f --kill-child {taken_over} holds 3<&{files[0]} 4>&{files[1]}"
    holder = subprocess.Popen(["bash", "-c", script], pass_fds=files)
    for fd in files:
        os.close(fd)
    try:
        assert os.read(told, 1) == b"x", "nobody holds the memory"
        yield
    finally:
        holder.kill()
        holder.wait()
        eventually(lambda: not reap(before), 20, "who holds the memory does not end")
        os.close(told)


class Checkpoint(threading.Thread):
    """A capture, and how it ended."""

    def __init__(self, vm):
        super().__init__()
        self.vm, self.code, self.sentence = vm, 0, ""
        self.start()

    def run(self):
        try:
            self.vm.ctl("checkpoint")
        except OSError as e:
            self.code, self.sentence = e.errno, read(self.vm / "error")

    def end(self):
        self.join(limit(70))
        assert not self.is_alive(), "a capture has no end"
        return self.code


def check_neighbour(neighbour, idle, what, capsys, slack=0.010):  # noqa: F811
    for _ in range(TRIES):
        now = p99(neighbour)
        with capsys.disabled():
            print(f"\n{what}: p99 {now * 1e3:.1f} ms, idle {idle * 1e3:.1f} ms", end="")
        if now <= 2 * idle + limit(slack):
            return
    raise AssertionError(f"a neighbour's p99 is {now * 1e3:.1f} ms, and {idle * 1e3:.1f} ms without")


def check_reads(paths):
    """What is told of machines is told without one that does not answer."""
    for path in paths:
        began = time.monotonic()
        read(path)
        took = time.monotonic() - began
        assert took < limit(2), f"{path} takes {took:.1f} s"


@pytest.fixture
def captive(prepared, neighbour):  # noqa: F811
    (neighbour / "fs/root/one").touch()
    sample(neighbour)
    return prepared.fork("captive")


@pytest.mark.timeout(limit(200))
def test_a_capture_whose_vmm_stands_still(sbx, captive, neighbour, capsys):  # noqa: F811
    captive.ctl("pause")
    idle = p99(neighbour)
    with stopped(captive.pid):
        capture = Checkpoint(captive)
        check_neighbour(neighbour, idle, "a VMM that stands still", capsys)
        with fails(errno.EBUSY, captive / "error"):
            captive.ctl("checkpoint")
        check_reads([sbx / "status", sbx / "metrics", captive / "info", captive / "stats", neighbour / "stats"])
        assert capture.is_alive(), f"it did not block: {capture.code} {capture.sentence}"
        assert neighbour.fork("other").sh("echo well") == "well\n"
        assert capture.end() == errno.ETIMEDOUT and len(capture.sentence.split()) > 3
    assert sbx.alive
    # When its VMM goes on, so does the sandbox.
    eventually(lambda: outcome(captive.ctl, "resume") == 0, 30, "it does not go on")
    assert captive.sh("echo well") == "well\n"


@pytest.mark.skipif(LAB, reason="300 threads have the one CPU there is")
@pytest.mark.timeout(limit(200))
def test_captures_while_memory_is_held(sbx, captive, neighbour, taken_over, capsys):  # noqa: F811
    """All forks of one template have its memory, and a VMM that was taken over holds its locks."""
    idle = p99(neighbour)
    with memory_held(captive.pid, taken_over):
        # 300 threads take the CPUs, too; who waited for a lock of theirs would wait for seconds.
        check_neighbour(neighbour, idle, "memory that is held", capsys, slack=0.250)
        captures = [Checkpoint(captive), Checkpoint(neighbour)]
        check_reads([sbx / "status", sbx / "metrics", captive / "stats", neighbour / "stats"])
        for capture in captures:
            assert capture.end() == 0, f"{capture.code} {capture.sentence}"
        assert neighbour.fork("other").sh("echo well") == "well\n"
    assert sbx.alive and captive.sh("echo well") == "well\n"
