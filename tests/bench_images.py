#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Import of an image beside `umoci unpack` and `tar -x` of the same bytes, by turns. By hand: it needs root, umoci
and a few gigabytes below --dir.

    tests/bench_images.py [--dir DIR] [--bytes N] [--rounds N]
"""
import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "tests/e2e"))
import oci  # noqa: E402


def make_tar(path, size):
    """Files of this host's /usr, until there are so many bytes."""
    total = 0
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for top, _, files in os.walk("/usr"):
            for name in sorted(files):
                file = os.path.join(top, name)
                if total < size and os.path.isfile(file):
                    tar.add(file, recursive=False)
                    total += os.path.getsize(file)
    return total


def timed(argv, **kwargs):
    start = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kwargs)
    return time.monotonic() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", default="/var/tmp")
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    work = Path(args.dir) / f"bench-images-{os.getpid()}"
    work.mkdir()
    try:
        size = make_tar(work / "tar", args.bytes)
        layout = oci.Layout(work / "oci")
        layout.add("it", [(work / "tar").read_bytes()])
        times = {"sbx image import, OCI": [], "umoci unpack": [], "sbx image import, tar": [], "tar -x": []}
        for _ in range(args.rounds):
            state, bundle, plain = work / "state", work / "bundle", work / "plain"
            plain.mkdir()
            sbx = [TOP / "build/sbx", "image", "import", "--state", state, "it"]
            times["sbx image import, OCI"].append(timed([*sbx, layout.path]))
            shutil.rmtree(state)
            times["umoci unpack"].append(timed(["umoci", "unpack", "--image", f"{layout.path}:it", bundle]))
            shutil.rmtree(bundle)
            times["sbx image import, tar"].append(timed([*sbx, work / "tar"]))
            shutil.rmtree(state)
            times["tar -x"].append(timed(["tar", "-x", "-C", plain, "-f", work / "tar"]))
            shutil.rmtree(plain)
        print(f"{size / 2**20:.0f} MiB, best of {args.rounds}:")
        for what, seconds in times.items():
            print(f"  {what:24} {min(seconds):7.2f} s   {['%.2f' % s for s in seconds]}")
    finally:
        shutil.rmtree(work)


main()
