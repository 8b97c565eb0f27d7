# SPDX-License-Identifier: MIT
"""bench_qemu: the peer, QEMU with the command line of our own machine, which restores RAM and devices from one migration
file in the page cache by -incoming; timed from the start of the process until it runs"""
import json
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from harness import limit


class Qmp:
    """As much of QEMU's monitor protocol as a migration needs."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        while self.socket.connect_ex(str(path)):
            time.sleep(0.001)
        self.file = self.socket.makefile("r")
        self.file.readline()
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            reply = json.loads(self.file.readline())
            if "error" in reply:
                raise RuntimeError(reply["error"]["desc"])
            if "return" in reply:
                return reply["return"]

    def until(self, command, predicate):
        while not predicate(reply := self.call(command)):
            time.sleep(0.001)
        return reply


class PlainQemu:
    """Our machine as one would run it by hand: own RAM, sockets with names, the same devices. What it finds in its jail, or
    was given as a descriptor, it has from the host; its network leads nowhere."""

    def __init__(self, cmdline, guest, image, work):
        self.work = work
        self.guest = guest
        self.image = image
        self.argv = []
        words = iter(cmdline)
        for word in words:
            argument = next(words) if word.startswith("-") and word not in ("-nodefaults", "-no-user-config", "-no-reboot") else None
            if word in ("-sandbox", "-add-fd") or (word == "-global" and argument.startswith("migration.")):
                continue
            self.argv.append(word)
            if argument is not None:
                self.argv.append(self.rewrite(word, argument))

    def rewrite(self, option, argument):
        if option == "-object" and argument.startswith("memory-backend-file,id=ram,"):
            size = next(part for part in argument.split(",") if part.startswith("size="))
            return f"memory-backend-ram,id=ram,{size}"
        if option == "-chardev":
            name = next(part for part in argument.split(",") if part.startswith("id="))[3:]
            if name == "console":
                return "null,id=console"
            return f"socket,id={name},path={self.work}/{name},server=on,wait=off"
        if option == "-blockdev":
            node = json.loads(argument)
            del node["backing"]  # the disk says what it is
            node["file"]["filename"] = f"{self.work}/disk"
            return json.dumps(node)
        if option == "-netdev":
            return "hubport,id=net,hubid=0"
        if option in ("-kernel", "-initrd"):
            return f"{self.guest}{argument}"
        return argument

    def overlay(self):
        """A fresh disk on the same image as our machine's."""
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.image, f"{self.work}/disk"], check=True
        )

    def start(self, *extra):
        for name in "qmp", "agent":
            Path(f"{self.work}/{name}").unlink(missing_ok=True)
        return subprocess.Popen([*self.argv, *extra], stdin=subprocess.DEVNULL)

    def capture(self):
        """Boot until the agent says it is ready, and save everything to a file."""
        self.overlay()
        process = self.start()
        qmp = Qmp(f"{self.work}/qmp")
        agent = socket.socket(socket.AF_UNIX)
        agent.connect(f"{self.work}/agent")
        agent.settimeout(limit(60))
        assert agent.recv(1)
        qmp.call("stop")
        qmp.call("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        qmp.call("migrate", uri=f"exec:cat > {self.work}/state")
        done = qmp.until("query-migrate", lambda reply: reply.get("status") in ("completed", "failed"))
        assert done["status"] == "completed"
        process.kill()
        process.wait()

    def restore(self):
        process = self.start("-incoming", f"exec:cat {self.work}/state")
        qmp = Qmp(f"{self.work}/qmp")
        qmp.until("query-status", lambda reply: reply["status"] in ("paused", "running"))
        qmp.call("cont")
        qmp.until("query-status", lambda reply: reply["status"] == "running")
        return process


def run(mount, samples, n):
    vm = mount.create("peer")
    cmdline = Path(f"/proc/{vm.pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    image = next((mount.state / "layers").glob("*.raw"))  # the only one
    with tempfile.TemporaryDirectory(dir=mount.path.parent) as work:
        plain = PlainQemu(cmdline, mount.build / "guest", image, work)
        plain.capture()
        for _ in range(n):
            process = samples.time("plain qemu -incoming", plain.restore)
            process.kill()
            process.wait()
    vm.remove()
