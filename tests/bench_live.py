#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""bench_live: what a fork of a running machine takes, by the size of its memory

usage: bench_live [--engine qemu|kvm] [-n N] [--sizes SIZE,SIZE...] [--mib MIB] [--build DIR]

A machine of each size, started from a boot snapshot, whose guest writes MIB (16) to files in its memory once. Then, by
turns, N times (20): a checkpoint of each, and a fork, with what the host's kernel counts of page faults meanwhile; and
of the fork, for the engine kvm, how many mappings its memory is, and what lies in the file over its base.
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
from harness import Mount, Sandbox, fields  # noqa: E402
from samples import at  # noqa: E402

SIZES = "256M,1G,2G,4G"


def page_faults():
    return int(re.search(r"^pgfault (\d+)", Path("/proc/vmstat").read_text(), re.M)[1])


def started(mount, size, mib):
    harness.write(mount / "ctl", f"create vm{size} image=base memory={size} memory_max={size}")
    vm = Sandbox(mount / f"vm{size}")
    assert vm.info["boot"] == "warm"
    vm.sh(f"mount -t tmpfs -o size={mib + 8}m none /mnt && head -c {mib << 20} /dev/urandom > /mnt/written")
    return vm


def memory_of(pid):
    """(mappings, MiB in the file that was made last): of a fork, what lies over its base. Nothing of a QEMU."""
    lines = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "sbx-ram" in line]
    files = [os.stat(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if "sbx-ram" in os.readlink(fd)]
    newest = max(files, key=lambda file: file.st_ino, default=None)
    return len(lines), newest.st_blocks * 512 / (1 << 20) if newest else 0


def fork(vm, found):
    path, child = os.fspath(vm / "forks/w"), Sandbox(vm.path.parent / "w")
    faults, start = page_faults(), time.perf_counter()
    os.mkdir(path)
    found["fork, ms"].append((time.perf_counter() - start) * 1000)
    found["page faults of the host"].append(page_faults() - faults)
    mappings, stored = memory_of(child.pid)
    found["mappings"].append(mappings)
    found["copied, MiB"].append(stored)
    child.remove()


def checkpoint(vm, found):
    start = time.perf_counter()
    vm.ctl("checkpoint")
    found["checkpoint, ms"].append((time.perf_counter() - start) * 1000)
    path = (vm / "snapshots/latest").resolve()
    found["pause, ms"].append(int(fields(path / "info")["pause_us"]) / 1000)
    os.rmdir(path)


def main():
    parser = bench_arguments.parser(__doc__, 20)
    parser.add_argument("--engine", default="kvm")
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--mib", type=int, default=16)
    options = parser.parse_args()
    build = options.build
    harness.become_subreaper()
    work = Path(tempfile.mkdtemp())
    work.chmod(0o755)
    mount = None
    try:
        subprocess.run([build / "sbx", "image", "build", "base", "--state", work / "state"], check=True)
        mount = Mount(build, build / "guest", options.engine, work / "mount", work / "state", ["--boot-snapshots", "8"])
        mount.start()
        machines = [started(mount, size, options.mib) for size in options.sizes.split(",")]
        rows = "fork, ms", "checkpoint, ms", "pause, ms", "page faults of the host", "mappings", "copied, MiB"
        found = [{row: [] for row in rows} for _ in machines]
        for _ in range(options.n):
            for vm, of in zip(machines, found):
                vm.fork("w").remove()  # the processes that wait for a machine are of its size from now on
                checkpoint(vm, of)
                fork(vm, of)
        print(f"n={options.n}")
        for vm, of in zip(machines, found):
            for row, values in of.items():
                print(f"{vm.name:8} {row:24} p50 {at(values, 0.5):9.1f}  p99 {at(values, 0.99):9.1f}", flush=True)
        mount.stop()
    finally:
        if mount and mount.alive:
            mount.abort()
        shutil.rmtree(work)


main()
