# SPDX-License-Identifier: MIT
"""How many of a thing there may be: options of the daemon."""
import errno
import os
import re
import resource

from harness import Snapshot, fails, read, write


def captured(mount):
    """A machine, and a snapshot of it."""
    vm = mount.create("a")
    vm.ctl("checkpoint")
    return vm, Snapshot(vm / "snapshots/1")


def test_sandboxes_and_jobs(own_mount):
    mount = own_mount(options=["--max-sandboxes", "4", "--max-per-user", "3", "--max-jobs", "2"])
    vm = mount.create("a")
    snap = Snapshot(vm.snapshot().path)
    vm.ctl("resume")
    # Jobs: whoever wants another says so, and a `run` is one as well.
    os.mkdir(vm / "exec/one")
    os.mkdir(vm / "exec/two")
    with fails(errno.ENOSPC, vm / "error"):
        os.mkdir(vm / "exec/three")
    with fails(errno.ENOSPC, vm / "error"):
        vm.run("true")
    os.rmdir(vm / "exec/two")
    assert vm.run("echo again") == "again\n"
    assert os.listdir(vm / "exec") == ["one"]
    # Sandboxes of one owner, by whichever way they come. Of a batch stays what fits.
    os.mkdir(mount / "b")
    with fails(errno.EDQUOT, snap / "error"):
        snap.ctl("fork 2 w")
    assert mount.sandboxes() == ["a", "b", "w1"]
    for make in (lambda: os.mkdir(mount / "d"), lambda: write(mount / "ctl", "create d")):
        with fails(errno.EDQUOT, mount / "error"):
            make()
    # All together.
    os.chown(mount / "b", 4242, 4242)
    os.mkdir(mount / "d")
    with fails(errno.ENOSPC, mount / "error"):
        os.mkdir(mount / "e")
    assert "4 sandboxes" in read(mount / "error")
    os.rmdir(mount / "d")
    os.mkdir(mount / "e")


def test_memory_of_machines(own_mount):
    """Of one owner and in all: whatever would start beyond that is refused, and nothing of it stays."""
    mount = own_mount(options=["--max-memory", "800M", "--max-memory-per-user", "600M"])
    vm, snap = captured(mount)
    w1 = snap.fork("w1")
    for make, path in (
        (lambda: snap.fork("w2"), snap),
        (lambda: write(mount / "ctl", "create b memory=128M memory_max=128M"), mount),
        (lambda: write(vm / "memory", "512M"), vm),
        (lambda: w1.ctl("fork w2"), w1),
    ):
        with fails(errno.EDQUOT, path / "error"):
            make()
        assert re.search(r"256M, and may have 600M|512M, and may have 600M", read(path / "error"))
    assert mount.sandboxes() == ["a", "w1"] and w1.sh("echo well") == "well\n"
    # Another owner has a share of the rest.
    os.chown(w1.path, 4242, 4242)
    w2 = snap.fork("w2")
    with fails(errno.ENOMEM, snap / "error"):
        snap.fork("w3")
    assert "all may have 800M" in read(snap / "error")
    # What does not run takes none, and who rolls back has its own already.
    vm.ctl("rollback 1")
    w2.ctl("kill")
    w3 = snap.fork("w3")
    with fails(errno.ENOMEM, w2 / "error"):
        w2.ctl("start")
    w3.remove()
    w2.ctl("start")


def test_jobs_of_owners(own_mount):
    mount = own_mount(options=["--max-jobs-total", "3", "--max-jobs-per-user", "2"])
    vm = mount.create("a", start=False)
    other = mount.create("b", start=False)
    os.chown(other.path, 4242, 4242)
    os.mkdir(vm / "exec/1")
    os.mkdir(vm / "exec/2")
    with fails(errno.EDQUOT, vm / "error"):
        os.mkdir(vm / "exec/3")
    os.mkdir(other / "exec/1")
    os.rmdir(vm / "exec/2")
    os.mkdir(other / "exec/2")
    with fails(errno.ENOSPC, vm / "error"):
        os.mkdir(vm / "exec/3")
    assert "3 jobs" in read(vm / "error")
    other.remove()
    os.mkdir(vm / "exec/3")


def test_descriptors_of_owners(own_mount):
    """Who keeps many machines and snapshots does not take the daemon's descriptors from the others."""
    mount = own_mount(options=["--pool", "0"])
    pid = mount.process.pid

    def allow(n):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (n, n))

    vm, snap = captured(mount)
    os.chown(vm.path, 4242, 4242)
    os.chown(snap.path, 4242, 4242)
    # Of 80 a quarter is nobody's, and half of the others is one owner's: a machine, seven snapshots.
    allow(80)
    for _ in range(6):
        vm.ctl("checkpoint")
    for verb in "checkpoint", "snapshot kept":
        with fails(errno.EDQUOT, vm / "error"):
            vm.ctl(verb)
        assert "4242 keep 30 of" in read(vm / "error") and read(vm / "state") == "running\n"
    assert mount.named() == [] and len(os.listdir(vm / "snapshots")) == 8  # with `latest`
    # The daemon's own user may take what is left; then there is no more for anybody.
    w1 = snap.fork("w1")
    w2 = mount.create("w2", start=False)
    for make, path in (lambda: w2.ctl("start"), w2), (lambda: snap.fork("w3"), snap), (lambda: w1.ctl("fork w3"), w1):
        with fails(errno.ENOSPC, path / "error"):
            make()
    assert mount.sandboxes() == ["a", "w1", "w2"] and read(w2 / "state") == "created\n"
    assert len(os.listdir(f"/proc/{pid}/fd")) < 75
    # What goes makes room.
    Snapshot(vm / "snapshots/2").remove()
    vm.ctl("checkpoint")
    w1.remove()
    w2.ctl("start")
    assert w2.sh("echo well") == "well\n"


def test_descriptors_by_option(own_mount):
    mount = own_mount(options=["--max-files-per-user", "40"])
    vm, snap = captured(mount)
    w1 = snap.fork("w1")
    with fails(errno.EDQUOT, snap / "error"):
        snap.fork("w2")
    w1.remove()
    snap.fork("w2")


def test_empty_snapshots_of_owners(own_mount):
    """A name costs its maker nothing but a mkdir, and the daemon memory."""
    mount = own_mount()
    for i in range(1024):
        os.mkdir(mount / f"snapshots/e{i}")
    with fails(errno.EDQUOT, mount / "error"):
        os.mkdir(mount / "snapshots/more")
    assert "1024 empty" in read(mount / "error")
    os.chown(mount / "snapshots/e0", 4242, 4242)
    os.mkdir(mount / "snapshots/more")
