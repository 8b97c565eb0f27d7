// SPDX-License-Identifier: MIT
// Commands in a sandbox: a job in exec/, and ports of its loopback, which are jobs too.
//
// A read of a job's output waits as long as the command likes. Node has four threads for the calls of fs, for all of a
// program; four commands that wait would hold up everything, a fifth that they wait for too. So a stream of a job is
// the stdin or stdout of a cat, whose other end is a pipe, which node waits for without a thread.
import { spawn as spawnHere } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { constants, promises as fs } from "node:fs";
import net from "node:net";
import path from "node:path";
import { PassThrough } from "node:stream";

import { SbxError, envText, explained, nulEnded, open, value, write } from "./files.js";

const TIMED_OUT = 124;

/** A command that ended with something else than 0; `result` has what it said. */
export class CommandError extends Error {
  constructor(result) {
    super(`${result.status}: ${result.stderr.toString().slice(-500)}`);
    this.name = "CommandError";
    this.result = result;
  }
}

/** How a command ended. */
export class Result {
  constructor(status, exitCode, stdout = Buffer.alloc(0), stderr = Buffer.alloc(0)) {
    Object.assign(this, { status, exitCode, stdout, stderr });
  }

  get text() {
    return this.stdout.toString();
  }

  get ok() {
    return this.exitCode === 0;
  }

  get timedOut() {
    return this.exitCode === TIMED_OUT && !this.status.startsWith("exited");
  }

  /** Itself, or CommandError where it did not end with 0. */
  check() {
    if (!this.ok) throw new CommandError(this);
    return this;
  }
}

/** A cat between a file of a job and a pipe. */
function cat(stdin, stdout) {
  const child = spawnHere("cat", [], { stdio: [stdin, stdout, "ignore"] });
  child.on("error", (error) => (child.stdout ?? child.stdin).destroy(error)); // there is no cat
  return child;
}

/** All that a file says, however long it takes. */
async function readSlowly(file) {
  const handle = await open(file, constants.O_RDONLY);
  const child = cat(handle.fd, "pipe");
  await handle.close();
  const parts = [];
  for await (const part of child.stdout) parts.push(part);
  return Buffer.concat(parts).toString();
}

/**
 * A command that runs in a sandbox; made by Sandbox.spawn. Whoever has the job's file `hold` open takes the job along
 * at the end, so a command does not outlive its client unless `keep` says so.
 */
export class Process {
  /** @internal */
  static async start(sandbox, cmd, options = {}) {
    const self = new Process();
    self.path = path.join(sandbox, "exec", `js-${randomBytes(8).toString("hex")}`);
    self._children = [];
    await explained(self.path, sandbox, () => fs.mkdir(self.path));
    try {
      await self._begin(cmd, options);
    } catch (error) {
      await self.close();
      throw error;
    }
    return self;
  }

  async _begin(cmd, { stdin, env, cwd, user, timeout, keep, linger }) {
    const file = (name) => path.join(this.path, name);
    if (!keep) this._hold = await open(file("hold"), constants.O_WRONLY);
    const settings = { cwd, user, timeout: timeout && String(Math.ceil(timeout)), linger: linger ? "1" : "0" };
    for (const [name, setting] of Object.entries(settings)) if (setting) await write(file(name), setting);
    if (env && Object.keys(env).length) await write(file("env"), envText(env));
    // Before the start: a command whose stdin nobody has open reads an empty one.
    if (stdin) {
      this.stdin = await this._pipe("stdin", constants.O_WRONLY);
      this.stdin.on("error", () => {}); // EPIPE: it reads no more, which is its affair
    }
    this.stdout = await this._pipe("stdout", constants.O_RDONLY);
    this.stderr = await this._pipe("stderr", constants.O_RDONLY);
    // A text with NUL bytes is an argument vector, one without is for a shell.
    await write(file("cmd"), typeof cmd === "string" ? cmd : nulEnded(cmd));
  }

