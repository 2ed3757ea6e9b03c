#!/usr/bin/env python3
"""Volumes whose files get clusters of several blocks (bigalloc): clusters.py SCRATCH

Real programs work on them; then e2fsck has nothing to say, and the kernel sees the same tree and goes on with it.
"""
import errno
import os
import random

import treedigest
from harness import JEXT4, SEED, attempt, check, expect_clean, expect_errno, expect_kernel_sees, kernel_mount, \
    main, make_image, missing_root, missing_server, missing_tool, mounted, pick, run
from programs import expect_recovered, expect_same, fill_index, missing_fsx, operate_at_random, paths, \
    unpack_and_commit, write_and_cut

KINDS = {
    "as mke2fs makes them": [],
    "blocks of 1 KiB, clusters of 16 KiB": ["-b", "1024", "-C", "16384"],
    "blocks of 1 KiB, clusters of 2 KiB, small groups": ["-b", "1024", "-C", "2048", "-g", "2048"],
    "blocks of 4 KiB, clusters of 64 KiB": ["-b", "4096", "-C", "65536"],
    "blocks of 4 KiB, clusters of 1 MiB": ["-b", "4096", "-C", "1048576"],
    "no checksums, no flex_bg, no 64bit": ["-b", "2048", "-C", "8192", "-O", "^metadata_csum,^flex_bg,^64bit"],
    "uninit_bg, no resize_inode": ["-b", "1024", "-C", "8192", "-g", "2048", "-O",
                                   "^metadata_csum,uninit_bg,^resize_inode"],
    "orphan_file, inline_data": ["-b", "1024", "-C", "4096", "-O", "orphan_file,inline_data"],
}


def needs():
    return missing_root() or missing_tool("tar", "git")()


def sparse(path, choose, count):
    """Pieces that share clusters, holes in these, and what is cut in the middle of one."""
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    for _ in range(count):
        reach = choose.choice([40_000, 300_000, 5_000_000, 2**33])
        os.pwrite(file, choose.randbytes(choose.randrange(1, 20_000)), choose.randrange(reach))
        start = choose.randrange(400_000)
        mode = choose.choice([["-p"], ["-z"], ["-z", "-n"], ["-n"], []])
        if choose.randrange(2) == 0:
            run("fallocate", *mode, "-o", str(start), "-l", str(choose.randrange(1, 60_000)), path)
        if choose.randrange(8) == 0:
            os.ftruncate(file, choose.randrange(500_000))
    os.close(file)


