# SPDX-License-Identifier: MIT
"""Programs made to find faults of filesystems, on fs/: fio, which reads back what it wrote, and stress-ng"""
import json
import os
import subprocess

import pytest

from harness import limit

pytestmark = pytest.mark.any_engine

# Of stress-ng's those whose rounds are short: one that has begun is ended, however long that takes
STRESSORS = "chmod chown dentry dir fallocate flock hdd lockf rename seek utime"
JOBS = {
    "random": ["--rw=randrw", "--bs=4k", "--size=1m", "--ioengine=psync"],
    "odd": ["--rw=write", "--bsrange=511-9001", "--bs_unaligned", "--size=1m", "--ioengine=psync", "--fsync=50"],
    "append": ["--rw=write", "--bs=64k", "--size=4m", "--ioengine=psync", "--overwrite=0"],
    "mapped": ["--rw=randrw", "--bs=4k", "--size=512k", "--ioengine=mmap"],
}


def test_what_fio_wrote_it_reads(vm):
    """All jobs at once: contents with checksums, some through a shared mapping."""
    top = vm / "fs/root/fio"
    os.mkdir(top)
    argv = ["fio", "--output-format=json", f"--directory={top}", "--verify=crc32c", "--verify_fatal=1", "--randseed=7"]
    for name, job in JOBS.items():
        argv += [f"--name={name}", *job]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=limit(60), cwd="/tmp", check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    jobs = json.loads(done.stdout)["jobs"]
    assert len(jobs) == len(JOBS) and all(job["error"] == 0 and job["read"]["total_ios"] > 0 for job in jobs)


def test_stressors_find_nothing(vm):
    """stress-ng's stressors of files, all at once, each of which checks what it did."""
    top = vm / "fs/root/stress"
    os.mkdir(top)
    argv = ["stress-ng", "--temp-path", str(top), "--timeout", "2", "--verify"]
    argv += ["--hdd-bytes", "1m", "--fallocate-bytes", "1m", "--seek-size", "1m", "--dentries", "64", "--dir-dirs", "64"]
    for name in STRESSORS.split():
        argv += [f"--{name}", "1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=limit(80), check=False)
    assert done.returncode == 0 and "fail:" not in done.stdout + done.stderr, done.stdout[-3000:] + done.stderr[-3000:]
    assert os.listdir(top) == []
