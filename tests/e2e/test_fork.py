# SPDX-License-Identifier: MIT
"""Forks: the same machine again, with an identity of its own."""
import errno
import os
import signal
import threading
import time

import pytest

from harness import Sandbox, Snapshot, fails, fields, limit, read, together, value, wait_gone, write


def test_fork_of_a_snapshot(sbx, prepared):
    os.mkdir(prepared / "forks/w1")
    vm = Sandbox(sbx / "w1")
    assert vm.state == "running"
    assert vm.run("cat /root/before") == "before\n"
    assert int(vm.run("cat /run/counter")) > 0


@pytest.mark.any_engine
def test_a_sandbox_has_one_path(sbx, prepared, vm):
    """In forks/ it is a link that leads to it."""
    prepared.fork("w1")
    link = prepared / "forks/w1"
    assert os.path.islink(link) and os.path.samefile(link, sbx / "w1")
    assert "w1" in os.listdir(prepared / "forks")
    vm.fork("w2")
    assert os.readlink(vm / "forks/w2") == "../../w2" and os.path.samefile(vm / "forks/w2", sbx / "w2")
    vm.ctl("snapshot golden")
    golden = Snapshot(sbx / "snapshots/golden")
    golden.fork("w3")
    assert os.readlink(golden / "forks/w3") == "../../../w3"
    assert value(golden / "forks/w3/state") == "running"
    os.rmdir(sbx / "w3")
    assert os.listdir(golden / "forks") == []


def test_forks_diverge(prepared):
    one, two = prepared.fork("one"), prepared.fork("two")
    one.sh("echo one > /root/before; echo one > /run/mine")
    two.sh("rm /root/before; echo two > /run/mine")
    assert one.run("cat /root/before /run/mine") == "one\none\n"
    assert two.run("ls /root/before 2>&1; cat /run/mine").endswith("two\n")
    assert prepared.fork("three").run("cat /root/before; ls /run/mine 2>&1").startswith("before\nls:")


def test_processes_go_on(prepared):
    """The counting process is the same one, in each fork, from the same value on."""
    forks = [prepared.fork(f"w{i}") for i in range(3)]
    values = [int(fork.run("cat /run/counter")) for fork in forks]
    for fork, at in zip(forks, values):
        fork.sh(f"while [ $(cat /run/counter) -le {at} ]; do sleep 0.05; done")


def test_identity(prepared):
    """Host name, machine id and random numbers are a fork's own from the first command on."""
    script = "hostname; cat /etc/hostname; cat /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1; cat /run/sbx/generation"
    seen = []
    for i in range(4):
        fork = prepared.fork(f"w{i}")
        seen.append(fork.run(script).splitlines())
        assert seen[-1][:2] == [f"w{i}", f"w{i}"]
        assert fork.run("echo $SBX_NAME") == f"w{i}\n"
        assert int(seen[-1][4]) == int(fork.info["generation"])
    for column in 2, 3:
        assert len({row[column] for row in seen}) == 4, seen
    assert all(len(row[2]) == 32 for row in seen)


def test_clock(prepared):
    """The wall clock is right after a capture, however long ago it was."""
    fork = prepared.fork("w")
    before = time.time()
    guest = float(fork.run("awk '{ print $1 }' /proc/uptime; date +%s").split()[1])
    assert before - 1.1 - limit(0.1) < guest < time.time() + limit(0.1)


def test_hooks_run_before_the_first_command(prepared):
    vm = prepared.fork("origin")
    (vm / "fs/etc/sbx/fork.d/10-note").write_text('#!/bin/sh\necho "$SBX_NAME" >> /run/forked\n')
    (vm / "fs/etc/sbx/fork.d/10-note").chmod(0o755)
    assert vm.fork("w").run("cat /run/forked") == "w\n"
    assert vm.run("ls /run/forked 2>&1").startswith("ls:")


def test_a_failing_hook_fails_the_fork(sbx, prepared):
    vm = prepared.fork("origin")
    vm.sh("printf '#!/bin/sh\\nexit 3\\n' > /etc/sbx/fork.d/10-fail; chmod +x /etc/sbx/fork.d/10-fail")
    snap = vm.snapshot()
    before = set(sbx.sandboxes())
    with pytest.raises(OSError):
        snap.fork("w")
    assert "10-fail" in read(snap / "error")
    assert set(sbx.sandboxes()) == before and os.listdir(snap / "forks") == []


