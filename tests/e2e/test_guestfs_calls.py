# SPDX-License-Identifier: MIT
"""fs/: calls that some programs depend on: holes, space kept, exchanged names, shared mappings, groups of directories."""
import ctypes
import errno
import mmap
import os
import platform
import sqlite3
import subprocess
import time

import pytest

from harness import fails

LINUX = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def root(vm):
    os.mkdir(vm / "fs/root/work")
    return vm / "fs/root/work"


def test_holes(vm, root, tmp_path):
    vm.sh("cd /root/work; truncate -s 10G f; printf middle | dd of=f bs=1 seek=5368709120 conv=notrunc 2> /dev/null")
    fd = os.open(root / "f", os.O_RDWR)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 5 << 30
    hole = os.lseek(fd, 5 << 30, os.SEEK_HOLE)
    assert (5 << 30) + 6 <= hole <= (5 << 30) + 65536
    with fails(errno.ENXIO):
        os.lseek(fd, hole, os.SEEK_DATA)
    assert os.lseek(fd, 0, os.SEEK_END) == 10 << 30
    # What was written before is punched out, and 1 MiB is kept for what is to come.
    assert not libc.fallocate(fd, 3, ctypes.c_long(5 << 30), ctypes.c_long(1 << 20))  # PUNCH_HOLE | KEEP_SIZE
    assert os.pread(fd, 6, 5 << 30) == bytes(6)
    os.posix_fallocate(fd, 0, 1 << 20)
    assert int(vm.run("stat -c %b /root/work/f")) >= 2048
    os.close(fd)
    subprocess.run(["cp", root / "f", tmp_path / "copy"], check=True, timeout=20)
    assert os.stat(tmp_path / "copy").st_size == 10 << 30 and os.stat(tmp_path / "copy").st_blocks < 20000


def test_holes_of_a_snapshot(vm, prepared):
    fd = os.open(prepared.path / "fs/root/before", os.O_RDONLY)
    time.sleep(0.15)
    assert os.lseek(fd, 0, os.SEEK_END) == 7 and os.fstat(fd).st_size == 7
    assert os.lseek(fd, 2, os.SEEK_DATA) == 2 and os.lseek(fd, 0, os.SEEK_HOLE) == 7
    with fails(errno.ENXIO):
        os.lseek(fd, 7, os.SEEK_DATA)
    os.close(fd)


def rename2(one, other, flags):
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def test_names_that_change_places(vm, root):
    (root / "a").write_text("a")
    os.mkdir(root / "d")
    (root / "d/x").write_text("x")
    with fails(errno.EEXIST):
        rename2(root / "a", root / "d", 1)  # RENAME_NOREPLACE
    rename2(root / "a", root / "d", 2)  # RENAME_EXCHANGE
    assert (root / "d").read_text() == "a" and (root / "a/x").read_text() == "x"
    assert vm.run("cat /root/work/d /root/work/a/x") == "ax"
    rename2(root / "a/x", root / "d", 2)
    assert (root / "d").read_text() == "x" and (root / "a/x").read_text() == "a"
    with fails(errno.ENOENT):
        rename2(root / "a", root / "none", 2)


def test_what_is_made_in_a_setgid_directory(vm, root):
    vm.sh("mkdir /root/work/s; chown 0:1234 /root/work/s; chmod 2775 /root/work/s")
    os.mkdir(root / "s/d")
    os.mkdir(root / "s/sticky", 0o777)
    (root / "s/f").touch()
    os.symlink("f", root / "s/l")
    assert {os.lstat(root / "s" / name).st_gid for name in ("d", "f", "l")} == {1234}
    assert os.stat(root / "s/d").st_mode & 0o2000 and not os.stat(root / "s/f").st_mode & 0o2000


def test_files_without_a_name_are_refused(root):
    """libfuse 3.14 has no such operation; programs make a file with a name then."""
    with fails(errno.EOPNOTSUPP):
        os.open(root, os.O_TMPFILE | os.O_RDWR)


def test_times_of_another_century(vm, root):
    (root / "f").touch()
    os.utime(root / "f", (10_413_792_000, 10_413_792_000))  # 2300
    assert os.stat(root / "f").st_mtime == 10_413_792_000
    assert vm.run("stat -c %Y /root/work/f") == "10413792000\n"


@pytest.mark.skipif(LINUX < (6, 6), reason="a kernel before 6.6 maps nothing shared that is read without its cache")
def test_shared_mappings(vm, root):
    (root / "f").write_bytes(b"text" * 4096)
    with open(root / "f", "r+b") as f, mmap.mmap(f.fileno(), 0) as one, mmap.mmap(f.fileno(), 0) as other:
        assert one[:4] == b"text"
        one[:4] = b"TEXT"
        assert other[:4] == b"TEXT" and os.pread(f.fileno(), 4, 0) == b"TEXT"
        one.flush()
        assert vm.run("head -c 8 /root/work/f") == "TEXTtext"
        os.pwrite(f.fileno(), b"both", 4)
        assert other[4:8] == b"both"
    with open(root / "f", "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:8] == b"TEXTboth"
    with sqlite3.connect(root / "db") as db, sqlite3.connect(root / "db") as reader:
        assert db.execute("pragma journal_mode=wal").fetchone() == ("wal",)
        db.execute("create table t (n)")
        db.executemany("insert into t values (?)", [(i,) for i in range(500)])
        db.commit()
        assert reader.execute("select sum(n) from t").fetchone() == (124750,)
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    db.close()
    reader.close()
