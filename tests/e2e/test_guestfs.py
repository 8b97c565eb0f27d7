# SPDX-License-Identifier: MIT
"""fs/: the guest's files behave as files."""
import errno
import filecmp
import os
import random
import stat
import subprocess

import pytest

from harness import fails, limit, read, read_bytes, together, write_all

MIB = 1 << 20


@pytest.fixture
def root(vm):
    """A directory of the guest, as the host sees it."""
    os.mkdir(vm / "fs/root/work")
    return vm / "fs/root/work"


def test_reading(vm):
    assert read(vm / "fs/root/before") == "before\n"
    assert {"bin", "etc", "root", "tmp"} <= set(os.listdir(vm / "fs"))
    assert read(vm / "fs/etc/hostname") == "vm\n"


def test_both_sides_see_the_same(vm, root):
    (root / "host").write_text("from the host\n")
    assert vm.run("cat /root/work/host") == "from the host\n"
    vm.sh("echo from the guest > /root/work/guest")
    assert (root / "guest").read_text() == "from the guest\n"
    assert sorted(os.listdir(root)) == ["guest", "host"]
    vm.sh("rm /root/work/host")
    assert os.listdir(root) == ["guest"]


def test_files_of_proc(vm):
    """Files whose size the guest gives as 0 can be read as well."""
    assert "Linux" in read(vm / "fs/proc/version")
    # Longer than a page, which is what each read of it gets.
    assert read(vm / "fs/proc/1/smaps").count("VmFlags") == int(vm.sh("grep -c VmFlags /proc/1/smaps"))


def test_overwrite_append_truncate(vm, root):
    path = root / "f"
    path.write_text("0123456789")
    path.write_text("new")
    assert path.read_text() == "new"
    with open(path, "a") as f:
        f.write(" and more")
    assert path.read_text() == "new and more"
    os.truncate(path, 3)
    assert path.read_text() == "new" and os.stat(path).st_size == 3
    os.truncate(path, 10)
    assert path.read_bytes() == b"new" + bytes(7)
    with open(path, "r+b") as f:
        f.seek(5)
        f.write(b"X")
        f.truncate(8)
    assert path.read_bytes() == b"new\0\0X\0\0"
    assert vm.run("od -An -c /root/work/f").split() == ["n", "e", "w", "\\0", "\\0", "X", "\\0", "\\0"]


