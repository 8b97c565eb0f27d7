# SPDX-License-Identifier: MIT
"""bench_floor: forks of a hand-made guest to its first exit, beside the KVM calls alone (tests/bench_kvm.c)"""
import json
import os
import subprocess

NAMES = {
    "floor": "KVM calls and one exit: the floor",
    "cold": "hand-made guest, nothing ready",
    "generic": "hand-made guest, empty process",
    "restored": "hand-made guest, process restored",
    "capture_pause": "hand-made guest, capture, paused",
}


def rows(build, n):
    """For the table. 256 MiB are touched, so that the pause is per 256 MiB."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return
    command = [build / "bench_kvm", "-n", str(n), "-m", "320", "-t", "256", build]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    for line in done.stdout.splitlines():
        row = json.loads(line)
        if row["name"] in NAMES:
            yield {"name": NAMES[row["name"]], "n": row["n"], "p50_ms": row["p50_us"] / 1000, "p99_ms": row["p99_us"] / 1000}


def compare(by_name):
    floor = by_name.get(NAMES["floor"])
    if floor:
        restored, generic = by_name[NAMES["restored"]], by_name[NAMES["generic"]]
        print(f"to the first exit, a restored process takes {restored / floor:.1f} floors, an empty one {generic / floor:.1f}")
