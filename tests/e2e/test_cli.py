# SPDX-License-Identifier: MIT
"""build/sbx: exec, image, snapshot, doctor."""
import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import tarfile
import termios
import time
from pathlib import Path

import pytest

from harness import limit, read, write


def test_exec(cli, vm):
    done = cli("exec", "vm", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert os.listdir(vm / "exec") == []


def test_exec_passes_arguments_unchanged(cli, vm):
    done = cli("exec", "vm", "printf", "[%s]", "a b", "$HOME", "", "*")
    assert done.stdout == b"[a b][$HOME][][*]"


def test_exec_stdin(cli, vm):
    assert cli("exec", "vm", "tr", "a-z", "A-Z", input=b"shout\n").stdout == b"SHOUT\n"
    data = os.urandom(1 << 20)
    assert cli("exec", "vm", "cat", input=data).stdout == data


def test_exec_without_stdin(cli, vm):
    assert cli("exec", "vm", "cat", stdin=subprocess.DEVNULL).stdout == b""


def test_exec_signals(cli, vm):
    assert cli("exec", "vm", "sh", "-c", "kill -KILL $$").returncode == 128 + 9


def test_exec_settings(cli, vm):
    done = cli("exec", "-C", "/usr", "-e", "A=1", "-e", "B=2 3", "-u", "nobody", "vm", "sh", "-c", "pwd; echo $A $B; id -un")
    assert done.stdout == b"/usr\n1 2 3\nnobody\n"


def test_exec_with_dashes_before_the_command(cli, vm):
    for before in ["vm", "--"], ["--", "vm"], ["--", "vm", "--"]:
        assert cli("exec", *before, "echo", "--", "-n").stdout == b"-- -n\n"
    assert cli("exec", "vm", "--").returncode == 127


def test_exec_of_a_command_that_is_not_there(cli, vm):
    done = cli("exec", "vm", "/nosuch")
    assert done.returncode == 127 and done.stderr


def test_exec_in_a_sandbox_that_is_not_there(cli):
    done = cli("exec", "nosuch", "true")
    assert done.returncode == 125 and b"nosuch" in done.stderr


def test_exec_on_a_paused_and_a_stopped_sandbox(cli, vm):
    for verb in "pause", "kill":
        vm.ctl(verb)
        done = cli("exec", "vm", "true")
        assert done.returncode == 125 and done.stderr
    assert os.listdir(vm / "exec") == []


def test_exec_ends_with_the_vmm(build, sbx, vm):
    with subprocess.Popen(
        [build / "sbx", "exec", "vm", "sh", "-c", "echo up; sleep 1000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        env=dict(os.environ, SBX_MOUNT=str(sbx.path)),
    ) as process:  # fmt: skip
        assert process.stdout.readline() == b"up\n"
        os.kill(vm.pid, signal.SIGKILL)
        assert process.wait(limit(20)) == 125


def test_exec_passes_signals_on(build, sbx, vm):
    with subprocess.Popen(
        [build / "sbx", "exec", "vm", "sh", "-c", "trap 'echo got it; exit 3' TERM; echo up; while :; do sleep 0.1; done"],
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=dict(os.environ, SBX_MOUNT=str(sbx.path)),
    ) as process:  # fmt: skip
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b"got it\n"
        assert process.wait(limit(20)) == 3


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, argv, env, rows=24, columns=80):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(env)
            os.execv(argv[0], [str(arg) for arg in argv])
        self.resize(rows, columns)
        self.seen = b""

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, data):
        os.write(self.fd, data)

    def expect(self, text, seconds=20):
        """Wait until the program has printed the text; forgets what came before."""
        deadline = time.monotonic() + limit(seconds)
        while text not in self.seen:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.fd], [], [], max(left, 0))
            assert ready, f"{text!r} did not come: {self.seen!r}"
            try:
                data = os.read(self.fd, 4096)
            except OSError:
                data = b""  # Linux: EIO when the other side is closed
            assert data, f"{text!r} did not come before the end: {self.seen!r}"
            self.seen += data
        self.seen = self.seen.split(text, 1)[1]

    def wait(self):
        """Exit status, after everything it prints was read."""
        try:
            while os.read(self.fd, 4096):
                pass
        except OSError:
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal(build, sbx):
    def run(*args, **kwargs):
        return Terminal([build / "sbx", *args], {"SBX_MOUNT": str(sbx.path)}, **kwargs)

    return run


