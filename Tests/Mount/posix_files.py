#!/usr/bin/env python3
"""File data as POSIX and Linux say: posix_files.py MOUNTPOINT"""
import ctypes
import errno
import fcntl
import mmap
import os
import random
import stat
import subprocess
import sys
import time

from harness import SEED, check, expect_errno, fresh, main, wait_until

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
MIB = 1 << 20
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(descriptor, mode, offset, length):
    if libc.fallocate(descriptor, mode, offset, length) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def opened(path, flags=os.O_RDWR | os.O_CREAT):
    return os.open(path, flags, 0o644)


def written(path, data):
    with open(path, "wb") as file:
        file.write(data)
    return path


def read(path):
    with open(path, "rb") as file:
        return file.read()


@check("appends of several processes neither overlap nor tear")
def append(mountpoint):
    base = fresh(mountpoint, "append")
    script = ("import os, sys\nf = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)\n"
              "for i in range(500): os.write(f, (sys.argv[2] * (50 + i % 50) + '\\n').encode())\n")
    writers = [subprocess.Popen([sys.executable, "-c", script, f"{base}/log", letter]) for letter in "abcd"]
    assert [writer.wait() for writer in writers] == [0] * 4
    lines = read(f"{base}/log").decode().splitlines()
    for letter in "abcd":
        lengths = [len(line) for line in lines if line == letter * len(line)]
        mine = [line for line in lines if line[:1] == letter]
        assert lengths == [50 + number % 50 for number in range(500)], f"{letter}: {len(lengths)} of {len(mine)} whole"


