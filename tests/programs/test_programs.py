# SPDX-License-Identifier: MIT
"""What `make check` runs beside the end-to-end suite on the normal build: programs in C, and the suite in other places.

Each is one pytest item, so that one summary line covers everything.
"""
import json
import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
FUZZ_SECONDS = int(os.environ.get("FUZZ_SECONDS", "15"))
SANITIZED = TOP / "build/san/sbxfs"
SANITIZER_ENV = {
    "ASAN_OPTIONS": "abort_on_error=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def run(argv, seconds, env=None):
    """A program that must succeed; all that it started ends with it."""
    process = subprocess.Popen(
        list(map(str, argv)), cwd=TOP, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        code = process.wait(seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert code == 0, f"{' '.join(map(str, argv))} ended with {code}"


def programs(directory):
    found = sorted(p for p in (TOP / directory).glob("*") if p.is_file() and os.access(p, os.X_OK))
    return [pytest.param(p, id=p.name) for p in found]


def suite(build, engine, *args, tests=("tests/e2e",)):
    return ["/usr/bin/python3", "-m", "pytest", "-q", *tests, "--build", build, "--engine", engine, *args]


def engine_of_this_host():
    """`auto` is kvm wherever that runs."""
    done = subprocess.run([TOP / "build/sbx", "doctor"], capture_output=True, text=True, check=False)
    return next((line.split()[1] for line in done.stdout.splitlines() if line.startswith("engine ")), None)


KVM_WORKS = engine_of_this_host() == "kvm"
LAB_SECONDS = 2700
# Of the suite, what an engine can do otherwise than the other one. The lab is ten to twenty times slower than its host:
# all of the suite takes it hours (`make check-lab`).
LAB_TESTS = [
    f"tests/e2e/test_{name}.py"
    for name in ("fork", "snapshot", "lifecycle", "rollback", "resize", "memory", "identity", "pool", "jail", "cgroups")
]
LAB_TESTS += ["tests/e2e/test_counts.py::test_of_a_live_fork_whatever_its_memory"]
# An init of the image's own, once.
LAB_TESTS += ["tests/e2e/test_init.py::test_an_init_that_ends_all_it_does_not_spare"]
# Of the network what goes through the device and its captured state; all of it takes the lab 25 minutes beside other work.
LAB_TESTS += [
    f"tests/e2e/test_network.py::test_{name}"
    for name in ("a_rule_opens_a_port_of_this_host", "data_arrives_as_it_was_sent", "a_web_server_published_from_each_fork")
]
# A guest that answers with what would switch something off for the whole mount.
LAB_TESTS += ["tests/e2e/test_hostile_guest.py::test_every_operation_with_every_errno"]
# But for what the engine has no part in, and for tests in which several guests have several CPUs each: now and then QEMU
# 7.2's SVM stops the lab with those, for good and at full load, and when it does not, a second CPU costs ten seconds of
# the lab's. `make check-lab` has them.
LAB_MARKS = "not any_engine and not several_cpus"


class Beside:
    """A suite in the background, and what it says in a file; its own test waits for it (conftest.py has the order)."""

    def __init__(self, argv, log, env=None):
        self.log = log
        with open(log, "wb") as out:
            self.process = subprocess.Popen(
                list(map(str, argv)), cwd=TOP, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True
            )  # fmt: skip

    def check(self, seconds):
        """It must succeed in that time from now."""
        try:
            code = self.process.wait(seconds)
        finally:
            print(self.log.read_text(errors="replace"))
        assert code == 0, f"{self.log} ended with {code}"

    def end(self):
        """Whatever it does; it has files and mounts to remove."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def chosen(request, test):
    return any(item.name == test.__name__ for item in request.session.items)


@pytest.fixture(scope="session", autouse=True)
def lab(request):
    """
    The suite in the lab, if its test is among the chosen. The lab has one CPU, so it is started first and runs beside
    everything else.
    """
    if KVM_WORKS or not chosen(request, test_suite_in_the_lab):
        yield None
        return
    units = "for t in build/unit/test_kvm_*; do $t || exit; done"
    tests = [*LAB_TESTS, "--engine", "kvm", "-vv", "--durations=15", "-m", LAB_MARKS]
    command = f"tests/lab/lab sh -c {shlex.quote(units)} && exec tests/lab/suite -t {LAB_SECONDS} {shlex.join(tests)}"
    beside = Beside(["sh", "-c", command], TOP / "build/lab.log")
    yield beside
    beside.end()


@pytest.fixture(scope="session", autouse=True)
def sanitized(request):
    """
    The suite with the sanitizer build, likewise: much of either suite is waiting for what has to take its time. What it
    waits for takes longer where three suites share two CPUs; the one on the normal build has the limits as they are.
    """
    if not SANITIZED.exists() or not chosen(request, test_suite_sanitized):
        yield None
        return
    argv = suite("build/san", "qemu", "-m", "not timing and not plain and not long", "--durations=15")
    beside = Beside(argv, TOP / "build/sanitized.log", {**SANITIZER_ENV, "SCALE": "3"})
    yield beside
    beside.end()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("program", programs("build/unit"))
def test_unit(program):
    run([program], 110)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("program", programs("build/san/unit"))
def test_unit_sanitized(program):
    run([program], 170, SANITIZER_ENV)


@pytest.mark.timeout(FUZZ_SECONDS + 60)
@pytest.mark.parametrize("program", programs("build/fuzz"))
def test_fuzz(program, tmp_path):
    """What a run finds new stays in build/corpus, and the next run begins with it."""
    corpus = TOP / "build/corpus" / program.name
    corpus.mkdir(parents=True, exist_ok=True)
    crashes = f"-artifact_prefix={TOP}/build/corpus/{program.name}-"
    run([program, f"-max_total_time={FUZZ_SECONDS}", "-timeout=10", "-print_final_stats=1", crashes, corpus], FUZZ_SECONDS + 50)


@pytest.mark.timeout(2400)
@pytest.mark.skipif(not SANITIZED.exists(), reason="there is no sanitizer build")
def test_suite_sanitized(sanitized):
    """The end-to-end suite with a daemon that watches its own memory."""
    sanitized.check(2330)


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="this host has no /dev/kvm that may be opened")
def test_benchmark_of_hand_made_guests():
    """Nothing else runs it but `make bench`; how long things take here does not matter."""
    argv = [TOP / "build/bench_kvm", "-n", "2", "-m", "64", "-t", "16", TOP / "build"]
    rows = [json.loads(line) for line in subprocess.run(argv, check=True, stdout=subprocess.PIPE, timeout=60).stdout.splitlines()]
    assert {"capture", "fork_capture", "floor", "cold", "generic", "restored"} <= {row["name"] for row in rows}
    assert all(0 < row["p50_us"] <= row["p99_us"] for row in rows)


@pytest.mark.timeout(2400)
@pytest.mark.skipif(not KVM_WORKS, reason="this host does not run the kvm engine: the lab does")
def test_suite_on_kvm():
    run(suite("build", "kvm"), 2390)


@pytest.mark.timeout(LAB_SECONDS + 700)
@pytest.mark.skipif(KVM_WORKS, reason="this host runs the kvm engine itself")
def test_suite_in_the_lab(lab):
    """What LAB_TESTS says of the suite with the engine kvm, and its unit tests, on hardware virtualization that QEMU emulates."""
    lab.check(LAB_SECONDS + 600)
