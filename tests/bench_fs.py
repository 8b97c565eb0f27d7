#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench_fs.py: what programs do with files, on a sandbox's fs/, on sshfs over loopback and on bindfs, in one run

The three do each thing in turns, and the middle time counts. sshfs remembers attributes for 20 seconds and bindfs for
one, so they are mounted anew for each time: what counts is the first look. Behind fs/ is a guest, which a host without
hardware virtualization emulates; sshfs and bindfs show a directory of this host. So there is a fourth column: a
program in the guest does the same on the guest's own files, which is what the machine behind it can do at all.

    tests/bench_fs.py [--build DIR] [--engine NAME] [--rounds N] [--files N] [--only WORD] [--output JSON]
"""
import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests/e2e"))
from harness import Mount, eventually  # noqa: E402

PORT = 2299
MIB = 1 << 20
TREE_DIRS, TREE_FILES = 40, 20
PEERS = ["sshfs", "bindfs"]

# name, what has to be done before, what is timed; in a shell whose directory is one of the filesystem's; $W is one of
# this host (and /run in the guest)
THINGS = [
    ("ls -l of {files}", "", "ls -l many > $W/out"),
    ("ls -lR of the tree", "", "ls -lR tree > $W/out"),
    ("find -size", "", "find tree -size +4k > $W/out"),
    ("git status", "", "git -C repo status --porcelain > $W/out"),
    ("tar out", "", "tar cf - tree | cat > $W/out"),
    ("tar in", "", "mkdir in && tar xf $W/tree.tar -C in"),
    ("rm -r", "", "rm -r in"),
    ("cp -r of the tree, in", "rm -rf copy", "cp -r $W/tree copy"),
    ("cp -r of the tree, out", "rm -rf $W/back", "cp -r tree $W/back"),
    ("dd bs=4k write, 16 MiB", "rm -f f", "dd if=/dev/zero of=f bs=4k count=4096 status=none"),
    ("dd bs=4k read, 16 MiB", "", "dd if=big of=/dev/null bs=4k count=4096 status=none"),
    ("dd bs=1M write, 64 MiB", "rm -f f", "dd if=/dev/zero of=f bs=1M count=64 status=none"),
    ("dd bs=1M read, 64 MiB", "", "dd if=big of=/dev/null bs=1M count=64 status=none"),
]


def sh(script, top, work, env=None):
    subprocess.run(["sh", "-ec", script], check=True, timeout=600, cwd=top, env={**os.environ, "W": str(work)} | (env or {}))


# ---- what there is to look at


def make_tree(top):
    """800 files of up to 9 KiB in 40 directories."""
    for i in range(TREE_DIRS):
        (top / f"d{i}").mkdir(parents=True)
        for j in range(TREE_FILES):
            (top / f"d{i}/f{j}").write_bytes(os.urandom((i * j * 7) % 9000))


def make_parts(work):
    make_tree(work / "tree")
    sh("tar cf tree.tar -C tree . && cp -r tree repo && cd repo && git init -q && git add . && "
       "git -c user.name=n -c user.email=n@localhost commit -qm all && git gc -q", work, work)  # fmt: skip
    sh("tar cf parts.tar tree repo", work, work)


def many(files):
    """A directory of empty files, made where it is; busybox has these commands, too."""
    return f"mkdir many && cd many && seq {files} | xargs touch"


def fill_here(top, work, files):
    sh(f"tar xf $W/parts.tar && head -c {64 * MIB} /dev/zero > big && {many(files)}", top, work)


def fill_guest(vm, build, work, files):
    argv = [build / "sbx", "exec", vm.path, "sh", "-ec"]
    with open(work / "parts.tar") as parts:
        subprocess.run([*argv, "mkdir /root/bench; tar x -C /root/bench"], stdin=parts, check=True, timeout=120)
    vm.sh(f"cd /root/bench && head -c {64 * MIB} /dev/zero > big && {many(files)}; tar cf /run/tree.tar -C /root/bench/tree .")


# ---- the three filesystems: a function mounts it anew, if that is of use, and says where


@contextlib.contextmanager
def sshd(work):
    keys = work / "keys"
    keys.mkdir()
    for name in "host", "user":
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
    shutil.copy(keys / "user.pub", keys / "authorized")
    Path("/run/sshd").mkdir(exist_ok=True)
    settings = {"ListenAddress": f"127.0.0.1:{PORT}", "HostKey": keys / "host", "PidFile": "none", "StrictModes": "no"}
    settings |= {"AuthorizedKeysFile": keys / "authorized", "Subsystem": "sftp internal-sftp", "UsePAM": "no"}
    (keys / "config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    daemon = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", keys / "config"], stderr=subprocess.DEVNULL)
    try:
        probe = ["ssh-keyscan", "-p", str(PORT), "127.0.0.1"]
        eventually(lambda: not subprocess.run(probe, capture_output=True, check=False).returncode, 10, "no sshd")
        yield keys / "user"
    finally:
        daemon.kill()
        daemon.wait()


@contextlib.contextmanager
def peer(work, name, argv, files):
    """A function that mounts it anew."""
    mount, top = work / name, work / f"{name}-files"
    mount.mkdir()
    top.mkdir()
    fill_here(top, work, files)

    def anew():
        if os.path.ismount(mount):
            subprocess.run(["fusermount3", "-u", mount], check=True)
        subprocess.run([arg.format(top=top, mount=mount) for arg in argv], check=True)
        return mount

    try:
        yield anew
    finally:
        subprocess.run(["fusermount3", "-uz", mount], capture_output=True, check=False)


@contextlib.contextmanager
def sbxfs(work, options):
    state = work / "state"
    argv = [options.build / "sbx", "image", "build", "base", "--state", state]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    mount = Mount(options.build, options.build / "guest", options.engine, work / "ours", state, options.daemon).start()
    try:
        vm = mount.create("vm", memory="512M")
        fill_guest(vm, options.build, work, options.files)
        yield vm
        os.rmdir(vm.path)
    finally:
        mount.stop()


@contextlib.contextmanager
def places(work, options):
    key = f"{work}/keys/user"
    ssh = f"port={PORT},IdentityFile={key},StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,LogLevel=ERROR"
    with contextlib.ExitStack() as stack:
        vm = stack.enter_context(sbxfs(work, options))
        ret = {"sbxfs": lambda: vm / "fs/root/bench"}
        if not options.alone:
            stack.enter_context(sshd(work))
            argv = ["sshfs", "-o", ssh, "127.0.0.1:{top}", "{mount}"]
            ret["sshfs"] = stack.enter_context(peer(work, "sshfs", argv, options.files))
            ret["bindfs"] = stack.enter_context(peer(work, "bindfs", ["bindfs", "{top}", "{mount}"], options.files))
        yield ret, vm


# ---- measuring


def in_guest(vm, things, seconds):
    """The same, timed in the guest; what it has no programs or files for is left out."""
    for name, before, command in things:
        if "git" in command or "$W/tree " in command:
            continue
        script = f"set -e; export W=/run; cd /root/bench; {before or ':'}; cat /proc/uptime; {command}; cat /proc/uptime"
        begin, end = (float(line.split()[0]) for line in vm.sh(script).splitlines())
        seconds[name]["guest"].append(end - begin)


def one_round(things, tops, work, seconds):
    for name, before, command in things:
        for place, anew in tops.items():
            top = anew()
            if before:
                sh(before, top, work)
                top = anew()
            time.sleep(0.15)  # what was told of the files is forgotten, as it would be between two commands
            start = time.monotonic()
            sh(command, top, work)
            seconds[name][place].append(time.monotonic() - start)


def measure(things, tops, work, rounds, vm):
    seconds = {name: {place: [] for place in [*tops, "guest"]} for name, _, _ in things}
    for _ in range(rounds):
        one_round(things, tops, work, seconds)
        sh("rm -rf copy", tops["sbxfs"](), work)
        in_guest(vm, things, seconds)
    return {name: {place: statistics.median(ts) for place, ts in row.items() if ts} for name, row in seconds.items()}


def show(table, tops):
    others = [place for place in tops if place in PEERS]
    head = [f"{place:>9}" for place in tops] + [f"{'/ ' + other:>9}" for other in others]
    print(f"{'seconds':24}" + "".join(head) + f"{'guest':>9}")
    for name, row in table.items():
        cells = [f"{row[place]:9.3f}" for place in tops] + [f"{row['sbxfs'] / row[other]:9.1f}" for other in others]
        print(f"{name:24}" + "".join(cells) + (f"{row['guest']:9.3f}" if "guest" in row else ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=TOP / "build")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=20000, help="in the large directory")
    parser.add_argument("--only", default="", help="things with one of these words in their names, separated by |")
    parser.add_argument("--alone", action="store_true", help="without sshfs and bindfs")
    parser.add_argument("--daemon", action="append", default=[], help="an option of the daemon's")
    parser.add_argument("--output", type=Path, help="the table as JSON, too")
    options = parser.parse_args()
    for program in ["git"] if options.alone else ["sshfs", "bindfs", "sshd", "ssh-keygen", "git"]:
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin"):
            sys.exit(f"bench_fs.py: {program} is needed (Debian: sshfs, bindfs, openssh-server, git)")
    words = options.only.split("|")
    things = [(name.format(files=options.files), before, command) for name, before, command in THINGS]
    things = [thing for thing in things if any(word in thing[0] for word in words)]
    work = Path(tempfile.mkdtemp(prefix="bench-fs-"))
    start = time.monotonic()
    try:
        make_parts(work)
        with places(work, options) as (tops, vm):
            print(f"prepared in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
            table = measure(things, tops, work, options.rounds, vm)
        show(table, tops)
        print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
        if options.output:
            options.output.write_text(json.dumps(table, indent=1) + "\n")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
