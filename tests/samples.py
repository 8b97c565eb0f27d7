# SPDX-License-Identifier: MIT
"""What was measured, and what is said of it: medians and other percentiles"""
import time


def at(values, p):
    """The value below which that part of them is: 0.5 is the median."""
    values = sorted(values)
    return values[round(p * (len(values) - 1))]


class Samples:
    """Named lists of milliseconds, and of MiB, in the order they were first seen."""

    def __init__(self):
        self.lists, self.sizes = {}, {}

    def add(self, name, seconds):
        self.lists.setdefault(name, []).append(seconds * 1000)

    def time(self, name, fn, *args, **kwargs):
        start = time.perf_counter()
        result = fn(*args, **kwargs)
        self.add(name, time.perf_counter() - start)
        return result

    def add_bytes(self, name, n):
        self.sizes.setdefault(name, []).append(n / (1 << 20))

    def rows(self):
        for lists, unit in (self.lists, "ms"), (self.sizes, "mib"):
            for name, values in lists.items():
                yield {"name": name, "n": len(values)} | {f"p{p}_{unit}": at(values, p / 100) for p in (50, 90, 99)}

    def show(self):
        for row in self.rows():
            if "p50_ms" in row:
                print(f"{row['name']:55} n={row['n']:3} p50 {row['p50_ms']:8.2f} ms p99 {row['p99_ms']:8.2f} ms", flush=True)
