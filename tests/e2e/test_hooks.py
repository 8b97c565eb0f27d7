# SPDX-License-Identifier: MIT
"""Programs in /etc/sbx of an image: before a capture, after a rollback, before a stop."""
import errno
import os

import pytest

from harness import Sandbox, Snapshot, fails, read, value, write


def hook(vm, kind, script, name="10-test"):
    vm.sh(f"mkdir -p /etc/sbx/{kind}.d")
    (vm / f"fs/etc/sbx/{kind}.d" / name).write_text(f"#!/bin/sh\n{script}\n")
    (vm / f"fs/etc/sbx/{kind}.d" / name).chmod(0o755)


def test_before_a_capture(sbx, vm):
    """They run before it, in order and by name; what they leave is in it, and jobs are heard meanwhile."""
    hook(vm, "snapshot", "echo 1 $SBX_NAME $SBX_GENERATION >> /run/captured")
    hook(vm, "snapshot", "sleep 0.3; echo 2 >> /run/captured; echo flushed", name="20-more")
    hook(vm, "snapshot", "exit 1", name=".hidden")
    vm.sh("echo 'exit 1' > /etc/sbx/snapshot.d/90-not-executable")
    generation = vm.sh("cat /run/sbx/generation").strip()
    said = f"1 vm {generation}\n2\n"
    vm.ctl("snapshot")
    snap = Snapshot((vm / "snapshots/latest").resolve())
    vm.ctl("resume")
    assert vm.sh("cat /run/captured") == said
    assert snap.fork("w").sh("cat /run/captured") == said
    vm.ctl("checkpoint")
    vm.fork("f")
    assert vm.sh("cat /run/captured") == 3 * said
    # A pause is none, and a rollback is to work whatever the guest says.
    vm.ctl("pause")
    vm.ctl("resume")
    assert vm.sh("cat /run/captured") == 3 * said
    assert "flushed" in read(vm / "console")


def test_one_may_refuse(sbx, vm):
    """Its last words reach who asked; the machine runs on, and nothing is made."""
    hook(vm, "snapshot", "echo looking >&2; echo 'the database is busy' >&2; exit 3")
    for verb in "snapshot", "checkpoint", "snapshot kept", "fork w":
        with fails(errno.EBUSY, vm / "error"):
            vm.ctl(verb)
        assert read(vm / "error").endswith("refuses: /etc/sbx/snapshot.d/10-test: the database is busy\n"), verb
        assert vm.state == "running" and vm.sh("echo on") == "on\n"
    with fails(errno.EBUSY, vm / "forks/../error"):
        os.mkdir(vm / "forks/w")
    assert sbx.named() == [] and os.listdir(vm / "snapshots") == [] and "w" not in sbx.sandboxes()
    vm.ctl("pause")  # nobody may refuse that
    assert vm.state == "paused"
    vm.ctl("snapshot")  # of a machine that stands still, which has no say
    vm.ctl("resume")
    hook(vm, "snapshot", "exit 3")
    with fails(errno.EBUSY, vm / "error"):
        vm.ctl("checkpoint")
    assert "ended with status 3" in read(vm / "error")
    hook(vm, "snapshot", "exit 0")
    vm.ctl("checkpoint")


@pytest.mark.timing
def test_one_that_does_not_end_refuses(vm):
    """Five seconds are theirs. What it started goes with it."""
    hook(vm, "snapshot", "exec sleep 1000")
    with fails(errno.EBUSY, vm / "error"):
        vm.ctl("checkpoint")
    assert "did not end within 5 seconds" in read(vm / "error")
    assert vm.sh("pgrep -f '[s]leep 1000' | wc -l") == "0\n"


def test_after_a_rollback(vm):
    """resume.d runs behind fork.d, in the machine as it was earlier; of a fork only that."""
    for kind in "fork", "resume":
        hook(vm, kind, f"echo {kind} $SBX_NAME >> /root/turns")
    vm.ctl("checkpoint")
    snap = Snapshot((vm / "snapshots/latest").resolve())
    vm.sh("echo later > /root/later")
    vm.ctl("rollback 1")
    assert vm.sh("cat /root/turns; ls /root/later 2> /dev/null || true") == "fork vm\nresume vm\n"
    assert snap.fork("w").sh("cat /root/turns") == "fork w\n"
    hook(vm, "resume", "exit 1")
    vm.ctl("checkpoint")
    with fails(errno.EIO, vm / "error"):
        vm.ctl("rollback latest")
    assert "/etc/sbx/resume.d/10-test ended with status 1" in read(vm / "error")
    assert vm.state == "running" and vm.sh("echo on") == "on\n"  # as it was


def test_after_a_suspend(sbx, vm):
    """resume.d alone, whatever wakes it; who asked waits for that. They know its name, too, when it has another."""
    hook(vm, "fork", "echo fork >> /root/turns")
    hook(vm, "resume", "echo resumed $SBX_NAME >> /root/turns")
    hook(vm, "snapshot", "echo captured $SBX_NAME >> /root/turns")
    vm.ctl("suspend")
    assert vm.sh("cat /root/turns") == "captured vm\nresumed vm\n"
    os.rename(vm.path, sbx / "agent")
    vm = Sandbox(sbx / "agent")
    vm.ctl("suspend")
    os.rename(vm.path, sbx / "again")
    vm = Sandbox(sbx / "again")
    assert read(vm / "fs/root/turns").splitlines()[2:] == ["captured agent", "resumed again"]
    hook(vm, "resume", "exit 1")
    vm.ctl("suspend")
    with fails(errno.EIO, vm / "error"):
        vm.ctl("resume")
    assert "/etc/sbx/resume.d/10-test ended with status 1" in read(vm / "error") and vm.state == "suspended"
    vm.ctl("kill")  # its disk is there, and no memory to go on with
    vm.ctl("start")
    assert read(vm / "fs/root/turns").splitlines()[:4] == ["captured vm", "resumed vm", "captured agent", "resumed again"]


def test_before_a_stop(vm):
    """What runs still runs then, and what they write is on the disk."""
    hook(vm, "stop", "cp /run/counter /root/counted && echo stopped > /root/stopped; echo goodbye")
    vm.ctl("stop")
    assert vm.state == "stopped"
    vm.ctl("start")
    assert vm.sh("cat /root/stopped") == "stopped\n" and int(vm.sh("cat /root/counted")) > 0
    assert value(vm / "state") == "running"
    # The end does not depend on them.
    hook(vm, "stop", "exit 1")
    vm.ctl("stop")
    assert vm.state == "stopped"
