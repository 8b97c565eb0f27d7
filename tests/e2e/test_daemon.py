# SPDX-License-Identifier: MIT
"""The daemon itself: starting, ending, and being left alone by what goes wrong around it."""
import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest

from harness import Sandbox, Snapshot, eventually, fails, limit, read, read_all, wait_gone, write


def test_mount_and_end(own_mount):
    mount = own_mount()
    assert "README" in os.listdir(mount.path)
    mount.stop()  # asserts status 0, and that nothing is left


def test_end_with_machines_in_every_state(own_mount):
    mount = own_mount()
    vm = mount.create("running")
    mount.create("created", start=False)
    snap = vm.snapshot()
    vm.ctl("resume")
    snap.fork("paused").ctl("pause")
    snap.fork("stopped").ctl("kill")
    os.kill(snap.fork("crashed").pid, signal.SIGKILL)
    pids = [int(pid) for n in mount.sandboxes() if (pid := Snapshot(mount / n).info.get("pid", "0")).isdigit()]
    mount.stop()
    for pid in pids:
        assert pid == 0 or not os.path.exists(f"/proc/{pid}")


def test_end_with_requests_under_way(own_mount):
    """Blocked readers and writers get an error; nobody is left in the kernel."""
    mount = own_mount()
    vm = mount.create("vm")
    job = vm.job()
    stdin = os.open(job / "stdin", os.O_WRONLY)
    job.start("sleep 1000")
    results = []

    def blocked(fn):
        try:
            fn()
            results.append(0)
        except OSError as e:
            results.append(e.errno)

    threads = [
        threading.Thread(target=blocked, args=(job.output,)),
        threading.Thread(target=blocked, args=(job.wait,)),
        threading.Thread(target=blocked, args=(lambda: os.write(stdin, b"x" * 1_000_000) and os.write(stdin, b"x" * 1_000_000),)),
        threading.Thread(target=blocked, args=(lambda: vm.fork("w"),)),
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    mount.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(limit(20))
        assert not thread.is_alive()
    os.close(stdin)
    mount.stop()


def test_end_with_open_files(own_mount):
    mount = own_mount()
    fd = os.open(mount / "README", os.O_RDONLY)
    mount.stop()
    with fails(errno.ENOTCONN):
        os.read(fd, 10)
    with contextlib.suppress(OSError):
        os.close(fd)  # FUSE asks the daemon


def test_sigint_ends_it_too(own_mount):
    mount = own_mount()
    mount.process.send_signal(signal.SIGINT)
    mount.stop()


def test_unmounting_ends_it(own_mount):
    mount = own_mount()
    pid = mount.create("vm").pid
    subprocess.run(["fusermount3", "-u", mount.path], check=True)
    assert mount.process.wait(limit(20)) == 0
    mount.check_clean()
    assert not os.path.exists(f"/proc/{pid}")


def test_unmounting_ends_it_beside_a_later_one(own_mount):
    """Whose launcher has mounts of its own, made while this one was mounted."""
    mount = own_mount()
    later = own_mount()
    subprocess.run(["fusermount3", "-u", mount.path], check=True)
    assert mount.process.wait(limit(20)) == 0
    later.stop()
    mount.check_clean()


def test_machines_die_with_a_killed_daemon(own_mount):
    mount = own_mount()
    pid = mount.create("vm").pid
    mount.kill()
    wait_gone(pid)


def test_a_stale_mount_is_replaced(own_mount):
    """After kill -9 the mount point answers ENOTCONN; the next daemon takes it over."""
    mount = own_mount()
    mount.process.kill()
    mount.process.wait()
    with fails(errno.ENOTCONN):
        os.listdir(mount.path)
    shutil.rmtree(mount.runtime)  # what a killed daemon leaves is not ours to judge
    mount.start()
    assert "README" in os.listdir(mount.path)
    mount.stop()


def test_it_can_go_to_the_background(build, guest, engine, new_state, tmp_path):
    """Without -f the command returns when the tree is there, and nothing of it has its descriptors any more."""
    path = tmp_path / "m"
    path.mkdir()
    argv = [build / "sbxfs", "--state", new_state(), "--engine", engine, "--guest", guest, path]
    # to the end of both pipes
    done = subprocess.run(argv, check=False, timeout=limit(20), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    try:
        assert done.returncode == 0 and "mounted" in done.stderr and "README" in os.listdir(path)
    finally:
        subprocess.run(["fusermount3", "-u", path], check=True)


@pytest.mark.parametrize(
    "args", [["--nosuch"], [], ["--engine", "nosuch", "m"], ["nosuchdir"], ["--state", "/proc/nosuch", "m"], ["m", "x"]]
)
def test_bad_command_lines(build, tmp_path, args):
    (tmp_path / "m").mkdir()
    done = subprocess.run(
        [build / "sbxfs", *args], cwd=tmp_path, capture_output=True, text=True, timeout=limit(20), check=False
    )
    assert done.returncode != 0 and done.stderr.strip()
    assert not os.path.ismount(tmp_path / "m")


def test_a_state_directory_below_the_mount_is_refused(build, tmp_path):
    (tmp_path / "m/s").mkdir(parents=True)
    done = subprocess.run(
        [build / "sbxfs", "-f", "--state", tmp_path / "m/s", tmp_path / "m"],
        capture_output=True, text=True, timeout=limit(20), check=False,
    )  # fmt: skip
    assert done.returncode != 0 and done.stderr.strip()


def test_nothing_is_left_of_removed_sandboxes(own_mount, new_warm_state):
    """As many open files and layers after as before, exactly: no machine is kept ready, whose number would vary."""
    mount = own_mount(new_warm_state(), options=["--pool", "0", "--boot-snapshots", "2"])
    snap = mount.create("prepared").snapshot()

    def count():
        seen = [-1]

        def settled():
            write(mount / "ctl", "gc")
            files, layers = os.listdir(f"/proc/{mount.process.pid}/fd"), os.listdir(mount.state / "layers")
            seen.append((len(files), len(layers)))
            time.sleep(limit(0.2))
            return seen[-1] == seen[-2]

        eventually(settled, 10, "the number of open files or layers changes without end")
        return seen[-1]

    def round_trip(i):
        vm = snap.fork(f"w{i}")
        vm.run("echo x > /tmp/f")
        assert read(vm / "fs/tmp/f") == "x\n"
        vm.job("true").wait()
        vm.snapshot().fork(f"v{i}").remove()
        vm.remove()

    round_trip(0)
    before = count()
    for i in range(1, 4):
        round_trip(i)
    assert count() == before


def test_one_slow_reader_delays_nobody(sbx, vm):
    """Two hundred blocked readers, and the tree still answers."""
    job = vm.job("sleep 1000")
    threads = [threading.Thread(target=lambda: job.wait()) for _ in range(200)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        assert vm.state == "running"
    assert vm.run("echo quick") == "quick\n"
    job.ctl("kill KILL")
    for thread in threads:
        thread.join(limit(20))
        assert not thread.is_alive()


def test_a_flood_of_output_delays_nobody(vm):
    job = vm.job("yes")
    fd = os.open(job / "stdout", os.O_RDONLY)
    for _ in range(20):
        assert os.read(fd, 65536)
        assert vm.state == "running"
    job.ctl("kill KILL")
    read_all(fd)
    os.close(fd)


def test_options_are_listed(build):
    done = subprocess.run([build / "sbxfs", "--help"], capture_output=True, text=True, timeout=limit(20), check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 0 and all(option in text for option in ("--state", "--engine", "-f"))


def test_verbose_tells_the_story_of_a_request(own_mount):
    mount = own_mount(options=["-v"])
    write(mount / "ctl", "create a")
    os.mkdir(mount / "a/forks/w1")
    assert (mount / "w1/fs/etc/hostname").read_text() == "w1\n"
    # Who needs no module of the kernel never asks for one.
    assert "MODULES" not in mount.log
    assert Sandbox(mount / "w1").run("ip link add v0 type veth") == ""
    assert "w1: from guest: MODULES" in mount.log and "a: from guest: MODULES" not in mount.log
    mount.stop()
    story = mount.log
    times = [float(t) for t in re.findall(r"^sbxfs: +(\d+\.\d+) ", story, re.M)]
    assert times and times == sorted(times)
    asked = re.search(r"request (\d+): mkdir a/forks/w1, from process (\d+) of user 0", story)
    assert int(asked[2]) == os.getpid()
    number, rest = asked[1], story[asked.end() :]
    order = [
        "a: task fork begins",
        "a: to guest: QUIESCE ",
        r"engine \w+: capture, process \d+",
        "w1: task fork begins",
        "w1: to guest: ATTACH ",
        "w1: from guest: ATTACHED ",
        "w1: task fork ends after [0-9.]+ ms",
        f"request {number}: answered after [0-9.]+ ms",
        "open hostname in fs/ of w1",
    ]
    for line in order:
        found = re.search(line, rest)
        assert found, f"no {line} in {rest}"
        rest = rest[found.end() :]


def test_a_quiet_daemon_says_nothing_of_requests(own_mount):
    mount = own_mount()
    os.mkdir(mount / "a")
    os.rmdir(mount / "a")
    mount.stop()
    assert "request" not in mount.log and "task" not in mount.log and "mounter" not in mount.log


def part_of(mount, name):
    found = subprocess.run(["pgrep", "-P", str(mount.process.pid), name], capture_output=True, text=True, check=True)
    return int(found.stdout)


def test_a_killed_mounter_ends_nothing(own_mount):
    """It has nothing to do before the end: machines go on, and what it leaves then is said, and the next takes it away."""
    mount = own_mount()
    os.mkdir(mount / "a")
    os.kill(part_of(mount, "sbxfs-mounter"), signal.SIGKILL)
    eventually(lambda: "mounter was killed" in mount.log, 20, "nothing is said of the mounter")
    assert read(mount / "a/state") == "created\n"
    mount.process.terminate()
    assert mount.process.wait(limit(20)) == 1
    assert "could not be unmounted" in mount.log
    with fails(errno.ENOTCONN):
        os.listdir(mount.path)
    mount.start()
    assert mount.sandboxes() == []


def test_a_stopped_mounter_is_not_waited_for(own_mount):
    """It is not there to unmount: that is said, the daemon ends, and the kernel takes the mounter along."""
    mount = own_mount()
    mounter = part_of(mount, "sbxfs-mounter")
    os.kill(mounter, signal.SIGSTOP)
    mount.process.terminate()
    assert mount.process.wait(limit(30)) == 1
    assert "mounter has not answered for 5 s" in mount.log and "could not be unmounted" in mount.log
    wait_gone(mounter)
    mount.start()  # over what is left


def test_a_daemon_that_may_unmounts_itself(own_mount):
    mount = own_mount(options=["--jail=none"])
    os.kill(part_of(mount, "sbxfs-mounter"), signal.SIGKILL)
    eventually(lambda: "mounter was killed" in mount.log, 20, "nothing is said of the mounter")
    mount.process.terminate()
    assert mount.process.wait(limit(20)) == 0 and not os.path.ismount(mount.path)


def test_a_killed_launcher_ends_the_daemon(own_mount):
    """No machine outlives it, and none could be started: a daemon without one is of no use."""
    mount = own_mount()
    vm = mount.create("vm")
    pid = vm.pid
    os.kill(part_of(mount, "sbxfs-launcher"), signal.SIGKILL)
    assert mount.process.wait(limit(20)) == 1
    wait_gone(pid)
    assert "launcher" in mount.log and not os.path.ismount(mount.path)


def forked(snapshot, name):
    """Not as long as the launcher has only just been woken."""
    try:
        snapshot.fork(name)
    except TimeoutError:
        return False
    return True


def test_a_stopped_launcher_stops_nothing_else(own_mount):
    """No machine can be started, which is said; those there are go on, and so does all once it goes on, and the end."""
    mount = own_mount(options=["--pool", "0"])
    vm = mount.create("vm")
    snapshot = vm.snapshot()
    vm.ctl("resume")
    launcher = part_of(mount, "sbxfs-launcher")
    os.kill(launcher, signal.SIGSTOP)
    with fails(errno.ETIMEDOUT):
        snapshot.fork("w1")
    assert "launcher does not answer" in read(snapshot / "error")
    assert "launcher has not answered for 5 s" in mount.log and not os.path.exists(mount / "w1")
    assert vm.sh("echo there") == "there\n"
    os.kill(launcher, signal.SIGCONT)
    eventually(lambda: forked(snapshot, "w2"), 20, "it does not answer again")
    assert Sandbox(mount / "w2").sh("echo there") == "there\n"
    os.kill(launcher, signal.SIGSTOP)
    pid = vm.pid
    mount.process.terminate()
    assert mount.process.wait(limit(30)) == 0 and not os.path.ismount(mount.path)
    wait_gone(launcher)
    wait_gone(pid)
