# SPDX-License-Identifier: MIT
"""Who may what: strangers and second users as real processes, on root's mount and on an ordinary user's.

A "stranger" has not been let in; everything is tried that leads to memory, secrets, output or files.
"""
import contextlib
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from conftest import live
from harness import Mount, Sandbox, eventually, limit, read, value, wait_gone
from test_hostile_guest import resident

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root to be somebody else")

ALICE, BOB, TEAM = 41001, 41002, 41100


def setpriv(uid, groups=()):
    extra = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", *extra]


def attempt(mount, uid, script, umask=0o022, groups=(), **kwargs):
    """A script as another user, in the mount's root: who is there needs no way through the directories above."""
    return subprocess.run(
        [*setpriv(uid, groups), "bash", "-c", f"umask {umask:04o}; {script}"],
        cwd=mount.path, capture_output=True, text=True, timeout=limit(60), check=False, **kwargs,
    )  # fmt: skip


def allowed(mount, uid, script, **kwargs):
    done = attempt(mount, uid, script, **kwargs)
    assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
    return done.stdout


def denied(mount, uid, script, **kwargs):
    done = attempt(mount, uid, script, **kwargs)
    assert done.returncode != 0, f"{script} succeeded: {done.stdout}"
    assert "denied" in done.stderr or "not permitted" in done.stderr, f"{script}: {done.stderr}"


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def whose(path):
    st = os.stat(path)
    return st.st_uid, stat.S_IMODE(st.st_mode)


def opens(pid, fd):
    """The path behind a descriptor of a process. While a program starts, its loader has descriptors of its own."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return None


@pytest.fixture(scope="module")
def shared_host(engine, build, guest, new_warm_state, tmp_path_factory):
    """A mount on which everybody may make sandboxes; alice has a running one, `a`."""
    mount = Mount(build, guest, engine, tmp_path_factory.mktemp("host"), new_warm_state(), ["--mode", "1777"])
    live.append(mount)
    mount.start()
    allowed(mount, ALICE, "mkdir a && echo 512M > a/memory_max && echo 256M > a/memory && echo SECRET=xyzzy > a/env")
    allowed(mount, ALICE, "echo start > a/ctl")
    allowed(mount, ALICE, "mkdir a/exec/kept && echo 'echo output; sleep 1000' > a/exec/kept/cmd")
    yield mount
    live.remove(mount)
    mount.stop()


@pytest.fixture
def host(shared_host):
    yield shared_host
    shared_host.check_log()
    for name in shared_host.sandboxes():
        if name != "a":
            os.rmdir(shared_host / name)
    for snap in os.listdir(shared_host / "a/snapshots"):
        if snap != "latest":
            os.rmdir(shared_host / "a/snapshots" / snap)
    for name in shared_host.named():
        os.rmdir(shared_host / "snapshots" / name)
    os.chmod(shared_host / "a", 0o700)


@pytest.fixture
def outside():
    """A directory beside the mount that others can reach: pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="sbx-others-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


# ---- what is new is private


def test_what_is_made_is_private(host):
    allowed(host, ALICE, "mkdir b; echo create c > ctl; mkdir snapshots/empty; mkdir a/exec/j", umask=0)
    allowed(host, ALICE, "echo checkpoint > a/ctl; echo 'checkpoint n' > a/ctl", umask=0)
    allowed(host, ALICE, "mkdir a/forks/f; echo 'fork g' > a/ctl; echo 'fork 2 h' > a/ctl", umask=0)
    made = ["b", "c", "a/exec/j", "a/snapshots/1", "f", "g", "h1", "h2", "snapshots/empty", "snapshots/n"]
    assert {name: whose(host / name) for name in made} == {name: (ALICE, 0o700) for name in made}
    assert whose(host / "f/exec/kept") == (ALICE, 0o700)  # which came along
    for name in ["a", *made]:
        denied(host, BOB, f"ls {name}")
        denied(host, BOB, f"cat {name}/ctl {name}/status")
    os.rmdir(host / "a/exec/j")


def test_of_mkdirs_mode_the_owners_bits_count(host):
    for umask, want in (0, 0o700), (0o022, 0o700), (0o200, 0o500):
        allowed(host, ALICE, "mkdir b; mkdir a/exec/j", umask=umask)
        assert mode(host / "b") == want and mode(host / "a/exec/j") == want
        os.rmdir(host / "b")
        os.rmdir(host / "a/exec/j")


