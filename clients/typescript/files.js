// SPDX-License-Identifier: MIT
// The files of the mount: one write is one command, and what failed has a sentence in `error`.
import { constants, promises as fs, readFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;
const ESCAPES = { "\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t" };
// What the kernel may have refused before the daemon heard of it: the sentence in `error` is of something else then.
const KERNELS = ["EEXIST", "ENOENT", "EACCES"];

/** A call that failed: `code` and `errno`, and in `message` the sentence of `error`, or the system's words. */
export class SbxError extends Error {
  constructor(code, sentence, path, options) {
    super(sentence, options);
    this.name = "SbxError";
    this.code = code;
    this.errno = Math.abs(options?.cause?.errno ?? os.constants.errno[code]);
    this.path = path;
  }
}

/** Where sbxfs is mounted: the argument, $SBX_MOUNT, or the only mount there is. */
export function findMount(mount) {
  if (mount || process.env.SBX_MOUNT) return mount || process.env.SBX_MOUNT;
  const lines = readFileSync("/proc/mounts", "utf8").split("\n");
  const found = lines.map((line) => line.split(" ")).filter((words) => words[2] === "fuse.sbxfs");
  if (found.length !== 1) {
    const what = found.length ? "more than one sbxfs is mounted" : "no sbxfs is mounted";
    throw new SbxError("ENOENT", `${what}; set SBX_MOUNT or pass mount`, "/proc/mounts");
  }
  return found[0][1].replace(/\\(\d{3})/g, (_, octal) => String.fromCharCode(parseInt(octal, 8)));
}

/** What `error` of the directory says, or nothing. */
export async function sentence(directory) {
  return fs.readFile(path.join(directory, "error"), "utf8").then((text) => text.trimEnd(), () => "");
}

/** The system's words for an error of node's, which has the call and the path in its message. */
const words = (error) => error.message.replace(/^[A-Z0-9]+: /, "").replace(/, [a-z]+( '.*)?$/s, "");

/** Let what `fn` fails with be an SbxError; with a directory, for the reason in its `error`. */
export async function explained(what, directory, fn) {
  try {
    return await fn();
  } catch (error) {
    if (!error.code || error instanceof SbxError) throw error;
    const why = directory && !KERNELS.includes(error.code) ? await sentence(directory) : "";
    throw new SbxError(error.code, why || words(error), what, { cause: error });
  }
}

export const open = (file, flags) => explained(file, undefined, () => fs.open(file, flags));

/** One write(2). The sentence is that of the directory the file is in, whatever the errno is. */
export async function write(file, data) {
  const handle = await open(file, constants.O_WRONLY);
  try {
    await handle.write(Buffer.from(data));
  } catch (error) {
    throw new SbxError(error.code, (await sentence(path.dirname(file))) || words(error), file, { cause: error });
  } finally {
    await handle.close();
  }
}

export const read = (file) => explained(file, path.dirname(file), () => fs.readFile(file, "utf8"));

/** The one line of a file that has one value. */
export const value = async (file) => (await read(file)).replace(/\n$/, "");

/** A file of `key value` lines; what is `-` is not there. */
export async function fields(file) {
  const lines = (await read(file)).split("\n").filter(Boolean);
  const pairs = lines.map((line) => [line.split(" ", 1)[0], line.slice(line.indexOf(" ") + 1)]);
  return Object.fromEntries(pairs.filter(([, text]) => text !== "-"));
}

// ---- commands

/** A name that is one, and so neither a path nor a second word of a command. */
export function checkedName(name) {
  if (typeof name !== "string" || !NAME.test(name))
    throw new SbxError("EINVAL", `${JSON.stringify(name)} is not a name: letters, digits, '.', '_' and '-', 64 at most`);
  return name;
}

/** A line for ctl. Settings that are undefined are left out; what could be more than one word is refused or quoted. */
export function command(line, settings = {}, env = {}) {
  const set = Object.entries(settings).filter(([, setting]) => setting !== undefined && setting !== null);
  const all = [...line, ...set.map(([key, setting]) => `${key}=${setting}`)];
  for (const word of all)
    if (!word || /[\s"\\\0]/.test(word)) throw new SbxError("EINVAL", `${JSON.stringify(word)} is not one word`);
  for (const [name, text] of Object.entries(env ?? {})) {
    if (!ENV_NAME.test(name)) throw new SbxError("EINVAL", `${JSON.stringify(name)} is not the name of a variable`);
    all.push(`env.${name}="${String(text).replace(/[\\"\n\t]/g, (c) => ESCAPES[c])}"`);
  }
  return all.join(" ");
}

/** Words with a NUL after each. */
export function nulEnded(list) {
  if (list.some((word) => word.includes("\0")))
    throw new SbxError("EINVAL", "a NUL byte ends a word and cannot be in one");
  return list.map((word) => `${word}\0`).join("");
}

/** For a file `env`, so that values may have newlines. */
export const envText = (env) => nulEnded(Object.entries(env).map(([name, text]) => `${name}=${text}`));

export const mib = (number) => (number === undefined || number === null ? undefined : `${Math.trunc(number)}M`);
