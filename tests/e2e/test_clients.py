# SPDX-License-Identifier: MIT
"""clients/: what their READMEs say each call does; and no client leaves what another cannot see and remove.

That of TypeScript is tried by clients.test.mjs. One boot each, that of `create`; everything else is a fork of `prepared`.
"""
import asyncio
import contextlib
import errno
import os
import re
import shutil
import socket
import subprocess
import sys
import threading

import pytest

from harness import TOP, Sandbox, eventually, limit, poll_until, read

sys.path.insert(0, str(TOP / "clients/python"))
import sbxfs  # noqa: E402
from sbxfs import aio  # noqa: E402

pytestmark = pytest.mark.plain


@contextlib.contextmanager
def refused(code, *words):
    """The errno, and these words in the sentence."""
    with pytest.raises(sbxfs.SbxError) as caught:
        yield
    assert caught.value.errno == code, caught.value
    for word in words:
        assert word in caught.value.strerror, caught.value.strerror


@pytest.fixture
def snapshot(sbx, prepared):
    return sbxfs.Snapshot(prepared.path, sbx.path)


@pytest.fixture
def box(snapshot):
    return snapshot.restore("box")


def test_create(sbx):
    env = {"GREETING": 'say "hi",\n\tthen \\go', "EMPTY": ""}
    with sbxfs.Sandbox.create(
        "made", image="base", memory_mib=256, memory_max_mib=512, cpus=1, env=env, net="none", mount=sbx.path
    ) as made:
        got = made.exec('printf "%s|" "$GREETING" "${EMPTY-unset}"').check()
        assert got.text == env["GREETING"] + "||"
        info = made.info
        assert (info.name, info.state, info.image, info.parent, info.generation) == ("made", "running", "base", None, 1)
        assert info.boot_us > 0 and info.pid > 0 and info.created.utcoffset().total_seconds() == 0
        assert read(made.path / "net/mode") == "none\n" and read(made.path / "memory") == f"{256 << 20}\n"
        with refused(errno.EEXIST, "made"):
            sbxfs.Sandbox.create("made", mount=sbx.path)
        made.set_env({"A": "1\n2"})
        assert made.exec('echo "$A$GREETING"').text == "1\n2\n"
        made.set_env({})
        assert made.exec('echo "$A"').text == "\n"
        made.kill()
        assert made.state == "stopped"
        with refused(errno.EHOSTDOWN, "made"):
            made.exec("true")
        assert [one.name for one in sbxfs.Sandbox.list(sbx.path)] == sbx.sandboxes()
    assert not made.path.exists()
    with refused(errno.ENOENT):
        sbxfs.Sandbox.get("made", sbx.path)


def test_what_is_refused_says_why(sbx, snapshot, box):
    with refused(errno.ERANGE, "512"):
        snapshot.restore("w", memory_mib=65536)
    with refused(errno.ENOENT, "nosuch"):
        sbxfs.Sandbox.create("w", image="nosuch", mount=sbx.path)
    with refused(errno.EEXIST, "box"):
        snapshot.restore("box")
    # Nothing that is handed in becomes another word of the command, or another path.
    for name in "w memory=1G", "w\n", "../w", "", "a/b":
        with refused(errno.EINVAL):
            snapshot.restore(name)
        with refused(errno.EINVAL):
            sbxfs.Snapshot.get(name, sbx.path)
    for bad in {"net": "all env.A=1"}, {"env": {"A=1 net": "all"}}:
        with refused(errno.EINVAL):
            snapshot.restore("w", **bad)
    with refused(errno.EINVAL, "NUL"):
        box.exec(["echo", "a\0b"])
    box.pause()
    with refused(errno.EAGAIN, "paused"):
        box.exec("true")
    with refused(errno.EAGAIN):
        box.files.read("/etc/passwd")
    box.resume()
    with refused(errno.EINVAL, "NOSUCH"), box.spawn("sleep 100") as process:
        process.kill("NOSUCH")
    assert os.listdir(box.path / "exec") == [] and sbx.sandboxes() == ["box", "prepared"]


