# SPDX-License-Identifier: MIT
"""What wakes a sandbox that sleeps, and that it has lost nothing."""
import contextlib
import errno
import os
import re
import socket
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest

from harness import eventually, fails, limit, read, read_bytes, value, write
from servers import put_netprobe
from test_life import QUIET, hidden

PORT = 7000


@pytest.fixture(scope="session")
def ledger(tmp_path_factory):
    """{name: bytes} of a server with a database, and of the libraries that it is run with."""
    program = tmp_path_factory.mktemp("ledger") / "ledger"
    source = Path(__file__).with_name("ledger.c")
    subprocess.run(["gcc", "-O1", "-pthread", "-o", program, source, "-l:libsqlite3.so.0"], check=True)
    libraries = re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout)
    return {os.path.basename(path): Path(path).read_bytes() for path in [*libraries, str(program)]}


@contextlib.contextmanager
def client(fd):
    yield fd
    os.close(fd)


def ask(fd, line):
    """An open connection to the ledger: what it answers."""
    os.set_blocking(fd, True)  # a socket with a timeout is not
    os.write(fd, line.encode() + b"\n")
    said = b""
    while part := os.read(fd, 4096):
        said += part
    return said.decode()


def dialed(vm, line):
    with client(os.open(vm / "tcp" / str(PORT), os.O_RDWR)) as fd:
        return ask(fd, line)


def published(vm, line):
    with socket.create_connection((value(vm / "net/ip"), PORT), timeout=limit(30)) as connection:
        return ask(connection.fileno(), line)


def by_a_job(vm, line):
    return vm.sh(f"echo '{line}' | nc 127.0.0.1 {PORT}")


def by_a_file(vm, line):
    assert read(vm / "fs/root/said") == "said\n"
    return dialed(vm, line)


@pytest.fixture
def keeper(sbx, prepared, ledger):
    """A sandbox whose ledger has a transaction open."""
    vm = prepared.fork("vm")
    vm.sh(QUIET + "; mkdir /root/lib; echo said > /root/said")
    for name, data in ledger.items():
        (vm / "fs/root/lib" / name).write_bytes(data)
        (vm / "fs/root/lib" / name).chmod(0o755)
    vm.sh(f"cd /root/lib; (exec ./ld-linux-x86-64.so.2 --library-path . ./ledger {PORT} /root/db) < /dev/null > /root/log 2>&1 &")
    eventually(lambda: str(PORT) in os.listdir(vm / "tcp"), 10, "the ledger does not listen")
    assert dialed(vm, "create table t (n); begin immediate; insert into t values (0)") == "ok\n"
    write(vm / "net/mode", "none")
    write(vm / "net/publish", f"{PORT}\n")
    return vm


def test_nothing_is_lost_in_sleep(sbx, keeper):
    """It counts, has a transaction open and listens: idle puts it to sleep, and whoever wants something wakes it."""
    pid, ticks, n = dialed(keeper, "pid"), int(dialed(keeper, "ticks")), 1
    write(keeper / "idle", "1")
    for way in dialed, published, by_a_job, by_a_file:
        keeper.wait_state("suspended", seconds=60)
        assert keeper.pid == 0 and len(hidden(sbx)) == 1
        assert way(keeper, f"insert into t values ({n})") == "ok\n", way
        n += 1
        assert dialed(keeper, "pid") == pid
        now = int(dialed(keeper, "ticks"))
        assert now > ticks, "it does not count on"
        ticks = now
    # Nobody else sees what is not committed, and then all of it is there.
    write(keeper / "idle", "0")
    assert dialed(keeper, "select count(*), sum(n) from t") == "5 10\nok\n"
    assert os.path.exists(keeper / "fs/root/db-journal")
    assert dialed(keeper, "commit") == "ok\n"
    assert not os.path.exists(keeper / "fs/root/db-journal")
    copy = sbx.state / "copy"
    copy.write_bytes(read_bytes(keeper / "fs/root/db"))
    with contextlib.closing(sqlite3.connect(copy)) as db:
        assert db.execute("select n from t order by n").fetchall() == [(n,) for n in range(5)]
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    os.unlink(copy)


