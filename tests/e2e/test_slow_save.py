# SPDX-License-Identifier: MIT
"""mv of a snapshot that takes long to save: the kernel lets no other rename between directories of the mount happen."""
import contextlib
import ctypes
import errno
import os
import signal
import threading
import time

import pytest

from harness import Snapshot, eventually, fails, limit, poll_until, read, value

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000

pytestmark = [pytest.mark.timing, pytest.mark.skipif(os.geteuid() != 0, reason="stops threads, and mounts a small filesystem")]


@contextlib.contextmanager
def workers_stopped(mount):
    """All threads of the daemon stand still but the one that serves."""
    pid = mount.process.pid
    libc = ctypes.CDLL(None, use_errno=True)
    stopped = []

    def ptrace(request, tid):
        if libc.ptrace(ctypes.c_long(request), ctypes.c_long(tid), None, None):
            raise OSError(ctypes.get_errno(), "ptrace")

    try:
        for tid in map(int, os.listdir(f"/proc/{pid}/task")):
            if tid != pid:
                ptrace(PTRACE_SEIZE, tid)
                stopped.append(tid)
                ptrace(PTRACE_INTERRUPT, tid)
                os.waitpid(tid, WALL)
        assert stopped, "the daemon has no workers yet"
        yield
    finally:
        for tid in stopped:
            ptrace(PTRACE_DETACH, tid)


def seconds_of(function, *args):
    start = time.monotonic()
    function(*args)
    return time.monotonic() - start


def machine(mount):
    """A paused machine with two snapshots; the daemon's workers have worked before."""
    vm = mount.create("vm")
    vm.ctl("checkpoint first")
    vm.ctl("snapshot")
    vm.ctl("snapshot")
    return vm


@pytest.mark.timeout(limit(200))
def test_a_slow_save_holds_nobody_up(own_mount):
    mount = own_mount()
    vm = machine(mount)
    other = mount.create("other")
    for name in "a", "f":
        os.mkdir(other / "fs/root" / name)
    # Who looks for a name that the kernel does not know waits for a rename that is under way there.
    assert value(vm / "snapshots/1/status") == "ready"
    with workers_stopped(mount):
        took = []
        mover = threading.Thread(
            target=lambda: took.append(seconds_of(os.rename, vm / "snapshots/1", mount / "snapshots/kept"))
        )
        mover.start()
        eventually(lambda: read(vm / "snapshots/1/status").startswith("saving"), 10, "nothing is saved")
        start = time.monotonic()
        os.rename(other / "fs/root/f", other / "fs/root/a/f")
        assert time.monotonic() - start < limit(2)
        mover.join()
        assert took[0] < limit(2)
        kept = Snapshot(mount / "snapshots/kept")
        assert value(kept / "status").startswith("saving")
        assert os.listdir(vm / "snapshots") == ["2", "latest"] and "kept" in mount.named()
        for code, use in (
            (errno.EEXIST, lambda: os.rename(vm / "snapshots/2", kept.path)),
            (errno.EBUSY, lambda: os.rename(kept.path, mount / "snapshots/other")),
            (errno.EBUSY, lambda: read(kept / "archive")),
            (errno.EBUSY, lambda: kept.ctl("verify")),
        ):
            with fails(code):
                use()
        assert kept.fork("w").run("echo forked") == "forked\n"
        vm.remove()
    poll_until(kept / "status", lambda text: text == "ready", 60)
    kept.ctl("verify")
    # What was answered is done, also where the daemon ends meanwhile; what is taken away is not.
    other.ctl("snapshot")
    other.ctl("snapshot")
    with workers_stopped(mount):
        for n, name in (1, "last"), (2, "gone"):
            os.rename(other / f"snapshots/{n}", mount / "snapshots" / name)
        os.rmdir(mount / "snapshots/gone")
        mount.process.send_signal(signal.SIGTERM)
        eventually(lambda: not os.path.exists(mount / "README"), 10, "it does not end")
        assert mount.alive
    assert mount.process.wait(limit(60)) == 0
    assert mount.stored("snapshots") == ["first", "kept", "last"]


@pytest.mark.timeout(limit(200))
def test_a_slow_save_that_fails(small_store):
    """The snapshot is where it was."""
    mount, small = small_store
    vm = machine(mount)
    fork = Snapshot(vm / "snapshots/1").fork("w")
    ballast = small / "ballast"
    with workers_stopped(mount):
        os.rename(vm / "snapshots/1", mount / "snapshots/kept")
        ballast.write_bytes(b"\0" * os.statvfs(small).f_bavail * 4096)
    eventually(lambda: "1" in os.listdir(vm / "snapshots"), 30, "it does not come back")
    assert "kept" in mount.log and read(vm / "error") != ""
    assert os.listdir(vm / "snapshots") == ["1", "2", "latest"] and "kept" not in mount.named()
    for use in (lambda: os.listdir(mount / "snapshots/kept"), lambda: os.rmdir(mount / "snapshots/kept")):
        with fails(errno.ENOENT):
            use()
    assert value(vm / "snapshots/1/status") == "ready"
    assert os.readlink(vm / "snapshots/latest") == "2"
    assert os.listdir(vm / "snapshots/1/forks") == ["w"]
    fork.remove()
    ballast.unlink()
    os.rename(vm / "snapshots/1", mount / "snapshots/kept")
    poll_until(mount / "snapshots/kept/status", lambda text: text == "ready", 60)
    Snapshot(mount / "snapshots/kept").ctl("verify")
