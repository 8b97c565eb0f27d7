#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench_network: what a network costs a fork; and, run by itself, its throughput

Rows of tests/bench:

    fork, net=none            as `fork, ready`, of a snapshot whose network may reach nothing; and with net=public,
    fork, net=public          by turns
    idle fork, net=...        memory of its processes that have run one command and sent nothing
    fork that talked          the same, after two connections to this host, beside one that ran the same program twice
                              without; with its sbx-net; and that alone
    fork: a connection        from the first frame of a fork to the answer of a server on this host; and a second time
    fork to HTTP              mkdir, publish, and the answer of the web server that was captured running

By itself it measures bytes through sbx-net and through QEMU's own -netdev user, both ways, in one run

The same guest for both: the kernel of the sandboxes, an initramfs of busybox and netprobe made here, no disk and no
daemon. So it is the network that differs and nothing else. Data is checked. Servers listen on loopback.

    tests/bench_network.py [--build DIR] [--mib N] [--rounds N]
"""
import argparse
import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "e2e"))

import bench_forks  # noqa: E402
from harness import Snapshot  # noqa: E402

TOP = Path(__file__).resolve().parents[1]
NET_LINK, NET_POLICY, ALLOW = 1, 2, 1  # vm/net/net_messages.h, policy.h
BOARD = 1 << 20  # bytes, more than struct flow_board has
MAC = "52:54:00:12:34:56"

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
exec > /dev/console 2>&1
for module in $(cat /modules/list); do insmod /modules/$module; done
ifconfig lo up
ifconfig eth0 10.0.2.15 up
route add default gw 10.0.2.2
for word in $(cat /proc/cmdline); do case $word in bench.*) eval ${word#bench.};; esac; done
echo BENCH receive $(/netprobe receive $down)
echo BENCH send $(/netprobe send $up $bytes)
poweroff -f
"""


def initramfs(work):
    root = work / "root"
    for name in "bin", "modules", "proc", "dev":
        (root / name).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    source = TOP / "tests/e2e/netprobe.c"
    subprocess.run(["gcc", "-O2", "-static", "-s", "-pthread", "-o", root / "netprobe", source], check=True)
    guest = TOP / "build/guest"
    version = (guest / "kernel.version").read_text().strip()
    order = []
    for module in "virtio_mmio", "virtio_net":
        argv = ["/sbin/modprobe", "--dirname", guest / "modules", "--set-version", version, "--show-depends", module]
        out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        order += [path for path in re.findall(r"^insmod (\S+)", out, re.M) if path not in order]
    for path in order:
        (root / "modules" / Path(path).name).write_bytes(Path(path).read_bytes())
    (root / "modules/list").write_text("\n".join(Path(path).name for path in order))
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    with open(work / "initramfs", "wb") as out:
        find = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True)
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=root, input=find.stdout, stdout=out, check=True)
    return work / "initramfs"


def pattern():
    """What netprobe counts with; it repeats after 2 MiB."""
    return bytes((i * 2654435761 >> 13) & 0xFF for i in range(1 << 21))


class Servers:
    """One that sends `bytes` bytes, one that takes them and says how many came and when."""

    def __init__(self, total):
        self.total, self.got, self.pattern = total, 0, pattern() * 2
        self.down, self.up = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        self.times = {}
        for serve, listener in (self.send, self.down), (self.take, self.up):
            threading.Thread(target=self.accept, args=[serve, listener], daemon=True).start()

    @staticmethod
    def accept(serve, listener):
        with contextlib.suppress(OSError):
            while True:
                with listener.accept()[0] as connection:
                    serve(connection)

    def send(self, connection):
        began, at, chunk = time.monotonic(), 0, 1 << 20
        view = memoryview(self.pattern)
        while at < self.total:
            start = at % (1 << 21)
            at += connection.send(view[start : start + min(chunk, self.total - at)])
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # its end has come
        self.times["receive"] = time.monotonic() - began

    def take(self, connection):
        began, buffer = time.monotonic(), bytearray(1 << 20)
        self.got = 0
        while n := connection.recv_into(buffer):
            start = self.got % (1 << 21)
            assert buffer[:n] == self.pattern[start : start + n], "what came is not what was sent"
            self.got += n
        self.times["send"] = time.monotonic() - began


@contextlib.contextmanager
def sbx_net(build, ports):
    """A helper as sbxfs starts it; yields QEMU's end of the link."""
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link, qemu = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    board = os.memfd_create("board")
    os.ftruncate(board, BOARD)
    argv = [build / "sbx-net", "--control", str(theirs.fileno())]
    with subprocess.Popen(argv, pass_fds=[theirs.fileno()]) as helper, control, link, qemu:
        theirs.close()
        socket.send_fds(control, [bytes([NET_LINK])], [link.fileno(), board])
        rules = "".join(f"host:{port}\n" for port in ports).encode()
        control.send(bytes([NET_POLICY, ALLOW]) + struct.pack("<I", len(rules)) + rules + b"\0")
        yield qemu.fileno()
        control.close()
        helper.wait(10)
    os.close(board)


