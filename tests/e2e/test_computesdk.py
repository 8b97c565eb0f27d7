# SPDX-License-Identifier: MIT
"""clients/computesdk under ComputeSDK's own framework, from npm (SBX_OUTSIDE=1), and its time to interactive."""
import os
import re
import shutil
import subprocess

import pytest

from harness import TOP, limit

pytestmark = [
    pytest.mark.plain,
    pytest.mark.timeout(limit(400)),
    pytest.mark.skipif(not os.environ.get("SBX_OUTSIDE"), reason="set SBX_OUTSIDE=1 to fetch ComputeSDK from npm"),
]

PROGRAM = """
import assert from "node:assert/strict";
import { sbxfs } from "sbxfs-computesdk";
const compute = sbxfs({ snapshot: "warm" });
const box = await compute.sandbox.create({ name: "box", envs: { KIND: "agent" } });
assert.equal(box.sandboxId, "box");
const said = await box.runCommand('echo "$KIND"; echo err >&2; pwd; exit 3', { cwd: "/tmp" });
assert.deepEqual([said.stdout, said.stderr, said.exitCode], ["agent\\n/tmp\\n", "err\\n", 3]);
const heard = [];
await box.runCommand("echo one; echo two >&2", { onStdout: (text) => heard.push(text), onStderr: (text) => heard.push(text) });
assert.deepEqual(heard.sort(), ["one\\n", "two\\n"]);
await box.filesystem.mkdir("/srv/a");
await box.filesystem.writeFile("/srv/a/page", "a page\\n");
assert.equal(await box.filesystem.readFile("/srv/a/page"), "a page\\n");
assert.ok(await box.filesystem.exists("/srv/a/page") && !(await box.filesystem.exists("/srv/b")));
assert.deepEqual((await box.filesystem.readdir("/srv")).map(({ name, type }) => [name, type]), [["a", "directory"]]);
await box.runCommand("httpd -f -p 127.0.0.1:8080 -h /srv/a", { background: true });
await box.runCommand("until nc -z 127.0.0.1 8080; do sleep 0.1; done", { timeout: 20000 });
const url = await box.getUrl({ port: 8080 });
assert.equal(await (await fetch(`${url}/page`)).text(), "a page\\n");
const info = await box.getInfo();
assert.deepEqual([info.id, info.status, info.provider], ["box", "running", "sbxfs"]);
const snapshot = await compute.snapshot.create("box", { name: "later" });
assert.equal(snapshot.id, "later");
const again = await compute.sandbox.create({ snapshotId: "later" });
assert.equal(await again.filesystem.readFile("/srv/a/page"), "a page\\n");
assert.ok((await compute.sandbox.list()).some((one) => one.sandboxId === again.sandboxId));
assert.equal((await compute.sandbox.getById("box")).sandboxId, "box");
assert.equal(await compute.sandbox.getById("nosuch"), null);
await again.destroy();
await compute.sandbox.destroy("box");
await compute.snapshot.delete("later");
assert.deepEqual((await compute.snapshot.list()).map(({ id }) => id), ["warm"]);
console.log("all of it");
"""


def test_with_computesdk(sbx, prepared, tmp_path):
    prepared.fork("warm").ctl("snapshot warm")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "@computesdk/provider@2"], cwd=tmp_path, check=True)
    for name, source in ("sbxfs", "typescript"), ("sbxfs-computesdk", "computesdk"):
        shutil.copytree(TOP / "clients" / source, tmp_path / "node_modules" / name)
    (tmp_path / "program.js").write_text(PROGRAM)
    env = dict(os.environ, SBX_MOUNT=str(sbx.path), SNAPSHOT="warm")
    done = subprocess.run(["node", "program.js"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=limit(100), check=False)
    assert done.returncode == 0 and done.stdout == "all of it\n", done.stdout + done.stderr
    argv = ["node", "node_modules/sbxfs-computesdk/tti.mjs", "10", "hostname"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=limit(100), check=True)
    print(done.stdout)
    assert re.match(r"n 10, failed 0: median [\d.]+ ms, p95 [\d.]+ ms, p99 [\d.]+ ms; score [\d.]+\n$", done.stdout), done.stdout
    assert set(sbx.sandboxes()) == {"prepared", "warm"}
