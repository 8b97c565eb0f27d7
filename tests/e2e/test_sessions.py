# SPDX-License-Identifier: MIT
"""Everyday work in a guest's fs/, with the programs that people use for it."""
import ctypes
import os
import platform
import select
import shutil
import sqlite3
import stat
import struct
import subprocess
import sys
import time

import pytest

from harness import eventually, limit

pytestmark = pytest.mark.any_engine

LINUX = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))
CAPABILITY = "security.capability"
NET_RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)  # as in test_guestfs_xattr.py
GIT = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "HOME": "/nonexistent"}
GIT |= {f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@pytest.fixture
def root(vm):
    os.mkdir(vm / "fs/root/work")
    return vm / "fs/root/work"


def sh(script, cwd, **kwargs):
    done = subprocess.run(["bash", "-ec", script], cwd=cwd, capture_output=True, text=True, timeout=limit(60),
                          check=False, **kwargs)  # fmt: skip
    assert done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def tree(tmp_path):
    """What a copy can get wrong: hard and other links, holes, modes, odd names, empty things, times, capabilities."""
    top = tmp_path / "tree"
    for i in range(3):
        sub = top / f"d{i}/deeper"
        sub.mkdir(parents=True)
        for j in range(4):
            (sub / f"f{j}").write_bytes(bytes([i, j]) * (i * 5000 + j))
    os.link(top / "d0/deeper/f1", top / "d1/hard")
    os.link(top / "d0/deeper/f1", top / "hard")
    (top / "link").symlink_to("d0/deeper/f1")
    (top / "d2/up").symlink_to("../hard")
    (top / "dangling").symlink_to("nothing")
    os.mkdir(top / "empty", 0o750)
    with open(top / "sparse", "wb") as f:
        f.truncate(8 << 20)
        os.pwrite(f.fileno(), b"middle", 4 << 20)
    (top / "näme with\nnewline").write_text("x")
    (top / "private").touch(0o600)
    (top / "script").write_text("#!/bin/sh\n")
    (top / "script").chmod(0o755)
    os.utime(top / "script", ns=(1_000_000_000_123_456_789, 1_000_000_000_123_456_789))
    if not os.getuid():
        shutil.copy(top / "script", top / "capable")
        os.setxattr(top / "capable", CAPABILITY, NET_RAW)
    for directory, _, _ in os.walk(top):  # rsync takes two times within one second for the same
        os.utime(directory, (1_100_000_000, 1_100_000_000))
    return top


def look(top):
    """All of a tree that a faithful copy keeps."""
    seen, inodes = {}, {}
    for directory, subs, files in os.walk(top):
        for name in [".", *subs, *files]:
            path = os.path.join(directory, name)
            st = os.lstat(path)
            key = os.path.relpath(path, top)
            what = [stat.filemode(st.st_mode), st.st_uid, st.st_gid]
            if stat.S_ISREG(st.st_mode):
                what += [inodes.setdefault(st.st_ino, key), st.st_nlink, st.st_size, st.st_mtime_ns]
                what += [open(path, "rb").read()] if st.st_size < 1 << 20 else [st.st_blocks < 1000]
                what += [os.listxattr(path), [os.getxattr(path, name) for name in os.listxattr(path)]]
            elif stat.S_ISLNK(st.st_mode):
                what += [os.readlink(path), st.st_size]
            else:
                what += [st.st_mtime_ns]
            seen[key] = what
    return {key: seen[key] for key in sorted(seen)}


def look_same(one, other):
    a, b = look(one), look(other)
    assert a.keys() == b.keys()
    # Which of its names an inode is known by first depends on the order of the listing.
    order = {key: value[3] for key, value in a.items() if value[0][0] == "-"}
    assert {k: [o for o in order if order[o] == order[k]] for k in order} == {
        k: [o for o in order if b[o][3] == b[k][3]] for k in order
    }
    for key in a:
        for values in (a[key], b[key]):
            if values[0][0] == "-":
                values[3] = None
        assert a[key] == b[key], key


def test_git_clone_commit_and_gc(root, tmp_path):
    origin = tmp_path / "origin"
    origin.mkdir()
    for i in range(120):
        (origin / f"d{i % 7}").mkdir(exist_ok=True)
        (origin / f"d{i % 7}/f{i}").write_text(f"{i}\n" * (i % 50))
    env = os.environ | GIT
    sh("git init -q -b main . && git add . && git commit -q -m first", origin, env=env)
    sh(f"git clone --progress file://{origin} x", root, env=env)
    x = root / "x"
    assert sh("git status --porcelain", x, env=env) == ""
    sh("echo more >> d1/f1; git mv d2/f2 moved; git rm -q d3/f3; git commit -qam second; git gc -q; git fsck --strict",
       x, env=env)  # fmt: skip
    assert sh("git status --porcelain; git log --format=%s", x, env=env) == "second\nfirst\n"
    sh(f"git clone -q {x} back && cd back && git checkout -q HEAD~ && diff -r --exclude=.git . {origin}", tmp_path, env=env)


def test_rsync_both_ways_twice(root, tree, tmp_path):
    """Absolute links are left out: they read as another path here (sbxfs(5))."""
    sync = "rsync -aHXS --numeric-ids --itemize-changes"
    back = tmp_path / "back"
    assert sh(f"{sync} {tree}/ {root}/x", "/")
    assert sh(f"{sync} {root}/x/ {back}", "/")
    look_same(tree, root / "x")
    look_same(tree, back)
    assert sh(f"{sync} {tree}/ {root}/x", "/") == ""
    assert sh(f"{sync} {root}/x/ {back}", "/") == ""
    assert sh(f"{sync} --checksum {back}/ {root}/x", "/") == ""
    (root / "x/script").write_text("changed")
    assert len(sh(f"{sync} {root}/x/ {back}", "/").splitlines()) == 1


def test_tar_in_and_out(vm, root, tree, tmp_path):
    tar = "tar --xattrs --xattrs-include='*' --numeric-owner -S"
    (tmp_path / "back").mkdir()
    sh(f"{tar} -C {tree} -cf - . | {tar} -C {root} -xpf -", "/")
    sh(f"{tar} -C {root} -cf - . | {tar} -C {tmp_path}/back -xpf -", "/")
    look_same(tree, tmp_path / "back")
    assert vm.run("cmp /root/work/hard /root/work/d1/hard; stat -c %h /root/work/hard") == "3\n"


def test_cp_a(vm, root, tree, tmp_path):
    sh(f"cp -a {tree} {root}/x && cp -a {root}/x {root}/y && cp -a {root}/y {tmp_path}/back", "/")
    look_same(tree, root / "x")
    look_same(tree, tmp_path / "back")
    assert int(vm.run("stat -c %b /root/work/y/sparse")) < 1000
    sh(f"rm -r {root}/x {root}/y", "/")
    assert os.listdir(root) == []


@pytest.mark.skipif(LINUX < (6, 6), reason="a kernel before 6.6 maps nothing shared that is read without its cache")
def test_sqlite_in_wal_mode(vm, root):
    writer = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect('db', timeout=30, isolation_level=None)\n"
        "for i in range(12):\n"
        "    db.execute('insert into t values (?, ?)', (sys.argv[1], i))\n"
    )
    db = sqlite3.connect(root / "db", isolation_level=None)
    assert db.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    db.execute("create table t (who, n)")
    writers = [subprocess.Popen([sys.executable, "-c", writer, str(i)], cwd=root) for i in range(3)]
    counts = []
    while any(w.poll() is None for w in writers):
        counts.append(db.execute("select count(*) from t").fetchone()[0])
    assert [w.wait(limit(60)) for w in writers] == [0, 0, 0] and counts == sorted(counts)
    assert db.execute("select count(*) from t").fetchone() == (36,)
    db.execute("pragma wal_checkpoint(truncate)")
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    db.close()
    # What the guest has is all of it.
    sum_here = subprocess.run(["md5sum", root / "db"], capture_output=True, text=True, check=True).stdout.split()[0]
    assert vm.run("md5sum < /root/work/db").split()[0] == sum_here and not (root / "db-wal").exists()


