// SPDX-License-Identifier: MIT
// Sandboxes and snapshots: directories of the mount.
import { randomBytes } from "node:crypto";
import { promises as fs } from "node:fs";
import path from "node:path";
import { setTimeout as after } from "node:timers/promises";

import { SbxError, checkedName, command, envText, explained, fields, findMount, mib, read, sentence, value, write } from "./files.js";
import { Forward, Process } from "./process.js";

/** For who gave none. */
const ownName = () => `s-${randomBytes(4).toString("hex")}`;

const number = (text) => Number(text ?? 0);
const date = (text) => (text === undefined ? undefined : new Date(text));

/** The files of a sandbox's guest, or of a snapshot; paths are the guest's. */
export class Files {
  constructor(root) {
    this.root = root;
  }

  /** Where it is on this host, for whatever takes a path; `..` stays within. */
  path(file) {
    return path.join(this.root, path.posix.normalize(`/${file}`));
  }

  read(file) {
    return explained(this.path(file), undefined, () => fs.readFile(this.path(file)));
  }

  async write(file, data, mode) {
    await explained(this.path(file), undefined, async () => {
      await fs.writeFile(this.path(file), data);
      if (mode !== undefined) await fs.chmod(this.path(file), mode);
    });
  }

  list(directory = "/") {
    return explained(this.path(directory), undefined, async () => (await fs.readdir(this.path(directory))).sort());
  }

  stat(file) {
    return explained(this.path(file), undefined, () => fs.stat(this.path(file)));
  }

  /** With what is missing above it; one that is there is fine. */
  async mkdir(directory) {
    await explained(this.path(directory), undefined, () => fs.mkdir(this.path(directory), { recursive: true }));
  }

  /** A file, or an empty directory. */
  async remove(file) {
    await explained(this.path(file), undefined, async () => {
      const at = this.path(file);
      await ((await fs.lstat(at)).isDirectory() ? fs.rmdir(at) : fs.unlink(at));
    });
  }
}

async function forkMany(origin, mount, n, prefix, options = {}) {
  const { memoryMib, cpus, env, net } = options;
  const first = checkedName(prefix ?? `${ownName()}-`);
  const line = command(["fork", String(Math.trunc(n)), first], { memory: mib(memoryMib), cpus, net }, env);
  await write(path.join(origin, "ctl"), line);
  return Array.from({ length: n }, (_, i) => new Sandbox(`${first}${i + 1}`, { mount }));
}

/** /sbx/NAME. The constructor makes an object only: `create` makes a sandbox, `get` finds one. */
export class Sandbox {
  constructor(name, { mount } = {}) {
    this.name = checkedName(name);
    this.mount = findMount(mount);
    this.path = path.join(this.mount, name);
    this.files = new Files(path.join(this.path, "fs"));
  }

  /** Make, configure and start one. A client that is killed meanwhile leaves nothing. */
  static async create({ name, image, memoryMib, cpus, env, net, memoryMaxMib, cpusMax, mount } = {}) {
    const sandbox = new Sandbox(name ?? ownName(), { mount });
    const sizes = { memory: mib(memoryMib), cpus, memory_max: mib(memoryMaxMib), cpus_max: cpusMax };
    await write(path.join(sandbox.mount, "ctl"), command(["create", sandbox.name], { image, net, ...sizes }, env));
    return sandbox;
  }

  static async get(name, options) {
    const sandbox = new Sandbox(name, options);
    await explained(sandbox.path, undefined, () => fs.stat(path.join(sandbox.path, "state")));
    return sandbox;
  }

  static async list({ mount } = {}) {
    const at = findMount(mount);
    const names = (await explained(at, undefined, () => fs.readdir(at))).sort();
    const there = (name) => fs.stat(path.join(at, name, "state")).then(() => true, () => false);
    const are = await Promise.all(names.map(there));
    return names.filter((_, i) => are[i]).map((name) => new Sandbox(name, { mount: at }));
  }

  /** created, running, paused, stopped or crashed */
  state() {
    return value(path.join(this.path, "state"));
  }

  async info() {
    const got = await fields(path.join(this.path, "info"));
    return {
      name: got.name,
      state: await this.state(),
      engine: got.engine,
      image: got.image,
      parent: got.parent,
      created: date(got.created),
      bootUs: number(got.boot_us),
      forkUs: number(got.fork_us),
      generation: number(got.generation),
      pid: number(got.pid),
    };
  }

  /** The environment of commands from now on, in place of what it was. */
  async setEnv(env) {
    await write(path.join(this.path, "env"), envText(env) || "\n");
  }

  /** Start a command: a line for a shell, or an array of words. */
  spawn(cmd, options) {
    return Process.start(this.path, cmd, options);
  }

  /** Run a command to its end, with this input; `onOutput(stream, data)` hears what it writes as it comes. */
  async exec(cmd, { stdin, onOutput, ...options } = {}) {
    const has = stdin !== undefined && stdin !== null;
    const running = await this.spawn(cmd, { ...options, stdin: has });
    try {
      return await running.communicate(stdin, onOutput);
    } finally {
      await running.close();
    }
  }

  /** Listen here (`port` says where), and connect whoever comes to that port of its loopback. */
  forward(port, { hostPort, host } = {}) {
    return Forward.start(this.path, port, hostPort, host);
  }

  async _verb(...words) {
    await write(path.join(this.path, "ctl"), command(words));
  }

