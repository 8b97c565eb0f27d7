# SPDX-License-Identifier: MIT
"""The pool keeps within its bounds, and a burst that is larger than it is only as slow as without."""
import time

from harness import LAB, Sandbox, eventually, fields, limit, value


def ready(mount):
    return int(fields(mount / "status")["machines_ready"])


def watch(mount, seconds, most):
    """Look for some time, in which the pool is refilled, and never see more than `most`."""
    end = time.monotonic() + limit(seconds)
    while time.monotonic() < end:
        assert ready(mount) <= most
        time.sleep(0.02)


def two_snapshots(mount):
    vm = mount.create("origin")
    snaps = []
    for _ in range(2):
        snaps.append(vm.snapshot())
        vm.ctl("resume")
    return snaps


def test_bounds(own_mount):
    """--pool for each snapshot, --pool-total for all; the snapshot forked last has its share first."""
    mount = own_mount(options=["--pool", "2", "--pool-total", "3", "--boot-snapshots", "0"])
    snaps = two_snapshots(mount)
    assert ready(mount) == 0  # nothing was forked yet
    status = fields(mount / "status")
    assert (status["pool"], status["pool_total"]) == ("2", "3")
    snaps[0].fork("a").remove()
    eventually(lambda: ready(mount) == 2, 20, "the pool does not fill")
    snaps[1].fork("b").remove()
    eventually(lambda: ready(mount) == 3, 20, "the pool does not fill up to its total")
    watch(mount, 1, 3)
    # A burst of three times as many is served, and the pool is full again afterwards, not fuller.
    snaps[1].ctl("fork 9 w")
    assert all(value(mount / f"w{i}/state") == "running" for i in range(1, 10))
    assert [Sandbox(mount / f"w{i}").run("hostname") for i in (1, 9)] == ["w1\n", "w9\n"]
    eventually(lambda: ready(mount) == 3, 20, "the pool does not fill after a burst")
    watch(mount, 1, 3)
    # A snapshot that is gone needs none.
    for snap in snaps:
        snap.remove()
    eventually(lambda: ready(mount) == 0, 10, "machines are kept ready for what is gone")


def test_memory(own_mount):
    """--pool-memory: any machine is above this bound, so there is one, and it has gone to who forked last."""
    mount = own_mount(options=["--pool", "4", "--pool-memory", "64K", "--boot-snapshots", "0"])
    snaps = two_snapshots(mount)
    snaps[0].fork("a").remove()
    eventually(lambda: ready(mount) == 1, 20, "the pool does not fill")
    assert fields(mount / "status")["pool_memory"] == "65536"
    # One that is ready is looked at, on a thread.
    eventually(lambda: int(fields(mount / "status")["pool_memory_used"]) > 65536, 10, "its memory is not known")
    watch(mount, 1, 1)
    snaps[1].fork("b").remove()
    snaps[0].remove()  # had it kept its machine, the pool would be empty now
    eventually(lambda: ready(mount) == 1, 20, "the pool does not follow who forks")


def row(mount, snap, n):
    """Forks one after the other, each with a command: how many found a machine ready."""
    found = lambda: int(fields(mount / "status")["found_ready"])  # noqa: E731
    before = found()
    for i in range(n):
        vm = snap.fork(f"w{i}")
        assert vm.run("hostname") == f"w{i}\n"
        vm.remove()
    return found() - before


def test_a_row_finds_one_ready_each_time(own_mount):
    """What the first takes is known to the pool, within its bounds, before the second comes."""
    n = 6 if LAB else 10
    mount = own_mount(options=["--pool", "2", "--pool-total", str(n), "--boot-snapshots", "0"])
    snap = mount.create("origin").snapshot()
    snap.fork("first").remove()
    eventually(lambda: ready(mount) == 2, 20, "the pool does not fill")
    if row(mount, snap, n) < n:  # a host with many CPUs may make them as fast as they are taken
        eventually(lambda: ready(mount) == n, 90, "the pool does not follow a row of forks")
    assert row(mount, snap, n) == n


def test_no_pool(own_mount):
    mount = own_mount(options=["--pool", "0"])
    snap = mount.create("origin").snapshot()
    snap.fork("a")
    watch(mount, 0.5, 0)
    assert snap.fork("b").run("hostname") == "b\n"
