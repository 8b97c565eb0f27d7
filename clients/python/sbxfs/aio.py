# SPDX-License-Identifier: MIT
"""
The same calls for asyncio: Sandbox and Snapshot whose methods are coroutines.

Each call that may wait has a thread of its own, since system calls on the mount block as others do: a thousand
commands are a thousand threads, and no call waits for a place in a pool. A cancelled `exec` kills its command; what a
cancelled `create`, `restore` or `fork` makes is removed when it comes.

What does not wait is as it is in sbxfs: names, paths and `sync`, the object behind it.
"""
import asyncio
import contextlib
import threading
from typing import Any, AsyncIterator, Callable, List, Optional, Tuple, TypeVar, Union

import sbxfs
from sbxfs import Result, SandboxInfo, SnapshotInfo
from sbxfs._process import Command

T = TypeVar("T")
END = object()


async def _call(fn: Callable[..., T], *args: Any, undo: Optional[Callable[[T], object]] = None, **kwargs: Any) -> T:
    """fn in a thread of its own. Where nobody waits for the result any more, `undo` gets it."""
    loop = asyncio.get_running_loop()
    future: "asyncio.Future[T]" = loop.create_future()

    def settle(result: Any, error: Optional[BaseException]) -> None:
        if future.cancelled():
            if undo and error is None:
                threading.Thread(target=quietly, args=(undo, result), daemon=True).start()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def run() -> None:
        result, error = None, None
        try:
            result = fn(*args, **kwargs)
        except BaseException as e:  # pylint: disable=broad-except  # it is the caller's
            error = e
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop has ended
            if undo and error is None:
                quietly(undo, result)

    def quietly(undo: Callable[[Any], object], result: Any) -> None:
        with contextlib.suppress(OSError):
            undo(result)

    threading.Thread(target=run, daemon=True).start()
    return await future


class Process:
    """A command that runs; an asynchronous context manager, which ends it."""

    def __init__(self, sync: sbxfs.Process):
        self.sync = sync

    async def __aenter__(self) -> "Process":
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.sync.close()

    async def write(self, data: bytes) -> None:
        await _call(self.sync.write, data)

    def close_stdin(self) -> None:
        self.sync.close_stdin()

    async def kill(self, sig: Union[str, int] = "TERM") -> None:
        await _call(self.sync.kill, sig)

    async def output(self, stdin: Optional[bytes] = None) -> AsyncIterator[Tuple[str, bytes]]:
        chunks = self.sync.output(stdin)
        while (chunk := await self._finish(next, chunks, END)) is not END:
            yield chunk

    async def wait(self) -> Result:
        return await self._finish(self.sync.wait)

    async def communicate(self, stdin: Optional[bytes] = None) -> Result:
        return await self._finish(self.sync.communicate, stdin)

    async def _finish(self, fn: Callable[..., Any], *args: Any) -> Any:
        """A call that has the job's files open: when it is cancelled the job goes, and with it what waits there."""
        task = asyncio.ensure_future(_call(fn, *args))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.sync.remove()
            with contextlib.suppress(OSError, ValueError):
                await task
            raise


