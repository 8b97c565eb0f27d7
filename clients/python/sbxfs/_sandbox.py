# SPDX-License-Identifier: MIT
"""Sandboxes and snapshots: directories of the mount"""
import contextlib
import errno
import os
import posixpath
import secrets
import select
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Iterable, List, Mapping, Optional, Union

from ._files import PathLike, SbxError, checked_name, command, env_text, explained, fields, find_mount, mib, read, sentence, value, write
from ._process import Command, Forward, Process, Result


def _date(text: Optional[str]) -> Optional[datetime]:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc) if text else None


@dataclass(frozen=True)
class SandboxInfo:
    """VM/info; times in microseconds, 0 where there was none."""

    name: str
    state: str
    engine: str
    image: Optional[str]
    parent: Optional[str]
    created: Optional[datetime]
    boot_us: int
    fork_us: int
    generation: int
    pid: int


@dataclass(frozen=True)
class SnapshotInfo:
    """info of a snapshot; sizes in bytes. `own` is what deleting it would free."""

    name: str
    status: str
    source: Optional[str]
    parent: Optional[str]
    image: Optional[str]
    created: Optional[datetime]
    engine: Optional[str]
    memory: int
    memory_max: int
    cpus: int
    cpus_max: int
    pause_us: int
    logical: int
    stored: int
    own: int


def _snapshot_info(name: str, got: Mapping[str, str]) -> SnapshotInfo:
    words = {key: got.get(key) for key in ("source", "parent", "image", "engine")}
    numbers = ("memory", "memory_max", "cpus", "cpus_max", "pause_us", "logical", "stored", "own")
    sizes = {key: int(got.get(key, 0)) for key in numbers}
    return SnapshotInfo(name, got["status"], created=_date(got.get("created")), **words, **sizes)


class Files:
    """The files of a sandbox's guest, or of a snapshot; paths are the guest's."""

    def __init__(self, root: Path):
        self.root = root

    def path(self, path: str) -> Path:
        """Where it is on this host, for whatever takes a path; `..` stays within."""
        return self.root / posixpath.normpath("/" + path).lstrip("/")

    def read(self, path: str) -> bytes:
        with explained(self.path(path)):
            return self.path(path).read_bytes()

    def write(self, path: str, data: Union[str, bytes], mode: Optional[int] = None) -> None:
        with explained(self.path(path)):
            self.path(path).write_bytes(data.encode() if isinstance(data, str) else data)
            if mode is not None:
                self.path(path).chmod(mode)

    def list(self, path: str = "/") -> List[str]:
        with explained(self.path(path)):
            return sorted(os.listdir(self.path(path)))

    def mkdir(self, path: str) -> None:
        """With what is missing above it; one that is there is fine."""
        with explained(self.path(path)):
            self.path(path).mkdir(parents=True, exist_ok=True)

    def remove(self, path: str) -> None:
        """A file, or an empty directory."""
        with explained(self.path(path)):
            at = self.path(path)
            if at.is_dir() and not at.is_symlink():
                at.rmdir()
            else:
                at.unlink()


def _own_name() -> str:
    """For who gave none."""
    return f"s-{secrets.token_hex(4)}"


def _fork_many(origin: Path, mount: Path, n: int, prefix: Optional[str], settings: str) -> "List[Sandbox]":
    prefix = checked_name(f"{_own_name()}-" if prefix is None else prefix)
    write(origin / "ctl", f"{command('fork', str(int(n)), prefix)} {settings}")
    return [Sandbox(f"{prefix}{i}", mount) for i in range(1, n + 1)]


