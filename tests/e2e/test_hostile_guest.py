# SPDX-License-Identifier: MIT
"""A guest whose agent is an enemy: tests/hostile/agent.c answers the host's file requests.

What it answers is in the names that it is asked for, `f:5=38` being a file whose OPEN (5) is ENOSYS (38). Nothing it
says may reach further than to its own files: the daemon lives, the neighbours are served, and nobody waits for it.
"""
import contextlib
import ctypes
import errno
import os
import random
import re
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness import LAB, TOP, eventually, fails, limit, outcome, read

(GETATTR, SETATTR, READDIR, READLINK, OPEN, CREATE, READ, WRITE, CLOSE, FSYNC, MKDIR, UNLINK, RMDIR, RENAME, SYMLINK,
 LINK, MKNOD, STATFS, _, LOOKUP, OPENDIR, SEEK, FALLOCATE, GETXATTR, SETXATTR, REMOVEXATTR) = range(1, 27)  # fmt: skip  (vm/agent/proto.h)

# Those that say something to the kernel, or that users are told mean something else.
NEVER = {errno.ENOSYS, errno.EINTR, errno.ESTALE, errno.ENOTCONN, errno.ECONNABORTED, errno.EHOSTDOWN, errno.ECHILD}


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "agent"
    sources = ["tests/hostile/agent.c", "tests/hostile/mutate.c", "tests/hostile/port.c", "vm/agent/proto.c", "util/buf.c", "util/err.c"]
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-static", "-s", "-I", str(TOP)]
    subprocess.run(["gcc", *flags, "-o", path, *sources], cwd=TOP, check=True)
    return path.read_bytes()


def take_over(vm, hostile):
    """From here on the enemy answers for this machine's files."""
    (vm / "fs/root/hostile").write_bytes(hostile)
    (vm / "fs/root/hostile").chmod(0o755)
    vm.job("exec /root/hostile")
    eventually(lambda: "hostile: serves" in read(vm / "console"), 20, "the hostile agent does not serve")
    return vm


@pytest.fixture
def captive(vm, hostile):
    return take_over(vm, hostile)


@pytest.fixture
def neighbour(prepared):
    return prepared.fork("neighbour")


def served(vm):
    """All of what a guest's answer could have switched off for the whole mount."""
    path = vm / "fs/root/served"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    os.write(fd, b"x")
    os.fsync(fd)
    assert os.pread(fd, 1, 0) == b"x"
    os.close(fd)
    assert "before" in os.listdir(vm / "fs/root")
    os.rename(path, vm / "fs/root/gone")
    os.unlink(vm / "fs/root/gone")
    assert "running" in read(vm / "state")


def opened(path, flags, use):
    fd = os.open(path, flags)
    try:
        use(fd)
    finally:
        os.close(fd)


