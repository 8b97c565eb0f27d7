# SPDX-License-Identifier: MIT
"""transcripts.py - the blocks ```console of a document: what they say is typed, and what they say comes of it

    $ COMMAND     is typed; lines `> ...` below it belong to it
    other lines   are what it prints, standard error too. `...` stands for anything in its line; a line that is nothing
                  but `...` for any number of lines; a number before ` ms` or ` s` for any number

A command that prints nothing must succeed. A block that begins with "```console not run: WHY" is not run.
"""
import re
import shlex
import subprocess
from pathlib import Path

MARK = "@transcript@"
NOT_RUN = "not run: "


class Step:
    """A command, and the lines that a document says it prints."""

    def __init__(self, place, command):
        self.place, self.command, self.lines = place, command, []

    @property
    def pattern(self):
        parts = []
        for line in self.lines:
            if line == "...":
                parts.append("(?:.*\n)*")
                continue
            words = [re.escape(word) for word in line.split("...")]
            parts.append(re.sub(r"\d+(?:\\\.\d+)?\\ (m?s)\b", r"[\\d.]+ \1", ".*".join(words)) + "\n")
        return re.compile("".join(parts))

    def check(self, printed, status=0):
        """None, or what is wrong with what the command has printed."""
        wrong = not self.pattern.fullmatch(printed) or (status and not self.lines)
        expected = "".join(f"{line}\n" for line in self.lines)
        return f"{self.place}: $ {self.command}\n--- the document\n{expected}--- here, status {status}\n{printed}" if wrong else None


class Block:
    def __init__(self, document, line, attribute):
        self.place = f"{document.name}:{line}"
        self.why_not = attribute.removeprefix(NOT_RUN) if attribute.startswith(NOT_RUN) else None
        assert not attribute or self.why_not, f"{self.place}: {attribute!r} is not '{NOT_RUN}WHY'"
        self.steps = []

    @property
    def mounts(self):
        """Whether a daemon is started in it."""
        return any(re.search(r"\bsbxfs (.* )?/sbx\b", step.command) for step in self.steps)

    def add(self, document, number, line):
        if line.startswith("$ "):
            self.steps.append(Step(f"{document.name}:{number}", line[2:]))
        elif line.startswith("> ") and self.steps and not self.steps[-1].lines:
            self.steps[-1].command += "\n" + line[2:]
        else:
            assert self.steps, f"{document.name}:{number}: output of no command"
            self.steps[-1].lines.append(line)


def blocks(document):
    """The blocks of a document, in order."""
    found, block = [], None
    for number, line in enumerate(Path(document).read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```console"):
            block = Block(Path(document), number, line[len("```console") :].strip())
            found.append(block)
        elif line == "```":
            block = None
        elif block:
            block.add(Path(document), number, line)
    return found


def runnable(document):
    return [block for block in blocks(document) if not block.why_not]


def script(steps):
    """One shell types all of it: directories, variables and descriptors go on from one command to the next."""
    lines = ["exec 2>&1"]
    for number, step in enumerate(steps):
        lines.append(f"eval {shlex.quote(step.command)}\nprintf '\\n%s\\n' \"{MARK} {number} $?\"")
    return "\n".join(lines)


def said(output, steps):
    """What each command printed, and its status."""
    found, at = [], 0
    for number in range(len(steps)):
        match = re.compile(rf"\n{MARK} {number} (\d+)\n").search(output, at)
        if not match:
            break
        printed = re.sub(r"^bash: line \d+: ", "bash: ", output[at : match.start()], flags=re.M)
        found.append((printed if not printed or printed.endswith("\n") else printed + "\n", int(match.group(1))))
        at = match.end()
    return found, output[at:]


def check(steps, argv, seconds, **kwargs):
    """Run the steps with a shell that argv leads to, and compare; what differs is in the AssertionError."""
    try:
        done = subprocess.run([*argv, "bash", "-c", script(steps)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=seconds, check=False, **kwargs)
        output, end = done.stdout, done.stderr
    except subprocess.TimeoutExpired as e:
        output, end = (e.stdout or b"").decode(errors="replace"), f"not done after {seconds} s"
    found, rest = said(output, steps)
    wrong = [text for step, (printed, status) in zip(steps, found) if (text := step.check(printed, status))]
    if len(found) < len(steps):
        wrong.append(f"{steps[len(found)].place}: $ {steps[len(found)].command}\n--- did not end\n{rest}{end}")
    assert not wrong, "\n\n".join(wrong)