def test_exec(box):
    result = box.exec("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code, result.status, result.ok) == (b"out\n", b"err\n", 3, "exited 3", False)
    with pytest.raises(sbxfs.CommandError, match="exited 3"):
        result.check()
    data = os.urandom(1 << 20)
    assert box.exec("cat", stdin=data).stdout == data
    assert box.exec(["wc", "-c"], stdin="").text.strip() == "0"
    assert box.exec("true", stdin=data).ok  # which reads none of it
    assert box.exec("exec >&- 2>&-; cat > /root/fed", stdin=data).ok and box.files.read("/root/fed") == data
    assert box.exec(["printf", "%s|", "a b", "$HOME", ""]).text == "a b|$HOME||"
    assert box.exec('pwd; id -un; echo "$A"', cwd="/tmp", user="nobody", env={"A": "x\ny"}).text == "/tmp\nnobody\nx\ny\n"
    assert box.exec("kill -9 $$").exit_code == 137
    assert box.exec(["/nosuch"]).exit_code == 127
    result = box.exec("echo begun; sleep 1000", timeout=0.5)
    assert result.timed_out and result.exit_code == 124 and result.stdout == b"begun\n"
    assert box.exec("sleep 1000 & echo left").text == "left\n"  # ends with the command, as docker exec does
    assert os.listdir(box.path / "exec") == []


def test_exec_streams(box):
    with box.spawn('while read -r line; do echo "got $line"; echo "saw $line" >&2; done; exit 4', stdin=True) as process:
        output = process.output()
        for word in "one", "two":
            process.write(f"{word}\n".encode())
            said = dict(next(output) for _ in range(2))
            assert said == {"stdout": f"got {word}\n".encode(), "stderr": f"saw {word}\n".encode()}
        assert process.status == "running" and (process.path / "status").exists()
        process.close_stdin()
        assert list(output) == [] and process.wait().exit_code == 4
    with box.spawn("trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.1; done 2> /dev/null") as process:
        output = process.output()
        assert next(output) == ("stdout", b"ready\n")
        process.kill()
        assert list(output) == [("stdout", b"asked\n")] and process.wait().ok
    # One that is given up takes its command along, and one that is kept does not.
    with box.spawn("sleep 1001"):
        pass
    with box.spawn("sleep 1002", keep=True) as process:
        process.remove = lambda: None  # what is left is another's to remove
    assert Sandbox(box.path).run("ps -o args | grep '[s]leep 100'") == "sleep 1002\n"


def test_files(box, tmp_path):
    box.files.mkdir("/srv/a/b")
    box.files.write("/srv/a/b/run", "#!/bin/sh\necho ran\n", mode=0o755)
    assert box.exec("/srv/a/b/run").text == "ran\n" and box.files.read("srv/a/b/run").startswith(b"#!/bin/sh")
    assert box.files.list("/srv/a") == ["b"] and "etc" in box.files.list()
    shutil.copy(box.files.path("/etc/passwd"), tmp_path)
    assert box.files.path("/../../../etc/passwd") == box.path / "fs/etc/passwd"
    box.files.remove("/srv/a/b/run")
    box.files.remove("/srv/a/b")
    with refused(errno.ENOENT):
        box.files.read("/srv/a/b/run")


def ask(port, request):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            return answer.read()


def test_forward(box):
    box.exec("mkdir -p /srv && echo page > /srv/name && httpd -p 127.0.0.1:8080 -h /srv").check()
    with box.forward(8080) as forward:
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(ask(forward.port, b"GET /name HTTP/1.0\r\n\r\n"))) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 5 and all(answer.endswith(b"page\n") for answer in answers)
    with pytest.raises(ConnectionRefusedError):
        ask(forward.port, b"")
    with box.forward(9) as forward:
        assert ask(forward.port, b"") == b""  # nobody listens in there
    eventually(lambda: not os.listdir(box.path / "exec"), 10, "a connection's job is left")


def test_snapshots(sbx, box):
    """DESIGN's table: snapshot, resume, restore with and without overrides, saveNamed, get, list, delete."""
    box.files.write("/root/note", "before")
    snapshot = box.snapshot()
    assert box.state == "paused" and snapshot.path == box.path / "snapshots/1"
    box.resume()
    box.files.write("/root/note", "after")
    worker = snapshot.restore("custom", memory_mib=384, cpus=2, env={"WORKER_ID": "42"})
    assert worker.exec("cat /root/note; echo $WORKER_ID; nproc; hostname").text == "before42\n2\ncustom\n"
    assert worker.info.fork_us > 0 and int(read(worker.path / "memory")) == 384 << 20
    snapshot.save_named("after-pip-install")
    assert snapshot.path == sbx / "snapshots/after-pip-install" and snapshot.status == "ready"
    with refused(errno.EEXIST, "after-pip-install"):
        box.snapshot("after-pip-install")
    box.remove()
    info = sbxfs.Snapshot.get("after-pip-install", sbx.path).info
    assert (info.name, info.status, info.source, info.image, info.memory) == ("after-pip-install", "ready", "box", "base", 256 << 20)
    assert 0 < info.own <= info.stored < info.logical and info.pause_us > 0
    assert [one.name for one in sbxfs.Snapshot.list(sbx.path)] == ["after-pip-install"]
    workers = snapshot.fork(3, "w", env={"KIND": "worker"})
    assert [w.exec("hostname; echo $KIND").text for w in workers] == [f"w{i}\nworker\n" for i in (1, 2, 3)]
    with refused(errno.EEXIST, "w2", "w3"):
        snapshot.fork(4, "w")
    assert "w4" in sbx.sandboxes()
    assert snapshot.files.read("/root/note") == b"before"
    sbxfs.Snapshot.delete("after-pip-install", sbx.path)
    assert sbxfs.Snapshot.list(sbx.path) == [] and workers[0].exec("echo lives").text == "lives\n"
    with refused(errno.ENOENT):
        sbxfs.Snapshot.delete("after-pip-install", sbx.path)
    # And of one that goes on: copies as it is now, and back to what it was.
    mark = workers[0].checkpoint()
    workers[0].files.write("/root/note", "spoilt")
    (copy,) = workers[0].fork(1, "copy")
    assert copy.files.read("/root/note") == b"spoilt"
    workers[0].rollback(mark)
    assert workers[0].files.read("/root/note") == b"before"


