# SPDX-License-Identifier: MIT
"""fs/: a file is known by what it is, and not by its name."""
import errno
import fcntl
import os
import stat
import subprocess
import threading
import time

import pytest

from harness import eventually, fails, limit


@pytest.fixture
def root(vm):
    """A directory of the guest, as the host sees it."""
    os.mkdir(vm / "fs/root/work")
    return vm / "fs/root/work"


def expire():
    """Until the kernel asks for what it was told (GUEST_CACHE_S)."""
    time.sleep(0.15)


def test_hard_links_are_one_file(vm, root, tmp_path):
    (root / "a").write_text("1\n")
    os.link(root / "a", root / "h")
    a, h = os.stat(root / "a"), os.stat(root / "h")
    assert (a.st_ino, a.st_nlink) == (h.st_ino, 2)
    with open(root / "a", "a") as f:
        f.write("2222222\n")
    assert os.stat(root / "h").st_size == 10 and (root / "h").read_text() == "1\n2222222\n"
    os.chmod(root / "a", 0o600)
    assert os.stat(root / "h").st_mode & 0o777 == 0o600
    # Links of the guest's own too, and from another directory.
    vm.sh("mkdir /root/work/d; ln /root/work/a /root/work/d/third")
    assert os.stat(root / "d/third").st_ino == a.st_ino and os.stat(root / "d/third").st_nlink == 3
    one, other = os.open(root / "a", os.O_RDWR), os.open(root / "d/third", os.O_RDWR)
    fcntl.flock(one, fcntl.LOCK_EX)
    with fails(errno.EAGAIN):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(one)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    # Programs that keep links keep them.
    subprocess.run(["cp", "-a", root, tmp_path / "copy"], check=True)
    assert os.stat(tmp_path / "copy/a").st_ino == os.stat(tmp_path / "copy/d/third").st_ino
    subprocess.run(["tar", "cf", tmp_path / "t.tar", "-C", root, "."], check=True)
    os.mkdir(tmp_path / "t")
    subprocess.run(["tar", "xf", tmp_path / "t.tar", "-C", tmp_path / "t"], check=True)
    assert os.stat(tmp_path / "t/h").st_nlink == 3 and (tmp_path / "t/h").read_text() == "1\n2222222\n"


@pytest.mark.parametrize("kind", ["fifo", "socket", "block", "char", "symlink"])
def test_links_of_what_is_no_regular_file(root, kind):
    """What is done by one name is seen by the others at once, though they are nodes of their own."""
    kinds = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "block": stat.S_IFBLK, "char": stat.S_IFCHR}
    a, b, c = (root / name for name in "abc")
    if kind == "symlink":
        os.symlink("x", a)
    else:
        os.mknod(a, kinds[kind] | 0o644, os.makedev(7, 1))
    os.utime(a, (1, 1), follow_symlinks=False)
    made = os.lstat(a)
    os.link(a, b, follow_symlinks=False)
    assert (os.lstat(a).st_nlink, os.lstat(b).st_nlink, os.lstat(b).st_ino) == (2, 2, made.st_ino)
    assert os.lstat(a).st_ctime_ns >= made.st_ctime_ns
    os.link(b, c, follow_symlinks=False)
    assert [os.lstat(path).st_nlink for path in (a, b, c)] == [3, 3, 3]
    os.chown(b, 65534, 65533, follow_symlinks=False)
    assert {(os.lstat(path).st_uid, os.lstat(path).st_gid) for path in (a, b, c)} == {(65534, 65533)}
    os.utime(c, (5, 6), follow_symlinks=False)
    assert {(os.lstat(path).st_mtime, os.lstat(path).st_mode) for path in (a, b, c)} == {(6, made.st_mode)}
    os.unlink(a)
    os.rename(c, a)
    assert (os.lstat(a).st_nlink, os.lstat(b).st_nlink) == (2, 2)
    os.unlink(a)
    assert os.lstat(b).st_nlink == 1


