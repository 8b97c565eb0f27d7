# SPDX-License-Identifier: MIT
"""Memory and CPUs up and down: on a running sandbox, and as overrides of a fork."""
import errno
import os

import pytest

from harness import LAB, Sandbox, fails, fields, read, value, write

MIB = 1 << 20
OWN = 64 * MIB  # of its memory a kernel keeps this much for itself, at most


def free(vm):
    """Bytes of RAM as `free` of the guest has them."""
    return int(vm.run("free | awk '/^Mem:/ { print $2 }'")) * 1024


def nproc(vm):
    return int(vm.run("nproc"))


def has(vm, memory, cpus):
    """Does the guest say so too?"""
    assert value(vm / "memory") == str(memory * MIB) and value(vm / "cpus") == str(cpus)
    assert memory * MIB - OWN <= free(vm) <= memory * MIB
    assert nproc(vm) == cpus
    return True


def give(vm, memory, cpus):
    for name, setting in ("memory", f"{memory}M\n"), ("cpus", f"{cpus}\n"):
        try:
            write(vm / name, setting)
        except OSError as e:
            raise AssertionError(f"{name} {setting.strip()}: {read(vm / 'error')}") from e
    return has(vm, memory, cpus)


def refused(vm, name, setting, code, *words):
    """Nothing has changed, and `error` has the numbers."""
    before = value(vm / name), free(vm), nproc(vm)
    with fails(code, vm / "error"):
        write(vm / name, f"{setting}\n")
    assert all(word in read(vm / "error") for word in words), read(vm / "error")
    assert (value(vm / name), free(vm), nproc(vm)) == before


# ---- a running sandbox


def test_up_and_down(vm):
    """The guest has it when the write returns."""
    assert has(vm, 256, 1)
    write(vm / "memory", "512M\n")
    assert has(vm, 512, 1)
    write(vm / "cpus", "2\n")
    assert has(vm, 512, 2)
    write(vm / "memory", "256M\n")
    write(vm / "cpus", "1\n")
    assert has(vm, 256, 1)
    write(vm / "memory", str(384 * MIB))  # bytes do as well
    assert has(vm, 384, 1)


@pytest.mark.any_engine
def test_limits(vm):
    refused(vm, "memory", "513M", errno.ERANGE, "513M", "512M")
    refused(vm, "memory", "65G", errno.ERANGE, "65G")
    refused(vm, "cpus", "3", errno.ERANGE, "(3)", "(2)")
    refused(vm, "cpus", "0", errno.ERANGE, "0")
    # The least the guest can live with, and the least anyone can.
    refused(vm, "memory", "128M", errno.ERANGE, "128", "256")
    refused(vm, "memory", "1M", errno.ERANGE, "1M", "128M")
    for nonsense in "many", "", "-1", "1.5", "256 M":
        refused(vm, "memory", nonsense, errno.EINVAL)
    refused(vm, "memory", "300000001", errno.EINVAL)  # no whole number of MiB
    refused(vm, "cpus", "two", errno.EINVAL)
    assert vm.run("echo alive") == "alive\n"


def test_memory_in_use_is_not_taken(vm):
    """The sentence says how much there is, and the guest goes on with what it had."""
    write(vm / "memory", "512M\n")
    vm.sh("mount -t tmpfs -o size=400M none /mnt && dd if=/dev/zero of=/mnt/full bs=1M count=300 2> /dev/null")
    refused(vm, "memory", "256M", errno.EBUSY, "512 MiB", "256 MiB")
    vm.sh("rm /mnt/full")
    write(vm / "memory", "256M\n")
    assert has(vm, 256, 1)


def test_contents_survive(vm):
    """What is in memory that goes away is moved, not lost."""
    write(vm / "memory", "512M\n")
    vm.sh("mount -t tmpfs -o size=200M none /mnt && dd if=/dev/urandom of=/mnt/data bs=1M count=60 2> /dev/null")
    before = vm.sh("md5sum < /mnt/data")
    write(vm / "memory", "256M\n")
    write(vm / "memory", "512M\n")
    assert vm.sh("md5sum < /mnt/data") == before


