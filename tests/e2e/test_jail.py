# SPDX-License-Identifier: MIT
"""Machines and helpers in jails, seen from the host. What they can do in there, tests/unit/test_jail.c tries."""
import contextlib
import errno
import fcntl
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from harness import Snapshot, eventually, fails, fields, limit, read, write

UIDS = range(1900000000, 1900065536)
NAMESPACES = ["mnt", "pid", "net", "ipc", "uts", "cgroup"]


def status(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.split() for key, value in (line.split(":", 1) for line in lines)}


def namespaces(pid):
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}


def helper(name):
    """The pid of a helper, a grandchild of this process."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == name:
                yield int(path.parent.name)
        except OSError:
            pass


def test_what_a_machine_may(vm):
    """No privileges, nothing of the host's, and `info` says so."""
    assert vm.info["jail"].startswith("namespaces")
    is_root = os.geteuid() == 0
    has = status(vm.pid)
    assert all(int(has[key][0], 16) == 0 for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert has["NoNewPrivs"] == ["1"] and has["Seccomp"] == ["2"]
    assert (int(has["Uid"][0]) in UIDS) == is_root and len(set(has["Uid"])) == 1
    assert not set(namespaces(vm.pid).values()) & set(namespaces("self").values())
    root = Path(f"/proc/{vm.pid}/root")
    assert not (root / "etc/passwd").exists() and not (root / "root").exists()
    with fails(errno.EROFS):
        (root / "left").write_text("")


def test_no_core_dumps(vm, sbx):
    """With a limit of 0 the kernel would hand one to the program that core_pattern names."""
    for pid in (vm.pid, sbx.process.pid):
        line = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core file" in line)
        assert line.split()[4:6] == ["1", "1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's daemon has nothing to give up")
def test_what_the_daemon_keeps(vm, sbx):
    """Every thread of it; tests/unit/test_confine.c tries what it can do with that."""
    vm.ctl("checkpoint")  # makes a worker
    assert fields(sbx / "status")["daemon"].startswith("confined")
    pid = sbx.process.pid
    seen = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a worker that has ended meanwhile
            seen.append(status(f"{pid}/task/{task}"))
    assert seen
    for has in seen:
        assert int(has["CapPrm"][0], 16) == int(has["CapEff"][0], 16) == 1 << 10  # CAP_NET_BIND_SERVICE
        assert all(int(has[key][0], 16) == 0 for key in ("CapInh", "CapBnd", "CapAmb"))
        assert has["NoNewPrivs"] == ["1"] and has["Seccomp"] == ["2"]
    root = Path(f"/proc/{pid}/root")
    assert not any((root / name).exists() for name in ("etc", "root", "usr", "dev", "proc/sys"))
    assert (root / str(sbx.state).lstrip("/") / "layers").is_dir()


def test_what_a_networks_helper_may(sbx, vm):
    """It has the host's network, and no right to anything there but what everybody may, low ports neither."""
    eventually(lambda: sbx.helpers("sbx-net"), 10, "none is ready")
    pid = min(sbx.helpers("sbx-net"))
    has = status(pid)
    assert all(int(has[key][0], 16) == 0 for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert has["NoNewPrivs"] == ["1"] and has["Seccomp"] == ["2"]
    assert (int(has["Uid"][0]) in UIDS) == (os.geteuid() == 0)
    shared = [name for name in NAMESPACES if namespaces(pid)[name] == namespaces("self")[name]]
    assert shared == ["net"]


def test_two_machines_share_nothing(prepared):
    one, two = prepared.fork("one"), prepared.fork("two")
    assert status(one.pid)["Uid"] != status(two.pid)["Uid"]
    assert not set(namespaces(one.pid).values()) & set(namespaces(two.pid).values())


def test_layers_of_others_cannot_be_written(vm):
    """A descriptor of a layer below the topmost leads to a mount where even root cannot write."""
    vm.sh("echo x > /root/x")
    files = {}
    for fd in Path(f"/proc/{vm.pid}/fd").iterdir():
        target = os.readlink(fd)
        if re.search(r"\.(qcow2|raw)$", target):
            flags = int(re.search(r"flags:\s*(\d+)", Path(f"/proc/{vm.pid}/fdinfo/{fd.name}").read_text())[1], 8)
            files.setdefault(target.rsplit("/", 1)[1], []).append((fd, flags & os.O_ACCMODE))
    own = [name for name, fds in files.items() if any(access != os.O_RDONLY for _, access in fds)]
    assert len(own) == 1 and len(files) > 1
    for name, fds in files.items():
        for fd, _ in fds if name not in own else []:
            with fails(errno.EROFS):
                os.open(fd, os.O_RDWR)


def test_what_is_shared_has_a_fixed_size(vm):
    """A process that shortens memory would kill whoever reads it there."""
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    shared = 0
    for fd in Path(f"/proc/{vm.pid}/fd").iterdir():
        if os.readlink(fd).startswith("/memfd:sbx-"):
            mine = os.open(fd, os.O_RDONLY)
            assert fcntl.fcntl(mine, fcntl.F_GET_SEALS) & seals == seals, os.readlink(fd)
            os.close(mine)
            shared += 1
    assert shared


def test_a_large_journal(vm):
    """A helper's libraries make system calls that only large disks show."""
    vm.sh("for i in $(seq 200); do mkdir /root/d$i; echo $i > /root/d$i/f; done")
    vm.ctl("checkpoint")
    snap = Snapshot((vm / "snapshots/latest").resolve())
    assert len([name for name in os.listdir(snap / "fs/root") if name.startswith("d")]) == 200
    assert read(snap / "fs/root/d200/f") == "200\n"


def test_a_helpers_death_is_told(vm, sbx):
    vm.ctl("checkpoint")
    snap = Snapshot((vm / "snapshots/latest").resolve())
    before = set(helper("sbx-browse"))
    os.listdir(snap / "fs")
    (pid,) = set(helper("sbx-browse")) - before
    assert int(status(pid)["CapBnd"][0], 16) == 0 and status(pid)["Seccomp"] == ["2"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: "sbx-browse was killed by signal 9" in sbx.log, 10, "nothing in the log")
    assert os.listdir(snap / "fs")  # by another one


def test_a_machines_death_is_told(vm):
    os.kill(vm.pid, signal.SIGKILL)
    vm.wait_state("crashed")
    assert "killed by signal 9" in read(vm / "error")


@pytest.mark.skipif(os.geteuid() != 0, reason="machines of root's daemon have other user ids than it")
def test_a_daemon_whose_files_are_its_own(own_mount):
    """A service's umask is not for the roots that are made for others."""
    vm = own_mount(first="umask 077").create("vm")
    write(vm / "net/publish", "8080\n")  # wants the helper
    assert vm.sh("echo well") == "well\n"


def test_without_a_jail(own_mount):
    mount = own_mount(options=["--jail=none"])
    assert re.search(r"^jail none ", read(mount / "status"), re.M)
    vm = mount.create("vm")
    assert vm.info["jail"].startswith("machines run as the daemon's user")
    assert status(vm.pid)["Uid"] == status("self")["Uid"]
    vm.ctl("checkpoint")
    w = Snapshot((vm / "snapshots/latest").resolve()).fork("w")
    assert w.sh("echo well") == "well\n"


@pytest.mark.parametrize("options", [["--jail=none"], []])
def test_untrusted_guests(build, guest, new_state, tmp_path, engine, options):
    """They need hardware virtualization and a jail."""
    (tmp_path / "m").mkdir()
    argv = [build / "sbxfs", "--untrusted", "--engine", engine, "--state", new_state(), "--guest", guest]
    argv += [*options, tmp_path / "m"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=limit(30), check=False)
    doctor = subprocess.run([build / "sbx", "doctor"], capture_output=True, text=True, check=False).stdout
    try:
        if options:
            assert done.returncode == 1 and "without a jail" in done.stderr
        elif "engine kvm" in doctor:
            assert done.returncode == 0
        else:
            assert done.returncode == 1 and "emulate" in done.stderr
    finally:
        subprocess.run(["fusermount3", "-u", tmp_path / "m"], capture_output=True, check=False)


def test_ids_that_make_no_sense(build, tmp_path):
    for uids in ("0-10", "5000", "6000-5000", "1000-x", "1000-4294967295"):
        argv = [build / "sbxfs", "--jail-uids", uids, tmp_path]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=limit(30), check=False)
        assert done.returncode == 2 and "--jail-uids" in done.stderr
