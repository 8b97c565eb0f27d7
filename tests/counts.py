# SPDX-License-Identifier: MIT
"""counts: what the daemon does for one operation, in numbers that depend on no host: system calls and turns of its loop

strace(1) writes down what it calls, with what it reads from /dev/fuse. A caller marks an operation by looking up a name
that is not there before it and after it: the requests for these are in what strace wrote, and what is between the two
belongs to the operation, to the four requests of the marks' own, and to whatever the daemon did meanwhile of itself. So
of several times the fewest count.
"""
import contextlib
import os
import re
import signal
import subprocess


class Counts:
    """System calls of a daemon's threads from begin to end, by the name of the operation."""

    def __init__(self, mount, output):
        self.mount, self.output, self.n = mount, output, 0
        argv = ["strace", "-f", "-s", "80", "-o", output, "-p", str(mount.process.pid)]
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        attached = self.process.stderr.readline()
        assert "attached" in attached, attached

    @contextlib.contextmanager
    def of(self, name):
        self.n += 1
        mark = f"mark-{self.n}-{name.replace(' ', '-')}"
        os.path.lexists(self.mount / f"{mark}-begins")
        yield
        os.path.lexists(self.mount / f"{mark}-ends")

    def stop(self):
        """{name: [calls of the first time, of the second, ...]}, less what marking alone takes. The second time: {}."""
        if self.process.poll() is not None:
            return {}
        with self.of("nothing"):
            pass
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        found, under_way = {}, {}
        with open(self.output, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if mark := re.search(r"mark-(\d+)-([a-z-]+)-(begins|ends)\\0", line):
                    number, name, what = mark.groups()
                    if what == "begins":
                        under_way[number] = 0
                        continue
                    found.setdefault(name, []).append(under_way.pop(number, 0))
                if "resumed>" not in line and "(" in line:
                    under_way = {number: n + 1 for number, n in under_way.items()}
        nothing = min(found.pop("nothing"))
        return {name: [n - nothing for n in each] for name, each in found.items()}
