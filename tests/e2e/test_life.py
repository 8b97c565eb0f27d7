# SPDX-License-Identifier: MIT
"""The life of a sandbox: another name, an end that is set, sleep and wake."""
import calendar
import contextlib
import errno
import os
import re
import signal
import threading
import time

import pytest

from harness import COUNTER, Sandbox, Snapshot, eventually, fails, limit, read, together, value, wait_gone, write

# ---- another name


def rename(vm, name):
    os.rename(vm.path, vm.path.parent / name)
    return Sandbox(vm.path.parent / name)


def test_a_sandbox_gets_another_name(sbx, vm):
    """What runs in it goes on, and its guest knows the name when mv returns."""
    stdin = vm.job(name="echo")
    to = os.open(stdin / "stdin", os.O_WRONLY)
    out = os.open(stdin / "stdout", os.O_RDONLY)
    stdin.start("cat")
    pid, machine_id = vm.pid, vm.run("cat /etc/machine-id /run/sbx/generation")
    child = vm.fork("child")
    agent = rename(vm, "agent")
    assert agent.state == "running" and agent.pid == pid and agent.info["name"] == "agent"
    assert agent.run("hostname; cat /etc/hostname /run/sbx/name") == "agent\n" * 3
    assert agent.run("cat /etc/machine-id /run/sbx/generation") == machine_id
    os.write(to, b"still there\n")
    assert os.read(out, 100) == b"still there\n"
    os.close(to)
    os.close(out)
    assert not os.path.exists(sbx / "vm") and "vm" not in os.listdir(sbx.path)
    assert child.info["parent"] == "agent" and os.readlink(agent / "forks/child") == "../../child"
    with fails(errno.EBUSY):
        os.rmdir(sbx.path)
    os.mkdir(sbx / "vm")  # the name is free


@pytest.mark.any_engine
def test_names_that_a_sandbox_cannot_get(sbx, vm):
    os.mkdir(sbx / "other")
    for name, code in ("other", errno.EEXIST), ("snapshots", errno.EEXIST), (".x", errno.EINVAL), ("a" * 65, errno.EINVAL):
        with fails(code, sbx / "error"):
            os.rename(vm.path, sbx / name)
    with fails(errno.EPERM):
        os.rename(vm.path, sbx / "other/forks/x")
    with fails(errno.ENOENT):
        os.rename(sbx / "nobody", sbx / "x")
    sbx.ok("mv -T vm vm2 && mv -n vm2 vm && test -d vm")
    assert vm.run("hostname") == "vm\n"


@pytest.mark.any_engine
def test_a_paused_guest_learns_its_name_later(vm):
    vm.ctl("pause")
    vm = rename(vm, "later")
    vm.ctl("resume")
    assert vm.run("hostname; cat /run/sbx/name") == "later\nlater\n"


@pytest.mark.any_engine
def test_the_best_branch_takes_its_origin_s_place(sbx, vm):
    """`rmdir` and `mv`: its forks and snapshots are in place."""
    best = vm.fork("best")
    best.sh("echo found > /root/result")
    best.ctl("checkpoint")
    os.rmdir(vm.path)
    vm = rename(best, "vm")
    assert vm.run("cat /root/result; hostname") == "found\nvm\n"
    assert Snapshot((vm / "snapshots/latest").resolve()).fork("again").info["parent"] == "vm/snapshots/1"


@pytest.mark.any_engine
def test_a_name_that_stood_still_is_changed_all_the_same(vm):
    """A VMM that is stopped answers nothing: mv returns, and the guest knows its name when it goes on."""
    pid = vm.pid
    os.kill(pid, 19)
    began = time.monotonic()
    vm = rename(vm, "still")
    assert time.monotonic() - began < limit(10)
    os.kill(pid, 18)
    assert vm.run("hostname") in ("still\n", "vm\n")


# ---- an end that is set


