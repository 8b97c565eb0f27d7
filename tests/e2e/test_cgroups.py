# SPDX-License-Identifier: MIT
"""What a sandbox may use of its host: `limits`, and the cgroups that hold it to them."""
import errno
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from harness import Snapshot, eventually, fails, fields, limit, read, write

NONE = "memory max\ncpu max\npids max\nio max\ndisk max\n"


def has_cgroups(mount):
    return "none" not in fields(mount / "status")["cgroup"]


@pytest.fixture
def bounded(vm, sbx):
    """A machine whose host can limit it."""
    if not has_cgroups(sbx):
        pytest.skip("this host has no cgroups of version 2 with controllers")
    return vm


def group(pid):
    """The directory of a process's cgroup."""
    line = next(line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::"))
    return Path("/sys/fs/cgroup" + line[3:])


def cpu_us(vm):
    return int(fields(vm / "stats")["cpu_us"])


def test_guests_go_before_the_daemon(vm, sbx):
    """When the host's memory is short the kernel ends who has the highest score."""
    score = {pid: int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (vm.pid, sbx.process.pid)}
    assert score[vm.pid] == 900 > score[sbx.process.pid]


@pytest.fixture
def delegated():
    """A group without processes, as a service manager makes one for a daemon."""
    group = Path(f"/sys/fs/cgroup/sbx-test-{os.getpid()}")
    group.mkdir()
    yield group
    for below in sorted((d for d in group.rglob("*") if d.is_dir()), reverse=True):
        below.rmdir()
    group.rmdir()


def test_a_group_that_is_delegated(sbx, delegated, own_mount):
    """With all that it started before its machines the daemon goes to a group below, so that there can be others."""
    if not has_cgroups(sbx):
        pytest.skip("this host has no cgroups of version 2 with controllers")
    mount = own_mount(first=f"echo $$ >{delegated}/cgroup.procs")
    assert has_cgroups(mount), read(mount / "status")
    assert (delegated / "cgroup.procs").read_text() == ""
    assert group(mount.process.pid).is_relative_to(delegated)
    vm = mount.create("vm")
    write(vm / "limits", "pids 100")
    assert group(vm.pid).is_relative_to(delegated) and group(vm.pid) != group(mount.process.pid)
    mount.stop()


def test_what_makes_no_sense(vm):
    assert read(vm / "limits") == NONE
    for text, code in {
        "memory": errno.EINVAL, "memory 1G 2G": errno.EINVAL, "disk-speed 1": errno.EINVAL, "memory lots": errno.EINVAL,
        "cpu 1.2345": errno.EINVAL, "cpu .5": errno.EINVAL, "cpu 1.": errno.EINVAL, "cpu 1e9": errno.EINVAL,
        "memory 1M": errno.ERANGE, "memory 99999999999T": errno.ERANGE, "cpu 0": errno.ERANGE, "pids 1": errno.ERANGE,
        "cpu 99999999": errno.ERANGE, "io 1": errno.ERANGE, "memory 1G\ncpu 1": errno.EINVAL,
    }.items():  # fmt: skip
        with fails(code, vm / "error"):
            write(vm / "limits", text)
    for verb in ("fork w limits.memory=1M", "fork w limits.=1", "fork w limits.swap=1", "fork 2 w limits.cpu=0"):
        with fails(errno.ERANGE if verb.endswith(("1M", "=0")) else errno.EINVAL, vm / "error"):
            vm.ctl(verb)
    assert read(vm / "limits") == NONE


def test_where_there_are_no_cgroups(vm, sbx, build, guest, new_state, tmp_path, engine):
    """A limit that nobody sees to is refused, not noted."""
    if has_cgroups(sbx):
        pytest.skip("this host has cgroups")
    for name in ("memory 1G", "cpu 1", "pids 100", "io 1M"):
        with fails(errno.EOPNOTSUPP, vm / "error"):
            write(vm / "limits", name)
        assert "cgroup" in read(vm / "error")
    for path, verb in ((vm, "fork w limits.cpu=1"), (sbx, "create w limits.cpu=1")):
        with fails(errno.EOPNOTSUPP, path / "error"):
            write(path / "ctl", verb)
    write(vm / "limits", "memory max")
    assert read(vm / "limits") == NONE and vm.info["cgroup"].startswith("none: ")
    (tmp_path / "m").mkdir()
    argv = [build / "sbxfs", "--limits", "memory=1G", "--engine", engine, "--state", new_state(), "--guest", guest]
    done = subprocess.run([*argv, tmp_path / "m"], capture_output=True, text=True, timeout=limit(30), check=False)
    assert done.returncode == 1 and "--limits: memory: this host has no cgroups" in done.stderr


def test_limits_of_the_daemon_that_make_no_sense(build, tmp_path):
    for text in ("memory", "memory=", "swap=1", "memory=1G,", "cpu=1;pids=5", "pids=5"):
        argv = [build / "sbxfs", "--limits", text, tmp_path]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=limit(30), check=False)
        assert done.returncode == 2 and "--limits" in done.stderr, text


def test_a_group_for_each_process(bounded, prepared):
    """It is there before the process is, and goes with it."""
    other = prepared.fork("other")
    write(other / "net/publish", "8080\n")  # wants the helper
    groups = [group(vm.pid) for vm in (bounded, other)]
    assert groups[0] != groups[1] and groups[0].parent == groups[1].parent
    # Those of the kernel's threads for a VM are called kvm-*.
    pids = [int(pid) for pid in (groups[1] / "cgroup.procs").read_text().split()]
    assert [pid for pid in pids if not Path(f"/proc/{pid}/comm").read_text().startswith("kvm-")] == [other.pid]
    other.remove()
    eventually(lambda: not groups[1].exists(), limit(5), "the cgroup stays")
    assert bounded.sh("echo well") == "well\n"