def test_what_carries_memory_secrets_or_output_is_the_owners_alone(host):
    """Also where the directory was opened."""
    allowed(host, ALICE, "echo 'checkpoint n' > a/ctl; echo 'checkpoint o' > a/ctl")
    # But for the guest's 20,000 files, most of which are its kernel's.
    allowed(host, ALICE, "find a -name fs -prune -o -exec chmod 0755 {} + 2> /dev/null; true")
    allowed(host, ALICE, "chmod 0755 a snapshots/n a/exec/kept")
    secret = ["a/env", "a/console", "a/run", "snapshots/n/archive", "snapshots/n/archive.since/o"]
    secret += [f"a/exec/kept/{name}" for name in os.listdir(host / "a/exec/kept")]
    assert len(secret) > 10
    for name in secret:
        assert mode(host / name) & 0o177 == 0 and mode(host / name), name
        denied(host, BOB, f": < {name}")
        denied(host, BOB, f": >> {name}")
    assert allowed(host, BOB, "cat a/state snapshots/n/status") == "running\nready\n"
    for script in "echo kill > a/ctl", "mkdir a/exec/x", "mkdir a/forks/x", "echo 1 > a/cpus", "rmdir a":
        denied(host, BOB, script)
    for script in "echo verify > snapshots/n/ctl", "mkdir snapshots/n/forks/x", "rmdir snapshots/n", "mv snapshots/n snapshots/x":
        denied(host, BOB, script)
    assert allowed(host, ALICE, "cat a/env; head -1 a/exec/kept/stdout") == "SECRET=xyzzy\noutput\n"
    os.chmod(host / "a/exec/kept", 0o700)


def test_only_the_owner_opens_and_only_root_gives_away(host):
    os.chmod(host / "a", 0o755)
    for script in "chmod 777 a", f"chown {BOB} a", "chmod 777 a/ctl", "chmod 777 .", "chmod 777 snapshots":
        denied(host, BOB, script)
    denied(host, ALICE, f"chown {BOB} a")
    denied(host, ALICE, "chmod 666 a/ctl")
    allowed(host, ALICE, "chmod 6777 a")
    assert whose(host / "a") == (ALICE, 0o777)


def test_writing_can_be_shared(host):
    """Who may write in the directory commands it, and so has what is in it."""
    os.chown(host / "a", ALICE, TEAM)
    os.chmod(host / "a", 0o770)
    allowed(host, BOB, "mkdir a/exec/bobs && echo 'id -u' > a/exec/bobs/cmd && cat a/exec/bobs/stdout", groups=[TEAM])
    allowed(host, BOB, "echo 'fork w' > a/ctl; rmdir a/exec/bobs", groups=[TEAM])
    assert whose(host / "w") == (BOB, 0o750)
    denied(host, BOB, "echo 'fork x' > a/ctl")
    denied(host, BOB, "cat a/env", groups=[TEAM])
    os.chown(host / "a", ALICE, ALICE)


# ---- children


def test_a_child_has_its_origins_mode_less_the_umask(host):
    allowed(host, ALICE, "chmod 0755 a; echo 'checkpoint n' > a/ctl")
    assert mode(host / "snapshots/n") == 0o755
    for umask, want in (0o022, 0o755), (0o027, 0o750), (0o077, 0o700):
        allowed(host, ALICE, "echo 'fork v' > a/ctl; mkdir a/forks/m; echo 'fork 1 b' > a/ctl", umask=umask)
        allowed(host, ALICE, "echo 'fork nv' > snapshots/n/ctl; mkdir snapshots/n/forks/nm", umask=umask)
        allowed(host, ALICE, "echo checkpoint > a/ctl", umask=umask)
        children = ["v", "m", "b1", "nv", "nm", "a/snapshots/latest"]
        assert {name: whose(host / name) for name in children} == {name: (ALICE, want) for name in children}
        for name in children[:-1]:
            os.rmdir(host / name)
    allowed(host, ALICE, "echo snapshot > a/ctl && echo resume > a/ctl && chmod 0700 a && mkdir a/forks/p", umask=0)
    assert mode(host / "a/snapshots/latest") == 0o755 and mode(host / "p") == 0o700


