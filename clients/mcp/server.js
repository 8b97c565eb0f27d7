#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// sbxfs-mcp: a server of the Model Context Protocol on stdin and stdout, for the sbxfs in $SBX_MOUNT.
//
// The protocol is JSON-RPC 2.0, a message a line. What a server with tools and nothing else has to say fits here, so
// there is no library; tests/e2e/test_mcp.py also speaks to it with the protocol's own SDK.
import { createInterface } from "node:readline";

import { tools } from "./tools.js";

const VERSIONS = ["2025-06-18", "2025-03-26", "2024-11-05"]; // the newest first
const LINE_MAX = 16 * 1024 * 1024;
const METHOD_NOT_FOUND = -32601;
const INVALID_PARAMS = -32602;
const INVALID_REQUEST = -32600;
const PARSE_ERROR = -32700;

class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const IS = {
  string: (value) => typeof value === "string",
  boolean: (value) => typeof value === "boolean",
  integer: Number.isSafeInteger,
  object: (value) => typeof value === "object" && value !== null && !Array.isArray(value),
};

/** As much of JSON schema as the tools' schemas use. */
function check(schema, value, what) {
  if (schema.type && !IS[schema.type](value)) throw new Refused(INVALID_PARAMS, `${what} is not of type ${schema.type}`);
  if (schema.enum && !schema.enum.includes(value)) throw new Refused(INVALID_PARAMS, `${what} is none of ${schema.enum.join(", ")}`);
  if (value < schema.minimum) throw new Refused(INVALID_PARAMS, `${what} is below ${schema.minimum}`);
  if (schema.type !== "object") return;
  for (const name of schema.required ?? [])
    if (!Object.hasOwn(value, name)) throw new Refused(INVALID_PARAMS, `${what} has no ${name}`);
  for (const [name, part] of Object.entries(value)) {
    const known = schema.properties && Object.hasOwn(schema.properties, name);
    const schemaOf = known ? schema.properties[name] : schema.additionalProperties;
    if (!schemaOf) throw new Refused(INVALID_PARAMS, `${what} has an unknown ${name}`);
    check(schemaOf, part, name);
  }
}

/** A tool that fails is a result, which the model reads; a call that makes no sense is an error of the protocol. */
async function call({ name, arguments: args = {} }) {
  if (!Object.hasOwn(tools, name)) throw new Refused(INVALID_PARAMS, `there is no tool ${name}`);
  check(tools[name].inputSchema, args, "arguments");
  try {
    const said = await tools[name].run(args);
    const { text, isError } = typeof said === "string" ? { text: said, isError: false } : said;
    return { content: [{ type: "text", text }], isError };
  } catch (error) {
    return { content: [{ type: "text", text: `${error.code ?? error.name}: ${error.message}` }], isError: true };
  }
}

const methods = {
  initialize: ({ protocolVersion }) => ({
    protocolVersion: VERSIONS.includes(protocolVersion) ? protocolVersion : VERSIONS[0],
    capabilities: { tools: {} },
    serverInfo: { name: "sbxfs", version: "0.1.0" },
    instructions:
      "Sandboxes are virtual machines. Prepare one, snapshot it, fork the snapshot for each attempt, and diff snapshots to see what an attempt changed.",
  }),
  ping: () => ({}),
  "tools/list": () => ({
    tools: Object.entries(tools).map(([name, { description, inputSchema }]) => ({ name, description, inputSchema })),
  }),
  "tools/call": call,
};

const send = (message) => process.stdout.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);

async function answer(line) {
  let message;
  try {
    if (line.length > LINE_MAX) throw new Error("too long");
    message = JSON.parse(line);
  } catch {
    send({ id: null, error: { code: PARSE_ERROR, message: "this is not a line of JSON" } });
    return;
  }
  if (!IS.object(message) || typeof message.method !== "string") {
    if (IS.object(message) && ("result" in message || "error" in message)) return; // nothing was asked
    send({ id: message?.id ?? null, error: { code: INVALID_REQUEST, message: "this is no request" } });
    return;
  }
  if (message.id === undefined) return; // a notification: none of them matters here
  try {
    if (!Object.hasOwn(methods, message.method)) throw new Refused(METHOD_NOT_FOUND, `there is no method ${message.method}`);
    const params = message.params ?? {};
    if (!IS.object(params)) throw new Refused(INVALID_PARAMS, "params is no object");
    send({ id: message.id, result: await methods[message.method](params) });
  } catch (error) {
    send({ id: message.id, error: { code: error.code ?? -32603, message: error.message } });
  }
}

// Calls run side by side: one that takes long holds up no other. At the end of stdin what runs is given up.
createInterface({ input: process.stdin }).on("line", answer).on("close", () => process.exit(0));
