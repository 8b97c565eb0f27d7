# SPDX-License-Identifier: MIT
"""The tree: what is there, how it reads, who may change it."""
import errno
import os
import stat
import subprocess

import pytest

from harness import Sandbox, fails, fields, read, read_all, value, write

VM_FILES = """ctl error state info image memory cpus memory_max cpus_max env console stats run""".split()
VM_DIRS = "exec fs snapshots forks".split()
JOB_FILES = "cmd cwd env user tty linger timeout hold stdin stdout stderr status exit wait ctl error".split()
SNAPSHOT_FILES = "ctl error info".split()
NOBODY = 65534


@pytest.fixture
def created(sbx):
    """A sandbox that was not started: enough for what needs no guest."""
    return sbx.create("c", start=False)


def test_root_lists_what_it_has(sbx):
    assert {"ctl", "README", "status", "error", "images", "snapshots"} <= set(os.listdir(sbx.path))


def test_sandbox_lists_what_it_has(created):
    assert set(VM_FILES + VM_DIRS) <= set(os.listdir(created.path))
    for name in VM_FILES:
        assert stat.S_ISREG(os.stat(created / name).st_mode), name
    for name in VM_DIRS:
        assert stat.S_ISDIR(os.stat(created / name).st_mode), name


def test_job_lists_what_it_has(vm):
    assert set(os.listdir(vm.job().path)) == set(JOB_FILES)


def test_snapshot_lists_what_it_has(prepared):
    assert set(SNAPSHOT_FILES + ["forks"]) <= set(os.listdir(prepared.path))


def test_readme_names_every_file_and_verb(sbx):
    text = read(sbx / "README")
    for word in VM_FILES + VM_DIRS + JOB_FILES + SNAPSHOT_FILES + ["status", "images", "README"]:
        assert word in text, word
    for verb in "start stop kill pause resume snapshot checkpoint fork create gc verify eof resize".split():
        assert verb in text, verb


def test_ctl_lists_the_verbs_it_takes_now(vm):
    verbs = read(vm / "ctl").split()
    assert {"pause", "snapshot", "kill"} <= set(verbs)
    vm.ctl("kill")
    assert "start" in read(vm / "ctl").split()


def test_root_ctl_lists_its_verbs(sbx):
    assert {"create", "gc"} <= set(read(sbx / "ctl").split())


def test_root_status_names_the_engine(sbx, engine):
    assert fields(sbx / "status")["engine"].split()[0] == engine


def test_image_info(sbx):
    assert os.listdir(sbx / "images") == ["base"]
    assert int(fields(sbx / "images/base/info")["size"]) >= 64 << 20


def test_texts_have_their_true_size(sbx, vm):
    paths = [sbx / "README", sbx / "ctl", sbx / "images/base/info"]
    paths += [vm / name for name in "ctl error state info image memory cpus memory_max cpus_max env".split()]
    for path in paths:
        assert os.stat(path).st_size == len(read(path)), path


def test_busybox_cat_reads_them(sbx, vm):
    """busybox cat reads nothing from a file of size 0."""
    assert sbx.ok("busybox cat vm/state") == "running\n"
    assert sbx.ok("busybox cat README") == read(sbx / "README")


def test_reads_at_offsets(sbx):
    text = read(sbx / "README")
    fd = os.open(sbx / "README", os.O_RDONLY)
    assert os.pread(fd, 10, 5).decode() == text[5:15]
    assert os.pread(fd, 10, len(text) + 1) == b""
    assert b"".join(iter(lambda: os.read(fd, 1), b"")).decode() == text
    os.close(fd)


def test_ordinary_tools_walk_the_tree(sbx, created):
    assert "state" in sbx.ok("ls -l c")
    assert "c/memory" in sbx.ok("find c -maxdepth 1")
    assert sbx.ok("cat c/state") == "created\n"
    sbx.ok("stat c/ctl; df .; test -s README; test ! -s c/error; grep -H . c/state; wc -l README")


# ---- names


@pytest.mark.parametrize("name", ["x" * 65, ".hidden", "-dash", "a b", "a\nb", "ü", "_x", "a:b"])
def test_bad_names(sbx, name):
    with fails(errno.EINVAL, sbx / "error"):
        os.mkdir(sbx / name)
    assert name not in os.listdir(sbx.path)