@pytest.mark.any_engine
def test_ttl(sbx, prepared):
    """It counts down, may be changed, and at its end the sandbox is gone, whoever knows its name."""
    write(prepared / "ctl", "fork vm ttl=100000")
    vm = Sandbox(sbx / "vm")
    assert 99990 < int(value(vm / "ttl")) <= 100000
    for bad, code in ("soon", errno.EINVAL), ("-1", errno.EINVAL), ("100000000", errno.ERANGE):
        with fails(code, vm / "error"):
            write(vm / "ttl", bad)
    write(vm / "ttl", "0")
    assert value(vm / "ttl") == "0"
    pid = vm.pid
    write(vm / "ttl", "1")
    wait_gone(pid, 20)
    eventually(lambda: not os.path.exists(vm.path), 5, "the name stays")
    assert "vm" not in os.listdir(sbx.path)
    with fails(errno.ENOENT):
        os.stat(vm / "state")
    os.mkdir(sbx / "vm")
    assert (value(sbx / "vm/ttl"), value(sbx / "vm/idle")) == ("0", "0")
    os.rmdir(sbx / "vm")
    write(sbx / "ctl", "create vm idle=300 ttl=200000")
    assert 199000 < int(value(vm / "ttl")) <= 200000 and value(vm / "idle") == "300"


@pytest.mark.any_engine
def test_what_is_used_is_warned(sbx, vm):
    with open(vm / "fs/root/open", "w"):
        write(vm / "ttl", "6")
        eventually(lambda: "ttl" in read(vm / "error"), 10, "no warning")
        assert int(value(vm / "ttl")) >= 1
        write(vm / "ttl", "0")
    assert vm.state == "running"


# ---- suspend


def hidden(mount):
    """What the store has of suspended sandboxes."""
    return [name for name in os.listdir(mount.state / "snapshots") if name.startswith(".life-")]


def counter(vm):
    return int(vm.run("cat /run/counter"))


def test_a_sandbox_is_suspended_and_goes_on(sbx, vm):
    """Jobs, streams and open files are what they were; no process stays, and nothing in the store once it is back."""
    job = vm.job(name="echo")
    to, out = os.open(job / "stdin", os.O_WRONLY), os.open(job / "stdout", os.O_RDONLY)
    job.start("cat")
    os.write(to, b"before\n")
    assert os.read(out, 100) == b"before\n"
    with open(vm / "fs/root/open", "w", encoding="utf-8") as file:
        file.write("one\n")
        file.flush()
        names, counted, pid = vm.run("cat /run/sbx/generation /etc/machine-id"), counter(vm), vm.pid
        vm.ctl("suspend")
        vm.ctl("suspend")
        assert vm.state == "suspended" and vm.pid == 0 and len(hidden(sbx)) == 1
        wait_gone(pid)
        # Looking at it does not bring it back.
        sbx.ok("ls -lR vm/exec vm/snapshots; cat vm/info vm/state vm/stats vm/env vm/exec/echo/status")
        assert vm.state == "suspended"
        vm.ctl("resume")
        assert vm.state == "running" and not hidden(sbx)
        file.write("two\n")
    os.write(to, b"after\n")
    assert os.read(out, 100) == b"after\n"
    os.close(to)
    assert os.read(out, 100) == b"" and job.wait() == "exited 0"
    os.close(out)
    assert read(vm / "fs/root/open") == "one\ntwo\n"
    assert vm.run("cat /run/sbx/generation /etc/machine-id") == names
    now = counter(vm)
    assert counted <= now
    eventually(lambda: counter(vm) > now, 10, "its processes do not go on")
    assert abs(int(vm.run("date +%s")) - time.time()) < limit(3)


def test_access_wakes_it(sbx, vm):
    """Whoever asks the guest for something waits until it is back."""
    vm.sh("mkdir -p /srv; echo content > /srv/file")
    job = vm.job("echo said; sleep 10000", name="said")
    reads = {
        "run": lambda: vm.run("cat /srv/file"),
        "file": lambda: read(vm / "fs/srv/file"),
        "job": lambda: vm.job("cat /srv/file").output().decode(),
        "stream": lambda: os.read(os.open(job / "stdout", os.O_RDONLY), 100).decode(),
        "tcp": lambda: "content\n" if os.listdir(vm / "tcp") == [] else "ports",
    }
    for name, look in reads.items():
        vm.ctl("suspend")
        assert vm.state == "suspended", name
        assert look() in ("content\n", "said\n"), name
        assert vm.state == "running", name
    vm.ctl("suspend")
    with fails(errno.ECONNREFUSED):
        os.open(vm / "tcp/9", os.O_RDWR)
    assert vm.state == "running"


