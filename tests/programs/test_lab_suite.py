# SPDX-License-Identifier: MIT
"""tests/lab/suite, with a shell script in the lab's place."""
import os
import subprocess
from pathlib import Path

import pytest

SUITE = Path(__file__).resolve().parents[1] / "lab/suite"

# Runs the tests a, b and c that it is not told to deselect; in the test in the file `stands` it stands still, the first time
# or, if the file says so, each time.
LAB = """#!/bin/bash
here=${0%/*}
echo "$*" >> $here/calls
while [ "$1" != -o ]; do shift; done
out=$2
status=5
for test in a b c; do
    case "$*" in *"--deselect $test"*) continue ;; esac
    echo "began $test" >> $out/results
    read stands always < $here/stands
    if [ $stands = $test ]; then
        [ $always ] || echo none > $here/stands
        sleep 60
    fi
    word=passed
    [ $test != "$(cat $here/fails)" ] || word=failed
    echo "$word $test" >> $out/results
    [ $word = passed ] || failed=1
    status=0
done
[ -z "$failed" ] || status=1
exit $status
"""


@pytest.mark.parametrize(
    "stands, fails, status, labs",
    [
        ("none", "none", 0, 1),
        ("none", "b", 1, 1),
        ("b", "none", 0, 2),  # goes on with b in another one
        ("b", "a", 1, 2),  # and does not forget what failed before
        ("b always", "none", 1, 2),
        ("c", "c", 1, 2),
    ],
)
def test_a_lab_that_stands_still_is_replaced(tmp_path, stands, fails, status, labs):
    place = tmp_path / "tests/lab"
    place.mkdir(parents=True)
    (place / "suite").write_bytes(SUITE.read_bytes())
    (place / "lab").write_text(LAB)
    for name in "suite", "lab":
        (place / name).chmod(0o755)
    (place / "stands").write_text(stands + "\n")
    (place / "fails").write_text(fails + "\n")
    done = subprocess.run([place / "suite", "-s", "2", "tests", "-vv"], env=dict(os.environ, TMPDIR=str(tmp_path)), timeout=60, check=False)
    calls = (place / "calls").read_text().splitlines()
    assert (done.returncode, len(calls)) == (status, labs)
    if labs > 1:
        ended = {"b": ["a"], "c": ["a", "b"]}[stands[0]]
        assert [calls[1].split()[i + 1] for i, word in enumerate(calls[1].split()) if word == "--deselect"] == ended
        assert "--deselect" not in calls[0]
