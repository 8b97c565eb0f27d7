# SPDX-License-Identifier: MIT
"""Machines made ready ahead of time: a fork of one is like any other, only sooner."""
import os
from pathlib import Path

import pytest

from harness import Sandbox, eventually, fields, value


def until_ready(mount):
    """Of a daemon with --pool 1 and one snapshot that was forked."""
    eventually(lambda: int(fields(mount / "status")["machines_ready"]) >= 1, 20, "no machine is made ready")


@pytest.fixture
def pooled(own_mount):
    """A snapshot that machines are kept ready for, and a function that waits until one is."""
    mount = own_mount(options=["--pool", "1", "--boot-snapshots", "0"])
    vm = mount.create("origin")
    vm.sh("printf '#!/bin/sh\\necho \"$SBX_NAME\" >> /run/forked\\n' > /etc/sbx/fork.d/10-note")
    vm.sh("chmod +x /etc/sbx/fork.d/10-note; cat /etc/hostname /etc/machine-id > /run/before")
    reader = vm.job(name="reader")
    with open(reader / "stdin", "wb", buffering=0):
        reader.start("while read line; do echo got $line; done")
        snap = vm.snapshot()
    snap.fork("first").remove()

    return snap, lambda: until_ready(mount)


def test_a_machine_made_ready_is_a_fork_like_any_other(pooled):
    """Its rehearsal ran no hook, gave it no name, raised no generation and left nothing."""
    snap, ready = pooled
    ready()
    vm = snap.fork("w")
    assert vm.run("hostname; cat /etc/hostname") == "w\nw\n"
    assert vm.run("cat /run/forked") == "w\n"
    left = vm.run("ls -A /run/sbx").split()
    assert {"generation", "name"} <= set(left) and not [name for name in left if name.startswith(".")]
    assert int(vm.run("cat /run/sbx/generation")) == int(vm.info["generation"]) == 2
    assert vm.run("cat /etc/machine-id") not in vm.run("cat /run/before")
    assert vm.run("ps -o comm | grep -cx sh") == "2\n", "the reader and this command's shell"


def test_jobs_of_a_machine_made_ready(pooled):
    snap, ready = pooled
    ready()
    vm = snap.fork("w")
    with open(vm / "exec/reader/stdin", "wb", buffering=0) as stdin, open(vm / "exec/reader/stdout", "rb") as stdout:
        stdin.write(b"line\n")
        assert stdout.readline() == b"got line\n"
        assert value(vm / "exec/reader/status") == "running"
    assert value(vm / "exec/reader/wait") == "exited 0"


def test_random_numbers_of_machines_made_ready(pooled):
    snap, ready = pooled
    seen = set()
    for i in range(3):
        ready()
        seen.add(snap.fork(f"w{i}").run("head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/uuid"))
    assert len(seen) == 3


def stat(path):
    """The fields of a /proc/PID/stat from the third on, the state."""
    return (path / "stat").read_text().rpartition(")")[2].split()


def nice(pid):
    """Of each of its threads that lives."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found.add(int(stat(task)[16]))
        except OSError:
            pass  # it has ended
    return found


def machines(pid):
    """The processes that run machines for the same daemon as this one does."""
    parent = stat(Path(f"/proc/{pid}"))[1]
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text()
            if stat(process)[1] == parent and name.startswith(("qemu-system", "sbx-vmm")):
                found.add(int(process.name))
        except OSError:
            pass
    return found


def test_machines_made_ready_let_others_go_first(pooled):
    snap, ready = pooled
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, mine - 1)
        os.setpriority(os.PRIO_PROCESS, 0, mine)
    except PermissionError:
        pytest.skip("only who may raise a priority lowers one")
    ready()
    vm = snap.fork("w")
    assert nice(vm.pid) == {mine}
    ready()
    sandboxes = {Sandbox(snap.root / name).pid for name in ("origin", "w")}
    # One that was begun last may still be on its way.
    eventually(lambda: all(nice(pid) == {mine + 10} for pid in machines(vm.pid) - sandboxes), 10, "they do not give way")
    assert machines(vm.pid) - sandboxes


WATCH = """
while :; do
    new=$(ls -i /run/sbx/generation)
    [ "$new" = "$old" ] || echo "$new" >> /run/seen
    old=$new
    sleep 0.02
done
"""


@pytest.mark.any_engine
def test_a_rehearsal_wakes_nobody_who_watches(own_mount):
    """What programs watch changes once: when the machine becomes a fork."""
    mount = own_mount(options=["--pool", "1", "--boot-snapshots", "0"])

    def seen(vm):
        now = vm.run("ls -i /run/sbx/generation")
        lines = vm.run("cat /run/seen").splitlines(keepends=True)
        return len(lines) if lines and lines[-1] == now else 0

    vm = mount.create("origin")
    vm.job(name="watch").start(WATCH)
    eventually(lambda: seen(vm) == 1, 10, "nobody watches")
    snap = vm.snapshot()
    snap.fork("first").remove()
    until_ready(mount)
    w = snap.fork("w")
    eventually(lambda: seen(w), 10, "the fork was not noticed")
    assert seen(w) == 2