def test_forks_and_snapshots_of_one_that_is_suspended(sbx, vm):
    """They are of what is stored, which stays there."""
    vm.sh("echo kept > /root/kept; echo kept > /run/kept")
    vm.ctl("suspend")
    look = "cat /root/kept /run/kept; hostname"
    assert vm.fork("kid").run(look) == "kept\nkept\nkid\n"
    write(vm / "ctl", "fork 2 k")
    assert Sandbox(sbx / "k2").run(look) == "kept\nkept\nk2\n"
    vm.ctl("snapshot")
    vm.ctl("snapshot named")
    assert vm.state == "suspended" and sbx.named() == ["named"] and len(hidden(sbx)) == 1
    with fails(errno.EAGAIN, vm / "error"):
        write(vm / "memory", "300M")
    vm.remove()
    assert not hidden(sbx)
    assert Snapshot(sbx / "snapshots/named").fork("again").run(look) == "kept\nkept\nagain\n"


@pytest.mark.any_engine
def test_one_that_sleeps_stores_what_is_its_own(sbx, vm):
    """Of the memory that it has from a stored snapshot nothing is stored again, and its disk is the layer that it wrote to."""
    vm.ctl("snapshot origin")
    kid = Snapshot(sbx / "snapshots/origin").fork("kid")
    kid.run("echo word > /root/word; sync")
    kid.ctl("suspend")
    kept = sbx.state / "snapshots" / hidden(sbx)[0]
    own, origin = (os.stat(path / "ram").st_blocks for path in (kept, sbx.state / "snapshots/origin"))
    assert own < origin / 2, (own, origin)
    disk = re.search(r"^disk (\S+)$", (kept / "manifest").read_text(errors="replace"), re.M)[1]
    assert os.stat(sbx.state / "layers" / disk).st_blocks * 512 < 2 << 20
    assert kid.run("cat /root/word") == "word\n"


@pytest.mark.any_engine
def test_verbs_on_one_that_is_suspended(sbx, vm):
    vm.sh("echo first > /root/mark; sync")
    vm.ctl("checkpoint")
    vm.sh("echo second > /root/mark; sync")
    vm.ctl("suspend")
    for verb in "pause", "stop", "start":
        with fails(errno.EBUSY, vm / "error"):
            vm.ctl(verb)
    vm.ctl("rollback 1")
    assert vm.state == "running" and not hidden(sbx)
    assert vm.run("cat /root/mark") == "first\n"
    vm.sh("echo third > /root/mark; sync")
    vm.ctl("suspend")
    vm.ctl("kill")
    assert vm.state == "stopped" and not hidden(sbx)
    vm.ctl("start")
    assert vm.run("cat /root/mark") == "third\n"
    vm.ctl("pause")
    vm.ctl("suspend")
    assert vm.run("cat /root/mark") == "third\n"


def test_ten_are_suspended_and_woken_at_once(sbx, prepared):
    write(prepared / "ctl", "fork 10 s")
    vms = [Sandbox(sbx / f"s{i}") for i in range(1, 11)]
    counted = [counter(vm) for vm in vms]
    together(lambda i: vms[i].ctl("suspend"), 10)
    assert [vm.state for vm in vms] == ["suspended"] * 10 and len(hidden(sbx)) == 10
    said = [0] * 10

    def wake(i):
        said[i] = counter(vms[i])

    together(wake, 10)
    assert all(now >= before for now, before in zip(said, counted))
    assert [vm.state for vm in vms] == ["running"] * 10 and not hidden(sbx)


@pytest.mark.any_engine
def test_somebody_asks_while_it_is_being_suspended(sbx, vm):
    """That has its answer, and the machine goes on."""
    stop = []

    def ask():
        while not stop:
            assert vm.run("echo here") == "here\n"

    thread = threading.Thread(target=ask)
    thread.start()
    for _ in range(5):
        try:
            vm.ctl("suspend")
        except OSError as e:
            assert e.errno == errno.EBUSY, e
    stop.append(1)
    assert vm.run("echo here") == "here\n"  # and whoever waited since before it slept goes on
    thread.join(limit(30))
    assert not thread.is_alive() and not hidden(sbx)


@pytest.mark.any_engine
def test_commands_that_let_it_sleep(cli, vm, tmp_path):
    """And those that bring it back: what sbx(1) says of them."""
    vm.ctl("suspend")
    for args in ["ls"], ["ls", "--json"], ["tree"], ["top", "-n", "1"], ["logs", "vm"], ["wait", "vm", "suspended"]:
        assert cli(*args).returncode == 0, args
        assert vm.state == "suspended", args
    for args in ["exec", "vm", "true"], ["cp", "vm:/root/before", tmp_path / "copy"]:
        assert cli(*args).returncode == 0, args
        assert vm.state == "running", args
        vm.ctl("suspend")


