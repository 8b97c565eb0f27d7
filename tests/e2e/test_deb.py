# SPDX-License-Identifier: MIT
"""The Debian package: what can be seen of it without building it, and (SBX_OUTSIDE=1) all of its life in a new Debian."""
import os
import re
import shutil
import subprocess

import pytest

from harness import LAB, TOP

pytestmark = pytest.mark.any_engine

# In the new Debian, which has mounts and processes of its own. What is said on standard output is compared.
INSIDE = r"""
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get() { command apt-get -q -y "$@" >&2; }
unmount() {
	umount /sbx
	for pid in $(pgrep -x sbxfs); do tail --pid="$pid" -f /dev/null; done
}
cd /
apt-get update
apt-get install --no-install-recommends procps python3 qemu-system-x86 /packages/old.deb
apt-get install man-db
man -w sbxfs mount.fuse.sbxfs sbx >&2
/src/debian/tests/five-minutes >&2

echo "the group may"
useradd -m -G sbxfs alice
mount -t fuse.sbxfs -o untrusted=no sbxfs /sbx
as_alice() { setpriv --reuid alice --regid alice --init-groups "$@"; }
as_alice sh -c 'mkdir /sbx/vm && echo start > /sbx/vm/ctl && echo checkpoint kept > /sbx/vm/ctl'
echo one >/sbx/vm/fs/tmp/word
! setpriv --reuid nobody --clear-groups mkdir /sbx/his 2>&- || exit 1

echo "# changed" >>/etc/sbxfs.conf
apt-get install /packages/new.deb
echo "an upgrade"
dpkg-query -W -f '${Version}\n' sbxfs
cat /sbx/vm/state /sbx/vm/fs/tmp/word
tail -n 1 /etc/sbxfs.conf
mkdir /sbx/snapshots/kept/forks/w
sbx exec w hostname
rmdir /sbx/w
unmount
mount -t fuse.sbxfs -o untrusted=no sbxfs /sbx
sbx exec vm cat /tmp/word
ls /sbx/snapshots

echo "a purge keeps the store"
apt-get purge sbxfs
ls /var/lib/sbxfs/snapshots
unmount
apt-get install /packages/new.deb
echo "until it is told not to"
echo "sbxfs sbxfs/delete-store boolean true" | debconf-set-selections
apt-get purge sbxfs
[ ! -e /var/lib/sbxfs ] && [ ! -e /sbx ] && [ ! -e /etc/sbxfs.conf ]
"""

SAID = """the group may
an upgrade
VERSION
running
one
# changed
w
one
kept
a purge keeps the store
kept
until it is told not to
"""

# A root directory with everything that machines need, and an end that takes all of it along.
ENTER = """
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
exec chroot "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root bash -c "$inside"
"""


def control(field):
    text = re.search(rf"^{field}:(.*(?:\n .*)*)", (TOP / "debian/control").read_text(), re.M).group(1)
    return {re.split(r"[ (<]", item.strip())[0] for item in text.split(",")}


def test_it_is_of_this_version(build):
    version = subprocess.run([build / "sbxfs", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    assert re.match(rf"sbxfs \({re.escape(version)}-\d+\) ", (TOP / "debian/changelog").read_text())


def test_it_is_built_with_what_the_build_needs():
    wanted = set(re.search(r'^build="([^"]*)"', (TOP / "tools/deps").read_text(), re.M).group(1).split())
    libraries = {name for name in wanted if name.endswith("-dev")} - {"libc6-dev"}
    assert len(libraries) > 8 and libraries | {"kmod", "cpio", "acpica-tools", "pkg-config"} <= control("Build-Depends")


def next_revision(package, path):
    """The same package as version -2, quickly compressed."""
    unpacked = path.with_suffix("")
    subprocess.run(["dpkg-deb", "-R", package, unpacked], check=True)
    control_file = unpacked / "DEBIAN/control"
    control_file.write_text(re.sub(r"^Version: (.*)-\d+$", r"Version: \1-2", control_file.read_text(), flags=re.M))
    argv = ["dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "-b", unpacked, path]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(unpacked)


@pytest.mark.skipif(
    LAB or os.geteuid() != 0 or not os.environ.get("SBX_OUTSIDE") or not shutil.which("mmdebstrap"),
    reason="set SBX_OUTSIDE=1 to build the package and install it in a new Debian; a quarter of an hour",
)
@pytest.mark.timeout(3600)
def test_its_life_in_a_new_debian(tmp_path):
    """Built from a clean clone, clean for lintian, installed, used as README says, upgraded, purged."""
    tree, root = tmp_path / "clone", tmp_path / "root"
    subprocess.run(["git", "clone", "-q", TOP, tree], check=True)
    subprocess.run(["mmdebstrap", "--variant=apt", "--include=ca-certificates", "bookworm", root], check=True, timeout=900)
    (root / "packages").mkdir()
    subprocess.run(["make", "deb"], cwd=tree, check=True, stdin=subprocess.DEVNULL, timeout=1500)
    made = tree / "build/deb"
    if shutil.which("lintian"):
        argv = ["lintian", "--allow-root", "--fail-on", "error,warning", next(made.glob("*.changes"))]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout
    package = next(made.glob("sbxfs_*.deb"))
    shutil.copy(package, root / "packages/old.deb")
    next_revision(package, root / "packages/new.deb")
    shutil.copytree(tree, root / "src", ignore=shutil.ignore_patterns("build", ".git"))
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    try:
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER],
            env=dict(os.environ, root=str(root), inside=INSIDE),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=1500,
            check=False,
        )
        assert done.returncode == 0
        assert done.stdout == SAID.replace("VERSION", package.name.split("_")[1].rsplit("-", 1)[0] + "-2")
    finally:
        shutil.rmtree(root)
