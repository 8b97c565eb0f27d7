# SPDX-License-Identifier: MIT
"""The examples do what they say, and Python processes have random numbers of their own where they ask for it."""
import errno
import os
import re
import subprocess
import time

import pytest

from harness import LAB, TOP, Sandbox, fails, limit, read, write

needs_debian = pytest.mark.skipif(LAB, reason="makes an image of Debian's packages, which the lab does not reach")


@pytest.fixture(scope="session")
def examples_state(tmp_path_factory):
    """A state directory that keeps its images from one example to the next."""
    return tmp_path_factory.mktemp("examples") / "state"


@pytest.fixture
def example(engine, build, guest, examples_state):
    """A function: run an example on a mount of its own; returns what it says."""

    def run(name, *args, seconds=100):
        env = dict(
            {key: value for key, value in os.environ.items() if not key.startswith("SBX")},
            SBX_STATE=str(examples_state),
            SBX_BUILD=str(build),
            SBX_OPTIONS=f"--engine {engine} --guest {guest}",
        )
        argv = [TOP / "examples" / name, *args]
        done = subprocess.run(argv, env=env, text=True, capture_output=True, timeout=limit(seconds), check=False)
        assert done.returncode == 0, f"{name} -> {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


def test_best_of_three(example):
    """The worker that goes on is each time the one that came nearest, with the number it had by then."""
    lines = example("best-of-three").splitlines()
    found = [re.fullmatch(r"round (\d), step (-?\d): x = (\d+), distance (\d+)", line) for line in lines]
    found = [tuple(map(int, match.groups())) for match in found if match]
    assert len(found) == 9
    at = 30
    for number in 1, 2, 3:
        attempts = [row for row in found if row[0] == number]
        assert all(x == at + step and distance == abs(x * x - 2000) for _, step, x, distance in attempts)
        best = min(attempts, key=lambda row: row[3])
        assert f"round {number}: round{number}.{attempts.index(best) + 1} wins" in lines
        at = best[2]


@needs_debian
@pytest.mark.timeout(600)
def test_warm_python(example):
    """Ten forks answer a job each without the time the imports took, and no two have the same random numbers."""
    out = example("warm-python", "10", seconds=500)
    imports = int(re.search(r"^base: ready: imports took (\d+) ms$", out, re.M).group(1))
    jobs = re.findall(r"^job for (w\d+): 661\.462947 in (\d+) ms, and a random (\d+)$", out, re.M)
    assert {name for name, _, _ in jobs} == {f"w{i}" for i in range(1, 11)} and len(jobs) == 10
    assert len({number for _, _, number in jobs}) == 10
    assert sorted(int(took) for _, took, _ in jobs)[5] < imports, out


@needs_debian
@pytest.mark.timeout(600)
def test_database_per_test(example):
    """Each test has the seeded database for itself, whatever the others do to theirs."""
    out = example("database-per-test", seconds=500)
    assert sorted(re.findall(r"^ok (\w+)$", out, re.M)) == ["clear", "drop", "restock", "sell"]


# ---- examples/reseed

WORKER = """
import random, ssl
{}
random.random(), ssl.RAND_bytes(8)
while input() is not None:
    print(random.getrandbits(64), ssl.RAND_bytes(8).hex(), flush=True)
"""


@pytest.fixture
def ask():
    """A function: send a line to a job, and return the words of its answer. Starts it, too; its input stays open."""
    inputs = []

    def ask(vm, job, cmd=None):
        inputs.append(os.open(vm / "exec" / job / "stdin", os.O_WRONLY))
        if cmd:
            write(vm / "exec" / job / "cmd", cmd)
        os.write(inputs[-1], b"\n")
        with open(vm / "exec" / job / "stdout", "rb") as out:
            return out.readline().decode().split()

    yield ask
    for fd in inputs:
        os.close(fd)


@needs_debian
@pytest.mark.timeout(600)
def test_reseed(example, own_mount, examples_state, ask):
    """A process that takes part has new seeds before its fork answers; one that cannot is not handed out."""
    if not (examples_state / "images/python").exists():
        example("database-per-test", seconds=500)  # makes the image
    mount = own_mount(state=examples_state)
    vm = mount.create("origin", image="python")
    for name in "reseed.py", "50-reseed":
        where = "root" if name.endswith("py") else "etc/sbx/fork.d"
        (vm / "fs" / where / name).write_bytes((TOP / "examples/reseed" / name).read_bytes())
    (vm / "fs/etc/sbx/fork.d/50-reseed").chmod(0o755)
    (vm / "fs/root/with.py").write_text(WORKER.format("import reseed"))
    (vm / "fs/root/without.py").write_text(WORKER.format(""))
    for name in "with", "without":
        vm.job(name=name)
        assert len(ask(vm, name, f"exec python3 /root/{name}.py")) == 2
    snap = vm.snapshot()
    snap.ctl("fork 3 w")
    forks = [Sandbox(mount / f"w{i}") for i in (1, 2, 3)]
    answers = [ask(fork, "with") for fork in forks]
    assert len({numbers for numbers, _ in answers}) == 3 and len({secret for _, secret in answers}) == 3, answers
    # This is why: what a process keeps in its memory is the same in every fork.
    assert len({ask(fork, "without")[0] for fork in forks}) == 1
    # A fork of a fork, too.
    assert ask(forks[0].fork("w4"), "with") != ask(forks[0], "with")

    vm.ctl("resume")
    vm.sh("kill -STOP $(ls /run/sbx/reseed)")
    start = time.monotonic()
    with fails(errno.EIO):
        vm.fork("stopped")
    assert time.monotonic() - start < limit(20)
    assert "50-reseed" in read(vm / "error") and not os.path.exists(mount / "stopped")