# ---- idle

# Ends what `prepared` has in the background, which takes more than its share of a CPU.
QUIET = "for d in /proc/[0-9]*; do ! grep -qs 'run/countin[g]' $d/cmdline || kill -9 ${d#/proc/}; done"


@pytest.mark.any_engine
def test_idle(sbx, prepared):
    """It sleeps when nobody wants anything of it, and not while somebody has something open, or it works by itself."""
    write(prepared / "ctl", "fork quiet idle=2")
    write(prepared / "ctl", "fork opened idle=2")
    write(prepared / "ctl", "fork busy idle=2")
    quiet, opened, busy = (Sandbox(sbx / name) for name in ("quiet", "opened", "busy"))
    for vm in quiet, opened:
        vm.sh(QUIET)
    busy.job("while :; do :; done")
    with open(opened / "fs/root/open", "w"):
        quiet.wait_state("suspended", seconds=30)
        assert opened.state == "running" and busy.state == "running"
    opened.wait_state("suspended", seconds=30)
    assert busy.state == "running"
    assert quiet.run("hostname") == "quiet\n"
    assert value(quiet / "idle") == "2"
    write(quiet / "idle", "0")
    with fails(errno.EINVAL, quiet / "error"):
        write(quiet / "idle", "never")


# ---- the daemon ends


def test_suspended_sandboxes_outlive_the_daemon(own_mount):
    mount = own_mount()
    vm = mount.create("vm")
    vm.sh(COUNTER)
    vm.sh("echo kept > /root/kept")
    write(vm / "env", "A=1\n")
    os.chmod(vm.path, 0o750)
    kid = vm.fork("kid")
    write(kid / "ttl", "5000")
    write(kid / "idle", "700")
    write(kid / "net/mode", "none")
    job = kid.job(name="echo")
    to, out = os.open(job / "stdin", os.O_WRONLY), os.open(job / "stdout", os.O_RDONLY)
    job.start("cat")
    os.write(to, b"before\n")
    assert os.read(out, 100) == b"before\n"
    counted = counter(kid)
    vm.remove()
    kid.ctl("suspend")
    kid = rename(kid, "child")
    write(kid / "env", "A=2\n")
    write(kid / "guest", "fork 3\n")
    write(kid / "guest", "suspend\n")  # what was allowed before is not
    write(kid / "idle", "701")
    before = {k: v for k, v in kid.info.items() if not k.endswith("pid")}
    mount.stop()  # with its stdin open: nobody has ended it
    os.close(to)
    os.close(out)
    mount.start()
    assert mount.sandboxes() == ["child"] and kid.state == "suspended"
    assert {k: v for k, v in kid.info.items() if not k.endswith("pid")} == before
    assert kid.info["parent"] == "vm"  # which is long gone
    assert os.stat(kid.path).st_mode & 0o777 == 0o750
    assert 0 < int(value(kid / "ttl")) <= 5000 and value(kid / "idle") == "701"
    assert value(kid / "net/mode") == "none" and read(kid / "env") == "A=2\n"
    assert read(kid / "guest") == "suspend\n"
    assert os.listdir(kid / "exec") == ["echo"] and value(kid / "exec/echo/status") == "running"
    with open(kid / "exec/echo/stdin", "wb", buffering=0) as to, open(kid / "exec/echo/stdout", "rb", buffering=0) as out:
        to.write(b"after\n")
        assert out.read(100) == b"after\n"
    assert kid.run("hostname; cat /root/kept; echo $A") == "child\nkept\n2\n"
    assert counter(kid) >= counted
    assert kid.job("true").wait() == "exited 0" and not hidden(mount)
    kid.ctl("suspend")
    mount.kill()
    mount.start()
    assert kid.state == "suspended" and read(kid / "error") == ""
    kid.remove()
    assert not hidden(mount)
    mount.stop()


