# SPDX-License-Identifier: MIT
"""sbx-guest: a guest forks and captures itself, as far as its sandbox's file `guest` allows."""
import errno
import os

import pytest

from harness import Job, Sandbox, Snapshot, eventually, fails, fields, read, value, write

# A tree of copies, as deep as it may: each leaf is a path of choices, and who made none has none.
TREE = """
path=
while :; do
	n=$(sbx-guest fork 2 2>> /root/refused) || break
	[ "$n" = 0 ] && break
	path=$path$n
done
echo "$path" > /root/path
"""


def refused(vm, command, words):
    """It fails in the guest, with EPERM and a sentence."""
    job = vm.job(command)
    said = job.output().decode(), read(job / "stderr")
    assert job.wait() == "exited 1" and said[0] == "", said
    assert said[1].startswith("sbx-guest: ") and "Operation not permitted: " in said[1] and words in said[1], said
    job.forget()


def asking(vm, command):
    """A job that reads a line when it was answered, and its stdin, which is to stay open."""
    job = vm.job(name="asks")
    stdin = open(job / "stdin", "wb", buffering=0)
    return job.start(f"{command}; read line; echo $line $SBX_NAME"), stdin


def tell(vm, line):
    """The rest of what it says once it has read this line."""
    job = Job(vm / "exec/asks")
    with open(job / "stdin", "wb", buffering=0) as stdin:
        stdin.write(line)
    said = job.output()
    assert job.wait() == "exited 0"
    return said


def test_a_fork_returns_once_in_every_copy(sbx, vm):
    """0 where it was called and 1 to N in the others, which have its jobs, and names with its own before them."""
    write(vm / "guest", "fork 5")
    write(vm / "limits", "disk 100M")
    job, stdin = asking(vm, "echo before; sbx-guest fork 3")
    out = os.open(job / "stdout", os.O_RDONLY)
    assert os.read(out, 64) == b"before\n"
    assert os.read(out, 64) == b"0\n"
    os.close(out)
    assert [name for name in sbx.sandboxes() if name.startswith("vm")] == ["vm", "vm.1", "vm.2", "vm.3"]
    assert sorted(os.listdir(vm / "forks")) == ["vm.1", "vm.2", "vm.3"]
    for number in 1, 2, 3:
        copy = Sandbox(sbx / f"vm.{number}")
        assert (copy.state, copy.info["parent"]) == ("running", "vm")
        assert copy.run("hostname") == f"{copy.name}\n"
        assert fields(copy / "limits")["disk"] == str(100 << 20)  # or a guest would be rid of it
        assert tell(copy, b"hello\n") == b"%d\nhello vm\n" % number
        refused(copy, "sbx-guest fork 1", "does not list fork")
        assert read(copy / "guest") == ""
    stdin.close()
    assert job.wait() == "exited 0"
    assert read(vm / "guest") == "fork 2\n"
    refused(vm, "sbx-guest fork 3", "leaves 2 of fork, and not 3")
    assert vm.sh("sbx-guest fork 1") == "0\n"
    assert value(sbx / "vm.4/state") == "running"


def test_a_tree_three_deep(sbx, vm):
    """Copies that may fork again do, as deep as `inherit` says; names tell the way to each."""
    write(vm / "guest", "fork 2, inherit 2\n")
    assert read(vm / "guest") == "fork 2\ninherit 2\n"
    vm.job(TREE, name="tree")
    names = [f"vm{''.join(path)}" for path in paths(3)]
    eventually(lambda: set(names) <= set(sbx.sandboxes()), 60, "the tree does not grow")
    for name in names:
        one = Sandbox(sbx / name)
        assert Job(one / "exec/tree").wait() == "exited 0"
        # Who called fork in a copy is 0 there, and goes no further; its copies do.
        assert one.sh("cat /root/path") == name[2:].replace(".", "") + "\n"
    assert len([name for name in sbx.sandboxes() if name.startswith("vm")]) == 1 + 2 + 4 + 8
    deepest = Sandbox(sbx / "vm.2.2.2")
    assert "does not list fork" in deepest.sh("cat /root/refused")
    assert [read(sbx / name / "guest") for name in ("vm", "vm.1", "vm.1.1", "vm.1.1.1")] == [
        "fork 0\ninherit 2\n",
        "fork 0\ninherit 1\n",
        "fork 0\n",
        "",
    ]


def paths(deep):
    return [[]] if not deep else [[]] + [[f".{n}"] + rest for n in (1, 2) for rest in paths(deep - 1)]


def test_a_checkpoint_is_kept_under_its_name(sbx, vm):
    """It goes on with 0; a machine that begins with it, with 1."""
    write(vm / "guest", "checkpoint 1\n")
    job, stdin = asking(vm, "sbx-guest checkpoint ready")
    with open(job / "stdout", "rb", buffering=0) as out:
        assert out.readline() == b"0\n"
    assert sbx.named() == ["vm.ready"]
    fork = Snapshot(sbx / "snapshots/vm.ready").fork("w")
    assert tell(fork, b"there\n") == b"1\nthere vm\n"
    assert tell(vm, b"here\n") == b"here vm\n"
    stdin.close()
    refused(vm, "sbx-guest checkpoint more", "leaves 0 of checkpoint, and not 1")
    refused(vm, "sbx-guest suspend", "does not list suspend")


