#!/usr/bin/env python3
"""Names, links, renames and directories as POSIX and Linux say: posix_names.py MOUNTPOINT"""
import ctypes
import errno
import os
import random
import socket
import stat

from harness import SEED, check, expect_errno, fresh, main, pick

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
libc = ctypes.CDLL(None, use_errno=True)


def rename2(old, new, flags):
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), new)


def write(path, text="x"):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    return path


def read(path):
    with open(path, encoding="ascii") as file:
        return file.read()


class Handle(ctypes.Structure):
    """struct file_handle of open_by_handle_at(2)."""
    _fields_ = [("size", ctypes.c_uint), ("type", ctypes.c_int), ("bytes", ctypes.c_char * 128)]


def handle_of(path):
    handle, mount = Handle(size=128), ctypes.c_int()
    if libc.name_to_handle_at(-100, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0) != 0:
        raise OSError(ctypes.get_errno(), "name_to_handle_at", path)
    return handle


def open_handle(handle, mountpoint, flags=os.O_RDONLY):
    top = os.open(mountpoint, os.O_RDONLY)
    opened = libc.open_by_handle_at(top, ctypes.byref(handle), flags)
    number = ctypes.get_errno()
    os.close(top)
    if opened < 0:
        raise OSError(number, "open_by_handle_at")
    return opened


def forget_names():
    """Has the kernel drop what it remembers of names and inodes that nobody uses."""
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("2\n")


@check("names have up to 255 bytes of any value but / and NUL")
def name_lengths(mountpoint):
    base = os.fsencode(fresh(mountpoint, "lengths"))
    for name in [b"n" * 255, b"\xff\xfe\x01", b"\n", b" ", "\u00e9".encode() * 127, b"-" * 2, b"..." * 85]:
        with open(base + b"/" + name, "wb"):
            pass
        assert name in os.listdir(base), name
    expect_errno(errno.ENAMETOOLONG, os.mkdir, base + b"/" + b"n" * 256)
    expect_errno(errno.ENAMETOOLONG, os.stat, base + b"/" + b"n" * 256)


@check("a directory of 50,000 names lists each name once, finds each, and shrinks to nothing")
def many_names(mountpoint):
    base, count = fresh(mountpoint, "many"), 50_000
    names = [f"name-{number:05}-{number * 2654435761 % 2**32:08x}" for number in range(count)]
    directory = os.open(base, os.O_RDONLY)
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=directory))
    listed = os.listdir(base)
    assert len(listed) == count and set(listed) == set(names), f"{len(listed)} names, {len(set(listed))} different"
    for name in random.Random(SEED).sample(names, 5_000):
        assert stat.S_ISREG(os.stat(name, dir_fd=directory).st_mode)
    expect_errno(errno.ENOENT, os.stat, "name-absent", dir_fd=directory)
    for name in names[::2]:
        os.unlink(name, dir_fd=directory)
    assert set(os.listdir(base)) == set(names[1::2])
    for name in names[1:40_000:2]:
        os.unlink(name, dir_fd=directory)
    assert set(os.listdir(base)) == set(names[40_001::2])
    os.close(directory)


@check("a directory can be emptied while it is read")
def remove_while_reading(mountpoint):
    base = fresh(mountpoint, "emptied")
    for number in range(3_000):
        write(f"{base}/file-with-a-rather-long-name-{number}")
    with os.scandir(base) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(base) == []
    os.rmdir(base)


@check("names that stay are listed exactly once while others come and go")
def stable_listing(mountpoint):
    base = fresh(mountpoint, "stable")
    stay = {f"stay-{number}" for number in range(2_000)}
    for name in stay:
        write(f"{base}/{name}")
    seen, changes = [], 0
    with os.scandir(base) as entries:
        for entry in entries:
            seen.append(entry.name)
            if changes < 2_000 and len(seen) % 2:
                write(f"{base}/come-{changes}")
                if changes > 3:
                    os.unlink(f"{base}/come-{changes - 3}")
                changes += 1
    kept = [name for name in seen if name in stay]
    assert len(kept) == len(stay) and set(kept) == stay, f"{len(kept)} listed of {len(stay)}"


