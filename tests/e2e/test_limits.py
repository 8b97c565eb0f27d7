# SPDX-License-Identifier: MIT
"""How many of a thing there may be: options of the daemon."""
import errno
import os

from harness import Snapshot, fails, read, write


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
