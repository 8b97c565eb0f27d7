#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""bench_load: how long the first fork of a saved snapshot waits for its memory

usage: bench_load [--engine qemu|kvm] [-n N] [--mib MIB ...] [--build DIR]

For each size (512 and 4096 MiB) a machine writes to three quarters of its memory and is saved by name. Then N times (5),
the sizes by turns, a new daemon: the first fork, which waits until the memory is loaded, and a second one, which does
not; no machine is ready for either.
"""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests/e2e"))
sys.dont_write_bytecode = True

import bench_arguments  # noqa: E402
import harness  # noqa: E402
from bench_forks import fork  # noqa: E402
from harness import Mount, Snapshot, fields  # noqa: E402
from samples import Samples  # noqa: E402


def save(mount, mib):
    """Of a machine with so much memory; what it writes are programs, which pack to a half."""
    vm = mount.create(f"filled{mib}", memory=f"{mib}M", memory_max=f"{mib}M")
    vm.sh(f"mount -t tmpfs -o size={mib}m none /mnt")
    vm.sh(f"size=0; while [ $size -lt {mib * 3 // 4 << 20} ]; do cat /bin/busybox; size=$((size + $(stat -c %s /bin/busybox))); done > /mnt/x")
    vm.ctl(f"snapshot mib{mib}")
    vm.remove()


def measure(mount, options, samples):
    for mib in options.mib:
        save(mount, mib)
    print(fields(mount / "status")["engine"], "load", os.getloadavg())
    for _ in range(options.n):
        for mib in options.mib:
            mount.stop()
            mount.start()
            snap = Snapshot(mount / f"snapshots/mib{mib}")
            for which in "first", "second":
                fork(samples, snap, f"{which} of {mib} MiB", "f").remove()
    print("load", os.getloadavg())


def main():
    parser = bench_arguments.parser(__doc__, 5)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--mib", type=int, nargs="+", default=[512, 4096])
    options = parser.parse_args()
    build = options.build
    harness.become_subreaper()
    work = Path(tempfile.mkdtemp())
    mount = Mount(build, TOP / "build/guest", options.engine, work / "mount", work / "state", ["--pool", "0"])
    samples = Samples()
    try:
        subprocess.run([build / "sbx", "image", "build", "base", "--state", work / "state"], check=True)
        mount.start()
        measure(mount, options, samples)
        samples.show()
        mount.stop()
    finally:
        if mount.alive:
            mount.abort()
        shutil.rmtree(work)


main()