def test_a_rollback_keeps_modes(host):
    allowed(host, ALICE, "mkdir a/forks/r; echo checkpoint > r/ctl; chmod 0750 r; echo 'rollback 1' > r/ctl", umask=0o007)
    assert whose(host / "r") == (ALICE, 0o750)
    assert whose(host / "r/snapshots/1") == (ALICE, 0o700) and whose(host / "r/snapshots/2") == (ALICE, 0o750)


def test_a_rollback_uses_nobody_elses_snapshot(host):
    allowed(host, ALICE, "echo 'checkpoint alices' > a/ctl; mkdir snapshots/alices/forks/mine")
    os.chown(host / "mine", BOB, BOB)
    for permissions in 0o700, 0o755:
        os.chmod(host / "snapshots/alices", permissions)
        denied(host, BOB, "echo 'rollback alices' > mine/ctl")
        assert "may not" in read(host / "mine/error")
        denied(host, BOB, "mkdir snapshots/alices/forks/w")
        denied(host, BOB, "echo 'fork w' > snapshots/alices/ctl")
    assert allowed(host, BOB, "cat mine/state") == "running\n"


def test_a_verb_is_asked_for_by_who_opened_ctl(host):
    """As with any descriptor: who is made to write to one lends no rights of theirs to it."""
    fd = os.open(host / "ctl", os.O_WRONLY)
    try:
        allowed(host, BOB, f"echo create roots >&{fd}", pass_fds=[fd])
    finally:
        os.close(fd)
    assert whose(host / "roots") == (0, 0o700)
    with subprocess.Popen(
        [*setpriv(BOB), "bash", "-c", "exec 3> ctl; cat <&3 2> /dev/null; kill -STOP $$"], cwd=host.path
    ) as process:
        eventually(lambda: opens(process.pid, 3) == str(host / "ctl"), 10, "it is not open")
        opened = os.pidfd_open(process.pid)
        try:
            copy = pidfd_getfd(opened, 3)
            with contextlib.suppress(OSError):
                os.write(copy, b"create bobs")
            os.close(copy)
        finally:
            os.close(opened)
            process.kill()
    assert whose(host / "bobs") == (BOB, 0o700)


def pidfd_getfd(pidfd, fd):
    import ctypes

    copy = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, fd, 0)
    assert copy >= 0, os.strerror(ctypes.get_errno())
    return copy


# ---- names


def test_names_are_made_where_a_mkdir_may(own_mount):
    """On a mount as it is by default only root makes names; a sandbox that was given away can still be forked."""
    mount = own_mount()
    vm = mount.create("vm")
    os.chown(vm.path, ALICE, ALICE)
    for script in "mkdir x", "echo create x > ctl", "mkdir snapshots/x", "echo gc > ctl":
        denied(mount, ALICE, script)
    for verb in "checkpoint x", "snapshot x":
        denied(mount, ALICE, f"echo {verb} > vm/ctl")
        assert "may not make names" in read(vm / "error")
    assert mount.named() == [] and vm.state == "running" and mount.sandboxes() == ["vm"]
    allowed(mount, ALICE, "echo checkpoint > vm/ctl; echo 'fork w' > vm/ctl; mkdir vm/forks/m")
    denied(mount, ALICE, "mv vm/snapshots/1 snapshots/x")
    assert whose(mount / "w") == whose(mount / "m") == (ALICE, 0o700)
    # What root opens is open, and closes again: at once, whatever the kernel remembers.
    os.chmod(mount.path, 0o1777)
    assert mode(mount / "snapshots") == 0o1777
    allowed(mount, ALICE, "mkdir x; echo create y > ctl; mkdir snapshots/x; echo 'checkpoint z' > vm/ctl")
    denied(mount, ALICE, "echo gc > ctl")
    os.chmod(mount.path, 0o755)
    denied(mount, ALICE, "mkdir q")
    denied(mount, ALICE, "echo 'checkpoint q' > vm/ctl")
    assert mount.named() == ["x", "z"] and whose(mount / "snapshots/z") == (ALICE, 0o700)


def test_names_can_be_a_groups(own_mount):
    mount = own_mount(options=["--mode", "0775"])
    os.chown(mount.path, 0, TEAM)
    vm = mount.create("vm")
    os.chown(vm.path, ALICE, ALICE)
    denied(mount, ALICE, "echo 'checkpoint x' > vm/ctl")
    denied(mount, ALICE, "echo create y > ctl")
    allowed(mount, ALICE, "echo 'checkpoint x' > vm/ctl; echo create y > ctl", groups=[TEAM - 1, TEAM])
    assert mount.named() == ["x"] and whose(mount / "y") == (ALICE, 0o700)