def test_ten_workers_at_once(snapshot):
    """From one process, in ten threads: each is a fork, has its input and its own name."""
    said = {}

    def work(i):
        with snapshot.restore(f"worker-{i}") as worker:
            said[i] = worker.exec("cat; hostname", stdin=f"job {i}\n", timeout=limit(60)).check().text

    threads = [threading.Thread(target=work, args=(i,)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {i: f"job {i}\nworker-{i}\n" for i in range(10)}


def test_ten_workers_at_once_with_asyncio(sbx, prepared):
    snapshot = aio.Snapshot(sbxfs.Snapshot(prepared.path, sbx.path))

    async def work(i):
        async with await snapshot.restore(f"worker-{i}") as worker:
            return (await worker.exec("cat; hostname", stdin=f"job {i}\n")).check().text

    async def main():
        answers = await asyncio.gather(*(work(i) for i in range(10)))
        assert answers == [f"job {i}\nworker-{i}\n" for i in range(10)]
        box = await snapshot.restore("box", env={"A": "1"})
        async with await box.spawn("echo $A; cat; echo end >&2", stdin=True) as process:
            await process.write(b"two\n")
            process.close_stdin()
            said = [chunk async for chunk in process.output()]
            assert b"".join(data for name, data in said if name == "stdout") == b"1\ntwo\n" and ("stderr", b"end\n") in said
            assert (await process.wait()).ok
        with pytest.raises(asyncio.TimeoutError):  # and the command goes with it
            await asyncio.wait_for(box.exec("sleep 1003"), 0.5)
        assert (await box.exec("ps -o args | grep '[s]leep 1003'")).exit_code == 1
        await box.write("/root/x", "x")
        await box.pause()
        with refused(errno.EAGAIN, "paused"):
            await box.exec("true")
        await box.resume()
        await (await box.checkpoint()).save_named("kept")
        assert [one.name for one in await aio.Snapshot.list(sbx.path)] == ["kept"]
        assert (await (await aio.Snapshot.get("kept", sbx.path)).info()).source == "box"
        await aio.Snapshot.delete("kept", sbx.path)
        # What comes of a call that nobody waits for any more does not stay.
        making = asyncio.ensure_future(snapshot.fork(3, "lost"))
        await asyncio.sleep(0)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        eventually(lambda: sbx.sandboxes() == ["box", "prepared"], 30, "forks of a cancelled call are left")
        await box.remove()

    asyncio.run(main())


STEPS = """
import os, sys
sys.path.insert(0, sys.argv[1])
import sbxfs
origin = sbxfs.Snapshot(os.environ["SBX_ORIGIN"])
def step(name):
    print(name, flush=True)
step("restore"); one = origin.restore("one")
step("spawn"); process = one.spawn("cat", stdin=True)
step("exec"); one.exec("sleep 0.2; head -c 100000 /dev/zero")
step("write"); one.files.write("/root/big", b"x" * 1000000)
step("snapshot"); snapshot = one.snapshot()
step("save"); snapshot.save_named("saved")
step("fork"); snapshot.fork(3, "many")
step("forward"); forward = sbxfs.Sandbox("many1").forward(80)
step("remove"); one.remove()
step("end")
"""


def killed_at_every_step(sbx, prepared, argv, steps):
    """
    A client that prints a line before each step is killed after each of the lines. What it leaves has a name, and goes
    like anything else; its commands end with it.
    """
    env = dict(os.environ, SBX_MOUNT=str(sbx.path), SBX_ORIGIN=str(prepared.path))
    for last in range(1, steps + 1):
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env) as client:
            for _ in range(last):
                name = client.stdout.readline().strip()
            client.kill()
            assert client.wait() == -9, name
        # A command whose caller is killed goes on: its forks are not in the tree before they run.
        eventually(lambda: "\nforks_under_way 0\n" in read(sbx / "status"), 30, f"killed at {name}: forks are under way")
        for path in map(sbx.path.joinpath, set(sbx.sandboxes()) - {"prepared"}):
            # A job that was not begun may be left, and no command but those that forks took along.
            if path.name == "one":
                eventually(lambda: statuses(path) <= {"pending\n"}, 10, f"killed at {name}: a command is left")  # noqa: B023
            os.rmdir(path)
        for kept in sbx.named():
            poll_until(sbx / "snapshots" / kept / "status", lambda text: text == "ready", 30)
            os.rmdir(sbx / "snapshots" / kept)
        eventually(lambda: sbx.sandboxes() == ["prepared"], 10, f"killed at {name}: sandboxes are left")
        assert os.listdir(prepared / "forks") == [] and sbx.named() == []


def statuses(box):
    """Of its jobs; one whose `hold` was the client's goes by itself, and may do so in here."""
    found = set()
    for job in (box / "exec").iterdir():
        try:
            found.add(read(job / "status"))
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ENODEV):
                raise
    return found


