"""What the allocator makes of files that are written side by side, and of a volume that ages: runs of blocks.

Eight threads write a file each, in pieces of 4 to 256 KiB. Then the volume ages: small files come and go at random, and
the eight files grow by pieces of 16 to 256 KiB, with a sync now and then. The same seeds for everybody. A run is a
part of a file whose blocks follow each other in the file and on the volume.
"""
import os
import random
import re
import threading

from contenders import run

FILES, FILE_BYTES = 8, 64 << 20
SMALL_FILES, ROUNDS, SYNC_EVERY = 300, 3000, 100
PIECE = random.Random(1).randbytes(512 << 10)


def large_files(directory):
    return [os.path.join(directory, f"large-{number}") for number in range(FILES)]


def write_side_by_side(directory, size=FILE_BYTES):
    def write(path, seed):
        chance, left = random.Random(seed), size
        with open(path, "wb", buffering=0) as file:
            while left > 0:
                left -= file.write(PIECE[:min(chance.randrange(1, 65) << 12, left)])
    threads = [threading.Thread(target=write, args=(path, seed)) for seed, path in enumerate(large_files(directory))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def age(directory, rounds=ROUNDS):
    """The caller syncs afterwards."""
    chance, names = random.Random(99), {}
    for turn in range(rounds):
        action = chance.random()
        if action < 0.4 and len(names) < SMALL_FILES or not names:
            name = os.path.join(directory, f"small-{turn}")
            names[name] = None
            with open(name, "wb", buffering=0) as file:
                file.write(PIECE[:chance.randrange(1, 129) << 12])
        elif action < 0.7:
            name = chance.choice(list(names))
            del names[name]
            os.unlink(name)
        else:
            with open(chance.choice(large_files(directory)), "ab", buffering=0) as file:
                file.write(PIECE[:chance.randrange(4, 65) << 12])
        if turn % SYNC_EVERY == 0:
            run("sync", "-f", directory)


RUN = re.compile(r"^\s*(\d+)/\s*(\d+)\s+\d+/\s*\d+\s+(\d+)\s*-\s*(\d+)\s+(\d+)\s*-\s*(\d+)\s+\d+")


def count_runs(image, paths):
    """Runs of all the files, whose paths are given within the volume of an image that nobody has mounted."""
    total = 0
    for path in paths:
        last = None
        for line in run("debugfs", "-R", f"ex {path}", image).splitlines():
            match = RUN.match(line)
            # The lines of a tree's inner nodes say what the leaves say again.
            if not match or match[1] != match[2]:
                continue
            logical, logical_end, start, end = (int(match[number]) for number in (3, 4, 5, 6))
            if last != (logical - 1, start - 1):
                total += 1
            last = logical_end, end
    return total
