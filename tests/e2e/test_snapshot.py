# SPDX-License-Identifier: MIT
"""Snapshots: capturing, naming, listing, deleting. Lasting beyond the daemon is in test_persist.py."""
import errno
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from harness import LAB, Snapshot, eventually, fails, fields, limit, read, value


def counter(vm):
    return int(vm.run("cat /run/counter"))


def test_snapshot_pauses(vm):
    snap = vm.snapshot()
    assert vm.state == "paused"
    assert snap.name == "1" and os.listdir(vm / "snapshots") and os.path.isdir(vm / "snapshots/1/forks")
    assert os.readlink(vm / "snapshots/latest") == "1"
    vm.ctl("resume")
    assert vm.state == "running"


def test_resume_continues_exactly(vm):
    """The process that counts goes on from where it was, and files are as they were."""
    vm.sh("echo unsynced > /root/unsynced")
    before = counter(vm)
    vm.ctl("snapshot")
    vm.ctl("resume")
    after = counter(vm)
    assert before <= after < before + 1000
    assert vm.run("cat /root/unsynced") == "unsynced\n"
    vm.sh(f"while [ $(cat /run/counter) -le {after} ]; do sleep 0.05; done")


@pytest.mark.any_engine
def test_latest_follows(vm):
    for i in 1, 2, 3:
        vm.ctl("snapshot")
        assert os.readlink(vm / "snapshots/latest") == str(i)
        if i == 2:
            vm.ctl("resume")
    assert sorted(os.listdir(vm / "snapshots")) == ["1", "2", "3", "latest"]


@pytest.mark.any_engine
def test_no_latest_without_a_snapshot(vm):
    assert os.listdir(vm / "snapshots") == []
    with fails(errno.ENOENT):
        os.readlink(vm / "snapshots/latest")


def test_info(vm, engine):
    info = vm.snapshot().info
    assert info["source"] == "vm" and info["engine"] == engine and info["status"] == "ready"
    assert int(info["memory"]) == 256 << 20 and int(info["cpus"]) == 1
    assert 0 < int(info["pause_us"]) < limit(20) * 1_000_000
    assert int(info["logical"]) >= 256 << 20
    assert info["created"]


def test_each_snapshot_keeps_its_moment(vm):
    """Later snapshots of the same sandbox are as right as the first, on disk and in memory."""
    snaps = []
    for i in range(1, 4):
        vm.sh(f"echo {i} > /root/moment; echo {i} > /run/moment")
        snaps.append(vm.snapshot())
        vm.ctl("resume")
    vm.sh("echo later > /root/moment; echo later > /run/moment")
    for i, snap in enumerate(snaps, 1):
        fork = snap.fork(f"w{i}")
        assert fork.run("cat /root/moment /run/moment") == f"{i}\n{i}\n"
        assert fork.info["parent"].endswith(f"snapshots/{i}")
    assert vm.run("cat /root/moment /run/moment") == "later\nlater\n"


def test_snapshot_of_a_paused_sandbox(vm):
    vm.ctl("pause")
    vm.ctl("snapshot")
    assert vm.state == "paused"
    assert vm.snapshot().name == "2"


def test_checkpoint_goes_on_running(sbx, vm):
    vm.ctl("checkpoint")
    assert vm.state == "running" and os.readlink(vm / "snapshots/latest") == "1"
    vm.ctl("checkpoint good")
    assert vm.state == "running" and sbx.named() == ["good"]
    assert vm.run("cat /root/before") == "before\n"


# ---- names


@pytest.mark.any_engine
def test_mv_saves_under_a_name(sbx, vm):
    """saveNamed: what users type."""
    vm.snapshot()
    sbx.ok("mv vm/snapshots/1 snapshots/after-pip-install")
    assert sbx.named() == ["after-pip-install"] and os.listdir(vm / "snapshots") == []
    saved = sbx / "snapshots/after-pip-install"
    # A mv that would take longer than two seconds is answered before all is saved (test_slow_save.py).
    eventually(lambda: value(saved / "status") == "ready", 60, "the snapshot is not saved")
    info = fields(saved / "info")
    assert info["source"] == "vm" and info["status"] == "ready" and int(info["stored"]) > 0
    assert Snapshot(sbx / "snapshots/after-pip-install").fork("w").run("cat /root/before") == "before\n"


@pytest.mark.any_engine
def test_snapshot_with_a_name(sbx, vm):
    vm.ctl("snapshot golden")
    assert vm.state == "paused" and sbx.named() == ["golden"]
    assert "1" not in os.listdir(vm / "snapshots")


