# SPDX-License-Identifier: MIT
"""A resolver for tests, and this host's own addresses."""
import contextlib
import re
import socket
import subprocess
import threading


def own_addresses():
    out = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=False).stdout
    return [a for a in re.findall(r"inet ([0-9.]+)", out) if not a.startswith("127.")]


class Names:
    """A resolver on this host's loopback: name -> IPv4 addresses; what it was asked for is in `asked`."""

    def __init__(self, table):
        self.table, self.asked = table, []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                query, who = self.socket.recvfrom(4096)
                self.socket.sendto(self.answer(query), who)

    def answer(self, query):
        at, labels = 12, []
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        name, kind = ".".join(labels).lower(), int.from_bytes(query[at + 1 : at + 3], "big")
        self.asked.append(name)
        found = self.table.get(name)
        records = [socket.inet_aton(a) for a in found or [] if kind == 1]
        code = 0x8180 if found is not None else 0x8183
        head = query[:2] + code.to_bytes(2, "big") + b"\0\1" + len(records).to_bytes(2, "big") + b"\0\0\0\0"
        return head + query[12 : at + 5] + b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + r for r in records)
