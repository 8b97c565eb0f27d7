# reseed.py - new seeds for a Python process in every fork of its machine: `import reseed`, with the hook 50-reseed
#
# os.urandom, secrets and uuid.uuid4 ask the kernel and need nothing. What keeps its state in the process does: the
# module random, the random of a numpy that was imported, and OpenSSL (module ssl).
import os
import random
import signal
import sys


def reseed(*_):
    random.seed()  # from os.urandom
    if "ssl" in sys.modules:
        sys.modules["ssl"].RAND_add(os.urandom(32), 32.0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    with open("/run/sbx/generation") as generation, open(f"/run/sbx/reseed/.{os.getpid()}", "w") as answer:
        answer.write(generation.read())
    os.rename(answer.name, f"/run/sbx/reseed/{os.getpid()}")  # never seen half written


os.makedirs("/run/sbx/reseed", exist_ok=True)
signal.signal(signal.SIGUSR1, reseed)
reseed()
