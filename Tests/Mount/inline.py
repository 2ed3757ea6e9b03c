#!/usr/bin/env python3
"""Volumes whose small files and directories lie inside of their inodes (inline_data): inline.py SCRATCH

Linux makes them, as jext4 makes no such inode itself. They are read where they lie and move out before they change.
"""
import errno
import mmap
import os
import random
import re

import treedigest
from harness import JEXT4, SEED, Mount, attempt, check, expect_clean, expect_errno, expect_kernel_sees, kernel_mount, \
    main, make_image, missing_root, mounted, run

KINDS = {
    "inodes of 256 bytes": ["-I", "256"],
    "inodes of 512 bytes, blocks of 1 KiB": ["-I", "512", "-b", "1024"],
    "inodes of 1024 bytes, no metadata_csum": ["-I", "1024", "-O", "^metadata_csum"],
    "no dir_index": ["-O", "^dir_index"],
}
SIZES = [0, 1, 59, 60, 61, 100, 150, 156, 157, 200, 400, 800]


def populate(base, choose):
    """What Linux keeps inside as long as it fits, and some that does not."""
    for size in SIZES:
        with open(f"{base}/file-{size}", "wb") as file:
            file.write(choose.randbytes(size))
    for number in range(12):
        path = f"{base}/dir-{number}"
        os.mkdir(path)
        for child in range(number):
            with open(f"{path}/n{child}", "wb") as file:
                file.write(choose.randbytes(choose.choice(SIZES)))
        os.mkdir(f"{path}/below")
    for length in (10, 59, 60, 61, 90, 150, 300):
        os.symlink("t" * length, f"{base}/symlink-{length}")
    for number in range(6):
        path = f"{base}/attributes-{number}"
        with open(path, "wb") as file:
            file.write(choose.randbytes(20 * number))
        os.setxattr(path, "user.short", b"v" * (5 * number))
    # A name that is gone leaves a free record.
    os.unlink(f"{base}/dir-3/n1")
    os.rmdir(f"{base}/dir-4/below")


def count_inline(image, inodes=400):
    """How many inodes have EXT4_INLINE_DATA_FL, by debugfs."""
    script = image + ".debugfs"
    with open(script, "w", encoding="ascii") as file:
        file.writelines(f"stat <{number}>\n" for number in range(11, inodes))
    text = run("debugfs", "-f", script, image)
    return sum(int(match[1], 16) >> 28 & 1 for match in re.finditer(r"Links: [1-9].*|Flags: 0x([0-9a-f]+)", text)
               if match[1])


def make(scratch, options):
    image, directory = (os.path.join(scratch, name) for name in ("image", "mnt"))
    make_image(image, "64M", *options, "-O", "inline_data", "-N", "1024")
    kernel = os.path.join(scratch, "kernel")
    with kernel_mount(image, kernel, "rw"):
        os.mkdir(f"{kernel}/w")
        populate(f"{kernel}/w", random.Random(SEED))
        seen = treedigest.tree(kernel)
    expect_clean(image)
    count = count_inline(image)
    assert count > 15, f"Linux has made {count} inodes with data inside"
    return image, directory, kernel, seen, count


def expect_same(first, second):
    lines = treedigest.differences(first, second)
    assert not lines, "another tree:\n  " + "\n  ".join(lines)


def read(scratch, options):
    """Who only looks changes nothing."""
    image, directory, kernel, seen, count = make(scratch, options)
    for words in ("ro", ""):
        with mounted(image, directory, words):
            expect_same(seen, treedigest.tree(directory))
            with open(f"{directory}/w/file-61", "rb") as file:
                file.seek(50)
                assert len(file.read(100)) == 11
                assert os.lseek(file.fileno(), 5, os.SEEK_DATA) == 5
                assert os.lseek(file.fileno(), 5, os.SEEK_HOLE) == 61
                expect_errno(errno.ENXIO, os.lseek, file.fileno(), 61, os.SEEK_DATA)
                with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
                    assert memory[:61] == open(f"{directory}/w/file-61", "rb").read()
        expect_clean(image)
        assert count_inline(image) == count, "something has moved"
    expect_kernel_sees(image, seen, kernel)


