# SPDX-License-Identifier: MIT
"""The store as users rely on it: chains, room, kills, full disks, damage, and hosts that do not fit."""
import ctypes
import errno
import os
import random
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest

from harness import LAB, Mount, Sandbox, Snapshot, eventually, fails, limit, read_bytes, write, write_all

pytestmark = pytest.mark.timeout(limit(240))

# Takes minutes there, and is the same on every engine.
not_in_the_lab = pytest.mark.skipif(LAB, reason="the store knows no engine")

MIB = 1 << 20
LINKS, SHOTS, KILLS, BYTES = (4, 20, 3, 1) if LAB else (10, 30, 10, 3)


# ---- what a store must look like (docs/format.md)


def stored(path):
    """Bytes allocated."""
    return sum(os.lstat(os.path.join(d, f)).st_blocks * 512 for d, _, names in os.walk(path) for f in names)


def manifest(path):
    lines = [line.split(" ", 1) for line in path.read_text().splitlines()]
    return {key: [v for k, v in lines if k == key] for key, _ in lines}


def chain(state, file):
    """The layers that `file` stands on, and itself."""
    files = []
    while file:
        files.append(file)
        head = (state / "layers" / file).open("rb").read(4096) if file.endswith(".qcow2") else b""
        at, n = int.from_bytes(head[8:16], "big"), int.from_bytes(head[16:20], "big")
        file = head[at : at + n].decode() if head and at else None
    return files


def check_store(state):
    """Everything in it is led to by a name, and everything a name leads to is there. For a daemon without machines."""
    objects, layers = set(), set()
    for name in os.listdir(state / "snapshots"):
        says = manifest(state / "snapshots" / name / "manifest")
        objects |= {(state / "snapshots" / name).resolve().name, *says.get("ram-source", [])}
        layers |= set(chain(state, says["disk"][0]))
    for name in os.listdir(state / "images"):
        if name != ".lock":
            layers.add(manifest(state / "images" / name)["layer"][0])
    assert set(os.listdir(state / "objects")) == objects
    assert set(os.listdir(state / "layers")) == layers
    assert set(os.listdir(state / "sums")) == layers
    assert os.listdir(state / "tmp") == []


# ---- chains


@not_in_the_lab
@pytest.mark.long
def test_a_chain_with_every_second_link_gone(own_mount):
    """Each snapshot was forked, changed and saved again. Those that are left fork as before, and take no more room."""
    mount = own_mount()
    mount.create("base").ctl("snapshot s0")
    os.rmdir(mount / "base")
    for i in range(1, LINKS + 1):
        vm = Snapshot(mount / f"snapshots/s{i - 1}").fork("vm")
        vm.sh(f"echo {i} >> /run/log; echo {i} >> /root/log; dd if=/dev/urandom of=/run/noise{i} bs=1M count=3 2>&1")
        vm.sh(f"md5sum /run/noise* > /run/sums; dd if=/dev/urandom of=/root/noise{i} bs=64K count=4 2>&1; sync")
        vm.ctl(f"snapshot s{i}")
        vm.remove()
    own = {i: int(Snapshot(mount / f"snapshots/s{i}").info["own"]) for i in range(LINKS + 1)}
    before = stored(mount.state)
    for i in range(1, LINKS, 2):
        os.rmdir(mount / f"snapshots/s{i}")
    write(mount / "ctl", "gc")
    after = stored(mount.state)
    # What only a deleted one had is free: its state, and what of its memory its child wrote over.
    assert after < before - sum(own[i] for i in range(1, LINKS, 2)) + 5 * MIB
    mount.stop()
    check_store(mount.state)
    assert stored(mount.state) <= after
    mount = own_mount(mount.state)
    assert mount.named() == sorted(f"s{i}" for i in range(0, LINKS + 1, 2))
    for i in range(0, LINKS + 1, 2):
        snap = Snapshot(mount / f"snapshots/s{i}")
        snap.ctl("verify")
        vm = snap.fork(f"w{i}")
        log = "".join(f"{n}\n" for n in range(1, i + 1))
        assert vm.run("cat /run/log 2> /dev/null") == log and vm.run("cat /root/log 2> /dev/null") == log
        if i:
            vm.sh("md5sum -c /run/sums > /dev/null")
            assert snap.info["parent"] == "-"


