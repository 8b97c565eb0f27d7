#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""bench_pause: for how long a machine of the engine qemu stands when it is captured and goes on

usage: bench_pause [-n N] [--mib MIB] [--busy MIB] [--build DIR]

Two daemons, one of which finds no sbx-track.so and so copies all of a machine's memory while it stands. In each a guest
writes MIB to memory (512), and from then on, again and again, --busy of them (0). Then N checkpoints (10)
of each, by turns: the pause, and how long the verb takes.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests/e2e"))
sys.dont_write_bytecode = True

import bench_arguments  # noqa: E402
import harness  # noqa: E402
from harness import Mount, fields  # noqa: E402
from samples import at  # noqa: E402


def touched(mount, mib, busy):
    """A running machine that has written so much."""
    size = f"{max(512, -(-(mib + 256) // 128) * 128)}M"
    vm = mount.create("touched", memory=size, memory_max=size)
    vm.sh(f"mount -o remount,size={mib + 64}m /dev/shm 2>&1 || mount -t tmpfs -o size={mib + 64}m none /dev/shm")
    vm.sh(f"head -c {1 << 20} /dev/urandom > /dev/one; for i in $(seq {mib}); do cat /dev/one; done > /dev/shm/touched")
    if busy:
        vm.sh(f"(while :; do head -c {busy << 20} /dev/zero | dd of=/dev/shm/touched bs=64k conv=notrunc; done) > /dev/null 2>&1 &")
    return vm


def checkpoint(vm):
    """Seconds: the pause, and the verb."""
    start = time.perf_counter()
    vm.ctl("checkpoint")
    took = time.perf_counter() - start
    path = (vm / "snapshots/latest").resolve()
    pause = int(fields(path / "info")["pause_us"]) / 1e6
    os.rmdir(path)
    return pause, took


def pages(mount):
    """Copied in the pauses, from the daemon's log."""
    return [int(n) for n in re.findall(r"and (\d+) in a pause of", mount.log)]


def main():
    parser = bench_arguments.parser(__doc__, 10)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--busy", type=int, default=0)
    options = parser.parse_args()
    build = options.build
    harness.become_subreaper()
    work = Path(tempfile.mkdtemp())
    without = work / "libexec"
    without.mkdir()
    for name in "sbx-vmm", "sbx-browse", "sbx-net":
        shutil.copy(build / name, without)
    work.chmod(0o755)
    kinds = {"in the pause": ["--libexec", str(without)], "ahead": []}
    mounts = {}
    try:
        for i, (kind, more) in enumerate(kinds.items()):
            state = work / f"state{i}"
            subprocess.run([build / "sbx", "image", "build", "base", "--state", state], check=True)
            mounts[kind] = Mount(build, build / "guest", "qemu", work / f"mount{i}", state, ["-v", "--pool", "0", *more])
            mounts[kind].start()
        machines = {kind: touched(mount, options.mib, options.busy) for kind, mount in mounts.items()}
        took = {kind: [] for kind in kinds}
        print("load", os.getloadavg()[0])
        for _ in range(options.n):
            for kind, vm in machines.items():
                took[kind].append(checkpoint(vm))
        for kind, all_of_it in took.items():
            for what, values in zip(("pause", "checkpoint"), zip(*all_of_it)):
                ms = [f"{at(values, p) * 1000:8.1f} ms" for p in (0.5, 0.99)]
                print(f"copied {kind:12} {what:10} n={len(values):3} p50 {ms[0]} p99 {ms[1]}")
            print(f"copied {kind:12} pages in a pause: {at(pages(mounts[kind]), 0.5)}")
        print("load", os.getloadavg()[0])
        for mount in reversed(mounts.values()):  # each is a child of ours that the one before it must not find
            mount.stop()
    finally:
        for mount in mounts.values():
            if mount.alive:
                mount.abort()
        shutil.rmtree(work)


main()
