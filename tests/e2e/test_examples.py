# SPDX-License-Identifier: MIT
"""The examples do what they say, and Python processes have random numbers of their own where they ask for it."""
import errno
import os
import re
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from pathlib import Path

import pytest

import transcripts
from harness import LAB, TOP, Sandbox, fails, limit, read, write

pytestmark = pytest.mark.plain

needs_debian = pytest.mark.skipif(LAB, reason="makes an image of Debian's packages, which the lab does not reach")


@pytest.fixture(scope="session")
def examples_state(tmp_path_factory):
    """A state directory that keeps its images from one example to the next."""
    return tmp_path_factory.mktemp("examples") / "state"


@pytest.fixture(scope="session")
def debian_image(build, examples_state):
    """One image for the examples with Python and PostgreSQL, and a server for ssh in it: each takes a minute to make."""
    packages = ["python3", "postgresql", "dropbear-bin"]
    argv = [build / "sbx", "image", "build", "debian", "--debian", *packages, "--state", examples_state]
    subprocess.run(argv, check=True, timeout=limit(400))
    return "debian"


@pytest.fixture
def example(engine, build, guest, examples_state):
    """A function: run an example on a mount of its own; returns what it says, which is what its README.md shows."""

    def run(name, *args, seconds=100, options="", image="", program="run"):
        env = dict(
            {key: value for key, value in os.environ.items() if not key.startswith("SBX")},
            SBX_STATE=str(examples_state),
            SBX_BUILD=str(build),
            SBX_IMAGE=image,
            SBX_OPTIONS=f"--engine {engine} --guest {guest} {options}",
        )
        argv = [TOP / "examples" / name / program, *args]
        done = subprocess.run(argv, env=env, text=True, capture_output=True, timeout=limit(seconds), check=False)
        assert done.returncode == 0, f"{name} -> {done.returncode}\n{done.stdout}{done.stderr}"
        page = [step for block in transcripts.blocks(TOP / "examples" / name / "README.md") for step in block.steps]
        for step in page:
            if step.command.split() == [f"examples/{name}/{program}", *args]:
                assert not (wrong := step.check(done.stdout)), wrong
                return done.stdout
        assert not page, f"README.md of {name} has something else than {args}"
        return done.stdout

    return run


