# SPDX-License-Identifier: MIT
"""Images and disks of snapshots go out again, as archives that others read."""
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

import oci
from harness import limit
from oci import directory, entry
from test_images import CONFIG, LAYERS, needs_root, sbx_image

KINDS = "oci", "docker"


@pytest.fixture
def store(build, tmp_path):
    """A store of its own, and what one does with it."""
    return Store(build, tmp_path / "state", tmp_path)


class Store:
    def __init__(self, build, state, work):
        self.build, self.state, self.work = build, state, work

    def image(self, *args, **kwargs):
        return sbx_image(self.build, self.state, *args, **kwargs)

    def load(self, name, source):
        done = self.image("import", name, source, "--size", "64M")
        assert done.returncode == 0, done.stderr
        return self.disk(name)

    def export(self, name, kind):
        archive = self.work / f"{name.replace('/', '-')}.{kind}"
        done = self.image("export", name, f"{kind}-archive:{archive}")
        assert done.returncode == 0, done.stderr
        return archive

    def disk(self, name):
        return self.state / "layers" / self.record(name)["layer"][0]

    def record(self, name):
        record = {}
        for line in (self.state / "images" / name).read_text().splitlines():
            record.setdefault(line.split(" ")[0], []).append(line.partition(" ")[2])
        return record


def all_of(disk, work):
    """What there is to know of all files, with the first name of its inode in the place of its number."""
    work.mkdir(exist_ok=True)
    names = sorted(oci.names(disk))
    found = oci.describe(disk, [n for n in names if n.isprintable() and "\\" not in n], work)
    firsts = {}
    for name, facts in sorted(found.items()):
        facts["inode"] = firsts.setdefault(facts["inode"], name)
    assert len(found) > len(names) / 2
    return names, found


def unpacked(archive, to):
    """As umoci unpacks the archive: the root of its files."""
    layout = to.with_suffix(".layout")
    layout.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", layout], check=True)
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{layout}:latest", to], check=True, capture_output=True)
    return to


def facts(root):
    found = {}
    for top, dirs, files in os.walk(root):
        for name in [*dirs, *files]:
            path = os.path.join(top, name)
            st = os.lstat(path)
            xattrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
            link = os.readlink(path) if os.path.islink(path) else None
            data = Path(path).read_bytes() if os.path.isfile(path) and not link else None
            links = 0 if os.path.isdir(path) else st.st_nlink
            found[os.path.relpath(path, root)] = (st.st_mode, st.st_uid, st.st_gid, int(st.st_mtime), links, xattrs, link, data)
    return found


@needs_root
def test_a_round_trip(store):
    """An image that was made of layers goes out as one, and others and we find in it what was in those."""
    layout = oci.Layout(store.work / "layout")
    layout.add("latest", LAYERS, config=CONFIG)
    before = all_of(store.load("first", layout.path), store.work / "work")
    for kind in KINDS:
        archive = store.export("first", kind)
        assert all_of(store.load(kind, archive), store.work / "work") == before
        for key in "env", "entrypoint", "cmd", "workdir", "user":
            assert store.record(kind)[key] == store.record("first")[key]
        done = subprocess.run(["skopeo", "inspect", "--config", f"{kind}-archive:{archive}"], capture_output=True, check=True)
        assert json.loads(done.stdout)["config"] == CONFIG
    # every digest of the one is looked at on the way to the other
    copy = ["skopeo", "copy", f"docker-archive:{store.work}/first.docker", f"oci-archive:{store.work}/copy:latest"]
    subprocess.run(copy, check=True, capture_output=True, timeout=limit(60))
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{layout.path}:latest", store.work / "layers"], check=True, capture_output=True)
    theirs = facts(store.work / "layers")
    assert len(theirs) > 30
    for archive in "first.oci", "copy":
        ours = facts(unpacked(store.work / archive, store.work / f"{archive}.files"))
        ours["großes"] = theirs["großes"]  # no layer says what time that directory has
        assert ours == theirs


def test_the_same_files_make_the_same_layer(store):
    """Whatever order they came in, and whenever; and to standard output go the same bytes."""
    entries = [directory("d"), *(entry(f"d/{i}", f"{i}\n") for i in range(50)), entry("hole", b"\0" * (5 << 20) + b"end")]
    digests = set()
    for name, what in ("one", entries), ("two", [entries[0], *reversed(entries[1:])]):
        (store.work / name).write_bytes(oci.tar(what))
        store.load(name, store.work / name)
        with tarfile.open(store.export(name, "docker")) as archive:
            layer = json.load(archive.extractfile("manifest.json"))[0]["Layers"][0]
            assert archive.getmember(layer).size < 1 << 20  # holes stay holes
            assert archive.extractfile(layer).read() and tarfile.open(fileobj=archive.extractfile(layer)).getmember(".").mtime == 0
        digests.add(layer)
    assert len(digests) == 1
    done = store.image("export", "images/two", "docker-archive:-")
    assert done.returncode == 0 and digests.pop().encode() in done.stdout


