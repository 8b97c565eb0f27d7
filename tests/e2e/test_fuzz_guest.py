# SPDX-License-Identifier: MIT
"""A guest whose answers are nearly right, under users who do anything: chance on both sides.

tests/hostile/mutate.c changes what the hostile agent says. Nobody knows what a call should give then; so what must
hold is that it ends, with no errno that means something else, that the daemon lives and keeps nothing, and that the
neighbour is served. The seed is in the failure, and --fuzz-seed takes it; --fuzz-seconds makes it long (docs/testing.md).
"""
import contextlib
import errno
import fcntl
import os
import random
import threading
import time

import pytest

from harness import Job, eventually, fields, limit, outcome, write
from test_hostile_guest import (NEVER, captive, getdents, hostile, neighbour, opened,  # noqa: F401
                                resident, served)  # fmt: skip

NAMES = ["f-1", "f-2", "f-3:20=2", "l-1:to=up1", "l-2:to=root", "p-1", "c-1", "s-1", "d-1", "d-2", "d-3:list=many:n=900", "d-4:20=2",
         "d-5:list=bad", "f-4:data=much", "l-3:20=2", "x"]  # fmt: skip
FLAGS = [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND,
         os.O_RDWR | os.O_CREAT | os.O_EXCL]  # fmt: skip
OFFSETS = [0, 1, 4095, 1 << 20, (1 << 31) - 1, 1 << 40, (1 << 63) - 5000]


def file_calls(files, dice):
    """System calls on the guest's files, each with arguments of its own choosing."""

    def path():
        directory = files
        while not dice.randrange(3):
            directory /= dice.choice(["d-1", "d-2", "d-7"])
        return directory / dice.choice(NAMES)

    def a_file(fd):
        for _ in range(dice.randrange(1, 5)):
            with contextlib.suppress(OSError):
                dice.choice([
                    lambda: os.pread(fd, dice.choice([1, 5000, 200000]), dice.choice(OFFSETS)),
                    lambda: os.pwrite(fd, b"x" * dice.choice([1, 5000, 150000]), dice.choice(OFFSETS)),
                    lambda: os.fsync(fd),
                    lambda: os.ftruncate(fd, dice.choice(OFFSETS)),
                    lambda: os.lseek(fd, dice.choice(OFFSETS), dice.choice([os.SEEK_DATA, os.SEEK_HOLE, os.SEEK_END])),
                    lambda: os.fstat(fd),
                    lambda: os.posix_fallocate(fd, dice.choice(OFFSETS), 4096),
                    lambda: os.fchmod(fd, dice.randrange(0o10000)),
                    lambda: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
                ])()  # fmt: skip

    def a_listing(fd):
        for _ in range(3):
            getdents(fd, dice.choice([300, 32768]))
            if not dice.randrange(3):
                os.lseek(fd, dice.choice(OFFSETS), os.SEEK_SET)

    return [
        lambda: os.stat(path()),
        lambda: os.lstat(path()),
        lambda: os.readlink(path()),
        lambda: os.listdir(path()),
        lambda: opened(path(), os.O_RDONLY | os.O_DIRECTORY, a_listing),
        lambda: opened(path(), dice.choice(FLAGS) | os.O_NONBLOCK, a_file),
        lambda: opened(path(), dice.choice(FLAGS) | os.O_NONBLOCK, a_file),
        lambda: os.mkdir(path()),
        lambda: os.rmdir(path()),
        lambda: os.unlink(path()),
        lambda: os.rename(path(), path()),
        lambda: os.link(path(), path()),
        lambda: os.symlink(dice.choice(["f", "/", "../" * 100, "x" * 4000]), path()),
        lambda: os.mknod(path(), dice.choice([0o100644, 0o140644, 0o10644])),
        lambda: os.chmod(path(), dice.randrange(0o10000)),
        lambda: os.chown(path(), 0, dice.choice([0, 5])),
        lambda: os.utime(path(), (dice.choice(OFFSETS) % (1 << 33), 0)),
        lambda: os.truncate(path(), dice.choice(OFFSETS)),
        lambda: os.statvfs(path()),
        lambda: os.getxattr(path(), "user.x"),
    ]


def machine_calls(vm, dice):
    def a_job():
        job = Job(vm / "exec" / f"z{dice.randrange(3)}")
        with contextlib.suppress(FileExistsError):
            os.mkdir(job.path)
        with contextlib.suppress(OSError):
            job.start(dice.choice(["true", "x" * 4000]))
        for name in "stdout", "stderr", "status":
            opened(job / name, os.O_RDONLY | os.O_NONBLOCK, lambda fd: os.read(fd, 5000))
        opened(job / "stdin", os.O_WRONLY | os.O_NONBLOCK, lambda fd: os.write(fd, b"x" * dice.choice([1, 70000])))

    return [
        a_job,
        lambda: os.rmdir(vm / "exec" / f"z{dice.randrange(3)}"),
        lambda: os.listdir(vm / "exec"),
        lambda: fields(vm / "info"),
        lambda: write(vm / "memory", dice.choice(["256M", "200M"])),
    ]


READY_FILES = 8  # of the daemon, for a machine kept ready, at most


def descriptors(mount):
    """...and the machines kept ready, whose number follows demand."""
    return len(os.listdir(f"/proc/{mount.process.pid}/fd")), int(fields(mount / "status")["machines_ready"])


def keeps_no_more(mount, before):
    files, ready = descriptors(mount)
    return files <= before[0] + READY_FILES * max(0, ready - before[1])


@pytest.mark.any_engine
def test_answers_that_are_nearly_right(request, build, sbx, captive, neighbour):  # noqa: F811
    seed = request.config.getoption("--fuzz-seed") or random.randrange(1, 1 << 32)
    seconds = request.config.getoption("--fuzz-seconds")
    memory, kept, calls, wrong = resident(sbx.process.pid), descriptors(sbx), [], []

    def user(n):
        dice = random.Random(seed * 8 + n)
        choices = file_calls(captive / "fs", dice) * 3 + machine_calls(captive, dice)
        while time.monotonic() < end and sbx.alive:
            start = time.monotonic()
            which = dice.randrange(len(choices))
            code = outcome(choices[which])
            calls.append(code)
            # ESTALE is what the kernel says of a name that is another file's each time it asks.
            if code in NEVER - {errno.ESTALE} or time.monotonic() - start > limit(12):
                at = choices[which].__code__.co_firstlineno
                wrong.append((f"line {at}", errno.errorcode[code] if code else 0, start - begun, time.monotonic() - start))

    outcome(os.stat, captive / f"fs/m:fuzz={seed}")
    begun = time.monotonic()
    end = begun + seconds
    users = [threading.Thread(target=user, args=(n,)) for n in range(3)]
    for each in users:
        each.start()
    while time.monotonic() < end and sbx.alive:
        served(neighbour)
    for each in users:
        each.join(limit(60))
        assert not each.is_alive(), f"--fuzz-seed {seed}: a call does not end"
    told = f"--fuzz-seed {seed}: {len(calls)} calls, {sum(not code for code in calls)} of them well"
    print(told)
    assert sbx.alive, told
    sbx.check_log()
    assert not wrong, f"{told}, {len(wrong)} of them not as they may: {wrong[:20]}"
    assert len(calls) > 20 * min(seconds, 10) and len(set(calls)) > 10, told
    if build.name != "san":
        assert resident(sbx.process.pid) - memory < 64 << 20, told
    served(neighbour)
    captive.remove()
    eventually(lambda: keeps_no_more(sbx, kept), 20, f"{told}: the daemon keeps descriptors")
