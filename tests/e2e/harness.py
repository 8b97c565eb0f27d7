# SPDX-License-Identifier: MIT
"""harness.py - a mounted sbxfs for tests, and the few verbs they are written in

Everything goes through the filesystem, with one system call where a user has one: os.write and not a buffered file,
since Python sends a failed line a second time when it closes one.

Waiting is for events: poll(2) on state and status files, on a pidfd for processes, on /proc/self/mountinfo for the
mount. SCALE stretches time limits where the machine is slow (the lab), or shared (SCALE in the environment).
"""
import contextlib
import ctypes
import errno
import os
import re
import select
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
LAB = bool(os.environ.get("LAB"))
SCALE = 10 if LAB else int(os.environ.get("SCALE", "1"))
SLOW = ["--boot-timeout", "600", "--fork-timeout", "300"]  # the defaults, ten times
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

# A background process of the guest that counts in memory. The file is renamed, so that it is never seen empty.
COUNTER = """
(n=0; while :; do n=$((n+1)); echo $n > /run/counting; mv /run/counting /run/counter; sleep 0.1; done) > /dev/null 2>&1 &
until [ -e /run/counter ]; do sleep 0.05; done
"""


def limit(seconds):
    """A time limit in seconds on a machine as fast as the one the tests were written on."""
    return seconds * SCALE


# ---- files


def write(path, data):
    """One write(2), whatever its length."""
    if isinstance(data, str):
        data = data.encode()
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_all(fd, chunk=65536):
    parts = []
    while part := os.read(fd, chunk):
        parts.append(part)
    return b"".join(parts)