@check("a file takes 65,000 links and not one more")
def link_limit(mountpoint):
    base = fresh(mountpoint, "links")
    write(f"{base}/0", "linked")
    directory = os.open(base, os.O_RDONLY)
    for number in range(1, 65_000):
        os.link("0", str(number), src_dir_fd=directory, dst_dir_fd=directory)
    assert os.stat(f"{base}/0").st_nlink == 65_000
    expect_errno(errno.EMLINK, os.link, f"{base}/0", f"{base}/more")
    for number in range(100, 65_000):
        os.unlink(str(number), dir_fd=directory)
    assert os.stat(f"{base}/99").st_nlink == 100 and read(f"{base}/57") == "linked"
    os.close(directory)


@check("a directory counts its sub-directories, and takes more than 65,000 of them (long tests)")
def directory_links(mountpoint):
    base, count = fresh(mountpoint, "subdirs"), pick(200, 65_010)
    for number in range(count):
        os.mkdir(f"{base}/{number}")
    assert os.stat(base).st_nlink == (count + 2 if count < 64_998 else 1)
    for number in range(100, count):
        os.rmdir(f"{base}/{number}")
    if count < 64_998:
        assert os.stat(base).st_nlink == 102


@check("a removed file lives on while it is open")
def unlinked_while_open(mountpoint):
    base = fresh(mountpoint, "orphans")
    with open(f"{base}/file", "w+b") as file:
        file.write(b"a" * 10_000)
        os.unlink(f"{base}/file")
        file.write(b"b" * 1_000_000)
        file.flush()
        assert os.fstat(file.fileno()).st_nlink == 0 and os.fstat(file.fileno()).st_size == 1_010_000
        file.seek(9_990)
        assert file.read(20) == b"a" * 10 + b"b" * 10
        os.ftruncate(file.fileno(), 5)
        file.seek(0)
        assert file.read() == b"a" * 5
    assert os.listdir(base) == []


@check("rename replaces its target in one step, and the target lives on while it is open")
def rename_replaces(mountpoint):
    base = fresh(mountpoint, "replace")
    write(f"{base}/new", "new")
    write(f"{base}/old", "old")
    with open(f"{base}/old", encoding="ascii") as open_old:
        os.rename(f"{base}/new", f"{base}/old")
        assert open_old.read() == "old" and os.fstat(open_old.fileno()).st_nlink == 0
    assert read(f"{base}/old") == "new" and os.listdir(base) == ["old"]
    os.link(f"{base}/old", f"{base}/same")
    os.rename(f"{base}/old", f"{base}/same")
    assert sorted(os.listdir(base)) == ["old", "same"], "renaming one link to another of the same file does nothing"


@check("rename of a directory moves its .. and its parents' link counts")
def rename_directory(mountpoint):
    base = fresh(mountpoint, "move")
    os.makedirs(f"{base}/from/child/deep")
    os.makedirs(f"{base}/to")
    write(f"{base}/from/child/file")
    os.rename(f"{base}/from/child", f"{base}/to/moved")
    assert os.stat(f"{base}/from").st_nlink == 2 and os.stat(f"{base}/to").st_nlink == 3
    assert os.stat(f"{base}/to/moved/..").st_ino == os.stat(f"{base}/to").st_ino
    assert sorted(os.listdir(f"{base}/to/moved")) == ["deep", "file"]
    os.mkdir(f"{base}/empty")
    os.rename(f"{base}/to/moved/deep", f"{base}/empty")
    assert os.stat(base).st_nlink == 5 and os.stat(f"{base}/to/moved").st_nlink == 2


@check("rename refuses what POSIX says it must")
def rename_refusals(mountpoint):
    base = fresh(mountpoint, "refuse")
    os.makedirs(f"{base}/full/inner")
    os.mkdir(f"{base}/dir")
    write(f"{base}/file")
    expect_errno(errno.ENOTEMPTY, os.rename, f"{base}/dir", f"{base}/full")
    expect_errno(errno.EISDIR, os.rename, f"{base}/file", f"{base}/dir")
    expect_errno(errno.ENOTDIR, os.rename, f"{base}/dir", f"{base}/file")
    expect_errno(errno.EINVAL, os.rename, f"{base}/full", f"{base}/full/inner/below")
    expect_errno(errno.ENOENT, os.rename, f"{base}/absent", f"{base}/new")
    expect_errno(errno.ENOTEMPTY, os.rmdir, f"{base}/full")
    expect_errno(errno.EISDIR, os.unlink, f"{base}/dir")
    expect_errno(errno.ENOTDIR, os.rmdir, f"{base}/file")
    expect_errno(errno.EEXIST, os.mkdir, f"{base}/file")
    expect_errno(errno.EPERM, os.link, f"{base}/dir", f"{base}/hard")