@pytest.mark.parametrize("options", ["nobackup nowritebackup", "backup backupcopy=no", "backup backupcopy=yes"])
def test_vim(vm, root, options):
    f = root / "f"
    f.write_text("one\ntwo\n")
    f.chmod(0o751)
    os.link(f, root / "other")
    sh(f"vim.tiny -u NONE -N -es -c 'set {options} backupskip=' -c '%s/two/three/' -c wq f", root)
    assert vm.run("cat /root/work/f") == "one\nthree\n" and f.stat().st_mode & 0o777 == 0o751
    assert ((root / "f~").exists() and (root / "f~").read_text()) == ("nobackup" not in options and "one\ntwo\n")
    # One that is renamed is another file; vim keeps one with two names where it is told to.
    assert (root / "other").read_text() == ("one\ntwo\n" if "copy=no" in options else "one\nthree\n")
    assert not [name for name in os.listdir(root) if name.endswith(".swp")]


def test_emacs(vm, root):
    """
    Its saves, call by call: a lock that is a dangling link, a backup by renaming, the mode and the ACL of the old file.
    """
    f, lock, backup = root / "f", root / ".#f", root / "f~"
    f.write_text("one\n")
    f.chmod(0o640)
    os.symlink("me@host.123:456", lock)
    assert os.readlink(lock) == "me@host.123:456"
    for text in "two\n", "three\n":
        mode = f.stat().st_mode
        (root / "#f#").write_text(text)  # auto-save
        os.rename(f, backup)
        fd = os.open(f, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666 & mode)
        os.write(fd, text.encode())
        os.fsync(fd)
        os.close(fd)
        f.chmod(mode & 0o7777)
        os.unlink(root / "#f#")
        assert f.read_text() == text and f.stat().st_mode == mode
    os.unlink(lock)
    assert vm.run("cat /root/work/f /root/work/f~; ls -A /root/work") == "three\ntwo\nf\nf~\n"