def boot(initrd, servers, netdev, device, fds=()):
    ports = f"bench.down={servers.down.getsockname()[1]} bench.up={servers.up.getsockname()[1]}"
    argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M"]
    argv += ["microvm,acpi=on,rtc=on,pit=off,pic=off,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off", "-bios", "qboot.rom", "-cpu", "Nehalem,-spec-ctrl,+rdrand,+arat", "-m", "512", "-serial", "stdio"]
    argv += ["-global", "virtio-mmio.force-legacy=false", "-accel", "kvm" if usable_kvm() else "tcg"]
    argv += ["-kernel", TOP / "build/guest/vmlinuz", "-initrd", initrd, "-netdev", netdev]
    argv += ["-device", f"virtio-net-device,netdev=net,mac={MAC}{device}"]
    argv += ["-append", f"console=ttyS0 quiet panic=-1 reboot=t pci=off edd=off no_timer_check tsc=reliable tsc_early_khz={tsc_khz()} mitigations=off {ports} bench.bytes={servers.total}"]
    done = subprocess.run(argv, pass_fds=fds, capture_output=True, text=True, timeout=1800, check=False)
    results = dict(re.findall(r"BENCH (\w+) (.*?)\s*$", done.stdout, re.M))
    for way in "receive", "send":
        assert results.get(way) == f"{servers.total} good", f"{way}: {results.get(way)}\n{done.stdout}{done.stderr}"
    assert servers.got == servers.total
    return dict(servers.times)


def tsc_khz():
    """QEMU's clocks are this host's, and the machine has none to measure them with."""
    return int(float(re.search(r"cpu MHz\s*: ([0-9.]+)", Path("/proc/cpuinfo").read_text())[1]) * 1000)


def usable_kvm():
    out = subprocess.run([TOP / "build/sbx", "doctor"], capture_output=True, text=True, check=False).stdout
    return "KVM on" in out


# ---- rows of tests/bench


def answer_lines():
    """A server on loopback that says a line to whoever comes; returns its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def serve():
        while True:
            with listener.accept()[0] as connection:
                connection.sendall(b"hello\n")

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def memory_of(vm):
    """Bytes that its processes have alone: its VMM, and its sbx-net if there is one."""
    pids = [vm.pid, int(vm.info["net_pid"])]
    return sum(bench_forks.memory(pid)[0] for pid in pids if pid)


def http(address, port):
    """The answer, as soon as there is one: who publishes listens when the write has returned."""
    with socket.create_connection((address, port), timeout=60) as connection:
        connection.sendall(b"GET /name HTTP/1.0\r\n\r\n")
        text = b""
        while data := connection.recv(65536):
            text += data
    assert text.endswith(b"web\n"), text


def forks(mount, samples, n):
    port = answer_lines()
    vm = mount.create("web")
    vm.run("mkdir -p /srv && echo web > /srv/name && httpd -p 8080 -h /srv")
    (vm / "net/allow").write_text(f"host:{port}\n")
    snaps = {}
    for mode in "none", "public":
        (vm / "net/mode").write_text(mode)
        vm.ctl(f"checkpoint net-{mode}")
        snaps[mode] = Snapshot(mount / f"snapshots/net-{mode}")
        snaps[mode].fork("first").remove()
    say = f"nc -w 20 10.0.2.2 {port} < /dev/null"
    for i in range(n):
        for mode, snap in snaps.items():
            bench_forks.until_ready(mount)
            fork = bench_forks.fork(samples, snap, f"net={mode}", f"n{i}")
            assert int(fork.info["net_pid"]) == 0, "a fork that sent nothing has a helper"
            samples.add_bytes(f"idle fork, net={mode}: its own", memory_of(fork))
            if mode == "none":
                for _ in range(2):
                    fork.run("nc -w 20 127.0.0.1 9 < /dev/null 2> /dev/null || true")
                samples.add_bytes("fork that ran as much and did not talk: its own", memory_of(fork))
            for what in ["a connection", "another connection"] if mode == "public" else []:
                assert samples.time(f"fork: {what}", fork.run, say) == "hello\n"
            if mode == "public":
                samples.add_bytes("fork that talked: its own", memory_of(fork))
                samples.add_bytes("fork that talked: its sbx-net", bench_forks.memory(int(fork.info["net_pid"]))[0])
            fork.remove()
        bench_forks.until_ready(mount)
        start = time.perf_counter()
        fork = snaps["public"].fork(f"h{i}")
        samples.time("publish a port", (fork / "net/publish").write_text, "8080\n")
        http((fork / "net/ip").read_text().strip(), 8080)
        samples.add("fork to HTTP through publish", time.perf_counter() - start)
        fork.remove()
    vm.remove()
    for snap in snaps.values():
        snap.remove()


# ---- by itself


def show(what, mib, times):
    ways = (f"guest {way}s {mib / seconds:6.1f} MiB/s" for way, seconds in sorted(times.items()))
    print(f"{what:12}  {mib} MiB: {', '.join(ways)}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=Path, default=TOP / "build")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    servers = Servers(args.mib << 20)
    ports = [servers.down.getsockname()[1], servers.up.getsockname()[1]]
    with tempfile.TemporaryDirectory() as work:
        initrd = initramfs(Path(work))
        for _ in range(args.rounds):
            with sbx_net(args.build.resolve(), ports) as fd:
                ours = boot(initrd, servers, f"dgram,id=net,local.type=fd,local.str={fd}", ",host_mtu=32000", [fd])
            show("sbx-net", args.mib, ours)
            show("-netdev user", args.mib, boot(initrd, servers, "user,id=net", ""))


if __name__ == "__main__":
    main()