class Sandbox:
    """
    /sbx/NAME. The constructor makes an object only: `create` makes a sandbox, `get` finds one. As a context manager it
    removes the sandbox at the end.
    """

    def __init__(self, name: str, mount: Optional[PathLike] = None):
        self.name = checked_name(name)
        self.mount = find_mount(mount)
        self.path = self.mount / name
        self.files = Files(self.path / "fs")

    @classmethod
    def create(
        cls,
        name: Optional[str] = None,
        image: Optional[str] = None,
        memory_mib: Optional[int] = None,
        cpus: Optional[int] = None,
        env: Optional[Mapping[str, str]] = None,
        net: Optional[str] = None,
        memory_max_mib: Optional[int] = None,
        cpus_max: Optional[int] = None,
        mount: Optional[PathLike] = None,
    ) -> "Sandbox":
        """Make, configure and start one. A client that is killed meanwhile leaves nothing."""
        sandbox = cls(_own_name() if name is None else name, mount)
        sizes = {"memory": mib(memory_mib), "cpus": cpus, "memory_max": mib(memory_max_mib), "cpus_max": cpus_max}
        write(sandbox.mount / "ctl", command("create", sandbox.name, env=env, image=image, net=net, **sizes))
        return sandbox

    @classmethod
    def get(cls, name: str, mount: Optional[PathLike] = None) -> "Sandbox":
        sandbox = cls(name, mount)
        with explained(sandbox.path):
            os.stat(sandbox.path / "state")
        return sandbox

    @classmethod
    def list(cls, mount: Optional[PathLike] = None) -> "List[Sandbox]":
        at = find_mount(mount)
        with explained(at):
            return [cls(name, at) for name in sorted(os.listdir(at)) if os.path.exists(at / name / "state")]

    def __repr__(self) -> str:
        return f"Sandbox({self.name!r})"

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    @property
    def state(self) -> str:
        """created, running, paused, stopped or crashed."""
        return value(self.path / "state")

    @property
    def info(self) -> SandboxInfo:
        got = fields(self.path / "info")
        numbers = {key: int(got.get(key, 0)) for key in ("boot_us", "fork_us", "generation", "pid")}
        words = {key: got.get(key) for key in ("image", "parent")}
        return SandboxInfo(got["name"], self.state, got["engine"], created=_date(got.get("created")), **words, **numbers)

    def set_env(self, env: Mapping[str, str]) -> None:
        """The environment of commands from now on, in place of what it was."""
        write(self.path / "env", env_text(env) or b"\n")

    # ---- commands

    def spawn(self, cmd: Command, **options: object) -> Process:
        """
        Start a command: a line for a shell, or a list of words. Options: env, cwd, user, timeout in seconds; stdin=True
        to write to it; keep=True lets it outlive this client, as a job in exec/.
        """
        return Process(self.path, cmd, **options)  # type: ignore[arg-type]

    def exec(self, cmd: Command, stdin: Union[None, str, bytes] = None, **options: object) -> Result:
        """Run a command to its end, with this input; the options are those of spawn."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        with self.spawn(cmd, stdin=data is not None, **options) as process:
            return process.communicate(data)

    def forward(self, port: int, host_port: int = 0, host: str = "127.0.0.1") -> Forward:
        """Listen here (.port says where), and connect whoever comes to that port of its loopback."""
        return Forward(self.path, port, host_port, host)

    # ---- its life

    def _verb(self, *words: Optional[str]) -> None:
        write(self.path / "ctl", command(*words))

    def start(self) -> None:
        self._verb("start")

    def stop(self) -> None:
        """Ask the guest to power off, and end its machine if it does not."""
        self._verb("stop")

    def kill(self) -> None:
        self._verb("kill")

    def pause(self) -> None:
        self._verb("pause")

    def resume(self) -> None:
        """It goes on exactly where it was; nothing changes where it runs."""
        self._verb("resume")

    def remove(self) -> None:
        """End it, with its unnamed snapshots."""
        with explained(self.path, self.mount):
            os.rmdir(self.path)

    # ---- snapshots and forks

    def _taken(self, verb: str, name: Optional[str]) -> "Snapshot":
        self._verb(verb, None if name is None else checked_name(name))
        if name is not None:
            return Snapshot(self.mount / "snapshots" / name, self.mount)
        with explained(self.path / "snapshots/latest"):
            number = os.readlink(self.path / "snapshots/latest")
        return Snapshot(self.path / "snapshots" / number, self.mount)

    def snapshot(self, name: Optional[str] = None) -> "Snapshot":
        """Capture all of it; it stays paused. With a name it is saved when this returns."""
        return self._taken("snapshot", name)

    def checkpoint(self, name: Optional[str] = None) -> "Snapshot":
        """The same of one that goes on running."""
        return self._taken("checkpoint", name)

    def rollback(self, snapshot: "Snapshot") -> None:
        """Put an earlier state in the place of the present one, which is kept as an unnamed snapshot."""
        self._verb("rollback", snapshot.name)

    def fork(self, n: int, prefix: Optional[str] = None) -> "List[Sandbox]":
        """n running copies of it as it is now, prefix1 to prefixN."""
        return _fork_many(self.path, self.mount, n, prefix, "")


class Snapshot:
    """A snapshot: /sbx/snapshots/NAME, or an unnamed one, which lives as long as its sandbox."""

    def __init__(self, path: PathLike, mount: Optional[PathLike] = None):
        self.path = Path(path)
        self.mount = find_mount(mount)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def files(self) -> Files:
        """What had reached its disk, read-only; it need not be booted."""
        return Files(self.path / "fs")

    def __repr__(self) -> str:
        return f"Snapshot({str(self.path)!r})"

    @classmethod
    def get(cls, name: str, mount: Optional[PathLike] = None) -> "Snapshot":
        at = find_mount(mount)
        snapshot = cls(at / "snapshots" / checked_name(name), at)
        with explained(snapshot.path):
            os.stat(snapshot.path / "info")
        return snapshot

    @classmethod
    def list(cls, mount: Optional[PathLike] = None) -> List[SnapshotInfo]:
        """Those that have a name."""
        at = find_mount(mount)
        with explained(at / "snapshots"):
            names = sorted(os.listdir(at / "snapshots"))
        found = []
        for name in names:
            snapshot = cls(at / "snapshots" / name, at)
            try:
                found.append(snapshot.info)
            except SbxError as e:
                if e.errno == errno.EIO:  # what is stored of it cannot be read: its name and its status can
                    found.append(_snapshot_info(name, {"status": snapshot.status}))
                elif e.errno != errno.ENOENT:  # that is one deleted meanwhile
                    raise
        return found

    @classmethod
    def delete(cls, name: str, mount: Optional[PathLike] = None) -> None:
        """From disk; what was forked from it lives on."""
        cls.get(name, mount).remove()

    @property
    def status(self) -> str:
        return value(self.path / "status")

    @property
    def info(self) -> SnapshotInfo:
        return _snapshot_info(self.name, fields(self.path / "info"))

    def restore(
        self,
        name: Optional[str] = None,
        memory_mib: Optional[int] = None,
        cpus: Optional[int] = None,
        env: Optional[Mapping[str, str]] = None,
        net: Optional[str] = None,
    ) -> Sandbox:
        """A sandbox that goes on where this was captured and answers commands."""
        sandbox = Sandbox(_own_name() if name is None else name, self.mount)
        write(self.path / "ctl", command("fork", sandbox.name, env=env, memory=mib(memory_mib), cpus=cpus, net=net))
        return sandbox

    def fork(
        self,
        n: int,
        prefix: Optional[str] = None,
        memory_mib: Optional[int] = None,
        cpus: Optional[int] = None,
        env: Optional[Mapping[str, str]] = None,
        net: Optional[str] = None,
    ) -> List[Sandbox]:
        """n of them in one step, prefix1 to prefixN. Where some fail the error has a line for each; the others live."""
        settings = command(env=env, memory=mib(memory_mib), cpus=cpus, net=net)
        return _fork_many(self.path, self.mount, n, prefix, settings)

    def save_named(self, name: str) -> None:
        """Give it a name: it survives its sandbox, and the daemon. Returns when it is saved."""
        saved = self.mount / "snapshots" / checked_name(name)
        with explained(saved, self.mount):
            os.rename(self.path, saved)
        origin, self.path = self.path.parent.parent, saved
        try:
            self._await_saved()
        except OSError as e:
            # It is back where it was, and its sandbox says why.
            raise SbxError(e.errno, sentence(origin) or e.strerror, str(saved)) from e

    def _await_saved(self) -> None:
        """A rename answers after a second and a half at the latest, and the rest of a save goes on."""
        fd = os.open(self.path / "status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            poller = select.poll()
            poller.register(fd, select.POLLPRI | select.POLLERR)
            while os.pread(fd, 64, 0).startswith(b"saving"):
                poller.poll()
        finally:
            os.close(fd)
        read(self.path / "status")  # under its name

    def verify(self) -> None:
        """Read and check every stored block."""
        write(self.path / "ctl", "verify")

    def remove(self) -> None:
        with explained(self.path, self.mount):
            os.rmdir(self.path)


def remove_all(sandboxes: Iterable[Sandbox]) -> None:
    """Each of them, whatever becomes of the others."""
    for sandbox in sandboxes:
        with contextlib.suppress(OSError):
            sandbox.remove()
