# SPDX-License-Identifier: MIT
"""fs/: a signal that a program handles does not make its operations fail, and one that kills it does."""
import os
import subprocess
import sys

import pytest

from harness import limit

# Operations that cannot be repeated, while a timer rings all the time. Python goes on after EINTR by doing it again.
RINGING = """
import os, signal, sys, time
rung = [0]
def ring(*_): rung[0] += 1
signal.signal(signal.SIGALRM, ring)
os.chdir(sys.argv[1])
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
n = 0
while n < 100 or rung[0] < 50:
    name = str(n)
    os.mkdir(name)
    fd = os.open(name + "/f", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    assert os.write(fd, b"text" * 1000) == 4000
    assert os.fstat(fd).st_size == 4000
    assert os.pread(fd, 10000, 0) == b"text" * 1000
    os.close(fd)
    os.link(name + "/f", name + "/g")
    os.rename(name + "/f", name + "/h")
    os.symlink("h", name + "/l")
    assert sorted(os.listdir(name)) == ["g", "h", "l"]
    os.unlink(name + "/g")
    os.unlink(name + "/h")
    os.unlink(name + "/l")
    os.rmdir(name)
    n += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(rung[0])
"""


@pytest.mark.timeout(limit(120))
def test_a_timer_that_rings(vm):
    os.mkdir(vm / "fs/root/work")
    done = subprocess.run([sys.executable, "-c", RINGING, vm / "fs/root/work"], capture_output=True, text=True, check=False)
    assert not done.returncode and int(done.stdout) >= 50, done.stderr
    assert os.listdir(vm / "fs/root/work") == []


@pytest.mark.timeout(limit(120))
def test_a_shell_whose_children_end(sbx, vm):
    """bash hears SIGCHLD in the middle of what it does."""
    os.mkdir(vm / "fs/root/work")
    script = f"cd {vm.path}/fs/root/work; for k in $(seq 150); do sleep 0.0$((RANDOM%9+1)) & echo $k > f$k; done; wait"
    done = sbx.shell(script, shell="bash", timeout=limit(100))
    assert not done.stderr and len(os.listdir(vm / "fs/root/work")) == 150
    # Nor do control files say that they were interrupted when what they were asked for was done.
    script = f"for k in $(seq 40); do sleep 0.0$((RANDOM%3+1)) & echo pause > {vm.path}/ctl; echo resume > {vm.path}/ctl; done; wait"
    done = sbx.shell(script, shell="bash", timeout=limit(100))
    assert not done.stderr and not done.returncode