def read_bytes(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_all(fd)
    finally:
        os.close(fd)


def read(path):
    return read_bytes(path).decode()


def value(path):
    """The one line of a file that has one value."""
    text = read(path)
    assert text.endswith("\n") and text.count("\n") == 1, f"{path} is not one line: {text!r}"
    return text[:-1]


def fields(path):
    """A file of `key value` lines."""
    return dict(line.split(" ", 1) if " " in line else (line, "") for line in read(path).splitlines())


def outcome(function, *args):
    """0 or an errno."""
    try:
        function(*args)
    except OSError as e:
        return e.errno
    return 0


@contextlib.contextmanager
def fails(code, error=None):
    """The block fails with this errno; `error` names the file that then holds a sentence."""
    with contextlib.ExitStack() as stack:
        try:
            yield
        except OSError as e:
            assert e.errno == code, f"{errno.errorcode[e.errno]} instead of {errno.errorcode[code]}: {e}"
        else:
            raise AssertionError(f"succeeded instead of {errno.errorcode[code]}")
        del stack
    if error is not None:
        text = read(error)
        assert text.endswith("\n") and len(text.split()) >= 3, f"no sentence in {error}: {text!r}"


def poll_until(path, predicate, seconds):
    """Wait with poll(2) until what the file reads satisfies the predicate; returns it."""
    deadline = time.monotonic() + limit(seconds)
    fd = os.open(path, os.O_RDONLY)
    try:
        poller = select.poll()
        poller.register(fd, select.POLLPRI | select.POLLERR)
        while True:
            os.lseek(fd, 0, os.SEEK_SET)
            text = read_all(fd).decode().rstrip("\n")
            if predicate(text):
                return text
            left = deadline - time.monotonic()
            assert left > 0, f"{path} is still {text!r}"
            poller.poll(left * 1000)
    finally:
        os.close(fd)


def eventually(condition, seconds, what):
    """For conditions of the host that nothing announces: processes of others, directory entries."""
    deadline = time.monotonic() + limit(seconds)
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def wait_gone(pid, seconds=5):
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        assert poller.poll(limit(seconds) * 1000), f"process {pid} lives on"
    finally:
        os.close(fd)


def together(fn, n):
    """fn(0) to fn(n - 1) at once, each in a thread."""
    threads = [threading.Thread(target=fn, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limit(60))


# ---- a sandbox


class Directory:
    """What has a ctl in it, and mostly an info."""

    def __init__(self, path):
        self.path = Path(path)
        self.name = self.path.name

    def __truediv__(self, name):
        return self.path / name

    @property
    def info(self):
        return fields(self / "info")

    def ctl(self, verb):
        write(self / "ctl", verb)


class Job(Directory):
    """A directory in exec/."""

    @property
    def status(self):
        return value(self / "status")

    def start(self, cmd):
        write(self / "cmd", cmd)
        return self

    def wait(self):
        return value(self / "wait")

    def output(self):
        return read_bytes(self / "stdout")

    def forget(self):
        os.rmdir(self.path)


class Sandbox(Directory):
    def __init__(self, path):
        super().__init__(path)
        self.jobs = 0

    @property
    def state(self):
        return value(self / "state")

    @property
    def pid(self):
        return int(self.info["pid"])

    def wait_state(self, *states, seconds=30):
        return poll_until(self / "state", lambda text: text in states, seconds)

    def job(self, cmd=None, name=None):
        """A new job, started if there is a command."""
        self.jobs += 1
        path = self / "exec" / (name or f"t{self.jobs}")
        os.mkdir(path)
        job = Job(path)
        return job.start(cmd) if cmd is not None else job

    def run(self, cmd):
        """stdout and stderr of a command, through the file `run`."""
        fd = os.open(self / "run", os.O_RDWR)
        try:
            os.write(fd, cmd.encode() + b"\n")
            return read_all(fd).decode()
        finally:
            os.close(fd)

    def sh(self, cmd):
        """stdout of a command that must succeed."""
        job = self.job(cmd)
        out = job.output().decode()
        err = read(job / "stderr")
        status = job.wait()
        job.forget()
        assert status == "exited 0", f"{cmd!r}: {status}: {out}{err}"
        return out

    def fork(self, name):
        os.mkdir(self / "forks" / name)
        return Sandbox(self.path.parent / name)

    def snapshot(self):
        """Capture; the sandbox stays paused. Returns the snapshot's directory."""
        self.ctl("snapshot")
        return Snapshot((self / "snapshots" / "latest").resolve())

    def remove(self):
        os.rmdir(self.path)


class Snapshot(Directory):
    @property
    def root(self):
        """The mount's root, from /sbx/snapshots/NAME or /sbx/VM/snapshots/N."""
        parent = self.path.parents[1]
        return parent if os.path.exists(parent / "README") else self.path.parents[2]

    def fork(self, name):
        os.mkdir(self / "forks" / name)
        return Sandbox(self.root / name)

    def save(self, name):
        """mv to a name: survives the sandbox and the daemon."""
        saved = Snapshot(self.root / "snapshots" / name)
        os.rename(self.path, saved.path)
        poll_until(saved / "status", lambda text: not text.startswith("saving"), 60)  # a slow one goes on
        return saved

    def remove(self):
        os.rmdir(self.path)


# ---- the daemon


def become_subreaper():
    """What the daemon leaves behind becomes our child, so that nothing escapes left_behind()."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def children():
    pids = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):
            pids += Path(f"/proc/self/task/{task}/children").read_text().split()
    return {int(pid) for pid in pids}


def reap(known):
    """Children beyond `known` that still live; zombies among them are reaped."""
    left = set()
    for pid in children() - known:
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                left.add(pid)
    return left


def describe(pids):
    out = []
    for pid in pids:
        with contextlib.suppress(OSError):
            out.append(f"{pid}: " + Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:200])
    return "\n".join(out)


class Mount:
    """One sbxfs daemon, in the foreground, on a mount of its own in `work`."""

    def __init__(self, build, guest, engine, work, state, options=()):
        self.build, self.engine, self.state = Path(build), engine, Path(state)
        self.path = work / "sbx"
        self.runtime = work / "runtime"
        self.log_path = work / "log"
        self.args = [str(self.build / "sbxfs"), "-f", "--state", str(state), "--engine", engine]
        self.args += ["--guest", str(guest), *(SLOW if LAB else []), *options, str(self.path)]
        self.process = None
        self.path.mkdir(parents=True)

    def __truediv__(self, name):
        return self.path / name

    def start(self):
        self.runtime.mkdir(exist_ok=True)
        self.before = children()
        env = dict(os.environ, TMPDIR=str(self.runtime), XDG_RUNTIME_DIR=str(self.runtime))
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        self.pidfd = os.pidfd_open(self.process.pid)
        self.wait_mounted()
        self.connection = os.minor(os.stat(self.path).st_dev)
        return self

    def answers(self):
        """Mounted, and not by a daemon that died."""
        try:
            os.statvfs(self.path)  # never answered from a cache
        except OSError:
            return False
        return os.path.ismount(self.path)

    def wait_mounted(self):
        with open("/proc/self/mountinfo") as mounts:
            poller = select.poll()
            poller.register(mounts, select.POLLPRI)
            poller.register(self.pidfd, select.POLLIN)
            deadline = time.monotonic() + limit(20)
            while not self.answers():
                assert self.process.poll() is None, f"sbxfs ended with {self.process.returncode}: {self.log}"
                assert time.monotonic() < deadline, f"sbxfs did not mount: {self.log}"
                poller.poll(1000)
                mounts.seek(0)
                mounts.read()  # so that the next change wakes us

    def helpers(self, program):
        """The processes of this name that its launcher has started: it is the daemon's child, and they are its."""
        launcher = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True)
        argv = ["pgrep", "-P", ",".join(launcher.stdout.split()), program]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return set(map(int, done.stdout.split()))

    @property
    def log(self):
        return self.log_path.read_text(errors="replace")

    @property
    def alive(self):
        return self.process is not None and self.process.poll() is None

    def abort(self):
        """Wake everything that hangs in this mount, whatever the daemon does; for the watchdog."""
        if self.process:
            self.process.kill()
        with contextlib.suppress(OSError):
            write(f"/sys/fs/fuse/connections/{self.connection}/abort", "1")
        subprocess.run(["fusermount3", "-uz", self.path], capture_output=True, check=False)

    def kill(self):
        """The daemon dies without a chance to clean up."""
        self.process.kill()
        self.process.wait()
        subprocess.run(["fusermount3", "-uz", self.path], capture_output=True, check=False)
        eventually(lambda: not reap(self.before), 10, "machines outlive the daemon")
        shutil.rmtree(self.runtime)

    def stop(self):
        """SIGTERM; then nothing may be left of it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(limit(20))
        except subprocess.TimeoutExpired:
            self.abort()
            raise AssertionError(f"sbxfs did not end on SIGTERM:\n{self.log[-3000:]}") from None
        finally:
            os.close(self.pidfd)
        assert code == 0, f"sbxfs ended with {code}:\n{self.log[-5000:]}"
        self.check_clean()

    def check_clean(self):
        left = reap(self.before)
        assert not left, f"processes left behind:\n{describe(left)}"
        assert not os.path.ismount(self.path)
        assert not (files := sorted(map(str, self.runtime.rglob("*")))), f"files left behind: {files}"
        tmp = self.state / "tmp"
        assert not tmp.exists() or not os.listdir(tmp), f"files left behind: {os.listdir(tmp)}"
        with open("/proc/net/unix") as sockets:
            assert str(self.runtime.parent) not in sockets.read()
        self.check_log()

    def check_log(self):
        bad = re.search(r"Sanitizer|runtime error:|[Aa]ssertion|[Ss]egmentation", self.log)
        assert not bad, f"in the daemon's log:\n{self.log[-8000:]}"

    # What tests do in it.

    def stored(self, directory):
        """Names in the store's `snapshots` or `objects`, but for those of boot snapshots."""
        snapshots = self.state / "snapshots"
        boots = {link for link in snapshots.iterdir() if link.name.startswith(".boot-")}
        hidden = {link.name for link in boots} | {link.resolve().name for link in boots}
        return sorted(set(os.listdir(self.state / directory)) - hidden)

    def create(self, name, start=True, cold=False, **settings):
        """mkdir, configure and start; `cold`: in one step, by a boot of its own."""
        vm = Sandbox(self / name)
        settings = {"image": "base", "memory_max": "512M", "memory": "256M", **settings}
        if cold:
            write(self / "ctl", f"create {name} boot=cold " + " ".join(f"{k}={v}" for k, v in settings.items()))
            return vm
        os.mkdir(vm.path)
        for key, setting in settings.items():
            write(vm / key, str(setting))
        if start:
            try:
                vm.ctl("start")
            except OSError as e:
                raise OSError(e.errno, f"{e.strerror}: {read(vm / 'error')}") from e
        return vm

    def sandboxes(self):
        return [n for n in sorted(os.listdir(self.path)) if (self / n / "state").exists()]

    def named(self):
        return sorted(os.listdir(self / "snapshots"))

    def shell(self, script, shell="sh", timeout=30, **kwargs):
        """Run a script in a shell whose working directory is the mount."""
        argv = [*shell.split(), "-c", script]
        return subprocess.run(
            argv, cwd=self.path, text=True, capture_output=True, timeout=limit(timeout), check=False, **kwargs
        )

    def ok(self, script, **kwargs):
        """Output of a script that must succeed."""
        done = self.shell(script, **kwargs)
        assert done.returncode == 0, f"{script}\n-> {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout
