# SPDX-License-Identifier: MIT
"""fs/ answers as a filesystem of the host does: every call of tests/fs/calls.py is made on both"""
import json
import os
import subprocess
import sys

import pytest

from harness import TOP, limit

pytestmark = pytest.mark.any_engine


def answers(top):
    os.mkdir(top)
    os.chmod(top, 0o755)
    argv = [sys.executable, TOP / "tests/fs/calls.py", top]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=limit(110)).stdout)


def differences(here, there, path=""):
    """The leaves of two trees that are not the same."""
    if not isinstance(here, dict) or not isinstance(there, dict):
        if isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
            pairs = [(f"{path}[{i}]", a, b) for i, (a, b) in enumerate(zip(here, there))]
            return [line for name, a, b in pairs for line in differences(a, b, name)]
        return [] if here == there else [f"{path}: {here} instead of {there}"]
    names = sorted(set(here) | set(there))
    return [line for name in names for line in differences(here.get(name), there.get(name), f"{path}/{name}")]


def test_calls_answer_as_on_a_filesystem_of_the_host(vm, tmp_path):
    """A guest's ids are those of the host's root and users, so permissions are the same as well."""
    expected = answers(tmp_path / "reference")
    assert len(expected) > 60
    found = differences(answers(vm / "fs/suite"), expected)
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:40])