# ---- sources


def test_fork_of_a_running_sandbox(vm):
    vm.sh("echo now > /run/now")
    fork = vm.fork("w")
    assert vm.state == "running" and fork.state == "running"
    assert fork.run("cat /run/now") == "now\n" and vm.run("cat /run/now") == "now\n"
    assert os.listdir(vm / "snapshots") == []


def test_fork_of_a_paused_sandbox(vm):
    vm.sh("echo now > /run/now")
    vm.ctl("pause")
    fork = vm.fork("w")
    assert vm.state == "paused"
    assert fork.run("cat /run/now") == "now\n"
    vm.ctl("resume")
    assert vm.run("cat /run/now") == "now\n"


@pytest.mark.any_engine
def test_fork_of_what_does_not_run(sbx, vm):
    vm.ctl("kill")
    with fails(errno.EHOSTDOWN):
        vm.fork("w")
    assert not os.path.exists(sbx / "w")


def test_many_snapshots_of_a_fork(prepared):
    vm = prepared.fork("w")
    for i in range(4):
        vm.sh(f"echo {i} >> /root/log; echo {i} >> /run/log")
        snap = vm.snapshot()
        vm.ctl("resume")
        fork = snap.fork(f"f{i}")
        expect = "".join(f"{n}\n" for n in range(i + 1))
        assert fork.run("cat /root/log; cat /run/log") == expect * 2
        fork.remove()


# ---- verbs


def test_fork_by_verb(sbx, prepared, vm):
    prepared.ctl("fork w1 env.WORKER_ID=42 env.MODE=fast")
    assert Sandbox(sbx / "w1").run("echo $WORKER_ID $MODE") == "42 fast\n"
    assert "WORKER_ID=42\n" in read(sbx / "w1/env")
    vm.ctl("fork w2 env.WORKER_ID=43")
    assert Sandbox(sbx / "w2").run("echo $WORKER_ID") == "43\n"
    assert prepared.fork("w3").run("echo $WORKER_ID") == "\n"


def test_env_is_inherited(sbx, vm):
    write(vm / "env", "A=1\nB=2\n")
    vm.ctl("fork w env.B=3")
    assert Sandbox(sbx / "w").run("echo $A $B") == "1 3\n"


def test_overrides_equal_to_the_snapshot(sbx, prepared):
    prepared.ctl("fork w memory=256M cpus=1")
    assert Sandbox(sbx / "w").state == "running"


def test_batch(sbx, prepared):
    prepared.ctl("fork 10 w env.KIND=worker")
    names = sorted(os.listdir(prepared / "forks"))
    workers = [name for name in names if name.startswith("w")]
    assert len(workers) == 10 and all(value(sbx / name / "state") == "running" for name in workers)
    assert Sandbox(sbx / workers[3]).run("hostname; echo $KIND") == f"{workers[3]}\nworker\n"


def test_batch_of_a_running_sandbox(sbx, vm):
    vm.sh("echo now > /run/now")
    vm.ctl("fork 3 b")
    workers = os.listdir(vm / "forks")
    assert len(workers) == 3 and vm.state == "running"
    for name in workers:
        assert Sandbox(sbx / name).run("cat /run/now") == "now\n"


def test_batch_with_a_taken_name(sbx, prepared):
    """One failure leaves the others alone and is reported by name."""
    prepared.ctl("fork 2 w")
    first = sorted(name for name in os.listdir(prepared / "forks") if name.startswith("w"))[0]
    for name in os.listdir(prepared / "forks"):
        if name not in (first, "vm"):
            os.rmdir(sbx / name)
    with fails(errno.EEXIST):
        prepared.ctl("fork 3 w")
    lines = read(prepared / "error").splitlines()
    assert len(lines) == 1 and first in lines[0]
    assert len([name for name in os.listdir(prepared / "forks") if name.startswith("w")]) == 3


# ---- many, and at once


def test_mkdir_of_several(sbx, prepared):
    relative = os.path.relpath(prepared.path, sbx.path)
    sbx.ok(f"mkdir {relative}/forks/m1 {relative}/forks/m2 {relative}/forks/m3; for m in m1 m2 m3; do cat $m/state; done")


