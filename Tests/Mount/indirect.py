#!/usr/bin/env python3
"""Volumes whose files are mapped by indirect blocks, as ext3 made them: indirect.py SCRATCH

Real programs work on them; then e2fsck has nothing to say, and the kernel sees the same tree and goes on with it.
"""
import ctypes
import errno
import os
import random
import subprocess

import treedigest
from harness import SEED, attempt, check, expect_clean, expect_errno, expect_kernel_sees, kernel_mount, main, \
    make_image, missing_root, missing_server, missing_tool, mounted, pick, run
from programs import expect_recovered, expect_same, fill_index, missing_fsx, operate_at_random, paths, \
    unpack_and_commit, write_and_cut

KINDS = {
    "ext3": ("ext3", []),
    "ext3, blocks of 1 KiB, a journal of 1 MiB": ("ext3", ["-b", "1024", "-J", "size=1"]),
    "ext3, blocks of 2 KiB, inodes of 128 bytes": ("ext3", ["-b", "2048", "-I", "128"]),
    "ext4 without extents": ("ext4", ["-O", "^extent,^64bit"]),
    "ext4 without extents, blocks of 1 KiB, no checksums": ("ext4", ["-b", "1024", "-O",
                                                                    "^extent,^64bit,^metadata_csum"]),
}

KEEP_SIZE, ZERO_RANGE = 1, 16
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(descriptor, mode, offset, length):
    if libc.fallocate(descriptor, mode, offset, length) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def needs():
    return missing_root() or missing_tool("tar", "git", "lsattr")()


