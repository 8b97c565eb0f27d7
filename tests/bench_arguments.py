# SPDX-License-Identifier: MIT
"""What every benchmark that is a program of its own is told"""
import argparse
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]


def parser(doc, n):
    """With the usage that the program's docstring has, -n and --build; the program adds what else it takes."""
    made = argparse.ArgumentParser(usage=doc.split("\n\n")[1].removeprefix("usage: "))
    made.add_argument("-n", type=int, default=n)
    made.add_argument("--build", type=lambda path: Path(path).resolve(), default=TOP / "build")
    return made
