# SPDX-License-Identifier: MIT
"""A start is a fork of a machine that just booted; status and info say so. One daemon serves most of these tests."""
import errno
import os
import shutil
import time

import pytest

from harness import eventually, fails, fields, together, value, write

ON = ("--boot-snapshots", "2")


def status(mount, name):
    return int(fields(mount / "status")[name])


def until_stored(mount, n=1):
    eventually(lambda: status(mount, "boot_snapshots_stored") == n, 30, "no boot snapshot is stored")


@pytest.fixture
def warm(new_warm_state):
    """A store with the boot snapshot of one image in the harness's shape."""
    return new_warm_state()


def test_starts_are_forks(own_mount, warm):
    """Of a stored one, after a restart of the daemon; each a machine that has just booted, with an identity of its own."""
    mount = own_mount(warm, options=ON)
    assert status(mount, "boot_snapshots") == 1
    assert os.listdir(mount / "snapshots") == []
    seen = set()
    for name in ("one", "two"):
        vm = mount.create(name, env="GREETING=hello " + name)
        info = vm.info
        assert info["boot"] == "warm" and int(info["boot_us"]) > 0 and info["parent"] == "-" and info["generation"] == "1"
        assert "fork_us" not in info
        assert vm.sh("cat /run/sbx/generation /run/sbx/name /etc/hostname; hostname; echo $GREETING") == (
            f"1\n{name}\n{name}\n{name}\nhello {name}\n"
        )
        before = time.time()
        clock = int(vm.sh("date +%s"))
        assert int(before) - 1 <= clock <= time.time() + 1
        kept = vm.sh("cat /etc/machine-id /proc/sys/kernel/random/boot_id; head -c 32 /dev/urandom | base64").split()
        assert len(kept) == 3 and not seen & set(kept)
        seen.update(kept)
        left = vm.sh("ls /etc/sbx/fork.d; ls -A /run/sbx").split()
        assert {"generation", "name"} <= set(left) and not [each for each in left if each.startswith(".")]
        assert os.listdir(vm / "exec") == []
    assert status(mount, "starts_warm") == 2 and status(mount, "starts_cold") == 0 and status(mount, "forks_made") == 0
    # What has a disk of its own boots from that, and from nothing else.
    vm.sh("echo mine > /root/mine; sync")
    vm.ctl("stop")
    vm.ctl("start")
    assert vm.info["boot"] == "cold" and vm.info["generation"] == "2"
    assert vm.sh("cat /root/mine") == "mine\n"
    # It is a sandbox like any other.
    snap = vm.snapshot()
    assert snap.fork("w").run("cat /root/mine") == "mine\n"
    copy = (mount / "one" / "ctl", "snapshot kept")
    write(*copy)
    assert fields(mount / "snapshots/kept/info")["parent"] == "-"
    write(mount / "snapshots/kept/ctl", "verify")


def test_boot_cold(own_mount, warm):
    mount = own_mount(warm, options=ON)
    write(mount / "ctl", "create cold boot=cold memory=256M memory_max=512M")
    assert fields(mount / "cold/info")["boot"] == "cold"
    with fails(errno.EINVAL, mount / "error"):
        write(mount / "ctl", "create other boot=lukewarm")
    write(mount / "ctl", "create vm boot=warm memory=256M memory_max=512M")
    assert fields(mount / "vm/info")["boot"] == "warm" and status(mount, "starts_cold") == 1
    vm = mount.create("other")
    assert vm.info["boot"] == "warm" and status(mount, "starts_cold") == 1


def test_ten_at_once_boot_one_machine(own_mount, new_state):
    mount = own_mount(new_state(), options=ON)
    names = [f"vm{i}" for i in range(10)]
    vms = [mount.create(name, start=False) for name in names]
    together(lambda i: vms[i].ctl("start"), 10)
    assert [vm.info["boot"] for vm in vms] == ["warm"] * 10
    assert status(mount, "boot_snapshots") == 1
    assert len({vm.sh("cat /etc/machine-id") for vm in vms}) == 10
    assert [vm.sh("hostname").strip() for vm in vms] == names