def test_a_link_lives_on_when_the_other_name_goes(vm, root):
    (root / "a").write_text("text")
    os.link(root / "a", root / "h")
    os.stat(root / "a"), os.stat(root / "h")
    vm.sh("rm /root/work/a")
    expire()
    assert (root / "h").read_text() == "text" and os.stat(root / "h").st_nlink == 1
    with fails(errno.ENOENT):
        os.stat(root / "a")
    os.link(root / "h", root / "i")
    os.unlink(root / "h")
    assert (root / "i").read_text() == "text" and os.listdir(root) == ["i"]
    os.rename(root / "i", root / "j")
    os.truncate(root / "j", 2)
    assert vm.run("cat /root/work/j") == "te"


def test_a_descriptor_is_of_the_file_it_was_opened_on(vm, root):
    (root / "log").write_text("old\n")
    fd = os.open(root / "log", os.O_RDWR)
    before = os.fstat(fd)
    vm.sh("cd /root/work; mv log log.1; echo another, and longer > log")
    expire()
    assert (os.fstat(fd).st_ino, os.fstat(fd).st_size) == (before.st_ino, 4)
    assert os.stat(root / "log").st_ino != before.st_ino and os.stat(root / "log.1").st_ino == before.st_ino
    os.ftruncate(fd, 3)
    os.fchmod(fd, 0o640)
    os.utime(fd, ns=(1, 2))
    assert vm.run("cd /root/work; cat log.1; stat -c ' %a %Y' log.1 log").split()[:3] == ["old", "640", "0"]
    assert (root / "log").read_text() == "another, and longer\n"
    vm.sh("rm /root/work/log.1")
    expire()
    # It is removed, and open: as on any filesystem.
    assert os.fstat(fd).st_size == 3 and os.fstat(fd).st_nlink == 0
    assert os.pread(fd, 10, 0) == b"old"
    os.pwrite(fd, b"new and more", 0)
    assert os.fstat(fd).st_size == 12 and os.lseek(fd, 0, os.SEEK_END) == 12
    with open(f"/proc/self/fd/{fd}") as again:
        assert again.read() == "new and more"
    os.close(fd)


