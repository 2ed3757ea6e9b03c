#!/usr/bin/env python3
"""Volumes that fill up: space.py SCRATCH"""
import contextlib
import errno
import fcntl
import os
import struct
import threading

import treedigest
from harness import NOBODY, check, expect_clean, expect_kernel_sees, kernel_mount, main, make_image, missing_root, \
    mounted, run

BLOCK, STEP = 4096, 256 << 10


def refusal(path):
    """What fallocate of a mebibyte at the end says; "-" when it succeeds."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, 1 << 20)
        return "-"
    except OSError as error:
        return errno.errorcode[error.errno]
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def volume(scratch, size, *options, tune=()):
    """A mounted image, checked from all sides afterwards. `tune` is for tune2fs."""
    image, directory = os.path.join(scratch, "image"), os.path.join(scratch, "mnt")
    make_image(image, size, *options)
    if tune:
        run("tune2fs", *tune, image)
    with mounted(image, directory):
        yield directory
        seen = treedigest.tree(directory)
    expect_clean(image)
    expect_kernel_sees(image, seen, os.path.join(scratch, "kernel"))


def fill(path, value):
    """Writes until there is no more room; answers the bytes that fsync said are there."""
    descriptor, good = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), 0
    try:
        while True:
            os.write(descriptor, bytes([value]) * STEP)
            os.fsync(descriptor)
            good += STEP
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    finally:
        os.close(descriptor)
    return good


@check("a full volume says ENOSPC, keeps what it took, and gives all room back", need=missing_root)
def full(scratch):
    with volume(scratch, "48M", "-b", str(BLOCK), "-m", "0") as directory:
        first = fill(f"{directory}/a", 1)
        assert first > 20 << 20, f"only {first} bytes fit"
        with open(f"{directory}/a", "rb") as file:
            assert file.read(first) == bytes([1]) * first
        assert os.statvfs(directory).f_bavail * BLOCK < STEP, "ENOSPC with room left"
        os.unlink(f"{directory}/a")
        os.sync()
        second = fill(f"{directory}/b", 2)
        assert abs(second - first) <= STEP, f"{first} bytes fitted, after removal {second}"


FITRIM = 0xC0185879


def trim(directory, start=0, count=2**64 - 1, least=0):
    """What FITRIM says it has trimmed, in bytes; or the name of the error."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        done = fcntl.ioctl(descriptor, FITRIM, struct.pack("QQQ", start, count, least))
        return struct.unpack("QQQ", done)[1]
    except OSError as error:
        return errno.errorcode[error.errno]
    finally:
        os.close(descriptor)


def held(path):
    return os.stat(path).st_blocks * 512


