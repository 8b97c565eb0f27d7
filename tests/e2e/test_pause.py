# SPDX-License-Identifier: MIT
"""A machine that is captured and goes on: how much is left to do while it stands, and that a fork is of one moment."""
import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from harness import LAB, Sandbox, eventually, fields, outcome

MIB = 32 if LAB else 64
PAGE = 4096
# Older kernels do not say which pages a process has written.
FOLLOWS = tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 7)
WHOLE = "it stands for as long as its capture takes"


@pytest.fixture(scope="session")
def writer(tmp_path_factory):
    """The program writer.c, as bytes."""
    path = tmp_path_factory.mktemp("writer") / "writer"
    source = Path(__file__).with_name("writer.c")
    subprocess.run(["gcc", "-O1", "-static", "-s", "-o", path, source], check=True)
    return path.read_bytes()


@pytest.fixture
def mount(own_mount):
    return own_mount(options=["-v", "--pool", "0"])


def captures(mount):
    """(name, pages copied ahead, pages copied in the pause) of each, as the daemon's log has them."""
    found = re.findall(r"(\w+): (\d+) pages were copied ahead, and (\d+) in a pause", mount.log)
    return [(name, int(ahead), int(stopped)) for name, ahead, stopped in found]


def start_writer(vm, writer):
    (vm / "fs/root/writer").write_bytes(writer)
    (vm / "fs/root/writer").chmod(0o755)
    vm.sh(f"/root/writer {MIB} > /dev/null 2>&1 & echo $! > /run/pid; until [ -e /run/verdict ]; do sleep 0.1; done")


def written(vm):
    """How many pages it has written, each of which was, like all others now, as it had left it."""
    vm.sh("rm /run/verdict; kill -USR1 $(cat /run/pid)")
    verdict, pages = vm.sh("until [ -e /run/verdict ]; do sleep 0.1; done; cat /run/verdict").split()
    assert verdict == "good"
    return int(pages)


@pytest.mark.timeout(600)
def test_a_fork_is_of_one_moment(mount, writer):
    """While a program writes all of its memory over and over: forks, forks of forks, and a checkpoint."""
    vm = mount.create("origin")
    start_writer(vm, writer)
    before = written(vm)
    for i in range(3):
        child = vm.fork(f"w{i}")
        at = written(child)
        assert at > before
        assert written(child.fork(f"x{i}")) > at
        before = written(vm)
        for name in f"x{i}", f"w{i}":
            os.rmdir(mount / name)
    vm.ctl("checkpoint kept")
    assert written(vm) > before
    os.mkdir(mount / "snapshots/kept/forks/y")
    assert written(Sandbox(mount / "y")) > before


@pytest.mark.timing
@pytest.mark.timeout(600)
def test_the_pause_copies_what_was_written_meanwhile(mount, engine):
    """Not what there is: counted in pages, so that it shows on any host. And each time, not only the first."""
    if engine != "qemu":
        pytest.skip("sbx-vmm has its memory copied otherwise")
    vm = mount.create("origin", memory="512M", memory_max="512M")
    vm.sh("head -c 134217728 /dev/urandom > /dev/shm/large")
    sums = []
    for i in range(3):
        sums.append(vm.fork(f"w{i}").sh("md5sum < /dev/shm/large"))
    assert len(set(sums)) == 1
    done = captures(mount)
    assert len(done) == 3
    if not FOLLOWS:
        assert WHOLE in mount.log and all(not ahead for _, ahead, _ in done)
        return
    assert WHOLE not in mount.log
    for name, ahead, stopped in done:
        assert name == "origin" and ahead * PAGE >= 128 << 20
        assert stopped < 4096, done


def test_a_machine_that_booted_is_captured_all_the_same(mount, engine):
    """Its memory is no fork's, and nothing is copied ahead."""
    vm = mount.create("origin", cold=True)
    vm.sh("echo here > /run/word")
    assert vm.fork("w").run("cat /run/word") == "here\n"
    assert engine != "qemu" or captures(mount)[-1][1] == 0


def test_one_that_stays_paused_is_not_copied_ahead(mount, engine):
    """A suspend, or a snapshot, ends the machine's time anyway."""
    vm = mount.create("origin")
    vm.snapshot()
    assert vm.state == "paused" and [ahead for _, ahead, _ in captures(mount)] == [0]
    vm.ctl("resume")
    vm.ctl("suspend")
    assert all(not ahead for _, ahead, _ in captures(mount)) and fields(mount / "status")["engine"].startswith(engine)


def test_without_the_library_it_is_captured_in_the_pause(own_mount, build, engine, tmp_path):
    """The log says so, once; and forks are as good."""
    if engine != "qemu":
        pytest.skip("sbx-vmm has its memory copied otherwise")
    for name in "sbx-vmm", "sbx-browse", "sbx-net":
        shutil.copy(build / name, tmp_path)
    tmp_path.chmod(0o755)
    mount = own_mount(options=["-v", "--pool", "0", "--libexec", str(tmp_path)])
    vm = mount.create("origin")
    vm.sh("head -c 16777216 /dev/urandom > /dev/shm/large")
    sums = [each.sh("md5sum < /dev/shm/large") for each in (vm, vm.fork("one"), vm.fork("two"))]
    assert len(set(sums)) == 1
    assert mount.log.count(WHOLE) == 1
    assert all(not ahead and stopped * PAGE >= 16 << 20 for _, ahead, stopped in captures(mount))


@pytest.mark.timing
@pytest.mark.timeout(300)
def test_a_machine_that_ends_while_it_is_copied_ahead(mount, engine):
    """Whoever wanted the fork is told, and nothing is left of it."""
    if engine != "qemu" or not FOLLOWS:
        pytest.skip("nothing is copied ahead")
    vm = mount.create("origin", memory="512M", memory_max="512M")
    vm.sh("head -c 134217728 /dev/urandom > /dev/shm/large")
    pid, ended = vm.pid, []
    thread = threading.Thread(target=lambda: ended.append(outcome(vm.fork, "w")))
    thread.start()
    eventually(lambda: "step ahead begins" in mount.log, 10, "nothing is copied ahead")
    os.kill(pid, signal.SIGKILL)
    thread.join(60)
    assert ended and ended[0] and not (mount / "w").exists()
    vm.wait_state("crashed")
    assert "step ahead ends" in mount.log  # it was killed then
    vm.ctl("start")
    assert vm.fork("again").run("echo well") == "well\n"
