// SPDX-License-Identifier: MIT
// clients/typescript: what README.md of it says each call does. Run by test_clients.py, which has the mount in
// SBX_MOUNT and a snapshot of a machine that runs in SBX_ORIGIN.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import test from "node:test";
import { setTimeout as after } from "node:timers/promises";

import { CommandError, Sandbox, SbxError, Snapshot } from "../../clients/typescript/index.js";

const mount = process.env.SBX_MOUNT;
const origin = new Snapshot(process.env.SBX_ORIGIN);
const read = (...names) => fs.readFileSync(path.join(...names), "utf8");

/** The errno, and these words in the sentence. */
const refused = (promise, code, ...words) =>
  assert.rejects(promise, (error) => {
    assert.ok(error instanceof SbxError, error);
    assert.equal(error.code, code, error.message);
    assert.ok(error.errno > 0);
    for (const word of words) assert.ok(error.message.includes(word), error.message);
    return true;
  });

async function withBox(name, fn) {
  const box = await origin.restore(name);
  try {
    await fn(box);
    assert.deepEqual(fs.readdirSync(path.join(box.path, "exec")), []);
  } finally {
    await box.remove();
  }
}

const jobsOf = (box) => fs.readdirSync(path.join(box.path, "exec")).length;

test("create", async () => {
  const env = { GREETING: 'say "hi",\n\tthen \\go', EMPTY: "" };
  const made = await Sandbox.create({ name: "made", image: "base", memoryMib: 256, memoryMaxMib: 512, cpus: 1, env, net: "none" });
  const got = (await made.exec('printf "%s|" "$GREETING" "${EMPTY-unset}"')).check();
  assert.equal(got.text, `${env.GREETING}||`);
  const info = await made.info();
  assert.deepEqual([info.name, info.state, info.image, info.parent, info.generation], ["made", "running", "base", undefined, 1]);
  assert.ok(info.bootUs > 0 && info.pid > 0 && info.created instanceof Date && Number(info.created) > 0);
  assert.equal(read(made.path, "net/mode"), "none\n");
  await refused(Sandbox.create({ name: "made" }), "EEXIST", "made");
  await made.setEnv({ A: "1\n2" });
  assert.equal((await made.exec('echo "$A$GREETING"')).text, "1\n2\n");
  await made.setEnv({});
  assert.equal((await made.exec('echo "$A"')).text, "\n");
  await made.kill();
  assert.equal(await made.state(), "stopped");
  await refused(made.exec("true"), "EHOSTDOWN", "made");
  assert.ok((await Sandbox.list()).some((one) => one.name === "made"));
  await made.remove();
  await refused(Sandbox.get("made"), "ENOENT");
});

test("what is refused says why", () =>
  withBox("box", async (box) => {
    await refused(origin.restore("w", { memoryMib: 65536 }), "ERANGE", "512");
    await refused(Sandbox.create({ name: "w", image: "nosuch" }), "ENOENT", "nosuch");
    await refused(origin.restore("box"), "EEXIST", "box");
    for (const name of ["w memory=1G", "w\n", "../w", "", "a/b"]) {
      await refused(origin.restore(name), "EINVAL");
      await refused(Snapshot.get(name), "EINVAL");
    }
    await refused(origin.restore("w", { net: "all env.A=1" }), "EINVAL");
    await refused(origin.restore("w", { env: { "A=1 net": "all" } }), "EINVAL");
    await refused(box.exec(["echo", "a\0b"]), "EINVAL", "NUL");
    await box.pause();
    await refused(box.exec("true"), "EAGAIN", "paused");
    await refused(box.files.read("/etc/passwd"), "EAGAIN");
    await box.resume();
  }));

