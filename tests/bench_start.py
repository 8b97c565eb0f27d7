# SPDX-License-Identifier: MIT
"""bench_start: a start from a boot snapshot beside a fork of a snapshot, in turns, a machine ready for each

    start, warm             the sandbox is made before; what is timed is the verb
    fork beside it          mkdir in forks/ of a snapshot of such a machine
    first start             of a daemon that has no boot snapshot: a boot, a capture and a fork
"""
import time

from bench_forks import fork
from harness import eventually, fields


def until_ready(mount):
    """Until there are as many machines for each of the two as there shall be."""
    want = 2 * int(fields(mount / "status")["pool"])
    eventually(lambda: int(fields(mount / "status")["machines_ready"]) >= want, 60, "the pool does not fill")


def start(mount, samples, what, name):
    vm = mount.create(name, start=False)
    begin = time.perf_counter()
    vm.ctl("start")
    samples.add(f"{what}: to return", time.perf_counter() - begin)
    assert vm.run("echo answer") == "answer\n"
    samples.add(f"{what}: to the first answer", time.perf_counter() - begin)
    assert vm.info["boot"] == "warm"
    return vm


def first(mount, samples):
    start(mount, samples, "first start", "first").remove()


def warm(mount, samples, n):
    vm = mount.create("prepared")
    vm.run("true")
    snap = vm.snapshot()
    snap.fork("first").remove()
    for i in range(n):
        until_ready(mount)
        fork(samples, snap, "beside a start", f"f{i}").remove()
        until_ready(mount)
        start(mount, samples, "start, warm", f"s{i}").remove()
    snap.remove()
    vm.remove()


def compare(p50):
    ratio = p50["start, warm: to return"] / p50["fork, beside a start: mkdir to return"]
    print(f"a warm start is {ratio:.2f} forks, and 1/{p50['cold boot'] / p50['start, warm: to return']:.0f} of a cold boot")
