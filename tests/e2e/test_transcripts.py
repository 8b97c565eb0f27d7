# SPDX-License-Identifier: MIT
"""What README.md and docs/ show of a terminal is what a terminal shows (docs/testing.md has the rules of transcripts)."""
import contextlib
import itertools
import os
import re
import shutil
import subprocess

import pytest

import transcripts
from conftest import clear, host_engine
from harness import TOP, children, eventually, limit, reap

pytestmark = pytest.mark.plain

DOCUMENTS = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]
ENTER = TOP / "tests/e2e/a-root-of-its-own"
# What cannot be run: a block more of it is a reason to think again, not to raise the number.
NOT_RUN = 8
COMMANDS = r"(?:\$ |sudo |build/sbx|sbx |sbxfs [-/~]|echo |printf |cat |cp |mv |ls |mkdir |rmdir |make |exec |curl |ssh |kill |gdb |mount |tests/|examples/)"


def before_mount(document):
    return list(itertools.takewhile(lambda block: not block.mounts, transcripts.runnable(document)))


def from_mount(document):
    return list(itertools.dropwhile(lambda block: not block.mounts, transcripts.runnable(document)))


@pytest.fixture(scope="module")
def documents_mount(engine, build, guest, new_warm_state, tmp_path_factory):
    """A daemon for all documents, whose sandboxes start as forks of one that booted."""
    from harness import Mount

    options = ["--boot-snapshots", "4"]
    mount = Mount(build, guest, engine, tmp_path_factory.mktemp("documents"), new_warm_state(), options).start()
    yield mount
    mount.stop()


@pytest.fixture
def at_home(build, tmp_path):
    """A clone as a reader has it, with what was built in it: the directory that commands are typed in."""
    home = tmp_path / "sbxfs"
    home.mkdir()
    for name in "examples", "clients", "tests":
        (home / name).symlink_to(TOP / name)
    shutil.copytree(TOP / "man", home / "man")
    (home / "build").symlink_to(build)
    return home


def run(blocks, state, mount, home, build):
    steps = [step for block in blocks for step in block.steps]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SBX", "XDG"))}
    env.update(PATH=f"{build}:{env['PATH']}", HOME=str(home.parent), LC_ALL="C.UTF-8")
    transcripts.check(steps, [ENTER, state, mount, "env", "-C", home], limit(100), env=env)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a mount namespace")
@pytest.mark.parametrize("document", [pytest.param(d, id=d.stem) for d in DOCUMENTS if before_mount(d)])
def test_documents(documents_mount, document, at_home, build):
    """Each document, from a mount without sandboxes, up to where it makes a mount of its own."""
    try:
        run(before_mount(document), documents_mount.state, documents_mount.path, at_home, build)
    finally:
        clear(documents_mount)
    documents_mount.check_log()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a mount namespace")
@pytest.mark.parametrize("document", [pytest.param(d, id=d.stem) for d in DOCUMENTS if from_mount(d)])
def test_from_the_mount_on(engine, build, document, at_home, tmp_path):
    """What begins with a mount, as a newcomer follows it: it starts the daemon and ends it."""
    if engine != host_engine(build):
        pytest.skip("sbxfs takes another engine here")
    before = children()
    try:
        (tmp_path / "state").mkdir()
        run(from_mount(document), tmp_path / "state", "-", at_home, build)
        eventually(lambda: not reap(before), 20, "processes are left behind")
    finally:
        for pid in reap(before):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)


def test_what_is_not_run():
    """Blocks that are not run say why, and do not become more; commands are in blocks that are."""
    skipped = [block for document in DOCUMENTS for block in transcripts.blocks(document) if block.why_not]
    assert len(skipped) <= NOT_RUN, "\n".join(f"{block.place}: {block.why_not}" for block in skipped)
    assert all(len(block.why_not.split()) > 1 for block in skipped)
    wrong = []
    for document in DOCUMENTS:
        fence = None
        for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith("```"):
                fence = (line[3:].split() or ["plain"])[0] if fence is None else None
                if fence in ("sh", "bash", "shell"):
                    start = number + 1
            elif fence is None and re.match(rf"    +{COMMANDS}", line):
                wrong.append(f"{document.name}:{number}: {line}")
            elif fence in ("sh", "bash", "shell") and number == start and not line.startswith("#!"):
                wrong.append(f"{document.name}:{number}: {line}")
    assert not wrong, "commands that nobody runs; they go in a block ```console:\n" + "\n".join(wrong)


def test_figures():
    """README's table of how fast it is has nothing that docs/performance.md has not, which says on what host."""
    table = (TOP / "README.md").read_text().split("## How fast it is")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")][2:]
    known = set(re.findall(r"\d+(?:\.\d+)?", (TOP / "docs/performance.md").read_text()))
    assert len(rows) > 4
    for row in rows:
        figures = [figure for cell in (row[0], *row[2:]) for figure in re.findall(r"\d+(?:\.\d+)?", cell)]
        assert figures and set(figures) <= known, f"not in docs/performance.md: {set(figures) - known} of {row}"


def test_transcripts_are_compared():
    """What is compared can differ."""
    step = transcripts.Step("here", "x")
    step.lines = ["fork in 12 ms: ...", "...", "end"]
    for good in "fork in 3.4 ms: w1\nend\n", "fork in 300 ms: \na\nb\nend\n":
        assert step.check(good) is None
    for bad in "", "fork in 3 s: w1\nend\n", "fork in 3 ms: w1\nthe end\n", "fork in 3 ms: w1\nend", "fork in 3 ms: w1\nend\nx\n":
        assert "the document" in step.check(bad)
    assert transcripts.Step("here", "false").check("", 1) and not transcripts.Step("here", "true").check("", 0)
    with pytest.raises(AssertionError, match="here: \\$ exit 3\n--- did not end"):
        transcripts.check([transcripts.Step("here", "exit 3")], [], 10)


def test_a_root_of_its_own(tmp_path):
    """What a transcript writes is gone afterwards, and it sees this host."""
    if os.geteuid() != 0:
        pytest.skip("makes a mount namespace")
    (tmp_path / "state").mkdir()
    script = "cat /etc/hostname && touch /etc/of-a-transcript /var/lib/sbxfs/kept && ls -d /sbx"
    done = subprocess.run([ENTER, tmp_path / "state", "-", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith("/sbx\n"), done.stderr
    assert not os.path.exists("/etc/of-a-transcript") and os.listdir(tmp_path / "state") == ["kept"]