test("exec", () =>
  withBox("box", async (box) => {
    const result = await box.exec("echo out; echo err >&2; exit 3");
    assert.deepEqual([result.text, result.stderr.toString(), result.exitCode, result.status, result.ok], ["out\n", "err\n", 3, "exited 3", false]);
    assert.throws(() => result.check(), CommandError);
    const data = randomBytes(1 << 20);
    assert.deepEqual((await box.exec("cat", { stdin: data })).stdout, data);
    assert.equal((await box.exec(["wc", "-c"], { stdin: "" })).text.trim(), "0");
    assert.ok((await box.exec("true", { stdin: data })).ok);
    await box.exec("exec >&- 2>&-; cat > /root/fed", { stdin: data });
    assert.deepEqual(await box.files.read("/root/fed"), data);
    assert.equal((await box.exec(["printf", "%s|", "a b", "$HOME", ""])).text, "a b|$HOME||");
    const settings = { cwd: "/tmp", user: "nobody", env: { A: "x\ny" } };
    assert.equal((await box.exec('pwd; id -un; echo "$A"', settings)).text, "/tmp\nnobody\nx\ny\n");
    assert.equal((await box.exec("kill -9 $$")).exitCode, 137);
    assert.equal((await box.exec(["/nosuch"])).exitCode, 127);
    const late = await box.exec("echo begun; sleep 1000", { timeout: 0.5 });
    assert.deepEqual([late.timedOut, late.exitCode, late.text], [true, 124, "begun\n"]);
    const quick = await box.spawn("echo said before anybody listened");
    while ((await quick.status()) === "running");
    await after(100); // whatever reads for us has ended too
    assert.equal((await quick.communicate()).text, "said before anybody listened\n");
    await quick.close();
    const heard = [];
    await box.exec("echo 1; echo 2 >&2", { onOutput: (stream, said) => heard.push(`${stream} ${said}`) });
    assert.deepEqual(heard.sort(), ["stderr 2\n", "stdout 1\n"]);
  }));

test("exec streams", () =>
  withBox("box", async (box) => {
    const running = await box.spawn('while read -r line; do echo "got $line"; done; exit 4', { stdin: true });
    const said = running.stdout[Symbol.asyncIterator]();
    for (const word of ["one", "two"]) {
      running.stdin.write(`${word}\n`);
      assert.equal((await said.next()).value.toString(), `got ${word}\n`);
    }
    assert.equal(await running.status(), "running");
    running.stdin.end();
    assert.ok((await said.next()).done);
    assert.equal((await running.wait()).exitCode, 4);
    await running.close();
    const asked = await box.spawn("trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.1; done 2> /dev/null");
    const answers = asked.stdout[Symbol.asyncIterator]();
    assert.equal((await answers.next()).value.toString(), "ready\n");
    await refused(asked.kill("NOSUCH"), "EINVAL", "NOSUCH");
    await asked.kill();
    assert.equal((await answers.next()).value.toString(), "asked\n");
    await asked.close();
    await (await box.spawn("sleep 1001")).close();
    assert.equal((await box.exec("ps -o args | grep '[s]leep 100'")).text, "");
  }));

test("files", () =>
  withBox("box", async (box) => {
    await box.files.mkdir("/srv/a/b");
    await box.files.write("/srv/a/b/run", "#!/bin/sh\necho ran\n", 0o755);
    assert.equal((await box.exec("/srv/a/b/run")).text, "ran\n");
    assert.deepEqual(await box.files.list("/srv/a"), ["b"]);
    assert.equal(box.files.path("/../../../etc/passwd"), path.join(box.path, "fs/etc/passwd"));
    await box.files.remove("/srv/a/b/run");
    await box.files.remove("/srv/a/b");
    await refused(box.files.read("/srv/a/b/run"), "ENOENT");
  }));

function ask(port, request) {
  return new Promise((resolve, reject) => {
    const parts = [];
    const connection = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true }, () => connection.end(request));
    connection.on("data", (part) => parts.push(part)).on("error", reject);
    connection.on("end", () => resolve(Buffer.concat(parts).toString()));
  });
}