# Each operation of the agent's, as a system call whose answer it is. n: the errno, in a name.
CALLS = {
    # after a write the kernel asks for the size
    GETATTR: lambda d, n: opened(d / f"f:1={n}", os.O_WRONLY, lambda fd: (os.write(fd, b"x"), os.fstat(fd))),
    SETATTR: lambda d, n: os.chmod(d / f"f:2={n}", 0o600),
    # readdir(3) takes ENOENT for the end
    READDIR: lambda d, n: opened(d / f"d:list=many:n=1000:3={n}", os.O_RDONLY | os.O_DIRECTORY, whole),
    READLINK: lambda d, n: os.readlink(d / f"l:4={n}"),
    OPEN: lambda d, n: opened(d / f"f:5={n}", os.O_RDONLY, lambda fd: None),
    CREATE: lambda d, n: opened(d / f"f:20=2:6={n}", os.O_CREAT | os.O_WRONLY, lambda fd: None),
    READ: lambda d, n: opened(d / f"f:7={n}", os.O_RDONLY, lambda fd: os.read(fd, 10)),
    WRITE: lambda d, n: opened(d / f"f:8={n}", os.O_WRONLY, lambda fd: os.write(fd, b"x")),
    CLOSE: lambda d, n: opened(d / f"f:9={n}", os.O_RDONLY, lambda fd: None),
    FSYNC: lambda d, n: opened(d / f"f:10={n}", os.O_RDONLY, os.fsync),
    MKDIR: lambda d, n: os.mkdir(d / f"d:20=2:11={n}"),
    UNLINK: lambda d, n: os.unlink(d / f"f:12={n}"),
    RMDIR: lambda d, n: os.rmdir(d / f"d:13={n}"),
    RENAME: lambda d, n: os.rename(d / f"f:14={n}", d / "f:20=2"),
    SYMLINK: lambda d, n: os.symlink("f", d / f"l:20=2:15={n}"),
    LINK: lambda d, n: os.link(d / f"f:16={n}", d / "f:20=2"),
    MKNOD: lambda d, n: os.mknod(d / f"s:20=2:17={n}", 0o140644),
    STATFS: lambda d, n: os.statvfs(d / f"d:18={n}"),
    LOOKUP: lambda d, n: os.stat(d / f"f:20={n}"),
    OPENDIR: lambda d, n: os.listdir(d / f"d:21={n}"),
    SEEK: lambda d, n: opened(d / f"f:22={n}", os.O_RDONLY, lambda fd: os.lseek(fd, 1, os.SEEK_DATA)),
    FALLOCATE: lambda d, n: opened(d / f"f:23={n}", os.O_WRONLY, lambda fd: os.posix_fallocate(fd, 0, 9)),
    GETXATTR: lambda d, n: os.getxattr(d / f"f:24={n}", "user.a"),
    SETXATTR: lambda d, n: os.setxattr(d / f"f:25={n}", "user.a", b"x"),
    REMOVEXATTR: lambda d, n: os.removexattr(d / f"f:26={n}", "user.a"),
}
# A close is not waited for.
UNHEARD = {CLOSE}


# Those that keep their meaning, and those that the kernel or the daemon takes for something else.
PLAIN = [errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS, errno.EIO, errno.ENAMETOOLONG]
ODD = [errno.EINTR, errno.EAGAIN, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTCONN, errno.ESTALE, 150, 200]
# There it takes ten times as long, and the engine has a part in none of it but the channel.
ERRNOS = [0, errno.EDQUOT, *PLAIN, *ODD] if LAB else range(201)


@pytest.mark.timeout(limit(300))
def test_every_operation_with_every_errno(sbx, captive, neighbour):
    files = captive / "fs"
    seen = {}
    for op, call in CALLS.items():
        for n in ERRNOS:
            got = seen[op, n] = outcome(call, files, n)
            assert sbx.alive, f"operation {op} answered with errno {n} killed the daemon"
            assert got not in NEVER, f"operation {op} answered with errno {n} gives {errno.errorcode[got]}"
            assert bool(got) == bool(n and op not in UNHEARD), (op, n, got)
        served(neighbour)
    # Those that have their meaning for users keep it.
    for op in CALLS.keys() - UNHEARD:
        for n in PLAIN:
            assert seen[op, n] == n, (op, n, seen[op, n])
        assert seen[op, 150] == seen[op, 200] == errno.EIO
    # Nothing was switched off: the guest is still asked.
    for op in CALLS.keys() - UNHEARD:
        assert outcome(CALLS[op], files, errno.EDQUOT) == errno.EDQUOT


