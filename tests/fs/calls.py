#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""calls.py DIR: what the calls of a filesystem answer and do, as JSON

Tables of calls are made on tables of objects, as root and as another user, in a directory of any filesystem. What
comes out does not depend on which it is: the suite compares that of a sandbox's fs/ with that of one of the host's
(tests/e2e/test_guestfs_suite.py), so nobody has to write down what Linux answers to a rename of a directory over a
link. A key is a case; the value is what each call answered, and what was there afterwards.
"""
import contextlib
import ctypes
import errno
import json
import os
import shutil
import stat
import sys
import time
from pathlib import Path

USER = 4242
OLD = 1_000_000_000  # seconds: a time that no call sets
LIBC = ctypes.CDLL(None, use_errno=True)

# ---- objects: how each is made, where its name is


def make_file(path):
    path.write_bytes(b"12345")


def make_full(path):
    path.mkdir()
    (path / "in").write_bytes(b"1")


MAKE = {
    "file": make_file,
    "empty": lambda path: path.mkdir(),
    "full": make_full,
    "link": lambda path: path.symlink_to("file"),
    "dirlink": lambda path: path.symlink_to("full"),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to("loop"),
    "fifo": lambda path: os.mkfifo(path),
    "none": lambda path: None,
}
# Names that are asked for besides: below what is no directory, and too long.
ODD = ["file/x", "none/x", "full/in", "full/in/x", "link/x", "dirlink/in", "empty/", "file/", "n" * 255, "n" * 256]
ODD += ["/".join(["full"] + ["."] * 2100), "full/..", "full/."]
FEW_ODD = ["file/x", "none/x", "full/in", "empty/", "n" * 256]

# ---- calls


def opened(flags, mode=0o640):
    def call(path):
        fd = os.open(path, flags | os.O_NONBLOCK, mode)
        try:
            st = os.fstat(fd)
            return [stat.filemode(st.st_mode), st.st_size if stat.S_ISREG(st.st_mode) else None]
        finally:
            os.close(fd)

    return call


def written(flags, data, at=None):
    def call(path):
        fd = os.open(path, flags | os.O_NONBLOCK)
        try:
            n = os.write(fd, data) if at is None else os.pwrite(fd, data, at)
            return [n, os.fstat(fd).st_size]
        finally:
            os.close(fd)

    return call


def unlinked_in_use(path):
    fd = os.open(path, os.O_RDWR)
    try:
        os.unlink(path)
        os.pwrite(fd, b"abc", 3)
        return [os.pread(fd, 10, 0).decode(), os.fstat(fd).st_nlink, os.fstat(fd).st_size]
    finally:
        os.close(fd)


def seen(path):
    st = os.stat(path)
    return [stat.filemode(st.st_mode), st.st_size if stat.S_ISREG(st.st_mode) else None]


def rename2(flags):
    def call(old, new):
        # AT_FDCWD is -100
        if LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
            raise OSError(ctypes.get_errno(), "renameat2")

    return call


O = os  # noqa: E741 (for short rows)
ONE = {
    "stat": seen,
    "lstat": lambda path: stat.filemode(os.lstat(path).st_mode),
    "access r": lambda path: os.access(path, os.R_OK),
    "access x": lambda path: os.access(path, os.X_OK),
    "readlink": os.readlink,
    "list": lambda path: sorted(os.listdir(path)),
    "open r": opened(O.O_RDONLY),
    "open w": opened(O.O_WRONLY),
    "open rw": opened(O.O_RDWR),
    "open creat": opened(O.O_WRONLY | O.O_CREAT),
    "open creat excl": opened(O.O_RDWR | O.O_CREAT | O.O_EXCL, 0o4755),
    "open trunc": opened(O.O_WRONLY | O.O_TRUNC),
    "open r trunc": opened(O.O_RDONLY | O.O_TRUNC),
    "open creat trunc": opened(O.O_RDWR | O.O_CREAT | O.O_TRUNC, 0o777),
    "open directory": opened(O.O_RDONLY | O.O_DIRECTORY),
    "open nofollow": opened(O.O_RDONLY | O.O_NOFOLLOW),
    "open creat directory": opened(O.O_RDONLY | O.O_CREAT | O.O_NOFOLLOW),
    "write": written(O.O_WRONLY, b"ab"),
    "append": written(O.O_WRONLY | O.O_APPEND, b"ab"),
    "write far": written(O.O_WRONLY, b"ab", 10000),
    "write nothing": written(O.O_WRONLY, b""),
    "mkdir": lambda path: os.mkdir(path, 0o1751),
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "unlink in use": unlinked_in_use,
    "mkfifo": lambda path: os.mkfifo(path, 0o620),
    "mknod": lambda path: os.mknod(path, stat.S_IFREG | 0o604),
    "mknod socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "symlink": lambda path: os.symlink("to", path),
    "symlink long": lambda path: os.symlink("t" * 4095, path),
    "symlink longer": lambda path: os.symlink("t" * 4096, path),
    "symlink empty": lambda path: os.symlink("", path),
    "chmod": lambda path: os.chmod(path, 0o2710),
    "chown": lambda path: os.chown(path, USER, USER + 1),
    "lchown": lambda path: os.lchown(path, USER + 2, -1),
    "chown nothing": lambda path: os.chown(path, -1, -1),
    "chgrp": lambda path: os.chown(path, -1, USER),
    "truncate 0": lambda path: os.truncate(path, 0),
    "truncate 3": lambda path: os.truncate(path, 3),
    "truncate far": lambda path: os.truncate(path, 1 << 30),
    "truncate below": lambda path: os.truncate(path, -1),
    "utime": lambda path: [os.utime(path, ns=(5, 1_999_999_999)), os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns][1:],
    "utime link": lambda path: [os.utime(path, ns=(7, 9), follow_symlinks=False), os.lstat(path).st_mtime_ns][1:],
    "utime early": lambda path: [os.utime(path, (-100, -5)), os.stat(path).st_mtime][1:],
    "utime now": os.utime,
    "rename self": lambda path: os.rename(path, path),
    "rename into self": lambda path: os.rename(path, str(path) + "/x"),
    "link self": lambda path: os.link(path, path, follow_symlinks=False),
}
# Those that change nothing share a world.
LOOKS = ["stat", "lstat", "access r", "access x", "readlink", "list", "open r", "open w", "open rw", "open directory"]
LOOKS += ["open nofollow", "rename self", "rename into self", "link self", "write nothing"]
TWO = {
    "rename": os.rename,
    "rename noreplace": rename2(1),
    "exchange": rename2(2),
    "link": lambda old, new: os.link(old, new, follow_symlinks=False),
    "link followed": lambda old, new: os.link(old, new),
}
FROM = ["file", "empty", "full", "link", "fifo", "none"]
# What is done to an object, and what changes then of its times and of its directory's.
TIMES = {
    "chmod": lambda path: os.chmod(path, 0o600),
    "chown": lambda path: os.chown(path, 0, 0),
    "link": lambda path: os.link(path, f"{path}.link"),
    "rename": lambda path: os.rename(path, f"{path}.new"),
    "write": lambda path: path.write_bytes(b"x"),
    "truncate same": lambda path: os.truncate(path, 5),
    "truncate": lambda path: os.truncate(path, 2),
    "open trunc": opened(O.O_WRONLY | O.O_TRUNC),
    "open": opened(O.O_RDWR),
    "stat": os.stat,
    "mkdir beside": lambda path: os.mkdir(f"{path}.dir"),
    "create beside": lambda path: Path(f"{path}.f").touch(),
    "symlink beside": lambda path: os.symlink("x", f"{path}.l"),
    "write beside": lambda path: (path.parent / "other").write_bytes(b"x"),
    "rmdir beside": lambda path: os.rmdir(path.parent / "empty"),
    "unlink beside": lambda path: os.unlink(path.parent / "other"),
}

# ---- running


def answer(call, *args):
    """What a call answers: a value, or the name of its errno."""
    try:
        return call(*args)
    except OSError as e:
        return errno.errorcode[e.errno]


def tree(top):
    """What is there: of directories no sizes and link counts, which each filesystem has its own of."""
    ret = {}
    # Not rglob, which looks at what links say, and ends where that is too long
    paths = [Path(here) / name for here, dirs, files in os.walk(top) for name in dirs + files]
    for path in sorted(paths):
        st = path.lstat()
        row = [stat.filemode(st.st_mode), st.st_uid, st.st_gid]
        if stat.S_ISREG(st.st_mode):
            row += [st.st_nlink, st.st_size, path.read_bytes()[:20].decode() if st.st_size < 20000 else ""]
        if stat.S_ISLNK(st.st_mode):
            row += [os.readlink(path)[:20]]
        ret[str(path.relative_to(top))[:40]] = row
    return ret


@contextlib.contextmanager
def world(top, names):
    """A fresh directory with these objects; everybody may write there."""
    here = top / "world"
    here.mkdir()
    os.chmod(here, 0o777)
    for name in names:
        MAKE[name](here / name)
    os.chdir(here)
    try:
        yield here
    finally:
        os.chdir(top)
        shutil.rmtree(here)


def as_user(fn):
    """fn() in a process of another user: what it returns, through a pipe."""
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            os.write(w, json.dumps(fn()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(w)
    with os.fdopen(r, "rb") as pipe:
        text = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return json.loads(text)


def one_path(top, out):
    objects = list(MAKE)
    changed = [obj for obj in objects if obj != "loop"]  # which takes 40 steps each time
    with world(top, objects):
        for name in LOOKS:
            out[name] = {obj[:40]: answer(ONE[name], obj) for obj in [*objects, *ODD]}
    for name, call in ONE.items():
        if name not in LOOKS:
            with world(top, changed) as here:
                answers = {obj[:40]: answer(call, obj) for obj in [*changed, *FEW_ODD]}
                out[name] = [answers, tree(here)]


def two_paths(top, out):
    pairs = [(old, new) for old in FROM for new in FROM]
    for name, call in TWO.items():
        with world(top, ["file"]) as here:
            for old, new in pairs:
                MAKE[old](here / f"{old} to {new}")
                MAKE[new](here / f"{new} from {old}")
            answers = {f"{old} to {new}": answer(call, f"{old} to {new}", f"{new} from {old}") for old, new in pairs}
            out[name] = [answers, tree(here)]


def times(top, out):
    for name, call in TIMES.items():
        with world(top, ["file", "empty"]) as here:
            make_file(here / "other")
            paths = [here / "file", here, here / "other"]
            for path in paths:
                os.utime(path, (OLD, OLD))
            before = [path.stat().st_ctime_ns for path in paths]
            time.sleep(0.012)  # a tick of either clock
            answers = answer(lambda call=call, path=paths[0]: call(path) and None)
            paths = [path for path in paths if path.exists()]
            changed = [[p.name, p.stat().st_mtime != OLD, p.stat().st_ctime_ns != ctime] for p, ctime in zip(paths, before)]
            out[f"times: {name}"] = [answers, changed] if len(paths) == len(before) else [answers, len(paths)]


# Directories by their modes and owners, in which another user tries everything
PLACES = [(0o755, 0), (0o2777, 0), (0o1777, 0), (0o744, 0), (0o500, USER)]
RIGHTS = ["open r", "open w", "open creat", "mkdir", "unlink", "chmod", "chown", "chgrp", "truncate 3", "utime", "utime now"]


def permissions(top, out):
    for mode, owner in PLACES:
        with world(top, []) as here:
            place = here / "place"
            place.mkdir()
            for name in RIGHTS:
                for whose, uid in ("root", 0), ("mine", USER):
                    path = place / f"{name} {whose}"
                    make_file(path)
                    os.chmod(path, 0o640)
                    os.chown(path, uid, uid)
            os.chown(place, owner, owner)
            os.chmod(place, mode)

            def tries():
                rows = {}
                for name in RIGHTS:
                    for whose in "root", "mine", "new":
                        rows[f"{name} {whose}"] = answer(ONE[name], f"place/{name} {whose}")
                rows["rename"] = answer(os.rename, "place/open r root", "place/moved")
                rows["rename mine"] = answer(os.rename, "place/open r mine", "place/moved mine")
                rows["link"] = answer(os.link, "place/open w mine", "place/linked")
                return rows

            out[f"user in {mode:o} of {owner}"] = [as_user(tries), tree(here)]


def run(top):
    os.umask(0o027)
    out = {}
    for part in one_path, two_paths, times, permissions:
        part(top, out)
    return out


if __name__ == "__main__":
    json.dump(run(Path(sys.argv[1]).resolve()), sys.stdout)
