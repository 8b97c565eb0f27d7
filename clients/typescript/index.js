// SPDX-License-Identifier: MIT
/**
 * sbxfs - sandboxes, commands and snapshots of a mounted sbxfs, as objects
 *
 * Each call is a few system calls on files of the mount; README.md says which. There is no daemon behind this and
 * nothing is remembered: an object is a path, so what other programs do through the files is seen, and they see what
 * is done here. Every failure is an SbxError, with the errno and the sentence of the file `error`.
 */
export { SbxError, findMount } from "./files.js";
export { CommandError, Forward, Process, Result } from "./process.js";
export { Files, Sandbox, Snapshot } from "./sandbox.js";
