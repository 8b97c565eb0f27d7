# SPDX-License-Identifier: MIT
"""Starting, stopping, pausing and losing a machine."""
import errno
import os
import signal
import subprocess
import threading

import pytest

from harness import eventually, fails, fields, limit, outcome, poll_until, read, value, wait_gone, write


def test_create_start_use_remove(sbx, engine):
    vm = sbx.create("fresh", start=False)
    assert vm.state == "created"
    vm.ctl("start")
    assert vm.state == "running"
    assert vm.run("echo hello") == "hello\n"
    info = vm.info
    assert info["name"] == "fresh" and info["engine"] == engine and info["image"] == "base"
    assert int(info["boot_us"]) > 1000
    pid = vm.pid
    vm.remove()
    assert not os.path.exists(vm.path)
    wait_gone(pid)


@pytest.mark.any_engine
def test_create_in_one_step(sbx):
    write(sbx / "ctl", "create one image=base memory_max=512M memory=256M cpus=1 env.COLOR=red")
    assert value(sbx / "one/state") == "running"
    assert value(sbx / "one/memory") == str(256 << 20)
    assert sbx.ok("exec 3<>one/run; echo 'echo $COLOR' >&3; cat <&3") == "red\n"


@pytest.mark.any_engine
def test_a_failed_create_leaves_nothing(sbx):
    for line, code in (
        ("create bad image=nosuch", errno.ENOENT),
        ("create bad memory=lots", errno.EINVAL),
        ("create bad cpus=0", errno.ERANGE),
        ("create bad colour=red", errno.EINVAL),
    ):
        with fails(code, sbx / "error"):
            write(sbx / "ctl", line)
        assert not os.path.exists(sbx / "bad")


def test_settings_reach_the_guest(sbx):
    vm = sbx.create("big", cpus_max=3, cpus=2, memory_max="768M", memory="384M")
    assert vm.run("nproc") == "2\n"
    total = int(vm.run("awk '/MemTotal/ { print $2 }' /proc/meminfo"))
    assert 300 << 10 < total < 384 << 10


@pytest.mark.any_engine
def test_the_guest_knows_its_name(vm):
    assert vm.run("hostname") == "vm\n"


@pytest.mark.any_engine
def test_verbs_that_name_a_state_are_idempotent(vm):
    pid = vm.pid
    vm.ctl("start")
    vm.ctl("resume")
    assert (vm.state, vm.pid) == ("running", pid)
    vm.ctl("pause")
    vm.ctl("pause")
    assert vm.state == "paused"
    vm.ctl("resume")
    assert vm.state == "running"
    vm.ctl("kill")
    vm.ctl("kill")
    vm.ctl("stop")
    assert vm.state == "stopped"


@pytest.mark.any_engine
@pytest.mark.parametrize("state,verb", [("created", "pause"), ("created", "resume"), ("created", "snapshot"),
                                        ("stopped", "pause"), ("stopped", "resume"), ("stopped", "snapshot"),
                                        ("paused", "start")])  # fmt: skip
def test_the_right_verb_at_the_wrong_moment(sbx, request, state, verb):
    if state == "created":
        vm = sbx.create("c", start=False)
    else:
        vm = request.getfixturevalue("vm")
        vm.ctl({"stopped": "kill", "paused": "pause"}[state])
    with fails(errno.EBUSY, vm / "error"):
        vm.ctl(verb)
    assert vm.state == state


def test_pause_stops_the_guest(vm):
    first = int(vm.run("cat /run/counter"))
    vm.ctl("pause")
    assert vm.state == "paused"
    vm.ctl("resume")
    assert int(vm.run("cat /run/counter")) >= first


def test_stop_asks_the_guest(vm):
    pid = vm.pid
    vm.sh("echo kept > /root/kept")
    vm.ctl("stop")
    assert vm.state == "stopped"
    wait_gone(pid)
    with fails(errno.EHOSTDOWN):
        vm.run("true")


def test_start_after_stop_boots_the_same_disk(sbx):
    vm = sbx.create("again")
    vm.sh("echo kept > /root/kept; echo lost > /run/lost")
    vm.ctl("stop")
    vm.ctl("start")
    assert vm.state == "running"
    assert vm.run("cat /root/kept") == "kept\n"
    assert vm.job("test -e /run/lost").wait() == "exited 1"


def test_kill_is_immediate(vm):
    pid = vm.pid
    vm.ctl("kill")
    assert vm.state == "stopped"
    wait_gone(pid, seconds=2)


