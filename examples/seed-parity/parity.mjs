// SPDX-License-Identifier: MIT
// parity.mjs: the five patterns with the client for TypeScript and JavaScript; the mount is $SBX_MOUNT
import { readFile } from "node:fs/promises";

import { Sandbox, Snapshot } from "../../clients/typescript/index.js"; // from "sbxfs" where it is installed

// 1. Create, prepare, capture: it stays paused, and resume lets it go on.
const base = await Sandbox.create({ name: "base", image: "base" });
(await base.exec("echo prepared > /root/ready")).check();
const snapshot = await base.snapshot();
const paused = await base.state();
await base.resume();
console.log(`create: ${(await base.exec("cat /root/ready")).check().text.trim()}, ${paused}, ${await base.state()}`);

// 2. Save under a name, remove the sandbox, load by the name.
await snapshot.saveNamed("after-pip-install");
await base.remove();
const warm = await Snapshot.get("after-pip-install");
const loaded = await warm.restore("loaded");
console.log(`save and load by name: ${(await loaded.files.read("/root/ready")).toString().trim()}`);

// 3. Ten workers at once.
const workers = await Promise.all(Array.from({ length: 10 }, (_, i) => warm.restore(`w${i}`)));
const said = await Promise.all(workers.map((worker) => worker.exec("hostname")));
console.log(`ten workers at once: ${said.map((one) => one.check().text.trim()).join(" ")}`);

// 4. With other sizes and another environment.
const custom = await warm.restore("custom", { memoryMib: 384, cpus: 2, env: { WORKER_ID: "42" } });
const mib = Number(await readFile(`${custom.path}/memory`, "utf8")) / 2 ** 20;
const [cpus, id] = (await custom.exec("nproc; echo $WORKER_ID")).check().text.split("\n");
console.log(`overrides: ${mib} MiB, ${cpus} CPUs, WORKER_ID=${id}`);

// 5. List and delete; what was forked lives on.
await loaded.snapshot("old-snapshot");
const names = async () => (await Snapshot.list()).map((info) => info.name).join(" ");
const before = await names();
await Snapshot.delete("old-snapshot");
console.log(`list and delete: ${before}, then ${await names()}`);

await Snapshot.delete("after-pip-install");
if ((await workers[3].exec("cat /root/ready")).text !== "prepared\n") throw new Error("a fork went with its snapshot");
for (const sandbox of [loaded, custom, ...workers]) await sandbox.remove();
