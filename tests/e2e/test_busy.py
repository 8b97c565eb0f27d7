# SPDX-License-Identifier: MIT
"""Captured while it works: two CPUs, a disk that is written to, and timers that fire. Every fork must be sound."""
import json
import os
import subprocess

import pytest

from harness import SCALE, Snapshot, limit

ROUNDS = 20 if SCALE == 1 else 5

# Two writers, each with a sum beside every file that it has finished, and trees that come and go; and a ticker,
# which lives by the guest's timer. The sum is written last, so that a file with a sum is whole.
WORKERS = """
mkdir -p /root/busy /run/busy
writer() {
    n=0
    while :; do
        n=$((n+1)) at=/root/busy/$1.$((n%8))
        rm -f $at.sum
        head -c $((n%5*30000+1000)) /dev/urandom > $at
        mkdir -p $at.tree/a/b && echo $n > $at.tree/a/b/c && mv $at.tree/a /root/busy/$1.moved && rm -r /root/busy/$1.moved $at.tree
        [ $((n%4)) = 0 ] && sync
        (cd /root/busy && md5sum $1.$((n%8)) > $at.new) && mv $at.new $at.sum
        echo $n > /run/busy/$1.new && mv /run/busy/$1.new /run/busy/$1
    done
}
ticker() {
    n=0
    while :; do n=$((n+1)); echo $n > /run/busy/tick.new; mv /run/busy/tick.new /run/busy/tick; sleep 0.02; done
}
for name in one two; do (exec > /dev/null 2>&1; writer $name) & echo $! >> /run/busy/pids; done
(exec > /dev/null 2>&1; ticker) & echo $! >> /run/busy/pids
until [ -e /run/busy/one ] && [ -e /run/busy/two ] && [ -e /run/busy/tick ]; do sleep 0.05; done
"""

# All three go on; then the writers are ended, and what they have finished is as they wrote it.
CHECK = """
set -e
[ $(nproc) = 2 ]
up=$(cut -d. -f1 /proc/uptime) one=$(cat /run/busy/one) two=$(cat /run/busy/two) tick=$(cat /run/busy/tick)
while [ $(cat /run/busy/one) = $one ] || [ $(cat /run/busy/two) = $two ] || [ $(cat /run/busy/tick) -lt $((tick+3)) ]; do sleep 0.02; done
kill $(cat /run/busy/pids)
now=$(cut -d. -f1 /proc/uptime)
[ $now -ge $up ] && [ $now -lt $((up+LIMIT)) ]
cd /root/busy
cat *.sum | md5sum -c > /run/busy/sums 2>&1 || { cat /run/busy/sums; exit 1; }
sync
echo $one $two $tick
"""


def overlay(vm):
    """The disk layer that the machine writes to: the one its process has open for writing."""
    fds = f"/proc/{vm.pid}/fd"
    found = set()
    for fd in os.listdir(fds):
        path = os.readlink(f"{fds}/{fd}")
        flags = next(line for line in open(f"/proc/{vm.pid}/fdinfo/{fd}") if line.startswith("flags:"))
        if path.endswith(".qcow2") and int(flags.split()[1], 8) & os.O_ACCMODE == os.O_RDWR:
            found.add(path)
    assert len(found) == 1, found
    return found.pop()


def tool(*argv, ok=(0,)):
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=limit(60), check=False)
    assert done.returncode in ok, f"{argv} -> {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def check_disk(layer, work):
    """The layer and the one below it are sound qcow2 files, and the filesystem in them is clean after its journal."""
    info = json.loads(tool("qemu-img", "info", "--output=json", layer))
    tool("qemu-img", "check", "-q", layer)
    tool("qemu-img", "check", "-q", info["full-backing-filename"])
    raw = work / "disk"
    tool("qemu-img", "convert", "-O", "raw", layer, raw)
    tool("e2fsck", "-y", "-E", "journal_only", raw, ok=(0, 1))
    tool("e2fsck", "-fn", raw)
    raw.unlink()


@pytest.mark.timeout(limit(300))
@pytest.mark.long
def test_captures_of_a_busy_machine_in_a_row(sbx, tmp_path):
    vm = sbx.create("busy", cpus=2, cpus_max=2)
    (vm / "fs/root/workers").write_text(WORKERS)
    vm.sh(". /root/workers")
    script = CHECK.replace("LIMIT", str(limit(60)))
    last = [0, 0, 0]
    for i in range(ROUNDS):
        before = [int(word) for word in vm.sh("cat /run/busy/one /run/busy/two /run/busy/tick").split()]
        assert all(now >= then for now, then in zip(before, last)) and before[2] > last[2], (last, before)
        last = before
        vm.ctl("checkpoint")
        fork = Snapshot((vm / "snapshots/latest").resolve()).fork(f"w{i}")
        seen = [int(word) for word in fork.sh(script).split()]
        assert all(now >= then for now, then in zip(seen, before)), (before, seen)
        layer = overlay(fork)
        fork.ctl("kill")
        check_disk(layer, tmp_path)
        fork.remove()
    assert vm.sh("ls /root/busy | grep sum")  # no glob: the workers remove files