def test_nobody_takes_others_names_away(host):
    allowed(host, ALICE, "mkdir b; echo 'checkpoint n' > a/ctl")
    for script in "rmdir b", "rmdir snapshots/n", "mv snapshots/n snapshots/m":
        denied(host, BOB, script)
    allowed(host, ALICE, "mv snapshots/n snapshots/m; rmdir snapshots/m; rmdir b")


def test_a_mode_that_is_none(build):
    for text in "8", "", "rwx", "07777", "2755":
        done = subprocess.run([build / "sbxfs", "--mode", text, "/mnt"], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "is not a mode" in done.stderr, text


# ---- what lasts


def test_owner_and_mode_outlive_the_daemon(own_mount):
    mount = own_mount(options=["--mode", "1777"])
    os.chmod(mount.create("vm").path, 0o750)
    os.chown(mount / "vm", ALICE, TEAM)
    allowed(mount, ALICE, "for n in a b c d; do echo checkpoint $n > vm/ctl; done", umask=0)
    allowed(mount, ALICE, "echo checkpoint > vm/ctl; mv vm/snapshots/1 snapshots/e", umask=0o077)
    allowed(mount, ALICE, "chmod 0711 snapshots/b; chmod 0700 snapshots/c; mv snapshots/c snapshots/f")
    os.chown(mount / "snapshots/d", BOB, BOB)
    want = {"a": (ALICE, 0o750), "b": (ALICE, 0o711), "f": (ALICE, 0o700), "d": (BOB, 0o750), "e": (ALICE, 0o700)}

    def found():
        return {name: whose(mount / "snapshots" / name) for name in mount.named()}

    assert found() == want and os.stat(mount / "snapshots/a").st_gid == TEAM
    mount.stop()
    mount.start()
    assert found() == want and os.stat(mount / "snapshots/a").st_gid == TEAM
    denied(mount, ALICE, "ls snapshots/d")
    allowed(mount, BOB, "chmod 0705 snapshots/d; mkdir snapshots/d/forks/bobs")
    want["d"] = (BOB, 0o705)
    assert whose(mount / "bobs") == (BOB, 0o705)
    mount.kill()
    mount.start()
    assert found() == want


def test_an_owner_that_cannot_be_read_is_the_daemons(own_mount):
    """A store from before there were owners, or a damaged one."""
    mount = own_mount()
    vm = mount.create("vm")
    for name in "a", "b":
        vm.ctl(f"checkpoint {name}")
        os.chmod(mount / "snapshots" / name, 0o777)
    mount.stop()
    objects = {name: (mount.state / "snapshots" / name).resolve() for name in ("a", "b")}
    (objects["a"] / "owner").unlink()
    (objects["b"] / "owner").write_text("uid 41001\n")
    mount.start()
    assert {name: whose(mount / "snapshots" / name) for name in objects} == {"a": (0, 0o700), "b": (0, 0o700)}
    assert value(mount / "snapshots/b/status") == "ready"
    os.chmod(mount / "snapshots/a", 0o755)
    mount.stop()
    mount.start()
    assert mode(mount / "snapshots/a") == 0o755


def test_what_is_imported_is_the_importers(host, outside):
    os.chown(outside, ALICE, ALICE)
    allowed(host, ALICE, "echo 'checkpoint n' > a/ctl; chmod 0777 snapshots/n")
    allowed(host, ALICE, f"cat snapshots/n/archive > {outside}/n && rmdir snapshots/n")
    allowed(host, BOB, f"mkdir snapshots/n && cat {outside}/n > snapshots/n/archive")
    assert whose(host / "snapshots/n") == (BOB, 0o700)
    denied(host, ALICE, "ls snapshots/n")
    denied(host, ALICE, "cat snapshots/n/archive")
    allowed(host, BOB, "mkdir snapshots/n/forks/w")
    assert whose(host / "w") == (BOB, 0o700)


def test_a_former_owner_has_nothing_more(host):
    allowed(host, ALICE, "echo 'checkpoint n' > a/ctl; echo 'checkpoint o' > a/ctl; chmod 755 snapshots/n")
    allowed(host, ALICE, "head -c1 snapshots/n/archive.since/o > /dev/null")
    script = """
import os, sys
held = [os.open("snapshots/n/" + name, os.O_PATH) for name in ("archive.since/o", "archive", "ctl")]
print("held", flush=True)
sys.stdin.readline()
for fd, flags in zip(held, (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
    try:
        os.open(f"/proc/self/fd/{fd}", flags)
        print("opened")
    except PermissionError:
        print("denied")
"""
    with subprocess.Popen(
        [*setpriv(ALICE), "/usr/bin/python3", "-c", script], cwd=host.path, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == "held\n"
        os.chown(host / "snapshots/n", BOB, BOB)
        out, _ = process.communicate("\n", timeout=limit(10))
    assert out.split() == ["denied"] * 3


# ---- files of a guest


def test_ports_below_1024_are_at_an_owners_own_address(host):
    """The daemon may listen anywhere, and lends that to nobody: other addresses of this host are others'."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        high = probe.getsockname()[1]
    allowed(host, ALICE, f"echo 81 > a/net/publish; echo 127.0.0.1:{high} >> a/net/publish")
    for line in "127.0.0.1:82", "0.0.0.0:82/udp", "127.91.255.254:82", "0.0.0.0:1023":
        denied(host, ALICE, f"echo {line} > a/net/publish")
        assert "only root's sandboxes" in read(host / "a/error"), line
        denied(host, ALICE, f"echo {line} >> a/net/publish")
    assert read(host / "a/net/publish") == f"81\n127.0.0.1:{high}\n"
    allowed(host, ALICE, "echo > a/net/publish")
    allowed(host, 0, "mkdir b && echo 127.0.0.1:82 > b/net/publish")


def test_a_guests_files_are_for_those_who_may_enter(host):
    run = Sandbox(host / "a")
    run.sh("mkdir -p /srv/x; echo open > /srv/x/open; echo closed > /srv/x/closed; echo www > /srv/x/www; chmod 600 /srv/x/*")
    run.sh("chmod 666 /srv/x/open; chown 33:33 /srv/x/www; mkdir -p /srv/x/dir; chown 41002:41002 /srv/x/dir; chmod 777 / /srv /srv/x")
    allowed(host, ALICE, "echo checkpoint > a/ctl; chmod 0700 a")
    for root in "a/fs", "a/snapshots/latest/fs":
        assert allowed(host, ALICE, f"cat {root}/srv/x/open {root}/srv/x/closed {root}/srv/x/www") == "open\nclosed\nwww\n"
        denied(host, BOB, f"cat {root}/srv/x/open")
        denied(host, BOB, f"ls {root}/srv/x/dir")
        assert whose(host / root / "srv/x/www") == whose(host / root / "srv/x/closed") == (ALICE, 0o600)
    # Who is let in finds files as a stranger does on any host.
    allowed(host, ALICE, "chmod 0755 a a/snapshots/latest")
    for root in "a/fs", "a/snapshots/latest/fs":
        assert allowed(host, BOB, f"cat {root}/srv/x/open") == "open\n"
        for name in "closed", "www":
            denied(host, BOB, f"cat {root}/srv/x/{name}")
    denied(host, BOB, "touch a/fs/srv/x/dir/f")
    denied(host, BOB, "chmod 777 a/fs/srv/x/closed")
    run.sh("rm -r /srv/x; chmod 755 / /srv")


def test_an_owner_keeps_what_they_copy(host, outside):
    """cp -p, cp -a and install complain of nothing, and the guest's root has the files."""
    os.mkdir(outside / "d")
    (outside / "d/f").write_text("text\n")
    os.chmod(outside / "d/f", 0o640)
    os.chown(outside / "d", ALICE, ALICE)
    os.chown(outside / "d/f", ALICE, ALICE)
    os.utime(outside / "d/f", (10**9, 10**9))
    run = Sandbox(host / "a")
    run.sh("mkdir /srv/c; echo old > /srv/c/www; chown 33:33 /srv/c/www")
    for script in "cp -p {}/d/f a/fs/srv/c/p", "cp -a {}/d a/fs/srv/c/", "install -m 600 {}/d/f a/fs/srv/c/i":
        done = attempt(host, ALICE, script.format(outside))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), script
    shown = run.sh("cd /srv/c; stat -c '%n %a %u %g %Y' p d/f i | cut -d' ' -f1-4; stat -c %Y p d/f")
    assert shown == "p 640 0 0\nd/f 640 0 0\ni 600 0 0\n1000000000\n1000000000\n"
    st = os.stat(host / "a/fs/srv/c/p")
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode), st.st_mtime) == (ALICE, ALICE, 0o640, 10**9)
    # As the guest's root does: whatever is there can be read, written, renamed, removed and given other modes.
    allowed(host, ALICE, "cd a/fs/srv/c && cat www && echo new > www && chmod 604 www && mkdir n && mv www n/ && rm n/www")
    allowed(host, ALICE, "cd a/fs/srv/c && chown $(id -u):$(id -g) d/f && ln -s f d/l && ln d/f d/h && touch d/h")
    denied(host, ALICE, f"chown {BOB} a/fs/srv/c/p")
    # Root gives the guest's files to whom it likes.
    os.chown(host / "a/fs/srv/c/p", 33, 34)
    assert run.sh("stat -c %u:%g /srv/c/p") == "33:34\n"
    os.chown(host / "a/fs/srv/c/p", ALICE, ALICE)
    assert run.sh("stat -c %u:%g /srv/c/p") == "0:0\n"
    run.sh("rm -r /srv/c")