class Sandbox:
    """See sbxfs.Sandbox; as an asynchronous context manager it removes the sandbox at the end."""

    def __init__(self, name: str, mount: Optional[sbxfs._files.PathLike] = None):
        self.sync = sbxfs.Sandbox(name, mount)
        self.name, self.path = self.sync.name, self.sync.path

    @classmethod
    def _of(cls, sync: sbxfs.Sandbox) -> "Sandbox":
        return cls(sync.name, sync.mount)

    @classmethod
    async def create(cls, name: Optional[str] = None, **options: Any) -> "Sandbox":
        return cls._of(await _call(sbxfs.Sandbox.create, name, undo=sbxfs.Sandbox.remove, **options))

    @classmethod
    async def get(cls, name: str, mount: Optional[sbxfs._files.PathLike] = None) -> "Sandbox":
        return cls._of(await _call(sbxfs.Sandbox.get, name, mount))

    @classmethod
    async def list(cls, mount: Optional[sbxfs._files.PathLike] = None) -> "List[Sandbox]":
        return [cls._of(sandbox) for sandbox in await _call(sbxfs.Sandbox.list, mount)]

    async def __aenter__(self) -> "Sandbox":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.remove()

    async def state(self) -> str:
        return await _call(lambda: self.sync.state)

    async def info(self) -> SandboxInfo:
        return await _call(lambda: self.sync.info)

    async def spawn(self, cmd: Command, **options: Any) -> Process:
        return Process(await _call(self.sync.spawn, cmd, undo=sbxfs.Process.close, **options))

    async def exec(self, cmd: Command, stdin: Union[None, str, bytes] = None, **options: Any) -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        async with await self.spawn(cmd, stdin=data is not None, **options) as process:
            return await process.communicate(data)

    async def read(self, path: str) -> bytes:
        return await _call(self.sync.files.read, path)

    async def write(self, path: str, data: Union[str, bytes], mode: Optional[int] = None) -> None:
        await _call(self.sync.files.write, path, data, mode)

    def forward(self, port: int, host_port: int = 0, host: str = "127.0.0.1") -> sbxfs.Forward:
        return self.sync.forward(port, host_port, host)

    async def start(self) -> None:
        await _call(self.sync.start)

    async def stop(self) -> None:
        await _call(self.sync.stop)

    async def kill(self) -> None:
        await _call(self.sync.kill)

    async def pause(self) -> None:
        await _call(self.sync.pause)

    async def resume(self) -> None:
        await _call(self.sync.resume)

    async def remove(self) -> None:
        await _call(self.sync.remove)

    async def snapshot(self, name: Optional[str] = None) -> "Snapshot":
        return Snapshot(await _call(self.sync.snapshot, name))

    async def checkpoint(self, name: Optional[str] = None) -> "Snapshot":
        return Snapshot(await _call(self.sync.checkpoint, name))

    async def rollback(self, snapshot: "Snapshot") -> None:
        await _call(self.sync.rollback, snapshot.sync)

    async def fork(self, n: int, prefix: Optional[str] = None) -> "List[Sandbox]":
        return list(map(self._of, await _call(self.sync.fork, n, prefix, undo=sbxfs._sandbox.remove_all)))


class Snapshot:
    """See sbxfs.Snapshot."""

    def __init__(self, sync: sbxfs.Snapshot):
        self.sync = sync

    @property
    def name(self) -> str:
        return self.sync.name

    @classmethod
    async def get(cls, name: str, mount: Optional[sbxfs._files.PathLike] = None) -> "Snapshot":
        return cls(await _call(sbxfs.Snapshot.get, name, mount))

    @classmethod
    async def list(cls, mount: Optional[sbxfs._files.PathLike] = None) -> List[SnapshotInfo]:
        return await _call(sbxfs.Snapshot.list, mount)

    @classmethod
    async def delete(cls, name: str, mount: Optional[sbxfs._files.PathLike] = None) -> None:
        await _call(sbxfs.Snapshot.delete, name, mount)

    async def info(self) -> SnapshotInfo:
        return await _call(lambda: self.sync.info)

    async def restore(self, name: Optional[str] = None, **options: Any) -> Sandbox:
        return Sandbox._of(await _call(self.sync.restore, name, undo=sbxfs.Sandbox.remove, **options))

    async def fork(self, n: int, prefix: Optional[str] = None, **options: Any) -> List[Sandbox]:
        return list(map(Sandbox._of, await _call(self.sync.fork, n, prefix, undo=sbxfs._sandbox.remove_all, **options)))

    async def save_named(self, name: str) -> None:
        await _call(self.sync.save_named, name)

    async def verify(self) -> None:
        await _call(self.sync.verify)

    async def remove(self) -> None:
        await _call(self.sync.remove)