def test_attributes_that_no_file_has(sbx, captive, neighbour):
    files = captive / "fs"
    for kind in (
        ["f:mode=0", "f:mode=644", "f:mode=150644", "f:mode=177777", "f:mode=37777777777"]  # types that there are none of
        + ["f:size=0x8000000000000000", "f:size=-1", "f:blocks=-1", "f:20=short", "f:5=short", "f:5=0:handle=0"]
    ):
        for call in os.stat, os.unlink, lambda path: opened(path, os.O_RDONLY, lambda fd: None):
            assert outcome(call, files / kind) in (errno.EIO, 0), kind
        assert outcome(lambda path: opened(path, os.O_RDONLY, lambda fd: os.read(fd, 5)), files / kind) == errno.EIO
    # These are files, if odd ones.
    for kind in "f:nlink=0", "f:nlink=-1", "f:uid=-1", "f:time=-1", "f:time=0x7fffffffffffffff", "f:ino=0", "f:ino=-1":
        st = os.stat(files / kind)
        assert stat.S_ISREG(st.st_mode) and st.st_ino and st.st_nlink and st.st_uid < 2**32 - 1
        with open(files / kind) as f:
            assert f.read() == "hostile\n"
    # What was asked for is what was made.
    for _ in range(3):
        assert outcome(os.mkdir, files / "d:20=2:mode=100644") == errno.EIO
        assert outcome(os.symlink, "f", files / "l:20=2:mode=40755") == errno.EIO
        assert outcome(os.mkfifo, files / "p:20=2:mode=20755") == errno.EIO
        assert outcome(CALLS[CREATE], files, "0:mode=10644") == errno.EIO
        assert outcome(CALLS[CREATE], files, "0:mode=40644") == errno.EIO
        assert outcome(CALLS[CREATE], files, "0:handle=0") == errno.EIO
    for place in "0", "-1", "0x8000000000000000":
        assert outcome(opened, files / f"f:seek={place}", os.O_RDONLY, lambda fd: os.lseek(fd, 5, os.SEEK_HOLE)) == errno.EIO
    for size in "0", "-1", "0x100000001":
        assert outcome(os.statvfs, files / f"d:size={size}") == errno.EIO
    with fails(errno.EIO):
        opened(files / "f:data=much", os.O_WRONLY, lambda fd: os.write(fd, b"x"))
    with fails(errno.EIO):
        opened(files / "f:data=much", os.O_RDONLY, lambda fd: os.read(fd, 10))
    served(neighbour)


def test_special_files(sbx, captive):
    """A guest's FIFO stops nobody, and its devices are not the host's, not even root's."""
    files = captive / "fs"
    for flags in os.O_RDONLY, os.O_WRONLY, os.O_RDWR:
        assert outcome(os.open, files / "p", flags) == errno.ENXIO
        assert outcome(os.open, files / "s", flags) == errno.ENXIO
        assert outcome(os.open, files / "c", flags) == errno.EACCES
        assert outcome(os.open, files / "b", flags) == errno.EACCES


def test_devices_cannot_be_asked_for(own_mount):
    mount = own_mount(options=("-o", "dev,suid"))
    with open("/proc/self/mountinfo") as f:
        options = next(line.split()[5] for line in f if line.split()[4] == str(mount.path))
    assert {"nosuid", "nodev"} <= set(options.split(","))


def test_a_link_is_not_led_astray_by_a_rename(sbx, captive):
    """
    The guest answers in the middle of a walk through its link only when its owner has renamed the directory to a
    higher place, from where as many ".." lead out of the mount.
    """
    secret = sbx.path.parents[1] / "secret"
    secret.write_text("the host's")
    deep = captive / "fs/d-1/d-2/d-3/d-4/d-5:20=trap"
    got = []

    def walk():
        with contextlib.suppress(OSError):
            got.append(read(deep / "l:to=secret:4=late"))

    walker = threading.Thread(target=walk)
    walker.start()
    eventually(lambda: "hostile: holds" in read(captive / "console") or not walker.is_alive(), 20, "nothing is held")
    # It has a second and a half, which is short for a guest on a busy host.
    eventually(lambda: outcome(os.rename, deep, captive / "fs" / deep.name) in (0, errno.ENOENT), 20, "it cannot be renamed")
    walker.join()
    secret.unlink()
    assert got == []


def test_links_of_any_target(sbx, captive):
    """Wherever a link is and wherever it points, it leads into the guest, and its size is its target's."""
    files = captive / "fs"
    for depth in range(6):
        directory = files.joinpath(*(f"d-{i}" for i in range(depth)))
        for to in "plain", "up1", "up2", "secret", "passwd", "root", "inside":
            link = directory / f"l:to={to}"
            target = os.readlink(link)
            assert os.lstat(link).st_size == len(target)
            assert (str(files) + "/" in target + "/") if target.startswith("/") else target.count("..") <= min(depth, 1)
            resolved = os.path.realpath(link)
            assert (resolved + "/").startswith(str(files) + "/"), (depth, to, resolved)