def test_a_client_that_is_killed(sbx, prepared, tmp_path):
    script = tmp_path / "steps.py"
    script.write_text(STEPS)
    killed_at_every_step(sbx, prepared, ["/usr/bin/python3", script, TOP / "clients/python"], STEPS.count('step("'))


@pytest.mark.any_engine
def test_the_wheel_installs(tmp_path):
    """Into an empty directory, with nothing but what Debian has."""
    source = shutil.copytree(TOP / "clients/python", tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = ["/usr/bin/python3", "-m", "pip", "-q", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("sbxfs-*-py3-none-any.whl")
    subprocess.run([*pip, "install", *offline, "--target", tmp_path / "site", wheel], check=True)
    code = "import sbxfs, sbxfs.aio; print(sbxfs.__file__)"
    done = subprocess.run(["/usr/bin/python3", "-c", code], env={"PYTHONPATH": str(tmp_path / "site")}, cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path}/site/sbxfs/__init__.py\n" and (tmp_path / "site/sbxfs/py.typed").exists()


# ---- clients/typescript

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="this host has no node")


def node(sbx, prepared, *argv, **kwargs):
    env = dict(os.environ, SBX_MOUNT=str(sbx.path), SBX_ORIGIN=str(prepared.path))
    done = subprocess.run(["node", *argv], env=env, capture_output=True, text=True, timeout=limit(100), check=False, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_node
def test_typescript(sbx, prepared):
    """A test of its own for each part, in one process of node."""
    out = node(sbx, prepared, "--test", TOP / "tests/e2e/clients.test.mjs")
    passed = re.search(r"^# pass (\d+)$", out, re.M)
    assert passed and int(passed.group(1)) >= 1 and "# fail 0" in out, out


JS_STEPS = """
import { writeSync } from "node:fs";
import { Sandbox, Snapshot } from "%s/clients/typescript/index.js";
const origin = new Snapshot(process.env.SBX_ORIGIN);
const step = (name) => writeSync(1, name + "\\n");
step("restore"); const one = await origin.restore("one");
step("exec"); await one.exec("sleep 0.2; head -c 100000 /dev/zero");
step("spawn"); const running = await one.spawn("cat", { stdin: true });
step("snapshot"); const snapshot = await one.snapshot();
step("fork"); await snapshot.fork(3, { prefix: "many" });
step("end"); await running.wait();
"""


@needs_node
def test_a_client_in_node_that_is_killed(sbx, prepared, tmp_path):
    script = tmp_path / "steps.mjs"
    script.write_text(JS_STEPS % TOP)
    killed_at_every_step(sbx, prepared, ["node", script], JS_STEPS.count('step("'))


@needs_node
@pytest.mark.any_engine
@pytest.mark.skipif(not shutil.which("npm"), reason="this host has no npm")
def test_the_package_installs(tmp_path):
    """`npm pack`, and an install of that into an empty project; nothing is asked of a registry."""
    npm = ["npm", "--offline", "--silent", "--no-audit", "--no-fund", "--cache", tmp_path / "cache"]
    subprocess.run([*npm, "pack", "--pack-destination", tmp_path, TOP / "clients/typescript"], check=True, cwd=tmp_path, capture_output=True)
    (packed,) = tmp_path.glob("sbxfs-*.tgz")
    project = tmp_path / "project"
    project.mkdir()
    (project / "package.json").write_text("{}")
    subprocess.run([*npm, "install", packed], check=True, cwd=project)
    code = 'import("sbxfs").then((m) => console.log(typeof m.Sandbox.create, typeof m.Snapshot.list))'
    done = subprocess.run(["node", "-e", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout == "function function\n" and (project / "node_modules/sbxfs/index.d.ts").exists()
