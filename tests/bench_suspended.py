#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""bench_suspended: what sandboxes that sleep cost, and how long one takes to be back

usage: bench_suspended [--engine qemu|kvm] [-n N] [--build DIR]

Forks N sandboxes (200) of one snapshot, each with a word of its own on its disk and in its memory, and suspends them.
Before and after: memory of the daemon and of all that it has started, and what the store takes. Then, in turns, how
long a daemon's start takes with all of them and with none, and, with no machine ready for either, how long a wake and a
fork of a loaded snapshot take: until the verb returns, and until a first command has answered.
"""
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests/e2e"))
sys.path.insert(0, str(TOP / "tests"))
sys.dont_write_bytecode = True

import bench_arguments  # noqa: E402
import harness  # noqa: E402
from bench_forks import memory  # noqa: E402
from harness import Mount, Sandbox, Snapshot, fields  # noqa: E402
from samples import at  # noqa: E402

ROUNDS, STARTS = 40, 5


def show(what, seconds):
    ms = [f"{at(seconds, p) * 1000:8.1f} ms" for p in (0.5, 0.99)]
    print(f"{what:52} n={len(seconds):3} p50 {ms[0]} p99 {ms[1]}", flush=True)


def timed(fn):
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start


def below(pid):
    """The process and all that it started."""
    kids = []
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        for task in os.listdir(f"/proc/{pid}/task"):
            kids += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return [pid, *(one for kid in kids for one in below(kid))]


def take_stock(mount, when):
    """The daemon's own memory, that of everything, processes, and the store."""
    pids = below(mount.process.pid)
    # What is being removed meanwhile makes it fail, and say how much there is all the same.
    du = subprocess.run(["du", "-s", "-B1", mount.state], capture_output=True, text=True, check=False)
    stored = int(du.stdout.split()[0])
    own, heap = memory(mount.process.pid)[0], fields_of_metrics(mount)["sbxfs_daemon_heap_bytes"]
    everything = own
    for pid in pids[1:]:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # one that is ending
            everything += memory(pid)[0]
    mib = 1 << 20
    print(f"{when:28} daemon {own / mib:6.1f} MiB (heap {heap / mib:5.1f}), all {len(pids)} processes {everything / mib:6.1f} MiB, store {stored / mib:7.1f} MiB", flush=True)  # fmt: skip
    return own, stored


def fields_of_metrics(mount):
    lines = (mount / "metrics").read_text().splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}


def starts(mount, other, n):
    """In turns with a daemon whose store has nothing but the image."""
    took, took_other = [], []
    for _ in range(STARTS):
        mount.stop()
        took.append(timed(mount.start))
        took_other.append(timed(other.start))
        other.stop()
    show(f"start until mounted, {n} suspended", took)
    show("start until mounted, nothing suspended", took_other)


def names(mount):
    return [len(os.listdir(mount.state / part)) for part in ("objects", "layers")]


def answer(vm):
    assert vm.run("echo answer") == "answer\n"


def measure(mount, other, n):
    vm = mount.create("prepared")
    vm.run("true")
    vm.ctl("snapshot kept")
    vm.remove()
    snap = Snapshot(mount / "snapshots/kept")
    mount.stop()
    mount.start()
    snap.fork("first").remove()
    before, stored = take_stock(mount, "nothing suspended"), names(mount)
    took = []
    for i in range(n):
        one = snap.fork(f"s{i}")
        one.run(f"echo {i} > /root/word; echo {i} > /run/word")
        took.append(timed(lambda one=one: one.ctl("suspend")))
    show("suspend", took)
    after = take_stock(mount, f"{n} suspended")
    each = [(b - a) / n / 1024 for a, b in zip(before, after)]
    print(f"each: {each[0]:.1f} KiB of the daemon's memory, {each[1]:.0f} KiB of the store")
    starts(mount, other, n)
    take_stock(mount, f"{n} suspended, started anew")
    snap.fork("first").remove()  # loads it
    wakes, woken, forks, answered = [], [], [], []
    for i in range(ROUNDS):
        one = Sandbox(mount / f"s{i % n}")
        start = time.perf_counter()
        one.ctl("resume")
        wakes.append(time.perf_counter() - start)
        answer(one)
        woken.append(time.perf_counter() - start)
        assert one.run("cat /root/word /run/word") == f"{i % n}\n" * 2
        one.remove()
        start = time.perf_counter()
        child = snap.fork(f"f{i}")
        forks.append(time.perf_counter() - start)
        answer(child)
        answered.append(time.perf_counter() - start)
        child.remove()
    accessed = []
    for i in range(ROUNDS, 2 * ROUNDS):
        accessed.append(timed(lambda i=i: answer(Sandbox(mount / f"s{i}"))))
        Sandbox(mount / f"s{i}").remove()
    show("wake: resume to return", wakes)
    show("wake: resume to the first answer", woken)
    show("wake by a command, to its answer", accessed)
    show("fork of a loaded snapshot: mkdir to return", forks)
    show("fork of a loaded snapshot: to the first answer", answered)
    for name in mount.sandboxes():
        os.rmdir(mount / name)
    # What was stored goes in the background.
    harness.eventually(lambda: all(now <= then for now, then in zip(names(mount), stored)), 120, "something is left over in the store")
    take_stock(mount, "all removed")


def main():
    parser = bench_arguments.parser(__doc__, 200)
    parser.add_argument("--engine", default="auto")
    options = parser.parse_args()
    if options.n < 2 * ROUNDS:
        parser.error(f"-n is at least {2 * ROUNDS}")
    build = options.build
    harness.become_subreaper()
    work = Path(tempfile.mkdtemp())
    mount = other = None
    try:
        for state in "state", "other":
            subprocess.run([build / "sbx", "image", "build", "base", "--state", work / state], check=True)
        daemon = ["--pool", "0", "--boot-snapshots", "0"]
        mount = Mount(build, build / "guest", options.engine, work / "ours", work / "state", daemon)
        other = Mount(build, build / "guest", options.engine, work / "theirs", work / "other", daemon)
        mount.start()
        print(fields(mount / "status")["engine"], "load", os.getloadavg()[0])
        measure(mount, other, options.n)
        mount.stop()
        print("load", os.getloadavg()[0])
    finally:
        for each in mount, other:
            if each and each.alive:
                each.abort()
        shutil.rmtree(work)


main()