  start() {
    return this._verb("start");
  }

  /** Ask the guest to power off, and end its machine if it does not. */
  stop() {
    return this._verb("stop");
  }

  kill() {
    return this._verb("kill");
  }

  pause() {
    return this._verb("pause");
  }

  /** It goes on exactly where it was; nothing changes where it runs. */
  resume() {
    return this._verb("resume");
  }

  /** End it, with its unnamed snapshots. */
  async remove() {
    await explained(this.path, this.mount, () => fs.rmdir(this.path));
  }

  async _taken(verb, name) {
    if (name !== undefined) {
      await this._verb(verb, checkedName(name));
      return new Snapshot(path.join(this.mount, "snapshots", name), { mount: this.mount });
    }
    await this._verb(verb);
    const latest = path.join(this.path, "snapshots/latest");
    const taken = await explained(latest, undefined, () => fs.readlink(latest));
    return new Snapshot(path.join(this.path, "snapshots", taken), { mount: this.mount });
  }

  /** Capture all of it; it stays paused. With a name it is saved when this returns. */
  snapshot(name) {
    return this._taken("snapshot", name);
  }

  /** The same of one that goes on running. */
  checkpoint(name) {
    return this._taken("checkpoint", name);
  }

  /** Put an earlier state in the place of the present one, which is kept as an unnamed snapshot. */
  rollback(snapshot) {
    return this._verb("rollback", snapshot.name);
  }

  /** n running copies of it as it is now, prefix1 to prefixN. */
  fork(n, { prefix } = {}) {
    return forkMany(this.path, this.mount, n, prefix);
  }
}

function snapshotInfo(name, got) {
  return {
    name,
    status: got.status,
    source: got.source,
    parent: got.parent,
    image: got.image,
    created: date(got.created),
    engine: got.engine,
    memory: number(got.memory),
    memoryMax: number(got.memory_max),
    cpus: number(got.cpus),
    cpusMax: number(got.cpus_max),
    pauseUs: number(got.pause_us),
    logical: number(got.logical),
    stored: number(got.stored),
    own: number(got.own),
  };
}

/** A snapshot: /sbx/snapshots/NAME, or an unnamed one, which lives as long as its sandbox. */
export class Snapshot {
  constructor(at, { mount } = {}) {
    this.path = at;
    this.mount = findMount(mount);
  }

  get name() {
    return path.basename(this.path);
  }

  /** What had reached its disk, read-only; it need not be booted. */
  get files() {
    return new Files(path.join(this.path, "fs"));
  }

  static async get(name, { mount } = {}) {
    const at = findMount(mount);
    const snapshot = new Snapshot(path.join(at, "snapshots", checkedName(name)), { mount: at });
    await explained(snapshot.path, undefined, () => fs.stat(path.join(snapshot.path, "info")));
    return snapshot;
  }

  /** The infos of those that have a name. */
  static async list({ mount } = {}) {
    const at = path.join(findMount(mount), "snapshots");
    const names = (await explained(at, undefined, () => fs.readdir(at))).sort();
    const found = [];
    for (const name of names) {
      const snapshot = new Snapshot(path.join(at, name), { mount: path.dirname(at) });
      try {
        found.push(await snapshot.info());
      } catch (error) {
        // What is stored of it cannot be read: its name and its status can.
        if (error.code === "EIO") found.push(snapshotInfo(name, { status: await snapshot.status() }));
        else if (error.code !== "ENOENT") throw error; // that is one deleted meanwhile
      }
    }
    return found;
  }

  /** From disk; what was forked from it lives on. */
  static async delete(name, options) {
    await (await Snapshot.get(name, options)).remove();
  }

  status() {
    return value(path.join(this.path, "status"));
  }

  async info() {
    return snapshotInfo(this.name, await fields(path.join(this.path, "info")));
  }

  /** A sandbox that goes on where this was captured and answers commands. */
  async restore(name, { memoryMib, cpus, env, net } = {}) {
    const sandbox = new Sandbox(name ?? ownName(), { mount: this.mount });
    const line = command(["fork", sandbox.name], { memory: mib(memoryMib), cpus, net }, env);
    await write(path.join(this.path, "ctl"), line);
    return sandbox;
  }

  /** n of them in one step. Where some fail the error has a line for each; the others live. */
  fork(n, { prefix, ...options } = {}) {
    return forkMany(this.path, this.mount, n, prefix, options);
  }

  /** Give it a name: it survives its sandbox, and the daemon. Resolves when it is saved. */
  async saveNamed(name) {
    const saved = path.join(this.mount, "snapshots", checkedName(name));
    await explained(saved, this.mount, () => fs.rename(this.path, saved));
    const origin = path.dirname(path.dirname(this.path));
    this.path = saved;
    try {
      // A rename answers after a second and a half at the latest, and the rest of a save goes on. Node has no poll(2)
      // for files, so it is looked at from time to time.
      while ((await read(path.join(saved, "status"))).startsWith("saving")) await after(100);
    } catch (error) {
      // It is back where it was, and its sandbox says why.
      throw new SbxError(error.code, (await sentence(origin)) || error.message, saved, { cause: error });
    }
  }

  /** Read and check every stored block. */
  async verify() {
    await write(path.join(this.path, "ctl"), "verify");
  }

  async remove() {
    await explained(this.path, this.mount, () => fs.rmdir(this.path));
  }
}