  async _pipe(name, flags) {
    const handle = await open(path.join(this.path, name), flags);
    const child = name === "stdin" ? cat("pipe", handle.fd) : cat(handle.fd, "pipe");
    this._children.push(child);
    await handle.close(); // the child has it
    if (child.stdin) return child.stdin;
    // Node throws away what nobody reads yet when a child ends (flushStdio), and a quick command ends before that. What
    // comes out is the end of the output only if cat says so, which the end of its pipe does not wait for.
    const output = new PassThrough();
    output.on("error", () => {}); // whoever reads it hears of it; nobody has to
    output.once("close", () => child.stdout.destroy());
    child.stdout.once("error", (error) => output.destroy(error));
    child.stdout.pipe(output, { end: false });
    child.once("close", (code) => {
      if (code === 0) output.end();
      else output.destroy(new SbxError("EIO", "its output could not be read to the end", path.join(this.path, name)));
    });
    return output;
  }

  /** pending, running, exited N, signaled N or failed REASON */
  status() {
    return value(path.join(this.path, "status"));
  }

  /** A signal to the command's process group. */
  async kill(signal = "TERM") {
    await write(path.join(this.path, "ctl"), `kill ${signal}`);
  }

  /** Until the command has ended. Read its output first: a command waits for who reads it. */
  async wait() {
    let exit = await value(path.join(this.path, "exit"));
    if (!exit) {
      await readSlowly(path.join(this.path, "wait"));
      exit = await value(path.join(this.path, "exit"));
    }
    return new Result(await this.status(), Number(exit));
  }

  /** All of its output, and how it ended. `onOutput(stream, data)` hears it as it comes. */
  async communicate(stdin, onOutput) {
    const said = { stdout: [], stderr: [] };
    const collect = async (name) => {
      for await (const data of this[name]) {
        said[name].push(data);
        onOutput?.(name, data);
      }
    };
    if (stdin !== undefined && stdin !== null) this.stdin.end(stdin);
    await Promise.all([collect("stdout"), collect("stderr")]);
    const { status, exitCode } = await this.wait();
    return new Result(status, exitCode, Buffer.concat(said.stdout), Buffer.concat(said.stderr));
  }

  /** The job is killed and forgotten; its streams end. */
  async close() {
    await fs.rmdir(this.path).catch(() => {}); // gone with its sandbox
    await this.release();
  }

  /** Let go of its streams: one that was started with `keep` goes on, and everybody finds it in exec/. */
  async release() {
    this.stdin?.destroy();
    this.stdout?.destroy();
    this.stderr?.destroy();
    for (const child of this._children) child.kill();
    await this._hold?.close();
    this._hold = undefined;
  }
}

/** A port of this host that leads to one of a sandbox's loopback, until close(). */
export class Forward {
  /** @internal */
  static async start(sandbox, guestPort, hostPort = 0, host = "127.0.0.1") {
    const self = new Forward();
    self._open = new Map();
    self._server = net.createServer({ allowHalfOpen: true }, (connection) => self._serve(sandbox, guestPort, connection));
    self._server.listen(hostPort, host);
    await explained(`${host}:${hostPort}`, undefined, () => once(self._server, "listening"));
    ({ port: self.port, address: self.host } = self._server.address());
    return self;
  }

  async _serve(sandbox, guestPort, connection) {
    connection.on("error", () => connection.destroy());
    let job;
    this._open.set(connection, undefined);
    try {
      // An argument vector that begins with an empty word is the agent's own command: of a job each end can end alone.
      job = await Process.start(sandbox, ["", "dial", String(guestPort)], { stdin: true, linger: true });
      this._open.set(connection, job);
      connection.once("close", () => job.close());
      if (connection.destroyed) return;
      connection.pipe(job.stdin);
      job.stderr.resume();
      job.stdout.pipe(connection);
      await once(job.stdout, "close");
    } catch {
      connection.destroy(); // the machine is paused, or gone
    } finally {
      connection.end();
      await job?.close();
      this._open.delete(connection);
    }
  }

  /** Let the program end while this listens. */
  unref() {
    this._server.unref();
  }

  /** No more connections, and an end to those there are. */
  async close() {
    const closed = new Promise((resolve) => this._server.close(resolve));
    for (const [connection, job] of this._open) {
      connection.destroy();
      await job?.close();
    }
    await closed;
  }
}
