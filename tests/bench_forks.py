# SPDX-License-Identifier: MIT
"""bench_forks: forks with machines ready in the pool and without, many at once, of one that lives long, and their memory

    fork, ready             the pool is full before each
    fork, none ready        of a daemon with --pool 0
    row of 20               one after the other, each with a command: what the pool learns from the first is for the next
    10 at once              the batch verb, per child: five times what is ready, and then with what the pool has learned
    fork of a running one   a capture and a fork, early in the life of a sandbox and late
    idle fork               memory of the VMM process of a fork that has run one command
"""
import os
import time
from pathlib import Path

from harness import Sandbox, Snapshot, eventually, fields

BURST, BATCH, ROW = 10, 100, 20


def until_ready(mount, want=None):
    """Until the pool of one snapshot has as many as for any, or so many."""
    want = want or int(fields(mount / "status").get("pool", 2))
    eventually(lambda: int(fields(mount / "status")["machines_ready"]) >= want, 30, "the pool does not fill")


def fork(samples, snap, what, name):
    # Paths are made before: where Python runs slowly they are as long as a tenth of a fork.
    path, vm = os.fspath(snap / "forks" / name), Sandbox(snap.root / name)
    start = time.perf_counter()
    os.mkdir(path)
    samples.add(f"fork, {what}: mkdir to return", time.perf_counter() - start)
    assert vm.run("echo answer") == "answer\n"
    samples.add(f"fork, {what}: to the first answer", time.perf_counter() - start)
    return vm


def batch(samples, mount, snap, what, n):
    start = time.perf_counter()
    snap.ctl(f"fork {n} b")
    samples.add(what, (time.perf_counter() - start) / n)
    return [Sandbox(mount / f"b{i}") for i in range(1, n + 1)]


def memory(pid):
    """
    Bytes that are its own, and its share of what others have too. Pages of a template that no other process maps at the
    moment, which the kernel calls private, are the template's.
    """
    rollup = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kib = {key: int(text.split()[0]) for key, text in rollup.items()}
    return kib["Anonymous"] << 10, kib["Pss"] << 10


def remove(vms):
    for vm in vms:
        vm.remove()


def again(vm):
    """A snapshot that the pool knows nothing of but that it was forked once."""
    vm.ctl("resume")
    snap = vm.snapshot()
    snap.fork("first").remove()
    return snap


def ready(mount, samples, n):
    vm = mount.create("prepared")
    snap = vm.snapshot()
    snap.fork("first").remove()
    for i in range(n):
        until_ready(mount)
        fork(samples, snap, "ready", f"f{i}").remove()
    for when in "the first", "the second", "the third":
        for i in range(ROW):
            fork(samples, snap, f"row of {ROW}, {when}", f"r{i}").remove()
        until_ready(mount, min(ROW, int(fields(mount / "status").get("pool_total", 2))))
    snap.remove()
    snap = again(vm)
    until_ready(mount)
    remove(batch(samples, mount, snap, f"{BURST} at once, 2 ready: per fork", BURST))
    for _ in range(max(1, n // 20)):
        until_ready(mount, BURST)
        remove(batch(samples, mount, snap, f"{BURST} at once, as before: per fork", BURST))
    forks = batch(samples, mount, snap, f"batch of {BATCH}: per fork", BATCH)
    for one in forks:
        one.run("true")
        private, share = memory(one.pid)
        samples.add_bytes(f"idle fork of {BATCH}: its own", private)
        samples.add_bytes(f"idle fork of {BATCH}: Pss", share)
    # A fork made while the hundred are destroyed.
    pid = os.fork()
    if pid == 0:
        try:
            remove(forks)
        finally:
            os._exit(0)
    number = 0
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        fork(samples, snap, f"while {BATCH} are destroyed", f"g{number}").remove()
        number += 1
    vm.remove()


def none_ready(mount, samples, n):
    """Of a daemon without a pool."""
    vm = mount.create("prepared")
    snap = vm.snapshot()
    for i in range(n):
        fork(samples, snap, "none ready", f"f{i}").remove()
    for _ in range(max(1, n // 20)):
        remove(batch(samples, mount, snap, f"{BURST} at once, no pool: per fork", BURST))
    vm.remove()


def long_lived(mount, samples, n):
    """n forks of one running sandbox, which writes to its disk in between: the 10th and its neighbours, and the last."""
    vm = mount.create("long")
    some = min(20, n // 2)
    for i in range(n):
        vm.run(f"echo {i} >> /root/log")
        start = time.perf_counter()
        child = vm.fork(f"l{i}")
        took = time.perf_counter() - start
        child.remove()
        if i < some or i >= n - some:
            when = f"fork {1 if i < some else n - some + 1} to {some if i < some else n} of a running one"
            samples.add(when, took)
            vm.ctl("checkpoint")
            snap = Snapshot((vm / "snapshots/latest").resolve())
            samples.add(f"{when}: pause", int(snap.info["pause_us"]) / 1e6)
            snap.remove()
    vm.remove()
