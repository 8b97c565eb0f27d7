# SPDX-License-Identifier: MIT
"""An image's own init is process 1 when it is asked for, and the agent goes on beside it."""
import errno
import os
import shutil
import subprocess

import pytest

from harness import LAB, Sandbox, eventually, fails, limit, poll_until, read, write

outside = pytest.mark.skipif(
    LAB or not os.environ.get("SBX_OUTSIDE") or not shutil.which("mmdebstrap"),
    reason="set SBX_OUTSIDE=1 to make an image of Debian's packages; minutes",
)


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


# What systemd does that busybox does not: a poweroff is asked of process 1, which ends its services first, then all
# processes but those whose first word begins with @, and then the machine.
INIT = """#!/bin/sh
down() {
	kill $service && wait $service
	sync
	for p in /proc/[0-9]*; do
		word=
		read -r word < $p/cmdline
		case $p:$word in
		/proc/1:*|*:|*:@*) ;;
		*) kill -9 ${p#/proc/} ;;
		esac
	done
	echo all has ended > /dev/console
	busybox poweroff -f
}
trap down TERM
/bin/service & service=$!
while :; do sleep 1000 & wait $!; done
"""
SERVICE = "#!/bin/sh\ntrap 'echo the service ends > /dev/console; exit' TERM\nn=0\nwhile :; do n=$((n+1)); echo $n > /run/count; sleep 0.05; done\n"


def test_an_init_that_ends_all_it_does_not_spare(build, sbx, tmp_path):
    """`stop` asks it: its service ends itself, the agent is spared until the machine ends. A fork has the service running."""
    root = tmp_path / "root"
    for name in ("bin", "sbin", "dev", "proc", "sys", "run", "etc"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in ("sh", "head", "kill", "sync", "sleep", "cat", "readlink", "echo", "test"):
        (root / "bin" / name).symlink_to("busybox")
    for path, text in (("sbin/init", INIT), ("sbin/poweroff", "#!/bin/sh\nkill -TERM 1\n"), ("bin/service", SERVICE)):
        (root / path).write_text(text)
        os.chmod(root / path, 0o755)
    subprocess.run([build / "sbx", "image", "import", "inits", root, "--size", "64M", "--state", sbx.state], check=True)
    write(sbx / "ctl", "create vm image=inits memory=128M memory_max=128M init=/sbin/init")
    vm = Sandbox(sbx / "vm")
    assert vm.run("cat /proc/1/cmdline").startswith("/bin/sh\0/sbin/init")
    # the kernel finds a program of ours, whoever process 1 is
    assert vm.run("/run/sbx/bin/modprobe -q nosuch; echo $?") == "1\n"
    count = lambda each: int(vm_count(each))  # noqa: E731
    eventually(lambda: count(vm) > 2, limit(10), "the service does not run")
    fork = vm.fork("w")
    before = count(fork)
    eventually(lambda: count(fork) > before, limit(10), "the service stands still in the fork")
    job = fork.job("sleep 1000")
    fork.ctl("stop")
    assert fork.state == "stopped" and job.status.startswith(("signaled", "failed"))
    # it was not killed for want of patience
    said = read(fork / "console")
    assert 0 <= said.find("the service ends") < said.find("all has ended"), said
    assert "the service ends" not in read(vm / "console")
    fork.remove()
    vm.remove()
    subprocess.run([build / "sbx", "image", "rm", "inits", "--state", sbx.state], check=True)


def vm_count(vm):
    return vm.run("cat /run/count 2>/dev/null").strip() or 0


@outside
@pytest.mark.timeout(1500)
def test_systemd_is_process_1(build, own_mount, new_state):
    """Units start, go on in a fork, and end with the machine."""
    state = new_state()
    packages = ["systemd", "systemd-sysv", "dbus"]
    subprocess.run([build / "sbx", "image", "build", "system", "--state", state, "--debian", *packages], check=True, timeout=900)
    mount = own_mount(state=state)
    write(mount / "ctl", "create vm image=system memory=512M init=/sbin/init")
    vm = Sandbox(mount / "vm")
    assert pid1(vm) == ["/usr/lib/systemd/systemd", "1"]
    up = lambda: vm.run("systemctl is-system-running 2>&1").strip() in ("running", "degraded")  # noqa: E731
    eventually(up, limit(200), "systemd does not come up")
    unit = "[Service]\nExecStart=/bin/sh -c 'while :; do n=$$((n+1)); echo $$n > /run/count; sleep 0.1; done'\nExecStopPost=/bin/touch /ended\n"
    (vm / "fs/etc/systemd/system/count.service").write_text(unit)
    vm.sh("systemctl daemon-reload && systemctl start count dbus")
    fork = vm.fork("w")
    assert fork.run("hostname; systemctl is-active count dbus") == "w\nactive\nactive\n"
    before = int(vm_count(fork))
    eventually(lambda: int(vm_count(fork)) > before, limit(20), "the unit stands still in the fork")
    fork.job("poweroff")
    poll_until(fork / "state", lambda text: text == "stopped", limit(60))
    fork.ctl("start")
    assert os.path.exists(fork / "fs/ended") and pid1(fork) == ["/usr/lib/systemd/systemd", "1"]


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
