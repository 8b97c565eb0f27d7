# SPDX-License-Identifier: MIT
"""clients/mcp on a real mount: the protocol line by line, and (SBX_OUTSIDE=1) with the protocol's own SDK from npm."""
import json
import os
import shutil
import subprocess

import pytest

from harness import TOP, eventually, limit

pytestmark = [
    pytest.mark.plain,
    pytest.mark.skipif(not shutil.which("node"), reason="this host has no node"),
]


@pytest.fixture
def project(tmp_path):
    """A project that has the server and the client as npm would install them."""
    for name, source in ("sbxfs", "typescript"), ("sbxfs-mcp", "mcp"):
        shutil.copytree(TOP / "clients" / source, tmp_path / "node_modules" / name)
    return tmp_path


class Server:
    """One that runs, and what a client of it says."""

    def __init__(self, project, mount):
        env = dict(os.environ, SBX_MOUNT=str(mount))
        argv = ["node", project / "node_modules/sbxfs-mcp/server.js"]
        self.process = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.asked = 0

    def line(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def send(self, method, params=None):
        self.asked += 1
        self.line(json.dumps({"jsonrpc": "2.0", "id": self.asked, "method": method, **({} if params is None else {"params": params})}))
        return self.asked

    def answer(self):
        said = json.loads(self.process.stdout.readline())
        assert said.pop("jsonrpc") == "2.0"
        return said

    def ask(self, method, params=None):
        number = self.send(method, params)
        said = self.answer()
        assert said.pop("id") == number, said
        return said

    def call(self, tool, /, error=False, **arguments):
        """The text that a tool answers with."""
        result = self.ask("tools/call", {"name": tool, "arguments": arguments})["result"]
        (content,) = result["content"]
        assert content["type"] == "text" and result["isError"] == error, content["text"]
        return content["text"]


@pytest.fixture
def server(project, sbx):
    server = Server(project, sbx.path)
    yield server
    server.process.stdin.close()
    try:
        assert server.process.wait(limit(20)) == 0
    finally:
        server.process.kill()
        server.process.stdout.close()


def test_what_a_model_does(server, sbx, prepared):
    """Prepare, snapshot, fork, change, compare, remove; what is refused is said in words."""
    said = server.ask("initialize", {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}})
    assert said["result"]["protocolVersion"] == "2025-03-26" and said["result"]["serverInfo"]["name"] == "sbxfs"
    server.line('{"jsonrpc": "2.0", "method": "notifications/initialized"}')
    tools = {tool["name"]: tool for tool in server.ask("tools/list")["result"]["tools"]}
    assert set(tools) == {"create", "list", "exec", "read", "write", "snapshot", "fork", "diff", "remove"}
    assert all(tool["description"] and tool["inputSchema"]["type"] == "object" for tool in tools.values())

    assert server.call("create", name="agent", memoryMib=256, env={"KIND": "agent"}) == "agent runs"
    assert server.call("write", name="agent", path="/root/plan", content="one\n") == "/root/plan is written"
    assert server.call("exec", name="agent", command="cat plan - && echo $KIND >&2", cwd="/root", stdin="two\n") == (
        "exited 0\nstdout:\none\ntwo\n\nstderr:\nagent\n"
    )
    server.call("snapshot", name="agent", snapshot="before")
    assert server.call("exec", error=True, name="agent", command="echo changed > /root/plan; echo new > /root/new; sync; exit 3") == "exited 3"
    server.call("snapshot", name="agent", snapshot="after")
    differs = server.call("diff", before="before", after="after")
    assert "-one\n+changed\n" in differs and "+++ after/new" in differs and str(sbx.path) not in differs
    assert server.call("diff", before="before", after="before") == "no differences"
    assert server.call("fork", snapshot="before", name="again") == "again runs"
    assert server.call("read", name="again", path="/root/plan") == "one\n"
    listed = server.call("list").splitlines()
    assert listed == ["sandbox again running", "sandbox agent running", "sandbox prepared paused",
                      "snapshot after of agent, ready", "snapshot before of agent, ready"]  # fmt: skip

    assert server.call("create", error=True, name="agent").startswith("EEXIST: ")
    assert server.call("fork", error=True, snapshot="before", name="w", memoryMib=1 << 20).startswith("ERANGE: memory")
    assert server.call("read", error=True, name="agent", path="/nosuch").startswith("ENOENT: ")
    assert server.call("read", error=True, name="../agent", path="/root/plan").startswith("EINVAL: ")
    assert "killed after 1 s" in server.call("exec", error=True, name="agent", command="sleep 100", timeout=1)
    long = server.call("exec", name="agent", command="head -c 200000 /dev/zero | tr '\\0' x")
    assert len(long) < 70000 and "134464 more characters are not shown" in long

    for name in "agent", "again":
        server.call("remove", kind="sandbox", name=name)
    for name in "before", "after":
        server.call("remove", kind="snapshot", name=name)
    assert sbx.named() == [] and sbx.sandboxes() == ["prepared"]
    assert server.call("remove", error=True, kind="sandbox", name="agent").startswith("ENOENT: ")


