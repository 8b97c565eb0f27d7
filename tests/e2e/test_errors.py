# SPDX-License-Identifier: MIT
"""Each failure has the errno that fits and, where somebody would ask why, a sentence in `error`.

Names, settings and removed directories are in test_tree.py.
"""
import errno
import os
import subprocess

import pytest

from harness import fails, read, write


@pytest.mark.parametrize("verb", ["bogus", "startle", "START", "start now", "pause 1", "snapshot a b", "fork", "fork w x",
                                  "fork w colour=red", "fork 0 w", "kill -9", "\0", "resume\npause"])  # fmt: skip
def test_unknown_and_malformed_verbs(vm, verb):
    with fails(errno.EINVAL, vm / "error"):
        vm.ctl(verb)
    assert vm.state == "running"


def test_the_sentence_names_the_verb(sbx, vm):
    done = sbx.shell("echo bogus > vm/ctl", shell="bash")
    assert done.returncode != 0 and "Invalid argument" in done.stderr
    assert "bogus" in read(vm / "error")


def test_success_clears_the_sentence(vm):
    with fails(errno.EINVAL, vm / "error"):
        vm.ctl("bogus")
    vm.ctl("resume")
    assert read(vm / "error") == ""


def test_blanks_and_newline_are_optional(vm):
    for verb in "pause\n", "  resume  ", "pause", "\tresume \n":
        vm.ctl(verb)
    assert vm.state == "running"


def test_python_sends_a_failed_line_twice(sbx, vm):
    """A buffered file repeats the write when it is closed; both fail alike and nothing else happens."""
    with pytest.raises(OSError), open(vm / "ctl", "w") as ctl:
        ctl.write("bogus\n")
    with open(vm / "ctl", "w") as ctl:
        ctl.write("pause\n")
    assert vm.state == "paused"


def test_verbs_of_a_snapshot(prepared):
    for verb in "bogus", "fork", "fork 3", "fork w colour=red", "verify all":
        with fails(errno.EINVAL, prepared / "error"):
            prepared.ctl(verb)


def test_verbs_of_the_root(sbx):
    for verb in "bogus", "create", "create a b", "gc all", "create x colour=red":
        with fails(errno.EINVAL, sbx / "error"):
            write(sbx / "ctl", verb)


def test_verbs_of_a_job(vm):
    job = vm.job("sleep 1000")
    for verb in "bogus", "kill NOSUCH", "kill 99", "resize", "resize 1", "resize a b", "eof 1":
        with fails(errno.EINVAL):
            job.ctl(verb)
    assert job.status == "running"


def test_taken_names(sbx, prepared, vm):
    with fails(errno.EEXIST, sbx / "error"):
        write(sbx / "ctl", "create vm")
    with fails(errno.EEXIST, prepared / "error"):
        prepared.ctl("fork vm")
    with fails(errno.EEXIST, vm / "error"):
        vm.ctl("fork vm")
    with pytest.raises(FileExistsError):
        os.mkdir(prepared / "forks/vm")
    with pytest.raises(FileExistsError):
        os.mkdir(vm / "forks/prepared")


def test_missing_things(sbx):
    for path in sbx / "nosuch/ctl", sbx / "snapshots/nosuch/info", sbx / "images/nosuch/info":
        with fails(errno.ENOENT):
            read(path)


def test_paused_never_hangs(sbx, vm):
    job = vm.job()
    vm.ctl("pause")
    with fails(errno.EAGAIN):
        write(job / "cmd", "true")
    with fails(errno.EAGAIN):
        vm.run("true")
    for path in vm / "fs/etc/passwd", vm / "fs/nosuch":
        with fails(errno.EAGAIN):
            os.open(path, os.O_RDONLY)
    with fails(errno.EAGAIN):
        os.listdir(vm / "fs")
    vm.ctl("resume")
    job.start("echo now")
    assert job.output() == b"now\n"


def test_not_running_never_hangs(sbx):
    vm = sbx.create("c", start=False)
    for _ in range(2):  # created, then stopped
        with fails(errno.EHOSTDOWN):
            vm.run("true")
        with fails(errno.EHOSTDOWN):
            write(vm.job() / "cmd", "true")
        with fails(errno.EHOSTDOWN):
            os.listdir(vm / "fs")
        with fails(errno.EHOSTDOWN):
            os.open(vm / "fs/etc/passwd", os.O_RDONLY)
        if vm.state == "created":
            vm.ctl("start")
            vm.ctl("kill")


def test_job_settings_are_fixed_after_the_start(vm):
    job = vm.job("sleep 1000")
    for name, text in ("cmd", "true"), ("cwd", "/tmp"), ("env", "A=1"), ("user", "root"), ("tty", "1"):
        with fails(errno.EBUSY):
            write(job / name, text)


def test_long_commands(vm):
    with fails(errno.E2BIG):
        vm.ctl("fork " + "x" * 5000)
    with fails(errno.E2BIG):
        write(vm.job() / "ctl", "kill" + " " * 5000)


def test_overrides(sbx, prepared):
    """Above the maximum: the reason has the numbers."""
    with fails(errno.ERANGE, prepared / "error"):
        prepared.ctl("fork w memory=64G")
    assert "512" in read(prepared / "error")
    with fails(errno.ERANGE, prepared / "error"):
        prepared.ctl("fork w cpus=64")
    for bad in "memory=much", "cpus=-1", "memory=":
        with fails(errno.EINVAL, prepared / "error"):
            prepared.ctl(f"fork w {bad}")
    assert not os.path.exists(sbx / "w")


def test_a_stopped_agent_is_not_possible(vm):
    """The kernel ignores SIGSTOP and SIGKILL for process 1."""
    vm.sh("kill -STOP 1; kill -KILL 1")
    assert vm.run("echo alive") == "alive\n"


def test_errors_reach_every_shell(sbx, vm):
    for shell in "bash", "dash", "busybox sh":
        done = sbx.shell("echo bogus > vm/ctl", shell=shell)
        assert done.returncode != 0, shell
    done = subprocess.run(["mkdir", sbx / "vm"], capture_output=True, text=True, check=False)
    assert "File exists" in done.stderr
