# SPDX-License-Identifier: MIT
"""The man pages have all that the programs have: options of --help, files and verbs of the tree's tables."""
import re
import subprocess

import pytest

from harness import TOP, limit, read

PAGES = {
    "sbxfs.8": ["sbxfs"],
    "sbx.1": ["sbx", "sbx exec", "sbx run", "sbx image", "sbx snapshot", "sbx doctor"],
    "sbx-vmm.8": ["sbx-vmm"],
}


def source(page):
    return (TOP / "man" / page).read_text()


def rendered(page):
    done = subprocess.run(["mandoc", "-T", "ascii", TOP / "man" / page], capture_output=True, check=True)
    return re.sub(".\b", "", done.stdout.decode())


@pytest.mark.parametrize("page", PAGES)
def test_options(build, page):
    text = rendered(page)
    for program in PAGES[page]:
        name, *command = program.split()
        usage = subprocess.run([build / name, *command, "--help"], capture_output=True, text=True, check=True).stdout
        options = re.findall(r"^  (-\S+?)(?:, (--\S+))?(?: |$)", usage, re.M)
        assert len(options) >= 2, usage
        for option in filter(None, sum(options, ())):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), f"{page} lacks {option} of {program}"
        if program == "sbx":
            for word in re.findall(r"^  ([a-z]\w+)  ", usage, re.M):
                assert re.search(rf"^\.It Ic {word}\b", source(page), re.M), f"{page} lacks {word}"


def sections(page):
    """What each directory's part of the page documents: names of files, and verbs with their forms."""
    parts = re.split(r"^\.Ss (.*)$", source(page), flags=re.M)
    return {
        title: (set(re.findall(r"^\.It Pa (\S+)", body, re.M)), set(re.findall(r"^\.It Ic (\S+)", body, re.M)))
        for title, body in zip(parts[1::2], parts[2::2])
    }


def directory(path):
    """The part of the page that has a file: unnamed snapshots have what named ones have."""
    if not path:
        return "The root"
    return path.replace("VM/snapshots/N/", "snapshots/NAME/")


def test_every_file_and_verb_of_the_tree(sbx):
    """The README of a mount is made of the tables the tree is served from."""
    parts = sections("sbxfs.5")
    here = None
    for line in read(sbx / "README").split("\n\n", 2)[2].splitlines():
        verb = re.match(r"    (\w+)", line)
        if verb:
            assert verb.group(1) in parts[here][1], f"sbxfs(5) lacks the verb {verb.group(1)} of {here}"
            continue
        path = line.split("  ")[0].strip()
        parent, name = re.fullmatch(r"(.*?)([^/]+/?)", path).groups()
        here = directory(parent)
        if here in parts:
            assert name in parts[here][0] or directory(path) in parts, f"sbxfs(5) lacks {path}"
        else:  # what a directory of links or of one kind of thing has is said with the directory
            assert f".It Pa {here.rstrip('/').rsplit('/', 1)[-1]}/" in source("sbxfs.5"), f"sbxfs(5) lacks {path}"


def test_install(tmp_path):
    """make install brings the programs, what they need, and their man pages."""
    argv = ["make", "-s", "install", f"DESTDIR={tmp_path}", "PREFIX=/usr"]
    subprocess.run(argv, cwd=TOP, check=True, timeout=limit(100), stdout=subprocess.DEVNULL)
    found = {str(p.relative_to(tmp_path / "usr")) for p in (tmp_path / "usr").rglob("*") if p.is_file()}
    pages = {f"share/man/man{p.name[-1]}/{p.name}" for p in (TOP / "man").iterdir()}
    assert len(pages) == 5 and pages <= found
    unit = (tmp_path / "usr/lib/systemd/system/sbxfs.service").read_text()
    assert (tmp_path / "usr/sbin/mount.fuse.sbxfs").resolve() == tmp_path / "usr/bin/sbxfs"
    assert (tmp_path / "etc/sbxfs.conf").read_text() == (TOP / "contrib/sbxfs.conf").read_text()
    assert "ExecStart=/usr/bin/sbxfs " in unit and "@PREFIX@" not in unit
    assert {"bin/sbxfs", "bin/sbx", "libexec/sbxfs/sbx-vmm", "libexec/sbxfs/sbx-browse", "lib/sbxfs/vmlinuz"} <= found
    assert {"libexec/sbxfs/sbx-net", "libexec/sbxfs/sbx-track.so"} <= found
    (tmp_path / "etc/sbxfs.conf").write_text("keep = no\n")
    subprocess.run(argv, cwd=TOP, check=True, timeout=limit(100), stdout=subprocess.DEVNULL)
    assert (tmp_path / "etc/sbxfs.conf").read_text() == "keep = no\n"
