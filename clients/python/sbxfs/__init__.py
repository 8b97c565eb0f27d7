# SPDX-License-Identifier: MIT
"""sbxfs - sandboxes, commands and snapshots of a mounted sbxfs, as objects

Each call is a few system calls on files of the mount; README.md says which. There is no daemon behind this and nothing
is remembered: an object is a path, so what other programs do through the files is seen, and they see what is done here.

Calls block. sbxfs.aio has the same for asyncio. Every failure is an SbxError, with the errno and the sentence of the
file `error`.
"""
from ._files import SbxError, find_mount
from ._process import CommandError, Forward, Process, Result
from ._sandbox import Files, Sandbox, SandboxInfo, Snapshot, SnapshotInfo

__all__ = [
    "CommandError",
    "Files",
    "Forward",
    "Process",
    "Result",
    "Sandbox",
    "SandboxInfo",
    "SbxError",
    "Snapshot",
    "SnapshotInfo",
    "find_mount",
]