def test_exclusive_create(root):
    os.close(os.open(root / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
    assert stat.S_IMODE(os.stat(root / "f").st_mode) == 0o640
    with fails(errno.EEXIST):
        os.open(root / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_directories(root):
    os.makedirs(root / "a/b/c")
    (root / "a/b/f").touch()
    with fails(errno.ENOTEMPTY):
        os.rmdir(root / "a/b")
    os.unlink(root / "a/b/f")
    os.removedirs(root / "a/b/c")
    assert not (root / "a").exists()
    with fails(errno.ENOENT):
        os.rmdir(root / "a")


def test_a_directory_with_many_entries(vm, root):
    vm.sh("cd /root/work && i=0; while [ $i -lt 3000 ]; do : > file-with-a-longer-name-$i; i=$((i+1)); done")
    assert set(os.listdir(root)) == {f"file-with-a-longer-name-{i}" for i in range(3000)}


def test_rename(root):
    (root / "a").write_text("a")
    (root / "b").write_text("b")
    os.rename(root / "a", root / "c")
    assert sorted(os.listdir(root)) == ["b", "c"]
    os.rename(root / "c", root / "b")
    assert (root / "b").read_text() == "a" and os.listdir(root) == ["b"]
    os.mkdir(root / "d")
    subprocess.run(["mv", root / "b", root / "d/"], check=True)
    assert (root / "d/b").read_text() == "a"
    subprocess.run(["mv", root / "d", root / "e"], check=True)
    assert (root / "e/b").read_text() == "a"


def test_rename_out_of_the_guest_is_a_copy(sbx, prepared, vm, root):
    (root / "f").write_text("x")
    with fails(errno.EXDEV):
        os.rename(root / "f", prepared.fork("other") / "fs/root/f")


def test_open_files_survive_rename_and_unlink(root):
    with open(root / "f", "w+") as f:
        f.write("text")
        f.flush()
        os.rename(root / "f", root / "g")
        f.write(" more")
        f.flush()
        assert (root / "g").read_text() == "text more"
        os.unlink(root / "g")
        f.seek(0)
        assert f.read() == "text more"


def test_modes_owners_times(vm, root):
    path = root / "f"
    path.touch()
    os.chmod(path, 0o4751)
    assert vm.run("stat -c %a /root/work/f") == "4751\n"
    os.chown(path, 12, 34)
    assert vm.run("stat -c %u:%g /root/work/f") == "12:34\n"
    os.utime(path, ns=(1_000_000_000_123_456_789, 1_100_000_000_987_654_321))
    got = os.stat(path)
    assert (got.st_atime_ns, got.st_mtime_ns) == (1_000_000_000_123_456_789, 1_100_000_000_987_654_321)
    subprocess.run(["touch", path], check=True)
    assert os.stat(path).st_mtime_ns > 1_100_000_000_987_654_321


def test_links(vm, root):
    (root / "f").write_text("x")
    os.link(root / "f", root / "hard")
    assert os.stat(root / "f").st_nlink == 2
    os.symlink("f", root / "soft")
    assert os.readlink(root / "soft") == "f" and (root / "soft").read_text() == "x"
    assert vm.run("readlink /root/work/soft") == "f\n"
    os.unlink(root / "soft")
    assert (root / "f").read_text() == "x"


@pytest.mark.parametrize("target,name", [
    ("/etc/passwd", "absolute"), ("../../../../../../etc/passwd", "up"), ("/../../etc/passwd", "both"),
    ("x/../../../../../../../etc/passwd", "inside"),
])  # fmt: skip
def test_links_stay_in_the_guest(vm, root, target, name):
    """A link made by the guest never leads the host's programs out of fs/."""
    vm.sh("mkdir -p /root/work/x; echo guest > /etc/only-here")
    vm.sh(f"ln -s {target} /root/work/{name}; ln -s {target.replace('passwd', 'only-here')} /root/work/{name}2")
    resolved = os.path.realpath(root / name)
    assert resolved.startswith(str(vm / "fs") + "/"), resolved
    assert read(root / name) == vm.run("cat /etc/passwd")
    assert read(root / f"{name}2") == "guest\n"
    assert vm.run(f"readlink /root/work/{name}") == target + "\n"


def test_links_are_as_long_as_their_targets(vm, prepared, root):
    """What cannot be shown as it was written has the size of what is shown; what is written comes back."""
    vm.sh("cd /root/work; mkdir -p d/e up; ln -s /etc /top; ln -s ../../f up/1; ln -s x/../y up/2")
    vm.sh("cd /root/work/d/e; ln -s f 1; ln -s ../f 2; ln -s /etc/passwd 3; ln -s / 4")
    links = [*(root / "d/e").iterdir(), *(root / "up").iterdir(), vm / "fs/top"]
    assert len(links) == 7
    for link in links:
        assert os.lstat(link).st_size == len(os.readlink(link)), link
    subprocess.run(["cp", "-a", root / "d", root / "copy"], check=True)
    listed = "for f in *; do echo $f $(readlink $f); done"
    assert vm.run(f"cd /root/work/d/e; {listed}") == vm.run(f"cd /root/work/copy/e; {listed}")
    os.symlink(vm / "fs/etc/hostname", root / "absolute")
    assert os.readlink(root / "absolute") == str(vm / "fs/etc/hostname")
    assert vm.run("readlink /root/work/absolute; cat /root/work/absolute") == "/etc/hostname\nvm\n"
    for to in "f", "../f", "x/y":
        os.symlink(to, root / "written")
        assert os.readlink(root / "written") == to and os.lstat(root / "written").st_size == len(to)
        os.unlink(root / "written")


def test_a_link_to_a_directory_above(vm, root):
    vm.sh("ln -s / /root/work/top; ln -s ../../.. /root/work/over; ln -s . /root/work/here")
    for name in "top", "over":
        assert "sbx" not in os.listdir(root / name) and "etc" in os.listdir(root / name)
    assert (root / "here/here/top/root/before").read_text() == "before\n"


def test_special_files_do_not_hang(vm, root):
    """Nor are they the host's: what the guest made is not opened, a FIFO that the host made is the host's."""
    vm.sh("mkfifo /root/work/fifo; mknod /root/work/null c 1 3; mknod /root/work/disk b 8 0")
    assert stat.S_ISSOCK(os.stat(root / "fifo").st_mode)
    assert stat.S_ISCHR(os.stat(root / "null").st_mode) and stat.S_ISBLK(os.stat(root / "disk").st_mode)
    for flags in os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK:
        with fails(errno.ENXIO):
            os.open(root / "fifo", flags)
        for name in "null", "disk":
            with fails(errno.EACCES):
                os.open(root / name, flags)
    os.mkfifo(root / "ours")
    assert stat.S_ISFIFO(os.stat(root / "ours").st_mode)
    assert vm.run("test -p /root/work/ours && echo yes") == "yes\n"
    fd = os.open(root / "ours", os.O_RDWR)
    os.write(fd, b"x")
    assert os.read(fd, 1) == b"x"
    os.close(fd)
    for name in "fifo", "ours", "null", "disk":
        os.unlink(root / name)


def test_errors_of_the_guest(vm, root):
    with fails(errno.ENOENT):
        os.stat(root / "nosuch")
    (root / "f").touch()
    with fails(errno.ENOTDIR):
        os.stat(root / "f/x")
    with fails(errno.EISDIR):
        os.open(root, os.O_WRONLY)
    with fails(errno.ENAMETOOLONG):
        (root / ("x" * 256)).touch()


def test_a_full_disk(vm, root):
    """The guest's ENOSPC reaches the writer; a small tmpfs stands in for the disk."""
    vm.sh("mkdir /root/work/small && mount -t tmpfs -o size=64k t /root/work/small")
    fd = os.open(root / "small/f", os.O_CREAT | os.O_WRONLY)
    with fails(errno.ENOSPC):
        write_all(fd, b"x" * MIB)
    os.close(fd)


def test_statfs(vm):
    assert os.statvfs(vm / "fs").f_blocks * os.statvfs(vm / "fs").f_frsize > 64 * MIB
    subprocess.run(["df", vm / "fs"], check=True, capture_output=True)


def test_names_of_any_bytes(vm, root):
    for name in "with space", "ümläut", "new\nline", "-dash", ".hidden", "x" * 255:
        (root / name).write_text(name)
        assert (root / name).read_text() == name
    assert len(os.listdir(root)) == 6


# ---- ordinary tools


@pytest.fixture
def tree(tmp_path):
    """Directories, links, modes, an empty file, one of odd length."""
    top = tmp_path / "tree"
    for i in range(5):
        sub = top / f"d{i}/deeper"
        sub.mkdir(parents=True)
        for j in range(5):
            (sub / f"f{j}").write_bytes(random.Random(i * 5 + j).randbytes(i * 7000 + j))
    (top / "link").symlink_to("d0/deeper/f1")
    (top / "script").write_text("#!/bin/sh\necho ran\n")
    (top / "script").chmod(0o755)
    return top


def same(a, b):
    done = subprocess.run(["diff", "-r", "--no-dereference", a, b], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cp_and_diff(vm, root, tree, tmp_path):
    subprocess.run(["cp", "-r", tree, root / "copy"], check=True, timeout=limit(60))
    same(tree, root / "copy")
    assert vm.run("/root/work/copy/script") == "ran\n"
    subprocess.run(["cp", "-a", root / "copy", tmp_path / "back"], check=True, timeout=limit(60))
    same(tree, tmp_path / "back")
    (tmp_path / "back/d0/deeper/f3").write_text("changed")
    done = subprocess.run(["diff", "-rq", tmp_path / "back", root / "copy"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "f3 differ" in done.stdout
    subprocess.run(["rm", "-r", root / "copy"], check=True)
    assert os.listdir(root) == []


def test_tar(root, tree, tmp_path):
    subprocess.run(["tar", "cf", tmp_path / "t.tar", "-C", tree, "."], check=True)
    os.mkdir(root / "t")
    subprocess.run(["tar", "xf", tmp_path / "t.tar", "-C", root / "t"], check=True)
    same(tree, root / "t")
    packed = subprocess.run(["tar", "cf", "-", "-C", root, "t"], capture_output=True, check=True)
    assert len(packed.stdout) > 100000


def test_editors(vm, root):
    """sed -i writes a new file and renames it over the old, as editors do."""
    (root / "f").write_text("one\ntwo\n")
    subprocess.run(["sed", "-i", "s/two/three/", root / "f"], check=True)
    assert vm.run("cat /root/work/f") == "one\nthree\n"
    subprocess.run(["sh", "-c", f"echo four >> {root / 'f'}; sync {root / 'f'}"], check=True)
    assert vm.run("tail -n 1 /root/work/f") == "four\n"


def test_busybox_tools(root, tree):
    subprocess.run(["busybox", "cp", "-r", tree, root / "copy"], check=True)
    same(tree, root / "copy")
    assert subprocess.run(["busybox", "cat", root / "copy/script"], capture_output=True, check=True).stdout


@pytest.mark.timeout(limit(240))
def test_64_mib_in_and_out(vm, root, tmp_path):
    data = random.Random(2).randbytes(64 * MIB)
    (tmp_path / "in").write_bytes(data)
    subprocess.run(["cp", tmp_path / "in", root / "big"], check=True, timeout=limit(100))
    subprocess.run(["cp", root / "big", tmp_path / "out"], check=True, timeout=limit(100))
    assert filecmp.cmp(tmp_path / "in", tmp_path / "out", shallow=False)


def test_random_access(root):
    """Reads and writes of any size and place, against a model."""
    rng = random.Random(3)
    size = 300_000
    model = bytearray(size)
    fd = os.open(root / "f", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, size)
    for _ in range(150):
        at, n = rng.randrange(size), rng.choice([1, 100, 4096, 33000, 140000])
        n = min(n, size - at)
        if rng.random() < 0.5:
            data = rng.randbytes(n)
            assert os.pwrite(fd, data, at) == n
            model[at : at + n] = data
        else:
            assert os.pread(fd, n, at) == model[at : at + n]
    os.close(fd)
    assert read_bytes(root / "f") == model


def test_many_at_once(vm, root):
    """Eight writers and readers, each in a file of its own."""
    bad = []

    def work(i):
        data = random.Random(i).randbytes(500_000)
        for _ in range(3):
            (root / f"f{i}").write_bytes(data)
            if (root / f"f{i}").read_bytes() != data:
                bad.append(i)

    together(work, 8)
    assert not bad and len(os.listdir(root)) == 8


def test_open_files_of_a_stopped_guest(vm, root):
    (root / "f").write_text("text")
    fd = os.open(root / "f", os.O_RDWR)
    vm.ctl("pause")
    with fails(errno.EAGAIN):
        os.read(fd, 10)
    vm.ctl("resume")
    assert os.read(fd, 10) == b"text"
    vm.ctl("kill")
    with fails(errno.EHOSTDOWN):
        os.pread(fd, 10, 0)
    os.close(fd)
