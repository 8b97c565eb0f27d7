# SPDX-License-Identifier: MIT
"""
fs/: what is known from a moment ago is not asked again, and is never older than that: attributes that came with an
answer (guest_kept.c), content that came with an open or a read (guest_content.c), names of a directory that was just
made (guest_new.c), files that are opened ahead (guest_opened.c), and parts of listings (guest_dir.c). What the guest was asked is in the daemon's log.
"""
import errno
import os
import re
import time

import pytest

from conftest import live
from harness import Mount, eventually, fails, read
from test_hostile_guest import getdents, whole

KEPT = 0.1  # GUEST_CACHE_S


class Asked:
    """A machine of a daemon that says what it asks of it."""

    def __init__(self, mount):
        self.log_path, self.vm = mount.log_path, mount.create("asked")
        self.root = self.vm / "fs/root/work"
        os.mkdir(self.root)

    def questions(self, act):
        """What an act makes the daemon ask: pairs of an operation and a name."""
        start = os.path.getsize(self.log_path)
        act()
        with open(self.log_path, "rb") as log:
            log.seek(start)
            return re.findall(r"request \d+: (\w+) (?:of )?(\S*) [^\n]*?in fs/ of asked", log.read().decode(errors="replace") + " ")

    def frames(self, act):
        """How many questions of any kind an act sends, those for nobody yet too."""
        start = os.path.getsize(self.log_path)
        act()
        with open(self.log_path, "rb") as log:
            log.seek(start)
            return len(re.findall(rb"asked: to guest: FS \d+", log.read()))

    def least(self, prepare, act, wanted, enough):
        """How many of the questions are wanted, in the best of some tries: what takes too long is asked again."""
        for _ in range(20):
            path = self.root / f"t{time.monotonic_ns()}"
            prepare(path)
            time.sleep(1.5 * KEPT)
            n = sum(wanted(*question) for question in self.questions(lambda path=path: act(path)))
            if n <= enough:
                return
        raise AssertionError(f"{n} questions in the last try, {enough} are enough")


@pytest.fixture(scope="module")
def asked(engine, build, guest, new_warm_state, tmp_path_factory):
    mount = Mount(build, guest, engine, tmp_path_factory.mktemp("asked"), new_warm_state(), ("-v",))
    live.append(mount)
    mount.start()
    yield Asked(mount)
    live.remove(mount)
    mount.stop()


@pytest.fixture
def root(asked):
    path = asked.root / f"d{time.monotonic_ns()}"
    os.mkdir(path)
    return path


def read_to_its_end(path, size=4096):
    with open(path, "rb", buffering=0) as file:
        while file.read(size):
            pass
        os.fstat(file.fileno())


# ---- content


@pytest.mark.timing
def test_a_small_file_is_one_question(asked):
    asked.least(lambda path: path.write_text("text"), read_to_its_end, lambda op, _: op in ("open", "read", "getattr"), 1)


@pytest.mark.timing
def test_who_reads_on_is_read_ahead_for(asked):
    prepare = lambda path: path.write_bytes(b"x" * 1_000_000)  # noqa: E731
    asked.least(prepare, read_to_its_end, lambda op, _: op == "read", 20)


def test_content_is_what_the_host_wrote(root):
    (root / "f").write_text("one two three\n")
    with open(root / "f", "rb", buffering=0) as file:
        assert file.read(4) == b"one "
        with open(root / "f", "r+b", buffering=0) as other:
            other.seek(4)
            other.write(b"TWO")
        assert file.read(4) == b"TWO "
        os.truncate(root / "f", 9)
        assert file.read() == b"t"
        (root / "f").write_text("")  # O_TRUNC
        assert os.pread(file.fileno(), 10, 0) == b""
        os.posix_fallocate(os.open(root / "f", os.O_WRONLY), 0, 3)
        assert os.pread(file.fileno(), 10, 0) == b"\0\0\0"


def test_content_is_what_the_guest_wrote(asked, root):
    path = str(root)[len(str(asked.vm / "fs")) :]
    (root / "f").write_text("old\n")
    with open(root / "f", "rb", buffering=0) as file:
        for i in range(10):
            os.pread(file.fileno(), 100, 0)
            asked.vm.run(f"echo {i} > {path}/f")
            assert os.pread(file.fileno(), 100, 0) == b"%d\n" % i
        # Nothing tells of this.
        job = asked.vm.job(f"until [ -e {path}/go ]; do sleep 0.01; done; echo unheard > {path}/f; sleep 1000")
        (root / "go").touch()
        eventually(lambda: os.pread(file.fileno(), 100, 0) == b"unheard\n", 10, "the old content is kept")
        job.forget()


