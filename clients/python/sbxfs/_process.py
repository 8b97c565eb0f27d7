# SPDX-License-Identifier: MIT
"""Commands in a sandbox: a job in exec/, and ports of its loopback, which are jobs too"""
import contextlib
import errno
import math
import os
import secrets
import select
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, Mapping, Optional, Sequence, Tuple, Union

from ._files import SbxError, env_text, explained, nul_ended, value, write

Command = Union[str, Sequence[str]]
CHUNK = 65536
TIMED_OUT = 124


class CommandError(Exception):
    """A command that ended with something else than 0; `result` has what it said."""

    def __init__(self, result: "Result"):
        super().__init__(f"{result.status}: {result.stderr.decode(errors='replace')[-500:]}")
        self.result = result


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: str  # "exited N", "signaled N" or "failed REASON"
    exit_code: int  # what a shell's $? would be: N, 128+N for a signal, 124 after the timeout, 127: no such program
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    @property
    def timed_out(self) -> bool:
        return self.exit_code == TIMED_OUT and not self.status.startswith("exited")

    def check(self) -> "Result":
        """Itself, or CommandError where it did not end with 0."""
        if not self.ok:
            raise CommandError(self)
        return self


class Process:
    """
    A command that runs in a sandbox. Made by Sandbox.spawn; a context manager, which ends it.

    Whoever has the job's file `hold` open takes the job along at the end, so a command does not outlive its client
    unless `keep` says so.
    """

    def __init__(
        self,
        sandbox: Path,
        cmd: Command,
        stdin: bool = False,
        env: Optional[Mapping[str, str]] = None,
        cwd: Optional[str] = None,
        user: Optional[str] = None,
        timeout: Optional[float] = None,
        keep: bool = False,
        linger: bool = False,
    ):
        self.path = sandbox / "exec" / f"py-{secrets.token_hex(8)}"
        self.stdin: Optional[int] = None
        self._hold: Optional[int] = None
        self._out: Dict[int, str] = {}
        with explained(self.path, sandbox):
            os.mkdir(self.path)
        try:
            if not keep:
                self._hold = self._open("hold", os.O_WRONLY)
            settings = {"cwd": cwd, "user": user, "timeout": timeout and str(math.ceil(timeout)), "linger": str(int(linger))}
            for name, setting in settings.items():
                if setting:
                    write(self.path / name, setting)
            if env:
                write(self.path / "env", env_text(env))
            # Before the start: a command whose stdin nobody has open reads an empty one.
            if stdin:
                self.stdin = self._open("stdin", os.O_WRONLY | os.O_NONBLOCK)
            for name in "stdout", "stderr":
                self._out[self._open(name, os.O_RDONLY | os.O_NONBLOCK)] = name
            # A text with NUL bytes is an argument vector, one without is for a shell.
            write(self.path / "cmd", cmd if isinstance(cmd, str) else nul_ended(cmd))
        except BaseException:
            self.close()
            raise

    def _open(self, name: str, flags: int) -> int:
        with explained(self.path / name, self.path):
            return os.open(self.path / name, flags | os.O_CLOEXEC)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def status(self) -> str:
        """pending, running, exited N, signaled N or failed REASON."""
        return value(self.path / "status")

    def kill(self, sig: Union[str, int] = "TERM") -> None:
        """A signal to the command's process group."""
        write(self.path / "ctl", f"kill {int(sig) if isinstance(sig, int) else sig}")

    def write(self, data: bytes) -> None:
        """All of it, waiting for the command to take it. BrokenPipe (EPIPE) where it reads no more."""
        if self.stdin is None:
            raise SbxError(errno.EBADF, "stdin is closed, or was not asked for: spawn(..., stdin=True)")
        view, poller = memoryview(data), select.poll()
        poller.register(self.stdin, select.POLLOUT)
        while view:
            with explained(self.path / "stdin", self.path):
                try:
                    view = view[os.write(self.stdin, view[:CHUNK]) :]
                except BlockingIOError:
                    poller.poll()

    def close_stdin(self) -> None:
        """The command reads the end of its input."""
        if self.stdin is not None:
            fd, self.stdin = self.stdin, None
            os.close(fd)

    def output(self, stdin: Optional[bytes] = None) -> Iterator[Tuple[str, bytes]]:
        """
        What it writes, as it comes, until it has ended: ("stdout" or "stderr", data). `stdin` is written meanwhile,
        and is the end of its input.
        """
        poller = select.poll()
        for fd in self._out:
            poller.register(fd, select.POLLIN)
        view = memoryview(stdin or b"")
        if stdin is not None and self.stdin is not None:
            poller.register(self.stdin, select.POLLOUT)
        feeding = self.stdin if stdin is not None else None
        while self._out or feeding is not None:
            for fd, _ in poller.poll():
                if fd == feeding:
                    view = self._feed(view)
                    if not view:
                        poller.unregister(fd)
                        feeding = None
                        self.close_stdin()
                    continue
                with explained(self.path / self._out[fd]):
                    try:
                        data = os.read(fd, CHUNK)
                    except BlockingIOError:
                        continue
                if data:
                    yield self._out[fd], data
                else:
                    poller.unregister(fd)
                    del self._out[fd]
                    os.close(fd)

    def _feed(self, view: memoryview) -> memoryview:
        """Some of what is to go in; returns what is left, nothing where nobody reads it."""
        assert self.stdin is not None
        try:
            return view[os.write(self.stdin, view[:CHUNK]) :] if view else view
        except BlockingIOError:
            return view
        except BrokenPipeError:
            return view[:0]
        except OSError as e:
            raise SbxError(e.errno, e.strerror, str(self.path / "stdin")) from e

    def wait(self) -> Result:
        """Until the command has ended. Read its output first: a command waits for who reads it."""
        status = value(self.path / "wait")
        return Result(status, int(value(self.path / "exit")), b"", b"")

    def communicate(self, stdin: Optional[bytes] = None) -> Result:
        """All of its output, and how it ended."""
        parts: Dict[str, list] = {"stdout": [], "stderr": []}
        for name, data in self.output(stdin):
            parts[name].append(data)
        end = self.wait()
        return Result(end.status, end.exit_code, b"".join(parts["stdout"]), b"".join(parts["stderr"]))

    def remove(self) -> None:
        """The job is killed and forgotten; who waits for it here gets ENODEV."""
        with contextlib.suppress(OSError):  # gone with its sandbox
            os.rmdir(self.path)

    def close(self) -> None:
        self.remove()
        for fd in [*self._out, *([] if self.stdin is None else [self.stdin]), *([] if self._hold is None else [self._hold])]:
            os.close(fd)
        self._out, self.stdin, self._hold = {}, None, None