def test_exec_on_a_terminal(terminal, vm):
    """An interactive shell: echo, line editing's raw mode, ^C, ^D, exit status."""
    term = terminal("exec", "vm", "sh")
    term.expect(b"# ")
    term.send(b"tty; echo $((6*7))\n")
    term.expect(b"/dev/pts/")
    term.expect(b"42")
    term.send(b"sleep 1000\n")
    term.expect(b"sleep 1000")
    term.expect(b"\n")
    # This sleep, and no other: it runs once it is the terminal's foreground. ^C before would be the shell's.
    vm.sh("until grep -qsxz 1000 /proc/[0-9]*/cmdline; do sleep 0.05; done")
    term.send(b"\x03")
    term.expect(b"# ")
    term.send(b"exit 5\n")
    assert term.wait() == 5


def test_exec_on_a_terminal_has_its_size(terminal, vm):
    term = terminal("exec", "vm", "sh", rows=30, columns=100)
    term.expect(b"# ")
    term.resize(40, 120)
    # The new size travels behind SIGWINCH: ask until it is there.
    term.send(b"until [ \"$(stty size)\" = '40 120' ]; do sleep 0.1; done; echo size; echo is right\n")
    term.expect(b"size\r\nis right")
    term.expect(b"# ")  # a shell that still runs a command takes the end of file for itself
    term.send(b"\x04")
    assert term.wait() == 0


def test_exec_finds_the_mount(build, sbx, vm):
    """Without $SBX_MOUNT the one sbxfs mount of this host is used, or the question asked."""
    env = {key: text for key, text in os.environ.items() if key != "SBX_MOUNT"}
    done = subprocess.run([build / "sbx", "exec", "vm", "true"], env=env, capture_output=True, check=False)
    mounts = [line for line in open("/proc/mounts") if " fuse.sbxfs " in line]
    assert done.returncode == (0 if len(mounts) == 1 else 125)
    inside = subprocess.run([build / "sbx", "exec", sbx / "vm", "echo", "by path"], env=env, capture_output=True, check=True)
    assert inside.stdout == b"by path\n"


def test_doctor(cli, engine):
    done = cli("doctor")
    assert done.returncode == 0, done.stdout
    text = done.stdout.decode()
    for word in "/dev/kvm", "/dev/fuse", "qemu", "guest", "engine", "limits":
        assert word in text, text
    # Of the checklist of docs/security.md: what this host tells about, and nothing else.
    vulnerabilities = Path("/sys/devices/system/cpu/vulnerabilities")
    bad = vulnerabilities.is_dir() and any("ulnerable" in path.read_text() for path in vulnerabilities.iterdir())
    swaps = len(read("/proc/swaps").splitlines()) - 1
    for word, path, good in (
        ("smt", "/sys/devices/system/cpu/smt/active", lambda text: text == "0"),
        ("ksm", "/sys/kernel/mm/ksm/run", lambda text: text != "1"),
        ("core dumps", "/proc/sys/kernel/core_pattern", lambda text: True),
        ("mitigations", vulnerabilities / "meltdown", lambda text: not bad),
    ):
        found = re.search(rf"^(ok|no)  {word} ", text, re.M)
        assert bool(found) == os.path.exists(path), word
        assert not found or (found[1] == "ok") == good(read(path).strip()), text
    assert swaps or "ok  swap        none\n" in text


# ---- images


def image(build, state, *args):
    return subprocess.run(
        [build / "sbx", "image", *args, "--state", state], capture_output=True, text=True, timeout=limit(60), check=False
    )


def test_image_ls_and_rm(build, new_state):
    state = new_state()
    assert "base" in image(build, state, "ls").stdout
    assert image(build, state, "rm", "base").returncode == 0
    assert "base" not in image(build, state, "ls").stdout
    done = image(build, state, "rm", "base")
    assert done.returncode != 0 and done.stderr


@pytest.fixture
def rootfs(tmp_path):
    """A directory that can be an image: a static busybox and a file."""
    root = tmp_path / "root"
    for directory in "bin", "etc", "root", "proc", "sys", "dev", "tmp", "run":
        (root / directory).mkdir(parents=True)
    subprocess.run(["cp", "/bin/busybox", root / "bin/busybox"], check=True)
    for applet in "sh", "cat", "echo", "ls", "stat":
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "etc/origin").write_text("imported\n")
    return root