def test_a_second_snapshot_stores_what_changed(sbx, prepared):
    vm = prepared.fork("v")
    vm.ctl("checkpoint one")
    vm.sh("dd if=/dev/urandom of=/run/touched bs=1M count=8 2>&1")
    vm.ctl("checkpoint two")
    info = Snapshot(sbx / "snapshots/two").info
    assert 8 * MIB < int(info["own"]) <= 16 * MIB
    assert int(info["logical"]) > int(info["stored"]) >= int(info["own"])
    # What is its own is what deleting it frees.
    vm.remove()
    write(sbx / "ctl", "gc")
    before = stored(sbx.state)
    own = int(Snapshot(sbx / "snapshots/two").info["own"])
    os.rmdir(sbx / "snapshots/two")
    write(sbx / "ctl", "gc")
    assert abs(before - stored(sbx.state) - own) < MIB // 4


def test_layers_are_merged_while_machines_run(own_mount):
    """A disk with many captures behind it stays shallow; open sandboxes do not notice."""
    mount = own_mount()
    vm = mount.create("vm")
    vm.sh("head -c 100000 /dev/urandom > /root/open; sync")
    reader = vm.job()
    go = os.open(reader / "stdin", os.O_WRONLY)
    reader.start("exec 3< /root/open; read go; md5sum <&3; md5sum < /root/open")
    for i in range(SHOTS):
        vm.sh(f"head -c 200000 /dev/urandom > /root/file{i:02}; sync")
        vm.ctl("checkpoint" if i % 2 else f"checkpoint s{i}")

    def deepest():
        return max(len(chain(mount.state, layer)) for layer in os.listdir(mount.state / "layers"))

    # A layer with 16 below it becomes one with one below it: half of them at least, and those on top follow.
    eventually(lambda: deepest() <= 18, 30, f"the chain is {deepest()} layers deep")
    assert vm.run("cat /root/file* | wc -c") == f"{200000 * SHOTS}\n"
    write_all(go, b"go\n")
    os.close(go)
    before, now = reader.output().splitlines()
    assert before == now
    for name in "s0", "s16", f"s{SHOTS - 2}":
        Snapshot(mount / "snapshots" / name).ctl("verify")
        fork = Snapshot(mount / "snapshots" / name).fork(name)
        assert fork.run("ls /root/file* | wc -l") == f"{int(name[1:]) + 1}\n"
        assert fork.run("cat /root/file* > /dev/null && echo ok") == "ok\n"
    mount.stop()
    check_store(mount.state)
    for layer in os.listdir(mount.state / "layers"):
        if layer.endswith(".qcow2"):
            subprocess.run(["qemu-img", "check", "-q", mount.state / "layers" / layer], check=True)


# ---- kills and full disks


def busy(mount, archive, stop):
    """Save, delete, merge and import until the daemon is gone."""
    n = 0
    while not stop.is_set():
        n += 1
        try:
            vm = Sandbox(mount / "busy")
            for _ in range(2):
                vm.ctl(f"checkpoint a{n}")
                if n > 1:
                    os.rmdir(mount / f"snapshots/a{n - 1}")
                n += 1
            vm.ctl(f"checkpoint b{n}")
            os.mkdir(mount / f"snapshots/i{n}")
            fd = os.open(mount / f"snapshots/i{n}/archive", os.O_WRONLY)
            try:
                write_all(fd, archive)
            finally:
                os.close(fd)
            os.rmdir(mount / f"snapshots/b{n}")
            os.rmdir(mount / f"snapshots/i{n}")
            os.rmdir(mount / f"snapshots/a{n - 1}")
        except OSError:
            if stop.is_set() or not mount.alive:
                return
            n += 100


