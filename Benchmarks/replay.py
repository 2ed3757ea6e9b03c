#!/usr/bin/env python3
"""jext4-replay apply beside e2fsck -E journal_only: copies of one image with a full log, in one run, cold caches.

The kernel makes the log: directories and files without an end on a loop mount, until the log has gone round, and then
the shutdown ioctl. The image is copied before the umount that follows, as that writes home what the log holds: so it is
as after a power cut. The host gives each copy all its blocks, as on a disk; with --sparse it has to find room as a
block is written home. Both commands must succeed, e2fsck must find the result sound, and the two results may differ
only in the super block fields that say when something was done.
"""
import argparse
import fcntl
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from contenders import run

FS_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
# s_wtime, s_lastcheck, s_kbytes_written and s_checksum, as (first byte, count) in the image; and those of the journal's
# super block that say where an empty log stopped.
SUPER_BLOCK_TIMES = [(1024 + 0x30, 4), (1024 + 0x40, 4), (1024 + 0x178, 8), (1024 + 0x3FC, 4)]
JOURNAL_HEAD = [(0x58, 4), (0xFC, 4)]


def cold():
    run("sync")
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3\n")


def logged_sectors(device):
    with open(f"/sys/block/{os.path.basename(device)}/stat", encoding="ascii") as file:
        return int(file.read().split()[6])