# ---- files that are opened ahead


def fill(path, n=40):
    os.mkdir(path)
    for i in range(n):
        (path / f"f{i}").write_text(f"text {i}\n")


def read_in_a_row(path, n=None, key=None):
    """What is read of each, in the order of the listing or another."""
    entries = [*os.scandir(path)]
    for entry in sorted(entries, key=key)[:n] if key else entries[:n]:
        read_to_its_end(entry.path)


@pytest.mark.timing
@pytest.mark.parametrize("key", [None, lambda entry: entry.inode()], ids=["listed", "numbers"])
def test_who_reads_one_file_after_the_other_waits_for_few(asked, key):
    asked.least(fill, lambda path: read_in_a_row(path, key=key), lambda op, _: op in ("open", "read"), 8)


def test_what_is_opened_ahead_is_what_it_was_changed_to(asked, root):
    path = str(root)[len(str(asked.vm / "fs")) :]
    for i in range(3):
        top = root / f"row{i}"
        fill(top, 12)
        time.sleep(1.5 * KEPT)
        names = [entry.name for entry in os.scandir(top)]
        for name in names[:3]:
            assert read(top / name) == f"text {name[1:]}\n"
        (top / names[3]).write_text("the host's\n")
        os.unlink(top / names[4])
        os.rename(top / names[5], top / names[6])
        assert read(top / names[3]) == "the host's\n"
        with fails(errno.ENOENT):
            os.open(top / names[4], os.O_RDONLY)
        assert read(top / names[6]) == f"text {names[5][1:]}\n"
        asked.vm.run(f"cd {path}/row{i}; echo the guest > {names[7]}; mv {names[8]} {names[9]}; rm {names[10]}")
        assert read(top / names[7]) == "the guest\n" and read(top / names[9]) == f"text {names[8][1:]}\n"
        with fails(errno.ENOENT):
            os.open(top / names[10], os.O_RDONLY)
        # One that is open stays what it is.
        with open(top / names[11]) as file:
            os.unlink(top / names[11])
            time.sleep(1.5 * KEPT)
            assert file.read() == f"text {names[11][1:]}\n"


def test_what_is_opened_ahead_in_vain_is_closed(asked, root):
    path = str(root)[len(str(asked.vm / "fs")) :]
    fill(root / "vain", 20)
    held = f"ls -l /proc/1/fd | grep -q '{path}/vain/f'"
    job = asked.vm.job(f"until {held}; do :; done; echo open; while {held}; do sleep 0.01; done; echo closed")
    out = os.open(job / "stdout", os.O_RDONLY)
    with open(root / "vain/f0"):
        assert os.read(out, 100) == b"open\n"
        read_in_a_row(root / "vain", 3)
    assert os.read(out, 100) == b"closed\n"
    os.close(out)
    job.forget()


def test_a_command_finds_closed_what_was_opened_ahead(asked, root):
    """A filesystem with an open file cannot be unmounted."""
    path = str(root)[len(str(asked.vm / "fs")) :]
    os.mkdir(root / "m")
    for _ in range(3):
        asked.vm.sh(f"mount -t tmpfs none {path}/m; cd {path}/m; for i in $(seq 20); do echo text > f$i; done")
        read_in_a_row(root / "m", 3)
        asked.vm.sh(f"umount {path}/m")


# ---- attributes


@pytest.mark.timing
def test_a_directory_is_told_with_what_was_made_in_it(asked):
    def make(path):
        (path / "x").touch()
        os.stat(path)
        os.mkdir(path / "y")
        assert os.stat(path).st_nlink == 3
        os.unlink(path / "x")
        os.stat(path)

    asked.least(os.mkdir, make, lambda op, name: op == "getattr" and name.startswith("t"), 0)


def test_attributes_are_not_older_than_what_was_done(asked, root):
    path = str(root)[len(str(asked.vm / "fs")) :]
    for i in range(5):
        (root / f"f{i}").touch()
        assert os.stat(root).st_nlink == 2 + i
        asked.vm.run(f"mkdir {path}/d{i}; chmod 7{i}5 {path}")
        assert os.stat(root).st_nlink == 3 + i and os.stat(root).st_mode & 0o777 == 0o705 + 8 * i
    (root / "f").write_text("text")
    os.utime(root / "f", (1, 2))
    assert os.stat(root / "f").st_atime == 1
    read(root / "f")
    assert os.stat(root / "f").st_atime > 1000  # relatime: it is older than what was written