@pytest.mark.parametrize("name", ["x" * 64, "a.b", "0", "A-b_c.9"])
def test_good_names(sbx, name):
    os.mkdir(sbx / name)
    assert value(sbx / name / "state") == "created"
    os.rmdir(sbx / name)


@pytest.mark.parametrize("name", ["a/b", "../x", "x" * 65, ".", ".."])
def test_bad_names_in_verbs(sbx, vm, name):
    with fails(errno.EINVAL, sbx / "error"):
        write(sbx / "ctl", f"create {name}")
    with fails(errno.EINVAL, vm / "error"):
        vm.ctl(f"fork {name}")
    with fails(errno.EINVAL, vm / "error"):
        vm.ctl(f"snapshot {name}")
    assert vm.state == "running"


def test_names_are_unique(sbx, created):
    with fails(errno.EEXIST):
        os.mkdir(created.path)
    with fails(errno.EEXIST, sbx / "error"):
        write(sbx / "ctl", "create c")
    for name in "images", "snapshots", "README", "ctl":
        with fails(errno.EEXIST):
            os.mkdir(sbx / name)


# ---- settings


def test_settings_start_with_defaults(sbx):
    os.mkdir(sbx / "d")
    got = {name: value(sbx / "d" / name) for name in ("memory", "memory_max", "cpus", "cpus_max", "image")}
    assert got == {"memory": "536870912", "memory_max": "2147483648", "cpus": "1", "cpus_max": "4", "image": "base"}


@pytest.mark.parametrize("text,number", [("256M", 256 << 20), ("1g", 1 << 30), ("524288K\n", 512 << 20), (str(1 << 29), 1 << 29)])
def test_sizes_are_accepted_with_suffixes(created, text, number):
    write(created / "memory_max", "2G")
    write(created / "memory", text)
    assert value(created / "memory") == str(number)


@pytest.mark.parametrize("name", ["memory", "memory_max", "cpus", "cpus_max"])
@pytest.mark.parametrize("text", ["many", "-1", "1.5", "12Q", "1 2"])
def test_malformed_settings(created, name, text):
    before = value(created / name)
    with fails(errno.EINVAL, created / "error"):
        write(created / name, text)
    assert value(created / name) == before


@pytest.mark.parametrize(
    "name,text",
    [("memory", "1K"), ("memory", "999999G"), ("memory_max", "99999999999999999999"), ("cpus", "0"), ("cpus", "1000")],
)
def test_settings_out_of_range(created, name, text):
    before = value(created / name)
    with fails(errno.ERANGE, created / "error"):
        write(created / name, text)
    assert value(created / name) == before


def test_unknown_image(created):
    with fails(errno.ENOENT, created / "error"):
        write(created / "image", "nosuch")
    assert value(created / "image") == "base"


def test_settings_fixed_after_start(vm):
    for name, text in ("image", "base"), ("memory_max", "1G"), ("cpus_max", "4"):
        with fails(errno.EBUSY, vm / "error"):
            write(vm / name, text)


def test_env_holds_lines(created):
    write(created / "env", "A=1\nB=two words\n")
    assert read(created / "env") == "A=1\nB=two words\n"
    for bad in "novalue\n", "=x\n", "1A=x\n":
        with fails(errno.EINVAL, created / "error"):
            write(created / "env", bad)
    assert read(created / "env") == "A=1\nB=two words\n"


def test_writes_are_limited(created):
    for name, text in ("ctl", "x" * 4097), ("memory", "x" * 4097), ("env", "A=" + "x" * 32767), ("env", "x" * (1 << 20)):
        with fails(errno.E2BIG):
            write(created / name, text)
    assert write(created / "ctl", "") == 0


# ---- what only the tree decides


def test_creating_files_is_refused(sbx, created, prepared):
    for path in sbx / "new", created / "new", created / "exec/new", sbx / "images/new", prepared / "new":
        with pytest.raises(PermissionError) as refusal:
            os.open(path, os.O_CREAT | os.O_WRONLY)
        assert refusal.value.errno in (errno.EACCES, errno.EPERM), path
        with pytest.raises(PermissionError):
            os.symlink("x", path)
        with pytest.raises(PermissionError):
            os.mkfifo(path)


def test_making_directories_is_refused(sbx, created, prepared):
    for path in created / "new", sbx / "images/new", prepared / "new", created / "snapshots/new":
        with pytest.raises(PermissionError):
            os.mkdir(path)


