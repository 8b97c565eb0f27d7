# SPDX-License-Identifier: MIT
"""Archives, lineage, status and files of snapshots: what is in a snapshot's directory besides forks."""
import ctypes
import errno
import hashlib
import os
import re
import struct
import subprocess
import threading

import pytest

from harness import LAB, Snapshot, eventually, fails, limit, poll_until, read, read_bytes, value, write, write_all

pytestmark = pytest.mark.timeout(limit(180))


def disk_names(state):
    return {d: set(os.listdir(state / d)) for d in ("objects", "layers", "sums", "snapshots", "tmp")}


@pytest.fixture(scope="module")
def archive(shared, tmp_path_factory):
    """A file: the archive of a snapshot that is deleted since."""
    mount = shared.get()
    vm = shared.prepared().fork("archived")
    vm.sh("echo in memory > /run/kept; echo on disk > /root/kept; sync")
    vm.ctl("snapshot archived")
    path = tmp_path_factory.mktemp("archive") / "a.sbx"
    mount.ok(f"cat snapshots/archived/archive > {path} && rmdir archived snapshots/archived")
    return path


def test_there_and_back(sbx, archive, tmp_path):
    sbx.ok(f"mkdir snapshots/b && cat snapshots/b/status && cat {archive} > snapshots/b/archive")
    assert value(sbx / "snapshots/b/status") == "ready"
    w = Snapshot(sbx / "snapshots/b").fork("w")
    assert w.run("cat /run/kept /root/kept") == "in memory\non disk\n"
    sbx.ok(f"cp snapshots/b/archive {tmp_path}/copy && cmp {tmp_path}/copy {archive}")
    assert sbx.ok(f"busybox cat snapshots/b/archive | cmp - {archive}") == ""
    # It lasts like any other.
    os.rename(sbx / "snapshots/b", sbx / "snapshots/c")
    assert sbx.named() == ["c"]


def test_reads_of_an_archive_are_whole(sbx, archive):
    """As of any regular file: what counts blocks (dd) or takes a short one for the end (tar) gets all of them."""
    sbx.ok(f"mkdir snapshots/b && cat {archive} > snapshots/b/archive")
    fd = os.open(sbx / "snapshots/b/archive", os.O_RDONLY)
    parts = []
    while part := os.read(fd, 300_000):
        parts.append(part)
    os.close(fd)
    assert b"".join(parts) == archive.read_bytes() and {len(part) for part in parts[:-1]} == {300_000}
    assert sbx.ok("dd if=snapshots/b/archive bs=256k count=8 2> /dev/null | wc -c") == f"{8 * 256 * 1024}\n"


def test_an_empty_snapshot(sbx):
    os.mkdir(sbx / "snapshots/e")
    snap = Snapshot(sbx / "snapshots/e")
    assert value(snap / "status") == "empty" and read(snap / "info") == "status empty\n"
    with fails(errno.EBUSY, snap / "error"):
        snap.fork("w")
    with fails(errno.EBUSY, snap / "error"):
        snap.ctl("verify")
    with fails(errno.EBUSY, snap / "error"):
        read(snap / "archive")
    with fails(errno.EEXIST):
        os.mkdir(sbx / "snapshots/e")
    assert os.listdir(snap / "children") == [] and not os.path.lexists(snap / "parent")
    os.rename(snap.path, sbx / "snapshots/f")
    os.rmdir(sbx / "snapshots/f")
    assert sbx.named() == []


def import_fails(sbx, data):
    """Write it and close: the errno of the one that failed. Nothing but the empty directory is left."""
    write(sbx / "ctl", "gc")  # what an earlier test left is still being deleted
    before = disk_names(sbx.state)
    os.mkdir(sbx / "snapshots/bad")
    fd = os.open(sbx / "snapshots/bad/archive", os.O_WRONLY)
    with pytest.raises(OSError) as raised:
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
    assert value(sbx / "snapshots/bad/status") == "empty"
    assert len(read(sbx / "snapshots/bad/error").split()) >= 3
    os.rmdir(sbx / "snapshots/bad")
    write(sbx / "ctl", "gc")  # what was discarded in the background is gone
    assert disk_names(sbx.state) == before
    return raised.value.errno