def sparse(path, choose, count):
    """Pieces on all levels of a map, and holes; the triple level begins at 64 MiB with 1 KiB blocks, 4 GiB with 4."""
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    for _ in range(count):
        reach = choose.choice([40_000, 300_000, 5_000_000, 100_000_000, 2**33, 2**34 - 2**20])
        os.pwrite(file, choose.randbytes(choose.randrange(1, 20_000)), choose.randrange(reach))
    for _ in range(count // 4):
        os.ftruncate(file, choose.randrange(2**33, 2**34 - 2**20))
        start = choose.randrange(5_000_000)
        run("fallocate", "-p", "-o", str(start), "-l", str(choose.randrange(1, 3_000_000)), path)
    os.close(file)


def work(directory, choose):
    """What tar, git and a database would do to a disk, on one that is not large."""
    source = "/usr/include/linux" if os.path.isdir("/usr/include/linux") else os.path.dirname(__file__)
    unpack_and_commit(f"{directory}/tar", source)
    fill_index(f"{directory}/tar", pick(1_500, 20_000), lambda number: number % 7)
    os.symlink("t" * 200, f"{directory}/symlink")
    write_and_cut(f"{directory}/large", choose, 24, 20_000_001)
    with open(f"{directory}/large", "r+b") as file:
        for _ in range(200):
            file.seek(choose.randrange(20_000_000))
            file.write(choose.randbytes(choose.randrange(1, 9_000)))
    sparse(f"{directory}/sparse", choose, 200)


def expect_no_extents(directory, want=False):
    """lsattr shows an e for each file with extents."""
    lines = run("lsattr", "-R", directory, stderr=subprocess.DEVNULL).splitlines()
    flags = [line.split()[0] for line in lines if line.startswith("-")]
    wrong = [word for word in flags if ("e" in word) != want]
    assert flags and not wrong, f"{len(wrong)} of {len(flags)} files are mapped otherwise"


def volume(scratch, kind, options):
    image, directory, other = paths(scratch)
    make_image(image, "256M", *options, kind=kind)
    with mounted(image, directory):
        os.makedirs(f"{directory}/work")
        work(f"{directory}/work", random.Random(SEED))
        seen = treedigest.tree(directory)
    expect_clean(image)
    expect_kernel_sees(image, seen, other)
    with kernel_mount(image, other, "rw"):
        expect_no_extents(f"{other}/work")
        run("rm", "-r", f"{other}/work/tar")
        sparse(f"{other}/work/sparse", random.Random(SEED + 1), 60)
        seen = treedigest.tree(other)
    expect_clean(image)
    with mounted(image, directory):
        expect_same(seen, treedigest.tree(directory), "after the kernel's work a mount")
        sparse(f"{directory}/work/sparse", random.Random(SEED + 2), 60)
        run("rm", "-r", f"{directory}/work")
    expect_clean(image)


@check("tar, git and sparse files on volumes without extents, by turns with the kernel", need=needs)
def volumes(scratch):
    failed = [name for name, (kind, options) in KINDS.items() if not attempt(name, volume, scratch, kind, options)]
    assert not failed, ", ".join(failed)


@check("operations in random order, on files of all levels, give what a model says",
       need=lambda: needs() or missing_fsx())
def random_operations(scratch):
    make_image(paths(scratch)[0], "512M", "-b", "1024", kind="ext3")
    operate_at_random(scratch, [300_000, 2_000_000, 90_000_000])


@check("old files keep their maps on a volume that got extents, and new ones have extents", need=needs)
def mixed(scratch):
    image, directory, other = paths(scratch)
    make_image(image, "256M", kind="ext3")
    with kernel_mount(image, other, "rw"):
        os.makedirs(f"{other}/old")
        work(f"{other}/old", random.Random(SEED))
    run("tune2fs", "-O", "extents", image)
    run("e2fsck", "-fy", image, status=None)
    with mounted(image, directory):
        choose = random.Random(SEED + 1)
        sparse(f"{directory}/old/sparse", choose, 100)
        os.makedirs(f"{directory}/new")
        for number in range(20):
            with open(f"{directory}/new/{number}", "wb") as file:
                file.write(choose.randbytes(100_000))
        seen = treedigest.tree(directory)
    expect_clean(image)
    expect_kernel_sees(image, seen, other)
    with kernel_mount(image, other):
        expect_no_extents(f"{other}/old")
        expect_no_extents(f"{other}/new", want=True)
    with mounted(image, directory):
        run("rm", "-r", f"{directory}/old", f"{directory}/new")
    expect_clean(image)


@check("fallocate and sizes answer as the kernel does", need=needs)
def limits(scratch):
    image, directory, _ = paths(scratch)
    make_image(image, "64M", "-b", "1024", kind="ext3")
    with mounted(image, directory):
        path = f"{directory}/file"
        with open(path, "wb") as file:
            file.write(b"x" * 1_000_000)
        with open(path, "r+b") as file:
            for mode in (0, KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE):
                expect_errno(errno.EOPNOTSUPP, fallocate, file.fileno(), mode, 0, 2_000_000)
        run("fallocate", "-p", "-o", "5000", "-l", "900000", path)
        with open(path, "rb") as file:
            assert file.read() == b"x" * 5_000 + bytes(900_000) + b"x" * 95_000, "the hole has another place"
        limit = (12 + 256 + 256**2 + 256**3) * 1024
        with open(path, "r+b") as file:
            file.truncate(limit)
            expect_errno(errno.EFBIG, os.ftruncate, file.fileno(), limit + 1)
            os.pwrite(file.fileno(), b"end", limit - 3)
            expect_errno(errno.EFBIG, os.pwrite, file.fileno(), b"x", limit)
        assert os.stat(path).st_size == limit
    expect_clean(image)


@check("what was synced before SIGKILL is there, as e2fsck recovers it and as a mount does",
       need=lambda: needs() or missing_server())
def recovered(scratch):
    make_image(paths(scratch)[0], "256M", "-b", "1024", "-J", "size=4", kind="ext3")
    expect_recovered(scratch, lambda directory: work(directory, random.Random(SEED)))


@check("on a volume of more than 2^32 blocks such files get those that 32 bits can name", need=needs)
def far_blocks(scratch):
    image, directory, other = paths(scratch)
    make_image(image, "9T", "-b", "2048", "-O", "64bit,^resize_inode", "-N", "6000000", "-J", "size=8",
               "-E", "lazy_itable_init=1,nodiscard", "-m", "0")
    with kernel_mount(image, other, "rw"):
        # Linux spreads these over the volume, and one in ten falls behind the limit, with what is made in it.
        for number in range(300):
            os.mkdir(f"{other}/{number}")
        last = max(range(300), key=lambda number: os.stat(f"{other}/{number}").st_ino)
        open(f"{other}/{last}/old", "wb").close()
    for setting in ("flags 0", *(f"block[{number}] 0" for number in range(3))):
        run("debugfs", "-w", "-R", f"sif /{last}/old {setting}", image)
    with mounted(image, directory):
        for name in ("old", "new"):
            with open(f"{directory}/{last}/{name}", "wb") as file:
                for offset in (0, 3_000_000, 700_000_000):
                    os.pwrite(file.fileno(), b"x" * 200_000, offset)
        os.mkdir(f"{directory}/{last}/directory")
        seen = treedigest.tree(directory)
    blocks = {name: [int(word) for word in run("debugfs", "-R", f"blocks /{last}/{name}", image).split()
                     if word.isdigit()] for name in ("old", "new")}
    assert len(blocks["old"]) > 300 and max(blocks["old"]) < 2**32, max(blocks["old"])
    assert min(blocks["new"]) > 2**32, "the files lie where there is no limit: this says nothing"
    expect_clean(image)
    expect_kernel_sees(image, seen, other)
    with mounted(image, directory):
        run("rm", "-r", f"{directory}/{last}")
    expect_clean(image)


if __name__ == "__main__":
    main("SCRATCH")