ENDLESS = """
import { Readable } from "node:stream";
import { shown, take } from "./node_modules/sbxfs-mcp/shown.js";
const part = Buffer.alloc(1 << 20, "x");
const { bytes, size } = await take(Readable.from((function* () { for (let i = 0; i < 4096; i++) yield part; })()));
console.log(bytes.length, bytes.buffer.byteLength <= 1 << 20, size, shown(bytes, size).length);
"""


def test_what_a_guest_says_without_end_is_not_kept(project, server, vm):
    """The beginning is shown, and the rest passes by."""
    server.call("exec", name="vm", command="truncate -s 3G /root/large")
    said = server.call("read", name="vm", path="/root/large")
    assert said.endswith(f"[{(3 << 30) - 65536} more characters are not shown]")
    (project / "endless.mjs").write_text(ENDLESS)
    done = subprocess.run(["node", "endless.mjs"], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.split()[:3] == ["262144", "true", str(4096 << 20)] and int(done.stdout.split()[3]) < 66000


def test_what_is_no_request(server, sbx, vm):
    """Each is answered as JSON-RPC says, and nothing ends the server; a slow call holds up no other."""
    for line, code in (
        ("no json", -32700),
        ("[]", -32600),
        ('{"jsonrpc": "2.0", "id": 1}', -32600),
        ('{"jsonrpc": "2.0", "id": 1, "method": "toString"}', -32601),
        ('{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": [1]}', -32602),
        ('{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "__proto__"}}', -32602),
    ):
        server.line(line)
        assert server.answer()["error"]["code"] == code, line
    server.line('{"jsonrpc": "2.0", "id": 7, "result": {}}')  # answers nothing that was asked
    for arguments in {}, {"name": "vm", "command": 1}, {"name": "vm", "command": "true", "x": 1}, {"name": "vm", "command": "true", "timeout": 0}:
        assert server.ask("tools/call", {"name": "exec", "arguments": arguments})["error"]["code"] == -32602, arguments
    slow = server.send("tools/call", {"name": "exec", "arguments": {"name": "vm", "command": "until [ -e /root/go ]; do sleep 0.1; done"}})
    server.call("write", name="vm", path="/root/go", content="")
    assert server.answer()["id"] == slow
    # A command that runs when the client goes ends with the server.
    server.send("tools/call", {"name": "exec", "arguments": {"name": "vm", "command": "sleep 1000"}})
    eventually(lambda: os.listdir(vm / "exec"), 10, "it does not begin")
    server.process.stdin.close()
    assert server.process.wait(limit(20)) == 0
    eventually(lambda: not os.listdir(vm / "exec"), 10, "a job outlives the server")


SDK_CLIENT = """
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
const client = new Client({ name: "test", version: "0" });
const env = { ...process.env };
await client.connect(new StdioClientTransport({ command: "node", args: ["node_modules/sbxfs-mcp/server.js"], env }));
const { tools } = await client.listTools();
const said = await client.callTool({ name: "exec", arguments: { name: "vm", command: "hostname" } });
console.log(tools.length, said.isError, said.content[0].text);
await client.close();
"""


@pytest.mark.skipif(not os.environ.get("SBX_OUTSIDE"), reason="set SBX_OUTSIDE=1 to fetch the protocol's SDK from npm")
@pytest.mark.timeout(limit(300))
def test_with_the_protocols_sdk(project, sbx, vm):
    sdk = project / "sdk"
    sdk.mkdir()
    (sdk / "package.json").write_text('{"type": "module"}')
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "@modelcontextprotocol/sdk@1"], cwd=sdk, check=True)
    shutil.copytree(project / "node_modules", sdk / "node_modules", dirs_exist_ok=True)
    (sdk / "client.js").write_text(SDK_CLIENT)
    env = dict(os.environ, SBX_MOUNT=str(sbx.path))
    done = subprocess.run(["node", "client.js"], cwd=sdk, env=env, capture_output=True, text=True, timeout=limit(60), check=False)
    assert done.returncode == 0 and done.stdout == "9 false exited 0\nstdout:\nvm\n\n", done.stdout + done.stderr
