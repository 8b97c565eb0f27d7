# SPDX-License-Identifier: MIT
"""fs/: what a command of the guest did is seen when it has ended, at once."""
import os
import platform
import subprocess

import pytest

from harness import read

LINUX = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))


@pytest.fixture
def root(vm):
    os.mkdir(vm / "fs/root/work")
    return vm / "fs/root/work"


def test_sizes_and_times_after_run(vm, root):
    for i in range(15):
        (root / "s").write_text("1\n")
        os.stat(root / "s")
        assert vm.run(f"echo '{'x' * i} 1234567890' > /root/work/s; chmod 6{i % 8}4 /root/work/s") == ""
        st = os.stat(root / "s")
        assert st.st_size == 12 + i and st.st_mode & 0o777 == 0o604 + 8 * (i % 8)
        assert len(read(root / "s")) == 12 + i
        fd = os.open(root / "s", os.O_RDONLY)
        os.fstat(fd)
        vm.run("echo 5 > /root/work/s")
        assert os.fstat(fd).st_size == 2 and os.lseek(fd, 0, os.SEEK_END) == 2
        os.close(fd)


def test_after_a_job(vm, root):
    """Its output, its status and its end all come after what it did before."""
    (root / "s").write_text("1\n")
    for i in range(10):
        os.stat(root / "s")
        job = vm.job(f"echo {'y' * i} > /root/work/s")
        assert job.wait() == "exited 0"
        assert os.stat(root / "s").st_size == i + 1
        job.forget()
        os.stat(root / "s")
        job = vm.job(f"echo 'more, {'y' * i}' > /root/work/s; echo said; sleep 1000")
        fd = os.open(job / "stdout", os.O_RDONLY)
        assert os.read(fd, 100) == b"said\n"
        assert os.stat(root / "s").st_size == i + 7
        os.close(fd)
        job.forget()


@pytest.mark.skipif(LINUX < (6, 16), reason="before 6.16 the kernel cannot be told without taking locks (sbxfs(5))")
def test_a_name_that_the_guest_gave_to_another_file(vm, root):
    """The old one is open here, so that what the kernel asks of it is still answered."""
    for i in range(10):
        (root / "a").write_text("old\n")
        with open(root / "a") as old:
            os.stat(root / "a")
            vm.run(f"cd /root/work; mv a b; echo {'n' * i}new > a")
            assert os.stat(root / "a").st_size == i + 4 and read(root / "a").endswith("new\n")
            assert old.read() == "old\n" and os.stat(root / "b").st_ino == os.fstat(old.fileno()).st_ino
            os.stat(root / "a")
            vm.run("rm /root/work/a /root/work/b")
            assert not os.path.exists(root / "a") and os.fstat(old.fileno()).st_size == 4


def test_a_name_that_the_guest_removed_can_be_made_again(vm, root):
    made = {
        "file": lambda path: path.touch(),
        "exclusive": lambda path: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
        "directory": os.mkdir,
        "link": lambda path: os.symlink("x", path),
        "hard link": lambda path: os.link(root / "other", path),
        "fifo": os.mkfifo,
        "node": lambda path: os.mknod(path, 0o100644),
    }
    (root / "other").touch()
    for before, after in [*zip(made.values(), made.values()), *zip(made.values(), [*made.values()][3:] + [*made.values()])]:
        before(root / "t")
        os.lstat(root / "t")
        vm.run("rm -r /root/work/t")
        after(root / "t")
        vm.run("rm -r /root/work/t")
        assert not os.path.lexists(root / "t")


def test_a_name_that_is_another_file_after_run(vm, root):
    for how in "rm f; echo new > f", "echo new > g; mv g f", "ln -sf x f; echo new > x", "rm f; mkdir f; echo new > f/x":
        (root / "f").write_text("old text")
        os.stat(root / "f")
        vm.run(f"cd /root/work; {how}")
        assert read(root / "f/x" if os.path.isdir(root / "f") else root / "f") == "new\n"
        subprocess.run(["rm", "-rf", root / "f", root / "x"], check=True)
    # A hard link that the guest took away, and one that it made of another file.
    (root / "a").write_text("a")
    os.link(root / "a", root / "h")
    os.stat(root / "h")
    vm.run("cd /root/work; rm h")
    assert not os.path.exists(root / "h")
    vm.run("cd /root/work; echo other > o; ln -f o a")
    assert read(root / "a") == "other\n"