@not_in_the_lab
def test_kills_at_random_moments(own_mount):
    """Whatever was ready is intact after each, and nothing is left that no name leads to."""
    mount = own_mount()
    vm = mount.create("vm")
    vm.sh("echo kept > /root/kept; echo kept > /run/kept; sync")
    vm.ctl("checkpoint foreign")
    archive = read_bytes(mount / "snapshots/foreign/archive")
    os.rmdir(mount / "snapshots/foreign")
    vm.ctl("snapshot kept")
    vm.remove()
    dice = random.Random(1)
    for i in range(KILLS):
        Snapshot(mount / "snapshots/kept").fork("busy")
        ready, stop = set(mount.named()), threading.Event()
        thread = threading.Thread(target=busy, args=(mount, archive, stop))
        thread.start()
        time.sleep(dice.uniform(0, limit(1.0)))  # the moment of the kill, not a wait for something
        mount.kill()
        stop.set()
        thread.join(limit(20))
        assert not thread.is_alive()
        mount = own_mount(mount.state)
        assert ready <= set(mount.named()), f"kill {i}"
        for name in mount.named():
            Snapshot(mount / "snapshots" / name).ctl("verify")
        check_store(mount.state)
        for name in set(mount.named()) - {"kept"}:
            os.rmdir(mount / "snapshots" / name)
    assert Snapshot(mount / "snapshots/kept").fork("w").run("cat /root/kept /run/kept") == "kept\nkept\n"