# ---- listings


def test_listings_of_impossible_names(sbx, captive, neighbour):
    files = captive / "fs"
    assert sorted(os.listdir(files / "d:list=bad")) == ["f-good", "f-type"]
    for kind in "void", "loop", "long", "nul", "count":
        with fails(errno.EIO):
            os.listdir(files / f"d:list={kind}")
    served(neighbour)


def getdents(fd, size=32768):
    """Names and offsets, as the kernel gives them."""
    buffer = ctypes.create_string_buffer(size)
    n = ctypes.CDLL(None, use_errno=True).syscall(217, fd, buffer, size)  # SYS_getdents64
    if n < 0:
        raise OSError(ctypes.get_errno(), "getdents64")
    at, found, data = 0, [], buffer.raw[:n]
    while at < n:
        _, offset, length = struct.unpack_from("=QqH", data, at)
        found.append((os.fsdecode(data[at + 19 : at + length].split(b"\0")[0]), offset))
        at += length
    return found


def whole(fd):
    found = []
    while part := getdents(fd):
        found += part
    return found


@pytest.mark.parametrize("where", ["guest", "hostile", "tree"])
def test_listing_from_any_offset(sbx, vm, hostile, where):
    """An offset is what was given out for an entry, and goes on behind it; others lead nowhere and touch nothing."""
    vm.sh("mkdir /root/many; cd /root/many; i=0; while [ $i -lt 2000 ]; do : > $i; i=$((i+1)); done")
    path = {"guest": vm / "fs/root/many", "tree": vm.path, "hostile": vm / "fs/d:list=many:n=2500"}[where]
    if where == "hostile":
        take_over(vm, hostile)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    every = whole(fd)
    assert sorted(name for name, _ in every) == sorted([".", "..", *os.listdir(path)])
    rng = random.Random(5)
    for i in [0, 1, 2, len(every) - 2, len(every) - 1, *(rng.randrange(len(every)) for _ in range(20))]:
        os.lseek(fd, every[i][1], os.SEEK_SET)
        assert whole(fd) == every[i + 1 :], i
    os.lseek(fd, 0, os.SEEK_SET)
    assert whole(fd) == every
    for offset in [*range(3, 40, 7), *(2**n + d for n in range(10, 63, 4) for d in (-1, 0, 3)), 2**63 - 1]:
        os.lseek(fd, offset, os.SEEK_SET)
        assert set(getdents(fd)) <= set(every)
        os.lseek(fd, 0, os.SEEK_SET)
        if rng.random() < 0.2:
            assert whole(fd) == every
    os.close(fd)


