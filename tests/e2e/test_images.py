# SPDX-License-Identifier: MIT
"""Images of what people have: layouts, archives, layers, and what hostile ones are refused with."""
import contextlib
import fcntl
import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import tarfile
import termios

import pytest

import oci
from harness import eventually, limit, read
from oci import directory, entry, hardlink, symlink

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="compares owners with what umoci unpacks as root")

CAP_NET_RAW = "\x01\x00\x00\x02\x00\x20" + "\x00" * 14


def sbx_image(build, state, *args, **kwargs):
    return subprocess.run(
        [build / "sbx", "image", *args, "--state", state],
        **{"capture_output": True, "timeout": limit(60), "check": False, **kwargs},
    )


def fsck(disk):
    done = subprocess.run(["/usr/sbin/e2fsck", "-fn", disk], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def imported(build, state):
    """A function: import a source; the disk that comes of it."""

    def run(source, name="it", **kwargs):
        done = sbx_image(build, state, "import", name, source, "--size", "64M", **kwargs)
        assert done.returncode == 0, done.stderr
        record = (state / "images" / name).read_text()
        disk = state / "layers" / record.split("layer ")[1].split()[0]
        fsck(disk)
        return disk

    return run


def check_nothing_left(state):
    for folder in "images", "layers", "tmp", "sums":
        where = state / folder
        assert not where.exists() or not [n for n in os.listdir(where) if n != ".lock"], folder


LAYERS = [
    [
        directory("./", mode=0o755),
        directory("etc"),
        entry("etc/owned", "owned\n", mode=0o640, uid=1000, gid=70000),
        entry("etc/replaced", "first\n"),
        entry("etc/gone", "gone\n"),
        directory("opaque", mode=0o700),
        entry("opaque/old", "old\n"),
        directory("opaque/dir"),
        entry("opaque/dir/old", "old\n"),
        directory("tree"),
        directory("tree/below"),
        entry("tree/below/file", "x\n"),
        entry("linked", "linked\n"),
        hardlink("etc/linked", "linked"),
        entry("ping", b"\x7fELF" * 4000, mode=0o755, xattrs={"security.capability": CAP_NET_RAW}),
        entry("noted", "n\n", xattrs={"user.note": "hello"}),
        directory("d-noted", xattrs={"user.note": "on a directory"}),
        entry("sparse", b"\0" * 3000000 + b"end"),
        entry("großes/ärger", "utf-8\n"),
        entry("bytes-\udcff", "not utf-8\n"),
        symlink("abs", "/etc/owned"),
        symlink("long", "x/" * 100 + "end"),
        symlink("lib", "usr/lib"),
        directory("usr"),
        directory("usr/lib"),
        entry("setuid", "s\n", mode=0o4755),
        directory("sticky", mode=0o1777),
        entry("fifo", kind=tarfile.FIFOTYPE, mode=0o600),
        entry("becomes-dir", "file\n"),
        directory("becomes-file"),
        entry("becomes-file/x", "x\n"),
        entry("n" * 255, "long name\n"),
    ],
    [
        entry("etc/replaced", "second\n", mode=0o600),
        entry("etc/.wh.gone"),
        entry("opaque/new", "new\n"),
        entry("opaque/.wh..wh..opq"),
        directory("opaque/dir"),
        entry("opaque/dir/new", "new\n"),
        entry(".wh.tree"),
        # another name for what a layer below brought, which then changes under its old one
        hardlink("across", "linked"),
        entry("linked", "changed\n"),
        entry("lib/through-a-link", "in usr/lib\n"),
        directory("becomes-dir", mode=0o750),
        entry("becomes-dir/x", "x\n"),
        entry("becomes-file", "file\n"),
        directory("d-noted", mode=0o711),
    ],
    [
        directory("tree"),
        entry("tree/again", "again\n"),
        entry("becomes-dir/.wh.x"),
    ],
]


@needs_root
def test_layers_are_as_umoci_unpacks_them(imported, tmp_path):
    layout = oci.Layout(tmp_path / "oci")
    layout.add("it", LAYERS)
    disk = imported(f"{layout.path}:it")
    bundle = tmp_path / "bundle"
    subprocess.run(["umoci", "unpack", "--image", f"{layout.path}:it", bundle], check=True, capture_output=True)
    root = bundle / "rootfs"
    paths = sorted(os.path.relpath(os.path.join(top, n), root) for top, dirs, files in os.walk(root) for n in dirs + files)
    shown = [p for p in paths if p.isprintable() and "\udcff" not in p]
    work = tmp_path / "work"
    work.mkdir()
    found = oci.describe(disk, shown, work)
    assert sorted(found) == shown
    inodes = {}
    for path, facts in found.items():
        st = os.lstat(root / path)
        theirs = {
            "mode": st.st_mode & 0o7777,
            "owner": (st.st_uid, st.st_gid),
            "xattrs": {n for n in os.listxattr(root / path, follow_symlinks=False)},
        }
        ours = {"mode": facts["mode"], "owner": facts["owner"], "xattrs": set(facts["xattrs"])}
        assert ours == theirs, path
        if not stat.S_ISDIR(st.st_mode):
            assert facts["links"] == st.st_nlink, path
            assert inodes.setdefault(st.st_ino, facts["inode"]) == facts["inode"], path
        if stat.S_ISREG(st.st_mode):
            assert facts["data"] == (root / path).read_bytes(), path
            assert facts["mtime"][0] == int(st.st_mtime), path
        elif stat.S_ISLNK(st.st_mode):
            assert facts["data"] == os.readlink(root / path)
    assert found["noted"]["xattrs"]["user.note"] == '"hello"'
    assert found["ping"]["xattrs"]["security.capability"].startswith("01 00 00 02 00 20 00")
    assert found["etc/owned"]["mtime"] == (1700000000, 250000000 << 2)
    # names that are no UTF-8 are there, too
    assert sum(1 for _ in oci.names(disk)) == len(paths)


@pytest.mark.parametrize("kind", ["layout.tar", "layout.tar.gz", "docker", "docker.gz", "docker links", "stdin", "zstd"])
def test_every_container(imported, tmp_path, kind):
    """The same image in whatever it comes in."""
    layers = [[entry("a", "first\n"), entry("b", "b\n")], [entry("a", "second\n"), entry(".wh.b")]]
    source, more = tmp_path / "source", {}
    if kind == "docker" or kind == "docker.gz":
        oci.docker_archive(source, layers, how="gzip" if kind == "docker.gz" else "")
    elif kind == "docker links":
        oci.docker_archive(source, layers)
        with tarfile.open(source) as old, tarfile.open(tmp_path / "links", "w") as new:
            for member in old:
                if member.name.endswith("layer.tar"):
                    data, old_name = old.extractfile(member), member.name
                    member.name = f"store/{old_name}"
                    new.addfile(member, data)
                    new.addfile(*oci.symlink(old_name, f"../store/{old_name}"))
                else:
                    new.addfile(member, old.extractfile(member))
        source = tmp_path / "links"
    else:
        layout = oci.Layout(tmp_path / "oci")
        layout.add("one", layers, how="zstd" if kind == "zstd" else "gzip")
        layout.archive(source)
        if kind == "zstd":
            source = layout.path
        elif kind == "layout.tar.gz":
            source.write_bytes(oci.packed(source.read_bytes(), "gzip"))
        elif kind == "stdin":
            more["input"] = source.read_bytes()
            source = "-"
    disk = imported(source, **more)
    (tmp_path / "work").mkdir()
    assert list(oci.names(disk)) == ["a"]
    assert oci.describe(disk, ["a"], tmp_path / "work")["a"]["data"] == b"second\n"


def test_one_of_several_images(build, state, imported, tmp_path):
    layout = oci.Layout(tmp_path / "oci")
    for tag in "one", "two":
        layout.add(tag, [[entry(f"is-{tag}", "")]])
    other = layout.add("arm", [[entry("is-arm", "")]])
    other["platform"] = {"architecture": "arm64", "os": "linux"}
    layout.write_index()
    assert list(oci.names(imported(f"{layout.path}:two", name="a"))) == ["is-two"]
    assert list(oci.names(imported(f"{layout.archive(tmp_path / 'tar')}:one", name="b"))) == ["is-one"]
    for source, word in (layout.path, b"one two"), (f"{layout.path}:three", b"three"), (f"{layout.path}:arm", b"amd64"):
        done = sbx_image(build, state, "import", "c", source)
        assert done.returncode == 125 and word in done.stderr, done.stderr
    assert sorted(n for n in os.listdir(state / "images") if n != ".lock") == ["a", "b"]


def test_a_tar_is_not_taken_for_a_container(imported, tmp_path):
    """Whiteouts mean something in layers alone, and names of containers only where there is one."""
    source = tmp_path / "tar"
    source.write_bytes(oci.tar([directory("blobs"), entry("blobs/.wh.x", "x"), entry("manifest", "m")]))
    assert sorted(oci.names(imported(source))) == ["blobs", "blobs/.wh.x", "manifest"]
    with open(source, "rb") as pipe:
        cat = subprocess.Popen(["cat"], stdin=pipe, stdout=subprocess.PIPE)
        assert sorted(oci.names(imported("-", name="two", stdin=cat.stdout))) == ["blobs", "blobs/.wh.x", "manifest"]
        assert cat.wait() == 0


# ---- what is refused


def bad_layer(layout, *entries):
    layout.add("bad", [list(entries)])


def change_blob(layout, number):
    manifest = json.loads((layout.path / "blobs/sha256" / layout.manifests[0]["digest"][7:]).read_text())
    ref = [manifest["config"], *manifest["layers"]][number]
    path = layout.path / "blobs/sha256" / ref["digest"][7:]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def wrong_layer(layout):
    layout.add("bad", [[entry("a", "a")]])
    change_blob(layout, 1)


def wrong_config(layout):
    layout.add("bad", [[entry("a", "a")]])
    change_blob(layout, 0)


def wrong_diff(layout):
    layout.add("bad", [[entry("a", "a")]], diffs=[oci.digest(b"something else")])


def fewer_diffs(layout):
    layout.add("bad", [[entry("a", "a")], [entry("b", "b")]], diffs=[oci.digest(b"one")])


def missing_layer(layout):
    layout.add("bad", [[entry("a", "a")]])
    manifest = json.loads((layout.path / "blobs/sha256" / layout.manifests[0]["digest"][7:]).read_text())
    os.unlink(layout.path / "blobs/sha256" / manifest["layers"][0]["digest"][7:])


def endless_indexes(layout):
    """A SHA-256 has no cycles; many steps there are."""
    ref = layout.add("bad", [[entry("a", "a")]])
    for _ in range(8):
        ref = layout.json({"schemaVersion": 2, "manifests": [ref]}, "index")
    layout.manifests = [ref]
    layout.write_index()


def cycle(layout):
    layout.manifests = [{"mediaType": "application/vnd.oci.image.index.v1+json", "digest": "sha256:" + "0" * 64, "size": 1}]
    layout.write_index()
    shutil.copy(layout.path / "index.json", layout.path / "blobs/sha256" / ("0" * 64))


def digest_with_a_path(layout):
    layout.add("bad", [[entry("a", "a")]])
    layout.manifests[0]["digest"] = "sha256:../../oci-layout"
    layout.write_index()


def blob_is_a_link(layout):
    layout.add("bad", [[entry("a", "a")]])
    path = layout.path / "blobs/sha256" / layout.manifests[0]["digest"][7:]
    path.rename(layout.path / "elsewhere")
    path.symlink_to(layout.path / "elsewhere")


def deep_json(layout):
    (layout.path / "index.json").write_text('{"manifests":' + "[" * 100000)


def huge_index(layout):
    with open(layout.path / "index.json", "ab") as index:
        index.truncate(100 << 20)


def bomb(layout):
    """Hundreds of megabytes of nothing, again and again under one name, which never fills the disk."""
    many = [entry("zero", b"\0" * (8 << 20))] * 17
    layout.add("bad", [many])


def too_deep(layout):
    bad_layer(layout, entry("d/" * 1500 + "x", "x"))


BAD = {
    "up": (lambda l: bad_layer(l, entry("../../evil", "evil")), b".."),
    "up in the middle": (lambda l: bad_layer(l, entry("a/../../evil", "evil")), b".."),
    "hard link out": (lambda l: bad_layer(l, hardlink("evil", "../../../../etc/passwd")), b".."),
    "hard link to what is not there": (lambda l: bad_layer(l, hardlink("evil", "/etc/passwd")), b"not a file"),
    "device": (lambda l: bad_layer(l, entry("sda", kind=tarfile.BLKTYPE, device=(8, 0))), b"device"),
    "whiteout of ..": (lambda l: bad_layer(l, entry("a/x"), entry("a/.wh...")), b"no name"),
    "links in a circle": (lambda l: bad_layer(l, symlink("a", "b"), symlink("b", "a"), entry("a/x", "x")), b"too many links"),
    "through a file": (lambda l: bad_layer(l, entry("a", "a"), entry("a/x", "x")), b"not a directory"),
    "too deep": (too_deep, b"deep"),
    "cut off": (lambda l: l.add("bad", [oci.tar([entry("a", "a" * 5000)])[:3000]]), b"runcated"),
    "no tar": (lambda l: l.add("bad", [b"this is no tar at all" * 100]), b"layer 1"),
    "wrong layer": (wrong_layer, b"digest"),
    "wrong config": (wrong_config, b"digest"),
    "wrong diff_id": (wrong_diff, b"digest"),
    "fewer diff_ids": (fewer_diffs, b"lists 1"),
    "missing layer": (missing_layer, b"No such file"),
    "indexes without end": (endless_indexes, b"no end"),
    "cycle": (cycle, b"size"),
    "digest with a path": (digest_with_a_path, b"SHA-256"),
    "blob is a link": (blob_is_a_link, b"symbolic links"),
    "deep JSON": (deep_json, b"JSON"),
    "huge index": (huge_index, b"more than"),
    "bomb": (bomb, b"far more"),
    "does not fit": (lambda l: bad_layer(l, entry("big", os.urandom(20 << 20))), b"--size"),
}


@pytest.mark.parametrize("kind", BAD)
def test_hostile_layouts(build, state, tmp_path, kind):
    make, word = BAD[kind]
    layout = oci.Layout(tmp_path / "oci")
    make(layout)
    done = sbx_image(build, state, "import", "bad", layout.path, "--size", "16M")
    assert done.returncode == 125 and word in done.stderr, done.stderr
    assert done.stderr.count(b"\n") == 1
    check_nothing_left(state)


def test_absolute_links_stay_inside(imported, tmp_path):
    """A link is content, and what a later entry does through it happens in the image, as in a container."""
    target = tmp_path / "target"
    target.mkdir()
    layout = oci.Layout(tmp_path / "oci")
    layout.add("it", [[symlink("out", str(target))], [entry("out/evil", "evil")]])
    disk = imported(layout.path)
    assert not os.listdir(target)
    assert f"{str(target)[1:]}/evil" in list(oci.names(disk))


def test_the_reader_is_confined(build, state, tmp_path):
    """An import that is interrupted in the middle leaves nothing, and its reader can open no file."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    sbx = subprocess.Popen([build / "sbx", "image", "import", "it", fifo, "--state", state])
    with open(fifo, "wb") as pipe:
        pipe.write(oci.tar([entry("a", b"a" * 200000)])[:150000])
        pipe.flush()
        children = (f"/proc/{sbx.pid}/task/{sbx.pid}/children",)
        reader = None
        for _ in range(200):
            pids = read(children[0]).split()
            status = read(f"/proc/{pids[0]}/status") if pids else ""
            if "Seccomp:\t2" in status:
                reader = pids[0]
                break
            subprocess.run(["sleep", "0.02"], check=True)
        assert reader, "no confined child"
        assert "NoNewPrivs:\t1" in status and "CapEff:\t0000000000000000" in status or os.geteuid()
        sbx.kill()
        sbx.wait()
    check_nothing_left(state)


# ---- what an image says of commands


CONFIG = {
    "Env": ["PATH=/opt/bin:/bin", "GREETING=two words", "LINES=a\nb\\c", "LONG=" + "long " * 4000],
    "WorkingDir": "/srv/app",
    "User": "app:staff",
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": ['echo "$GREETING from $(pwd) as $(id -u):$(id -g)"'],
}


@pytest.fixture
def app(build, sbx, tmp_path):
    """The image `app` in the shared store: busybox, a user, a working directory."""
    with open("/bin/busybox", "rb") as f:
        busybox = f.read()
    layout = oci.Layout(tmp_path / "app")
    base = [directory("bin"), entry("bin/busybox", busybox, mode=0o755)]
    base += [symlink(f"bin/{n}", "busybox") for n in ("sh", "id", "env", "pwd", "cat", "sleep", "kill", "ls", "stty", "tty")]
    base += [entry("etc/passwd", "app:x:1234:1234::/home/app:/bin/sh\n"), entry("etc/group", "staff:x:50:\n")]
    layout.add("app", [base, [directory("srv/app", uid=1234)]], config=CONFIG)
    done = sbx_image(build, sbx.state, "import", "app", layout.path, "--size", "64M")
    assert done.returncode == 0, done.stderr
    yield "app"
    sbx_image(build, sbx.state, "rm", "app")


def test_config(sbx, app, cli):
    """It is shown, and holds for run, jobs and sbx exec, in the machine, its forks, and after a stop."""
    assert read(sbx / "images/app/config").splitlines() == [
        "env PATH=/opt/bin:/bin",
        "env GREETING=two words",
        "env LINES=a\\nb\\\\c",
        "env LONG=" + "long " * 4000,
        "entrypoint /bin/sh",
        "entrypoint -c",
        'cmd echo "$GREETING from $(pwd) as $(id -u):$(id -g)"',
        "workdir /srv/app",
        "user app:staff",
    ]
    vm = sbx.create("vm", image=app)
    line = "echo $PATH; echo $GREETING; echo \"$LINES\"; pwd; id -u; id -g; echo $HOME; echo ${#LONG}"
    said = "/opt/bin:/bin:/run/sbx/bin\ntwo words\na\nb\\c\n/srv/app\n1234\n50\n/home/app\n20000\n"
    assert vm.run(line) == said
    fork = vm.fork("w")
    assert fork.run(line) == said
    assert cli("exec", "w", "sh", "-c", line).stdout.decode() == said
    # what is said wins
    done = cli("exec", "-u", "root", "-C", "/", "-e", "GREETING=other", "w", "sh", "-c", "id -u; pwd; echo $GREETING")
    assert done.stdout == b"0\n/\nother\n"
    fork.ctl("stop")
    fork.ctl("start")
    assert fork.run(line) == said
    fork.remove()
    vm.remove()


@pytest.mark.parametrize("size", [2000, 2050, 4200, 32000])
def test_a_config_of_any_length(imported, tmp_path, size):
    """It is on the disk, which stays sound; one that is too long is said to be."""
    layout = oci.Layout(tmp_path / "oci")
    layout.add("it", [[entry("a", "a")]], config={"Env": ["A=" + "x" * size]})
    assert f"trusted.sbx.config ({size + 7})" in oci.debugfs(imported(layout.path), ["ea_list /"])


def test_a_config_that_is_too_long(build, state, tmp_path):
    layout = oci.Layout(tmp_path / "oci")
    layout.add("it", [[entry("a", "a")]], config={"Env": ["A=" + "x" * 33000]})
    done = sbx_image(build, state, "import", "it", layout.path, "--size", "16M")
    assert done.returncode == 125 and b"more than 32768 bytes" in done.stderr
    check_nothing_left(state)


# ---- pull, and sbx run


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Debian's docker-registry on loopback: HOST:PORT."""
    work = tmp_path_factory.mktemp("registry")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = work / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {work}/data}}}}\n"
        f"http: {{addr: 127.0.0.1:{port}}}\n"
    )
    with open(work / "log", "w") as log:
        process = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)

    def answers():
        assert process.poll() is None, (work / "log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    eventually(answers, limit(10), "the registry does not answer")
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


def busybox_layers(*more):
    with open("/bin/busybox", "rb") as f:
        busybox = f.read()
    applets = "sh", "cat", "echo", "env", "id", "kill", "ls", "pwd", "sleep", "stty", "test", "tty", "trap", "tar"
    base = [directory("bin"), entry("bin/busybox", busybox, mode=0o755)]
    return [base + [symlink(f"bin/{n}", "busybox") for n in applets], *more]


@pytest.mark.long
def test_push_pull_run(build, sbx, cli, registry, tmp_path):
    """An image that skopeo pushed to a registry is pulled, runs, and leaves nothing."""
    layout = oci.Layout(tmp_path / "oci")
    layout.add("it", busybox_layers([entry("etc/hello", "from a layer\n")]), config={"Cmd": ["cat", "/etc/hello"]})
    reference = f"{registry}/test/it:1"
    push = ["skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout.path}:it", f"docker://{reference}"]
    subprocess.run(push, check=True, capture_output=True, timeout=limit(60))
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    os.mkdir(tmp_path / "tmp")
    done = sbx_image(build, sbx.state, "pull", "pulled", reference, "--insecure", "--size", "64M", env=env)
    assert done.returncode == 0, done.stderr
    try:
        assert f"source pull {reference}" in read(sbx / "images/pulled/info")
        before = sbx.sandboxes()
        done = cli("run", "--memory", "128M", "pulled")  # its own command
        assert (done.returncode, done.stdout) == (0, b"from a layer\n"), done.stderr
        files = tmp_path / "files"
        files.mkdir()
        (files / "in").write_text("copied\n")
        script = 'cat in; echo "$A"; pwd; echo out >&2; exit 7'
        args = "--rm", "-v", f"{files}:/data/dir", "-v", f"{files}/in:/one", "-C", "/data/dir", "-e", "A=b c", "--net", "none"
        done = cli("run", *args, "--memory", "128M", "pulled", "sh", "-c", script)
        assert (done.returncode, done.stdout, done.stderr) == (7, b"copied\nb c\n/data/dir\n", b"out\n")
        assert (files / "in").read_text() == "copied\n"
        done = cli("run", "--memory", "128M", "pulled", "echo", *["a"] * 5000)  # more words than an image has
        assert (done.returncode, done.stdout) == (0, b"a " * 4999 + b"a\n"), done.stderr
        for args, word in (("nosuch",), b"no image"), (("-v", "/x", "pulled"), b"HOST:GUEST"):
            done = cli("run", "--memory", "128M", *args)
            assert done.returncode == 125 and word in done.stderr, done.stderr
        assert sbx.sandboxes() == before
    finally:
        sbx_image(build, sbx.state, "rm", "pulled")
    done = sbx_image(build, sbx.state, "pull", "nothing", f"{registry}/no/such:1", "--insecure", env=env)
    assert done.returncode == 125 and b"did not bring" in done.stderr
    assert not os.listdir(tmp_path / "tmp")
    assert os.listdir(sbx / "images") == ["base"]


def test_run_passes_signals_on(build, sbx, tmp_path):
    """A signal reaches the command, its status comes back, and the sandbox goes."""
    env = dict(os.environ, SBX_MOUNT=str(sbx.path))
    script = 'trap "echo got it; exit 3" TERM; echo ready; while :; do sleep 0.1; done'
    run = subprocess.Popen(
        [build / "sbx", "run", "--name", "signals", "base", "sh", "-c", script], env=env, stdout=subprocess.PIPE
    )
    assert run.stdout.readline() == b"ready\n"
    assert "signals" in sbx.sandboxes()
    run.terminate()
    assert run.stdout.read() == b"got it\n"
    assert run.wait(limit(30)) == 3
    assert "signals" not in sbx.sandboxes()


@pytest.mark.long
def test_run_on_a_terminal(build, sbx):
    """The command has a terminal of this size and kind; its keys are signals there, and its status comes back."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 97, 0, 0))
    script = "trap 'echo key; exit 4' INT; tty; stty size; echo $TERM; while :; do sleep 0.1; done"
    env = dict(os.environ, SBX_MOUNT=str(sbx.path), TERM="vt220")
    argv = [build / "sbx", "run", "--name", "terminal", "--memory", "128M", "base", "sh", "-c", script]
    run = subprocess.Popen(argv, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    with open(ours, "r+b", buffering=0) as terminal:
        said = b""
        while b"vt220\r\n" not in said:
            said += terminal.read(1000)
        assert said == b"/dev/pts/0\r\n31 97\r\nvt220\r\n"
        terminal.write(b"\x03")
        said = b""
        with contextlib.suppress(OSError):  # how a terminal without programs ends
            while more := terminal.read(1000):
                said += more
    assert b"key\r\n" in said and run.wait(limit(30)) == 4
    assert "terminal" not in sbx.sandboxes()


# ---- images that lack what others have


@pytest.fixture
def import_shared(build, sbx, tmp_path):
    """A function: an image of one layer in the shared store, which goes at the end."""
    made = []

    def make(name, entries):
        (tmp_path / f"{name}.tar").write_bytes(oci.tar(entries))
        done = sbx_image(build, sbx.state, "import", name, tmp_path / f"{name}.tar", "--size", "32M")
        assert done.returncode == 0, done.stderr
        made.append(name)
        return name

    yield make
    for name in made:
        sbx_image(build, sbx.state, "rm", name)


def test_an_image_of_one_program(sbx, cli, import_shared):
    """No shell, no /dev, no /etc, nothing but a static program: it boots, runs that, forks, and says what is missing."""
    with open("/bin/busybox", "rb") as f:
        vm = sbx.create("vm", image=import_shared("one", [entry("busybox", f.read(), mode=0o755)]))
    assert cli("exec", "vm", "/busybox", "echo", "hello").stdout == b"hello\n"
    assert cli("exec", "vm", "/busybox", "cat", "/run/sbx/name").stdout == b"vm\n"
    job = vm.job("echo hello")
    assert job.wait().startswith("failed") and "/bin/sh" in job.status
    done = cli("exec", "vm", "sh")
    assert done.returncode == 127 and b"sh" in done.stderr
    fork = vm.fork("w")
    (fork.path / "fs/made").write_text("here\n")
    assert cli("exec", "w", "/busybox", "cat", "/made").stdout == b"here\n"
    assert cli("exec", "w", "/busybox", "hostname").stdout == b"w\n"
    fork.remove()
    vm.remove()


def test_an_image_with_other_things_where_mounts_go(sbx, import_shared):
    """Files and links in the place of /dev, /proc, /sys and /run; a /usr that nobody may write; no /etc/hosts."""
    with open("/bin/busybox", "rb") as f:
        busybox = f.read()
    entries = [directory("usr", mode=0o555), directory("usr/bin", mode=0o555), symlink("bin", "usr/bin"), directory("etc")]
    entries += [entry("usr/bin/busybox", busybox, mode=0o755)]
    entries += [symlink(f"usr/bin/{n}", "busybox") for n in ("sh", "cat", "ls", "mount")]
    entries += [symlink("dev", "/etc"), entry("proc", "a file\n"), symlink("sys", "nowhere"), entry("run", "a file\n")]
    vm = sbx.create("vm", image=import_shared("odd", entries))
    assert vm.run("cat /run/sbx/name; cat /etc/hosts; ls -d /dev/null /proc/self /sys/class") == (
        "vm\n127.0.0.1\tlocalhost\n::1\tlocalhost\n/dev/null\n/proc/self\n/sys/class\n"
    )
    vm.remove()
