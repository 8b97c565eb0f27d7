# SPDX-License-Identifier: MIT
"""Servers of a test, on this host's loopback, and what a test asks of the network of a sandbox."""
import contextlib
import os
import socket
import threading

from harness import eventually, limit, read


class Server:
    """Accepts on loopback; `serve` is called with each connection, in a thread."""

    def __init__(self, serve=None, address="127.0.0.1"):
        self.listener = socket.create_server((address, 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.connections, self.serve = [], serve
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                if self.serve:
                    threading.Thread(target=self.run, args=[connection], daemon=True).start()

    def run(self, connection):
        with contextlib.suppress(OSError), connection:
            self.serve(connection)

    def living(self):
        """How many of its connections the other end has not ended."""
        living = 0
        for connection in self.connections:
            try:
                living += connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) != b""
            except BlockingIOError:
                living += 1
            except OSError:
                pass
        return living

    def close(self):
        self.listener.close()
        for connection in self.connections:
            connection.close()


def greet(connection):
    connection.sendall(b"hello\n")


def echo(connection):
    while data := connection.recv(65536):
        connection.sendall(data)


def fetch(address, port):
    with socket.create_connection((address, port), timeout=limit(10)) as connection:
        connection.sendall(b"GET /name HTTP/1.0\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


def put_netprobe(vm, netprobe):
    (vm / "fs/root/netprobe").write_bytes(netprobe)
    (vm / "fs/root/netprobe").chmod(0o755)


def denied(vm):
    return [line.split(" ", 4) for line in read(vm / "net/denied").splitlines()]


def listen(vm, server, port):
    vm.sh(f"(exec {server}) < /dev/null > /dev/null 2>&1 &")
    eventually(lambda: str(port) in os.listdir(vm / "tcp"), 10, f"nobody listens at {port}")