def resident(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


@pytest.mark.timeout(limit(300))
def test_a_listing_without_end(build, sbx, captive, neighbour):
    """It ends all the same, and the daemon keeps a piece of it for each descriptor, no more."""
    files = captive / "fs"
    before = resident(sbx.process.pid)
    fds = []
    for _ in range(20):
        fds.append(os.open(files / "d:list=endless", os.O_RDONLY | os.O_DIRECTORY))
        for _ in range(10):
            assert getdents(fds[-1])
    if build.name != "san":  # AddressSanitizer keeps what is freed
        assert resident(sbx.process.pid) - before < 8 << 20
    with fails(errno.EIO):
        while getdents(fds[0], 1 << 20):
            pass
    for fd in fds:
        os.close(fd)
    served(neighbour)


def test_many_names_cost_no_more_each(sbx, captive):
    """The daemon finds a name in a time that does not grow with the directory."""
    files = captive / "fs"

    def seconds(directories, n):
        """Of the daemon's CPU, for each of as many names: the kernel counts in hundredths of a second."""
        start = cpu(sbx.process.pid)
        for directory in directories:
            for i in range(n):
                os.stat(files / directory / f"f-{i}")
        return (cpu(sbx.process.pid) - start) / (n * len(directories))

    few = seconds([f"d-{i}" for i in range(16)], 500)
    many = seconds(["d-many"], 8000)
    assert many < 2 * few + 10e-6, f"{few * 1e6:.0f} us a name of 500, {many * 1e6:.0f} us of 8,000"


def cpu(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- silence


def seconds_of(function, *args):
    start = time.monotonic()
    return outcome(function, *args), time.monotonic() - start


@pytest.mark.timeout(limit(200))
def test_a_rename_between_directories_ends_soon(sbx, captive, neighbour):
    """All such renames of a mount exclude each other, so one guest's silence is waited for briefly."""
    files = captive / "fs"
    os.mkdir(neighbour / "fs/root/a")
    (neighbour / "fs/root/f").touch()
    for name in "f:14=silent", "f:20=silent":  # the rename itself, and what the kernel asks before it
        os.stat(files / "f")
        got = []
        stuck = threading.Thread(target=lambda: got.append(seconds_of(os.rename, files / name, files / "d-to/f")))
        stuck.start()
        start = time.monotonic()
        os.rename(neighbour / "fs/root/f", neighbour / "fs/root/a/f")
        os.rename(neighbour / "fs/root/a/f", neighbour / "fs/root/f")
        assert time.monotonic() - start < limit(3)
        stuck.join()
        assert got[0][0] == errno.ETIMEDOUT and got[0][1] < limit(2)
    # Who asked once in vain does not wait again, nor does anybody, until the guest answers.
    code, seconds = seconds_of(os.rename, files / "m:ms=8000", files / "d-to/f")
    assert code == errno.ETIMEDOUT and seconds < limit(2)
    for _ in range(3):
        code, seconds = seconds_of(os.rename, files / "f", files / "d-to/f")
        assert code == errno.ETIMEDOUT and seconds < limit(1)
    again = "the guest answers again, and nobody hears it"
    eventually(lambda: not outcome(os.rename, files / "f", files / "d-to/f"), 30, again)
    served(neighbour)


BLOCKED = """
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell ignores it for what it starts in the background
print("goes", flush=True)
os.stat(sys.argv[1]) if sys.argv[2] == "stat" else os.read(os.open(sys.argv[1], os.O_RDONLY), 1)
"""


@pytest.mark.parametrize("name,how", [("f:20=silent", "stat"), ("f:5=silent", "read"), ("f:7=silent", "read")])
def test_who_waits_for_a_silent_guest_can_be_killed(sbx, captive, name, how):
    """At once, also after a signal that it has a handler for, and goes on waiting after."""
    for signals in [signal.SIGTERM], [signal.SIGKILL], [signal.SIGQUIT], [signal.SIGUSR1, signal.SIGKILL]:
        command = [sys.executable, "-c", BLOCKED, captive / "fs" / name, how]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout.readline() == b"goes\n"
            stat = Path(f"/proc/{process.pid}/stat")
            eventually(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "S", 10, "it does not wait")
            time.sleep(0.1)  # in the file's call, and not in one of the interpreter's
            for number in signals[:-1]:
                process.send_signal(number)
                time.sleep(0.2)
                assert process.poll() is None
            start = time.monotonic()
            process.send_signal(signals[-1])
            assert process.wait(limit(10)) == -signals[-1]
            assert time.monotonic() - start < limit(1)


@pytest.mark.timeout(limit(200))
@pytest.mark.long
def test_who_was_silent_once_fails_fast(sbx, captive, neighbour):
    files = captive / "fs"
    assert outcome(os.stat, files / "m:ms=40000") == errno.ETIMEDOUT  # half a minute
    for call in CALLS[OPEN], CALLS[READDIR], CALLS[STATFS], CALLS[MKDIR], CALLS[RENAME]:
        code, seconds = seconds_of(call, files, "0")
        assert code == errno.ETIMEDOUT and seconds < limit(1.5)
    start = time.monotonic()
    for _ in range(100):
        assert outcome(os.stat, files / "f") == errno.ETIMEDOUT
    assert time.monotonic() - start < limit(10)
    served(neighbour)
    eventually(lambda: not outcome(os.stat, files / "f"), 30, "the guest answers again, and nobody hears it")
    for op, call in CALLS.items():
        assert outcome(call, files, "0") == 0, op