def test_a_setting_that_changes_while_it_is_being_stored(own_mount):
    """What is withdrawn then is withdrawn for the next daemon, too."""
    mount = own_mount()
    vm = mount.create("vm")
    write(vm / "guest", "fork 8\n")
    suspend = threading.Thread(target=vm.ctl, args=("suspend",))
    suspend.start()
    vm.wait_state("paused", "suspended")
    for key, text in ("guest", "suspend\n"), ("net/mode", "none\n"), ("env", "A=3\n"):
        write(vm / key, text)
    suspend.join()
    assert vm.state == "suspended"
    mount.stop()
    mount.start()
    assert [read(vm / key) for key in ("guest", "net/mode", "env")] == ["suspend\n", "none\n", "A=3\n"]
    mount.stop()


def test_keep(own_mount):
    """SIGTERM suspends what there is; after SIGKILL it is as it was last stored, and error says when that was."""
    mount = own_mount(options=["--keep"])
    vm = mount.create("vm")
    vm.sh("echo first > /root/mark; echo first > /run/mark")
    other = vm.fork("other")
    other.ctl("pause")
    mount.stop()
    mount.start()
    assert mount.sandboxes() == ["other", "vm"] and {vm.state, other.state} == {"suspended"}
    look = "cat /root/mark /run/mark"
    assert vm.run(look) == "first\nfirst\n" and len(hidden(mount)) == 2
    vm.sh("echo second > /root/mark; echo second > /run/mark; sync")
    mount.kill()
    mount.start()
    assert mount.sandboxes() == ["other", "vm"] and {vm.state, other.state} == {"suspended"}
    assert "last suspended" in read(vm / "error") and read(other / "error") == ""
    assert vm.run(look) == "first\nfirst\n"  # its disk and its memory match
    # A change that is kept is no storing of the machine: what was begun since is not in its memory.
    vm.job("sleep 1000", name="stored")
    vm.ctl("suspend")
    vm.ctl("resume")
    when = time.time()
    vm.job("sleep 1000", name="later")
    time.sleep(1.1)  # the time is said in seconds
    write(vm / "idle", "3600")
    mount.kill()
    mount.start()
    assert value(vm / "idle") == "3600" and os.listdir(vm / "exec") == ["stored"]
    said = re.search(r"as it was at (\S+),", read(vm / "error"))[1]
    assert calendar.timegm(time.strptime(said, "%Y-%m-%dT%H:%M:%SZ")) <= when
    assert vm.run("ps -o args | grep -c '^sleep 1000'") == "1\n" and value(vm / "exec/stored/status") == "running"
    vm.sh("echo third > /root/mark; echo third > /run/mark; sync")
    vm.ctl("suspend")
    assert len(hidden(mount)) == 2
    mount.kill()
    mount.start()
    assert vm.run(look) == "third\nthird\n" and read(vm / "error") == ""
    vm.remove()
    other.remove()
    assert not hidden(mount)
    mount.stop()
    assert not mount.stored("objects") and not mount.stored("snapshots")


def test_streams_outlive_the_daemon(own_mount):
    """What the guest sent and nobody read, and what was written and the guest did not take: once each, with any bytes."""
    mount = own_mount()
    vm = mount.create("vm")
    job = vm.job(name="both")
    script = "printf 'one\\ntwo\\\\\\000\\nthree\\n'; echo err >&2; until [ -e /run/go ]; do sleep 0.1; done; wc -c"
    with open(job / "stdin", "wb", buffering=0, opener=nonblocking) as to:
        job.start(script)
        with open(job / "stdout", "rb", buffering=0) as out, open(job / "stderr", "rb", buffering=0) as err:
            assert out.read(2) == b"on" and err.read(2) == b"er"
        written = 0
        while n := to.write(b"x" * 50000):
            written += n
        vm.ctl("suspend")
        mount.stop()
    mount.start()
    with open(job / "stdout", "rb", buffering=0) as out:
        assert out.read(4) == b"e\ntw" and vm.state == "suspended"
    vm.ctl("resume")
    vm.ctl("suspend")
    with open(job / "stdout", "rb", buffering=0) as out:
        assert out.read(3) == b"o\\\0"
    mount.stop()
    mount.start()
    assert vm.state == "suspended"
    with open(job / "stdin", "wb", buffering=0) as to:
        vm.sh("touch /run/go")  # first: there may be no room for one byte more until somebody reads
        to.write(b"x")
    assert job.output() == b"\nthree\n%d\n" % (written + 1) and read(job / "stderr") == "r\n"
    assert written > 1 << 16 and job.wait() == "exited 0"
    mount.stop()


