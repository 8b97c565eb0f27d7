# SPDX-License-Identifier: MIT
"""Fixtures. One daemon serves most tests, one machine is booted and captured, and each test forks it.

    sbx        the shared Mount; the test's sandboxes and named snapshots are removed after it
    prepared   a Snapshot of a machine that counts in /run/counter
    vm         a running fork of `prepared`
    own_mount  makes further daemons, each with a state directory and a mount of its own
"""
import faulthandler
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import harness
from harness import TOP, Mount, eventually, fields, limit
from names import Names, own_addresses
from servers import Server


def pytest_addoption(parser):
    group = parser.getgroup("sbxfs")
    group.addoption("--engine", action="append", choices=["qemu", "kvm"], help="default: the one this host can run")
    group.addoption("--build", default=str(TOP / "build"), help="directory of sbxfs and sbx")
    group.addoption("--fuzz-seed", type=int, help="of test_fuzz_guest.py; default: by chance")
    group.addoption("--fuzz-seconds", type=int, default=5, help="of test_fuzz_guest.py")
    group.addoption("--keep-seed", type=int, help="of test_keep.py; default: by chance")
    group.addoption("--keep-moments", type=int, default=4, help="of test_keep.py")
    group.addoption("--results", type=Path, help="a file that gets a line when a test begins and one when it has ended")
    group.addoption("--guest", default=str(TOP / "build/guest"), help="directory of the guest's kernel and initramfs")


def host_engine(build):
    done = subprocess.run([f"{build}/sbx", "doctor"], capture_output=True, text=True, check=False)
    words = [line.split() for line in done.stdout.splitlines() if line.startswith("engine ")]
    if not words:
        pytest.exit(f"this host runs no engine:\n{done.stdout}{done.stderr}", returncode=3)
    return words[0][1]


