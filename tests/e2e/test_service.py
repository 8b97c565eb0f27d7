# SPDX-License-Identifier: MIT
"""The unit for systemd: what it lets the daemon have is enough, and the daemon says when it is ready."""
import os
import re
import shutil
import socket
import subprocess

import pytest

from harness import TOP, Snapshot, limit

UNIT = TOP / "contrib/sbxfs.service.in"


def settings(key):
    return " ".join(re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.M)).split()


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """A service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(limit(10))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield server


def test_it_says_when_it_is_ready(manager, own_mount):
    mount = own_mount()
    assert manager.recv(100) == b"READY=1" and mount.answers()


@pytest.mark.skipif(os.geteuid() != 0, reason="the unit is for root")
def test_its_capabilities_are_enough(own_mount, build, tmp_path):
    """With those of the unit and no others: machines, captures, forks, network, an end in order."""
    names = [name.removeprefix("CAP_").lower() for name in settings("CapabilityBoundingSet")]
    assert len(names) > 5 and settings("NoNewPrivileges") == ["yes"]
    wrapper = tmp_path / "build"
    wrapper.mkdir()
    argv = ["setpriv", "--no-new-privs", "--bounding-set=-all," + ",".join(f"+{name}" for name in names)]
    (wrapper / "sbxfs").write_text(f"#!/bin/sh\nexec {' '.join(argv)} -- {build}/sbxfs \"$@\"\n")
    (wrapper / "sbxfs").chmod(0o755)
    mount = own_mount(build=wrapper)
    vm = mount.create("vm")
    vm.ctl("checkpoint")
    w = Snapshot(vm / "snapshots/1").fork("w")
    (w / "net/publish").write_text("80:80\n")
    assert w.sh("echo well") == "well\n" and int(w.info["pid"])
    w.remove()
    mount.stop()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_systemd_understands_it(tmp_path):
    unit = tmp_path / "sbxfs.service"
    unit.write_text(UNIT.read_text().replace("@PREFIX@/bin/sbxfs", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=limit(30), check=False)
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr
