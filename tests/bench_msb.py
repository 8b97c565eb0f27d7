#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""bench_msb: the peer microsandbox, timed by its command line; run alone, it fetches the peer into build/msb

Its guest is one with busybox alone, 1 CPU and 256 MiB, without a network. Each row is from the start of the command `msb`
until it ends, and `msb --version` is what is in it for starting that program:

    create            an image that is in its cache, until the guest answers
    branch            a running sandbox: capture and child
    snapshot --full   a running sandbox to files
    restore --forked  from those files, memory mapped copy-on-write
    exec              a command in the newest child, `echo answer`
"""
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
PACKAGE = "@superradcompany/microsandbox-linux-x64-gnu@0.7.2"
PLACE = TOP / "build/msb"
PROGRAM = PLACE / "package/bin/msb"


def fetch():
    if PROGRAM.exists():
        return
    PLACE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PLACE) as work:
        done = subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=work, stdout=subprocess.PIPE, text=True, check=True)
        subprocess.run(["tar", "xzf", f"{work}/{done.stdout.strip()}", "-C", PLACE], check=True)


def add(tar, name, data=b"", **kind):
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o755
    for key, setting in kind.items():
        setattr(info, key, setting)
    tar.addfile(info, io.BytesIO(data))


def root_layer():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in "bin", "etc", "root", "tmp", "proc", "sys", "dev", "run":
            add(tar, name, type=tarfile.DIRTYPE)
        add(tar, "bin/busybox", Path("/bin/busybox").read_bytes())
        applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
        for name in set(applets) - {"busybox"}:
            add(tar, f"bin/{name}", type=tarfile.SYMTYPE, linkname="/bin/busybox")
        add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    return out.getvalue()


def write_image(path):
    """An archive as `docker save` makes it."""
    layer = root_layer()
    digest = hashlib.sha256(layer).hexdigest()
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}
    config["config"] = {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]}
    manifest = [{"Config": "config.json", "RepoTags": ["bench:latest"], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        add(tar, "layer.tar", layer)
        add(tar, "config.json", json.dumps(config).encode())
        add(tar, "manifest.json", json.dumps(manifest).encode())


class Peer:
    def __init__(self, work):
        self.env = dict(os.environ, HOME=f"{work}/home", TMPDIR=f"{work}/tmp", NO_COLOR="1")
        for name in "home", "tmp":
            os.mkdir(f"{work}/{name}")
        self.names = []

    def msb(self, *args):
        done = subprocess.run([PROGRAM, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=self.env, check=False)
        if done.returncode:
            raise RuntimeError(f"msb {' '.join(args)}: {done.stderr[-500:]}")
        return done.stdout

    def child(self, name, *args):
        self.names.append(name)
        return self.msb(*args)

    def answers(self, name):
        assert self.msb("exec", "--no-tty", name, "--", "echo", "answer").strip() == "answer"

    def end(self):
        for name in self.names:
            with contextlib.suppress(RuntimeError):
                self.msb("remove", "--force", "--quiet", name)


def run(samples, n, parent):
    """Adds rows to the table, if the program is there."""
    if not PROGRAM.exists():
        print(f"bench: no peer microsandbox in {PLACE.relative_to(TOP)} (tests/bench_msb.py fetches it)", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory(dir=parent) as work:
        peer = Peer(work)
        write_image(f"{work}/image.tar")
        inherit = "--dangerously-inherit-resources"  # without, it refuses to let a child have what the source has
        try:
            peer.msb("load", "-q", "-i", f"{work}/image.tar", "-t", "bench")
            create = ["create", "-q", "bench", "-n", "origin", "-c", "1", "-m", "256M", "--no-net"]
            samples.time("msb create", peer.child, "origin", *create)
            peer.answers("origin")
            for i in range(n):
                samples.time("msb --version", peer.msb, "--version")
                samples.time("msb branch", peer.child, f"b{i}", "branch", "-q", "origin", "-n", f"b{i}", inherit)
                samples.time("msb exec", peer.answers, f"b{i}")
                peer.msb("remove", "--force", "-q", f"b{i}")
            samples.time("msb snapshot --full", peer.msb, "snapshot", "create", "-q", "--full", "--from-sandbox", "origin", "s")
            for i in range(n):
                restore = ["restore", "-q", "--forked", "-n", f"r{i}", inherit, "origin:s"]
                samples.time("msb restore --forked", peer.child, f"r{i}", *restore)
                peer.answers(f"r{i}")
                peer.msb("remove", "--force", "-q", f"r{i}")
        except (RuntimeError, AssertionError) as error:
            print(f"bench: the peer microsandbox fails: {error}", file=sys.stderr)
        finally:
            peer.end()


if __name__ == "__main__":
    try:
        fetch()
    except (OSError, subprocess.CalledProcessError) as e:
        sys.exit(f"bench: the peer microsandbox cannot be had: {e}")
