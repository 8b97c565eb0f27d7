# SPDX-License-Identifier: MIT
"""bench_store: a snapshot of 512 MiB saved and loaded, beside the lz4 tool on the same bytes; a new daemon's first fork"""
import os
import subprocess
import tempfile
import time

from harness import Snapshot

NAMES = {
    "save": "RAM image, save",
    "lz4": "lz4 -1, the same bytes",
    "load": "RAM image, load",
    "unlz4": "lz4 -d, to /dev/null",
}

# Programs, which pack to a half, and noise, which does not, so that most of the memory is worth storing.
FILL = """
dd if=/dev/urandom of=/run/noise bs=1M count=16 2>/dev/null
i=0; while [ $i -lt 95 ]; do cat /bin/busybox; i=$((i+1)); done > /run/programs
"""


def run(mount, samples, n):
    vm = mount.create("stored", memory="512M", memory_max="512M")
    vm.sh(FILL)
    start = time.perf_counter()
    vm.ctl("snapshot stored")
    samples.add("snapshot NAME of 512 MiB, durable", time.perf_counter() - start)
    vm.remove()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as work:
        raw = f"{work}/raw"  # the pages that are not zero: leaving those out would flatter us
        image = (mount.state / "snapshots/stored").resolve() / "ram"
        for _ in range(n):  # in turn, so that other load falls on both
            done = subprocess.run(
                [mount.build / "manual/ramimage", image, raw, "1"], check=True, capture_output=True, text=True
            )
            _, save, _, load = done.stdout.split()
            samples.add(NAMES["save"], float(save) / 1000)
            samples.add(NAMES["load"], float(load) / 1000)
            samples.time(NAMES["lz4"], subprocess.run, ["lz4", "-1qf", raw, f"{raw}.lz4"], check=True)
            samples.time(NAMES["unlz4"], subprocess.run, ["lz4", "-dqf", f"{raw}.lz4", "/dev/null"], check=True)
    for i in range(max(2, n // 4)):
        mount.stop()
        start = time.perf_counter()
        mount.start()
        samples.add("sbxfs start to mounted", time.perf_counter() - start)
        assert Snapshot(mount / "snapshots/stored").fork(f"first{i}").run("echo answer") == "answer\n"
        samples.add("sbxfs start to first answer", time.perf_counter() - start)
    os.rmdir(mount / "snapshots/stored")


def compare(by_name):
    if NAMES["save"] in by_name:
        save, load = by_name[NAMES["lz4"]] / by_name[NAMES["save"]], by_name[NAMES["unlz4"]] / by_name[NAMES["load"]]
        print(f"RAM is saved {save:.1f} times as fast as lz4 -1 packs, and loaded {load:.1f} times as fast as lz4 unpacks")