@not_in_the_lab
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small filesystem")
def test_a_full_disk(own_mount, base_state, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", small], check=True)
    try:
        subprocess.run(["cp", "-a", "--sparse=always", base_state, small / "s"], check=True)
        # Boot snapshots are saved when there is time, and given up for room: here what is full stays so.
        mount = own_mount(small / "s", options=("--store-reserve", "0", "--boot-snapshots", "0"))
        vm = mount.create("vm")
        vm.ctl("checkpoint first")
        room = os.statvfs(small).f_bavail * 4096
        with open(small / "filler", "wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, room - 8 * MIB)
        vm.sh("dd if=/dev/urandom of=/run/noise bs=1M count=24 2>&1")
        for _ in range(2):
            with fails(errno.ENOSPC, vm / "error"):
                vm.ctl("checkpoint second")
            assert mount.named() == ["first"] and os.listdir(small / "s/tmp") == []
        os.mkdir(mount / "snapshots/copy")
        fd = os.open(mount / "snapshots/copy/archive", os.O_WRONLY)
        with fails(errno.ENOSPC, mount / "snapshots/copy/error"):
            try:
                write_all(fd, read_bytes(mount / "snapshots/first/archive"))
            finally:
                os.close(fd)
        os.unlink(small / "filler")
        Snapshot(mount / "snapshots/first").ctl("verify")
        vm.ctl("checkpoint second")
        vm.remove()
        mount.stop()
        check_store(small / "s")
        mount = own_mount(small / "s")
        assert mount.named() == ["first", "second"]
        assert Snapshot(mount / "snapshots/second").fork("w").run("wc -c < /run/noise") == f"{24 * MIB}\n"
        mount.stop()
    finally:
        subprocess.run(["umount", "-l", small], check=True)


@not_in_the_lab
def test_leftovers_are_removed_and_named(own_mount, new_state):
    state = new_state()
    left = {
        "tmp/" + "a" * 32: "unfinished",
        "objects/" + "b" * 32: "unused object",
        "layers/" + "c" * 32 + ".qcow2": "unused layer",
        "sums/" + "d" * 32 + ".qcow2": "checksums of no layer",
    }
    for path in left:
        (state / path).parent.mkdir(exist_ok=True)
        (state / path).write_text("junk")
    mount = own_mount(state)
    for path, what in left.items():
        assert not (state / path).exists()
        assert f"removed {what} {Path(path).name}" in mount.log
    check_store(state)


# ---- damage and hosts that do not fit


@pytest.fixture(scope="module")
def golden(engine, build, guest, new_state, tmp_path_factory):
    """A stopped daemon's state directory with one snapshot, `golden`, and nothing else."""
    mount = Mount(build, guest, engine, tmp_path_factory.mktemp("golden"), new_state(), ["--boot-snapshots", "0"]).start()
    vm = mount.create("vm")
    vm.sh("echo kept > /root/kept; sync")
    vm.ctl("snapshot golden")
    mount.stop()
    return mount.state


@pytest.fixture
def copy(golden, tmp_path):
    subprocess.run(["cp", "-a", "--sparse=always", "--reflink=auto", golden, tmp_path / "s"], check=True)
    return tmp_path / "s"


@not_in_the_lab
def test_a_flipped_byte_anywhere(copy, own_mount):
    """`verify` finds it, and nothing runs on it. (test_store.c flips thousands.)"""
    mount = own_mount(copy)
    snap = Snapshot(mount / "snapshots/golden")
    top = (copy / "snapshots/golden").resolve()
    files = [top / name for name in ("manifest", "state", "ram")]
    for layer in chain(copy, manifest(top / "manifest")["disk"][0]):
        files += [copy / "layers" / layer, copy / "sums" / layer]
    dice = random.Random(2)
    for path in files:
        size = path.stat().st_size
        for at in (dice.randrange(size), 0, size - 1)[:BYTES]:
            with open(path, "r+b", buffering=0) as f:
                byte = os.pread(f.fileno(), 1, at)
                os.pwrite(f.fileno(), bytes([byte[0] ^ 1 << dice.randrange(8)]), at)
                for attempt in (lambda: snap.ctl("verify"), lambda: snap.fork("w")):
                    with pytest.raises(OSError) as raised:
                        attempt()
                    assert raised.value.errno in (errno.EIO, errno.EINVAL), f"{path} at {at}"
                    assert len((snap / "error").read_text().split()) > 3
                os.pwrite(f.fileno(), byte, at)
                if path.name == "manifest":  # what was read as damaged stays so until the next start
                    mount.stop()
                    mount = own_mount(copy)
                    snap = Snapshot(mount / "snapshots/golden")
    assert mount.sandboxes() == []
    snap.ctl("verify")
    assert snap.fork("w").run("cat /root/kept") == "kept\n"


@not_in_the_lab
def test_damage_is_named(copy, own_mount):
    """EIO, and `error` says which file and block."""
    ram = (copy / "snapshots/golden").resolve() / "ram"
    with open(ram, "r+b") as f:
        f.seek(70000)
        byte = f.read(1)
        f.seek(70000)
        f.write(bytes([byte[0] ^ 1]))
    mount = own_mount(copy)
    snap = Snapshot(mount / "snapshots/golden")
    with fails(errno.EIO, snap / "error"):
        snap.fork("w")
    where = rf"{ram.parent.name}/ram.*block \d+"
    assert re.search(where, (snap / "error").read_text())
    with fails(errno.EIO):
        read_bytes(snap / "archive")
    assert re.search(r"block \d+", (snap / "error").read_text())


def rewrite(path, change):
    """Change a manifest's text, with a true checksum: another program's work, not damage."""
    lib = ctypes.CDLL("libxxhash.so.0")
    lib.XXH3_64bits.restype = ctypes.c_uint64
    lib.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    text = change(path.read_text()).rsplit("checksum ", 1)[0].encode()
    path.write_bytes(text + b"checksum %016x\n" % lib.XXH3_64bits(text, len(text)))


def refused(own_mount, state, code, *words):
    mount = own_mount(state)
    snap = Snapshot(mount / "snapshots/golden")
    with fails(code, snap / "error"):
        snap.fork("w")
    text = (snap / "error").read_text()
    assert all(word in text for word in words), text
    assert mount.sandboxes() == []
    mount.stop()


def test_a_host_that_does_not_fit(copy, own_mount, engine):
    """EINVAL, and everything that is missing is named."""
    path = (copy / "snapshots/golden").resolve() / "manifest"
    kept = path.read_text()
    assert "\nrequires agent " in kept and "\nengine " + engine in kept
    more = "requires cpu teleport\nrequires agent 99\nrequires quantum-bits 3\n"
    rewrite(path, lambda text: text.replace("checksum ", more + "checksum "))
    refused(own_mount, copy, errno.EINVAL, "cpu teleport", "agent 99", "quantum-bits 3")
    other = {"kvm": "qemu", "qemu": "kvm"}[engine]
    rewrite(path, lambda text: text.replace(f"engine {engine}", f"engine {other}").replace(more, ""))
    refused(own_mount, copy, errno.EINVAL, f"with engine {other}")
    rewrite(path, lambda text: text.replace("sbxfs-snapshot 1", "sbxfs-snapshot 9"))
    refused(own_mount, copy, errno.EINVAL, "9")
    path.write_text(kept)
    layer = manifest(path)["disk"][0]
    os.rename(copy / "layers" / layer, copy / "aside")
    refused(own_mount, copy, errno.EINVAL, layer)
    os.rename(copy / "aside", copy / "layers" / layer)
    mount = own_mount(copy)
    assert Snapshot(mount / "snapshots/golden").fork("w").run("cat /root/kept") == "kept\n"