def test_tail_over_a_rotation_in_the_guest(vm, root):
    """Each line once, of the old file and the new."""
    vm.sh("echo 1 > /root/work/log")
    with subprocess.Popen(["tail", "-n", "+1", "-s", "0.05", "-F", root / "log"], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, bufsize=0) as tail:  # fmt: skip
        try:
            seen = b""

            def until(end):
                nonlocal seen
                deadline = time.monotonic() + limit(20)
                while not seen.endswith(end):
                    assert select.select([tail.stdout], [], [], max(deadline - time.monotonic(), 0))[0], seen
                    seen += os.read(tail.stdout.fileno(), 4096)

            until(b"1\n")
            vm.sh("echo 2 >> /root/work/log")
            until(b"2\n")
            for n in 3, 5:
                vm.sh(f"cd /root/work; mv log log.1; echo {n} > log")
                until(b"%d\n" % n)
                vm.sh(f"echo {n + 1} >> /root/work/log")
                until(b"%d\n" % (n + 1))
            assert seen == b"".join(b"%d\n" % n for n in range(1, 7))
        finally:
            tail.terminate()


def test_make(vm, root):
    rule = "o/%: s/%\n\t@cat $< $< > $@.tmp && mv $@.tmp $@\n"
    (root / "Makefile").write_text("all: $(patsubst s/%,o/%,$(wildcard s/*))\n" + rule)
    os.mkdir(root / "s")
    os.mkdir(root / "o")
    for i in range(20):
        (root / f"s/{i}").write_text(f"{i}\n")
    sh("make -s -j4", root)
    assert {name: (root / "o" / name).read_text() for name in os.listdir(root / "o")} == {
        str(i): f"{i}\n{i}\n" for i in range(20)
    }
    assert "Nothing to be done" in sh("make -j4", root)
    vm.sh("sleep 0.01; echo new > /root/work/s/7")
    assert sh("make -n -j4", root).count("cat") == 1
    sh("make -j4", root)
    assert vm.run("cat /root/work/o/7") == "new\nnew\n"


def test_a_virtual_environment_of_python(root):
    """With copies: a link to the host's interpreter would be one to the guest's."""
    sh("python3 -m venv --copies --without-pip v", root)
    (root / "m.py").write_text("value = 42\n")
    code = "import m, json, sys; print(m.value, sys.prefix)"
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    for _ in range(2):  # the second time from __pycache__
        assert sh(f"PYTHONPATH={root} v/bin/python -c '{code}'", root, env=env) == f"42 {root}/v\n"
    assert any((root / "__pycache__").iterdir())


def test_what_inotify_tells(vm, root):
    """Of what this host's programs change, nothing of what the guest does (sbxfs(5)); node's fs.watch goes by it."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert libc.inotify_add_watch(fd, os.fsencode(root), 0xFFF) >= 0

    def names():
        try:
            data, found = os.read(fd, 65536), set()
        except BlockingIOError:
            return set()
        while data:
            size = struct.unpack_from("iIII", data)[3]
            found.add(data[16 : 16 + size].rstrip(b"\0").decode())
            data = data[16 + size :]
        return found

    vm.sh("echo x > /root/work/guests")
    assert (root / "guests").read_text() == "x\n"
    (root / "hosts").write_text("x")
    seen = set()
    eventually(lambda: seen.update(names()) or "hosts" in seen, 5, "no event of a file that was made here")
    vm.sh("echo y >> /root/work/hosts; rm /root/work/guests")
    assert not names() - {"hosts", "guests", ""}
    # Whoever asks is told: what polls, like `tail -F` and node's fs.watchFile, works.
    assert (root / "hosts").stat().st_size == 3 and not (root / "guests").exists()
    os.close(fd)
