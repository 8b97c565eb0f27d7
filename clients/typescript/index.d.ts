// SPDX-License-Identifier: MIT
/// <reference types="node" />
import type { Stats } from "node:fs";
import type { Readable, Writable } from "node:stream";

export type State = "created" | "running" | "paused" | "stopped" | "crashed";

/** A call that failed: the errno, and in `message` the sentence of `error`, or the system's words where there is none. */
export class SbxError extends Error {
  /** "ENOENT" and its like */
  readonly code: string;
  /** its number, positive */
  readonly errno: number;
  readonly path?: string;
}

/** A command that ended with something else than 0. */
export class CommandError extends Error {
  readonly result: Result;
}

/** Where sbxfs is mounted: the argument, $SBX_MOUNT, or the only mount there is. */
export function findMount(mount?: string): string;

export interface MountOption {
  mount?: string;
}

export interface Overrides {
  memoryMib?: number;
  cpus?: number;
  env?: Record<string, string>;
  /** none, allow, public or all */
  net?: string;
}

export interface CreateOptions extends Overrides, MountOption {
  name?: string;
  image?: string;
  memoryMaxMib?: number;
  cpusMax?: number;
}

export interface SpawnOptions {
  env?: Record<string, string>;
  cwd?: string;
  user?: string;
  /** seconds */
  timeout?: number;
  /** `stdin` of the process can be written to */
  stdin?: boolean;
  /** let it outlive this client, as a job in exec/ */
  keep?: boolean;
  /** its output ends when all processes have closed it, and not with the command */
  linger?: boolean;
}

export interface ExecOptions extends Omit<SpawnOptions, "stdin" | "keep"> {
  stdin?: string | Uint8Array;
  onOutput?: (stream: "stdout" | "stderr", data: Buffer) => void;
}

/** A line for a shell, or words that need none. */
export type Command = string | string[];

export class Result {
  /** "exited N", "signaled N" or "failed REASON" */
  readonly status: string;
  /** what a shell's $? would be: N, 128+N for a signal, 124 after the timeout, 127: no such program */
  readonly exitCode: number;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly text: string;
  readonly ok: boolean;
  readonly timedOut: boolean;
  /** Itself, or CommandError where it did not end with 0. */
  check(): Result;
}

export class Process {
  private constructor();
  readonly path: string;
  readonly stdin?: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** pending, running, exited N, signaled N or failed REASON */
  status(): Promise<string>;
  /** A signal to the command's process group. */
  kill(signal?: string | number): Promise<void>;
  /** Until the command has ended. Read its output first: a command waits for who reads it. */
  wait(): Promise<Result>;
  communicate(stdin?: string | Uint8Array, onOutput?: ExecOptions["onOutput"]): Promise<Result>;
  /** The job is killed and forgotten. */
  close(): Promise<void>;
  /** Let go of its streams: one that was started with `keep` goes on. */
  release(): Promise<void>;
}

export class Forward {
  private constructor();
  readonly host: string;
  readonly port: number;
  /** Let the program end while this listens. */
  unref(): void;
  close(): Promise<void>;
}

/** The files of a sandbox's guest, or of a snapshot; paths are the guest's. */
export class Files {
  readonly root: string;
  path(file: string): string;
  read(file: string): Promise<Buffer>;
  write(file: string, data: string | Uint8Array, mode?: number): Promise<void>;
  list(directory?: string): Promise<string[]>;
  stat(file: string): Promise<Stats>;
  mkdir(directory: string): Promise<void>;
  remove(file: string): Promise<void>;
}

/** Times in microseconds, 0 where there was none. */
export interface SandboxInfo {
  name: string;
  state: State;
  engine: string;
  image?: string;
  parent?: string;
  created: Date;
  bootUs: number;
  forkUs: number;
  generation: number;
  pid: number;
}

/** Sizes in bytes; `own` is what deleting it would free. */
export interface SnapshotInfo {
  name: string;
  status: string;
  source?: string;
  parent?: string;
  image?: string;
  created?: Date;
  engine?: string;
  memory: number;
  memoryMax: number;
  cpus: number;
  cpusMax: number;
  pauseUs: number;
  logical: number;
  stored: number;
  own: number;
}

export class Sandbox {
  constructor(name: string, options?: MountOption);
  readonly name: string;
  readonly mount: string;
  readonly path: string;
  readonly files: Files;
  static create(options?: CreateOptions): Promise<Sandbox>;
  static get(name: string, options?: MountOption): Promise<Sandbox>;
  static list(options?: MountOption): Promise<Sandbox[]>;
  state(): Promise<State>;
  info(): Promise<SandboxInfo>;
  setEnv(env: Record<string, string>): Promise<void>;
  exec(cmd: Command, options?: ExecOptions): Promise<Result>;
  spawn(cmd: Command, options?: SpawnOptions): Promise<Process>;
  forward(port: number, options?: { hostPort?: number; host?: string }): Promise<Forward>;
  start(): Promise<void>;
  stop(): Promise<void>;
  kill(): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  remove(): Promise<void>;
  /** It stays paused. With a name the snapshot is saved when this resolves. */
  snapshot(name?: string): Promise<Snapshot>;
  checkpoint(name?: string): Promise<Snapshot>;
  rollback(snapshot: Snapshot): Promise<void>;
  fork(n: number, options?: { prefix?: string }): Promise<Sandbox[]>;
}

export class Snapshot {
  constructor(path: string, options?: MountOption);
  readonly name: string;
  readonly mount: string;
  readonly path: string;
  readonly files: Files;
  static get(name: string, options?: MountOption): Promise<Snapshot>;
  static list(options?: MountOption): Promise<SnapshotInfo[]>;
  static delete(name: string, options?: MountOption): Promise<void>;
  status(): Promise<string>;
  info(): Promise<SnapshotInfo>;
  restore(name?: string, overrides?: Overrides): Promise<Sandbox>;
  fork(n: number, options?: Overrides & { prefix?: string }): Promise<Sandbox[]>;
  saveNamed(name: string): Promise<void>;
  verify(): Promise<void>;
  remove(): Promise<void>;
}