@check("RENAME_NOREPLACE never replaces, RENAME_EXCHANGE swaps, also files with directories")
def rename_flags(mountpoint):
    base = fresh(mountpoint, "flags")
    write(f"{base}/a", "a")
    write(f"{base}/b", "b")
    expect_errno(errno.EEXIST, rename2, f"{base}/a", f"{base}/b", NOREPLACE)
    rename2(f"{base}/a", f"{base}/c", NOREPLACE)
    rename2(f"{base}/b", f"{base}/c", EXCHANGE)
    assert (read(f"{base}/b"), read(f"{base}/c")) == ("a", "b")
    expect_errno(errno.ENOENT, rename2, f"{base}/b", f"{base}/absent", EXCHANGE)
    os.makedirs(f"{base}/one/dir/sub")
    os.makedirs(f"{base}/two")
    write(f"{base}/two/file", "file")
    rename2(f"{base}/one/dir", f"{base}/two/file", EXCHANGE)
    assert read(f"{base}/one/dir") == "file" and os.listdir(f"{base}/two/file") == ["sub"]
    assert os.stat(f"{base}/one").st_nlink == 2 and os.stat(f"{base}/two").st_nlink == 3
    assert os.stat(f"{base}/two/file/..").st_ino == os.stat(f"{base}/two").st_ino
    expect_errno(errno.EINVAL, rename2, f"{base}/b", f"{base}/c", NOREPLACE | EXCHANGE)


@check("RENAME_WHITEOUT leaves a device 0:0 in the place of what it moves")
def whiteouts(mountpoint):
    base = fresh(mountpoint, "whiteouts")

    def is_whiteout(path):
        info = os.lstat(path)
        return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0 and info.st_nlink == 1
    os.makedirs(f"{base}/one/dir/sub")
    os.makedirs(f"{base}/two")
    write(f"{base}/one/file", "file")
    write(f"{base}/two/target", "target")
    rename2(f"{base}/one/file", f"{base}/one/moved", WHITEOUT)
    assert is_whiteout(f"{base}/one/file") and read(f"{base}/one/moved") == "file"
    rename2(f"{base}/one/moved", f"{base}/two/target", WHITEOUT)
    assert is_whiteout(f"{base}/one/moved") and read(f"{base}/two/target") == "file"
    rename2(f"{base}/one/dir", f"{base}/two/dir", WHITEOUT | NOREPLACE)
    assert is_whiteout(f"{base}/one/dir") and os.listdir(f"{base}/two/dir") == ["sub"]
    assert os.stat(f"{base}/one").st_nlink == 2 and os.stat(f"{base}/two").st_nlink == 3
    assert sorted(os.listdir(f"{base}/one")) == ["dir", "file", "moved"]
    expect_errno(errno.EEXIST, rename2, f"{base}/two/target", f"{base}/one/file", WHITEOUT | NOREPLACE)
    expect_errno(errno.EINVAL, rename2, f"{base}/two/target", f"{base}/one/file", WHITEOUT | EXCHANGE)
    rename2(f"{base}/two/target", f"{base}/one/file", WHITEOUT)
    assert read(f"{base}/one/file") == "file" and is_whiteout(f"{base}/two/target")
    os.link(f"{base}/one/file", f"{base}/one/same")
    rename2(f"{base}/one/file", f"{base}/one/same", WHITEOUT)
    assert read(f"{base}/one/file") == read(f"{base}/one/same") == "file"
    for number in range(2000):
        write(f"{base}/two/{number}")
        rename2(f"{base}/two/{number}", f"{base}/two/{number} moved", WHITEOUT)
    assert all(is_whiteout(f"{base}/two/{number}") for number in range(2000))
    assert len(os.listdir(f"{base}/two")) == 4002
    for name in os.listdir(f"{base}/one"):
        if is_whiteout(f"{base}/one/{name}"):
            os.unlink(f"{base}/one/{name}")


