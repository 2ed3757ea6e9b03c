#!/usr/bin/env python3
"""Random writes, truncations, mappings and holes against a model in memory: random_writes.py MOUNTPOINT"""
import os
import subprocess

from harness import SEED, TOOLS, check, fresh, main, pick, run


def programs_missing():
    return None if os.access(f"{TOOLS}/fsx", os.X_OK) else "make tools"


def exercise(mountpoint, name, *options):
    base = fresh(mountpoint, f"fsx-{name}")
    for seed in range(SEED, SEED + pick(3, 10, 50)):
        run(f"{TOOLS}/fsx", "-s", seed, "-n", pick(2_000, 20_000), *options, f"{base}/file-{seed}", timeout=1800)


@check("buffered operations in random order give what the model says", need=programs_missing)
def buffered(mountpoint):
    exercise(mountpoint, "buffered")


@check("O_DIRECT mixed with buffered operations gives what the model says", need=programs_missing)
def direct(mountpoint):
    exercise(mountpoint, "direct", "-d")


@check("shared mappings mixed with all else give what the model says", need=programs_missing)
def mapped(mountpoint):
    exercise(mountpoint, "mapped", "-m")


@check("operations with a sync after each change give what the model says", need=programs_missing)
def synced(mountpoint):
    base = fresh(mountpoint, "fsx-synced")
    run(f"{TOOLS}/fsx", "-s", SEED, "-n", pick(200, 2_000), "-y", f"{base}/file", timeout=1800)


@check("files worked on at the same time do not disturb one another", need=programs_missing)
def parallel(mountpoint):
    base = fresh(mountpoint, "fsx-parallel")
    workers = [subprocess.Popen([f"{TOOLS}/fsx", "-s", str(SEED + number), "-n", str(pick(1_000, 10_000)), "-m",
                                 f"{base}/file-{number}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT) for number in range(4)]
    for worker in workers:
        output = worker.communicate(timeout=1800)[0].decode(errors="replace")
        assert worker.returncode == 0, output[-1000:]


if __name__ == "__main__":
    main()