def stdin_of(vm, name, script):
    job = vm.job(name=name)
    to = os.open(job / "stdin", os.O_WRONLY)
    job.start(script)
    return job, to


def test_the_end_of_a_stdin_outlives_the_daemon(own_mount):
    """Given while the guest did not take what was before, or while it slept: it is told once it is back, by whichever daemon."""
    mount = own_mount()
    vm = mount.create("vm")

    def said():
        return [line for line in read(mount.state / "snapshots" / hidden(mount)[0] / "sandbox").splitlines() if line.startswith("stdin-end ")]

    # By the same daemon; a close brings nothing back, and the verb does.
    job, to = stdin_of(vm, "same", "cat")
    vm.ctl("suspend")
    os.close(to)
    eventually(said, 10, "the end is not stored")
    assert vm.state == "suspended"
    vm.ctl("resume")
    assert job.wait() == "exited 0"
    job, to = stdin_of(vm, "verb", "cat")
    vm.ctl("suspend")
    job.ctl("eof")
    assert job.wait() == "exited 0" and vm.state == "running"
    os.close(to)
    # By the next, however the first one ended.
    full, to = stdin_of(vm, "full", "until [ -e /run/go ]; do sleep 0.1; done; wc -c")
    # The guest takes twice 64K, in a pipe and ahead of it; the rest, and the end behind it, wait here.
    written = 160 << 10
    assert sum(os.write(to, b"x" * 4096) for _ in range(written // 4096)) == written
    os.close(to)
    asleep, to = stdin_of(vm, "asleep", "cat; echo end")
    other, kept = stdin_of(vm, "other", "cat")
    os.write(to, b"before\n")
    vm.ctl("suspend")
    os.close(to)
    eventually(lambda: len(said()) == 2, 10, "the ends are not stored")
    mount.kill()
    os.close(kept)  # nobody hears of that
    mount.start()
    vm.sh("touch /run/go")
    assert full.output() == b"%d\n" % written
    assert asleep.output() == b"before\nend\n"
    assert full.wait() == "exited 0" and asleep.wait() == "exited 0" and value(other / "status") == "running"
    with open(other / "stdin", "wb", buffering=0) as to:
        to.write(b"goes on\n")
    assert other.output() == b"goes on\n"
    mount.stop()


def nonblocking(path, flags):
    return os.open(path, flags | os.O_NONBLOCK)


@pytest.mark.any_engine
def test_keep_waits_for_what_is_being_suspended(own_mount):
    """By a user, or because it is idle: the daemon's end finds it half stored."""
    mount = own_mount(options=["--keep"])
    for i in range(2):
        vm = mount.create(f"vm{i}")
        vm.sh("echo kept > /run/kept; dd if=/dev/urandom of=/run/much bs=1M count=60 2>/dev/null")
        verb = threading.Thread(target=try_suspend, args=(vm,))
        verb.start()
        eventually(lambda: os.listdir(mount.state / "tmp"), 10, "nothing is being stored")
        mount.stop()
        verb.join(limit(20))
        mount.start()
        assert vm.state == "suspended" and read(vm / "error") == "" and vm.run("cat /run/kept") == "kept\n"
        vm.remove()


def try_suspend(vm):
    with contextlib.suppress(OSError):
        vm.ctl("suspend")


@pytest.mark.any_engine
def test_keep_after_a_kill(own_mount):
    """What was never suspended is gone, and nothing is left of it; after a rollback it is as it was stored, and says so."""
    mount = own_mount(options=["--keep", "--pool", "0"])
    never = mount.create("never")
    vm = never.fork("vm")
    vm.sh("echo first > /run/mark")
    vm.ctl("checkpoint first")
    vm.sh("echo second > /run/mark")
    vm.ctl("suspend")
    vm.ctl("rollback first")
    assert vm.state == "running" and vm.run("cat /run/mark") == "first\n"
    mount.kill()
    mount.start()
    assert mount.sandboxes() == ["vm"] and vm.state == "suspended" and "last suspended" in read(vm / "error")
    assert len(mount.stored("objects")) == 2 and len(hidden(mount)) == 1
    assert vm.run("cat /run/mark") == "second\n"
    # A machine that crashed is in no state to be suspended, and what is stored of it is kept.
    os.kill(vm.pid, signal.SIGKILL)
    vm.wait_state("crashed")
    mount.stop()
    mount.start()
    assert vm.state == "suspended" and "last suspended" in read(vm / "error")
    assert vm.run("cat /run/mark") == "second\n"
    vm.remove()
    mount.stop()


@pytest.mark.any_engine
def test_keep_of_what_was_stopped(own_mount):
    """However it was stopped and the daemon ended, it is as it was last suspended, and says so."""
    mount = own_mount(options=["--keep"])
    vm = mount.create("vm")
    vm.sh("echo first > /root/mark; echo first > /run/mark")
    vm.ctl("suspend")
    for asleep, verb, end in (False, "stop", mount.kill), (False, "kill", mount.stop), (True, "kill", mount.kill):
        if not asleep:
            vm.sh("echo second > /root/mark; echo second > /run/mark; sync")
        vm.ctl(verb)
        assert vm.state == "stopped" and len(hidden(mount)) == 1
        end()
        mount.start()
        assert vm.state == "suspended" and "last suspended" in read(vm / "error"), verb
    assert vm.run("cat /root/mark /run/mark") == "first\nfirst\n"
    # One that is started anew has its own disk, and is stored as it is then.
    vm.ctl("kill")
    vm.ctl("start")
    vm.sh("echo third > /run/mark")
    vm.ctl("suspend")
    mount.kill()
    mount.start()
    assert read(vm / "error") == "" and vm.run("cat /root/mark /run/mark") == "first\nthird\n"
    vm.remove()
    mount.stop()
    assert not mount.stored("objects") and not mount.stored("snapshots")


@pytest.mark.any_engine
def test_what_is_stored_is_damaged(own_mount):
    """It stays suspended, and says why; rmdir takes it away."""
    mount = own_mount()
    vm = mount.create("vm")
    vm.ctl("suspend")
    name = hidden(mount)[0]
    with open(mount.state / "snapshots" / name / "ram", "r+b") as ram:
        ram.seek(5000)
        ram.write(b"\xff" * 300000)
    with fails(errno.EIO, vm / "error"):
        vm.ctl("resume")
    assert vm.state == "suspended"
    with fails(errno.EIO):
        read(vm / "fs/etc/hostname")
    job = vm.job("true")
    assert job.wait().startswith("failed ")
    vm.remove()
    assert not hidden(mount)


@pytest.mark.any_engine
def test_what_is_said_of_a_stored_one_is_damaged(own_mount):
    """The next daemon shows it all the same, says why it never comes back, and rmdir takes it away."""
    mount = own_mount(options=["--keep"])
    names = ["record", "gone", "manifest", "taken"]
    for name in names:
        vm = mount.create(name)
        vm.ctl("suspend")
    objects = {}
    for link in hidden(mount):
        path = (mount.state / "snapshots" / link).resolve()
        objects[re.search(r"^name (\S+)$", (path / "sandbox").read_text(), re.M)[1]] = path, link
    mount.stop()
    for name in "record", "taken":
        path = objects[name][0] / "sandbox"
        path.write_text(path.read_text().replace("net-mode", "net-mood"))
    (objects["gone"][0] / "sandbox").unlink()
    (objects["manifest"][0] / "manifest").write_text("nonsense")
    mount.start()
    assert mount.sandboxes() == sorted(names)
    for name in names:
        vm = Sandbox(mount / name)
        assert vm.state == "suspended" and "cannot be brought back" in read(vm / "error"), name
        for verb in "resume", "kill", "checkpoint":
            with fails(errno.EIO, vm / "error"):
                vm.ctl(verb)
        with fails(errno.EIO, vm / "error"):
            vm.fork("kid")
        with fails(errno.EIO):
            read(vm / "fs/etc/hostname")
        assert vm.job("true").wait().startswith("failed ")
        assert vm.state == "suspended"
        if name != "taken":
            vm.remove()
    # A name that somebody else has by then is not taken from them.
    rename(Sandbox(mount / "taken"), "other")
    mount.create("taken").ctl("suspend")
    mount.stop()
    mount.start()
    [damaged] = set(mount.sandboxes()) - {"taken"}
    assert re.fullmatch("damaged-[0-9a-f]{8}", damaged) and Sandbox(mount / "taken").run("hostname") == "taken\n"
    os.rmdir(mount / damaged)
    os.rmdir(mount / "taken")
    assert not hidden(mount)
    mount.stop()
