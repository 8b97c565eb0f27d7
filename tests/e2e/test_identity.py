# SPDX-License-Identifier: MIT
"""What a fork has of its own from its first command on: randomness, names, and a clock that is right."""
import os
import subprocess
import time
from pathlib import Path

import pytest

from harness import LAB, Sandbox, limit, read, value

FORKS = 10 if LAB else 50
CLOCK_NS = limit(50_000_000)


@pytest.fixture(scope="session")
def probe(tmp_path_factory):
    """The program probe.c, as bytes."""
    path = tmp_path_factory.mktemp("probe") / "probe"
    subprocess.run(["gcc", "-O1", "-static", "-s", "-o", path, Path(__file__).with_name("probe.c")], check=True)
    return path.read_bytes()


@pytest.fixture
def quiet(vm):
    """A machine in which nothing happens, so that a hundred of them do not fill the host."""
    vm.sh("for p in /proc/[0-9]*; do grep -qs count[i]ng $p/cmdline && kill ${p#/proc/}; done; true")
    return vm


@pytest.fixture
def probed(quiet, probe):
    vm = quiet
    (vm / "fs/root/probe").write_bytes(probe)
    (vm / "fs/root/probe").chmod(0o755)
    return vm


class Service:
    """A job that is asked a line at a time."""

    def __init__(self, vm, name):
        self.stdin = os.open(vm / "exec" / name / "stdin", os.O_WRONLY)
        self.stdout = os.open(vm / "exec" / name / "stdout", os.O_RDONLY)

    def ask(self):
        """(words of the answer, when it was asked, when it was there): host's wall clock in ns."""
        asked = time.time_ns()
        os.write(self.stdin, b"?\n")
        line = os.read(self.stdout, 4096)
        return line.decode().split(), asked, time.time_ns()

    def close(self):
        os.close(self.stdin)
        os.close(self.stdout)


def clock_error(service):
    """By how many ns the guest's wall clock is wrong, at least, as far as the quickest of some answers tells."""
    answers = [service.ask() for _ in range(10)]
    words, asked, answered = min(answers, key=lambda answer: answer[2] - answer[1])
    guest = int(words[0])
    return max(asked - guest, guest - answered, 0)


@pytest.mark.long
def test_fifty_forks_have_nothing_in_common(sbx, probed):
    """The first command of each tells; so does a process that ran in all of them when they were one."""
    server = probed.job(name="server")
    with open(server / "stdin", "wb", buffering=0):
        server.start("exec /root/probe serve")
        snap = probed.snapshot()
        snap.ctl(f"fork {FORKS} n")
    forks = [Sandbox(sbx / f"n{i}") for i in range(1, FORKS + 1)]
    first = [fork.run("/root/probe").split() for fork in forks]
    assert [words[1] for words in first] == [fork.name for fork in forks]
    for what, column in ("machine-id", 2), ("getrandom", 3):
        assert len({words[column] for words in first}) == FORKS, what
    assert all(len(words[2]) == 32 for words in first)
    randoms, errors = {words[3] for words in first}, []
    for fork in forks:
        service = Service(fork, "server")
        words, _, _ = service.ask()
        assert words[1] == fork.name
        randoms.add(words[3])
        errors.append(clock_error(service))
        service.close()
    assert len(randoms) == 2 * FORKS
    assert max(errors) < CLOCK_NS, sorted(errors)
    print("clock error in ns:", sorted(errors))


def test_wall_clock_after_a_long_pause(probed):
    """Also of one that is resumed, and of a fork of an old snapshot."""
    server = probed.job(name="server")
    with open(server / "stdin", "wb", buffering=0):
        server.start("exec /root/probe serve")
        snap = probed.snapshot()
        time.sleep(2)
        for vm in probed, snap.fork("w"):
            vm.ctl("resume")
            service = Service(vm, "server")
            error = clock_error(service)
            service.close()
            assert error < CLOCK_NS, vm.name


def test_monotonic_time_does_not_jump(probed):
    """A process that sleeps through a capture has slept as long as it asked for, by its own clock."""
    seconds = limit(2)
    job = probed.job(f"/root/probe sleep {seconds}", name="sleeper")
    with open(job / "stdout", "rb", buffering=0) as out:
        assert out.readline() == b"sleeping\n"
        uptime = float(read(probed / "fs/proc/uptime").split()[0])
        snap = probed.snapshot()
        time.sleep(limit(3))  # the guest knows nothing of this
        fork = snap.fork("w")
        assert float(read(fork / "fs/proc/uptime").split()[0]) - uptime < limit(2)
        assert value(fork / "exec/sleeper/status") == "running"
        probed.ctl("resume")
        spans = [int(out.readline())]
    with open(fork / "exec/sleeper/stdout", "rb", buffering=0) as out:
        spans.append(int(out.readline()))
    for span in spans:
        assert seconds * 1e9 <= span < (seconds + limit(0.5)) * 1e9, spans


def test_wall_clock_of_one_that_is_captured_often(probed):
    """It stands still for each capture; its clock makes up for that."""
    server = probed.job(name="server")
    with open(server / "stdin", "wb", buffering=0):
        server.start("exec /root/probe serve")
        for _ in range(10):
            probed.ctl("checkpoint")
        service = Service(probed, "server")
        assert clock_error(service) < CLOCK_NS
        service.close()


def test_ten_forks_deep(quiet):
    """Each level makes a change of its own; memory and files are right at every level, and stay so."""
    levels = [quiet]
    for i in range(1, 11):
        parent = levels[-1]
        parent.sh(f"echo {i} >> /root/levels; echo {i} >> /run/levels; echo {i} > /root/own{i}; echo {i} > /run/own{i}")
        if i % 2:
            levels.append(parent.fork(f"g{i}"))
        else:
            snap = parent.snapshot()
            levels.append(snap.fork(f"g{i}"))
            parent.ctl("resume")
    for i, vm in enumerate(levels):
        last = min(i + 1, 10)
        expect = "".join(f"{n}\n" for n in range(1, last + 1))
        assert vm.run("cat /root/levels") == vm.run("cat /run/levels") == expect, vm.name
        assert vm.run("ls -d /root/own* | wc -l; ls -d /run/own* | wc -l") == f"{last}\n{last}\n", vm.name
        assert vm.run(f"cat /root/own{last} /run/own{last}") == f"{last}\n{last}\n", vm.name
        assert vm.run("hostname") == f"{vm.name}\n"
    # From the bottom up: an origin that is gone is not missed.
    for vm in levels[:-1]:
        vm.remove()
    assert levels[-1].run("cat /root/levels | wc -l; cat /run/levels | wc -l") == "10\n10\n"
    assert levels[-1].fork("g11").run("cat /run/own10") == "10\n"


@pytest.mark.long
def test_destroying_many_does_not_delay_a_fork(sbx, quiet):
    """A hundred in all: the fork made at that moment takes no longer than its like, but for the host's own work."""
    many = 20 if LAB else 100
    snap = quiet.snapshot()
    snap.ctl(f"fork {many} d")
    alone = []
    for i in range(5):
        start = time.monotonic()
        snap.fork(f"q{i}")
        alone.append(time.monotonic() - start)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for i in range(1, many + 1):
                os.rmdir(sbx / f"d{i}")
            code = 0
        finally:
            os._exit(code)
    busy = []
    for i in range(5, 8):
        start = time.monotonic()
        snap.fork(f"q{i}")
        busy.append(time.monotonic() - start)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    print("fork alone:", alone, "while", many, "are destroyed:", busy)
    assert min(busy) < 3 * max(alone) + limit(0.1)
    assert snap.fork("q9").run("echo on") == "on\n"
