# SPDX-License-Identifier: MIT
"""The command lines of all programs: help, versions, and what is said of mistakes."""
import subprocess
from pathlib import Path

import pytest

PROGRAMS = "sbxfs", "sbx", "sbx-vmm", "sbx-browse", "sbx-net", "sbx-agent", "sbx-guest"
GUEST = Path(__file__).parents[2] / "build/guest"  # sbx-agent and sbx-guest are in no directory of programs
COMMANDS = "run", "exec", "dial", "forward", "image", "snapshot", "ls", "tree", "top", "sh", "cp", "logs", "wait", "doctor"
ALL = [(name,) for name in PROGRAMS] + [("sbx", command) for command in COMMANDS]


@pytest.fixture
def call(build):
    def run(program, *args):
        argv = [(GUEST / program if program in ("sbx-agent", "sbx-guest") else build / program), *args]
        return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20, check=False)

    return run


@pytest.mark.parametrize("program", ALL, ids=" ".join)
def test_help(call, program):
    name = " ".join(program)
    for word in "--help", "-h":
        done = call(*program, word)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: {name} ")
        assert "\n  --version " in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 100
    version = call(*program, "--version")
    assert (version.returncode, version.stderr) == (0, "")
    assert version.stdout.split()[0] == program[0] and version.stdout.count("\n") == 1


def test_help_of_sbx_names_every_command(call):
    text = call("sbx", "--help").stdout
    paragraph = text.split("\n\n")[2]
    assert [line.split()[0] for line in paragraph.splitlines()] == list(COMMANDS)
    assert call("sbx", "help").stdout == text
    for command in COMMANDS:
        assert call("sbx", "help", command).stdout == call("sbx", command, "--help").stdout


@pytest.mark.parametrize(
    "args, word",
    [
        ("sbxfs", "mount point"),
        ("sbxfs /nosuch /other", "/other"),
        ("sbxfs --nosuch /nosuch", "--nosuch"),
        ("sbxfs -z /nosuch", "-z"),
        ("sbxfs --pool", "--pool"),
        ("sbxfs --help=yes", "--help"),
        ("sbxfs --pool many /nosuch", "many"),
        ("sbxfs --pool 100000 /nosuch", "1000"),
        ("sbxfs --pool-memory much /nosuch", "much"),
        ("sbxfs --memory-default 1 /nosuch", "--memory-default"),
        ("sbxfs --engine steam /nosuch", "steam"),
        ("sbxfs --group no/such /nosuch", "no/such"),
        ("sbxfs --config /nosuch /nosuch", "/nosuch"),
        ("sbxfs -o keep=perhaps /nosuch", "perhaps"),
        ("mount.fuse.sbxfs none", "SOURCE"),
        ("sbx", "command"),
        ("sbx nosuch", "nosuch"),
        ("sbx --nosuch", "--nosuch"),
        ("sbx help nosuch", "nosuch"),
        ("sbx exec", "command"),
        ("sbx exec vm", "command"),
        ("sbx exec -z vm true", "-z"),
        ("sbx exec -C", "DIR"),
        ("sbx image", "import"),
        ("sbx image nosuch", "nosuch"),
        ("sbx image ls more", "sbx image ls"),
        ("sbx image rm", "sbx image rm NAME"),
        ("sbx image build other", "build base"),
        ("sbx image build base --size 1", "16M"),
        ("sbx snapshot", "save"),
        ("sbx snapshot nosuch", "nosuch"),
        ("sbx snapshot save vm", "save VM NAME"),
        ("sbx snapshot dump", "dump NAME|DIR"),
        ("sbx doctor more", "more"),
        ("sbx-vmm", "--kernel"),
        ("sbx-vmm more", "more"),
        ("sbx-vmm --memory much", "much"),
        ("sbx-vmm --control 3", "--stats"),
        ("sbx-browse one", "layer"),
    ],
)
def test_mistakes(call, args, word):
    """One line that says what is wrong and where the help is; nothing on stdout."""
    done = call(*args.split(" "))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and word in done.stderr and "--help" in done.stderr, done.stderr