@check("O_DIRECT and buffered I/O see one another's bytes")
def direct(mountpoint):
    base = fresh(mountpoint, "direct")
    buffer = mmap.mmap(-1, MIB)
    buffer.write(random.Random(SEED).randbytes(MIB))
    file = opened(f"{base}/file", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    assert os.pwrite(file, buffer, 0) == MIB and os.pwrite(file, buffer, 3 * MIB) == MIB
    content = read(f"{base}/file")
    assert content[:MIB] == buffer[:] and content[MIB:3 * MIB] == bytes(2 * MIB) and content[3 * MIB:] == buffer[:]
    with open(f"{base}/file", "r+b") as buffered:
        buffered.seek(4096)
        buffered.write(b"z" * 4096)
    target = mmap.mmap(-1, 8192)
    assert os.preadv(file, [target], 0) == 8192 and target[:] == buffer[:4096] + b"z" * 4096
    os.close(file)


@check("O_SYNC, fsync, fdatasync of files and directories, and syncfs succeed")
def syncs(mountpoint):
    base = fresh(mountpoint, "sync")
    file = opened(f"{base}/file", os.O_WRONLY | os.O_CREAT | os.O_SYNC)
    os.write(file, b"synchronous")
    os.fsync(file)
    os.fdatasync(file)
    directory = os.open(base, os.O_RDONLY)
    os.fsync(directory)
    os.fdatasync(directory)
    assert libc.syncfs(directory) == 0, os.strerror(ctypes.get_errno())
    os.close(file)
    os.close(directory)


@check("what is written through a shared mapping is read, and the other way round")
def shared_mapping(mountpoint):
    base = fresh(mountpoint, "mmap")
    file = opened(f"{base}/file")
    os.ftruncate(file, 3 * MIB + 100)
    with mmap.mmap(file, 3 * MIB + 100) as one, mmap.mmap(file, 3 * MIB + 100) as two:
        one[MIB:MIB + 5] = b"hello"
        assert two[MIB:MIB + 5] == b"hello" and os.pread(file, 5, MIB) == b"hello"
        os.pwrite(file, b"world", 2 * MIB - 2)
        assert one[2 * MIB - 2:2 * MIB + 3] == b"world"
        one[-3:] = b"end"
        one.flush()
    os.close(file)
    content = read(f"{base}/file")
    assert len(content) == 3 * MIB + 100 and content[-3:] == b"end" and content[MIB:MIB + 5] == b"hello"


@check("a sparse file has holes where nothing was written, and SEEK_HOLE and SEEK_DATA say where")
def sparse(mountpoint):
    base = fresh(mountpoint, "sparse")
    file = opened(f"{base}/file")
    far = 10 << 30
    os.pwrite(file, b"d" * MIB, 64 * MIB)
    os.pwrite(file, b"e" * 4096, far)
    os.fsync(file)
    info = os.fstat(file)
    assert info.st_size == far + 4096 and info.st_blocks * 512 < 2 * MIB, f"{info.st_blocks} sectors"
    assert os.lseek(file, 0, os.SEEK_HOLE) == 0 and os.lseek(file, 0, os.SEEK_DATA) == 64 * MIB
    assert os.lseek(file, 64 * MIB, os.SEEK_HOLE) == 65 * MIB and os.lseek(file, 65 * MIB, os.SEEK_DATA) == far
    assert os.lseek(file, far, os.SEEK_HOLE) == far + 4096
    expect_errno(errno.ENXIO, os.lseek, file, far + 4096, os.SEEK_DATA)
    assert os.pread(file, 8192, 5 << 30) == bytes(8192)
    os.close(file)


@check("a file reaches 16 TiB less a block, and no further")
def largest(mountpoint):
    base = fresh(mountpoint, "largest")
    file, end = opened(f"{base}/file"), (1 << 44) - 4096
    os.pwrite(file, b"last", end - 4)
    assert os.fstat(file).st_size == end and os.pread(file, 8, end - 8) == bytes(4) + b"last"
    expect_errno(errno.EFBIG, os.pwrite, file, b"x", end + 4096)
    expect_errno(errno.EFBIG, os.pwrite, file, b"x", end)
    assert os.pwrite(file, b"y" * 10_000, end - 6000) == 6000, "what has room is written"
    assert os.pread(file, 10_000, end - 6000) == b"y" * 6000
    source = opened(f"{base}/source")
    os.write(source, b"z" * 100)
    assert os.copy_file_range(source, file, 100, 0, end - 10) == 10
    os.close(source)
    os.ftruncate(file, 1)
    assert os.fstat(file).st_size == 1
    os.close(file)


@check("what truncate cuts off never comes back")
def truncate(mountpoint):
    base = fresh(mountpoint, "truncate")
    for size in [1, 100, 4095, 4096, 4097, 100_000, MIB]:
        file = opened(f"{base}/{size}")
        os.pwrite(file, b"s" * (2 * MIB), 0)
        os.ftruncate(file, size)
        os.ftruncate(file, 2 * MIB)
        assert os.pread(file, 2 * MIB, 0) == b"s" * size + bytes(2 * MIB - size), size
        os.fsync(file)
        os.close(file)
    with open(f"{base}/tail", "w+b") as file:
        file.write(b"x" * 10)
        file.flush()
        with mmap.mmap(file.fileno(), 10) as mapped:
            mapped[:] = b"y" * 10
        os.ftruncate(file.fileno(), 4096)
        assert os.pread(file.fileno(), 4096, 0) == b"y" * 10 + bytes(4086)


@check("copy_file_range copies within and across files, to the end of the source and over what is there")
def copy_range(mountpoint):
    base, choice = fresh(mountpoint, "copy"), random.Random(SEED)
    source, model = choice.randbytes(5 * MIB + 77), bytearray(choice.randbytes(2 * MIB))
    written(f"{base}/from", source)
    written(f"{base}/to", model)
    one, two = opened(f"{base}/from"), opened(f"{base}/to")

    def copy(file, start, to, count, bytes_there):
        done = 0
        while done < count:
            step = os.copy_file_range(file, two, count - done, start + done, to + done)
            if step == 0:
                break
            done += step
        piece = bytes_there[start:start + count]
        assert done == len(piece), f"{done} of {len(piece)} bytes"
        model.extend(bytes(max(0, to + done - len(model))))
        model[to:to + done] = piece
    for start, to, count in ((0, 0, 4096), (5, 100, 3 * MIB), (MIB, 4 * MIB + 9, 700), (4 * MIB, 0, 9 * MIB)):
        copy(one, start, to, count, source)
        assert read(f"{base}/to") == model and os.fstat(two).st_size == len(model)
    copy(two, 10, 3 * MIB, 2 * MIB, bytes(model))
    assert read(f"{base}/to") == model
    # What lies in the page cache alone is copied too.
    with mmap.mmap(one, 8192) as mapping:
        mapping[4000:4004] = b"mmap"
        copy(one, 3990, 50, 100, source[:4000] + b"mmap" + source[4004:])
    assert read(f"{base}/to") == model
    os.close(one)
    os.close(two)


@check("fallocate reserves, punches and zeroes")
def allocate(mountpoint):
    base = fresh(mountpoint, "fallocate")
    file = opened(f"{base}/file")
    fallocate(file, 0, 0, 4 * MIB)
    assert os.fstat(file).st_size == 4 * MIB and os.pread(file, 4 * MIB, 0) == bytes(4 * MIB)
    assert os.fstat(file).st_blocks * 512 >= 4 * MIB
    os.pwrite(file, b"q" * MIB, MIB)
    fallocate(file, KEEP_SIZE, 4 * MIB, MIB)
    assert os.fstat(file).st_size == 4 * MIB
    before = os.fstat(file).st_blocks
    fallocate(file, PUNCH_HOLE | KEEP_SIZE, MIB + 100, 300_000)
    expected = bytearray(bytes(MIB) + b"q" * MIB + bytes(2 * MIB))
    expected[MIB + 100:MIB + 300_100] = bytes(300_000)
    assert os.pread(file, 5 * MIB, 0) == bytes(expected) and os.fstat(file).st_blocks < before
    fallocate(file, ZERO_RANGE, MIB + 500_000, 100_001)
    expected[MIB + 500_000:MIB + 600_001] = bytes(100_001)
    assert os.pread(file, 5 * MIB, 0) == bytes(expected)
    os.fsync(file)
    os.close(file)
    assert read(f"{base}/file") == bytes(expected)


@check("copy_file_range and sendfile copy what is there")
def copies(mountpoint):
    base = fresh(mountpoint, "copies")
    data = random.Random(SEED + 1).randbytes(3 * MIB + 17)
    written(f"{base}/source", data)
    with open(f"{base}/source", "rb") as source, open(f"{base}/target", "wb") as target:
        done = 0
        while done < len(data):
            done += os.copy_file_range(source.fileno(), target.fileno(), len(data) - done)
    with open(f"{base}/source", "rb") as source, open(f"{base}/sent", "wb") as target:
        done = 0
        while done < len(data):
            done += os.sendfile(target.fileno(), source.fileno(), done, len(data) - done)
    assert read(f"{base}/target") == data and read(f"{base}/sent") == data


@check("writes in any order and size give the bytes they should")
def scattered(mountpoint):
    base, choose = fresh(mountpoint, "scattered"), random.Random(SEED + 2)
    model = bytearray(8 * MIB)
    file = opened(f"{base}/file")
    os.ftruncate(file, len(model))
    for _ in range(400):
        length = choose.choice([1, 511, 4096, 4097, 65_536, 200_000])
        at = choose.randrange(len(model) - length)
        data = choose.randbytes(length)
        os.pwrite(file, data, at)
        model[at:at + length] = data
    assert os.pread(file, len(model), 0) == bytes(model)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(file, len(model), 0) == bytes(model)
    os.close(file)


@check("free space goes down with what is written and comes back when it is removed")
def free_space(mountpoint):
    base = fresh(mountpoint, "free")
    os.sync()
    before = os.statvfs(base)
    file = opened(f"{base}/file")
    for _ in range(32):
        os.write(file, b"f" * MIB)
    os.fsync(file)
    used = before.f_bfree - os.statvfs(base).f_bfree
    assert 32 * MIB <= used * before.f_frsize <= 34 * MIB, f"{used} blocks for 32 MiB"
    assert before.f_ffree - os.statvfs(base).f_ffree == 1
    os.close(file)
    os.unlink(f"{base}/file")
    deadline = time.monotonic() + 10
    while os.statvfs(base).f_bfree < before.f_bfree - 8:
        assert time.monotonic() < deadline, f"{before.f_bfree - os.statvfs(base).f_bfree} blocks do not come back"
        os.sync()
        time.sleep(0.2)


@check("locks of one descriptor bind the others")
def locks(mountpoint):
    base = fresh(mountpoint, "locks")
    with open(f"{base}/file", "wb") as one, open(f"{base}/file", "r+b") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        expect_errno(errno.EAGAIN, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)


def give_name(file, path):
    """linkat(2) of an open file."""
    os.link(f"/proc/self/fd/{file}", path, src_dir_fd=file, follow_symlinks=True)


@check("a file without a name (O_TMPFILE) goes at its last close, or is given one")
def nameless(mountpoint):
    base = fresh(mountpoint, "nameless")
    free = os.statvfs(base).f_ffree
    file = os.open(base, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(file, b"content")
    assert os.fstat(file).st_nlink == 0 and stat.S_IMODE(os.fstat(file).st_mode) == 0o640
    assert os.listdir(base) == [] and os.statvfs(base).f_ffree == free - 1
    give_name(file, f"{base}/named")
    assert os.fstat(file).st_nlink == 1 and os.stat(f"{base}/named").st_size == 7
    os.fsync(file)
    os.unlink(f"{base}/named")
    expect_errno(errno.ENOENT, give_name, file, f"{base}/again")
    os.close(file)
    closed = os.open(base, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    expect_errno(errno.ENOENT, give_name, closed, f"{base}/again")
    os.close(closed)
    wait_until(lambda: os.statvfs(base).f_ffree == free, "both to be deleted")
    os.mkdir(f"{base}/gone")
    gone = os.open(f"{base}/gone", os.O_DIRECTORY)
    os.rmdir(f"{base}/gone")
    expect_errno(errno.EPERM, os.open, ".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=gone)
    os.close(gone)
    kept = os.open(base, os.O_TMPFILE | os.O_WRONLY, 0o600)
    os.write(kept, b"kept")
    give_name(kept, f"{base}/kept")
    os.close(kept)
    with open(f"{base}/kept", "rb") as kept:
        assert kept.read() == b"kept"


if __name__ == "__main__":
    main()
