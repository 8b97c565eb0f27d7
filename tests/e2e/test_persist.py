# SPDX-License-Identifier: MIT
"""Named snapshots last beyond the daemon; nothing half-made does."""
import errno
import os
import signal
import subprocess
import threading
import time

import pytest

from harness import COUNTER, Snapshot, fails, fields, limit, read

pytestmark = pytest.mark.timeout(limit(180))


@pytest.fixture
def saved(own_mount):
    """A stopped daemon's state directory with one snapshot of a counting machine, and the counter's value."""
    mount = own_mount()
    vm = mount.create("vm")
    vm.sh("echo kept > /root/kept; echo in memory > /run/kept")
    vm.sh(COUNTER)
    vm.ctl("snapshot golden")
    mount.stop()
    return mount.state


def test_restart(saved, own_mount):
    """The same processes and the same memory, forked from disk, and then from memory."""
    mount = own_mount(saved)
    assert mount.named() == ["golden"]
    info = fields(mount / "snapshots/golden/info")
    assert info["source"] == "vm" and info["status"] == "ready"
    snap = Snapshot(mount / "snapshots/golden")
    for name in "w1", "w2":
        vm = snap.fork(name)
        assert vm.run("cat /root/kept /run/kept; hostname") == f"kept\nin memory\n{name}\n"
        at = int(vm.run("cat /run/counter"))
        vm.sh(f"while [ $(cat /run/counter) -le {at} ]; do sleep 0.05; done")


def test_the_environment_lasts(own_mount):
    """Values with newlines and backslashes too, through the store's text of lines."""
    mount = own_mount()
    vm = mount.create("vm")
    env = b"A=one\ntwo\\n\0B=b\\\0C=\n\0"
    with open(vm / "env", "wb", buffering=0) as f:
        f.write(env)
    vm.ctl("snapshot kept")
    mount.stop()
    mount = own_mount(mount.state)
    fork = Snapshot(mount / "snapshots/kept").fork("w")
    assert (fork / "env").read_bytes() == env
    assert fork.run('printf "[%s]" "$A" "$B" "$C"') == "[one\ntwo\\n][b\\][\n]"


def test_chain_of_restarts(saved, own_mount):
    """Loaded, forked, changed and saved again, under another daemon each time."""
    parent = "golden"
    for i in range(1, 4):
        mount = own_mount(saved)
        vm = Snapshot(mount / "snapshots" / parent).fork("vm")
        vm.sh(f"echo {i} >> /root/log; echo {i} >> /run/log")
        parent = f"s{i}"
        vm.ctl(f"snapshot {parent}")
        mount.stop()
    mount = own_mount(saved)
    assert mount.named() == ["golden", "s1", "s2", "s3"]
    for name in "golden", "s2":
        os.rmdir(mount / "snapshots" / name)
    for i, name in (1, "s1"), (3, "s3"):
        fork = Snapshot(mount / "snapshots" / name).fork(name)
        expect = "".join(f"{n}\n" for n in range(1, i + 1))
        assert fork.run("cat /root/log; cat /run/log") == expect * 2
    assert mount.named() == ["s1", "s3"]


def test_deleted_is_deleted(saved, own_mount):
    mount = own_mount(saved)
    before = disk_usage(saved)
    os.rmdir(mount / "snapshots/golden")
    mount.stop()
    assert disk_usage(saved) < before
    mount = own_mount(saved)
    assert mount.named() == []


def disk_usage(path):
    return int(subprocess.run(["du", "-s", "-D", path], capture_output=True, text=True, check=True).stdout.split()[0])


def test_compressed(saved):
    """256 MiB of mostly untouched RAM need a fraction of it."""
    snapshot = saved / "snapshots/golden"
    assert disk_usage(snapshot) << 10 < 100 << 20
    assert (snapshot / "manifest").read_text().startswith("sbxfs-snapshot ")