def test_shapes_have_each_their_own_and_the_oldest_goes(own_mount, warm):
    mount = own_mount(warm, options=ON)
    for i, (cpus, kept) in enumerate([(1, 1), (2, 2), (1, 2)]):
        vm = mount.create(f"vm{i}", cpus=cpus)
        assert vm.info["boot"] == "warm" and vm.sh("nproc") == f"{cpus}\n"
        assert status(mount, "boot_snapshots") == kept
    until_stored(mount, 2)
    # Used less recently than the other: a third takes its place, and its sandbox lives on.
    two = mount / "vm1"
    mount.create("vm3", memory="384M")
    assert status(mount, "boot_snapshots") == 2
    assert value(two / "state") == "running"
    # A wait is given up with its sandbox, and what is made for it serves others.
    vm = mount.create("vm4", start=False, cpus=2)
    fd = os.open(vm / "ctl", os.O_WRONLY)

    def begin(i):
        if i == 0:
            with fails(errno.EHOSTDOWN):
                os.write(fd, b"start")
        else:
            eventually(lambda: vm.info["pid"] == "0" and _busy(vm), 10, "the start does not wait")
            vm.ctl("kill")

    together(begin, 2)
    os.close(fd)
    assert vm.state == "stopped"
    vm.ctl("start")
    assert vm.info["boot"] == "warm"


def _busy(vm):
    """A setting that holds for the machine is fixed as soon as a start is under way."""
    try:
        write(vm / "memory_max", "512M")
    except OSError as e:
        return e.errno == errno.EBUSY
    return False


def test_what_changed_is_booted_anew(own_mount, warm, guest, build, tmp_path):
    """Another initramfs, another image of the same name: the old one goes."""
    other = tmp_path / "guest"
    other.mkdir()
    shutil.copy(guest / "vmlinuz", other)
    other.joinpath("initramfs").write_bytes((guest / "initramfs").read_bytes() + bytes(512))
    [before] = os.listdir(warm / "snapshots")
    mount = own_mount(warm, options=(*ON, "--guest", str(other)))
    assert mount.create("vm").info["boot"] == "warm"
    until_stored(mount)
    [after] = os.listdir(warm / "snapshots")
    assert before != after
    image = [name for name in os.listdir(warm / "layers") if name.endswith(".raw")]
    os.utime(warm / "layers" / image[0])
    write(mount / "ctl", "gc")
    assert status(mount, "boot_snapshots") == 0
    assert not os.listdir(warm / "snapshots")
    # Its machine has the layer still.
    assert mount.create("next").sh("cat /etc/hostname") == "next\n"
    assert (mount / "vm/state").read_text() == "running\n"


def test_a_broken_one_is_no_obstacle(own_mount, warm):
    """One that cannot be read is made again; one whose machine does not run is followed by a boot."""
    [name] = os.listdir(warm / "snapshots")
    ram = warm / "snapshots" / name / "ram"
    data = bytearray(ram.read_bytes())
    data[len(data) // 2] ^= 0xFF
    ram.unlink()  # other stores have the same file
    ram.write_bytes(data)
    mount = own_mount(warm, options=ON)
    assert mount.create("vm").info["boot"] == "warm"
    assert "made anew" in mount.log
    until_stored(mount)
    mount.stop()
    manifest = warm / "snapshots" / name / "manifest"
    manifest.write_text(manifest.read_text().replace("sbxfs-snapshot", "damaged"))
    mount = own_mount(warm, options=ON)
    assert status(mount, "boot_snapshots") == 0, "and garbage can still be collected"
    write(mount / "ctl", "gc")


def test_off(own_mount, warm):
    """The store may have some: they stay, and starts boot."""
    mount = own_mount(warm, options=("--boot-snapshots", "0"))
    vm = mount.create("vm")
    assert vm.info["boot"] == "cold" and status(mount, "starts_warm") == 0 and status(mount, "boot_snapshots") == 1