@pytest.mark.any_engine
def test_named_snapshot_outlives_its_sandbox(sbx, vm):
    vm.ctl("snapshot golden")
    vm.remove()
    assert Snapshot(sbx / "snapshots/golden").fork("w").run("cat /root/before") == "before\n"


@pytest.mark.any_engine
def test_unnamed_snapshot_lives_as_long_as_its_sandbox(sbx, vm):
    snap = vm.snapshot()
    fork = snap.fork("w")
    vm.remove()
    assert not os.path.exists(snap.path)
    assert fork.run("cat /root/before") == "before\n"


@pytest.mark.any_engine
def test_renaming(sbx, vm):
    vm.ctl("snapshot one")
    os.rename(sbx / "snapshots/one", sbx / "snapshots/two")
    assert sbx.named() == ["two"]
    assert Snapshot(sbx / "snapshots/two").fork("w").run("cat /root/before") == "before\n"


@pytest.mark.any_engine
def test_names_are_not_overwritten(sbx, vm):
    vm.ctl("snapshot taken")
    snap = vm.snapshot()
    with fails(errno.EEXIST):
        os.rename(snap.path, sbx / "snapshots/taken")
    with fails(errno.EEXIST, vm / "error"):
        vm.ctl("snapshot taken")
    assert sbx.named() == ["taken"] and os.path.isdir(snap.path)
    done = sbx.shell("mv -T vm/snapshots/1 snapshots/taken")
    assert done.returncode != 0 and os.path.isdir(snap.path)


@pytest.mark.any_engine
def test_bad_names_and_places(sbx, vm):
    snap = vm.snapshot()
    for name in ".hidden", "a b", "x" * 65:
        with fails(errno.EINVAL):
            os.rename(snap.path, sbx / "snapshots" / name)
    for place in sbx / "elsewhere", vm / "snapshots/mine", vm / "exec/x":
        with pytest.raises(OSError) as refusal:
            os.rename(snap.path, place)
        assert refusal.value.errno in (errno.EPERM, errno.EACCES, errno.EINVAL), place
    with pytest.raises(OSError) as refusal:
        os.rename(snap.path, sbx.runtime / "out")
    assert refusal.value.errno == errno.EXDEV
    assert sbx.named() == [] and os.path.isdir(snap.path)


@pytest.mark.any_engine
def test_delete(sbx, vm):
    vm.ctl("snapshot golden")
    sbx.ok("rmdir snapshots/golden")
    assert sbx.named() == []
    with fails(errno.ENOENT):
        os.rmdir(sbx / "snapshots/golden")
    with fails(errno.ENOENT):
        read(sbx / "snapshots/golden/info")


@pytest.mark.any_engine
def test_delete_unnamed(vm):
    snap = vm.snapshot()
    snap.remove()
    assert os.listdir(vm / "snapshots") == []
    assert vm.snapshot().name == "2"


def test_forks_outlive_the_snapshot(sbx, vm):
    vm.ctl("snapshot golden")
    snap = Snapshot(sbx / "snapshots/golden")
    fork = snap.fork("w")
    snap.remove()
    assert fork.run("cat /root/before") == "before\n"
    assert fork.snapshot().fork("w2").run("cat /root/before") == "before\n"


@pytest.mark.any_engine
def test_verify(sbx, vm):
    vm.ctl("snapshot golden")
    Snapshot(sbx / "snapshots/golden").ctl("verify")


@pytest.mark.any_engine
def test_open_files_of_a_deleted_snapshot(vm):
    snap = vm.snapshot()
    fd = os.open(snap / "info", os.O_RDONLY)
    snap.remove()
    with fails(errno.ENODEV):
        os.read(fd, 100)
    os.close(fd)


# ---- a busy machine


BUSY = """
echo $$ > /run/busy
n=0
while :; do
    n=$((n+1))
    echo $n > /root/disk.new && mv /root/disk.new /root/disk && echo $n > /run/memory.new && mv /run/memory.new /run/memory
done
"""


