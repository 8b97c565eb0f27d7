# SPDX-License-Identifier: MIT
"""`sbxfs --keep` ended at any moment: by SIGTERM, which stores everything, and by SIGKILL, after which it is as last stored.

Three users fork, save, suspend, roll back, rename and remove, each their own sandboxes, and write down what was done and
what was on its way. Each sandbox has a job that counts to its output and to a file, and marks that are in memory and on
the disk. After each start they have to be in a state that they were in, with the job's output where its readers were,
and the store has to have what is shown and nothing else. A failure names its seed: --keep-seed N; --keep-moments N for
more of them (docs/testing.md).
"""
import os
import random
import re
import struct
import threading
import time

import pytest

from harness import Sandbox, Snapshot, eventually, limit, read, together, value

# Counts to the disk, and then to its output.
COUNT = "n=0; while :; do n=$((n+1)); echo $n >> /root/log; echo $n; sleep 0.1; done"
LOOK = """
echo $(cat /root/marks); echo $(cat /run/marks); cp /root/log /run/log; wc -l < /run/log
seq $(wc -l < /run/log) | cmp -s - /run/log && echo whole; ps -o ppid,args | grep -c '^ *1 .*[s]h -c n=0'; hostname
"""
EACH = 2  # sandboxes of a user


class Kept:
    """
    A sandbox, and what is known of it. A state is its marks, how much of the job's output was read, and whether it goes
    on right there: of a fork, what was on its way to its origin's reader is not in its memory (docs/forks.md).
    """

    def __init__(self, mount, name, state, user):
        self.mount, self.names, self.state, self.user = mount, [name], state, user
        self.unsure = []  # states that it may have got from a call that did not return
        self.stored = []  # states of which one is in the store; None: maybe none is
        self.running = True  # or suspended; None: nobody knows
        self.there = True  # None: it was about to be made or removed
        self.snapshots = {}

    @property
    def vm(self):
        return Sandbox(self.mount / self.names[0])

    def died(self, stored):
        """(the states that the next daemon may find, whether it may find nothing)"""
        if stored:
            return [self.state, *self.unsure], self.there is None
        return [s for s in self.stored if s is not None], self.there is None or not self.stored or None in self.stored


def forked(state):
    return *state[:2], False


class Ended(Exception):
    """The daemon did, and a call with it."""


class User:
    """Uses their sandboxes one call at a time, until the daemon ends."""

    def __init__(self, keep, number, dice):
        self.keep, self.number, self.dice = keep, number, dice
        self.made = 0

    def mine(self):
        return [kept for kept in self.keep.all if kept.user is self and kept.there]

    def name(self, kind):
        self.made += 1
        return f"{kind}{self.number}-{self.made}"

    def call(self, fn):
        """What does not return because the daemon ended is no failure."""
        try:
            return fn()
        except OSError:
            if not self.keep.ending:
                raise
            raise Ended from None

    def run(self):
        try:
            while not self.keep.ending:
                if not self.mine():
                    self.begin()
                    continue
                kept = self.dice.choice(self.mine())
                verbs = [self.mark, self.mark, self.suspend, self.suspend, self.save, self.rename, self.roll_back]
                verbs += [self.fork] * 2 if len(self.mine()) < EACH else [self.remove]
                verb = self.dice.choice(verbs)
                self.keep.note(f"{verb.__name__} {kept.names[0]}")
                verb(kept)
                self.keep.note(f"done: {verb.__name__} {kept.names[0]}")
        except Ended:
            pass
        except BaseException as e:
            self.keep.failures.append(e)
            raise

    def mark(self, kept):
        mark = str(self.dice.randrange(1 << 30))
        self.keep.torn.add(mark)
        kept.running = kept.running or None
        said = self.call(lambda: kept.vm.run(f"echo {mark} >> /root/marks; echo {mark} >> /run/marks; echo done"))
        if said != "done\n":
            assert self.keep.ending, said
            raise Ended
        self.keep.torn.remove(mark)
        kept.state, kept.running = ((*kept.state[0], mark), *kept.state[1:]), True

    def suspend(self, kept):
        before = kept.stored or [None]
        kept.stored = [*before, kept.state]
        kept.running = None
        self.call(lambda: kept.vm.ctl("suspend"))
        kept.stored, kept.running = [kept.state], False

    def save(self, kept):
        name = self.name("s")
        self.keep.saved[name] = kept.state, None
        self.call(lambda: kept.vm.ctl(f"checkpoint {name}"))
        self.keep.saved[name] = kept.state, True
        own = [name for name in self.keep.saved if name.startswith(f"s{self.number}-")]
        if len(own) > 1:
            name = self.dice.choice(own)
            self.keep.saved[name] = self.keep.saved[name][0], None
            self.call(lambda: os.rmdir(kept.mount / "snapshots" / name))
            del self.keep.saved[name]

    def rename(self, kept):
        kept.names.append(self.name("r"))
        self.call(lambda: os.rename(kept.vm.path, kept.mount / kept.names[1]))
        del kept.names[0]

    def roll_back(self, kept):
        self.call(lambda: kept.vm.ctl("checkpoint"))
        kept.snapshots[self.call(lambda: os.readlink(kept.vm / "snapshots/latest"))] = forked(kept.state)
        name = self.dice.choice(list(kept.snapshots))
        kept.unsure = [kept.snapshots[name]]
        kept.running = kept.running or None
        self.call(lambda: kept.vm.ctl(f"rollback {name}"))
        kept.state, kept.unsure, kept.running = kept.snapshots[name], [], True

    def begin(self):
        """With a fork of what all began with."""
        self.take(Snapshot(self.keep.mount / "snapshots/vm"), ((), 0, False))

    def fork(self, kept):
        self.take(kept.vm, forked(kept.state))

    def take(self, origin, state):
        child = Kept(self.keep.mount, self.name("f"), state, self)
        child.there = None
        self.keep.all.append(child)
        self.call(lambda: origin.fork(child.names[0]))
        child.there = True

    def remove(self, kept):
        kept.there = None
        self.call(lambda: os.rmdir(kept.vm.path))
        self.keep.all.remove(kept)


