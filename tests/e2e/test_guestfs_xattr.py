# SPDX-License-Identifier: MIT
"""fs/: extended attributes, ACLs, file capabilities, and the bits that a write takes away."""
import ctypes
import errno
import os
import shutil
import struct
import subprocess

import pytest

from harness import fails, limit, outcome
from test_hostile_guest import GETXATTR, captive, hostile  # noqa: F401 (fixtures)

pytestmark = [pytest.mark.any_engine, pytest.mark.skipif(os.getuid() != 0, reason="needs root to be somebody else")]

ACCESS, DEFAULT, CAPABILITY = "system.posix_acl_access", "system.posix_acl_default", "security.capability"
ALICE, BOB = 41001, 41002
# cap_net_raw=ep, as setcap(8) writes it (VFS_CAP_REVISION_2 in linux/capability.h)
NET_RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
NOBODYS = 0xFFFFFFFF


def acl(owner, group, other, mask=None, users=()):
    """linux/posix_acl_xattr.h: version 2; tag, permissions, id."""
    entries = [(1, owner, NOBODYS), *((2, bits, uid) for uid, bits in users), (4, group, NOBODYS)]
    entries += [(0x10, mask, NOBODYS)] * (mask is not None) + [(0x20, other, NOBODYS)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@pytest.fixture
def root(vm):
    """A directory in the guest that everybody may enter."""
    vm.path.chmod(0o755)
    path = vm / "fs/tmp/x"
    os.mkdir(path, 0o755)
    return path


def attempt(uid, script, cwd, groups=()):
    """By another user, who needs no way to the directory."""
    extra = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    return subprocess.run(["setpriv", f"--reuid={uid}", f"--regid={uid}", *extra, "sh", "-c", script],
                          cwd=cwd, capture_output=True, text=True, timeout=limit(30), check=False)  # fmt: skip


def may(uid, script, cwd, **kwargs):
    return attempt(uid, script, cwd, **kwargs).returncode == 0


def test_set_get_list_remove(vm, root):
    f = root / "f"
    f.write_text("text")
    assert os.listxattr(f) == []
    os.setxattr(f, "user.one", b"1")
    os.setxattr(f, "user.empty", b"")
    os.setxattr(f, "trusted.t", bytes(300))
    assert os.getxattr(f, "user.one") == b"1" and os.getxattr(f, "user.empty") == b""
    assert os.getxattr(f, "trusted.t") == bytes(300)
    assert set(os.listxattr(f)) == {"user.one", "user.empty", "trusted.t"}
    with fails(errno.EEXIST):
        os.setxattr(f, "user.one", b"2", os.XATTR_CREATE)
    with fails(errno.ENODATA):
        os.setxattr(f, "user.two", b"2", os.XATTR_REPLACE)
    with fails(errno.ENODATA):
        os.getxattr(f, "user.two")
    os.removexattr(f, "user.one")
    with fails(errno.ENODATA):
        os.removexattr(f, "user.one")
    # What is no attribute that a program may set, of root either; the tree has none.
    for name in "system.other", "other", "btrfs.compression":
        with fails(errno.EOPNOTSUPP):
            os.setxattr(f, name, b"x")
    for path in vm.path, vm / "state", vm / "fs":
        assert os.listxattr(path) == []
        with fails(errno.ENODATA):
            os.getxattr(path, "user.x")
        with fails(errno.EOPNOTSUPP):
            os.setxattr(path, "user.x", b"x")
    # Directories, links and what is not to be opened have them too; of an open file that was removed.
    os.mkdir(root / "d")
    os.setxattr(root / "d", "user.d", b"d")
    os.symlink("f", root / "l")
    os.setxattr(root / "l", "trusted.l", b"l", follow_symlinks=False)
    assert os.listxattr(root / "l", follow_symlinks=False) == ["trusted.l"] and "trusted.l" not in os.listxattr(f)
    os.mkfifo(root / "p")
    os.setxattr(root / "p", "trusted.p", b"p")
    with open(f, "rb") as open_file:
        os.unlink(f)
        assert os.getxattr(open_file.fileno(), "trusted.t") == bytes(300)
    # The guest sets them, and the host sees it at once.
    assert os.listxattr(root / "p") == ["trusted.p"]


def test_large_values(vm, root):
    """tmpfs keeps values of the 64 KiB that Linux allows; ext4 says what it has no room for."""
    f = vm / "fs/run/f"
    f.touch()
    for size in 4096, 32768, 32769, 65535, 65536:
        value = os.urandom(size)
        os.setxattr(f, "trusted.big", value)
        assert os.getxattr(f, "trusted.big") == value, size
    with fails(errno.E2BIG):
        os.setxattr(f, "trusted.big", bytes(65537))
    (root / "f").touch()
    assert outcome(os.setxattr, root / "f", "user.big", bytes(65536)) in (errno.ENOSPC, errno.E2BIG)
    for i in range(300):
        os.setxattr(f, f"trusted.{i:03}" + "n" * 200, b"")
    assert len(os.listxattr(f)) == 301
    # A size that is too small is said so.
    libc, buf = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(100)
    assert libc.getxattr(os.fsencode(f), b"trusted.big", buf, 100) == -1 and ctypes.get_errno() == errno.ERANGE
    assert libc.listxattr(os.fsencode(f), buf, 100) == -1 and ctypes.get_errno() == errno.ERANGE
    assert libc.getxattr(os.fsencode(f), b"trusted.big", None, 0) == 65536


def test_who_may(vm, root):
    f = root / "f"
    f.write_text("text")
    f.chmod(0o666)
    os.setxattr(f, "user.u", b"u")
    os.setxattr(f, "trusted.t", b"t")
    py = "import os; "
    assert attempt(ALICE, f"python3 -c '{py}print(os.listxattr(\"f\"))'", root).stdout == "['user.u']\n"
    assert may(ALICE, f"python3 -c '{py}os.setxattr(\"f\", \"user.a\", b\"a\")'", root)
    for name in "trusted.t", CAPABILITY, "security.x", "system.nfs4_acl", ACCESS:
        assert not may(ALICE, f"python3 -c '{py}os.setxattr(\"f\", \"{name}\", bytes(20))'", root), name
        assert not may(ALICE, f"python3 -c '{py}os.removexattr(\"f\", \"{name}\")'", root), name
    assert not may(ALICE, f"python3 -c '{py}os.getxattr(\"f\", \"trusted.t\")'", root)
    f.chmod(0o644)
    assert not may(ALICE, f"python3 -c '{py}os.setxattr(\"f\", \"user.a\", b\"b\")'", root)
    # Nobody is let in by what the guest says.
    vm.path.chmod(0o700)
    os.setxattr(f, ACCESS, acl(6, 4, 4, 7, [(ALICE, 7)]))
    assert not may(ALICE, f"cat {f}", "/")


def test_acls_are_gone_by(vm, root):
    """The kernel checks permissions by a guest's ACLs: the mode's group bits are no group's, where there is one."""
    f = root / "f"
    f.write_text("text")
    os.chown(f, 1000, 1000)
    os.setxattr(f, ACCESS, acl(6, 0, 0, 6, [(ALICE, 6), (BOB, 0)]))
    assert os.stat(f).st_mode & 0o777 == 0o660 and os.getxattr(f, ACCESS) == acl(6, 0, 0, 6, [(ALICE, 6), (BOB, 0)])
    assert may(ALICE, "cat f && echo more >> f", root)
    assert not may(BOB, "cat f", root) and not may(BOB, "cat f", root, groups=[1000])
    assert not may(40000, "cat f", root, groups=[1000]), "the group has no right, whatever the mode looks like"
    f.chmod(0o600)  # the mask
    assert not may(ALICE, "cat f", root)
    f.chmod(0o640)
    assert may(ALICE, "cat f", root) and not may(ALICE, "echo more >> f", root)
    os.removexattr(f, ACCESS)
    assert may(40000, "cat f", root, groups=[1000]) and not may(ALICE, "cat f", root)
    # On a filesystem of the guest's that has none, the mode decides.
    assert may(ALICE, "cat /proc/self/root/dev/null version", vm / "fs/proc")


def test_default_acls(vm, root):
    os.setxattr(root, DEFAULT, acl(7, 5, 0, 7, [(ALICE, 7)]))
    os.mkdir(root / "d")
    assert os.getxattr(root / "d", DEFAULT) == acl(7, 5, 0, 7, [(ALICE, 7)])
    assert os.getxattr(root / "d", ACCESS) == acl(7, 5, 0, 7, [(ALICE, 7)])
    # The umask does not hold there.
    done = subprocess.run("umask 077; echo x > f; mkdir e; mkfifo p; stat -c %a f e p", shell=True, cwd=root,
                          capture_output=True, text=True, timeout=limit(30), check=True)  # fmt: skip
    assert done.stdout.split() == ["660", "770", "660"]
    assert may(ALICE, "echo y >> f; touch e/g d/h", root)
    assert os.stat(root / "e/g").st_uid == ALICE and not may(BOB, "cat f", root)
    # Elsewhere it does.
    os.removexattr(root, DEFAULT)
    done = subprocess.run("umask 027; echo x > f2; mkdir e2; stat -c %a f2 e2", shell=True, cwd=root,
                          capture_output=True, text=True, timeout=limit(30), check=True)  # fmt: skip
    assert done.stdout.split() == ["640", "750"]


@pytest.mark.skipif(not shutil.which("setfacl"), reason="setfacl is not installed (Debian: acl)")
def test_acls_as_they_are_typed(vm, root, tmp_path):
    """setfacl and getfacl, and what shows, copies and removes what they set; the guest goes by it, too."""

    def typed(script):
        done = subprocess.run(["sh", "-ec", script], cwd=root, capture_output=True, text=True, timeout=limit(60), check=False)
        assert (done.returncode, done.stderr) == (0, ""), f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def lists(top):
        """Of all that is in it, in no order: each filesystem has its own."""
        return sorted(typed(f"cd {top}; getfacl -Rn .").split("\n\n"))

    def inside(uid, script):
        job = vm.job()
        (job / "user").write_text(f"{uid}\n")
        job.start(script)
        status = job.wait()
        job.forget()
        return status == "exited 0"

    typed(f"umask 027; echo text > f; mkdir d; setfacl -m u:{ALICE}:rw,g:100:r f; setfacl -m u:{ALICE}:rx d; setfacl -d -m u:{ALICE}:rwx d; "
          "echo x > d/g; mkdir d/e")  # fmt: skip
    entries = ["user::rw-", f"user:{ALICE}:rw-", "group::r--", "group:100:r--", "mask::rw-", "other::---"]
    assert typed("getfacl -cn f").split() == entries
    assert typed("ls -l f")[:11] == "-rw-rw----+" and typed("ls -ld d/e")[:11] == "drwxrwx---+"
    below = ["user::rw-", f"user:{ALICE}:rwx", "#effective:rw-", "group::r-x", "#effective:r--", "mask::rw-", "other::---"]
    assert typed("getfacl -cn d/g").split() == below
    assert may(ALICE, "echo more >> f && cat d/g && touch d/e/new", root) and not may(BOB, "cat f || cat d/g", root)
    assert inside(ALICE, "cat /tmp/x/f /tmp/x/d/g && echo more >> /tmp/x/f") and not inside(BOB, "cat /tmp/x/f")
    # What copies takes them along, in the guest, out of it, and in again.
    typed(f"cp -a d copy; cp -p f f2; tar --acls -cf {tmp_path}/t.tar f d; mkdir out; tar --acls -xf {tmp_path}/t.tar -C out; "
          f"cp -a d {tmp_path}/back; cp -a {tmp_path}/back again; getfacl -R d > {tmp_path}/kept")  # fmt: skip
    tree = lists("d")
    for copy in "copy", "out/d", f"{tmp_path}/back", "again":
        assert lists(copy) == tree, copy
    assert typed("getfacl -cn f2 out/f").split() == entries * 2
    typed(f"setfacl -R -b d; setfacl -b f; chmod 640 f; setfacl -m m::r f2; getfacl -c f2 | setfacl --set-file=- out/f; setfacl -k copy")
    assert typed("find d f -exec getfacl -scn {} +") == "" and typed("ls -l f")[:11] == "-rw-r----- "
    assert "default" not in typed("getfacl -c copy") and typed("getfacl -cn out/f").split()[-2:] == ["mask::r--", "other::---"]
    assert not may(ALICE, "cat f", root) and not inside(ALICE, "cat /tmp/x/f") and not may(ALICE, "echo more >> f2", root)
    typed(f"setfacl --restore={tmp_path}/kept")
    assert lists("d") == tree
    # Where the guest's filesystem has none, that is said; in our tree too.
    for path in vm / "fs/proc/version", vm / "state":
        done = subprocess.run(["setfacl", "-m", f"u:{ALICE}:r", path], capture_output=True, text=True, timeout=limit(30), check=False)
        assert done.returncode == 1 and "Operation not supported" in done.stderr
        assert typed(f"getfacl -cp {path}").startswith("user::r")


def test_file_capabilities(vm, root, tmp_path):
    f = root / "f"
    f.write_text("program")
    f.chmod(0o777)
    os.setxattr(f, CAPABILITY, NET_RAW)
    os.setxattr(f, "user.u", b"u")
    subprocess.run(["cp", "-a", f, root / "copy"], check=True, timeout=limit(30))
    assert os.getxattr(root / "copy", CAPABILITY) == NET_RAW and os.getxattr(root / "copy", "user.u") == b"u"
    subprocess.run("tar --xattrs --xattrs-include='*' -cf t.tar f && mkdir out && tar --xattrs --xattrs-include='*' -xf t.tar -C out",
                   shell=True, cwd=root, check=True, timeout=limit(30))  # fmt: skip
    assert os.getxattr(root / "out/f", CAPABILITY) == NET_RAW
    # A write takes it away, of root too, as on any filesystem.
    for name, change in (("f", "echo x >> f"), ("copy", "truncate -s 3 copy"), ("out/f", "chown 1000 out/f")):
        subprocess.run(change, shell=True, cwd=root, check=True, timeout=limit(30))
        assert CAPABILITY not in os.listxattr(root / name), change
    # And what the host's programs gain of one is nothing.
    subprocess.run(["cp", "/usr/bin/python3", root / "py"], check=True, timeout=limit(60))
    os.chmod(root / "py", 0o755)
    os.setxattr(root / "py", CAPABILITY, NET_RAW)
    assert "CapEff:\t0000000000000000" in attempt(ALICE, "./py -c 'print(open(\"/proc/self/status\").read())'", root).stdout


@pytest.mark.parametrize("change", [
    "echo x >> f", "echo x > f", ": > f", "truncate -s 1 f", "fallocate -l 100 f",
    "python3 -c 'import os; os.truncate(\"f\", 2)'",
])
def test_set_user_id_bits_go_with_a_write_of_others(vm, root, change):
    f = root / "f"
    for uid in 0, ALICE:
        f.write_text("text")
        os.chown(f, 1000, 1000)
        f.chmod(0o6777)
        subprocess.run(["setpriv", f"--reuid={uid}", "--clear-groups", "sh", "-c", change], cwd=root, check=True,
                       timeout=limit(30))  # fmt: skip
        assert os.stat(f).st_mode & 0o7777 == (0o777 if uid else 0o6777), (uid, change)
        assert vm.run("stat -c %a /tmp/x/f").strip() == ("777" if uid else "6777")


def test_set_user_id_bits_go_with_the_owner(vm, root):
    f = root / "f"
    f.write_text("text")
    f.chmod(0o6777)
    os.chown(f, 1000, 1000)
    assert os.stat(f).st_mode & 0o7777 == 0o777
    # One that is made so stays so.
    os.mknod(root / "n", 0o106751)
    fd = os.open(root / "c", os.O_CREAT | os.O_WRONLY, 0o4711)
    os.close(fd)
    assert os.stat(root / "n").st_mode & 0o7777 == 0o6751 & ~os.umask(os.umask(0o22) or 0o22)
    assert os.stat(root / "c").st_mode & 0o7777 == 0o4711


def test_of_a_snapshot(vm, root, prepared):
    f = root / "f"
    f.touch()
    os.setxattr(f, "user.u", b"u")
    os.setxattr(f, CAPABILITY, NET_RAW)
    os.setxattr(f, ACCESS, acl(6, 0, 0, 6, [(ALICE, 6)]))
    kept = vm.snapshot() / "fs/tmp/x/f"
    assert os.getxattr(kept, "user.u") == b"u" and os.getxattr(kept, CAPABILITY) == NET_RAW
    assert os.getxattr(kept, ACCESS) == acl(6, 0, 0, 6, [(ALICE, 6)])
    assert set(os.listxattr(kept)) == {"user.u", CAPABILITY, ACCESS}
    with fails(errno.ENODATA):
        os.getxattr(kept, "user.none")
    with fails(errno.EROFS):
        os.setxattr(kept, "user.u", b"x")


def test_what_a_hostile_guest_says(sbx, captive):  # noqa: F811
    files = captive / "fs"
    with fails(errno.EIO):
        os.getxattr(files / "f:xattr=65537:xn=10", "user.a")
    with fails(errno.EIO):
        os.getxattr(files / "f:xattr=10:xn=11:hash=1", "user.a")
    with fails(errno.EIO):
        os.getxattr(files / "f:xattr=60000:xn=0:hash=1", "user.a")
    with fails(errno.EIO):  # another value each time
        os.getxattr(files / "f:xattr=60000:xn=30000", "user.a")
    assert os.getxattr(files / "f:xattr=60000:xn=30000:hash=1", "user.a") == b"x" * 60000
    for kind in "void", "open":
        assert outcome(os.listxattr, files / f"f:names={kind}") == errno.EIO
    assert set(os.listxattr(files / "f:names=secret")) == {"user.a", "trusted.b", "security.e"}
    # An ACL that is none lets nobody in, and stops nothing.
    vm = captive
    vm.path.chmod(0o755)
    assert not may(ALICE, f"cat '{files}/f:mode=100660:xattr=4:xn=4'", files)
    with fails(errno.EIO):
        os.stat(files / "d:uid=7:xattr=4:xn=4/f")
    assert outcome(os.getxattr, files / f"f:{GETXATTR}={errno.EOPNOTSUPP}", ACCESS) == errno.ENODATA
    assert sbx.alive