@pytest.mark.parametrize("kind", ["dir", "tar", "tar.gz"])
def test_image_import(build, sbx, rootfs, tmp_path, kind):
    source = rootfs
    if kind != "dir":
        source = tmp_path / f"root.{kind}"
        subprocess.run(["tar", "caf", source, "-C", rootfs, "."], check=True)
    done = image(build, sbx.state, "import", "mine", source)
    assert done.returncode == 0, done.stderr
    try:
        assert sorted(os.listdir(sbx / "images")) == ["base", "mine"]
        vm = sbx.create("vm", image="mine")
        assert vm.run("cat /etc/origin") == "imported\n"
        vm.remove()
    finally:
        image(build, sbx.state, "rm", "mine")
    assert os.listdir(sbx / "images") == ["base"]


def test_image_import_of_hostile_archives(build, new_state, tmp_path):
    """Paths out of the archive's root are refused or kept inside."""
    state = new_state()
    target = tmp_path / "target"
    for name, member in ("up", "../../../../../../../../" + str(target)[1:]), ("abs", str(target)):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            entry = tarfile.TarInfo(member)
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"evil"))
        image(build, state, "import", name, tmp_path / f"{name}.tar")
        assert not target.exists()
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        link = tarfile.TarInfo("d")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        entry = tarfile.TarInfo("d/target")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"evil"))
    image(build, state, "import", "link", tmp_path / "link.tar")
    assert not target.exists()


def test_image_names(build, new_state, rootfs):
    state = new_state()
    for name in "../x", ".x", "a/b", "x" * 65:
        done = image(build, state, "import", name, rootfs)
        assert done.returncode != 0 and done.stderr
    assert image(build, state, "import", "base", rootfs).returncode != 0
    assert len(image(build, state, "ls").stdout.splitlines()) == 2  # the heading, and base


# ---- snapshot


def test_snapshot(cli, sbx, vm, tmp_path):
    """save, load and verify, and what they say when they cannot."""
    vm.sh("echo kept > /run/kept")
    done = cli("snapshot", "save", "vm", "a")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert sbx.named() == ["a"] and vm.state == "paused"
    assert cli("snapshot", "verify", "a").returncode == 0
    sbx.ok(f"cat snapshots/a/archive > {tmp_path}/a.sbx")
    archive = (tmp_path / "a.sbx").read_bytes()
    assert cli("snapshot", "load", tmp_path / "a.sbx", "b").returncode == 0
    assert cli("snapshot", "load", "-", "c", input=archive).returncode == 0
    assert sbx.named() == ["a", "b", "c"]
    os.mkdir(sbx / "snapshots/c/forks/w")
    assert (sbx / "w/fs/run/kept").read_text() == "kept\n"
    for args, data, word in (
        (("save", "vm", "a"), b"", b"already"),
        (("save", "nosuch", "d"), b"", b"No such file"),
        (("save", "vm", "no name"), b"", b"name"),
        (("load", "-", "a"), archive, b"exists"),
        (("load", "-", "d"), archive[:-1], b"cut off"),
        (("load", "/nosuch", "d"), b"", b"/nosuch"),
        (("verify", "nosuch"), b"", b"nosuch"),
    ):
        done = cli("snapshot", *args, input=data)
        assert done.returncode == 125 and word in done.stderr, done.stderr
    assert sbx.named() == ["a", "b", "c"]
    assert cli("snapshot", "save", "vm").returncode == 2


def test_snapshot_dump(cli, sbx, vm):
    """What the store holds of a snapshot, as text; docs/format.md has an example that test_dump compares."""
    write(vm / "env", "SECRET=\x1b[31m")
    vm.ctl("snapshot a")
    done = cli("snapshot", "dump", "a", "--state", sbx.state)
    text = done.stdout.decode()
    assert done.returncode == 0 and "damaged" not in text, done.stderr
    parts = [line.split()[0] for line in text.splitlines() if not line.startswith(" ")]
    assert parts[:4] == ["object", "manifest", "state", "ram"] and set(parts[4:]) == {"layer"}
    assert "  env SECRET=\\x1b[31m\n" in text
    directory = sbx.state / "objects" / text.split()[1]
    assert cli("snapshot", "dump", directory).stdout.decode() == text.split("\n", 1)[1]
    for args in ("b", "--state", sbx.state), ("a", "--state", "/nosuch"), ("/nosuch/a",):
        done = cli("snapshot", "dump", *args)
        assert done.returncode == 125 and done.stderr.startswith(b"sbx snapshot: "), done.stderr