def pytest_generate_tests(metafunc):
    if "engine" in metafunc.fixturenames:
        engines = metafunc.config.getoption("engine") or [host_engine(metafunc.config.getoption("build"))]
        metafunc.parametrize("engine", engines, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    harness.become_subreaper()
    if config.option.results:
        config.pluginmanager.register(Results(config.option.results))
    if config.option.timeout is None:
        config.option.timeout = limit(120)


class Results:
    """Each test, as it begins and as it ended, for who watches from outside (tests/lab/suite)."""

    def __init__(self, path):
        self.path = path
        self.failed = False

    def line(self, word, test):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{word} {test}\n")

    def pytest_runtest_logstart(self, nodeid):
        self.failed = False
        self.line("began", nodeid)

    def pytest_runtest_logreport(self, report):
        self.failed |= report.failed

    def pytest_runtest_logfinish(self, nodeid):
        self.line("failed" if self.failed else "passed", nodeid)


# ---- a test that hangs

live = []  # mounts to abort


@pytest.fixture(autouse=True)
def watchdog(request):
    """
    pytest-timeout interrupts the test with a signal. A call that the daemon does not let be interrupted hangs all the
    same; ten seconds later its mount is aborted from this thread, which wakes it.
    """
    marker = request.node.get_closest_marker("timeout")
    seconds = marker.args[0] if marker else request.config.option.timeout

    def bite():
        print(f"\nwatchdog: {request.node.nodeid} hangs; aborting its mounts", file=sys.__stderr__)
        faulthandler.dump_traceback(file=sys.__stderr__)
        for mount in live:
            mount.abort()

    timer = threading.Timer(seconds + 10, bite)
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()


# ---- images and state


@pytest.fixture(scope="session")
def build(request):
    return Path(request.config.getoption("build")).resolve()


@pytest.fixture(scope="session")
def guest(request):
    return Path(request.config.getoption("guest")).resolve()


@pytest.fixture(scope="session")
def base_state(tmp_path_factory, build):
    """A state directory with the image `base`, to be copied."""
    state = tmp_path_factory.mktemp("base")
    subprocess.run([build / "sbx", "image", "build", "base", "--state", state], check=True, timeout=limit(60))
    return state


def copy_state(tmp_path_factory, state):
    copy = tmp_path_factory.mktemp("state") / "s"
    subprocess.run(["cp", "-a", "--sparse=always", "--reflink=auto", state, copy], check=True)
    return copy


@pytest.fixture(scope="session")
def new_state(tmp_path_factory, base_state):
    """A function: a fresh state directory that has the image `base`."""
    return lambda: copy_state(tmp_path_factory, base_state)


@pytest.fixture(scope="session")
def warm_state(engine, build, guest, new_state, tmp_path_factory):
    """
    One that has a boot snapshot, too, of `base` as the harness makes sandboxes; and beside it the file that is large in
    it and never written to again, by its name in it.
    """
    state, ram = new_state(), tmp_path_factory.mktemp("ram") / "ram"
    mount = Mount(build, guest, engine, tmp_path_factory.mktemp("warm"), state, ("--boot-snapshots", "1")).start()
    mount.create("first")
    stored = lambda: fields(mount / "status")["boot_snapshots_stored"] == "1"  # noqa: E731
    eventually(stored, 30, "no boot snapshot is stored")
    mount.stop()
    [kept] = state.glob("objects/*/ram")
    kept.rename(ram)
    return state, ram, kept.relative_to(state)


@pytest.fixture(scope="session")
def new_warm_state(tmp_path_factory, warm_state):
    """A function: a fresh copy of that."""
    state, ram, name = warm_state

    def make():
        copy = copy_state(tmp_path_factory, state)
        os.link(ram, copy / name)
        return copy

    return make


# ---- daemons


class Shared:
    """The daemon that most tests share, started anew when a test killed it."""

    def __init__(self, make):
        self.make, self.mount, self.snapshot = make, None, None

    def get(self):
        if not self.mount or not self.mount.alive:
            self.snapshot = None
            self.mount = self.make()
            live.append(self.mount)
            self.mount.start()
        return self.mount

    def prepared(self):
        mount = self.get()
        if not self.snapshot:
            vm = mount.create("prepared", cpus_max=2)
            vm.sh("echo before > /root/before; mkdir -p /root/tree && cp -r /etc /root/tree/")
            vm.sh(harness.COUNTER)
            self.snapshot = vm.snapshot()
        return self.snapshot


@pytest.fixture(scope="session")
def shared(engine, build, guest, new_warm_state, tmp_path_factory):
    shared = Shared(lambda: Mount(build, guest, engine, tmp_path_factory.mktemp("shared"), new_warm_state()))
    yield shared
    if shared.mount:
        live.remove(shared.mount)
        shared.mount.stop()


def clear(mount, keep=()):
    """Remove all sandboxes and named snapshots."""
    for name in mount.sandboxes():
        if name not in keep:
            os.rmdir(mount / name)
    for name in mount.named():
        os.rmdir(mount / "snapshots" / name)


@pytest.fixture
def sbx(shared):
    mount = shared.get()
    yield mount
    assert mount.alive, f"sbxfs died with {mount.process.returncode}:\n{mount.log[-8000:]}"
    mount.check_log()
    clear(mount, keep=["prepared"])


@pytest.fixture
def prepared(sbx, shared):
    return shared.prepared()


@pytest.fixture
def vm(prepared):
    return prepared.fork("vm")


@pytest.fixture
def own_mount(engine, build, guest, new_warm_state, tmp_path_factory):
    """
    A function: a started daemon on a fresh state directory, or on the given one. Its starts are forks. `first` is what a
    shell does before it becomes the daemon.
    """
    mounts = []

    def make(state=None, options=(), build=build, first=None):
        mount = Mount(build, guest, engine, tmp_path_factory.mktemp("own"), state or new_warm_state(), options)
        if first:
            mount.args = ["sh", "-c", f'{first} && exec "$@"', "sh", *mount.args]
        mounts.append(mount)
        live.append(mount)
        return mount.start()

    yield make
    try:
        for mount in mounts:
            if mount.alive:
                mount.stop()
    finally:
        for mount in mounts:
            live.remove(mount)
            if mount.alive:
                mount.abort()


@pytest.fixture
def store_of(own_mount, build, tmp_path):
    """A function: a daemon whose store is a tmpfs of so many MiB; its mount and the directory of the tmpfs."""
    small = tmp_path / "small"
    mounted = []

    def make(mib, options=()):
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", small], check=True)
        mounted.append(small)
        subprocess.run([build / "sbx", "image", "build", "base", "--state", small / "state"], check=True, capture_output=True)
        # What it has is for the test alone.
        return own_mount(small / "state", options=("--boot-snapshots", "0", *options)), small

    yield make
    for path in mounted:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture
def small_store(store_of):
    """A store that gets full to its last byte."""
    return store_of(96, ("--store-reserve", "0"))


@pytest.fixture
def cli(build, sbx):
    """A function: run build/sbx with the shared mount in $SBX_MOUNT."""

    def run(*args, timeout=30, **kwargs):
        env = dict(os.environ, SBX_MOUNT=str(sbx.path))
        return subprocess.run(
            [build / "sbx", *args], capture_output=True, env=env, timeout=limit(timeout), check=False, **kwargs
        )

    return run


# ---- for the network


@pytest.fixture(scope="session")
def netprobe(tmp_path_factory):
    path = tmp_path_factory.mktemp("netprobe") / "netprobe"
    source = Path(__file__).with_name("netprobe.c")
    subprocess.run(["gcc", "-O1", "-static", "-s", "-pthread", "-o", path, source], check=True)
    return path.read_bytes()


@pytest.fixture
def server():
    servers = []

    def make(serve=None, address="127.0.0.1"):
        servers.append(Server(serve, address))
        return servers[-1]

    yield make
    for each in servers:
        each.close()


@pytest.fixture
def names():
    """A function: a resolver that knows a table of names, on this host's loopback."""
    made = []

    def make(table):
        made.append(Names(table))
        return made[-1]

    yield make
    for each in made:
        each.socket.close()


@pytest.fixture
def own_address():
    """One of this host's that is not its loopback's."""
    found = own_addresses()
    if not found:
        pytest.skip("this host has no address but its loopback")
    return found[0]
