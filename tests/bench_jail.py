#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""bench_jail: what jails cost a fork, by turns with a daemon that makes none

usage: bench_jail [--engine qemu|kvm] [-n N] [--build DIR]

Forks of a snapshot, N (60) of a daemon as it is and N of one with --jail=none, one after the other in turns: with a
machine ready, and of daemons that have none ready. Needs root, as --jail=none runs machines as the daemon's user.
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
from bench_forks import fork, until_ready  # noqa: E402
from harness import Mount, fields  # noqa: E402
from samples import Samples  # noqa: E402

DAEMONS = {"jail": [], "no jail": ["--jail=none"]}
POOLS = {"a machine ready": [], "none ready": ["--pool", "0"]}


def snapshot(mount):
    vm = mount.create("prepared")
    vm.run("true")
    snap = vm.snapshot()
    snap.fork("first").remove()
    return snap


def measure(mounts, what, n):
    rows = Samples()
    snaps = {jail: snapshot(mount) for jail, mount in mounts.items()}
    for i in range(n):
        for jail in sorted(mounts, reverse=i % 2):
            if what != "none ready":
                for mount in mounts.values():
                    until_ready(mount)
            fork(rows, snaps[jail], f"{what}, {jail}", f"f{i}").remove()
    rows.show()


def main():
    parser = bench_arguments.parser(__doc__, 60)
    parser.add_argument("--engine", default="auto")
    options = parser.parse_args()
    build = options.build
    harness.become_subreaper()
    work = Path(tempfile.mkdtemp())
    mounts = {}
    try:
        subprocess.run([build / "sbx", "image", "build", "base", "--state", work / "base"], check=True)
        for what, pool in POOLS.items():
            for jail, extra in DAEMONS.items():
                name = f"{what}, {jail}".replace(" ", "-")
                shutil.copytree(work / "base", work / name, symlinks=True)
                argv = ["--boot-snapshots", "0", "--net", "none", *pool, *extra]
                mounts[jail] = Mount(build, TOP / "build/guest", options.engine, work / f"m-{name}", work / name, argv)
                mounts[jail].start()
                print(jail, fields(mounts[jail] / "status")["jail"])
            print(fields(mounts["jail"] / "status")["engine"], "load", os.getloadavg())
            measure(mounts, what, options.n)
            for mount in reversed(mounts.values()):  # each looks at what is there beyond what was
                mount.stop()
        print("load", os.getloadavg())
    finally:
        for mount in mounts.values():
            if mount.alive:
                mount.abort()
        shutil.rmtree(work, ignore_errors=True)


main()