def test_snapshot_bar(build, sbx, vm):
    """A terminal is told how far it is."""
    vm.sh("dd if=/dev/urandom of=/run/noise bs=1M count=48 2>&1")
    master, slave = pty.openpty()
    env = dict(os.environ, SBX_MOUNT=str(sbx.path))
    process = subprocess.Popen([build / "sbx", "snapshot", "save", "vm", "a"], stderr=slave, env=env)
    os.close(slave)
    text = b""
    try:
        while part := os.read(master, 4096):
            text += part
    except OSError:  # EIO: its end is closed
        pass
    os.close(master)
    assert process.wait(limit(30)) == 0
    assert b"saving" in text and b"%" in text


# ---- exec: how it ends


@pytest.fixture
def start_exec(build, sbx):
    """sbx exec in the background."""

    def start(*args, **kwargs):
        kwargs = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
        return subprocess.Popen([build / "sbx", "exec", *args], env=dict(os.environ, SBX_MOUNT=str(sbx.path)), **kwargs)

    return start


HALTS = {
    "paused": lambda vm: vm.ctl("pause"),
    "stopped VMM": lambda vm: os.kill(vm.pid, signal.SIGSTOP),
}


@pytest.mark.parametrize("halt", HALTS)
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_exec_can_be_ended_at_any_time(start_exec, vm, halt, sig):
    """The machine cannot take the signal: sbx ends as if it had been its own."""
    with start_exec("vm", "sh", "-c", "trap '' TERM INT HUP; echo up; while :; do sleep 0.1; done") as process:
        assert process.stdout.readline() == b"up\n"
        HALTS[halt](vm)
        process.send_signal(sig)
        if halt != "paused":  # it may answer yet: one that is sent again need not be passed on
            assert b"another one" in process.stderr.readline()
            process.send_signal(sig)
        assert process.wait(limit(10)) == 128 + sig
        if halt == "paused":
            assert b"paused" in process.stderr.read()
    assert os.listdir(vm / "exec") == []
    if halt == "paused":
        vm.ctl("resume")
    else:
        os.kill(vm.pid, signal.SIGCONT)
    assert vm.run("echo goes on") == "goes on\n"


