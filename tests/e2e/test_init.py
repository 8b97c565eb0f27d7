# SPDX-License-Identifier: MIT
"""An image's own init is process 1 when it is asked for, and the agent goes on beside it."""
import errno
import os

import pytest

from harness import Sandbox, eventually, fails, limit, poll_until, read, write


def pid1(vm):
    """The program that process 1 is, and how many there are whose command line begins with @: the agent. Others may end meanwhile."""
    return vm.run("readlink /proc/1/exe; grep -ls '^@' /proc/[0-9]*/cmdline | wc -l").split()


@pytest.mark.long
def test_busybox_is_process_1(sbx):
    """A fork has it, a poweroff ends the machine clean, and the next start remembers."""
    write(sbx / "ctl", "create vm image=base memory=128M memory_max=128M init=/sbin/init")
    vm = Sandbox(sbx / "vm")
    assert pid1(vm) == ["/bin/busybox", "1"]
    # jobs are the agent's as ever: what they leave behind, too, and how they end
    assert vm.run("cat /run/sbx/name; hostname; (sleep 0.1; echo late > /late) & exit 3") == "vm\nvm\n"
    assert vm.job("kill -9 $$").wait() == "signaled 9"
    eventually(lambda: os.path.exists(vm / "fs/late"), limit(10), "what was left behind did not end")
    (vm.path / "fs/etc/inittab").write_text("::sysinit:/bin/touch /inited\n::respawn:/bin/sleep 1000\n")
    fork = vm.fork("w")
    assert pid1(fork) == ["/bin/busybox", "1"] and fork.run("hostname") == "w\n"
    fork.remove()
    assert vm.job("poweroff").wait() == "exited 0"
    poll_until(vm / "state", lambda state: state == "stopped", limit(30))
    vm.ctl("start")
    assert pid1(vm) == ["/bin/busybox", "1"]
    eventually(lambda: vm.run("pidof sleep || :"), limit(10), "init starts nothing")
    assert os.path.exists(vm / "fs/inited")
    vm.remove()


def test_no_such_init(sbx):
    """What cannot be executed is said, and leaves nothing."""
    for init, number, word in (
        ("/sbin/nosuch", errno.ENOENT, "No such file"),
        ("sbin/init", errno.EINVAL, "path"),
        ('"/a b"', errno.EINVAL, "path"),
        ("/" + "x" * 64, errno.EINVAL, "path"),
    ):
        with fails(number):
            write(sbx / "ctl", f"create bad image=base memory=128M memory_max=128M init={init}")
        assert word in read(sbx / "error") and not os.path.exists(sbx / "bad")