def test_unlinking_is_refused(sbx, created):
    for path in sbx / "ctl", created / "state", sbx / "images/base/info":
        with fails(errno.EPERM):
            os.unlink(path)
    subprocess.run(["rm", "-rf", created.path], capture_output=True, check=False)
    assert created.state == "created"


def test_removing_fixed_directories_is_refused(sbx, created):
    for path in sbx / "images", sbx / "snapshots", created / "exec", created / "fs", created / "snapshots":
        with pytest.raises(OSError) as refusal:
            os.rmdir(path)
        assert refusal.value.errno in (errno.EPERM, errno.EBUSY, errno.ENOTEMPTY), path


def test_renaming_is_refused(sbx, created):
    with pytest.raises(OSError) as refusal:
        os.rename(created / "state", created / "elsewhere")
    assert refusal.value.errno in (errno.EPERM, errno.EACCES)
    with pytest.raises(OSError) as refusal:
        os.rename(created / "state", sbx / "state")
    assert refusal.value.errno in (errno.EPERM, errno.EACCES, errno.EXDEV)


def test_reading_only_and_writing_only(created):
    for name in "state", "info", "error", "console", "stats":
        assert stat.S_IMODE(os.stat(created / name).st_mode) & 0o222 == 0, name


# ---- what is gone


def test_open_files_of_a_removed_sandbox(sbx):
    vm = Sandbox(sbx / "gone")
    os.mkdir(vm.path)
    fds = [os.open(vm / name, os.O_RDONLY) for name in ("state", "info", "memory")]
    ctl = os.open(vm / "ctl", os.O_WRONLY)
    os.rmdir(vm.path)
    for fd in fds:
        with fails(errno.ENODEV):
            os.read(fd, 100)
        os.close(fd)
    with fails(errno.ENODEV):
        os.write(ctl, b"start")
    os.close(ctl)
    with fails(errno.ENOENT):
        os.stat(vm.path)


def test_a_name_can_be_used_again(sbx):
    for _ in range(3):
        os.mkdir(sbx / "again")
        fd = os.open(sbx / "again/state", os.O_RDONLY)
        os.rmdir(sbx / "again")
        os.mkdir(sbx / "again")
        with fails(errno.ENODEV):
            os.read(fd, 10)
        os.close(fd)
        fd = os.open(sbx / "again/state", os.O_RDONLY)
        assert read_all(fd) == b"created\n"
        os.close(fd)
        os.rmdir(sbx / "again")


def test_removing_what_is_not_there(sbx):
    with fails(errno.ENOENT):
        os.rmdir(sbx / "nosuch")
    with fails(errno.ENOENT):
        os.rmdir(sbx / "snapshots/nosuch")


# ---- owners


def as_nobody(script, cwd):
    return subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "sh", "-c", script],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to be somebody else")


@pytest.fixture
def reachable(sbx):
    """nobody has to get through pytest's private temporary directories to the mount."""
    for parent in sbx.path.parents:
        if parent.name.startswith("pytest-"):
            os.chmod(parent, 0o755)
    os.chmod(sbx.path.parent, 0o755)
    return sbx


@needs_root
def test_others_may_look_and_not_touch(reachable, created):
    """Where the owner lets them look."""
    assert as_nobody("cat c/state", reachable.path).returncode != 0
    os.chmod(created.path, 0o755)
    assert as_nobody("cat c/state", reachable.path).stdout == "created\n"
    for script in "echo start > c/ctl", "echo 1G > c/memory", "rmdir c", "mkdir c/exec/j", "mkdir c/forks/w":
        done = as_nobody(script, reachable.path)
        assert done.returncode != 0 and ("denied" in done.stderr or "permitted" in done.stderr), script
    assert created.state == "created"


@needs_root
def test_a_sandbox_is_delegated_by_chown(reachable, created):
    names = [".", "ctl", "exec", "forks", "snapshots"]
    assert {os.stat(created / name).st_uid for name in names} == {0}  # which the kernel may remember
    os.chown(created.path, NOBODY, NOBODY)
    assert {os.stat(created / name).st_uid for name in names} == {NOBODY}
    done = as_nobody("echo 384M > c/memory && cat c/memory && echo kill > c/ctl", reachable.path)
    assert (done.returncode, done.stdout) == (0, "402653184\n"), done.stderr


@needs_root
def test_a_private_sandbox(reachable, created):
    os.chmod(created.path, 0o700)
    assert as_nobody("cat c/state", reachable.path).returncode != 0
    assert created.state == "created"