def test_paused_and_down(vm):
    vm.ctl("pause")
    with fails(errno.EAGAIN, vm / "error"):
        write(vm / "memory", "512M\n")
    vm.ctl("resume")
    assert has(vm, 256, 1)
    vm.ctl("kill")
    write(vm / "memory", "512M\n")  # for the next start
    assert value(vm / "memory") == str(512 * MIB)


@pytest.mark.any_engine
def test_too_little_to_start(sbx):
    """A guest that may grow needs room for the structures of what it may grow to."""
    vm = sbx.create("small", start=False, memory="128M", memory_max="2G")
    with fails(errno.ERANGE, vm / "error"):
        vm.ctl("start")
    assert "128M" in read(vm / "error") and "256M" in read(vm / "error")
    assert vm.state == "created"
    with fails(errno.ERANGE, sbx / "error"):
        write(sbx / "ctl", "create small2 memory=128M")
    assert not os.path.exists(sbx / "small2")


@pytest.mark.several_cpus
def test_size_is_captured(vm):
    """A fork has the memory and CPUs its origin has by then, and a snapshot those of its capture."""
    write(vm / "memory", "512M\n")
    write(vm / "cpus", "2\n")
    snap = vm.snapshot()
    vm.ctl("resume")
    write(vm / "memory", "256M\n")
    write(vm / "cpus", "1\n")
    assert snap.info["memory"] == str(512 * MIB) and snap.info["cpus"] == "2"
    assert has(snap.fork("large"), 512, 2)
    assert has(vm.fork("small"), 256, 1)


# ---- overrides of a fork


@pytest.mark.several_cpus
def test_overrides(sbx, prepared, vm):
    prepared.ctl("fork w1 memory=512M cpus=2")
    assert has(Sandbox(sbx / "w1"), 512, 2)
    vm.ctl("fork w2 memory=384M")
    assert has(Sandbox(sbx / "w2"), 384, 1)
    prepared.ctl("fork 2 b cpus=2 env.KIND=worker")
    for name in "b1", "b2":
        assert has(Sandbox(sbx / name), 256, 2)
    Sandbox(sbx / "w1").ctl("fork w3 memory=256M cpus=1")
    assert has(Sandbox(sbx / "w3"), 256, 1) and has(Sandbox(sbx / "w1"), 512, 2)
    assert has(prepared.fork("w4"), 256, 1)


@pytest.mark.any_engine
@pytest.mark.parametrize(
    "override, code, words",
    [
        ("memory=1G", errno.ERANGE, ("1024M", "512M")),
        ("cpus=3", errno.ERANGE, ("(3)", "(2)")),
        ("memory=128M", errno.ERANGE, ("128", "256")),
        ("memory=1M", errno.ERANGE, ("1M", "128M")),
        ("memory=lots", errno.EINVAL, ("lots",)),
        ("memory_max=1G", errno.EINVAL, ("memory_max",)),
        ("image=other", errno.EINVAL, ("image",)),
    ],
)
def test_overrides_out_of_bounds(sbx, prepared, override, code, words):
    """The fork fails and leaves nothing."""
    with fails(code, prepared / "error"):
        prepared.ctl(f"fork w {override}")
    assert all(word in read(prepared / "error") for word in words), read(prepared / "error")
    assert not os.path.exists(sbx / "w") and "w" not in os.listdir(prepared / "forks")


# ---- again and again


@pytest.mark.several_cpus
@pytest.mark.long
def test_twenty_times_without_drift(sbx):
    """From a snapshot of 512M and one CPU to 1G and four and back: every time to the same, to the byte."""
    base = sbx.create("base", memory="512M", memory_max="1G", cpus_max=4)
    snap = base.snapshot()
    snap.ctl("fork w memory=1G cpus=4")
    vm = Sandbox(sbx / "w")
    assert has(vm, 1024, 4)
    large, small, private = set(), set(), []
    for _ in range(5 if LAB else 20):
        assert give(vm, 512, 1)
        small.add(free(vm))
        assert give(vm, 1024, 4)
        large.add(free(vm))
        private.append(int(fields(vm / "stats")["private"]))
    assert len(large) == len(small) == 1, (large, small)
    # The first rounds touch what the later ones use again.
    assert private[-1] - private[len(private) // 2] < 16 * MIB, private
    assert vm.run("echo alive") == "alive\n" and vm.pid
    vm.remove()
    assert has(snap.fork("w"), 512, 1)
