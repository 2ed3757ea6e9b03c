#!/usr/bin/env python3
"""A mount with -o writeback, where the kernel keeps what is written until it sees fit: writeback.py SCRATCH

Most programs say the same of it as of any other mount: run.py --options writeback runs all of them so, but what they
say of a full volume and of holes is not so here.
"""
import errno
import os

from harness import NOBODY, check, expect_clean, expect_errno, kernel_mount, main, make_image, missing_root, \
    mounted, run
from programs import expect_pass

PROGRAMS = ["posix_attributes.py", "random_writes.py", "sqlite_transactions.py", "compile_project.py"]
MIB = 1 << 20


@check("programs find a mount with a writeback cache as they find any other, times included", need=missing_root)
def programs(scratch):
    expect_pass(PROGRAMS, scratch, "writeback")


@check("so they do where an inode holds whole seconds", need=missing_root)
def seconds(scratch):
    expect_pass(["random_writes.py"], scratch, "writeback", "-I", "128")


def fill(path, count):
    """Writes so many MiB and asks for their fate: which calls said ENOSPC."""
    told = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)

    def attempt(name, function, *arguments):
        try:
            function(*arguments)
        except OSError as error:
            assert error.errno == errno.ENOSPC, f"{name}: {error}"
            told.append(name)
    for _ in range(count):
        attempt("write", os.write, descriptor, b"f" * MIB)
    if path.endswith("synced"):
        attempt("fsync", os.fsync, descriptor)
    attempt("close", os.close, descriptor)
    return told


@check("of a full volume fsync and close tell, as the manual says", need=missing_root)
def full(scratch):
    directory = os.path.join(scratch, "mnt")
    image = make_image(os.path.join(scratch, "image"), "64M", "-m", "0")
    with mounted(image, directory, "writeback"):
        assert "fsync" in fill(f"{directory}/synced", 100)
        os.unlink(f"{directory}/synced")
        assert "close" in fill(f"{directory}/closed", 100)
        os.unlink(f"{directory}/closed")
        assert not fill(f"{directory}/small-synced", 20), "there was room"
        with open(f"{directory}/small-synced", "rb") as file:
            assert file.read() == b"f" * (20 * MIB)
    expect_clean(image)


@check("what the kernel writes back for a user takes nothing of root's reserve, for root it does", need=missing_root)
def reserve(scratch):
    directory = os.path.join(scratch, "mnt")
    image = make_image(os.path.join(scratch, "image"), "64M", "-m", "20")
    with mounted(image, directory, "writeback"):
        os.chmod(directory, 0o777)
        free = os.statvfs(directory)
        reserved = (free.f_bfree - free.f_bavail) * free.f_frsize
        assert reserved > 10 * MIB, reserved
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os._exit(0 if "fsync" in fill(f"{directory}/synced", 100) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "nobody was told"
        free = os.statvfs(directory)
        assert free.f_bfree * free.f_frsize >= reserved - MIB, "the reserve is used up"
        assert not fill(f"{directory}/root-synced", reserved // MIB - 2), "root may use it"
    expect_clean(image)


@check("a hole that the kernel has data for is no hole, so all is data", need=missing_root)
def holes(scratch):
    directory = os.path.join(scratch, "mnt")
    image = make_image(os.path.join(scratch, "image"), "64M")
    with mounted(image, directory, "writeback"):
        file = os.open(f"{directory}/sparse", os.O_CREAT | os.O_RDWR, 0o600)
        os.ftruncate(file, 4 * MIB)
        os.pwrite(file, b"data", 2 * MIB)
        assert os.lseek(file, 2 * MIB, os.SEEK_DATA) == 2 * MIB, "data that was not sent yet is not seen"
        assert os.lseek(file, 0, os.SEEK_HOLE) == 4 * MIB
        os.close(file)
    expect_clean(image)


@check("a file that was synced tells how many blocks it has", need=missing_root)
def blocks(scratch):
    directory = os.path.join(scratch, "mnt")
    image = make_image(os.path.join(scratch, "image"), "64M")
    with mounted(image, directory, "writeback"):
        file = os.open(f"{directory}/file", os.O_CREAT | os.O_RDWR)
        for count in (16, 32):
            os.write(file, b"x" * 8192)
            os.fsync(file)
            assert os.fstat(file).st_blocks == count, os.fstat(file).st_blocks
        os.close(file)
    expect_clean(image)


@check("of an immutable file nothing changes, and an append-only one grows by what was appended", need=missing_root)
def flags(scratch):
    directory = os.path.join(scratch, "mnt")
    image = make_image(os.path.join(scratch, "image"), "64M")
    with kernel_mount(image, directory, "rw"):
        for name, flag in [("fixed", "+i"), ("log", "+a")]:
            with open(f"{directory}/{name}", "wb") as file:
                file.write(b"before")
            run("chattr", flag, f"{directory}/{name}")
    with mounted(image, directory, "writeback"):
        fixed = os.open(f"{directory}/fixed", os.O_WRONLY)
        os.write(fixed, b"change")
        expect_errno(errno.EPERM, os.fsync, fixed)
        expect_errno(errno.EPERM, os.close, fixed)
        log = os.open(f"{directory}/log", os.O_WRONLY | os.O_APPEND)
        os.write(log, b" and behind")
        os.fsync(log)
        os.close(log)
    with mounted(image, directory):
        for name, content in [("fixed", b"before"), ("log", b"before and behind")]:
            with open(f"{directory}/{name}", "rb") as file:
                assert file.read() == content, name
    expect_clean(image)


if __name__ == "__main__":
    main()
