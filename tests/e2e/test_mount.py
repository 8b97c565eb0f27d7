# SPDX-License-Identifier: MIT
"""mount -t fuse.sbxfs, and options that come from a file."""
import os
import shlex
import subprocess

import pytest

from harness import TOP, children, limit, read, reap, wait_gone

# In mounts of its own, whose /usr/sbin has what the package puts there.
SCRIPT = """
set -e
mkdir "$tmp/over" "$tmp/sbx"
mount -t tmpfs over "$tmp/over"
mkdir "$tmp/over/upper" "$tmp/over/work"
mount -t overlay -o "lowerdir=/usr/sbin,upperdir=$tmp/over/upper,workdir=$tmp/over/work" over /usr/sbin
ln -s "$build/sbxfs" /usr/sbin/mount.fuse.sbxfs
mount -t fuse.sbxfs -o "$options,noauto,noatime,net=none" store "$tmp/sbx"
findmnt -no SOURCE,FSTYPE,OPTIONS "$tmp/sbx"
stat -c '%a %g' "$tmp/sbx"
mkdir "$tmp/sbx/vm"
cat "$tmp/sbx/vm/state" "$tmp/sbx/vm/net/mode"
echo start >"$tmp/sbx/vm/ctl"
daemon=$(sed -n "s/^pid //p" "$tmp/sbx/status")
umount "$tmp/sbx"
# Suspending the machine takes a while. Nothing is asked again here: there is a tree, or there is none.
mount -t fuse.sbxfs -o "$options,noauto,noatime,net=none" store "$tmp/sbx"
[ "$(sed -n "s/^pid //p" "$tmp/sbx/status")" != "$daemon" ]
cat "$tmp/sbx/vm/state"
umount "$tmp/sbx"
"""


@pytest.fixture
def config(tmp_path, engine, guest, new_state):
    path = tmp_path / "sbxfs.conf"
    path.write_text(f"# of a test\nstate = {new_state()}\nengine = {engine}\nguest = {guest}\nmode = 1775\ngroup = 7\n")
    return path


@pytest.mark.skipif(os.geteuid() != 0, reason="mount(8) is for root")
@pytest.mark.any_engine
def test_mount_of_the_system(build, config, tmp_path):
    """The helper is found by its name, returns when the tree is there, and umount ends it; the next waits for its end."""
    known = children()
    env = dict(os.environ, tmp=str(tmp_path), build=str(build), options=f"config={config},keep")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=limit(60), check=False
    )
    assert done.returncode == 0, done.stderr
    mounted, root, state, net, then = done.stdout.splitlines()
    assert mounted.split()[:2] == ["store", "fuse.sbxfs"]
    assert {"noatime", "nosuid", "nodev", "default_permissions"} <= set(mounted.split()[2].split(","))
    assert (root, state, net, then) == ("1775 7", "created", "none", "suspended")
    for pid in children() - known:
        wait_gone(pid, 20)
    assert not reap(known)


@pytest.mark.any_engine
def test_options_of_a_file(own_mount, config, tmp_path):
    """The command line counts more; what is not said there the file says."""
    config.write_text(config.read_text() + "max-sandboxes = 1\nnet = none\npool = 9\n")
    mount = own_mount(options=("--config", str(config), "--net", "allow"))
    st = os.stat(mount.path)
    assert (st.st_mode & 0o7777, st.st_gid) == (0o1775, 7)
    os.mkdir(mount / "a")
    assert read(mount / "a/net/mode") == "allow\n"
    with pytest.raises(OSError, match="No space"):
        os.mkdir(mount / "b")


def test_the_shipped_file(build, tmp_path):
    """All of it is right, with what it leaves to the reader, too."""
    lines = (TOP / "contrib/sbxfs.conf").read_text().splitlines()
    all_of_it = [line.removeprefix("#") for line in lines if line and not line.startswith("# ")]
    assert len(all_of_it) > 8 and all(" = " in line for line in all_of_it if line), all_of_it
    path = tmp_path / "sbxfs.conf"
    path.write_text("\n".join(all_of_it).replace("= sbxfs", "= root"))
    argv = f"{build}/mount.fuse.sbxfs store /nosuch -f -o config={shlex.quote(str(path))}"
    done = subprocess.run(argv.split(), capture_output=True, text=True, timeout=limit(20), check=False)
    assert (done.returncode, done.stderr) == (0, "")
    path.write_text("\n".join([*all_of_it, "memory-defualt = 1G"]).replace("= sbxfs", "= root"))
    done = subprocess.run(argv.split(), capture_output=True, text=True, timeout=limit(20), check=False)
    assert done.returncode == 2 and f"{path}:{len(all_of_it) + 1}: " in done.stderr and "memory-defualt" in done.stderr