test("forward", () =>
  withBox("box", async (box) => {
    (await box.exec("mkdir -p /srv && echo page > /srv/name && httpd -p 127.0.0.1:8080 -h /srv")).check();
    const forward = await box.forward(8080);
    const answers = await Promise.all(Array.from({ length: 5 }, () => ask(forward.port, "GET /name HTTP/1.0\r\n\r\n")));
    assert.ok(answers.every((answer) => answer.endsWith("page\n")));
    await forward.close();
    await assert.rejects(ask(forward.port, ""), { code: "ECONNREFUSED" });
    const nobody = await box.forward(9);
    assert.equal(await ask(nobody.port, ""), ""); // nobody listens in there
    await nobody.close();
    while (jobsOf(box)) await new Promise(setImmediate);
  }));

test("snapshots", async () => {
  const box = await origin.restore("box");
  await box.files.write("/root/note", "before");
  const snapshot = await box.snapshot();
  assert.equal(await box.state(), "paused");
  assert.equal(snapshot.path, path.join(box.path, "snapshots/1"));
  await box.resume();
  await box.files.write("/root/note", "after");
  const worker = await snapshot.restore("custom", { memoryMib: 384, cpus: 2, env: { WORKER_ID: "42" } });
  assert.equal((await worker.exec("cat /root/note; echo $WORKER_ID; nproc; hostname")).text, "before42\n2\ncustom\n");
  assert.ok((await worker.info()).forkUs > 0);
  await worker.remove();
  await snapshot.saveNamed("after-pip-install");
  assert.equal(snapshot.path, path.join(mount, "snapshots/after-pip-install"));
  assert.equal(await snapshot.status(), "ready");
  await refused(box.snapshot("after-pip-install"), "EEXIST", "after-pip-install");
  await box.remove();
  const info = await (await Snapshot.get("after-pip-install")).info();
  assert.deepEqual([info.name, info.status, info.source, info.image, info.memory], ["after-pip-install", "ready", "box", "base", 256 << 20]);
  assert.ok(0 < info.own && info.own <= info.stored && info.stored < info.logical && info.pauseUs > 0);
  assert.deepEqual((await Snapshot.list()).map((one) => one.name), ["after-pip-install"]);
  const workers = await snapshot.fork(3, { prefix: "w", env: { KIND: "worker" } });
  const said = await Promise.all(workers.map(async (one) => (await one.exec("hostname; echo $KIND")).text));
  assert.deepEqual(said, ["w1\nworker\n", "w2\nworker\n", "w3\nworker\n"]);
  await refused(snapshot.fork(3, { prefix: "w" }), "EEXIST", "w2", "w3");
  assert.equal((await snapshot.files.read("/root/note")).toString(), "before");
  await Snapshot.delete("after-pip-install");
  assert.deepEqual(await Snapshot.list(), []);
  const mark = await workers[0].checkpoint();
  await workers[0].files.write("/root/note", "spoilt");
  await workers[0].rollback(mark);
  assert.equal((await workers[0].files.read("/root/note")).toString(), "before");
  for (const one of workers) await one.remove();
});

test("ten workers at once", async () => {
  const work = async (i) => {
    const worker = await origin.restore(`worker-${i}`);
    // Each waits for its input with the command running: ten that wait at once hold nobody up.
    const running = await worker.spawn("read -r line; echo $line; hostname", { stdin: true });
    return { worker, running };
  };
  const all = await Promise.all(Array.from({ length: 10 }, (_, i) => work(i)));
  const said = all.map(({ running }) => running.communicate());
  all.forEach(({ running }, i) => running.stdin.end(`job ${i}\n`));
  const texts = (await Promise.all(said)).map((result) => result.check().text);
  assert.deepEqual(texts, all.map((_, i) => `job ${i}\nworker-${i}\n`));
  for (const { worker, running } of all) {
    await running.close();
    await worker.remove();
  }
});