def test_its_ports_stay_its_own(sbx, keeper, netprobe):
    """While it sleeps this host listens for it; many may come at once, and none is lost. A datagram wakes it, too."""
    ip = value(keeper / "net/ip")
    write(keeper / "net/publish", f"{PORT}\n5353/udp\n")
    keeper.ctl("suspend")
    with socket.socket() as taken, pytest.raises(OSError):
        taken.bind((ip, PORT))
    callers = [socket.create_connection((ip, PORT), timeout=limit(30)) for _ in range(8)]
    assert [ask(caller.fileno(), "select n from t") for caller in callers] == ["0\nok\n"] * 8
    for caller in callers:
        caller.close()
    assert keeper.state == "running"
    put_netprobe(keeper, netprobe)
    keeper.job("/root/netprobe hear 5353 > /root/heard", name="hears")
    eventually(lambda: ":14E9 " in keeper.run("cat /proc/net/udp"), 10, "nobody listens")
    keeper.ctl("suspend")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"word\n", (ip, 5353))
        keeper.wait_state("running")
        eventually(lambda: read(keeper / "fs/root/heard") == "word\n", 10, "a datagram was lost")
    # What is changed meanwhile holds, and what is not published any more wakes nobody.
    keeper.ctl("suspend")
    write(keeper / "net/publish", f"{PORT + 1}:{PORT}\n")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ip, PORT))
    assert keeper.state == "suspended"
    with socket.create_connection((ip, PORT + 1), timeout=limit(30)) as caller:
        assert ask(caller.fileno(), "select n from t") == "0\nok\n"
    keeper.ctl("suspend")
    keeper.ctl("kill")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ip, PORT + 1))


@pytest.mark.any_engine
def test_who_comes_while_it_is_put_to_sleep(sbx, keeper):
    """They are answered: it goes on, or is woken. What is open already at that moment is cut, as always."""
    ip, cut = value(keeper / "net/ip"), 0
    for _ in range(4):
        verb = threading.Thread(target=lambda: try_to(keeper, "suspend"))
        verb.start()
        before = time.monotonic()
        while verb.is_alive() or time.monotonic() < before + 0.5:
            try:
                with socket.create_connection((ip, PORT), timeout=limit(30)) as caller:
                    said = ask(caller.fileno(), "select n from t")
            except ConnectionResetError:
                said = ""
            cut += said != "0\nok\n"
            assert "0\nok\n".startswith(said)
        verb.join()
    assert cut <= 4 and keeper.state in ("running", "suspended")


def try_to(vm, verb):
    with contextlib.suppress(OSError):
        vm.ctl(verb)


@pytest.mark.any_engine
def test_one_that_cannot_be_woken_turns_callers_away(own_mount):
    """And stays asleep: nobody who waits is left waiting, and it is not tried for ever."""
    mount = own_mount()
    vm = mount.create("vm")
    write(vm / "net/publish", f"{PORT}\n")
    vm.ctl("suspend")
    with open(mount.state / "snapshots" / hidden(mount)[0] / "ram", "r+b") as ram:
        ram.seek(5000)
        ram.write(b"\xff" * 300000)
    for _ in range(2):
        # The reset may come before a caller has looked whether it is connected.
        with contextlib.suppress(ConnectionResetError), socket.create_connection(
            (value(vm / "net/ip"), PORT), timeout=limit(30)
        ) as caller:
            assert caller.recv(1) == b""
        assert vm.state == "suspended" and "cannot be resumed" in read(vm / "error")
    with fails(errno.EIO):
        read(vm / "fs/etc/hostname")
    vm.remove()
    mount.stop()


@pytest.mark.any_engine
def test_the_next_daemon_listens_for_those_that_sleep(own_mount):
    mount = own_mount()
    vm = mount.create("vm")
    vm.sh("mkdir -p /srv && echo here > /srv/name && httpd -p 80 -h /srv")
    write(vm / "net/publish", "80\n")
    vm.ctl("suspend")
    ip = value(vm / "net/ip")
    mount.stop()
    mount.start()
    assert (vm.state, value(vm / "net/ip")) == ("suspended", ip)
    with socket.create_connection((ip, 80), timeout=limit(30)) as caller:
        caller.sendall(b"GET /name HTTP/1.0\r\n\r\n")
        said = b""
        while part := caller.recv(4096):
            said += part
    assert said.endswith(b"here\n") and vm.state == "running"
    mount.stop()


@pytest.mark.any_engine
def test_one_that_sleeps_and_has_no_room_to_go_back(own_mount):
    """A rollback whose machine would be one too many leaves it as it was, in the store."""
    mount = own_mount(options=["--max-memory", "300M", "--pool", "0"])
    vm = mount.create("vm")
    vm.sh("echo kept > /run/kept")
    vm.ctl("checkpoint")
    vm.ctl("suspend")
    other = mount.create("other")
    with fails(errno.ENOMEM, vm / "error"):
        vm.ctl("rollback 1")
    with fails(errno.ENOMEM, vm / "error"):
        vm.ctl("resume")
    assert vm.state == "suspended"
    other.remove()
    assert vm.run("cat /run/kept") == "kept\n"
    mount.stop()