# ---- names of new directories


def names_of(path):
    for i in range(10):
        with open(path / "new" / f"n{i}", "xb") as file:
            file.write(b"text")


@pytest.mark.timing
def test_a_new_directory_is_known_to_be_empty(asked):
    def act(path):
        os.mkdir(path / "new")
        names_of(path)

    asked.least(os.mkdir, act, lambda op, name: op == "lookup" and name.startswith("n") and name != "new", 3)


def test_names_come_and_go_in_a_new_directory(root):
    for i in range(10):
        path, other = root / f"a{i}", root / f"b{i}"
        assert not path.exists()
        path.touch(exist_ok=False)
        assert path.exists() and path.name in os.listdir(root)
        with fails(errno.EEXIST):
            os.mkdir(path)
        os.rename(path, other)
        assert other.exists() and not path.exists()
        os.link(other, path)
        os.unlink(other)
        assert path.exists() and not other.exists()
        os.mkdir(other)
        os.symlink("x", other / "x")
        assert os.path.lexists(other / "x") and not os.path.lexists(other / "y")


def test_the_guests_names_in_a_new_directory(asked):
    """After a command at once, otherwise a tenth of a second later."""
    for i in range(4):
        root = asked.root / f"g{i}"
        os.mkdir(root)
        (root / "a").touch()
        assert not (root / "b").exists()
        asked.vm.run(f"echo text > /root/work/g{i}/b")
        assert read(root / "b") == "text\n"
        os.mkdir(root / "sub")
        job = asked.vm.job(f"until [ -e /root/work/g{i}/sub/go ]; do :; done; echo > /root/work/g{i}/sub/late; sleep 1000")
        (root / "sub/go").touch()
        eventually(lambda root=root: (root / "sub/late").exists(), 10, "the guest's name is never seen")
        job.forget()
        with fails(errno.EEXIST):
            os.close(os.open(root / "sub/late", os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def test_a_new_directory_that_is_not_empty(asked):
    """The kernel's own: a cgroup has its files when it is made."""
    asked.vm.sh("mkdir -p /root/cgroups; mount -t cgroup2 none /root/cgroups")
    top = asked.vm / "fs/root/cgroups"
    for i in range(3):
        os.mkdir(top / f"c{i}")
        assert read(top / f"c{i}/cgroup.procs") == ""
        os.rmdir(top / f"c{i}")
    asked.vm.sh("umount /root/cgroups")


# ---- owners that are what they are to be


@pytest.mark.timing
def test_an_owner_that_it_has_is_no_question(asked):
    """As tar does it: create, write, times, owner, mode."""

    def act(path):
        for i in range(10):
            with open(path / f"f{i}", "xb") as file:
                file.write(b"text")
                file.flush()
                os.utime(file.fileno(), (1, 2))
                os.fchown(file.fileno(), 0, 0)
                os.fchmod(file.fileno(), 0o640)

    asked.least(os.mkdir, act, lambda op, _: op == "setattr", 22)


def test_an_owner_that_it_has_is_set_all_the_same(asked, root):
    path = str(root)[len(str(asked.vm / "fs")) :]
    for i in range(5):
        (root / f"f{i}").write_text("text")
        os.utime(root / f"f{i}", (1, 2))
        before = os.stat(root / f"f{i}").st_ctime_ns
        time.sleep(0.02)  # a tick of the guest's clock, in which its kernel gives files their times
        os.chown(root / f"f{i}", 0, 0)
        assert os.stat(root / f"f{i}").st_ctime_ns > before
        # What is asked later comes later, commands too.
        os.chown(root / f"f{i}", 0, 0)
        assert asked.vm.run(f"chown 5:6 {path}/f{i}; stat -c %u:%g {path}/f{i}") == "5:6\n"
        assert (os.stat(root / f"f{i}").st_uid, os.stat(root / f"f{i}").st_gid) == (5, 6)
        os.chown(root / f"f{i}", 5, 6)
        os.chown(root / f"f{i}", 7, 8)
        os.chmod(root / f"f{i}", 0o600)
        assert asked.vm.run(f"stat -c '%u:%g %a' {path}/f{i}") == "7:8 600\n"


def test_what_an_owner_would_change_is_asked(asked, root):
    """Its bits go, its capabilities too, and a file that is gone has none."""
    path = str(root)[len(str(asked.vm / "fs")) :]
    (root / "f").write_text("text")
    for _ in range(3):
        os.chmod(root / "f", 0o6755)
        os.chown(root / "f", 0, 0)
        assert os.stat(root / "f").st_mode & 0o7777 == 0o755
    os.setxattr(root / "f", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.chown(root / "f", 0, 0)
    with fails(errno.ENODATA):
        os.getxattr(root / "f", "security.capability")
    with open(root / "f", "r+b") as file:
        os.utime(file.fileno(), (1, 2))
        os.fchown(file.fileno(), 0, 0)
        os.unlink(root / "f")
        os.fchown(file.fileno(), 0, 0)
        os.fchmod(file.fileno(), 0o604)
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o604
    with fails(errno.ENOENT):
        os.chown(root / "f", 0, 0)
    (root / "f").touch()
    asked.vm.run(f"rm {path}/f")
    with fails(errno.ENOENT):
        os.chown(root / "f", 0, 0)


# ---- closing


def test_who_has_closed_a_program_can_run_it(asked, root):
    """Closing goes with what is asked next, so a command comes after it: what is open for writing cannot be run."""
    path = str(root)[len(str(asked.vm / "fs")) :]
    for i in range(20):
        with open(root / f"s{i}", "x") as file:
            os.fchmod(file.fileno(), 0o755)
            file.write("#!/bin/sh\necho ran\n")
        assert asked.vm.run(f"{path}/s{i}") == "ran\n"


def test_what_is_closed_is_closed_though_nothing_follows(asked, root):
    held = "ls -l /proc/1/fd | grep -q 'work/.*held'"
    with open(root / "held", "xb"):
        job = asked.vm.job(f"until {held}; do sleep 0.01; done; echo open; while {held}; do sleep 0.01; done; echo closed")
        out = os.open(job / "stdout", os.O_RDONLY)
        assert os.read(out, 100) == b"open\n"
    assert os.read(out, 100) == b"closed\n"
    os.close(out)
    job.forget()


# ---- listings


def directory(asked, n):
    path = asked.root / f"many{time.monotonic_ns()}"
    asked.vm.sh(f"mkdir /root/work/{path.name}; cd /root/work/{path.name}; seq {n} | xargs touch")
    time.sleep(1.5 * KEPT)
    return path


@pytest.mark.timing
def test_what_follows_in_a_listing_is_asked_for_ahead(asked):
    path = directory(asked, 2000)
    seen = []
    n = asked.frames(lambda: seen.extend(os.listdir(path)))
    assert sorted(map(int, seen)) == list(range(1, 2001))
    assert n < 100
    with open(asked.log_path, errors="replace") as log:
        text = log.read()
    assert f"ahead: readdir {path.name} in fs/ of asked" in text and "was asked ahead" in text


@pytest.mark.timing
def test_who_lists_slowly_is_told_of_many_at_once(asked):
    """What was told with a listing is old before he comes to it, and is not asked for one by one."""
    path = directory(asked, 1000)

    def look():
        for entry in os.scandir(path):
            time.sleep(0.002)
            entry.stat()

    assert min(asked.frames(look) for _ in range(5)) < 300


def test_a_listing_shows_nothing_that_a_command_took_away(asked):
    """Also where the next part of it is here, or on its way."""
    for n in 300, 1000, 3000:
        path = directory(asked, n)
        with os.scandir(path) as listing:
            next(listing)
            asked.vm.run(f"cd /root/work/{path.name}; for i in $(seq {n}); do case $i in *[13579]) rm $i;; *) echo $i > $i;; esac; done")
            late = list(listing)
        # The kernel has the first part, which it got before.
        late = late[-(n // 8) :]
        assert late and all(int(entry.name) % 2 == 0 for entry in late)
        assert all(os.stat(path / entry.name).st_size == len(entry.name) + 1 for entry in late)


def test_a_listing_goes_back_and_on(asked):
    path = directory(asked, 1000)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    first, offsets = [], []
    while part := getdents(fd, 4000):
        offsets.append((len(first), os.lseek(fd, 0, os.SEEK_CUR)))
        first += [name for name, _ in part]
    for n, offset in [offsets[5], offsets[1], offsets[-1], offsets[2]]:
        os.lseek(fd, offset, os.SEEK_SET)
        n = next(end for end, (_, at) in zip([begin for begin, _ in offsets[1:]] + [len(first)], offsets, strict=True) if at == offset)
        assert [name for name, _ in whole(fd)] == first[n:]
    os.lseek(fd, 0, os.SEEK_SET)
    os.unlink(path / "7")
    assert sorted(name for name, _ in whole(fd)) == sorted({*first} - {"7"})
    os.close(fd)