def test_a_snapshot_goes_out(build, sbx, vm, tmp_path):
    """With what its machine wrote and its journal still held, and what its image said of commands."""
    vm.run("mkdir /made; echo of a snapshot > /made/file; ln /made/file /made/again; touch -d @1000000000 /made; chown 5:6 /made; sync")
    vm.ctl("snapshot going-out")
    store = Store(build, sbx.state, tmp_path)
    try:
        root = unpacked(store.export("going-out", "oci"), tmp_path / "root")
        assert (root / "made/file").read_text() == "of a snapshot\n"
        assert os.stat(root / "made/file").st_nlink == 2 and os.stat(root / "made").st_mtime == 1000000000
        if os.geteuid() == 0:
            assert (os.stat(root / "made").st_uid, os.stat(root / "made").st_gid) == (5, 6)
        assert os.path.exists(root / "bin/busybox") and not os.path.exists(root / "lost+found")
        again = store.export("snapshots/going-out", "docker")
        assert store.image("export", "images/going-out", f"docker-archive:{tmp_path}/no").returncode == 125
        with tarfile.open(again) as archive:
            assert json.load(archive.extractfile("manifest.json"))[0]["RepoTags"] == ["going-out:latest"]
    finally:
        os.rmdir(sbx / "snapshots/going-out")
    done = store.image("export", "going-out", f"oci-archive:{tmp_path}/no")
    assert done.returncode == 125 and b"no image" in done.stderr
    assert not os.path.exists(tmp_path / "no")


def debugfs(disk, *commands):
    for command in commands:
        subprocess.run(["/usr/sbin/debugfs", "-w", "-R", command, disk], check=True, capture_output=True)


HOSTILE = {
    "a directory in itself": (lambda disk: debugfs(disk, "ln /d /d/e/loop"), b"in another place"),
    "no filesystem": (lambda disk: disk.write_bytes(b"\0" * os.path.getsize(disk)), b"no ext4"),
    "a link to nothing": (lambda disk: debugfs(disk, "sif /link size 5000", "sif /link flags 0"), b"./link"),
    "no such inode": (lambda disk: debugfs(disk, "sif /d/e mode 0"), b"./d/e"),
    "a whiteout's name": (lambda disk: debugfs(disk, "ln /file /d/.wh.file"), b"means that something is not there"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_disks(store, what):
    """A guest writes its disk as it likes: nothing comes of what cannot be."""
    spoil, word = HOSTILE[what]
    (store.work / "tar").write_bytes(oci.tar([directory("d"), directory("d/e"), entry("file", "x"), oci.symlink("link", "x" * 80)]))
    spoil(store.load("it", store.work / "tar"))
    done = store.image("export", "it", f"oci-archive:{store.work}/out")
    assert done.returncode == 125 and word in done.stderr and done.stderr.count(b"\n") == 1, done.stderr
    assert not os.path.exists(store.work / "out")


def test_what_cannot_go_out(store):
    """A file that is there stays as it is, and nothing is made of what is no archive's name."""
    (store.work / "tar").write_bytes(oci.tar([entry("file", "x")]))
    store.load("it", store.work / "tar")
    there = store.work / "there"
    there.write_text("mine\n")
    done = store.image("export", "it", f"oci-archive:{there}")
    assert done.returncode == 125 and b"File exists" in done.stderr and there.read_text() == "mine\n"
    done = store.image("export", "it", f"oci-archive:{store.work}/no/such")
    assert done.returncode == 125 and b"No such" in done.stderr
    for target in "tar:x", "oci-archive:", "x":
        done = store.image("export", "it", target)
        assert done.returncode == 2 and b"neither" in done.stderr, done
    for name, word in ("nosuch", b"no image"), ("../it", b"name"), ("snapshots/it", b"no"):
        done = store.image("export", name, f"oci-archive:{store.work}/x")
        assert done.returncode == 125 and word in done.stderr and done.stderr.count(b"\n") == 1, done.stderr
    assert sorted(os.listdir(store.work)) == ["state", "tar", "there"]