def test_a_bad_archive(sbx, archive):
    data = archive.read_bytes()
    for n in (1, 24, 1000, len(data) // 2, len(data) - 1):
        assert import_fails(sbx, data[:n]) == errno.EIO  # cut off
    assert import_fails(sbx, data + b"x") == errno.EIO
    for at in (0, 30, 5000, len(data) // 3, len(data) - 10):
        assert import_fails(sbx, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) in (errno.EIO, errno.EINVAL)


class Forger:
    """Changes an archive and sets its checksums right again (docs/format.md)."""

    def __init__(self):
        self.xxh, self.lz4 = ctypes.CDLL("libxxhash.so.0"), ctypes.CDLL("liblz4.so.1")
        self.xxh.XXH3_64bits.restype = ctypes.c_uint64
        self.xxh.XXH3_64bits.argtypes = ctypes.c_char_p, ctypes.c_size_t

    def sum(self, data):
        return struct.pack("<Q", self.xxh.XXH3_64bits(data, len(data)))

    def forge(self, data, edit):
        """edit(name, bytes of a chunk) returns the bytes that are to be there."""
        out, at, digests = bytearray(data[:24]), 24, b""
        while True:
            header = data[at : at + 88]
            name, at = header[8:72].rstrip(b"\0").decode(), at + 88
            if not name:
                return bytes(out + header)
            chunks, blocks, size = bytearray(), bytearray(), struct.unpack("<Q", header[72:80])[0]
            while True:
                place, n, stored = struct.unpack("<QII", data[at : at + 16])
                old, at = data[at : at + 32 + stored], at + 32 + stored
                plain = old[32:]
                if stored < n:
                    buffer = ctypes.create_string_buffer(n)
                    assert self.lz4.LZ4_decompress_safe(plain, buffer, stored, n) == n
                    plain = buffer.raw
                new = digests if name == "digests" and n else edit(name, plain) if n else plain
                if new != plain:
                    n = len(new)
                    size = max(size if name not in ("manifest", "digests") else 0, place + n)
                    head = struct.pack("<QII", place, n, n) + self.sum(new)
                    old = head + self.sum(head) + new
                elif not n:
                    head = struct.pack("<QII", size, 0, 0) + self.sum(b"")
                    old = head + self.sum(head)
                chunks += old
                if new.strip(b"\0"):
                    blocks += struct.pack("<Q", place) + new
                if not n:
                    break
            digest = hashlib.sha256(struct.pack("<Q", size) + blocks).hexdigest()
            digests += f"{name} {digest}\n".encode()
            header = header[:72] + struct.pack("<Q", size)
            out += header + self.sum(header) + chunks

    def manifest(self, data, key, value):
        def edit(name, text):
            if name != "manifest":
                return text
            text = re.sub(rf"^{key} .*$".encode(), f"{key} {value}".encode(), text, flags=re.M)
            text = text[: text.rindex(b"checksum ")]
            return text + f"checksum {self.xxh.XXH3_64bits(text, len(text)):016x}\n".encode()

        return self.forge(data, edit)


def test_a_forged_archive_plants_nothing(sbx, archive, tmp_path):
    """Its layers have the names of genuine ones, and come first: each snapshot has its own disk all the same."""
    data, planted = archive.read_bytes(), 0

    def plant(name, chunk):
        nonlocal planted
        if not name.endswith(".qcow2") or b"on disk\n" not in chunk:
            return chunk
        planted += 1
        return chunk.replace(b"on disk\n", b"planted\n")

    (tmp_path / "forged").write_bytes(Forger().forge(data, plant))
    assert planted
    sbx.ok(f"mkdir snapshots/f snapshots/g && cat {tmp_path}/forged > snapshots/f/archive")
    assert read(sbx / "snapshots/f/fs/root/kept") == "planted\n"
    sbx.ok(f"cat {archive} > snapshots/g/archive")
    for name, text in ("f", "planted\n"), ("g", "on disk\n"):
        Snapshot(sbx / "snapshots" / name).ctl("verify")
        assert read(sbx / "snapshots" / name / "fs/root/kept") == text
    w = Snapshot(sbx / "snapshots/g").fork("w")
    assert w.run("echo 3 > /proc/sys/vm/drop_caches; cat /root/kept") == "on disk\n"


def test_limits_hold_at_import(sbx, archive):
    data, forger = archive.read_bytes(), Forger()
    for key in "memory-max", "cpus-max", "disk-size":
        most = 2**32 - 1 if key == "cpus-max" else 2**64 - 512
        assert import_fails(sbx, forger.manifest(data, key, most)) == errno.ERANGE
    assert import_fails(sbx, forger.manifest(data, "ram-size", 2**36)) == errno.EINVAL


def test_few_are_under_way_at_a_time(sbx, archive):
    """Each has a thread and buffers: who opens it without end, and reads a byte, has sixteen of them."""

    def begin():
        fds.append(os.open(sbx / "snapshots/b/archive", os.O_RDONLY))
        return os.read(fds[-1], 1)

    def begins_again():
        try:
            return os.read(refused, 1)
        except OSError as e:
            assert e.errno == errno.EBUSY
            return b""

    def threads():
        return len(os.listdir(f"/proc/{sbx.process.pid}/task"))

    sbx.ok(f"mkdir snapshots/b snapshots/c && cat {archive} > snapshots/b/archive")
    fds, before = [], threads()
    try:
        for _ in range(16):
            assert begin()
        for _ in range(40):
            with fails(errno.EBUSY, sbx / "snapshots/b/error"):
                begin()
        refused = fds[-1]
        with fails(errno.EBUSY, sbx / "snapshots/c/error"):
            write(sbx / "snapshots/c/archive", b"x")
        assert threads() <= before + 16 + 8  # those, and the ones that all slow work shares
        # When another has gone, whoever was refused may have its place.
        os.close(fds.pop(0))
        eventually(begins_again, 10, "a reader that has gone keeps its place")
    finally:
        for fd in fds:
            os.close(fd)
    eventually(lambda: sbx.ok(f"cat snapshots/b/archive | cmp - {archive} || echo refused") == "", 10, "they remain")


def test_what_writes_wrongly_is_refused(sbx, archive, prepared):
    sbx.ok(f"mkdir snapshots/b && cat {archive} > snapshots/b/archive")
    with fails(errno.EEXIST, sbx / "snapshots/b/error"):
        os.open(sbx / "snapshots/b/archive", os.O_WRONLY)
    with fails(errno.EEXIST, prepared / "error"):
        os.open(prepared / "archive", os.O_WRONLY)
    with fails(errno.EBUSY, prepared / "error"):
        read_bytes(prepared / "archive")


def test_an_import_that_is_given_up(sbx, archive):
    data = archive.read_bytes()
    os.mkdir(sbx / "snapshots/b")
    fd = os.open(sbx / "snapshots/b/archive", os.O_WRONLY)
    write_all(fd, data[: len(data) // 2])
    assert value(sbx / "snapshots/b/status").startswith("importing ")
    with fails(errno.EBUSY):
        os.open(sbx / "snapshots/b/archive", os.O_WRONLY)
    os.rmdir(sbx / "snapshots/b")
    with fails(errno.ENODEV):
        write_all(fd, data[len(data) // 2 :])
    with pytest.raises(OSError):
        os.close(fd)
    assert sbx.named() == [] and sbx.alive


def test_a_killed_writer(sbx, archive):
    """The directory is as empty as before, and takes another."""
    data = archive.read_bytes()
    os.mkdir(sbx / "snapshots/b")
    cat = subprocess.Popen(["sh", "-c", "exec cat > snapshots/b/archive"], cwd=sbx.path, stdin=subprocess.PIPE)
    cat.stdin.write(data[: len(data) // 2])
    cat.stdin.flush()
    poll_until(sbx / "snapshots/b/status", lambda text: text.startswith("importing "), 10)
    cat.kill()
    cat.wait()
    cat.stdin.close()
    poll_until(sbx / "snapshots/b/status", lambda text: text == "empty", 10)
    sbx.ok(f"cat {archive} > snapshots/b/archive")
    assert Snapshot(sbx / "snapshots/b").fork("w").run("cat /run/kept") == "in memory\n"


def test_only_the_writer_ends_it(sbx, archive):
    """A process that inherited the descriptor and exits does not end an import; a shell's redirection is one."""
    sbx.ok(f"mkdir snapshots/b; exec 3> snapshots/b/archive; (true); (exit 0) 3>&3; cat {archive} >&3; (true); exec 3>&-",
           shell="bash")  # fmt: skip
    assert value(sbx / "snapshots/b/status") == "ready"


def test_many_slow_readers_hold_up_nobody(sbx, prepared):
    vm = prepared.fork("v")
    vm.ctl("snapshot a")
    fds = [os.open(sbx / "snapshots/a/archive", os.O_RDONLY) for _ in range(12)]
    assert all(len(os.read(fd, 100)) for fd in fds)
    vm.ctl("resume")
    vm.ctl("snapshot b")  # more readers than there are workers
    Snapshot(sbx / "snapshots/b").fork("w")
    os.rmdir(sbx / "snapshots/a")
    for fd in fds:
        os.close(fd)


def test_since(sbx, prepared, own_mount):
    """What travels to a store that has the base is what differs."""
    vm = prepared.fork("v")
    vm.ctl("snapshot one")
    vm.ctl("resume")
    vm.sh("echo two > /run/two; echo two > /root/two; sync")
    vm.ctl("snapshot two")
    full, since = read_bytes(sbx / "snapshots/two/archive"), read_bytes(sbx / "snapshots/two/archive.since/one")
    assert len(since) < len(full) / 4
    assert sorted(os.listdir(sbx / "snapshots/two/archive.since")) == ["one"]
    with fails(errno.ENOENT):
        os.stat(sbx / "snapshots/two/archive.since/none")

    other = own_mount()
    for name, data in ("one", read_bytes(sbx / "snapshots/one/archive")), ("two", since):
        os.mkdir(other / "snapshots" / name)
        fd = os.open(other / "snapshots" / name / "archive", os.O_WRONLY)
        write_all(fd, data)
        os.close(fd)
    assert os.readlink(other / "snapshots/two/parent") == "../one"
    assert Snapshot(other / "snapshots/two").fork("w").run("cat /run/two /root/two") == "two\ntwo\n"
    os.rmdir(other / "snapshots/two")
    os.rmdir(other / "snapshots/one")
    os.mkdir(other / "snapshots/two")
    fd = os.open(other / "snapshots/two/archive", os.O_WRONLY)
    with fails(errno.EINVAL, other / "snapshots/two/error"):  # its base is not there
        try:
            write_all(fd, since)
        finally:
            os.close(fd)


def test_lineage(sbx, prepared):
    vm = prepared.fork("v")
    for name in "one", "two":
        vm.ctl(f"checkpoint {name}")
    vm.ctl("checkpoint")
    snaps = sbx / "snapshots"
    assert not os.path.lexists(snaps / "one/parent")
    assert os.readlink(snaps / "two/parent") == "../one"
    assert os.listdir(snaps / "one/children") == ["two"] and os.listdir(snaps / "two/children") == []
    assert os.path.samefile(snaps / "one/children/two/parent", snaps / "one")
    assert os.path.samefile(vm / "snapshots/1/parent", snaps / "two")
    os.rename(snaps / "two", snaps / "zwei")
    assert os.listdir(snaps / "one/children") == ["zwei"]
    assert os.path.samefile(vm / "snapshots/1/parent", snaps / "zwei")
    os.rmdir(snaps / "one")
    assert not os.path.lexists(snaps / "zwei/parent") and Snapshot(snaps / "zwei").info["parent"] == "-"
    Snapshot(snaps / "zwei").fork("w")  # what it needs of its parent stayed


def test_status_while_saving(sbx, prepared):
    """The snapshot is in the tree from the beginning, and says how far it is."""
    vm = prepared.fork("v")
    vm.sh("dd if=/dev/urandom of=/run/noise bs=1M count=48 2>&1")
    seen = set()
    thread = threading.Thread(target=vm.ctl, args=["snapshot s"])
    thread.start()
    status = sbx / "snapshots/s/status"
    eventually(status.exists, 10, "a snapshot that is being saved is not in the tree")
    poll_until(status, lambda text: seen.add(text) or text == "ready", 30)
    thread.join()
    assert any(text.startswith("saving ") and text.endswith("%") for text in seen), seen


def test_files_of_snapshots(sbx, prepared):
    """Read-only, without booting it, and two of them can be compared."""
    vm = prepared.fork("v")
    vm.sh("echo kept > /root/kept; ln -s kept /root/link")
    vm.ctl("checkpoint a")
    vm.sh("echo changed > /root/kept; mkdir /root/new")
    vm.ctl("checkpoint b")
    vm.ctl("checkpoint")
    a = sbx / "snapshots/a/fs"
    assert read(a / "root/kept") == "kept\n" and read(a / "root/link") == "kept\n"
    assert read(vm / "snapshots/1/fs/root/kept") == "changed\n"
    below = "/root" if LAB else ""  # each file costs four messages, and there every message milliseconds
    diff = sbx.shell(f"diff -r snapshots/a/fs{below} snapshots/b/fs{below}")
    assert diff.returncode == 1 and diff.stderr == ""
    assert "< kept\n---\n> changed\n" in diff.stdout and "Only in snapshots/b/fs/root: new\n" in diff.stdout
    for attempt in (
        lambda: os.mkdir(a / "root/d"),
        lambda: os.unlink(a / "root/kept"),
        lambda: os.open(a / "root/kept", os.O_WRONLY),
        lambda: os.open(a / "root/new", os.O_WRONLY | os.O_CREAT),
        lambda: os.chmod(a / "root/kept", 0o600),
        lambda: os.utime(a),
        lambda: os.rename(a / "root/kept", a / "root/k"),
    ):
        with fails(errno.EROFS):
            attempt()
    fd = os.open(a / "root/kept", os.O_RDONLY)
    os.rmdir(sbx / "snapshots/a")
    with pytest.raises(OSError):
        os.read(fd, 10)
    os.close(fd)


def test_helpers_end(sbx, prepared):
    """However many snapshots are looked into, there are few helpers; and none where there is no snapshot."""
    vm, n = prepared.fork("v"), 4 if LAB else 20
    for i in range(n):
        vm.ctl(f"checkpoint s{i}")
        assert "root" in os.listdir(sbx / f"snapshots/s{i}/fs")

    def count():
        return len(sbx.helpers("sbx-browse"))

    eventually(lambda: 0 < count() <= 16, 10, "too many helpers")
    for i in range(1, n):
        os.rmdir(sbx / f"snapshots/s{i}")
    fd = os.open(sbx / "snapshots/s0/fs/root/before", os.O_RDONLY)
    eventually(lambda: count() == 1, 10, "a helper lives on")
    os.close(fd)
    eventually(lambda: not count(), 25, "the helper nobody asks lives on")
    assert read(sbx / "snapshots/s0/fs/root/before") == "before\n"


def test_files_of_a_snapshot_after_much_work(vm):
    """A journal with many blocks, which its reader sorts."""
    vm.sh("mkdir /srv/many; cd /srv/many; i=0; while [ $i -lt 200 ]; do mkdir d$i; i=$((i+1)); done")
    vm.ctl("checkpoint")
    assert len(os.listdir(vm / "snapshots/1/fs/srv/many")) == 200
