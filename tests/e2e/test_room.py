# SPDX-License-Identifier: MIT
"""The room that machines take of the store: who fills it is stopped, and nobody else."""
import errno
import os

import pytest

from harness import Snapshot, eventually, fails, fields, limit, poll_until, read, write

MIB = 1 << 20

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small filesystem")

# Eight MiB that no disk makes smaller, again and again.
FLOOD = "dd if=/dev/urandom of=/run/noise bs=1M count=8 2>/dev/null; while :; do cat /run/noise >> /root/flood; sync; done"


def free(directory):
    st = os.statvfs(directory)
    return st.f_bavail * st.f_frsize


def lives(vm):
    """It writes, and its root is what it was."""
    assert vm.state == "running", read(vm / "error")
    vm.sh("echo alive > /root/alive && sync && ! grep -q ' / ext4 ro' /proc/mounts")
    assert vm.state == "running"


@pytest.mark.timeout(limit(300))
def test_who_fills_the_store_is_stopped(store_of):
    mount, small = store_of(224, ("--store-reserve", "96M"))
    vm = mount.create("vm")
    vm.ctl("checkpoint small")
    guilty, neighbour = vm.fork("guilty"), vm.fork("neighbour")
    other = vm.fork("other")
    vm.remove()
    neighbour.job("while :; do echo line >> /root/log; sync; sleep 0.2; done")
    job = guilty.job(FLOOD)
    while guilty.state != "paused":
        lives(neighbour)
    assert free(small) > 48 * MIB, "too late"
    assert "almost full" in read(guilty / "error") and "guilty" in mount.log
    assert fields(mount / "status")["stalled"] == "1"
    with fails(errno.EAGAIN, guilty / "error"):
        guilty.run("true")
    assert "full" in read(guilty / "error")
    for verb in "resume", "snapshot", "checkpoint", "fork w":
        with fails(errno.ENOSPC, guilty / "error"):
            guilty.ctl(verb)
    # Others go on, and may do what does not fill it.
    for sb in neighbour, other:
        lives(sb)
    other.fork("w").remove()
    # What would take all that is left may not begin, and what has begun ends.
    (small / "ballast").write_bytes(b"\0" * (free(small) - 40 * MIB))
    for use in lambda: other.ctl("checkpoint big"), lambda: write(mount / "other/ctl", "snapshot big"):
        with fails(errno.ENOSPC, other / "error"):
            use()
    assert mount.named() == ["small"]
    os.mkdir(mount / "snapshots/copy")
    with fails(errno.ENOSPC):
        write(mount / "snapshots/copy/archive", b"SBXARCH")
    lives(neighbour)
    other.ctl("resume")
    lives(other)
    # With room, it goes on where it was.
    (small / "ballast").unlink()
    other.remove()
    mount.ok("rmdir snapshots/copy")
    (small / "more").mkdir()
    mount.ok(f"mount -o remount,size=320m {small}")
    guilty.ctl("resume")
    assert job.status == "running"
    guilty.wait_state("paused", seconds=60)  # until it has filled that, too
    lives(neighbour)
    guilty.remove()
    eventually(lambda: free(small) > 200 * MIB, 20, "what it wrote stays")
    lives(neighbour)
    Snapshot(mount / "snapshots/small").ctl("verify")


@pytest.mark.timeout(limit(200))
def test_a_save_that_would_fill_the_store(store_of):
    """It ends, nothing of it stays, and there is room for the others all the time."""
    mount, small = store_of(320, ("--store-reserve", "120M"))
    vm = mount.create("vm")
    vm.sh("dd if=/dev/urandom of=/run/noise bs=1M count=150 2>&1")
    neighbour = mount.create("neighbour")
    room = free(small)
    ballast = small / "ballast"
    ballast.write_bytes(b"\0" * (room - 125 * MIB))
    names = os.listdir(small / "state/objects")
    with fails(errno.ENOSPC, vm / "error"):
        vm.ctl("snapshot big")
    lives(neighbour)
    assert os.listdir(small / "state/objects") == names and os.listdir(small / "state/tmp") == []
    assert mount.named() == []
    ballast.unlink()
    vm.ctl("snapshot big")
    poll_until(mount / "snapshots/big/status", lambda text: text == "ready", 20)


@pytest.mark.timeout(limit(200))
def test_a_disk_at_its_limit(own_mount):
    """Who reaches it is stopped, whatever he has in snapshots; nothing is lost, and nobody else notices."""
    mount = own_mount(options=("--limits", "disk=500M"))
    vm = mount.create("vm")
    assert read(vm / "limits").splitlines()[-1] == f"disk {500 * MIB}"
    for text, code in ("disk 1M", errno.ERANGE), ("disk x", errno.EINVAL), ("disk", errno.EINVAL):
        with fails(code, vm / "error"):
            write(vm / "limits", text)
    neighbour = vm.fork("neighbour")
    vm.sh("dd if=/dev/urandom of=/root/first bs=1M count=12 2>/dev/null; sync")
    used = int(fields(vm / "stats")["disk_stored"])
    assert used > 12 * MIB
    vm.ctl("checkpoint")  # what it froze counts
    write(vm / "limits", f"disk {used + 16 * MIB}")
    job = vm.job("dd if=/dev/urandom of=/root/second bs=1M count=60 2>/dev/null; sync; md5sum < /root/second > /run/sum; echo $?")
    vm.wait_state("paused", seconds=60)
    assert "disk" in read(vm / "error") and "limits" in read(vm / "error")
    assert int(fields(vm / "stats")["disk_stored"]) < 80 * MIB
    with fails(errno.EAGAIN, vm / "error"):
        vm.run("true")
    for verb in "resume", "snapshot", "fork w":
        with fails(errno.ENOSPC, vm / "error"):
            vm.ctl(verb)
    lives(neighbour)
    write(vm / "limits", "disk max")
    vm.ctl("resume")
    assert job.output() == b"0\n" and job.wait() == "exited 0"
    vm.sh("echo 3 > /proc/sys/vm/drop_caches; md5sum < /root/second | cmp - /run/sum")
    # A fork begins with nothing of its own, at the daemon's limit; a rollback begins anew too.
    assert read(vm.fork("w") / "limits").splitlines()[-1] == f"disk {500 * MIB}"
    write(vm / "limits", f"disk {24 * MIB}")
    vm.wait_state("paused", seconds=10)
    write(vm / "limits", "disk max")
    vm.ctl("resume")
    vm.ctl("rollback 1")
    write(vm / "limits", f"disk {24 * MIB}")
    lives(vm)