class Forward:
    """A port of this host that leads to one of a sandbox's loopback, in threads of its own until close()."""

    def __init__(self, sandbox: Path, port: int, host_port: int = 0, host: str = "127.0.0.1"):
        self.sandbox, self.guest_port = sandbox, int(port)
        try:
            self._listener = socket.create_server((host, host_port))
        except OSError as e:
            raise SbxError(e.errno or errno.EIO, e.strerror or str(e), f"{host}:{host_port}") from e
        self.host, self.port = self._listener.getsockname()[:2]
        self._open: Dict[socket.socket, Process] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Forward":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                connection = self._listener.accept()[0]
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # An argument vector that begins with an empty word is the agent's own command: of a job each end can end alone.
        dial = ["", "dial", str(self.guest_port)]
        with contextlib.suppress(OSError), connection, Process(self.sandbox, dial, stdin=True, linger=True) as process:
            with self._lock:
                self._open[connection] = process
            up = threading.Thread(target=self._up, args=(connection, process), daemon=True)
            up.start()
            try:
                for name, data in process.output():
                    if name == "stdout":
                        connection.sendall(data)
            finally:
                self._end(connection, process)
                up.join()
                with self._lock:
                    del self._open[connection]

    @staticmethod
    def _up(connection: socket.socket, process: Process) -> None:
        with contextlib.suppress(OSError):
            while data := connection.recv(CHUNK):
                process.write(data)
        process.close_stdin()

    @staticmethod
    def _end(connection: socket.socket, process: Process) -> None:
        """Wake whoever waits for one of the two."""
        process.remove()
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """No more connections, and an end to those there are."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection, process in self._open.items():
                self._end(connection, process)