def test_snapshots_of_a_busy_machine(vm):
    """Captured while it writes to disk and memory; every fork is consistent."""
    (vm / "fs/root/busy").write_text(BUSY)
    vm.sh("sh /root/busy > /dev/null 2>&1 &")
    vm.sh("until [ -e /run/memory ]; do sleep 0.05; done")
    last = 0
    for i in range(5):
        snap = vm.snapshot()
        vm.ctl("resume")
        fork = snap.fork(f"w{i}")
        fork.sh("kill $(cat /run/busy)")
        disk, memory = (int(n) for n in fork.run("cat /root/disk /run/memory").split())
        assert disk - memory in (0, 1) and memory >= last
        last = int(vm.run("cat /run/memory"))  # which the next snapshot has; the fork may have counted further
        fork.remove()
    vm.sh("kill $(cat /run/busy)")


def test_a_job_with_output_under_way(vm):
    """A stream is not torn by captures: every line arrives once."""
    job = vm.job("i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); sleep 0.01; done")
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(job.output().splitlines()))
    reader.start()
    for _ in range(3):
        vm.ctl("checkpoint")
    reader.join(limit(60))
    assert lines == [b"line %d" % i for i in range(400)]
    assert job.wait() == "exited 0"


def test_kill_during_a_snapshot(vm):
    """It ends the wait, whichever of the two was first."""
    result = []

    def snapshot():
        try:
            vm.ctl("snapshot")
            result.append(0)
        except OSError as e:
            result.append(e.errno)

    thread = threading.Thread(target=snapshot)
    thread.start()
    vm.ctl("kill")
    thread.join(limit(20))
    assert len(result) == 1 and not thread.is_alive()
    assert value(vm / "state") in ("stopped", "paused")


@pytest.mark.any_engine
def test_ordinary_tools_list_snapshots(sbx, vm):
    vm.ctl("snapshot golden")
    listing = sbx.ok("ls -l snapshots; grep -H . snapshots/*/info; find snapshots -maxdepth 2 -name info")
    assert "golden" in listing and "snapshots/golden/info" in listing
    assert subprocess.run(["test", "-d", sbx / "snapshots/golden"], check=False).returncode == 0


@pytest.mark.long
def test_what_is_freed_is_given_back(sbx):
    """A guest says which memory is free; what was there is in no snapshot, and what is not free stays right."""
    vm = sbx.create("freed", cold=True, memory="256M")
    assert int(vm.run("ls -d /sys/bus/virtio/drivers/virtio_balloon/virtio* | wc -l")) == 1
    vm.sh("mount -t tmpfs -o size=200M none /mnt && dd if=/dev/urandom of=/mnt/kept bs=1M count=10 2> /dev/null")
    kept = vm.sh("md5sum < /mnt/kept")

    def private(one):
        return int(fields(one / "stats")["private"])

    def free_some(one, gives):
        one.sh("dd if=/dev/urandom of=/mnt/freed bs=1M count=100 2> /dev/null")
        full = private(one)
        one.sh("rm /mnt/freed")
        if gives:
            eventually(lambda: private(one) < full - (80 << 20), 15, "nothing is given back")
        else:
            time.sleep(3)  # more than the guest's kernel waits
        assert one.sh("md5sum < /mnt/kept") == kept

    free_some(vm, True)
    vm.ctl("checkpoint freed")
    snap = Snapshot(sbx / "snapshots/freed")
    assert int(snap.info["stored"]) < 100 << 20
    fork = snap.fork("w")
    # QEMU can take nothing back from a fork, so its guest does not say (docs/design.md).
    free_some(fork, vm.info["engine"] == "kvm")
    again = fork.snapshot().fork("w2")
    assert again.sh("md5sum < /mnt/kept") == vm.sh("md5sum < /mnt/kept") == kept


@pytest.mark.long
def test_captured_often(vm):
    """The disk is right after any number of captures, and the machine has few of their layers open."""
    times = 20 if LAB else 70
    for i in range(times):
        vm.sh(f"echo {i} >> /root/log; dd if=/dev/urandom of=/root/data{i % 5} bs=64k count=4 2> /dev/null")
        vm.ctl("checkpoint")
        Snapshot((vm / "snapshots/latest").resolve()).remove()
    look = "md5sum /root/data*; sync; echo 3 > /proc/sys/vm/drop_caches; md5sum /root/data*; cat /root/log"
    lines = vm.sh(look).splitlines()
    assert lines[:5] == lines[5:10] and lines[10:] == [str(i) for i in range(times)]
    assert vm.fork("w").sh(look).splitlines() == lines
    links = [os.readlink(fd) for fd in Path(f"/proc/{vm.pid}/fd").iterdir() if fd.is_symlink()]
    assert len([link for link in links if ".qcow2" in link or ".raw" in link]) < 60
