# SPDX-License-Identifier: MIT
"""Want of memory under load: the daemon is refused single allocations, and some in a row, and neither ends nor lies.

(tests/unit/test_failing_*.c refuse every one, of its pieces; here it is the whole, of which a bounded number is tried.)
"""
import ctypes
import errno
import mmap
import os
import subprocess
from pathlib import Path

import pytest

from harness import LAB, Sandbox, Snapshot, limit, read, write

SOURCE = Path(__file__).parents[1] / "hostile/poor.c"
SINGLE, ROWS = 8, 2  # of how many allocations each is refused; of a job, which is quick, every one


class Orders(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("pid", "grant", "refuse", "refused")]


@pytest.fixture
def poor(tmp_path, monkeypatch):
    """What daemons that are started from now on are granted."""
    library, path = tmp_path / "poor.so", tmp_path / "orders"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", library, SOURCE], check=True)
    path.write_bytes(bytes(ctypes.sizeof(Orders)))
    with open(path, "r+b") as file:
        orders = Orders.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(Orders)))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("SBX_POOR", str(path))
    return orders


def sandbox(mount, snap, vm):
    os.mkdir(mount / "s")
    write(mount / "s/env", "A=1\nB=2\n")
    assert read(mount / "s/env") == "A=1\nB=2\n" and "s" in os.listdir(mount.path)
    assert read(mount / "s/state") == "created\n"
    os.rmdir(mount / "s")


def fork(mount, snap, vm):
    w = snap.fork("w")
    assert w.run("echo forked") == "forked\n" and read(w / "state") == "running\n"
    os.rmdir(w.path)


def job(mount, snap, vm):
    os.mkdir(vm / "exec/j")
    with open(vm / "exec/j/stdin", "wb", buffering=0) as stdin:
        write(vm / "exec/j/cmd", "cat; exit 3")
        stdin.write(b"given")
        # What a close says may be lost in libfuse, which has no way to fail then but to leave it out.
        write(vm / "exec/j/ctl", "eof")
    output, end = read(vm / "exec/j/stdout"), read(vm / "exec/j/wait")
    if end.startswith("failed"):
        raise OSError(errno.ENOMEM, end)
    assert (output, end) == ("given", "exited 3\n")
    os.rmdir(vm / "exec/j")


def files(mount, snap, vm):
    text = "x" * 100000
    (vm / "fs/root/file").write_text(text)
    assert read(vm / "fs/root/file") == text and "file" in os.listdir(vm / "fs/root")
    os.rename(vm / "fs/root/file", vm / "fs/root/other")
    os.unlink(vm / "fs/root/other")


def capture(mount, snap, vm):
    vm.ctl("checkpoint")
    number = os.readlink(vm / "snapshots/latest")
    assert "source " in read(vm / f"snapshots/{number}/info")
    os.rmdir(vm / f"snapshots/{number}")


def cleared(mount, vm):
    """What a step that failed left, which can be removed."""
    for path in mount / "s", mount / "w", vm / "exec/j":
        if path.exists():
            os.rmdir(path)
    for name in "file", "other":
        (vm / "fs/root" / name).unlink(missing_ok=True)


@pytest.mark.skipif(LAB, reason="the engine has no part in it")
@pytest.mark.any_engine
@pytest.mark.timeout(limit(300))
def test_the_daemon_lives_through_want_of_memory(own_mount, poor, build):
    if build.name == "san":
        pytest.skip("the sanitizers have an allocator of their own")
    mount = own_mount(options=["--pool", "0"])
    vm = mount.create("origin")
    vm.ctl("checkpoint")
    snap = Snapshot(vm / "snapshots/1")
    poor.pid = mount.process.pid
    machine, machines = Sandbox(mount / "origin"), 0
    refused, failed, failures = 0, 0, []
    for step in capture, files, job, fork, sandbox:
        def attempt(grant, row):
            nonlocal failed
            poor.grant, poor.refused, poor.refuse = grant, 0, row
            try:
                step(mount, snap, machine)
            except OSError as error:
                failed += 1
                failures.append(error)
                assert error.errno not in (errno.ECONNABORTED, errno.ENOTCONN), error
            finally:
                poor.refuse = 0
            assert mount.alive, mount.log[-2000:]
            return poor.refused

        assert not attempt(1 << 30, 1) and not failures, failures
        every = (1 << 30) - poor.grant
        singles = every if step is job else SINGLE
        for n in range(singles + ROWS):
            single = n < singles
            grant = every * n // singles if single else every * (n - singles) // ROWS
            before = failed
            refused += attempt(grant, 1 if single else 20)
            state = read(machine / "state")
            if state == "paused\n":  # by a capture that had no memory to go on either
                assert step is capture and failed > before
                machine.ctl("resume")
            elif state != "running\n":  # which the daemon had no memory to talk to: it says so
                assert state == "crashed\n" and (not single or "memory" in read(machine / "error")), state
                machines += 1
                machine = snap.fork(f"vm{machines}")
            cleared(mount, machine)
        failures.clear()
    print(f"{refused} refused, {failed} steps failed, {machines} machines lost")
    assert refused > 3 * SINGLE and failed
    for step in sandbox, job, files, fork:
        step(mount, snap, machine)
