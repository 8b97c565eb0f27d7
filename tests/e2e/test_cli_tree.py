# SPDX-License-Identifier: MIT
"""sbx ls, tree, top, sh, cp, logs and wait, and what bash completes."""
import json
import os
import re
import subprocess

import pytest

from harness import TOP, Sandbox, limit, read_all


@pytest.fixture
def say(cli):
    """A function: what sbx prints, where it succeeds."""

    def run(*args, **kwargs):
        done = cli(*args, **kwargs)
        assert (done.returncode, done.stderr) == (0, b""), (args, done)
        return done.stdout.decode()

    return run


def test_what_there_is(sbx, vm, say):
    """ls as a table and as JSON; tree as text and for dot; top says who is there."""
    os.mkdir(sbx / "idle")
    snap = vm.snapshot()
    snap.fork("w1")
    snap.save("kept")
    rows = [line.split() for line in say("ls").splitlines()]
    assert rows[0] == ["NAME", "STATE", "IMAGE", "MEMORY", "CPUS", "PARENT"]
    assert ["w1", "running", "base", "256M", "1", "vm/snapshots/1"] in rows and rows[1][:2] == ["idle", "created"]
    found = {row["name"]: row for row in json.loads(say("ls", "--json"))}
    assert set(found) == set(sbx.sandboxes())
    assert (found["vm"]["state"], found["vm"]["memory"], found["idle"]["parent"]) == ("paused", 256 << 20, "")
    tree = say("tree")
    kept = re.search(r"^(.*)-- snapshots/kept  snapshot, ready, \S+ stored, \S+ shared, \S+ of its own$", tree, re.M)
    assert re.search(r"^.*w1  running, \S+ stored, memory [\d.]+M shared, [\d.]+M of its own, of vm/", tree, re.M), tree
    assert kept and re.search(r"^idle  created$", tree, re.M), tree
    # It was taken of vm, and stands below it, as w1 says where it came from.
    assert tree.index("vm  paused") < kept.start() and "of vm/snapshots/1, which is gone" in tree
    dot = say("tree", "--dot")
    assert dot.startswith("digraph sbxfs {\n") and dot.endswith("}\n") and '"vm" -> "snapshots/kept";' in dot
    Sandbox(sbx / "w1").ctl("suspend")
    tree = say("tree")
    sizes = re.search(r"w1  suspended, (\S+) stored, (\S+) shared, (\S+) of its own, of", tree)
    stored, shared, own = (float(size[:-1]) * 1024 ** "BKM".index(size[-1]) for size in sizes.groups())
    assert stored > 0 and own > 0 and abs(shared + own - stored) < stored / 5, tree
    Sandbox(sbx / "w1").ctl("resume")
    looks = say("top", "-n", "2", "-d", "0.1").split("NAME ")[1:]
    assert len(looks) == 2 and all(re.search(r"^w1 +running +[\d.]+ +[\d.]+s +256M ", look, re.M) for look in looks)


def test_files_and_shells(sbx, vm, say, cli, tmp_path):
    """cp takes trees both ways, between machines and from snapshots; sh is a login shell with its status."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").write_text("text\n")
    os.symlink("file", tmp_path / "d/link")
    say("cp", tmp_path / "d", "vm:/root/")
    assert vm.sh("cat /root/d/link") == "text\n"
    other = vm.fork("other")
    vm.sh("echo more >> /root/d/file")
    say("cp", "vm:/root/d/file", "other:root/copied")
    assert other.sh("cat /root/copied") == "text\nmore\n"
    vm.sh("sync")  # a busy host: the capture waits two seconds for it, and no longer
    vm.ctl("snapshot kept")
    say("cp", "snapshots/kept:/root/d", tmp_path / "back")
    assert (tmp_path / "back/file").read_text() == "text\nmore\n" and os.readlink(tmp_path / "back/link") == "file"
    for args in ("cp", "nosuch:/x", "."), ("cp", "vm:/nosuch", "."):
        assert cli(*args).returncode != 0 and cli(*args).stderr, args
    done = cli("sh", "other", "-c", "echo $0 $SBX_NAME; exit 7")
    assert (done.returncode, done.stdout) == (7, b"sh other\n")


def test_logs(sbx, vm, say, build):
    """All of the console; with -f, what comes."""
    vm.sh("echo first line > /dev/console")
    assert "first line" in say("logs", "vm")
    env = dict(os.environ, SBX_MOUNT=str(sbx.path))
    with subprocess.Popen([build / "sbx", "logs", "-f", "vm"], stdout=subprocess.PIPE, env=env) as follower:
        try:
            assert any(b"first line" in line for line in follower.stdout)
            vm.sh("echo second line > /dev/console")
            assert any(b"second line" in line for line in follower.stdout)
        finally:
            follower.kill()


def test_wait(sbx, vm, cli, build):
    """It is woken by the state, by the end of the sandbox, and by its time."""
    assert cli("wait", "vm", "stopped", "running").stdout == b"running\n"
    done = cli("wait", "-t", "0.2", "vm", "paused")
    assert done.returncode == 124 and done.stderr == b"sbx: vm is running\n"
    env = dict(os.environ, SBX_MOUNT=str(sbx.path))

    def waiting(state):
        return subprocess.Popen([build / "sbx", "wait", "vm", state], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)

    with waiting("paused") as waiter:
        vm.ctl("pause")
        assert read_all(waiter.stdout.fileno()) == b"paused\n" and waiter.wait(limit(10)) == 0
    with waiting("crashed") as waiter:
        vm.remove()
        assert waiter.wait(limit(10)) in (1, 125)  # 125: it looked after that
    assert cli("wait", "vm", "sleeping").returncode == 2 and cli("wait", "nosuch", "paused").returncode == 125


@pytest.mark.any_engine
def test_completion(sbx, build):
    """Commands, options, and names of what there is."""
    os.mkdir(sbx / "idle")

    def completes(line):
        script = f'. {TOP}/contrib/sbx.bash; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _sbx; echo "${{COMPREPLY[@]}}"'
        env = dict(os.environ, SBX_MOUNT=str(sbx.path), PATH=f"{build}:{os.environ['PATH']}")
        done = subprocess.run(["bash", "-c", script], env=env, text=True, capture_output=True, check=True, timeout=limit(20))
        assert done.stderr == ""
        return done.stdout.split()

    assert completes("sbx t") == ["tree", "top"]
    assert "idle" in completes("sbx exec ''") and completes("sbx exec id") == ["idle"]
    assert completes("sbx run ba") == ["base"] and completes("sbx wait idle pau") == ["paused"]
    assert completes("sbx ls --js") == ["--json"] and completes("sbx snapshot ve") == ["verify"]