def commit(directory):
    handle = os.open(directory, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def make_full_log(image, directory, mebibytes):
    """An image with a dirty log of so many MiB, as full as Linux lets it become: it keeps a third for what comes."""
    mounted = f"{image}.mounted"
    try:
        fill_log(mounted, directory, mebibytes, lambda: run("cp", "--sparse=always", mounted, image))
    finally:
        if os.path.exists(mounted):
            os.unlink(mounted)


def fill_log(image, directory, mebibytes, when_shut_down):
    run("mke2fs", "-q", "-F", "-t", "ext4", "-J", f"size={mebibytes}", "-N", mebibytes * 1500,
        "-E", "lazy_itable_init=0,lazy_journal_init=0", image, f"{max(1024, mebibytes * 5)}M")
    os.makedirs(directory, exist_ok=True)
    loop = run("losetup", "--direct-io=on", "-f", "--show", image).strip()
    try:
        run("mount", "-t", "ext4", loop, directory)
        try:
            start, number = logged_sectors(loop), 0
            # Home writes are among what is counted: so twice the log is written, and the log has gone round.
            while (logged_sectors(loop) - start) * 512 < 2 * mebibytes << 20:
                top = f"{directory}/{number}"
                os.mkdir(top)
                for name in range(500):
                    os.mkdir(f"{top}/{name}")
                    with open(f"{top}/{name}/file", "xb"):
                        pass
                # Small transactions, so that the log stays nearly full when the oldest leave it.
                commit(top)
                number += 1
            handle = os.open(directory, os.O_RDONLY)
            try:
                fcntl.ioctl(handle, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
            finally:
                os.close(handle)
            when_shut_down()
        finally:
            run("umount", directory)
    finally:
        run("losetup", "-d", loop)


def describe(replay, image):
    """How much of the log there is to apply, and to how many blocks."""
    lines = [json.loads(line) for line in run(replay, "show", "--json", image).splitlines()]
    journal = next(line for line in lines if line["type"] == "journal")
    applied = [line for line in lines if line["type"] == "transaction" and line["applied"]]
    blocks = sum(line["blocks"] + 2 for line in applied)
    return blocks * journal["block_bytes"] >> 20, len(applied)


def timed(image, original, command, statuses, is_sparse, what_is_cold):
    """Seconds of one replay of a fresh copy."""
    run("cp", f"--sparse={'always' if is_sparse else 'never'}", original, image)
    if what_is_cold == "nothing":
        run("sync")
    else:
        cold()
    if what_is_cold != "all":
        # A word that neither does anything with an image at.
        subprocess.run([command[0], "-V"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    start = time.monotonic()
    done = subprocess.run([*command, image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    seconds = time.monotonic() - start
    if done.returncode not in statuses:
        raise RuntimeError(f"{command[0]}: status {done.returncode}: {done.stdout.decode(errors='replace')[-500:]}")
    return seconds


def compare(ours, theirs):
    """Complains about any difference that is not explained above."""
    first = run("debugfs", "-R", "bmap <8> 0", theirs).split()[-1]
    size = int(next(line for line in run("dumpe2fs", "-h", theirs).splitlines()
                    if line.startswith("Block size:")).split()[-1])
    allowed = SUPER_BLOCK_TIMES + [(int(first) * size + start, count) for start, count in JOURNAL_HEAD]
    done = subprocess.run(["cmp", "-l", ours, theirs], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode > 1:
        raise RuntimeError(f"cmp: {done.stdout.decode()}")
    for line in done.stdout.decode().splitlines():
        offset = int(line.split()[0]) - 1
        if not any(start <= offset < start + count for start, count in allowed):
            raise RuntimeError(f"the two replays differ at byte {offset}")
    # Orphans are for the mount that follows: e2fsck finishes them here, and must then have nothing more to say.
    run("e2fsck", "-p", ours)
    run("e2fsck", "-fn", ours)


def floor(scratch, mebibytes):
    """Seconds in which dd reads so many MiB and writes as many, cold."""
    source, target = (os.path.join(scratch, f"floor-{name}") for name in ("source", "target"))
    try:
        run("dd", "if=/dev/urandom", f"of={source}", "bs=1M", f"count={mebibytes}")
        run("dd", "if=/dev/urandom", f"of={target}", "bs=1M", f"count={mebibytes}")
        cold()
        start = time.monotonic()
        run("dd", f"if={source}", "of=/dev/null", "bs=2M", "iflag=direct")
        run("dd", "if=/dev/zero", f"of={target}", "bs=1M", f"count={mebibytes}", "conv=notrunc,fdatasync")
        return time.monotonic() - start
    finally:
        for path in (source, target):
            if os.path.exists(path):
                os.unlink(path)


def measure(replay, scratch, mebibytes, turns, say, with_floor=False, is_sparse=False, what_is_cold="all"):
    """Seconds of jext4-replay and of e2fsck, and of dd if it is asked for, turn by turn."""
    original, ours, theirs = (os.path.join(scratch, f"replay-{name}.img") for name in ("original", "jext4", "e2fsck"))
    seconds = {"jext4": [], "e2fsck": []}
    try:
        make_full_log(original, os.path.join(scratch, "replay"), mebibytes)
        used, transactions = describe(replay, original)
        say(f"replay {mebibytes} MiB: {used} MiB in {transactions} transactions to apply")
        if used < 0.6 * mebibytes:
            raise RuntimeError(f"the log of {mebibytes} MiB holds {used} MiB only")
        for turn in range(turns):
            # Nobody goes first every time.
            pair = [("jext4", ours, [replay, "apply"], [1]),
                    ("e2fsck", theirs, ["e2fsck", "-y", "-E", "journal_only"], [0, 1])]
            for name, image, command, statuses in pair[::-1] if turn % 2 else pair:
                seconds[name].append(timed(image, original, command, statuses, is_sparse, what_is_cold))
                say(f"replay {mebibytes} MiB, turn {turn + 1}/{turns}, {name}: {seconds[name][-1]:.2f} s")
            if turn == 0:
                compare(ours, theirs)
            if with_floor:
                seconds.setdefault("dd", []).append(floor(scratch, used))
    finally:
        for path in (original, ours, theirs):
            if os.path.exists(path):
                os.unlink(path)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replay", default=".build/release/jext4-replay")
    parser.add_argument("--mebibytes", type=int, default=128)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--floor", action="store_true", help="time dd as well")
    parser.add_argument("--sparse", action="store_true", help="leave holes in the copies where the image has zeros")
    parser.add_argument("--cold", choices=["all", "image", "nothing"], default="all",
                        help="what is not in memory: command and image, the image alone, or neither")
    options = parser.parse_args()
    scratch = tempfile.mkdtemp(prefix="jext4-bench-", dir=os.environ.get("BENCH_SCRATCH", "/var/tmp"))
    try:
        seconds = measure(os.path.abspath(options.replay), scratch, options.mebibytes, options.turns, print,
                          options.floor, options.sparse, options.cold)
        ours, theirs = (statistics.median(seconds[name]) for name in ("jext4", "e2fsck"))
        print(f"medians: jext4 {ours:.3f} s, e2fsck {theirs:.3f} s: {theirs / ours:.2f} x as fast")
        if options.floor:
            print(f"dd reads and writes as much in {statistics.median(seconds['dd']):.3f} s")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