HOLD = """
import os, sys
fds = [os.open(sys.argv[1], os.O_RDONLY) for _ in range(6000)]
first = [os.pread(fd, 10, 0) for fd in fds]
print(sys.argv[2] and open(sys.argv[2]).read())
assert all(os.pread(fd, 1 << 16, 10) for fd in fds) and len(set(first)) == 1
"""


# Writes whose beginnings are kept, to a text of lines: who goes on where that was forgotten is told.
WRITE_ON = """
import errno, os, sys
fds = [os.open(sys.argv[1] + "/env", os.O_WRONLY) for _ in range(400)]
for n, fd in enumerate(fds):
    os.write(fd, b"N=%d\\nK=%s\\n" % (n, b"x" * 100000))
print(open(sys.argv[2]).read())
try:
    os.write(fds[0], b"L=first\\n")
    raise AssertionError("written on")
except OSError as error:
    assert error.errno == errno.EDQUOT, error
assert "forgotten" in open(sys.argv[1] + "/error").read()
os.write(fds[-1], b"L=last\\n")
assert open(sys.argv[1] + "/env").read() == "N=399\\nK=%s\\nL=last\\n" % ("x" * 100000)
os.pwrite(fds[0], b"M=1\\n", 0)
assert open(sys.argv[1] + "/env").read() == "M=1\\n"
"""