def test_limits_hold_and_are_kept(bounded, sbx):
    """In the kernel's files, at once, over a rollback and a stop; a fork has its own."""
    vm = bounded
    vm.ctl("checkpoint")
    write(vm / "limits", "memory 900M")
    write(vm / "limits", "pids 64")
    write(vm / "limits", "cpu 1.5")
    wanted = f"memory {900 << 20}\ncpu 1.5\npids 64\nio max\ndisk max\n"

    def kernel(pid):
        names = ("memory.max", "cpu.max", "pids.max")
        return [(group(pid) / name).read_text().strip() for name in names]

    assert read(vm / "limits") == wanted and kernel(vm.pid) == [str(900 << 20), "150000 100000", "64"]
    vm.ctl("rollback 1")
    assert read(vm / "limits") == wanted and kernel(vm.pid) == [str(900 << 20), "150000 100000", "64"]
    w = Snapshot(vm / "snapshots/1").fork("w")
    assert read(w / "limits") == NONE and kernel(w.pid) == ["max", "max 100000", "max"]
    Snapshot(vm / "snapshots/1").ctl("fork w2 limits.memory=1G limits.cpu=0.25")
    w2 = sbx.path / "w2"
    assert read(w2 / "limits") == f"memory {1 << 30}\ncpu 0.25\npids max\nio max\ndisk max\n"
    assert kernel(int(fields(w2 / "info")["pid"]))[:2] == [str(1 << 30), "25000 100000"]
    write(vm / "net/publish", "8080\n")
    write(vm / "limits", "cpu 2")
    write(vm / "limits", "memory max")
    assert kernel(vm.pid) == ["max", "200000 100000", "64"]
    # The network's helper has them, too; those in the pool have none.
    helpers = [kernel(pid) for pid in sbx.helpers("sbx-net")]
    assert ["max", "200000 100000", "64"] in helpers


def test_a_guest_that_computes(bounded):
    """It gets the share of a CPU that it may have."""
    bounded.sh("while :; do :; done >/dev/null 2>&1 &")
    write(bounded / "limits", "cpu 0.2")
    began, before = time.monotonic(), cpu_us(bounded)
    time.sleep(3)
    seconds, used = time.monotonic() - began, (cpu_us(bounded) - before) / 1e6
    assert 0.05 * seconds < used < 0.2 * seconds + 0.15


def test_a_guest_that_takes_memory(bounded, prepared):
    """It ends, and says why; its neighbour does not."""
    other = prepared.fork("other")
    used = int((group(bounded.pid) / "memory.current").read_text())
    allowed = max(used + (8 << 20), 64 << 20)
    write(bounded / "limits", f"memory {allowed}")
    bounded.job("dd if=/dev/zero of=/dev/shm/f bs=64K count=1600")
    bounded.wait_state("crashed", seconds=limit(20))
    assert "more memory than its limit allows" in read(bounded / "error")
    assert other.sh("echo well") == "well\n"
    write(bounded / "limits", "memory max")
    assert read(bounded / "limits") == NONE


def test_a_guest_that_writes(bounded):
    """
    Disk and page cache: what it is given to the disk takes its time. The daemon makes the disk's file, and the kernel
    counts what is written back of a file against who wrote most of it lately: against the machine after some seconds.
    """
    device = os.stat("/scratch").st_dev if os.path.isdir("/scratch") else None
    if device is None:
        pytest.skip("the store may be on a filesystem without a disk")
    write(bounded / "limits", "io 2M")
    assert "wbps=2097152" in (group(bounded.pid) / "io.max").read_text()
    took = []
    while not took or took[-1] < 2 and len(took) < 8:
        began = time.monotonic()
        bounded.sh("dd if=/dev/urandom of=/root/f bs=1M count=8 conv=fsync 2>/dev/null")
        took.append(time.monotonic() - began)
    assert took[-1] > 2, took
    write(bounded / "limits", "io max")
    assert "wbps" not in (group(bounded.pid) / "io.max").read_text()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to be somebody else")
def test_what_only_root_may_give(bounded, own_mount):
    """A user's sandbox has what --limits gives or less."""
    mount = own_mount(options=["--mode", "1777", "--limits", "memory=1G,cpu=1"])

    def user(script):
        argv = ["setpriv", "--reuid=41001", "--regid=41001", "--clear-groups", "bash", "-c", script]
        return subprocess.run(argv, cwd=mount.path, capture_output=True, text=True, timeout=limit(60), check=False)

    assert user("mkdir a && cat a/limits").stdout == f"memory {1 << 30}\ncpu 1\npids max\nio max\ndisk max\n"
    for line in ("memory 2G", "memory max", "cpu 1.001"):
        done = user(f"echo {line} > a/limits")
        assert done.returncode and "not permitted" in done.stderr
        assert "only root" in read(mount / "a/error")
    assert not user("echo memory 512M > a/limits && echo memory 1G > a/limits && echo pids 100 > a/limits").returncode
    assert "not permitted" in user("echo create b limits.cpu=2 > ctl").stderr
    write(mount / "a/limits", "memory 2G")
    assert re.search(rf"^memory {2 << 30}$", read(mount / "a/limits"), re.M)


def test_nothing_is_left(bounded, own_mount):
    """A daemon's groups go with it, also those of one that was killed before."""
    mount = own_mount()
    vm = mount.create("vm")
    base = group(vm.pid).parent
    assert base.name.startswith("sbxfs-")
    mount.stop()
    assert not base.exists()