def test_kill_does_not_wait_for_a_start(own_mount):
    """A kill must not queue behind the verb that it is to end, a boot: it takes long enough to be met under way."""
    vm = own_mount(options=["--boot-snapshots", "0"]).create("slow", start=False)
    result = []
    thread = threading.Thread(target=lambda: result.append(outcome(vm.ctl, "start")))
    thread.start()
    eventually(lambda: vm.info.get("pid", "0") not in ("0", "-"), 10, "no VMM was started")
    vm.ctl("kill")
    assert vm.state in ("stopped", "created")
    thread.join(limit(5))
    assert not thread.is_alive() and len(result) == 1 and result[0]


def test_removing_a_running_sandbox_kills_it(vm):
    pid = vm.pid
    vm.remove()
    wait_gone(pid, seconds=2)


def test_the_guest_can_power_off(vm):
    with pytest.raises(OSError):
        vm.run("poweroff -f; sleep 60")
        raise OSError(errno.EHOSTDOWN, "the output may also just end")
    assert vm.wait_state("stopped", "crashed") == "stopped"


def test_poll_on_state(vm):
    """Whoever polls is woken by a change, and only by one."""
    seen = []
    ready = threading.Event()

    def watch():
        ready.set()
        seen.append(poll_until(vm / "state", lambda text: text == "paused", 10))

    thread = threading.Thread(target=watch)
    thread.start()
    ready.wait()
    vm.ctl("pause")
    thread.join(limit(5))
    assert seen == ["paused"]


def test_a_dead_vmm(sbx, prepared, vm):
    """The sandbox crashed, who waits is woken, the others go on."""
    other = prepared.fork("other")
    job = vm.job("sleep 1000")
    results = {}
    threads = [
        threading.Thread(target=lambda: results.update(wait=job.wait())),
        threading.Thread(target=lambda: results.update(out=job.output())),
        threading.Thread(
            target=lambda: results.update(status=poll_until(job / "status", lambda t: t != "running", 20))
        ),
        threading.Thread(target=lambda: results.update(state=vm.wait_state("crashed", seconds=20))),
    ]
    for thread in threads:
        thread.start()
    os.kill(vm.pid, signal.SIGKILL)
    for thread in threads:
        thread.join(limit(20))
    assert results.pop("wait").startswith("failed ") and results.pop("status").startswith("failed ")
    assert results == {"out": b"", "state": "crashed"}
    with fails(errno.EHOSTDOWN, vm / "error"):
        write(vm.job() / "cmd", "true")
    with fails(errno.EHOSTDOWN):
        os.listdir(vm / "fs/etc")
    assert other.run("cat /root/before") == "before\n"
    assert value(vm / "error") != ""


def test_start_after_a_crash(sbx):
    vm = sbx.create("phoenix")
    os.kill(vm.pid, signal.SIGKILL)
    vm.wait_state("crashed")
    vm.ctl("start")
    assert vm.run("echo up") == "up\n"


def test_a_guest_that_panics(vm):
    fd = os.open(vm / "run", os.O_RDWR)
    os.write(fd, b"echo c > /proc/sysrq-trigger\n")
    assert vm.wait_state("crashed", "stopped", seconds=60)
    os.close(fd)
    with fails(errno.EHOSTDOWN):
        vm.run("true")


# ---- console


def test_console(vm):
    vm.sh("echo to the console > /dev/console")
    poll = lambda: "to the console" in read(vm / "console")  # noqa: E731
    eventually(poll, 10, "the console does not show it")
    assert os.stat(vm / "console").st_size == len(read(vm / "console"))


def test_console_shows_the_boot(sbx):
    """Where the sandbox booted: a fork of a machine that did has said nothing yet."""
    vm = sbx.create("boots", cold=True)
    assert "sbx-agent" in read(vm / "console")


@pytest.mark.any_engine
def test_tail_follows_the_console(sbx, vm):
    with subprocess.Popen(["tail", "-n", "0", "-f", vm / "console"], stdout=subprocess.PIPE) as tail:
        try:
            eventually(lambda: str(vm / "console") in links(tail.pid), 5, "tail does not open the console")
            vm.sh("echo a new line > /dev/console")
            line = tail.stdout.readline()
            while b"a new line" not in line:
                line = tail.stdout.readline()
        finally:
            tail.kill()


def links(pid):
    """Where the descriptors of a process point."""
    out = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            out.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            continue
    return out


# ---- info and stats


@pytest.mark.any_engine
def test_info_of_a_fork(vm, prepared):
    info = vm.info
    assert info["name"] == "vm"
    assert int(info["fork_us"]) > 0
    assert int(info["generation"]) >= 1
    assert info["parent"].endswith(prepared.name)
    assert os.path.exists(f"/proc/{info['pid']}")


def test_stats(vm):
    stats = {key: int(text) for key, text in fields(vm / "stats").items()}
    assert stats["resident"] > 0 and stats["private"] > 0
    before = stats["cpu_us"]
    vm.sh("n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done")
    assert int(fields(vm / "stats")["cpu_us"]) > before