def work(directory, choose):
    """What tar and git would do to a disk, on one that is not large."""
    unpack_and_commit(f"{directory}/tar", os.path.dirname(os.path.abspath(__file__)))
    # A file that is not empty takes a whole cluster.
    fill_index(f"{directory}/tar", pick(1_000, 10_000), lambda number: number % 7 // 6)
    os.symlink("t" * 200, f"{directory}/symlink")
    write_and_cut(f"{directory}/large", choose, 16, 12_000_001)
    for number in range(20):
        with open(f"{directory}/attributes-{number}", "wb") as file:
            file.write(choose.randbytes(choose.randrange(30_000)))
        os.setxattr(f"{directory}/attributes-{number}", "user.long", choose.randbytes(700))
    sparse(f"{directory}/sparse", choose, 150)


def remove(directory):
    run("rm", "-r", directory)


def volume(scratch, options):
    image, directory, other = paths(scratch)
    make_image(image, "8G" if "1048576" in options else "512M", "-O", "bigalloc", *options)
    with mounted(image, directory):
        os.makedirs(f"{directory}/work")
        work(f"{directory}/work", random.Random(SEED))
        seen = treedigest.tree(directory)
    expect_clean(image)
    expect_kernel_sees(image, seen, other)
    for turn in range(1, pick(2, 3)):
        with kernel_mount(image, other, "rw"):
            sparse(f"{other}/work/sparse", random.Random(SEED + turn), 60)
            work(f"{other}/turn-{turn}", random.Random(SEED + turn))
            seen = treedigest.tree(other)
        expect_clean(image)
        with mounted(image, directory):
            expect_same(seen, treedigest.tree(directory), "after the kernel's work a mount")
            sparse(f"{directory}/work/sparse", random.Random(SEED - turn), 60)
            for name in ("sparse", "large", "tar/new"):
                with open(f"{directory}/turn-{turn}/{name}", "ab") as file:
                    file.write(b"appended" * 700)
            for number in range(300):
                os.link(f"{directory}/turn-{turn}/large", f"{directory}/turn-{turn}/tar/also-large-{number}")
            seen = treedigest.tree(directory)
        expect_clean(image)
        expect_kernel_sees(image, seen, other)
    with mounted(image, directory):
        for name in os.listdir(directory):
            remove(f"{directory}/{name}")
    expect_clean(image)


@check("tar, git and sparse files on volumes with clusters, by turns with the kernel", need=needs)
def volumes(scratch):
    failed = [name for name, options in KINDS.items() if not attempt(name, volume, scratch, options)]
    assert not failed, ", ".join(failed)


@check("operations in random order give what a model says",
       need=lambda: needs() or missing_fsx())
def random_operations(scratch):
    make_image(paths(scratch)[0], "512M", "-O", "bigalloc", "-b", "1024", "-C", "16384")
    operate_at_random(scratch, [100_000, 300_000, 2_000_000])


@check("a full volume says ENOSPC, keeps what it took, and counts as the kernel does", need=needs)
def full(scratch):
    image, directory, other = paths(scratch)
    make_image(image, "64M", "-O", "bigalloc", "-C", "65536", "-b", "4096", "-J", "size=4", "-N", "4096")
    with kernel_mount(image, other, "rw"):
        wanted = os.statvfs(other)
    with mounted(image, directory):
        found = os.statvfs(directory)
        for field in ("f_frsize", "f_blocks", "f_bfree", "f_bavail"):
            assert getattr(found, field) == getattr(wanted, field), (field, found, wanted)
        written = 0
        try:
            for number in range(4_000):
                with open(f"{directory}/{number}", "wb") as file:
                    file.write(b"x" * 5_000)
                    os.fsync(file.fileno())
                written = number + 1
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
        assert written > 800, written
        # Each of these has a cluster for what follows.
        for number in range(0, written, 7):
            with open(f"{directory}/{number}", "ab") as file:
                file.write(b"y" * 20_000)
                os.fsync(file.fileno())
        seen = treedigest.tree(directory)
    expect_clean(image)
    expect_kernel_sees(image, seen, other)
    with mounted(image, directory):
        remove(f"{directory}/{written // 2}")
        with open(f"{directory}/again", "wb") as file:
            file.write(b"x" * 60_000)
            os.fsync(file.fileno())
    expect_clean(image)


@check("what was synced before SIGKILL is there, as e2fsck recovers it and as a mount does",
       need=lambda: needs() or missing_server())
def recovered(scratch):
    make_image(paths(scratch)[0], "256M", "-O", "bigalloc", "-b", "1024", "-C", "8192", "-J", "size=8")
    expect_recovered(scratch, lambda directory: work(f"{directory}/work", random.Random(SEED)))


@check("free clusters are trimmed, and used ones are not", need=lambda: needs() or missing_tool("fstrim")())
def trimmed(scratch):
    image, directory, other = paths(scratch)
    make_image(image, "256M", "-O", "bigalloc", "-b", "1024", "-C", "16384")
    with mounted(image, directory):
        work(f"{directory}/work", random.Random(SEED))
        os.sync()
        run(JEXT4, "sync", directory)
        run("fstrim", directory)
        seen = treedigest.tree(directory)
    expect_clean(image)
    expect_kernel_sees(image, seen, other)


@check("what cannot be done on such volumes is refused by name", need=lambda: needs() or missing_server())
def refused(scratch):
    image, directory, _ = paths(scratch)
    make_image(image, "64M", "-O", "bigalloc")
    os.makedirs(directory, exist_ok=True)
    output = run(JEXT4, "mount", image, directory, "-o", "outofplace", status=None)
    assert "bigalloc" in output and not os.path.ismount(directory), output
    with mounted(image, directory):
        path = f"{directory}/file"
        with open(path, "wb") as file:
            file.write(b"x" * 300_000)
        expect_errno(errno.EOPNOTSUPP, os.setxattr, path, "user.jext4.outofplace", b"1")
        os.setxattr(path, "user.jext4.outofplace", b"0")
    expect_clean(image)


if __name__ == "__main__":
    main("SCRATCH")