def test_kill_9_keeps_what_was_saved(saved, own_mount):
    kept = set(os.listdir(saved / "layers"))
    mount = own_mount(saved)
    Snapshot(mount / "snapshots/golden").fork("w")
    killed = set(os.listdir(saved / "layers")) - kept
    mount.kill()
    mount = own_mount(saved)
    assert killed and not killed & set(os.listdir(saved / "layers"))  # nothing of the killed daemon's machines
    assert mount.named() == ["golden"] and mount.sandboxes() == []
    assert Snapshot(mount / "snapshots/golden").fork("w").run("cat /run/kept") == "in memory\n"


def test_kill_9_during_a_save(saved, own_mount):
    """The old state or the new one, whatever the moment."""
    for i in range(4):
        mount = own_mount(saved)
        vm = Snapshot(mount / "snapshots/golden").fork("vm")

        def save():
            try:
                vm.ctl(f"snapshot new{i}")
            except OSError:
                pass

        thread = threading.Thread(target=save)
        thread.start()
        time.sleep(0.1 * i)  # at various moments of the save
        mount.kill()
        thread.join(limit(20))
        assert not thread.is_alive()
        mount = own_mount(saved)
        names = mount.named()
        assert "golden" in names and set(names) <= {"golden"} | {f"new{n}" for n in range(i + 1)}
        assert os.listdir(saved / "tmp") == []
        for name in names:
            assert Snapshot(mount / "snapshots" / name).fork(name).run("cat /root/kept") == "kept\n"
        mount.stop()


def test_a_damaged_snapshot(saved, own_mount):
    ram = saved / "snapshots/golden/ram"
    with open(ram, "r+b") as f:
        f.seek(os.path.getsize(ram) // 2)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 1]))
    mount = own_mount(saved)
    snap = Snapshot(mount / "snapshots/golden")
    with fails(errno.EIO, snap / "error"):
        snap.ctl("verify")
    with fails(errno.EIO, snap / "error"):
        snap.fork("w")
    assert mount.sandboxes() == []


def test_a_truncated_snapshot(saved, own_mount):
    for name in "ram", "state":
        path = saved / "snapshots/golden" / name
        kept = path.read_bytes()
        os.truncate(path, len(kept) // 2)
        mount = own_mount(saved)
        snap = Snapshot(mount / "snapshots/golden")
        with fails(errno.EIO, snap / "error"):
            snap.fork("w")
        mount.stop()
        path.write_bytes(kept)
    mount = own_mount(saved)
    assert Snapshot(mount / "snapshots/golden").fork("w").run("cat /run/kept") == "in memory\n"


def test_a_damaged_manifest(saved, own_mount):
    (saved / "snapshots/golden/manifest").write_text("nonsense")
    mount = own_mount(saved)
    snap = Snapshot(mount / "snapshots/golden")
    if mount.named():
        with pytest.raises(OSError):
            snap.fork("w")
    vm = mount.create("fine")
    vm.ctl("snapshot other")
    assert "other" in mount.named()


def test_a_second_daemon_on_the_same_store(saved, own_mount, build, guest, engine, tmp_path):
    own_mount(saved)
    (tmp_path / "m").mkdir()
    done = subprocess.run(
        [build / "sbxfs", "-f", "--state", saved, "--engine", engine, "--guest", guest, tmp_path / "m"],
        capture_output=True, text=True, timeout=limit(20), check=False,
    )  # fmt: skip
    assert done.returncode != 0 and len(done.stderr.split()) > 3
    assert not os.path.ismount(tmp_path / "m")


def test_sandboxes_end_with_the_daemon(saved, own_mount):
    mount = own_mount(saved)
    pid = Snapshot(mount / "snapshots/golden").fork("w").pid
    mount.process.send_signal(signal.SIGTERM)
    mount.stop()
    assert not os.path.exists(f"/proc/{pid}")
    mount = own_mount(saved)
    assert mount.sandboxes() == []
    assert read(mount / "error") == ""
