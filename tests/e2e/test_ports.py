# SPDX-License-Identifier: MIT
"""Ports of a guest's loopback through the agent: tcp/PORT, sbx dial and sbx forward."""
import contextlib
import errno
import os
import select
import socket
import subprocess
import threading
import time

import pytest

from harness import eventually, fails, limit, read, write
from servers import denied, fetch, listen, put_netprobe


@pytest.fixture
def vm(prepared, netprobe):
    vm = prepared.fork("vm")
    put_netprobe(vm, netprobe)
    return vm


def test_dial_and_forward_need_no_network(cli, build, sbx, vm):
    write(vm / "net/mode", "none")
    vm.sh("mkdir -p /srv && echo vm > /srv/name && httpd -p 127.0.0.1:8080 -h /srv")
    done = cli("dial", "vm", "8080", input=b"GET /name HTTP/1.0\r\n\r\n")
    assert done.returncode == 0 and done.stdout.endswith(b"vm\n") and done.stdout.startswith(b"HTTP/1.1 200")
    refused = cli("dial", "vm", "8081", input=b"")
    assert refused.returncode != 0 and b"refused" in refused.stderr
    assert cli("dial", "vm", "http").returncode == 2
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = dict(os.environ, SBX_MOUNT=str(sbx.path))
    with subprocess.Popen([build / "sbx", "forward", "vm", f"{port}:8080"], env=env) as forward:
        try:
            answers = []

            def ask_there():
                with contextlib.suppress(ConnectionRefusedError):
                    answers.append(fetch("127.0.0.1", port))
                return answers

            eventually(ask_there, 10, "nobody listens")
            threads = [threading.Thread(target=ask_there) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(answers) == 9 and all(answer.endswith(b"vm\n") for answer in answers)
        finally:
            forward.terminate()
    assert read(vm / "net/connections") == "" and denied(vm) == []
    eventually(lambda: not os.listdir(vm / "exec"), 10, "a job outlives its connection")


def connect(path, flags=os.O_RDWR):
    return os.open(path, flags)


def test_a_port_is_a_file(vm):
    """An open of tcp/PORT is a connection; ls lists who listens, and no connection is somebody that does."""
    tcp = vm / "tcp"
    write(vm / "net/mode", "none")
    assert os.listdir(tcp) == []
    with fails(errno.ECONNREFUSED, vm / "error"):
        connect(tcp / "8080")
    assert "tcp/8080" in read(vm / "error") and "refused" in read(vm / "error")
    vm.sh("mkdir -p /srv && echo vm > /srv/name && httpd -p 127.0.0.1:8080 -h /srv && httpd -p '[::1]:8081' -h /srv; httpd -p 10.0.2.15:8082 -h /srv")
    assert sorted(os.listdir(tcp)) == ["8080", "8081"]  # and not what has another address only
    # Each connection is a child of the agent's, by its name: other processes come and go.
    agents = "n=0; for i in /proc/[0-9]*; do [ \"$(cat $i/comm 2>&1)\" != \"$(cat /proc/1/comm)\" ] || n=$((n + 1)); done; echo $n"
    before = vm.sh(agents)
    for port in "8080", "8081":
        fd = connect(tcp / port)
        os.write(fd, b"GET /name HTTP/1.0\r\n\r\n")
        with open(fd, "rb", buffering=0) as file:
            assert file.readall().endswith(b"vm\n"), port
    assert sorted(os.listdir(tcp)) == ["8080", "8081"]
    out = subprocess.run(["bash", "-c", 'exec 3<> "$1"; printf "GET /name HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3', "-", tcp / "8080"], capture_output=True, check=True).stdout
    assert out.endswith(b"vm\n")
    for name in "0", "65536", "080", "http", "-1", "+80", "80 ":
        assert not os.path.exists(tcp / name), name
    assert (tcp / "1").stat().st_mode & 0o777 == 0o600
    listed = {entry.name: entry.inode() for entry in os.scandir(tcp)}
    assert {name: (tcp / name).stat().st_ino for name in listed} == listed
    with fails(errno.EACCES):
        connect(tcp / "x", os.O_RDWR | os.O_CREAT)
    eventually(lambda: vm.sh(agents) == before, 20, "connections outlive their files")
    assert read(vm / "net/connections") == "" and denied(vm) == []


def test_both_ways_of_a_port_at_once(vm):
    """While one waits for an answer another writes through the same descriptor, and what was written arrives."""
    listen(vm, "/root/netprobe serve 7000", 7000)
    listen(vm, "/root/netprobe take 7001 > /tmp/got", 7001)
    fd = connect(vm / "tcp/7000")
    got = []
    reader = threading.Thread(target=lambda: got.append(os.read(fd, 100)))
    reader.start()
    time.sleep(0.2)  # it is within the read; nothing tells when
    os.write(fd, b"hello")
    reader.join(limit(10))
    assert got == [b"hello"]
    size = 1 << 20
    back = bytearray()

    def take():
        while len(back) < size:
            back.extend(os.read(fd, 1 << 16))

    taker = threading.Thread(target=take)
    taker.start()
    sent = os.urandom(size)
    at = memoryview(sent)
    while at:
        at = at[os.write(fd, at[:100000]) :]
    taker.join(limit(20))
    assert bytes(back) == sent
    os.close(fd)
    write(vm / "tcp/7001", "written, and closed at once")
    eventually(lambda: vm.sh("cat /tmp/got") == "written, and closed at once", 10, "what was written did not arrive")


def test_ports_of_machines_that_stand_still_or_go(sbx, vm):
    listen(vm, "/root/netprobe serve 7000", 7000)
    fd = connect(vm / "tcp/7000")
    fork = vm.fork("w1")
    assert os.listdir(fork / "tcp") == ["7000"]
    other = connect(fork / "tcp/7000")
    for each in fd, other:
        os.write(each, b"x")
        assert os.read(each, 10) == b"x"
    os.close(other)
    vm.ctl("pause")
    with fails(errno.EAGAIN, vm / "error"):
        connect(vm / "tcp/7000")
    with fails(errno.EAGAIN):
        os.listdir(vm / "tcp")
    vm.ctl("resume")
    os.write(fd, b"y")
    assert os.read(fd, 10) == b"y"
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLOUT)
    assert poll.poll(0) == [(fd, select.POLLOUT)]
    vm.ctl("kill")
    eventually(lambda: poll.poll(0)[0][1] & select.POLLHUP, 5, "poll does not tell the end")
    assert os.read(fd, 10) == b""
    with fails(errno.EPIPE):
        os.write(fd, b"z")
    with fails(errno.EHOSTDOWN):
        connect(vm / "tcp/7000")
    vm.remove()
    with fails(errno.ENODEV):
        os.write(fd, b"z")
    os.close(fd)
    fork.remove()


def test_connections_to_ports_are_bounded(own_mount, netprobe):
    vm = own_mount(options=["--max-jobs", "5"]).create("few")
    put_netprobe(vm, netprobe)
    listen(vm, "/root/netprobe serve 7000", 7000)
    fds = [connect(vm / "tcp/7000") for _ in range(5)]
    with fails(errno.ENOSPC, vm / "error"):
        connect(vm / "tcp/7000")
    for fd in fds:
        os.close(fd)
    eventually(lambda: vm.sh("echo up") == "up\n" if can(lambda: connect(vm / "tcp/7000")) else False, 15, "they stay")


def can(open_it):
    try:
        os.close(open_it())
    except OSError:
        return False
    return True