def change_files(base, choose):
    with open(f"{base}/file-60", "ab") as file:
        file.write(b"appended")
    with open(f"{base}/file-100", "r+b") as file:
        file.seek(40)
        file.write(b"in the middle")
        os.fsync(file.fileno())
    os.truncate(f"{base}/file-150", 70)
    os.truncate(f"{base}/file-61", 0)
    os.truncate(f"{base}/file-1", 100_000)
    with open(f"{base}/file-156", "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 50_000)
        with mmap.mmap(file.fileno(), 0) as memory:
            memory[10:14] = b"mmap"
    run("cp", f"{base}/file-59", f"{base}/file-0")
    # Attributes alone move nothing, but may have to make room.
    os.setxattr(f"{base}/attributes-2", "user.more", b"m" * 40)
    os.setxattr(f"{base}/attributes-3", "user.long", choose.randbytes(700))
    os.removexattr(f"{base}/attributes-4", "user.short")
    os.chmod(f"{base}/attributes-5", 0o604)
    with open(f"{base}/attributes-5", "ab") as file:
        file.write(b"appended")


def change_names(base):
    os.mkdir(f"{base}/dir-0/new")
    with open(f"{base}/dir-1/new", "wb") as file:
        file.write(b"new")
    os.unlink(f"{base}/dir-2/n0")
    os.rename(f"{base}/dir-5", f"{base}/dir-6/moved")
    os.rename(f"{base}/dir-6/n1", f"{base}/dir-6/n2")
    os.rename(f"{base}/dir-7/below", f"{base}/dir-8/n0-below")
    os.link(f"{base}/file-59", f"{base}/dir-9/hard")
    os.symlink("s" * 100, f"{base}/dir-10/symlink")
    expect_errno(errno.ENOTEMPTY, os.rmdir, f"{base}/dir-11")
    expect_errno(errno.EEXIST, os.mkdir, f"{base}/dir-11/n3")
    for name in ("file-157", "symlink-150", "symlink-60", "attributes-1"):
        os.unlink(f"{base}/{name}")
    os.rmdir(f"{base}/dir-9/below")
    # Gone while it is open, with its data inside.
    with open(f"{base}/file-200", "rb") as file:
        os.unlink(f"{base}/file-200")
        assert len(file.read()) == 200


def change(scratch, options):
    image, directory, kernel, _, count = make(scratch, options)
    with mounted(image, directory):
        change_files(f"{directory}/w", random.Random(SEED + 1))
        change_names(f"{directory}/w")
        seen = treedigest.tree(directory)
    expect_clean(image)
    assert 0 < count_inline(image) < count
    expect_kernel_sees(image, seen, kernel)
    with kernel_mount(image, kernel, "rw"):
        with open(f"{kernel}/w/file-60", "ab") as file:
            file.write(b"by Linux")
        os.mkdir(f"{kernel}/w/dir-0/by-linux")
        seen = treedigest.tree(kernel)
    with mounted(image, directory):
        expect_same(seen, treedigest.tree(directory))
        run("rm", "-r", f"{directory}/w")
    expect_clean(image)


def cut(scratch, options):
    """SIGKILL after a sync: what was moved out and changed is there."""
    image, directory, kernel, _, _ = make(scratch, options)
    mount = Mount(image, directory)
    change_files(f"{directory}/w", random.Random(SEED + 2))
    change_names(f"{directory}/w")
    run(JEXT4, "sync", directory)
    seen = treedigest.tree(directory)
    mount.kill()
    with mounted(image, directory):
        expect_same(seen, treedigest.tree(directory))
    expect_clean(image)
    expect_kernel_sees(image, seen, kernel)


def of_every_kind(work, scratch):
    failed = [name for name, options in KINDS.items() if not attempt(name, work, scratch, options)]
    assert not failed, ", ".join(failed)


@check("data inside of inodes is read where it lies", need=missing_root)
def reads(scratch):
    of_every_kind(read, scratch)


@check("it moves out before it changes, and Linux goes on with it", need=missing_root)
def changes(scratch):
    of_every_kind(change, scratch)


@check("what was synced survives SIGKILL", need=missing_root)
def cuts(scratch):
    of_every_kind(cut, scratch)


if __name__ == "__main__":
    main("SCRATCH")