@check("fstrim gives the host what is free, and nothing else, while others write", need=missing_root)
def fstrim(scratch):
    image = os.path.join(scratch, "image")
    with volume(scratch, "256M", "-b", str(BLOCK)) as directory:
        with open(f"{directory}/kept", "wb") as file:
            file.write(bytes([3]) * (16 << 20))
        with open(f"{directory}/gone", "wb") as file:
            file.write(bytes([4]) * (96 << 20))
        os.sync()
        os.unlink(f"{directory}/gone")
        os.sync()
        before = held(image)
        done = False

        def write():
            number = 0
            while not done:
                with open(f"{directory}/beside-{number % 4}", "wb") as file:
                    file.write(bytes([number % 251]) * (1 << 20))
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            said = run("fstrim", "-v", directory)
            assert "trimmed" in said, said
            assert trim(directory) > 100 << 20
        finally:
            done = True
            writer.join()
        # What the writer has freed meanwhile is free once that is durable.
        os.sync()
        trim(directory)
        assert before - held(image) > 64 << 20, f"the image held {before} bytes and holds {held(image)}"
        with open(f"{directory}/kept", "rb") as file:
            assert file.read() == bytes([3]) * (16 << 20)
        free = os.statvfs(directory).f_bfree * BLOCK
        assert trim(directory) <= free
        assert trim(directory, start=8 << 20, count=4 << 20) <= 4 << 20
        assert trim(directory, least=128 << 20) == 0, "no group is free as a whole"
        refused = [trim(directory, start=256 << 20), trim(directory, count=BLOCK - 1), trim(directory, least=1 << 40)]
        assert refused == ["EINVAL"] * 3, refused
        child = os.fork()
        if child == 0:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os._exit(0 if trim(directory) == "EPERM" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "anybody may trim"


@check("the reserved blocks are for root, and for whom the super block names", need=missing_root)
def reserve(scratch):
    def fill_as(user, path):
        """What `fill` and `refusal` say to this user."""
        answers, answer = os.pipe()
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            os.write(answer, f"{fill(path, 1)} {refusal(path)}".encode())
            os._exit(0)
        os.close(answer)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with os.fdopen(answers) as file:
            count, refused = file.read().split()
        return int(count), refused

    for user, tune in [(0, ()), (1234, ("-u", "1234"))]:
        with volume(scratch, "64M", "-b", str(BLOCK), "-m", "20", tune=tune) as directory:
            os.chmod(directory, 0o777)
            reserved = (os.statvfs(directory).f_bfree - os.statvfs(directory).f_bavail) * BLOCK
            assert reserved > 10 << 20, reserved
            first, refused = fill_as(NOBODY, f"{directory}/nobody")
            assert refused == "ENOSPC", f"fallocate: {refused}"
            assert os.statvfs(directory).f_bfree * BLOCK >= reserved - STEP, "the reserve is used up"
            assert os.statvfs(directory).f_bavail * BLOCK < STEP, f"only {first} bytes fit"
            os.truncate(f"{directory}/nobody", first - (1 << 20))
            second, _ = fill_as(user, f"{directory}/friend")
            assert second > reserved - (2 << 20), f"{second} bytes of {reserved} for user {user}"


@check("many small files fill a volume to the last block without harm", need=missing_root)
def small_files(scratch):
    with volume(scratch, "24M", "-b", "1024", "-m", "0", "-N", "20000") as directory:
        count = 0
        with contextlib.suppress(OSError):
            while True:
                with open(f"{directory}/{count}", "wb") as file:
                    file.write(b"small" * 500)
                    file.flush()
                    if count % 50 == 0:
                        os.fsync(file.fileno())
                count += 1
        assert count > 2_000, f"only {count} files of 2.5 kB on 24 MiB"
        for number in range(count):
            assert os.stat(f"{directory}/{number}").st_size == 2_500, number
        for number in range(0, count, 2):
            os.unlink(f"{directory}/{number}")
        os.sync()
        with open(f"{directory}/after", "wb") as file:
            file.write(b"after" * 1_000)


@check("a volume without a free inode says ENOSPC and goes on", need=missing_root)
def inodes(scratch):
    with volume(scratch, "64M", "-N", "64") as directory:
        made = []
        try:
            while True:
                path = f"{directory}/d{len(made)}"
                os.mkdir(path)
                made.append(path)
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
        assert len(made) == os.statvfs(directory).f_files - 11 and os.statvfs(directory).f_ffree == 0, len(made)
        os.rmdir(made[0])
        os.mkdir(f"{directory}/again")


@check("statvfs tells what the kernel's does", need=missing_root)
def counted(scratch):
    image, directory = os.path.join(scratch, "image"), os.path.join(scratch, "mnt")
    for options in [], ["-m", "0"], ["-b", "1024"], ["-O", "^extent,^64bit"], ["-O", "bigalloc"]:
        make_image(image, "256M", *options)
        with kernel_mount(image, directory, "rw"):
            wanted = os.statvfs(directory)
        with mounted(image, directory):
            found = os.statvfs(directory)
        for field in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_namemax"):
            assert getattr(found, field) == getattr(wanted, field), (options, field, found, wanted)


@check("fallocate of more than there is fails whole", need=missing_root)
def too_much(scratch):
    with volume(scratch, "64M") as directory:
        before = os.statvfs(directory).f_bfree
        descriptor = os.open(f"{directory}/file", os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, 1 << 30)
            raise AssertionError("1 GiB on 64 MiB")
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
        os.ftruncate(descriptor, 0)
        os.fsync(descriptor)
        os.close(descriptor)
        os.unlink(f"{directory}/file")
        os.sync()
        assert os.statvfs(directory).f_bfree >= before - 8


@check("buffered writes that were taken are there even when the volume runs full meanwhile", need=missing_root)
def late(scratch):
    with volume(scratch, "48M", "-m", "0") as directory:
        taken = {}
        for number in range(400):
            try:
                with open(f"{directory}/{number}", "wb", buffering=0) as file:
                    count = file.write(bytes([number % 251 + 1]) * 200_000)
                    os.fsync(file.fileno())
                taken[number] = count
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
                break
        assert len(taken) > 150, f"only {len(taken)} files of 200 kB on 48 MiB"
        for number, count in taken.items():
            with open(f"{directory}/{number}", "rb") as file:
                assert file.read() == bytes([number % 251 + 1]) * count, number


if __name__ == "__main__":
    main("SCRATCH")
