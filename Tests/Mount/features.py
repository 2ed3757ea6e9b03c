#!/usr/bin/env python3
"""The same work on every kind of volume that mke2fs makes and jext4 writes: features.py SCRATCH

After each: e2fsck has nothing to say, the kernel sees the same tree, and a second mount sees it too.
"""
import os
import random
import shutil
import subprocess

import treedigest
from harness import JEXT4, SEED, SYSTEM, Mount, attempt, check, expect_clean, expect_kernel_sees, main, make_image, \
    missing_root, missing_server, mounted, pick, run

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
    "no extents": ["-O", "^extent,^64bit"],
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
    "bigalloc": ["-O", "bigalloc", "-C", "16384"],
    "bigalloc, blocks of 1 KiB, small groups": ["-O", "bigalloc", "-b", "1024", "-C", "4096", "-g", "2048"],
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


# Volumes that no option of mke2fs alone makes, or that Linux may not mount: with blocks larger than its pages. Their
# names say what is special; each function makes one.
def large_blocks(size):
    def make(image):
        make_image(image, "1G", "-b", str(size), "-J", f"size={2048 * size >> 20}")
    return make


def indirect_journal(image):
    """As a volume that was ext3 once: the journal is mapped by blocks of block numbers."""
    make_image(image, "128M", "-O", "^has_journal,^64bit")
    run("debugfs", "-w", "-R", "feature -extent", image)
    run("tune2fs", "-J", "size=16", image)
    run("debugfs", "-w", "-R", "feature extent", image)
    assert "(DIND)" in run("debugfs", "-R", "stat <8>", image), "the journal is not mapped indirectly"


def fragmented_journal(image):
    """Every other eight blocks are in use while the journal is made, so that its extents fill a tree."""
    make_image(image, "128M", "-O", "^has_journal", "-b", "4096")
    holes = "\n".join(f"{{}} {block} 8" for block in range(2048, 20000, 16))
    debugfs_script(image, holes.replace("{}", "setb"))
    run("tune2fs", "-J", "size=16", image)
    debugfs_script(image, holes.replace("{}", "freeb"))
    assert run("debugfs", "-R", "stat <8>", image).count("-") > 400, "the journal is not in pieces"
    run("e2fsck", "-fy", image, status=None)
    expect_clean(image)


def debugfs_script(image, text):
    script = image + ".debugfs"
    with open(script, "w", encoding="ascii") as file:
        file.write(text + "\n")
    run("debugfs", "-w", "-f", script, image)


def bigalloc(image):
    make_image(image, "128M", "-O", "bigalloc", "-b", "4096", "-C", "65536", "-N", "20000")


MADE = {f"blocks of {size >> 10} KiB": large_blocks(size) for size in (8192, 16384, 32768, 65536)}
MADE |= {"a journal of indirect blocks": indirect_journal, "a journal in many pieces": fragmented_journal,
         "clusters of 64 KiB": bigalloc}
# What debugfs does not bring along, or another file system counts differently.
NOT_DUMPED = ("nlink", "size", "mtime_ns", "xattrs", "mode")


def expect_debugfs_sees(image, seen, scratch):
    """Names and contents of one of the directories of `work`, read by libext2fs."""
    shutil.rmtree(scratch, ignore_errors=True)
    os.makedirs(scratch)
    run("debugfs", "-R", f"rdump /work/dir-3 {scratch}", image)
    lines = treedigest.differences(seen, treedigest.tree(f"{scratch}/dir-3", NOT_DUMPED))
    assert not lines, "debugfs (second) sees another tree:\n  " + "\n  ".join(lines)


def recovered(scratch, make):
    """Work, SIGKILL, recovery by e2fsck on a copy and by jext4: the same tree, and a sound volume."""
    image, copy, directory = (os.path.join(scratch, name) for name in ("image", "copy", "mnt"))
    make(image)
    mount = Mount(image, directory)
    os.makedirs(f"{directory}/work")
    work(f"{directory}/work", random.Random(SEED))
    run(JEXT4, "sync", directory)
    seen, part = treedigest.tree(directory), treedigest.tree(f"{directory}/work/dir-3", NOT_DUMPED)
    assert len(part) > 5, "there is nothing to compare"
    mount.kill()
    run("cp", "--sparse=always", image, copy)
    output = run("e2fsck", "-fy", copy, status=None)
    assert "recovering journal" in output, f"e2fsck found no journal to replay: {output}"
    expect_debugfs_sees(copy, part, os.path.join(scratch, "dump"))
    with mounted(image, directory):
        lines = treedigest.differences(seen, treedigest.tree(directory))
        assert not lines, "the mount that recovered (second) sees another tree:\n  " + "\n  ".join(lines)
    expect_debugfs_sees(image, part, os.path.join(scratch, "dump"))
    for path in (copy, image):
        expect_clean(path)


@check("volumes with other blocks and journals are written, and recovered after SIGKILL",
       need=lambda: missing_root() or missing_server())
def made_volumes(scratch):
    failed = [name for name, make in MADE.items() if not attempt(name, recovered, scratch, make)]
    assert not failed, ", ".join(failed)


if __name__ == "__main__":
    main("SCRATCH")
