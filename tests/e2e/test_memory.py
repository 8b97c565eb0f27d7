# SPDX-License-Identifier: MIT
"""What a fork costs in memory, counted by the host's kernel."""
import os
import re
import struct

import pytest

from harness import read

PAGE = 4096
PRESENT, SHARED = 1 << 63, 1 << 61  # Documentation/admin-guide/mm/pagemap.rst: bit 61 is a page of a file


def mappings(pid):
    """(start, end, (offset, inode, path), {field: bytes}) of each."""
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ (\S+) \S+ (\d+) *(.*)", line):
                start, end = int(found[1], 16), int(found[2], 16)
                current = (start, end, (int(found[3], 16), int(found[4]), found[5]), {})
                yield current
            else:
                key, words = line.split(":", 1)
                if words.endswith(" kB\n"):
                    current[3][key] = int(words.split()[0]) * 1024


def written_pages(pid, start, end, offset, inode):
    """(changed, same): pages of a part of the RAM that are the process's own, and differ from the template or not."""
    fds = [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
    template = next(fd for fd in fds if "sbx-ram" in os.readlink(fd) and os.stat(fd).st_ino == inode)
    changed = same = 0
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        with open(template, "rb", 0) as before:
            pagemap.seek(start // PAGE * 8)
            entries = struct.unpack(f"{(end - start) // PAGE}Q", pagemap.read((end - start) // PAGE * 8))
            for i, entry in enumerate(entries):
                if entry & PRESENT and not entry & SHARED:
                    now = os.pread(memory.fileno(), PAGE, start + i * PAGE)
                    if now == os.pread(before.fileno(), PAGE, offset + i * PAGE):
                        same += 1
                    else:
                        changed += 1
    return changed, same


def test_an_idle_fork_owns_little(sbx, engine):
    """
    Of a guest with 512 MiB: at most 2 MiB are private beyond the pages that the guest has changed. Pages of the RAM that
    are private and yet the same as in the template count as ours.
    """
    if engine != "kvm":
        pytest.skip("a QEMU process has tens of MiB of its own")
    vm = sbx.create("origin", memory="512M", memory_max="512M")
    snap = vm.snapshot()
    first = snap.fork("first")
    idle = snap.fork("idle")
    assert first.run("echo answers") == "answers\n" and idle.state == "running"
    private = ram = size = changed = same = 0
    for start, end, (offset, inode, path), sizes in list(mappings(idle.pid)):
        if "sbx-ram" in path:
            size += end - start
            pages = written_pages(idle.pid, start, end, offset, inode)
            changed, same = changed + pages[0], same + pages[1]
            ram += sizes["Private_Dirty"] + sizes["Private_Clean"]
        else:
            private += sizes["Private_Dirty"] + sizes["Private_Clean"]
    assert size == 512 << 20
    print(f"process {private >> 10} KiB, RAM {ram >> 10} KiB: {changed} pages changed, {same} the same")
    assert changed, read(vm / "info")
    assert private + same * PAGE <= 2 << 20
