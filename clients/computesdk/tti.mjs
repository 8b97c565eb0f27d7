#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// tti.mjs [N] [COMMAND]: time to interactive, one after the other: create, the first command, destroy
//
// The sandboxes are forks of the snapshot in $SNAPSHOT, or else made of the image in $IMAGE. What is timed is create and
// the command, as ComputeSDK's benchmarks do; 5 % at each end are left out, and the score is theirs.
import { sbxfs } from "sbxfs-computesdk";

const n = Number(process.argv[2] ?? 20);
const command = process.argv[3] ?? "node -v";
const compute = sbxfs({ snapshot: process.env.SNAPSHOT, image: process.env.IMAGE });

const took = [];
let failed = 0;
for (let i = 0; i < n; i++) {
  const start = performance.now();
  const sandbox = await compute.sandbox.create();
  const { exitCode } = await sandbox.runCommand(command);
  if (exitCode === 0) took.push(performance.now() - start);
  else failed++;
  await sandbox.destroy();
}
took.sort((a, b) => a - b);
const cut = Math.floor(took.length * 0.05);
const kept = took.slice(cut, took.length - cut);
const at = (share) => kept[Math.min(kept.length - 1, Math.floor(kept.length * share))];
const part = (ms) => Math.max(0, 100 * (1 - ms / 10000));
const [median, p95, p99] = [0.5, 0.95, 0.99].map(at);
const score = (0.6 * part(median) + 0.25 * part(p95) + 0.15 * part(p99)) * (took.length / n);
const ms = (number) => `${number.toFixed(1)} ms`;
console.log(`n ${n}, failed ${failed}: median ${ms(median)}, p95 ${ms(p95)}, p99 ${ms(p99)}; score ${score.toFixed(1)}`);
