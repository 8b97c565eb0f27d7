// SPDX-License-Identifier: MIT
// A provider for ComputeSDK: its sandboxes and snapshots are those of a mounted sbxfs. README.md says what is what.
import { readdir } from "node:fs/promises";

import { defineProvider } from "@computesdk/provider";
import { Sandbox, Snapshot } from "sbxfs";

const found = (sandbox) => ({ sandbox, sandboxId: sandbox.name });

/** null for what is not there, as ComputeSDK has it. */
async function orNull(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.code === "ENOENT") return null;
    throw error;
  }
}

async function create({ mount, image = "base", snapshot, ...sizes }, options = {}) {
  const { name, envs, snapshotId = snapshot, templateId, image: wanted } = options;
  const overrides = { env: envs, net: sizes.net, memoryMib: sizes.memoryMib, cpus: sizes.cpus };
  if (snapshotId) return found(await (await Snapshot.get(snapshotId, { mount })).restore(name, overrides));
  return found(await Sandbox.create({ name, image: wanted ?? templateId ?? image, mount, ...overrides }));
}

async function run(sandbox, command, { cwd, env, timeout, background, onStdout, onStderr } = {}) {
  const start = performance.now();
  const settings = { cwd, env, timeout: timeout && timeout / 1000 };
  if (background) {
    // Nobody reads what it says: the job is left in exec/, where it can be read.
    const left = await sandbox.spawn(command, { ...settings, keep: true });
    await left.release();
    return { stdout: "", stderr: "", exitCode: 0, durationMs: performance.now() - start };
  }
  const onOutput = (stream, data) => (stream === "stdout" ? onStdout : onStderr)?.(data.toString());
  const result = await sandbox.exec(command, { ...settings, onOutput });
  const durationMs = performance.now() - start;
  return { stdout: result.text, stderr: result.stderr.toString(), exitCode: result.exitCode, durationMs };
}

const STATUS = { running: "running", paused: "stopped", created: "stopped", stopped: "stopped", crashed: "error" };

async function entries(sandbox, directory) {
  const listed = await readdir(sandbox.files.path(directory), { withFileTypes: true });
  return listed.map((entry) => ({ name: entry.name, type: entry.isDirectory() ? "directory" : "file" }));
}

const snapshotOf = ({ name, created, ...info }) => ({ id: name, provider: "sbxfs", createdAt: created, metadata: info });

/** sbxfs({ mount, image, snapshot, memoryMib, cpus, net }): all may be left out. */
export const sbxfs = defineProvider({
  name: "sbxfs",
  methods: {
    sandbox: {
      create,
      getById: async ({ mount }, id) => {
        const sandbox = await orNull(Sandbox.get(id, { mount }));
        return sandbox && found(sandbox);
      },
      list: async ({ mount }) => (await Sandbox.list({ mount })).map(found),
      destroy: async ({ mount }, id) => {
        await orNull(new Sandbox(id, { mount }).remove());
      },
      runCommand: run,
      streamCommand: run,
      getInfo: async (sandbox) => {
        const { state, created, ...metadata } = await sandbox.info();
        return { id: sandbox.name, provider: "sbxfs", status: STATUS[state], createdAt: created, timeout: 0, metadata };
      },
      // A port of its loopback, at a port of this host's for as long as this program runs.
      getUrl: async (sandbox, { port, protocol = "http" }) => {
        const forward = await sandbox.forward(port);
        forward.unref();
        return `${protocol}://${forward.host}:${forward.port}`;
      },
      getInstance: (sandbox) => sandbox,
      filesystem: {
        readFile: async (sandbox, path) => (await sandbox.files.read(path)).toString(),
        writeFile: (sandbox, path, content) => sandbox.files.write(path, content),
        mkdir: (sandbox, path) => sandbox.files.mkdir(path),
        readdir: entries,
        exists: async (sandbox, path) => (await orNull(sandbox.files.stat(path))) !== null,
        remove: async (sandbox, path) => {
          (await sandbox.exec(["rm", "-rf", "--", path])).check();
        },
      },
    },
    snapshot: {
      create: async ({ mount }, id, { name } = {}) => {
        const taken = name ?? `${id}-${Date.now()}`;
        const snapshot = await (await Sandbox.get(id, { mount })).checkpoint(taken);
        return snapshotOf(await snapshot.info());
      },
      list: async ({ mount }) => (await Snapshot.list({ mount })).map(snapshotOf),
      delete: ({ mount }, id) => Snapshot.delete(id, { mount }),
    },
  },
});