@check("symbolic links hold 1 to 4,095 bytes exactly")
def symlinks(mountpoint):
    base = fresh(mountpoint, "symlinks")
    for length in [1, 2, 58, 59, 60, 61, 255, 1000, 4094, 4095]:
        target = "t" * length
        os.symlink(target, f"{base}/{length}")
        assert os.readlink(f"{base}/{length}") == target and os.lstat(f"{base}/{length}").st_size == length
    os.symlink("target", f"{base}/good")
    write(f"{base}/target", "through")
    assert read(f"{base}/good") == "through"
    expect_errno(errno.ELOOP, os.open, f"{base}/good", os.O_RDONLY | os.O_NOFOLLOW)


@check("device numbers, FIFOs and sockets are kept")
def special_files(mountpoint):
    base = fresh(mountpoint, "special")
    devices = [(1, 3), (8, 255), (255, 255), (259, 0), (4095, 1048575), (7, 300)]
    for major, minor in devices:
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            path = f"{base}/{kind}-{major}-{minor}"
            os.mknod(path, kind | 0o600, os.makedev(major, minor))
            info = os.stat(path)
            assert (os.major(info.st_rdev), os.minor(info.st_rdev)) == (major, minor)
            assert stat.S_IFMT(info.st_mode) == kind
    os.mkfifo(f"{base}/fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(base)
        listener.bind("socket")
        os.chdir("/")
    assert stat.S_ISFIFO(os.stat(f"{base}/fifo").st_mode) and stat.S_ISSOCK(os.stat(f"{base}/socket").st_mode)


@check("O_EXCL, O_TRUNC and O_DIRECTORY do what they say")
def open_flags(mountpoint):
    base = fresh(mountpoint, "open")
    write(f"{base}/file", "content")
    expect_errno(errno.EEXIST, os.open, f"{base}/file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    expect_errno(errno.ENOTDIR, os.open, f"{base}/file", os.O_RDONLY | os.O_DIRECTORY)
    expect_errno(errno.EISDIR, os.open, base, os.O_WRONLY)
    os.close(os.open(f"{base}/file", os.O_WRONLY | os.O_TRUNC))
    assert os.stat(f"{base}/file").st_size == 0


@check("the entry types that readdir gives are the objects' types")
def entry_types(mountpoint):
    base = fresh(mountpoint, "types")
    write(f"{base}/file")
    os.mkdir(f"{base}/dir")
    os.symlink("file", f"{base}/link")
    os.mkfifo(f"{base}/fifo")
    with os.scandir(base) as entries:
        kinds = {entry.name: (entry.is_file(follow_symlinks=False), entry.is_dir(follow_symlinks=False),
                              entry.is_symlink(), entry.inode()) for entry in entries}
    for name, (is_file, is_dir, is_link, inode) in kinds.items():
        info = os.lstat(f"{base}/{name}")
        assert (is_file, is_dir, is_link) == (stat.S_ISREG(info.st_mode), stat.S_ISDIR(info.st_mode),
                                              stat.S_ISLNK(info.st_mode)), name
        assert inode == info.st_ino, name


@check("a file handle finds its file when the kernel has forgotten it, and never another")
def file_handles(mountpoint):
    base = fresh(mountpoint, "handles")
    for name in ("file", "removed", "reused"):
        write(f"{base}/{name}", name)
    os.mkdir(f"{base}/dir")
    os.symlink("target", f"{base}/link")
    handles = {name: handle_of(f"{base}/{name}") for name in os.listdir(base)}
    numbers = {name: os.lstat(f"{base}/{name}").st_ino for name in handles}
    for name in ("removed", "reused"):
        os.unlink(f"{base}/{name}")
    write(f"{base}/other", "other")
    forget_names()
    for name in ("file", "dir", "link"):
        opened = open_handle(handles[name], mountpoint, os.O_PATH if name == "link" else os.O_RDONLY)
        assert os.fstat(opened).st_ino == numbers[name], name
        assert name != "file" or os.read(opened, 100) == b"file"
        os.close(opened)
        forget_names()
    for name in ("removed", "reused"):
        expect_errno(errno.ESTALE, open_handle, handles[name], mountpoint)


if __name__ == "__main__":
    main()