def test_exec_gives_up_when_nothing_answers(start_exec, vm):
    with start_exec("vm", "sh", "-c", "echo up; sleep 1000") as process:
        assert process.stdout.readline() == b"up\n"
        os.kill(vm.pid, signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(limit(30)) == 128 + signal.SIGTERM  # without being asked again
        assert b"silent" in process.stderr.read()
    os.kill(vm.pid, signal.SIGCONT)
    vm.sh("while grep -qsxz 1000 /proc/[0-9]*/cmdline; do sleep 0.05; done")  # it was killed after all


def test_exec_on_a_terminal_of_a_paused_machine(terminal, vm):
    term = terminal("exec", "vm", "sh")
    term.expect(b"# ")
    vm.ctl("pause")
    term.send(b"\x03")
    term.expect(b"does not run")
    assert term.wait() == 128 + signal.SIGINT


def test_exec_that_is_killed_leaves_no_job(start_exec, vm):
    with start_exec("vm", "sh", "-c", "echo up; exec sleep 1000") as process:
        assert process.stdout.readline() == b"up\n"
        assert len(os.listdir(vm / "exec")) == 1
        process.kill()
    assert os.listdir(vm / "exec") == []
    vm.sh("while grep -qsxz 1000 /proc/[0-9]*/cmdline; do sleep 0.05; done")


def test_exec_whose_reader_ends(sbx, build, vm):
    """`sbx exec v yes | head` is quiet about it, each time."""
    script = f"for i in $(seq 30); do SBX_MOUNT=. {build}/sbx exec vm yes | head -n 1; done"
    done = sbx.shell(script, timeout=60)
    assert (done.stdout, done.stderr) == ("y\n" * 30, "")
    assert os.listdir(vm / "exec") == []


def test_exec_statuses(cli, vm):
    for args, code, word in (
        (["/nosuch"], 127, b"/nosuch"),
        (["nosuch"], 127, b"nosuch"),
        (["/etc/passwd"], 126, b"/etc/passwd"),
        (["/root"], 126, b"/root"),
        (["sh", "-c", "exit 3"], 3, b""),
        (["sh", "-c", "kill -9 $$"], 137, b""),
    ):
        done = cli("exec", "vm", *args)
        assert done.returncode == code and word in done.stderr and bool(word) == bool(done.stderr), done
    for args, word in (["-C", "/nosuch"], b"/nosuch"), (["-u", "nosuch"], b"nosuch"), (["-e", "novalue"], b"novalue"), (["-C", "x"], b"absolute"):
        done = cli("exec", *args, "vm", "true")
        assert done.returncode == 125 and word in done.stderr and done.stderr.count(b"\n") == 1, done
    assert os.listdir(vm / "exec") == []


def test_exec_timeout(cli, vm):
    start = time.monotonic()
    done = cli("exec", "--timeout", "1", "vm", "sh", "-c", "echo begun; sleep 1000")
    assert (done.returncode, done.stdout) == (124, b"begun\n") and b"longer than 1 s" in done.stderr
    assert 1 <= time.monotonic() - start < limit(10)
    assert cli("exec", "-t", "100", "vm", "true").returncode == 0
    assert cli("exec", "-t", "soon", "vm", "true").returncode == 125


def test_exec_timeout_of_a_halted_machine(start_exec, vm):
    with start_exec("-t", "2", "vm", "sh", "-c", "echo up; sleep 1000") as process:
        assert process.stdout.readline() == b"up\n"
        os.kill(vm.pid, signal.SIGSTOP)
        assert process.wait(limit(30)) == 124
    os.kill(vm.pid, signal.SIGCONT)


def test_exec_ends_with_its_command(cli, vm):
    start = time.monotonic()
    done = cli("exec", "vm", "sh", "-c", "sleep 1000 & echo started; echo too >&2; exit 4")
    assert (done.returncode, done.stdout, done.stderr) == (4, b"started\n", b"too\n")
    assert time.monotonic() - start < limit(10)
    assert cli("exec", "vm", "sh", "-c", "sleep 1000 & head -c 1000000 /dev/zero").stdout == b"\0" * 1000000
    for option in "-a", "--all":
        done = cli("exec", option, "vm", "sh", "-c", "(sleep 0.5; echo late) & echo early")
        assert done.stdout == b"early\nlate\n"


def test_exec_of_what_stays_can_be_interrupted(start_exec, vm):
    with start_exec("-a", "vm", "sh", "-c", "sleep 1000 & echo up") as process:
        assert process.stdout.readline() == b"up\n"
        job = os.listdir(vm / "exec")[0]
        assert open(vm / "exec" / job / "wait").read() == "exited 0\n"
        deadline = time.monotonic() + limit(10)
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(signal.SIGTERM)
            select.select([], [], [], 0.05)
        assert process.wait(limit(10)) == 128 + signal.SIGTERM


def test_exec_environment(cli, vm):
    done = cli("exec", "-e", "A=one\ntwo\n", "-e", "B= blanks ", "-e", "C=", "vm", "sh", "-c", 'printf "[%s]" "$A" "$B" "${C-unset}"')
    assert done.stdout == b"[one\ntwo\n][ blanks ][]"
    big = "x" * 100000
    done = cli("exec", *[f"-eV{i}={big}" for i in range(9)], "vm", "sh", "-c", 'echo $#; env | grep -c "^V.=x*$"', "sh", *[big] * 9)
    assert done.stdout == b"9\n9\n"


def test_exec_on_a_terminal_has_the_callers_settings(build, sbx, vm):
    env = {"SBX_MOUNT": str(sbx.path), "TERM": "screen-256color", "LANG": "de_DE.UTF-8"}
    for options, expected in ([], b"screen-256color de_DE.UTF-8"), (["-e", "TERM=dumb"], b"dumb de_DE.UTF-8"):
        term = Terminal([build / "sbx", "exec", *options, "vm", "sh", "-c", "echo $TERM $LANG"], env)
        term.expect(expected)
        assert term.wait() == 0