def test_a_guest_puts_itself_to_sleep(vm):
    """Its machine goes; whoever wants something of it wakes it, and only then the command returns."""
    write(vm / "guest", "suspend\n")
    vm.job("sbx-guest suspend; echo $? $SBX_NAME > /root/returned")  # and nothing more of it, which would wake it
    vm.wait_state("suspended")
    assert vm.pid == 0 and value(vm / "guest") == "suspend"
    eventually(lambda: vm.run("cat /root/returned 2> /dev/null") == "0 vm\n", 20, "it does not return")
    assert vm.state == "running"
    write(vm / "guest", "\n")
    refused(vm, "sbx-guest suspend", "does not list suspend")
    assert vm.state == "running"


def test_what_a_guest_asks_is_bounded(sbx, vm, own_mount):
    """It has no more than what is listed, nor names of others; its owner's limits hold."""
    write(vm / "guest", "fork 2000\ncheckpoint 5\n")
    for command, words in (
        ("sbx-guest fork 1001", "between 1 and 1000"),
        ("sbx-guest checkpoint ../x", "not a name"),
        ("sbx-guest checkpoint 'x y'", "not a name"),
        ("sbx-guest checkpoint " + "x" * 64, "64"),
    ):
        job = vm.job(command)
        assert job.output() == b"" and words in read(job / "stderr"), read(job / "stderr")
        assert job.wait() == "exited 1"
    assert read(vm / "guest") == "fork 2000\ncheckpoint 5\n" and sbx.named() == []
    # One that is taken is not given again.
    os.mkdir(sbx / "vm.1")
    assert vm.sh("sbx-guest fork 1") == "0\n"
    assert value(sbx / "vm.2/state") == "running" and value(sbx / "vm.1/state") == "created"
    for command in "sbx-guest", "sbx-guest fork", "sbx-guest fork 0", "sbx-guest fork x", "sbx-guest rollback 1":
        job = vm.job(command)
        assert job.wait() == "exited 2", command
    assert "fork N" in vm.sh("sbx-guest --help")


def test_the_owner_has_no_more_sandboxes_of_it(own_mount):
    """A copy too many is refused, with the others made; what came to nothing may be asked for again."""
    mount = own_mount(options=("--max-sandboxes", "3"))
    vm = mount.create("vm", guest="fork 4")
    job = vm.job("sbx-guest fork 4")
    assert job.wait() == "exited 1"
    assert "there are 3 sandboxes" in read(job / "stderr")
    assert mount.sandboxes() == ["vm", "vm.1", "vm.2"]
    assert read(vm / "guest") == "fork 2\n" and read(vm / "error") == ""


def test_rights_are_checked_and_are_nobodys_but_the_sandboxs(sbx, vm):
    """Malformed ones change nothing; forks made outside have none but what they are given."""
    write(vm / "guest", "fork 3, suspend")
    for text in "fork", "fork -1", "fork x", "fork 1 2", "rollback 1", "suspend 1", "fork 1\nfork 2", "fork 1\0":
        with fails(errno.EINVAL, vm / "error"):
            write(vm / "guest", text)
    for text in "fork 1000001", "inherit 65", "fork 99999999999999999999":
        with fails(errno.ERANGE, vm / "error"):
            write(vm / "guest", text)
    assert read(vm / "guest") == "fork 3\nsuspend\n"
    with open(vm / "guest", "a") as more:
        more.write("checkpoint 2\n")
    assert read(vm / "guest") == "fork 3\ncheckpoint 2\nsuspend\n"
    assert read(vm.fork("plain") / "guest") == ""
    vm.ctl('fork given guest="fork 1, inherit 1"')
    assert read(sbx / "given/guest") == "fork 1\ninherit 1\n"
    with fails(errno.EINVAL, vm / "error"):
        vm.ctl("fork bad guest=fork")
    open(vm / "guest", "w").close()
    assert read(vm / "guest") == ""


def test_it_waits_for_a_verb_that_is_under_way(sbx, vm):
    """Nothing is refused because the host is busy with the sandbox; a paused one asks when it goes on."""
    write(vm / "guest", "fork 2")
    job = vm.job("sleep 0.2; sbx-guest fork 1", name="asks")
    snap = vm.snapshot()
    assert vm.state == "paused"
    vm.ctl("resume")
    assert job.output() == b"0\n" and value(sbx / "vm.1/state") == "running"
    # The snapshot was taken before it asked: a copy of that asks for itself, and has no right to.
    copy = Job(snap.fork("w") / "exec/asks")
    assert copy.wait() == "exited 1" and "does not list fork" in read(copy / "stderr")


@pytest.mark.any_engine
def test_it_is_not_in_the_way(vm):
    """It is where the PATH of commands finds it, behind the image's own, for every user."""
    assert vm.sh("echo $PATH").rstrip().endswith(":/run/sbx/bin")
    assert vm.sh("command -v sbx-guest") == "/run/sbx/bin/sbx-guest\n"
    job = vm.job()
    write(job / "env", "PATH=/bin")
    job.start("echo $PATH")
    assert job.output() == b"/bin\n"
    job = vm.job()
    write(job / "user", "nobody")
    job.start("/run/sbx/bin/sbx-guest fork 1")
    assert job.wait() == "exited 1" and "does not list fork" in read(job / "stderr")
    assert fields(vm / "info")["generation"]