def test_forks_at_once(prepared):
    """Forks asked for by several processes at the same time."""
    made, failed = [], []

    def fork(i):
        try:
            made.append(prepared.fork(f"p{i}"))
        except OSError as e:
            failed.append(e)

    together(fork, 8)
    assert len(made) == 8, failed
    for vm in made:
        assert vm.run("hostname") == f"{vm.name}\n"


def test_removing_many_does_not_delay_a_fork(prepared):
    forks = [prepared.fork(f"r{i}") for i in range(8)]
    pids = [fork.pid for fork in forks]
    threads = [threading.Thread(target=fork.remove) for fork in forks]
    for thread in threads:
        thread.start()
    assert prepared.fork("quick").run("echo quick") == "quick\n"
    for thread in threads:
        thread.join(limit(20))
    for pid in pids:
        wait_gone(pid)


@pytest.mark.any_engine
def test_ctrl_c_on_a_fork_leaves_nothing(sbx, vm):
    """Ends the wait at once; the fork is there whole or not at all."""
    for i in range(5):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            try:
                os.mkdir(vm / f"forks/c{i}")
            finally:
                os._exit(0)
        time.sleep(0.01 * i)  # at various moments of its life
        os.kill(pid, signal.SIGINT)
        start = time.monotonic()
        os.waitpid(pid, 0)
        assert time.monotonic() - start < limit(2)
        if os.path.exists(sbx / f"c{i}"):
            assert Sandbox(sbx / f"c{i}").run("hostname") == f"c{i}\n"
        else:
            assert f"c{i}" not in os.listdir(vm / "forks")
    assert vm.state == "running" and vm.run("echo on") == "on\n"


def test_the_rest_of_the_tree_answers_during_a_fork(sbx, prepared, vm):
    """One slow operation delays nobody else."""
    stop, slowest = threading.Event(), [0.0]

    def look():
        while not stop.is_set():
            start = time.monotonic()
            assert value(vm / "state") == "running"
            slowest[0] = max(slowest[0], time.monotonic() - start)
            stop.wait(0.01)  # where there is one CPU, the forks need it

    thread = threading.Thread(target=look)
    thread.start()
    for i in range(3):
        prepared.fork(f"w{i}")
        vm.fork(f"v{i}")
    stop.set()
    thread.join(limit(10))
    assert slowest[0] < limit(1)


def test_memory_is_shared(sbx, prepared):
    """A fork that does nothing has little of its own."""
    stats = {key: int(text) for key, text in fields(prepared.fork("idle") / "stats").items()}
    assert stats["private"] < 160 << 20
    assert stats["shared"] > 0


# ---- jobs survive


def test_a_job_goes_on_in_every_fork(vm):
    """The same name in exec/, its stdin and stdout working."""
    job = vm.job(name="server")
    stdin = os.open(job / "stdin", os.O_WRONLY)
    job.start("n=0; while read line; do n=$((n+1)); echo $n $line $SBX_NAME; done")
    os.write(stdin, b"first\n")
    out = os.open(job / "stdout", os.O_RDONLY)
    assert os.read(out, 100) == b"1 first vm\n"
    for i in range(3):
        fork = vm.fork(f"w{i}")
        assert value(fork / "exec/server/status") == "running"
        fd = os.open(fork / "exec/server/stdin", os.O_WRONLY)
        os.write(fd, f"job {i}\n".encode())
        fork_out = os.open(fork / "exec/server/stdout", os.O_RDONLY)
        assert os.read(fork_out, 100) == f"2 job {i} vm\n".encode()
        os.close(fork_out)
        os.close(fd)
        assert fork.job("true").wait() == "exited 0"
    os.write(stdin, b"second\n")
    assert os.read(out, 100) == b"2 second vm\n"
    os.close(out)
    os.close(stdin)


def test_unread_output_is_in_every_fork(vm):
    job = vm.job("echo unread; exit 9", name="done")
    assert job.wait() == "exited 9"
    fork = vm.fork("w")
    assert read(fork / "exec/done/stdout") == "unread\n"
    assert value(fork / "exec/done/wait") == "exited 9"
    assert job.output() == b"unread\n"
