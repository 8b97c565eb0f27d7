# SPDX-License-Identifier: MIT
"""The kernel's modules are there for the guest that asks, and for one that does not they are not."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import LAB, Sandbox, eventually, limit, read, write

outside = pytest.mark.skipif(
    LAB or not os.environ.get("SBX_OUTSIDE") or not shutil.which("mmdebstrap"),
    reason="set SBX_OUTSIDE=1 to make an image of Debian's packages; minutes",
)

# What a machine has from its initramfs.
AT_BOOT = {"virtio", "crc32c", "tcp_diag", "inet_diag", "net_failover", "failover"}


def loaded(vm):
    return set(vm.run("cut -d' ' -f1 /proc/modules").split())


@pytest.fixture(scope="session")
def kernel_user(tmp_path_factory):
    path = tmp_path_factory.mktemp("kernel_user") / "kernel_user"
    subprocess.run(["gcc", "-O1", "-static", "-s", "-o", path, Path(__file__).with_name("kernel_user.c")], check=True)
    return path.read_bytes()


def test_the_kernel_asks_for_what_is_used(vm, kernel_user):
    """Nobody names a module: a filesystem is mounted, a device made or opened. A fork has what its origin loaded."""
    before = loaded(vm)
    assert all(name.startswith(tuple(AT_BOOT)) for name in before)
    (vm / "fs/root/kernel_user").write_bytes(kernel_user)
    os.chmod(vm / "fs/root/kernel_user", 0o755)
    vm.sh(
        "mkdir /tmp/o && mount -t tmpfs t /tmp/o && cd /tmp/o && mkdir low up work all && echo below > low/f && "
        "mount -t overlay o -o lowerdir=low,upperdir=up,workdir=work all && echo above > all/g && cat all/f up/g"
    )
    vm.sh("ip link add v0 type veth peer name v1 && ip link add br0 type bridge && ip link set v0 master br0 && ip link set v0 up")
    assert vm.run("ls /sys/class/net/br0/brif") == "v0\n"
    vm.sh("/root/kernel_user tun && /root/kernel_user tables")
    vm.sh("dd if=/dev/zero of=/tmp/o/d bs=1M count=2 2>/dev/null && d=$(losetup -f) && losetup $d /tmp/o/d && losetup $d | grep -q /tmp/o/d")
    assert {"overlay", "veth", "bridge", "tun", "nf_tables", "loop"} <= loaded(vm) - before
    fork = vm.fork("w")
    assert fork.run("cat /tmp/o/all/g; ls /sys/class/net/br0/brif; losetup $(losetup -f | tr 1 0) | grep -c /tmp/o/d") == "above\nv0\n1\n"
    fork.sh("ip link add link br0 name vl type vlan id 3")
    assert "8021q" in loaded(fork) and "8021q" not in loaded(vm)


def test_people_ask_too(vm):
    """/run/sbx/bin/modprobe takes names as the kernel and people write them, and says what there is not."""
    vm.sh("/run/sbx/bin/modprobe -a br-netfilter xt_MASQUERADE && /run/sbx/bin/modprobe zram num_devices=3 && ls /dev/zram2")
    assert {"br_netfilter", "bridge", "nf_nat", "xt_MASQUERADE"} <= loaded(vm)
    assert vm.run("/run/sbx/bin/modprobe nosuch; echo $?") == "modprobe: nosuch: no module nosuch\n1\n"
    assert vm.run("/run/sbx/bin/modprobe -q nosuch; echo $?") == "1\n"
    # others may not talk to the agent
    job = vm.job()
    write(job / "user", "nobody")
    job.start("/run/sbx/bin/modprobe dummy")
    assert job.wait() == "exited 126" and "dummy" not in loaded(vm)


def test_modules_of_the_image_come_first(vm):
    """Who brings modules for this kernel, and a modprobe, is not looked after."""
    vm.sh(
        "mkdir -p /lib/modules/$(uname -r) && touch /lib/modules/$(uname -r)/modules.dep && rm /sbin/modprobe && "
        "printf '#!/bin/sh\\necho \"$0 $*\" >> /asked\\n' > /sbin/modprobe && chmod +x /sbin/modprobe"
    )
    vm.run("ip link add v0 type veth peer name v1 2>&1")
    assert read(vm / "fs/asked") == "/sbin/modprobe -q -- rtnl-link-veth\n" and "veth" not in loaded(vm)


def test_a_machine_that_is_captured_while_it_reads(vm):
    """A checkpoint, and a fork, in the middle of what is read: all go on with it."""
    script = "for i in 1 2; do /run/sbx/bin/modprobe bridge && rmmod bridge && echo $i || exit 1; done; echo done"
    job = vm.job(script)
    with open(job / "stdout", "rb", buffering=0) as out:
        assert out.readline() == b"1\n"
    fork = vm.fork("w")
    vm.ctl("checkpoint")
    for each in (vm, fork):
        with open(each / "exec" / Path(job.path).name / "stdout", "rb") as out:
            assert out.read().endswith(b"done\n")


@outside
@pytest.mark.timeout(1800)
def test_podman_with_a_network_of_its_own(build, own_mount, new_state):
    """Two containers, one with no network and one behind a bridge and a published port, go on in two forks."""
    state = new_state()
    packages = ["podman", "crun", "netavark", "iptables", "iproute2"]
    subprocess.run([build / "sbx", "image", "build", "box", "--state", state, "--debian", *packages], check=True, timeout=900)
    mount = own_mount(state=state)
    write(mount / "ctl", "create box image=box memory=1G cpus=2")
    box = Sandbox(mount / "box")
    image = box / "fs/root/base.tar"
    subprocess.run([build / "sbx", "image", "export", "base", f"docker-archive:{image}", "--state", state], check=True)
    os.makedirs(box / "fs/etc/containers", exist_ok=True)
    (box / "fs/etc/containers/containers.conf").write_text('[network]\nnetwork_backend = "netavark"\n')
    box.sh("podman load -q -i /root/base.tar")
    box.sh("podman run -d --network none --name count base sh -c 'while :; do n=$((n+1)); echo $n > /count; sleep 0.1; done'")
    box.sh("podman run -d --name web -p 8080:80 base sh -c 'mkdir /w; echo hello > /w/index.html; exec busybox httpd -f -p 80 -h /w'")
    get = "bash -c 'exec 3<> /dev/tcp/127.0.0.1/8080; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3; tail -n 1 <&3'"
    eventually(lambda: box.run(get) == "hello\n", limit(60), "the container does not answer")
    assert {"overlay", "bridge", "veth", "nf_tables"} <= loaded(box)
    write(mount / "box/ctl", "snapshot kept")
    count = lambda vm: int(vm.sh("podman exec count cat /count"))  # noqa: E731
    for name in ("w1", "w2"):
        os.mkdir(mount / "snapshots/kept/forks" / name)
        fork = Sandbox(mount / name)
        before = count(fork)
        assert fork.run(get) == "hello\n" and count(fork) > before
        assert fork.run("podman ps --format '{{.Names}}'").split() == ["count", "web"]
        fork.remove()