# Open listings, of a guest's directory; each is read to its end.
LIST = """
import os, sys
want = sorted(os.listdir(sys.argv[1]))
fds = [os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY) for _ in range(200)]
print(open(sys.argv[2]).read())
assert len(want) == 200 and all(sorted(os.listdir(fd)) == want for fd in fds[::25])
"""


@pytest.mark.parametrize(
    "uid, script, path", [(BOB, HOLD, "README"), (ALICE, WRITE_ON, "a/exec/texts"), (ALICE, LIST, "a/fs/root/many")],
    ids=["read", "written", "listed"],
)  # fmt: skip
def test_what_open_files_keep_is_bounded(host, build, uid, script, path):
    """Anybody may open the README, as often as they like; who reads on gets the rest all the same."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    argv = [*setpriv(uid), "/usr/bin/python3", "-c", script, path, f"/proc/{host.process.pid}/status"]
    if script is WRITE_ON:
        allowed(host, ALICE, f"mkdir {path}")
    if script is LIST:
        Sandbox(host / "a").sh("mkdir /root/many; cd /root/many; for i in $(seq 200); do : > $(printf %0200d $i); done")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8000, limits[1]), limits[1]))
    try:
        before = resident(host.process.pid)
        done = subprocess.run(argv, cwd=host.path, capture_output=True, text=True, check=False, timeout=limit(60))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert done.returncode == 0, done.stderr
    if build.name != "san":
        held = int(re.search(r"VmRSS:\s+(\d+) kB", done.stdout)[1]) * 1024
        assert held - before < 20 << 20, (held, before)
    if script is WRITE_ON:
        os.rmdir(host / path)


# ---- an ordinary user's daemon


class Namespace:
    """Mounts of its own, where every user may use FUSE, share what they mount, and reach the programs."""

    setup = """
mount --make-rprivate /
mount -t tmpfs -o mode=755 none {work}
mkdir {work}/build {work}/guest
mount --bind {build} {work}/build
mount --bind {guest} {work}/guest
mknod -m 666 {work}/fuse c 10 229
mount --bind {work}/fuse /dev/fuse
[ ! -e /dev/kvm ] || {{ mknod -m 666 {work}/kvm c 10 232 && mount --bind {work}/kvm /dev/kvm; }}
echo user_allow_other > {work}/conf
mount --bind {work}/conf /etc/fuse.conf
(cat /etc/passwd; echo alice:x:{uid}:{uid}::/:/bin/sh) > {work}/passwd
mount --bind {work}/passwd /etc/passwd
install -d -o {uid} -g {uid} {work}/own {work}/own/m
cp -a --sparse=always {state} {work}/own/s
chown -R {uid}:{uid} {work}/own
echo ready
exec sleep 1000000
"""

    def __init__(self, uid, build, guest, state, work):
        self.uid, self.work = uid, work
        script = self.setup.format(uid=uid, build=build, guest=guest, state=state, work=work)
        self.holder = subprocess.Popen(
            ["unshare", "-m", "sh", "-ec", script], stdout=subprocess.PIPE, text=True
        )
        assert self.holder.stdout.readline() == "ready\n"
        self.daemons = []

    def argv(self, uid, *argv):
        enter = ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", *setpriv(uid)]
        return [*enter, "sh", "-c", 'cd "$0" && exec "$@"', f"{self.work}/own", *argv]

    def run(self, uid, script):
        return subprocess.run(
            self.argv(uid, "bash", "-c", script), capture_output=True, text=True, timeout=limit(60), check=False
        )

    def ok(self, uid, script):
        done = self.run(uid, script)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def refused(self, uid, script):
        done = self.run(uid, script)
        assert done.returncode != 0 and "denied" in done.stderr, f"{script}: {done.stdout}{done.stderr}"

    def start(self, engine, *options):
        argv = [f"{self.work}/build/sbxfs", "-f", "--engine", engine, "--state", "s", "--guest", "../guest", *options, "m"]
        daemon = subprocess.Popen(self.argv(self.uid, *argv), stdin=subprocess.DEVNULL)
        self.daemons.append(daemon)

        def there():
            assert daemon.poll() is None, "sbxfs ended"
            return self.run(self.uid, "test -e m/README").returncode == 0

        eventually(there, 20, "sbxfs did not mount")
        return daemon

    def end(self):
        for daemon in self.daemons:
            if daemon.poll() is None:
                daemon.kill()
            daemon.wait()
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()


@pytest.fixture
def users(build, guest, new_state, outside):
    namespace = Namespace(ALICE, build, guest, new_state(), outside)
    yield namespace
    namespace.end()


def test_an_ordinary_users_mount_that_others_may_use(users, engine):
    """allow_other lets them to the root, and its permissions decide what they may there."""
    daemon = users.start(engine, "-o", "allow_other")
    assert "but for programs" in users.ok(ALICE, "grep ^daemon m/status")
    held = Path(f"/proc/{daemon.pid}/status").read_text()
    assert "NoNewPrivs:\t1\n" in held and "Seccomp:\t2\n" in held
    users.ok(ALICE, "mkdir m/v && echo 512M > m/v/memory_max && echo 256M > m/v/memory && echo start > m/v/ctl")
    # A machine of theirs is as confined as root's: nothing that it may, the launcher's filter, and then its own.
    (pid,) = re.findall(r"^pid (\d+)$", users.ok(ALICE, "cat m/v/info"), re.M)
    machine = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert all(int(machine[key], 16) == 0 for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert machine["NoNewPrivs"] == "1" and machine["Seccomp"] == "2" and int(machine["Seccomp_filters"]) >= 2
    assert users.ok(ALICE, "grep ^jail m/v/info").split()[1] == "namespaces,"
    users.ok(ALICE, "echo K=V > m/v/env; echo 'checkpoint n' > m/v/ctl; mkdir m/v/exec/j")
    assert "README" in users.ok(BOB, "ls m")
    for script in "cat m/v/env", "ls m/v", "mkdir m/w", "echo create w > m/ctl", "cat m/snapshots/n/archive", "cat m/v/fs/etc/passwd":
        users.refused(BOB, script)
    users.ok(ALICE, "chmod 0755 m/v m/snapshots/n")
    users.ok(BOB, "cat m/v/state m/v/fs/etc/passwd")
    for script in "cat m/v/env", "echo kill > m/v/ctl", "mkdir m/v/forks/w", "mkdir m/snapshots/n/forks/w", "touch m/v/fs/root/f", "rmdir m/v":
        users.refused(BOB, script)
    # And to the user it is the mount it always was.
    done = users.run(ALICE, "cp -p m/README m/v/fs/root/f; cp -a s/lock m/v/fs/root/; install -m 640 m/README m/v/fs/root/g")
    assert (done.returncode, done.stderr) == (0, "")
    assert users.ok(ALICE, "stat -c '%u %a' m/v/fs/root/g m/v/fs/root") == f"{ALICE} 640\n{ALICE} 700\n"
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(limit(20)) == 0


def test_copies_on_an_ordinary_users_mount(users, engine):
    """cp -p, cp -a and install -m end without a word, and with the modes and times of what they copied, of which the
    guest's root is the owner."""
    daemon = users.start(engine)
    users.ok(ALICE, "echo create v > m/ctl; mkdir m/v/fs/srv/in")
    users.ok(ALICE, """
        mkdir -p t/d/e; echo text > t/f; cp t/f t/d/script; ln t/f t/hard; ln -s d/script t/link; mkfifo t/p; : > t/empty
        chmod 0640 t/f; chmod 0755 t/d/script; chmod 0444 t/empty; chmod 4711 t/d/script; chmod 2750 t/d; chmod 0700 t/d/e
        touch -d @1000000000.123456789 t/f t/d/script t/empty t/p; touch -h -d @1100000000.5 t/link; touch -d @1200000000.25 t/d/e t/d t
    """)  # fmt: skip
    for script in (
        "cp -p t/f t/d/script t/empty m/v/fs/srv/in",
        "cp -a t m/v/fs/srv/in/tree",
        "cp -a t/d/script m/v/fs/srv/in/tree/d/script",
        "install -m 4750 t/f m/v/fs/srv/in/installed; install -p -m 600 t/f m/v/fs/srv/in/p; install -d -m 2711 m/v/fs/srv/in/dir",
        "cp -a m/v/fs/srv/in/tree back",
    ):
        done = users.run(ALICE, script)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), script
    look = "find . | LC_ALL=C sort | xargs stat -c '%n %a %F %h"
    for there in "m/v/fs/srv/in/tree", "back":
        assert users.ok(ALICE, f"cd {there}; {look} %u %y'") == users.ok(ALICE, f"cd t; {look} %u %y'"), there
    shown = users.ok(ALICE, "cd m/v/fs/srv/in; stat -c '%n %a %.9Y' f script empty p; stat -c '%n %a' installed dir")
    assert shown.splitlines() == [
        "f 640 1000000000.123456789", "script 4711 1000000000.123456789", "empty 444 1000000000.123456789",
        "p 600 1000000000.123456789", "installed 4750", "dir 2711",
    ]  # fmt: skip
    users.ok(ALICE, "mkdir m/v/exec/j; echo \"find /srv/in -exec stat -c '%u:%g %a' {} + | sort -u\" > m/v/exec/j/cmd")
    inside = users.ok(ALICE, "cat m/v/exec/j/stdout").splitlines()
    assert {line.split()[0] for line in inside} == {"0:0"} and {"0:0 4711", "0:0 2750", "0:0 444"} <= {*inside}
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(limit(20)) == 0


def test_an_ordinary_users_mount_is_theirs(users, engine):
    daemon = users.start(engine)
    users.ok(ALICE, "mkdir m/v; echo create w > m/ctl; chmod 0500 m/w")
    users.refused(BOB, "ls m")
    # Permissions hold for the owner as well, as everywhere.
    users.refused(ALICE, "chmod 0 m/v && cat m/v/state")
    users.ok(ALICE, "chmod 700 m/v && cat m/v/state && rmdir m/v m/w")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(limit(20)) == 0


def test_an_ordinary_user_starts_over_a_stale_mount(users, engine):
    for _ in range(2):
        daemon = users.start(engine)
        users.ok(ALICE, "mkdir m/v")
        daemon.kill()
        wait_gone(daemon.pid)
        daemon.wait()
        assert "not connected" in users.run(ALICE, "ls m").stderr
    daemon = users.start(engine)
    assert "v" not in users.ok(ALICE, "ls m").split()
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(limit(20)) == 0
    assert users.ok(ALICE, "grep -c ' sbxfs ' /proc/self/mounts || true") == "0\n"