def test_tail_follows_a_rotation(vm, root):
    (root / "log").write_text("one\n")
    tail = subprocess.Popen(["tail", "-n", "+1", "-s", "0.05", "-F", root / "log"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(iter(tail.stdout.readline, b"")))
    reader.start()
    eventually(lambda: len(seen) == 1, 10, "tail does not begin")
    vm.sh("cd /root/work; echo two >> log; mv log log.1; echo three > log; echo four >> log")
    eventually(lambda: len(seen) >= 4, 10, f"tail says {seen}")
    time.sleep(0.3)
    tail.kill()
    tail.wait()
    reader.join()
    tail.stdout.close()
    assert sorted(seen) == [b"four\n", b"one\n", b"three\n", b"two\n"]


def test_numbers_of_filesystems_do_not_meet(vm, root):
    """A file of a tmpfs has low numbers, as files of the disk do; and so have those of another sandbox."""
    vm.sh("mkdir /root/work/t; mount -t tmpfs t /root/work/t; cd /root/work/t; mkdir d; i=0; "
          "while [ $i -lt 300 ]; do echo t > $i; i=$((i+1)); done")  # fmt: skip
    numbers = {}
    for top in "fs/root/work/t", "fs/etc", "fs/bin", "fs/usr", "fs/dev":
        for entry in os.scandir(vm / top):
            st = entry.stat(follow_symlinks=False)
            assert entry.inode() == st.st_ino
            if st.st_nlink == 1 or entry.is_dir(follow_symlinks=False):
                assert numbers.setdefault(st.st_ino, entry.path) == entry.path
    subprocess.run(["cp", vm / "fs/root/work/t/7", vm / "fs/etc/7"], check=True)
    inside = int(vm.run("stat -c %i /root/work/t/7"))
    vm.sh(f"cd /root/work; find / -xdev -inum {inside} -type f > same; true")
    for name in (root / "same").read_text().split():
        subprocess.run(["cp", vm / "fs/root/work/t/7", f"{vm.path}/fs{name}"], check=True)  # not "the same file"


def test_two_sandboxes_have_numbers_of_their_own(prepared, vm):
    other = prepared.fork("other")
    assert vm.run("stat -c %i /root/before") == other.run("stat -c %i /root/before")
    assert os.stat(vm / "fs/root/before").st_ino != os.stat(other / "fs/root/before").st_ino
    subprocess.run(["cp", vm / "fs/root/before", other / "fs/root/before"], check=True)


@pytest.mark.parametrize("how", ["rmdir d", "mv d away", "rm -r d"])
def test_a_working_directory_that_was_replaced_stays_what_it_was(vm, root, how):
    os.mkdir(root / "d")
    here = os.open(root / "d", os.O_PATH | os.O_DIRECTORY)
    vm.sh(f"cd /root/work; {how}; mkdir d; touch d/new")
    gone = (errno.ENOENT, errno.ESTALE)
    for call in (
        lambda: os.stat("new", dir_fd=here),
        lambda: os.mkdir("made", dir_fd=here),
        lambda: os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=here),
        lambda: os.unlink("new", dir_fd=here),
        lambda: os.listdir(f"/proc/self/fd/{here}"),
        lambda: os.symlink("x", "made", dir_fd=here),
        lambda: os.rename(root / "d/new", "made", dst_dir_fd=here),
    ):
        with pytest.raises(OSError) as e:
            call()
        assert e.value.errno in gone
    os.close(here)
    assert os.listdir(root / "d") == ["new"]
    # One that is open for reading is the guest's own, wherever it is.
    fd = os.open(root / "d", os.O_RDONLY | os.O_DIRECTORY)
    vm.sh("cd /root/work; mv d e; mkdir d")
    expire()
    assert os.listdir(fd) == ["new"]
    os.close(os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    assert sorted(os.listdir(root / "e")) == ["made", "new"] and os.listdir(root / "d") == []


def test_a_name_that_is_another_file_now_is_that(vm, root):
    for how in "rm f; echo new > f", "echo new > g; mv g f", "rm f; ln -s x f; echo new > x", "rm f; mkdir f":
        (root / "f").write_text("old text")
        os.stat(root / "f")
        vm.sh(f"cd /root/work; {how}")
        expire()
        assert os.path.isdir(root / "f") or (root / "f").read_text() == "new\n"
        subprocess.run(["rm", "-rf", root / "f", root / "x"], check=True)


def test_one_directory_in_two_places(vm, root):
    """As the guest's mounts make it: each place is a directory, also one below itself."""
    vm.sh("cd /root/work; mkdir -p a/in b; echo x > a/f; mount --bind a b; mount --bind a a/in")
    assert sorted(os.listdir(root / "b")) == sorted(os.listdir(root / "a/in")) == ["f", "in"]
    os.chdir(root / "a/in")
    assert (root / "b/f").read_text() == "x\n" and os.getcwd().endswith("/a/in")
    os.chdir("/")
    (root / "b/g").write_text("y")
    assert (root / "a/in/g").read_text() == "y"
    vm.sh("umount -l /root/work/a/in /root/work/b")  # lazily: a directory is closed after closedir(3) returned


@pytest.mark.timeout(limit(120))
@pytest.mark.long
def test_more_open_files_than_a_thousand(vm, root):
    files = [open(root / f"f{i}", "w+") for i in range(3000)]
    for i, f in enumerate(files):
        f.write(str(i))
        f.flush()
    assert vm.run("cat /root/work/f2999") == "2999"
    for i, f in enumerate(files):
        f.seek(0)
        assert f.read() == str(i)
        f.close()
