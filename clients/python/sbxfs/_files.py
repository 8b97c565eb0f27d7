# SPDX-License-Identifier: MIT
"""The files of the mount: one write is one command, and what failed has a sentence in `error`"""
import contextlib
import errno
import os
import re
from pathlib import Path
from typing import Dict, Iterable, Iterator, Mapping, Optional, Union

PathLike = Union[str, "os.PathLike[str]"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"})
# What the kernel may have refused before the daemon heard of it: the sentence in `error` is of something else then.
KERNELS = (errno.EEXIST, errno.ENOENT, errno.EACCES)


class SbxError(OSError):
    """A call that failed: errno, and in strerror the sentence of `error` (the system's words where there is none)."""


def find_mount(mount: Optional[PathLike] = None) -> Path:
    """Where sbxfs is mounted: the argument, $SBX_MOUNT, or the only mount there is."""
    if mount or os.environ.get("SBX_MOUNT"):
        return Path(mount or os.environ["SBX_MOUNT"])
    with open("/proc/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
        found = [line.split()[1] for line in mounts if line.split()[2] == "fuse.sbxfs"]
    if len(found) != 1:
        what = "more than one sbxfs is mounted" if found else "no sbxfs is mounted"
        raise SbxError(errno.ENOENT, what + "; set SBX_MOUNT or pass mount=")
    return Path(re.sub(r"\\(\d{3})", lambda m: chr(int(m.group(1), 8)), found[0]))


def sentence(directory: Path) -> str:
    """What `error` of the directory says, or nothing."""
    try:
        return (directory / "error").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


@contextlib.contextmanager
def explained(what: Path, directory: Optional[Path] = None) -> Iterator[None]:
    """Let what fails in the block fail as SbxError; with a directory, for the reason in its `error`."""
    try:
        yield
    except SbxError:
        raise
    except OSError as e:
        number = e.errno or errno.EIO
        why = sentence(directory) if directory and number not in KERNELS else ""
        raise SbxError(number, why or os.strerror(number), str(what)) from e


def write(path: Path, data: Union[str, bytes]) -> None:
    """One write(2). The sentence is that of the directory the file is in."""
    if isinstance(data, str):
        data = data.encode()
    with explained(path):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    except OSError as e:
        # Here it was the daemon that refused, whatever the errno is.
        raise SbxError(e.errno, sentence(path.parent) or e.strerror, str(path)) from e
    finally:
        os.close(fd)


def read(path: Path) -> str:
    with explained(path, path.parent):
        return path.read_text(errors="replace")


def value(path: Path) -> str:
    """The one line of a file that has one value."""
    return read(path).rstrip("\n")


def fields(path: Path) -> Dict[str, str]:
    """A file of `key value` lines; what is `-` is not there."""
    lines = (line.partition(" ") for line in read(path).splitlines())
    return {key: text for key, _, text in lines if text != "-"}


# ---- commands


def checked_name(name: str) -> str:
    """A name that is one, and so neither a path nor a second word of a command."""
    if not NAME.fullmatch(name):
        raise SbxError(errno.EINVAL, f"{name!r} is not a name: letters, digits, '.', '_' and '-', 64 at most")
    return name


def command(*words: Optional[str], env: Optional[Mapping[str, str]] = None, **settings: object) -> str:
    """A line for ctl. Settings that are None are left out; what could be more than one word is refused or quoted."""
    line = [word for word in words if word is not None]
    line += [f"{key}={setting}" for key, setting in settings.items() if setting is not None]
    for word in line:
        if not word or re.search(r'[\s"\\\0]', word):
            raise SbxError(errno.EINVAL, f"{word!r} is not one word")
    for name, text in (env or {}).items():
        if not ENV_NAME.fullmatch(name):
            raise SbxError(errno.EINVAL, f"{name!r} is not the name of a variable")
        line.append(f'env.{name}="{str(text).translate(ESCAPES)}"')
    return " ".join(line)


def env_text(env: Mapping[str, str]) -> bytes:
    """For a file `env`: a NUL after each, so that values may have newlines."""
    return nul_ended(f"{name}={text}" for name, text in env.items())


def nul_ended(words: Iterable[str]) -> bytes:
    """Words with a NUL after each."""
    data = [word.encode() for word in words]
    if any(b"\0" in word for word in data):
        raise SbxError(errno.EINVAL, "a NUL byte ends a word and cannot be in one")
    return b"".join(word + b"\0" for word in data)


def mib(number: Optional[int]) -> Optional[str]:
    return None if number is None else f"{int(number)}M"
