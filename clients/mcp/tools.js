// SPDX-License-Identifier: MIT
// What the server offers: a name, a sentence, the JSON schema of the arguments, and what it does with them.
import { spawn } from "node:child_process";
import { promises as fs } from "node:fs";

import { Sandbox, Snapshot } from "sbxfs";

import { KEPT, SHOWN, shown, take } from "./shown.js";

const string = (description) => ({ type: "string", description });
const integer = (description, minimum = 1) => ({ type: "integer", minimum, description });
const NAME = string("name of the sandbox");
const PATH = string("absolute path in the sandbox");
const SNAPSHOT = string("name of a snapshot");
const SIZES = {
  memoryMib: integer("memory in MiB"),
  cpus: integer("number of CPUs"),
  env: { type: "object", additionalProperties: { type: "string" }, description: "environment of commands" },
  net: { type: "string", enum: ["none", "allow", "public", "all"], description: "what it may reach" },
};

/** A command to its end. */
async function run(sandbox, command, { stdin, ...options }) {
  const running = await sandbox.spawn(command, { ...options, stdin: stdin !== undefined });
  try {
    running.stdin?.end(stdin);
    const [stdout, stderr] = await Promise.all([take(running.stdout), take(running.stderr)]);
    return { result: await running.wait(), stdout, stderr };
  } finally {
    await running.close();
  }
}

/** The beginning of a file. */
async function readFile(files, path) {
  const { size } = await files.stat(path); // what fails here has a sentence
  const handle = await fs.open(files.path(path), "r");
  try {
    const bytes = Buffer.alloc(KEPT);
    let got = 0;
    for (let n = -1; n && got < KEPT; got += n) n = (await handle.read(bytes, got, KEPT - got)).bytesRead;
    return shown(bytes.subarray(0, got), size);
  } finally {
    await handle.close();
  }
}

/** What diff(1) says of the two trees of this host: 0 same, 1 different, 2 trouble. */
async function diff(before, after, brief) {
  const argv = ["-r", "--no-dereference", ...(brief ? ["-q"] : ["-u", "-N"]), before, after];
  const child = spawn("diff", argv, { stdio: ["ignore", "pipe", "pipe"] });
  const parts = [];
  let size = 0;
  const take = (part) => {
    if (size <= SHOWN) parts.push(part);
    size += part.length;
    if (size > SHOWN) child.kill();
  };
  child.stdout.on("data", take);
  child.stderr.on("data", take);
  await new Promise((resolve, reject) => child.on("close", resolve).on("error", reject));
  const text = Buffer.concat(parts).toString().replaceAll(before, "before").replaceAll(after, "after");
  return size > SHOWN ? `${text.slice(0, SHOWN)}\n[more is not shown]` : text || "no differences";
}

const tool = (description, properties, required, run) => ({
  description,
  inputSchema: { type: "object", properties, required, additionalProperties: false },
  run,
});

export const tools = {
  create: tool(
    "Make a sandbox, a virtual machine of its own, from an image and start it.",
    { name: NAME, image: string("image of its disk; default: base"), ...SIZES },
    ["name"],
    async ({ image = "base", ...options }) => {
      const sandbox = await Sandbox.create({ image, ...options });
      return `${sandbox.name} runs`;
    },
  ),
  list: tool("List sandboxes and snapshots.", {}, [], async () => {
    const boxes = await Promise.all((await Sandbox.list()).map(async (one) => `sandbox ${one.name} ${await one.state()}`));
    const snapshots = (await Snapshot.list()).map((info) => `snapshot ${info.name} of ${info.source ?? "-"}, ${info.status}`);
    return [...boxes, ...snapshots].join("\n") || "there is nothing";
  }),
  exec: tool(
    "Run a shell command line in a sandbox and wait for its end.",
    { name: NAME, command: string("line for the shell"), stdin: string("its input"), cwd: string("directory"), timeout: integer("seconds; default 60") },
    ["name", "command"],
    async ({ name, command, timeout = 60, ...options }) => {
      const { result, stdout, stderr } = await run(new Sandbox(name), command, { timeout, ...options });
      const text = [result.timedOut ? `killed after ${timeout} s` : result.status];
      if (stdout.size) text.push(`stdout:\n${shown(stdout.bytes, stdout.size)}`);
      if (stderr.size) text.push(`stderr:\n${shown(stderr.bytes, stderr.size)}`);
      return { text: text.join("\n"), isError: !result.ok };
    },
  ),
  read: tool("Read a file of a sandbox.", { name: NAME, path: PATH }, ["name", "path"], async ({ name, path }) =>
    readFile(new Sandbox(name).files, path),
  ),
  write: tool(
    "Write a file of a sandbox, in place of what it was.",
    { name: NAME, path: PATH, content: string("all of the file") },
    ["name", "path", "content"],
    async ({ name, path, content }) => {
      await new Sandbox(name).files.write(path, content);
      return `${path} is written`;
    },
  ),
  snapshot: tool(
    "Capture all of a sandbox (memory, processes, files) under a name; it goes on running.",
    { name: NAME, snapshot: string("name for the snapshot") },
    ["name", "snapshot"],
    async ({ name, snapshot }) => {
      await new Sandbox(name).checkpoint(snapshot);
      return `${snapshot} is saved`;
    },
  ),
  fork: tool(
    "Make a sandbox that goes on from where a snapshot was taken.",
    { snapshot: SNAPSHOT, name: string("name for the new sandbox"), ...SIZES },
    ["snapshot", "name"],
    async ({ snapshot, name, ...options }) => {
      await (await Snapshot.get(snapshot)).restore(name, options);
      return `${name} runs`;
    },
  ),
  diff: tool(
    "Compare the files of two snapshots below a directory.",
    { before: SNAPSHOT, after: SNAPSHOT, path: string("directory; default: /root"), brief: { type: "boolean", description: "names only" } },
    ["before", "after"],
    async ({ before, after, path = "/root", brief = false }) => {
      const of = async (name) => (await Snapshot.get(name)).files.path(path);
      return diff(await of(before), await of(after), brief);
    },
  ),
  remove: tool(
    "Remove a sandbox or a snapshot, for good. Forks of a removed snapshot live on.",
    { name: string("its name"), kind: { type: "string", enum: ["sandbox", "snapshot"] } },
    ["name", "kind"],
    async ({ name, kind }) => {
      if (kind === "snapshot") await Snapshot.delete(name);
      else await (await Sandbox.get(name)).remove();
      return `${name} is gone`;
    },
  ),
};
