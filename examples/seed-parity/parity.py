# SPDX-License-Identifier: MIT
"""parity.py: the five patterns with the client for Python; the mount is $SBX_MOUNT"""
import asyncio

from sbxfs import Sandbox, Snapshot, aio

# 1. Create, prepare, capture: it stays paused, and resume lets it go on.
base = Sandbox.create("base", image="base")
base.exec("echo prepared > /root/ready").check()
snapshot = base.snapshot()
paused = base.state
base.resume()
print(f"create: {base.exec('cat /root/ready').check().text.strip()}, {paused}, {base.state}")

# 2. Save under a name, remove the sandbox, load by the name.
snapshot.save_named("after-pip-install")
base.remove()
loaded = Snapshot.get("after-pip-install").restore("loaded")
print(f"save and load by name: {loaded.files.read('/root/ready').decode().strip()}")


# 3. Ten workers at once.
async def workers():
    warm = await aio.Snapshot.get("after-pip-install")
    made = await asyncio.gather(*(warm.restore(f"w{i}") for i in range(10)))
    said = await asyncio.gather(*(worker.exec("hostname") for worker in made))
    return [one.check().text.strip() for one in said]


print("ten workers at once:", *asyncio.run(workers()))

# 4. With other sizes and another environment.
custom = Snapshot.get("after-pip-install").restore("custom", memory_mib=384, cpus=2, env={"WORKER_ID": "42"})
mib = int((custom.path / "memory").read_text()) >> 20
cpus, worker_id = custom.exec("nproc; echo $WORKER_ID").check().text.split()
print(f"overrides: {mib} MiB, {cpus} CPUs, WORKER_ID={worker_id}")

# 5. List and delete; what was forked lives on.
loaded.snapshot("old-snapshot")
before = [info.name for info in Snapshot.list()]
Snapshot.delete("old-snapshot")
print("list and delete:", *before, end=", ")
print("then", *(info.name for info in Snapshot.list()))

Snapshot.delete("after-pip-install")
assert Sandbox.get("w3").exec("cat /root/ready").text == "prepared\n"
for sandbox in [loaded, custom, *(Sandbox.get(f"w{i}") for i in range(10))]:
    sandbox.remove()