class Keep:
    def __init__(self, mount, seed):
        self.mount, self.dice = mount, random.Random(seed)
        self.all, self.saved, self.failures, self.ending, self.notes = [], {}, [], False, []
        self.torn = set()  # marks whose writing was cut off: they may be anywhere
        self.users = [User(self, i, random.Random(seed + i + 1)) for i in range(3)]

    def note(self, text):
        self.notes.append(f"{time.monotonic():.3f} {threading.get_ident() % 1000} {text}")

    def begin(self):
        vm = self.mount.create("vm")
        vm.sh("touch /root/marks /run/marks")
        vm.job(COUNT, name="count")
        vm.ctl("snapshot vm")
        vm.remove()
        self.saved["vm"] = ((), 0, True), True
        for user in self.users:
            user.begin()
        self.look_at_all()

    def moment(self, stored):
        """The daemon ends, in order or not, while everybody does what they do."""
        self.ending = False
        threads = [threading.Thread(target=user.run) for user in self.users]
        for thread in threads:
            thread.start()
        time.sleep(self.dice.uniform(0, 3))
        self.ending = True
        self.note("SIGTERM" if stored else "SIGKILL")
        if stored:
            self.mount.stop()
        else:
            self.mount.kill()
        for thread in threads:
            thread.join(limit(60))
            assert not thread.is_alive(), "a user waits for a daemon that is gone"
        assert not self.failures, self.failures
        self.mount.start()
        self.find(stored)
        self.look_at_all()

    def find(self, stored):
        """Each is there that has to be, and no other; then so much is known again."""
        there = self.mount.sandboxes()
        for kept in list(self.all):
            names = [name for name in kept.names if name in there]
            states, may_be_gone = kept.died(stored)
            assert len(names) == 1 or (not names and may_be_gone), f"{kept.names} of {there}"
            if not names:
                self.all.remove(kept)
                continue
            there.remove(names[0])
            assert states, f"{names[0]} was never stored"
            kept.names, kept.unsure, kept.there = names, states, True
            assert kept.vm.state == "suspended"
            error = read(kept.vm / "error")
            if stored or kept.running is False:
                assert error == "", f"{names[0]}: {error}"
            elif kept.running:
                assert "last suspended" in error, f"{names[0]}: {error!r}"
            kept.snapshots = {}
        assert not there, f"nobody made {there}"
        self.find_saved()
        eventually(self.is_tidy, 10, "something is left over in the store")

    def find_saved(self):
        there = self.mount.named()
        for name, (_, sure) in list(self.saved.items()):
            if name not in there:
                assert not sure, f"{name} was saved and is gone"
                del self.saved[name]
        assert sorted(self.saved) == there
        for name in there:
            Snapshot(self.mount / "snapshots" / name).ctl("verify")
            self.saved[name] = self.saved[name][0], True

    def is_tidy(self):
        """Names, objects and layers of the store are those of what is shown, of images and of boot snapshots."""
        state = self.mount.state
        links = {name: os.readlink(state / "snapshots" / name).rsplit("/", 1)[1] for name in os.listdir(state / "snapshots")}
        shown = [name for name in links if not name.startswith(".")]
        asleep = [name for name in links if name.startswith(".life-")]
        objects, layers = set(links.values()), set()
        for name in set(objects):
            manifest = (state / "objects" / name / "manifest").read_text(errors="replace")
            objects |= set(re.findall(r"^ram-source (\S+)$", manifest, re.M))
            layers |= set(re.findall(r"^disk (\S+)$", manifest, re.M))
        for image in (state / "images").iterdir():
            layers |= set(re.findall(r"\S+\.(?:raw|qcow2)", image.read_text()))
        for layer in list(layers):
            while layer := backing(state / "layers" / layer):
                layers.add(layer)
        found = {part: set(os.listdir(state / part)) for part in ("objects", "layers", "tmp")}
        self.left = {part: found[part] ^ wanted for part, wanted in (("objects", objects), ("layers", layers), ("tmp", set()))}
        self.left["snapshots"] = {*set(shown) ^ set(self.saved)}
        return len(asleep) == len(self.all) and not any(self.left.values())

    def look_at_all(self):
        """Brings them all back at once."""
        failed = []

        def look(i):
            try:
                self.look_at(self.all[i])
            except BaseException as e:
                failed.append(e)
                raise

        together(look, len(self.all))
        assert not failed, failed

    def look_at(self, kept):
        vm = kept.vm
        with open(vm / "exec/count/stdout", "rb", buffering=0) as out:
            lines = out.read(65536).decode().split()
        numbers = list(map(int, lines))
        said = vm.run(LOOK).splitlines()
        assert len(said) == 6, said
        on_disk, in_memory = (tuple(m for m in marks.split() if m not in self.torn) for marks in said[:2])
        n, whole, jobs, name = said[2:]
        assert name == vm.name and jobs == "1" and whole == "whole" and value(vm / "exec/count/status") == "running", said
        assert int(n) >= numbers[-1] and numbers == list(range(numbers[0], numbers[-1] + 1)), (n, numbers)
        states = [s for s in kept.unsure or [kept.state] if s[0] == in_memory]
        assert states and on_disk == in_memory, f"{vm.name} has {on_disk}, {in_memory}, and may have {kept.unsure}"
        found = [s for s in states if s[1] + 1 == numbers[0] or (not s[2] and s[1] + 1 < numbers[0])]
        assert found, f"{vm.name}: its output goes on with {numbers[0]}, after one of {states}"
        if kept.unsure:
            kept.stored = found
        kept.state, kept.unsure, kept.running = (found[0][0], numbers[-1], True), [], True

    def end(self):
        for kept in self.all:
            kept.vm.remove()
        for name in self.saved:
            os.rmdir(self.mount / "snapshots" / name)
        self.mount.stop()
        assert not self.mount.stored("objects") and not self.mount.stored("snapshots")


def backing(path):
    """The name of the layer below; None: there is none."""
    with open(path, "rb") as file:
        head = file.read(20)
        if head[:4] != b"QFI\xfb":
            return None
        at, size = struct.unpack(">QI", head[8:20])
        file.seek(at)
        return file.read(size).decode().rsplit("/", 1)[-1] if at else None


@pytest.mark.long
@pytest.mark.any_engine
@pytest.mark.timeout(limit(3600))
def test_ended_at_any_moment(own_mount, request):
    seed = request.config.option.keep_seed or random.randrange(1 << 30)
    keep = Keep(own_mount(options=["--keep", "--pool", "0", "--net", "none"]), seed)
    try:
        keep.begin()
        for i in range(request.config.option.keep_moments):
            keep.note(f"moment {i}")
            keep.moment(stored=i % 2 == 0)
        keep.end()
    except BaseException:
        print(f"--keep-seed {seed}; last:\n" + "\n".join(keep.notes[-60:]) + f"\n{getattr(keep, 'left', '')}\n{keep.mount.log[-3000:]}")
        raise
