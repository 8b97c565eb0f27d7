# SPDX-License-Identifier: MIT
"""fs/: listings bring the attributes along, and lookups in a row are answered together; both are true."""
import os
import subprocess
import time

import pytest

from harness import limit


@pytest.fixture
def root(vm):
    vm.sh("mkdir /root/work; cd /root/work; i=0; while [ $i -lt 700 ]; do echo $i > $i; i=$((i+1)); done; "
          "mkdir d; ln -s 7 l; ln -s /etc/passwd a; mkfifo p; ln 1 h; mknod n c 1 3; chmod 4755 5")  # fmt: skip
    return vm / "fs/root/work"


def same(vm, root):
    """What ls says of all, here and there."""
    there = vm.sh("cd /root/work; stat -c '%n %s %a %h %Y %u %g' * | grep -v '^[alpd] '").splitlines()
    time.sleep(0.15)
    listed = sorted(os.scandir(root), key=lambda entry: entry.name)
    here = []
    for entry in listed:
        st = entry.stat(follow_symlinks=False)
        assert entry.inode() == st.st_ino
        if entry.name not in "alpd":
            mode = st.st_mode & 0o7777
            here.append(f"{entry.name} {st.st_size} {mode:o} {st.st_nlink} {int(st.st_mtime)} {st.st_uid} {st.st_gid}")
    assert sorted(here) == sorted(there)


@pytest.mark.timeout(limit(120))
def test_a_listing_with_attributes(vm, root):
    same(vm, root)
    assert os.readlink(root / "l") == "7" and os.lstat(root / "l").st_size == 1
    assert os.lstat(root / "a").st_size == len(os.readlink(root / "a"))
    done = subprocess.run(["ls", "-lR", root], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) > 700
    vm.sh("cd /root/work; for i in 1 2 3 4 5 6 7; do echo more and more > $i; done; rm 8 9; echo new > 10")
    same(vm, root)
    # One that is being read shows what has become of a name, and nothing older than a moment.
    for entry in os.scandir(root):
        os.unlink(entry.path) if entry.is_file(follow_symlinks=False) else None
    assert sorted(os.listdir(root)) == ["a", "d", "l", "n", "p"]


@pytest.mark.timeout(limit(120))
def test_lookups_in_a_row(vm, root):
    """Each name's own, whoever changes it: nothing is remembered for longer than a moment, or over a command."""
    for i in range(100):
        assert os.stat(root / str(i)).st_size == len(str(i)) + 1
    vm.run("cd /root/work; for i in 1 2 3 4; do echo changed $i > $i; done; rm 50; echo made > made; mv 51 52")
    assert [os.stat(root / str(i)).st_size for i in range(1, 5)] == [10] * 4
    assert not (root / "50").exists() and not (root / "51").exists() and (root / "made").exists()
    time.sleep(0.15)
    for i in range(100, 200):
        os.stat(root / str(i))
    (root / "150").write_text("by the host")
    os.unlink(root / "151")
    os.rename(root / "152", root / "153")
    assert os.stat(root / "150").st_size == 11 and not (root / "151").exists() and not (root / "152").exists()
    assert (root / "153").read_text() == "152\n"
    for name in vm.run("cd /proc/1/task; ls").split():
        assert (vm / "fs/proc/1/task" / name).exists()


def test_listing_of_directories_beside_each_other(vm, root):
    vm.sh("cd /root/work/d; for i in 1 2 3 4 5 6 7 8 9; do mkdir -p $i/a/b; echo x > $i/a/b/f; done")
    found = subprocess.run(["find", root / "d", "-size", "-2", "-name", "f"], capture_output=True, text=True, check=True)
    assert len(found.stdout.splitlines()) == 9
    subprocess.run(["rm", "-r", root / "d"], check=True)
    assert vm.run("ls -d /root/work/d").startswith("ls: ")
