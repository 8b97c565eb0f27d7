#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""bench_tti: time to interactive, as ComputeSDK's public benchmark has it (github.com/computesdk/benchmarks)

usage: bench_tti.py [--engine qemu|kvm]... [-n N] [--boot-snapshots N] [--build DIR] [--image NAME --state DIR]
                    [--command CMD] [--output FILE]

From the call that creates a sandbox until its first command has answered; then it is destroyed, which is not timed. N of
them (100) in a row, N begun 200 ms apart, N at once. What is created has the sizes a sandbox has by default. One that is
made before belongs to no row: it boots the machine that the others are forks of, as the first of an image does; with
--boot-snapshots 0 all of them boot. Here the caller is on the same host, so no network is in the times; theirs have the
way to a provider in them. Where theirs runs `node -v` this runs `echo benchmark`, which --command changes. None of the
times is left out; theirs leave out the longest and shortest twentieth.
"""
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests/e2e"))
sys.dont_write_bytecode = True

import bench_arguments  # noqa: E402
import harness  # noqa: E402
from harness import Mount, Sandbox, fields, write  # noqa: E402

APART = 0.2  # seconds


class Row:
    """Times of one mode, in milliseconds; what failed has none."""

    def __init__(self, mount, options, name):
        self.mount, self.options, self.name = mount, options, name
        self.times, self.failures = [], []

    def one(self, i):
        vm = Sandbox(self.mount / f"{self.name.replace(' ', '-')}{i}")
        begin = time.perf_counter()
        try:
            write(self.mount / "ctl", f"create {vm.name} image={self.options.image}")
            answer = vm.run(self.options.command)
            self.times.append((time.perf_counter() - begin) * 1000)
            assert answer or not self.options.command.startswith("echo"), "the command said nothing"
        except (OSError, AssertionError) as e:
            self.failures.append(str(e))
        if vm.path.exists():
            vm.remove()

    def values(self):
        times = sorted(self.times)
        at = lambda p: times[round(p * (len(times) - 1))] if times else None  # noqa: E731
        return {"name": self.name, "n": len(times), "failed": len(self.failures)} | {
            f"p{round(100 * p)}_ms": at(p) for p in (0.5, 0.95, 0.99)
        }


def in_a_row(row, n):
    for i in range(n):
        row.one(i)


def begun(row, n, apart):
    threads = [threading.Thread(target=row.one, args=(i,)) for i in range(n)]
    begin = time.perf_counter()
    for i, thread in enumerate(threads):
        time.sleep(max(0, begin + i * apart - time.perf_counter()))
        thread.start()
    for thread in threads:
        thread.join()


MODES = {
    "in a row": in_a_row,
    "200 ms apart": lambda row, n: begun(row, n, APART),
    "at once": lambda row, n: begun(row, n, 0),
}


def measure(options, engine, work, state):
    build = options.build
    kept = ["--boot-snapshots", str(options.boot_snapshots)]
    mount = Mount(build, build / "guest", engine, work / engine, state, kept).start()
    try:
        status = fields(mount / "status")
        Row(mount, options, "first").one(0)
        rows = []
        for name, mode in MODES.items():
            rows.append(Row(mount, options, name))
            mode(rows[-1], options.n)
            for why in rows[-1].failures[:3]:
                print(f"{name}: {why}", file=sys.stderr)
        mount.stop()
        return {"engine": engine, "how": status["engine"], "results": [row.values() for row in rows]}
    finally:
        if mount.alive:
            mount.abort()


def show(run):
    print(f"\n{run['how']}")
    print(f"{'':16} {'n':>5} {'failed':>7} {'median':>10} {'p95':>10} {'p99':>10}   ms")
    for row in run["results"]:
        times = " ".join(f"{row[key]:10.1f}" if row["n"] else f"{'-':>10}" for key in ("p50_ms", "p95_ms", "p99_ms"))
        print(f"{row['name']:16} {row['n']:5} {row['failed']:7} {times}")


def main():
    parser = bench_arguments.parser(__doc__, 100)
    parser.add_argument("--engine", action="append", choices=["qemu", "kvm"])
    parser.add_argument("--boot-snapshots", type=int, default=8)
    parser.add_argument("--image", default="base")
    parser.add_argument("--state", type=Path, help="a store that has the image; it is used, not copied")
    parser.add_argument("--command", default="echo benchmark")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    harness.become_subreaper()
    work = Path(tempfile.mkdtemp())
    try:
        state = options.state or work / "state"
        if not options.state:
            sbx = options.build / "sbx"
            subprocess.run([sbx, "image", "build", options.image, "--state", state], check=True)
        runs = [measure(options, engine, work, state) for engine in options.engine or ["auto"]]
    finally:
        shutil.rmtree(work)
    cpu = next((line.split(": ", 1)[1] for line in open("/proc/cpuinfo") if line.startswith("model name")), "?").strip()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} x {cpu}, Linux {platform.release()}, load {load:.1f}{', in the lab' if harness.LAB else ''}")
    for run in runs:
        show(run)
    if options.output:
        options.output.write_text(json.dumps({"cpus": os.cpu_count(), "lab": bool(harness.LAB), "runs": runs}, indent=2) + "\n")


main()
