#!/usr/bin/env python3
"""The same work on every kind of volume that mke2fs makes and jext4 writes: features.py SCRATCH

After each: e2fsck has nothing to say, the kernel sees the same tree, and a second mount sees it too.
"""
import os
import random
import subprocess

import treedigest
from harness import SEED, SYSTEM, attempt, check, expect_clean, expect_kernel_sees, main, make_image, missing_root, \
    mounted, pick, run

VOLUMES = {
    "the defaults": [],
    "blocks of 1 KiB": ["-b", "1024"],
    "blocks of 2 KiB": ["-b", "2048"],
    "blocks of 4 KiB": ["-b", "4096"],
    "inodes of 128 bytes": ["-I", "128"],
    "inodes of 256 bytes": ["-I", "256"],
    "inodes of 1024 bytes": ["-I", "1024"],
    "no metadata_csum": ["-O", "^metadata_csum"],
    "no metadata_csum, uninit_bg": ["-O", "^metadata_csum,uninit_bg"],
    "metadata_csum_seed": ["-O", "metadata_csum_seed"],
    "64bit": ["-O", "64bit"],
    "no 64bit": ["-O", "^64bit"],
    "no flex_bg": ["-O", "^flex_bg"],
    "orphan_file": ["-O", "orphan_file"],
    "no dir_index": ["-O", "^dir_index"],
    "no extra_isize, 128 bytes, 1 KiB, no checksums": ["-b", "1024", "-I", "128", "-O", "^extra_isize,^metadata_csum"],
    "no filetype": ["-O", "^filetype"],
    "no resize_inode": ["-O", "^resize_inode"],
    "no sparse_super": ["-O", "^sparse_super,^resize_inode"],
    "no huge_file, no dir_nlink": ["-O", "^huge_file,^dir_nlink"],
    "inode tables not zeroed": ["-E", "lazy_itable_init=1,lazy_journal_init=1"],
    "fast_commit": ["-O", "fast_commit"],
    "a journal of 4 MiB": ["-J", "size=4"],
    "small groups": ["-b", "1024", "-g", "1024"],
}
# What only tune2fs sets.
TUNED = {"TEA hash": ["-E", "hash_alg=tea"], "legacy hash": ["-E", "hash_alg=legacy"]}
# Linux 6.18 writes a type into the .. of a directory that it moves, and e2fsck complains.
if SYSTEM == "kernel":
    del VOLUMES["no filetype"]


def work(base, choose):
    """A bit of everything, in an order that the seed decides."""
    for number in range(pick(300, 2_000)):
        path = f"{base}/file-{number}"
        size = choose.choice([0, 1, 100, 1_000, 4_096, 20_000, 150_000])
        with open(path, "wb") as file:
            file.write(choose.randbytes(size))
            if number % 50 == 0:
                os.fsync(file.fileno())
        if number % 7 == 0:
            os.setxattr(path, "user.short", b"x" * choose.randrange(40))
        if number % 31 == 0:
            os.setxattr(path, "user.long", choose.randbytes(700))
        if number % 11 == 0:
            os.utime(path, ns=(choose.randrange(2**61), choose.randrange(2**61)))
        if number % 5 == 0:
            os.truncate(path, choose.randrange(200_000))
        if number % 3 == 0:
            os.makedirs(f"{base}/dir-{number % 17}/{number}", exist_ok=True)
            os.rename(path, f"{base}/dir-{number % 17}/{number}/moved")
        elif number % 4 == 0:
            os.unlink(path)
        elif number % 13 == 0:
            os.link(path, f"{base}/link-{number}")
            os.symlink("t" * choose.randrange(1, 200), f"{base}/symlink-{number}")
    sparse = os.open(f"{base}/sparse", os.O_CREAT | os.O_WRONLY, 0o600)
    for number in range(40):
        os.pwrite(sparse, choose.randbytes(5_000), choose.randrange(2**30))
    os.close(sparse)
    for number in range(pick(1_500, 20_000)):
        with open(f"{base}/dir-0/one-of-many-names-{number:06}", "wb"):
            pass
    for number in range(0, pick(1_500, 20_000), 3):
        os.unlink(f"{base}/dir-0/one-of-many-names-{number:06}")


def volume(scratch, options, tuned=()):
    image, directory = os.path.join(scratch, "image"), os.path.join(scratch, "mnt")
    make_image(image, "128M", *options)
    if tuned:
        run("tune2fs", *tuned, image)
    with mounted(image, directory):
        os.makedirs(f"{directory}/work")
        work(f"{directory}/work", random.Random(SEED))
        seen = treedigest.tree(directory)
    expect_clean(image)
    expect_kernel_sees(image, seen, os.path.join(scratch, "kernel"))
    with mounted(image, directory):
        lines = treedigest.differences(seen, treedigest.tree(directory))
        assert not lines, "a second mount (second) sees another tree:\n  " + "\n  ".join(lines)
        run("rm", "-r", f"{directory}/work")
    expect_clean(image)


def mke2fs_takes(scratch, options):
    """Older versions do not know every feature."""
    return subprocess.run(["mke2fs", "-n", "-q", "-F", "-t", "ext4", *options, os.path.join(scratch, "probe"), "128M"],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


@check("every kind of volume takes the same work", need=missing_root)
def volumes(scratch):
    open(os.path.join(scratch, "probe"), "wb").close()
    failed = []
    for name, options in VOLUMES.items():
        if mke2fs_takes(scratch, options):
            if not attempt(f"{name}: {' '.join(options) or 'mke2fs -t ext4'}", volume, scratch, options):
                failed.append(name)
        else:
            print(f"  (mke2fs here does not take {' '.join(options)})")
    for name, options in TUNED.items():
        if not attempt(f"{name}: tune2fs {' '.join(options)}", volume, scratch, [], options):
            failed.append(name)
    assert not failed, ", ".join(failed)


if __name__ == "__main__":
    main("SCRATCH")