@pytest.mark.timeout(limit(300))
@pytest.mark.parametrize("language", ["shell", "python", "typescript"])
def test_seed_parity(build, sbx, language):
    """The five patterns of the API that sbxfs implements; the README has what they print, in every language."""
    if language == "typescript" and not shutil.which("node"):
        pytest.skip("this host has no node")
    env = dict(os.environ, SBX_MOUNT=str(sbx.path), SBX_BUILD=str(build))
    done = subprocess.run([TOP / "examples/seed-parity/run", language], env=env, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"```\n{done.stdout}```\n" in (TOP / "examples/seed-parity/README.md").read_text()
    assert sbx.named() == [] and set(sbx.sandboxes()) <= {"prepared"}


def test_best_of_three(example):
    """The worker that goes on is each time the one that came nearest, with the number it had by then."""
    lines = example("best-of-three").splitlines()
    found = [re.fullmatch(r"round (\d), step (-?\d): x = (\d+), distance (\d+)", line) for line in lines]
    found = [tuple(map(int, match.groups())) for match in found if match]
    assert len(found) == 9
    at = 30
    for number in 1, 2, 3:
        attempts = [row for row in found if row[0] == number]
        assert all(x == at + step and distance == abs(x * x - 2000) for _, step, x, distance in attempts)
        best = min(attempts, key=lambda row: row[3])
        assert f"round {number}: round{number}.{attempts.index(best) + 1} wins" in lines
        at = best[2]


@pytest.mark.parametrize("program", ["run", "from-host"])
def test_tree_search(example, program):
    """Every way was gone, each by a machine of its own, and the one that came nearest has its origin's name."""
    said = example("tree-search", program=program)
    found = re.findall(r"^(agent[.\d]*): (.*) = (\d+), (\d+) from 100$", said, re.M)
    ways = {(a, b, c) for a in "+*" for b in "+*" for c in "+*"}
    assert {tuple(re.findall("[+*]", path)) for _, path, _, _ in found} == ways and len(found) == len(ways)
    assert all(eval(path) == int(x) and abs(int(x) - 100) == int(d) for _, path, x, d in found)  # noqa: S307
    best = min(found, key=lambda row: int(row[3]))
    assert best[0] != "agent" and f"{best[0]} is the best: {best[1]} = {best[2]}" in said
    assert f"what is left of it: agent, {best[3]} {best[2]} {best[1]}" in said


def test_web_per_fork(example):
    """Each fork answers at an address of its own, with its own page."""
    found = re.findall(r"^site(\d) at (127\.91\.\d+\.\d+):80 says <p>page of site(\d), \d+ ms after mkdir$", example("web-per-fork", "3"), re.M)
    assert [(a, b) for a, _, b in found] == [("1", "1"), ("2", "2"), ("3", "3")] and len({ip for _, ip, _ in found}) == 3


def test_one_name(example, names, own_address):
    """The agent reaches the one name it is given, and hears at once what it may not reach."""
    resolver = names({"app.test": [own_address], "other.test": [own_address]})
    with socketserver.TCPServer((own_address, 0), Page) as server:
        port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls = [f"http://{name}:{port}/" for name in ("app.test", "other.test", "10.9.9.9")] + ["http://169.254.169.254/"]
        out = example("one-name", f"app.test:{port},{own_address}:{port}", *urls, options=f"--resolver {resolver.address}")
        server.shutdown()
    assert f"{urls[0]}: reached: a page" in out and out.count("not reached") == 3
    refused = out.split("what was refused, and why:\n")[1]
    assert "  udp 10.0.2.3:53 other.test not in allow" in refused
    assert f"  tcp 10.9.9.9:{port} - not in allow" in refused and "  tcp 169.254.169.254:80 - not in allow" in refused
    assert resolver.asked and set(resolver.asked) == {"app.test"}


class Page(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\na page\n")


@needs_debian
@pytest.mark.timeout(600)
@pytest.mark.skipif(not shutil.which("ssh"), reason="this host has no ssh")
def test_ssh_through_dial(build, own_mount, examples_state, debian_image, tmp_path):
    """A shell in a sandbox that has no network, by a server that listens on its loopback only."""
    env = dict(os.environ, SBX_STATE=str(examples_state))
    mount = own_mount(state=examples_state, options=["--net", "none"])
    vm = mount.create("box", image=debian_image)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    vm.sh("mkdir -p -m 700 /etc/dropbear /root/.ssh; dropbearkey -t ed25519 -f /etc/dropbear/key > /dev/null 2>&1")
    (vm / "fs/root/.ssh/authorized_keys").write_bytes((tmp_path / "key.pub").read_bytes())
    vm.sh("dropbear -s -r /etc/dropbear/key -p 127.0.0.1:22")
    ssh = ["ssh", "-F", "none", "-i", tmp_path / "key", "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={tmp_path}/known"]
    ssh += ["-o", f"ProxyCommand={build}/sbx dial box 22", "root@x"]
    data = os.urandom(1 << 20)
    env["SBX_MOUNT"] = str(mount.path)
    done = subprocess.run([*ssh, "cat; hostname >&2; exit 7"], input=data, env=env, capture_output=True, timeout=limit(100), check=False)
    assert done.returncode == 7 and done.stdout == data and done.stderr.endswith(b"box\n"), done.stderr
    assert os.listdir(vm / "tcp") == ["22"]


# ---- with what is outside


outside = pytest.mark.skipif(not os.environ.get("SBX_OUTSIDE"), reason="set SBX_OUTSIDE=1 to install from this host's registries; minutes")


@outside
@needs_debian
@pytest.mark.timeout(1200)
def test_npm_once(example):
    """A package is installed once, through `allow`, and ten forks without a network have it."""
    out = example("npm-once", "is-number", "10", seconds=900)
    assert "installed is-number" in out
    assert sorted(re.findall(r"^w(\d+): has is-number$", out, re.M), key=int) == [str(i) for i in range(1, 11)]


@needs_debian
@pytest.mark.timeout(600)
def test_postgres_trial(example, debian_image):
    """Each fork of the running server has the seed, and its migration for itself."""
    out = example("postgres-trial", "3", seconds=500, image=debian_image)
    assert "seeded: 10000|350035000" in out and "the seed is as it was: 10000|350035000" in out
    found = dict(re.findall(r"^trial-(\d): first answer \d+ ms after mkdir; now (.*)$", out, re.M))
    assert found["0"] == "10000|350035000" and found["1"] == "5000|175000000" and "does not exist" in found["2"]


@outside
@needs_debian
@pytest.mark.timeout(1200)
def test_warm_jvm(example):
    """Every fork is the process that has answered three times."""
    out = example("warm-jvm", "3", seconds=900)
    found = dict(re.findall(r"^j(\d): (\d+) is answer 4, in \d+ ms$", out, re.M))
    assert found == {"1": "76127", "2": "277050", "3": "593823"}


@outside
@needs_debian
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="this host has no mmdebstrap")
def test_apt_get_install(build, own_mount, new_state, tmp_path):
    """In a machine whose network may reach its mirror and nothing else."""
    tar, state = tmp_path / "apt.tar", new_state()
    made = ["mmdebstrap", "--variant=apt", "--aptopt=Acquire::Languages \"none\"", "bookworm", tar, *apt_sources()]
    subprocess.run(made, check=True, timeout=limit(600))
    subprocess.run([build / "sbx", "image", "import", "apt", tar, "--state", state], check=True)
    vm = own_mount(state=state, options=["--net", "none"]).create("vm", image="apt", memory_max="1G", memory="1G")
    (vm / "fs/etc/resolv.conf").write_text("nameserver 10.0.2.3\n")
    hosts = set(re.findall(r"^URIs:.*?https?://([^/\s:]+)", "".join(path.read_text() for path in apt_sources()), re.M))
    allow_hosts(vm, hosts)
    out = vm.run("apt-get -q update 2>&1 && apt-get -q -y install --no-install-recommends hello 2>&1 && hello")
    assert out.endswith("Hello, world!\n"), out
    assert "refused" in vm.run("bash -c 'exec 3<> /dev/tcp/10.9.9.9/80' 2>&1")


def apt_sources():
    found = sorted(Path("/etc/apt/sources.list.d").glob("debian.sources"))
    if not found:
        pytest.skip("this host's sources are not in debian.sources")
    return found


def allow_hosts(vm, hosts):
    """These names, and the addresses that they have: a mirror may be at one that is not public."""
    addresses = {info[4][0] for host in hosts for info in socket.getaddrinfo(host, 80, socket.AF_INET)}
    write(vm / "net/allow", "".join(f"{name}\n" for name in sorted(hosts | addresses)))
    write(vm / "net/mode", "allow")


@needs_debian
@pytest.mark.timeout(600)
def test_warm_python(example, debian_image):
    """Ten forks answer a job each without the time the imports took, and no two have the same random numbers."""
    out = example("warm-python", seconds=500, image=debian_image)
    imports = int(re.search(r"^base: ready: imports took (\d+) ms$", out, re.M).group(1))
    jobs = re.findall(r"^job for (w\d+): 661\.462947 in (\d+) ms, and a random (\d+)$", out, re.M)
    assert {name for name, _, _ in jobs} == {f"w{i}" for i in range(1, 11)} and len(jobs) == 10
    assert len({number for _, _, number in jobs}) == 10
    assert sorted(int(took) for _, took, _ in jobs)[5] < imports, out


@needs_debian
@pytest.mark.timeout(600)
def test_database_per_test(example, debian_image):
    """Each test has the seeded database for itself, whatever the others do to theirs."""
    out = example("database-per-test", seconds=500, image=debian_image)
    assert sorted(re.findall(r"^ok (\w+)$", out, re.M)) == ["clear", "drop", "oversell", "restock", "sell"]


def test_demo(example):
    """The tour ends, and each of the ten has what the first had."""
    out = example("demo")
    assert re.findall(r"prepared once \| \d+ \| (w\d)$", out, re.M) == [f"w{i}" for i in range(10)]
    assert "there is no verb" in out and "fork w9 " in out.split("How long it took")[1]


def test_undo(example):
    """What was taken back is as before, the process with its number too, and what was kept is kept."""
    lines = example("undo").splitlines()
    assert lines[1] == "    kept" and lines[2].endswith("no text, counted to 42") and lines[4].endswith("second draft, counted to 43")


def test_diff_of_two_runs(example):
    """`diff -r` has what the second run did that the first did not, and nothing else."""
    out = example("diff-of-two-runs")
    assert sorted(re.findall(r"^[<>] (.*)$", out, re.M)) == ["app:x:500:500::/opt/app:/bin/sh", "version 1", "version 2"]
    assert re.findall(r"^Only in (\w+)/.*: (.*)$", out, re.M) == [("v2", "config")]


# ---- examples/reseed

WORKER = """
import random, ssl
{}
random.random(), ssl.RAND_bytes(8)
while input() is not None:
    print(random.getrandbits(64), ssl.RAND_bytes(8).hex(), flush=True)
"""


@pytest.fixture
def ask():
    """A function: send a line to a job, and return the words of its answer. Starts it, too; its input stays open."""
    inputs = []

    def ask(vm, job, cmd=None):
        inputs.append(os.open(vm / "exec" / job / "stdin", os.O_WRONLY))
        if cmd:
            write(vm / "exec" / job / "cmd", cmd)
        os.write(inputs[-1], b"\n")
        with open(vm / "exec" / job / "stdout", "rb") as out:
            return out.readline().decode().split()

    yield ask
    for fd in inputs:
        os.close(fd)


@needs_debian
@pytest.mark.timeout(600)
def test_reseed(own_mount, examples_state, debian_image, ask):
    """A process that takes part has new seeds before its fork answers; one that cannot is not handed out."""
    mount = own_mount(state=examples_state)
    vm = mount.create("origin", image=debian_image)
    vm.sh("mkdir -p /etc/sbx/fork.d")
    for name in "reseed.py", "50-reseed":
        where = "root" if name.endswith("py") else "etc/sbx/fork.d"
        (vm / "fs" / where / name).write_bytes((TOP / "examples/reseed" / name).read_bytes())
    (vm / "fs/etc/sbx/fork.d/50-reseed").chmod(0o755)
    (vm / "fs/root/with.py").write_text(WORKER.format("import reseed"))
    (vm / "fs/root/without.py").write_text(WORKER.format(""))
    for name in "with", "without":
        vm.job(name=name)
        assert len(ask(vm, name, f"exec python3 /root/{name}.py")) == 2
    snap = vm.snapshot()
    snap.ctl("fork 3 w")
    forks = [Sandbox(mount / f"w{i}") for i in (1, 2, 3)]
    answers = [ask(fork, "with") for fork in forks]
    assert len({numbers for numbers, _ in answers}) == 3 and len({secret for _, secret in answers}) == 3, answers
    # This is why: what a process keeps in its memory is the same in every fork.
    assert len({ask(fork, "without")[0] for fork in forks}) == 1
    # A fork of a fork, too.
    assert ask(forks[0].fork("w4"), "with") != ask(forks[0], "with")

    vm.ctl("resume")
    vm.sh("kill -STOP $(ls /run/sbx/reseed)")
    start = time.monotonic()
    with fails(errno.EIO):
        vm.fork("stopped")
    assert time.monotonic() - start < limit(20)
    assert "50-reseed" in read(vm / "error") and not os.path.exists(mount / "stopped")
