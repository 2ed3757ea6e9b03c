#!/usr/bin/env python3
"""The command: mount, umount, sync, status, read-only, and what the image holds meanwhile: mounting.py SCRATCH"""
import contextlib
import errno
import fcntl
import json
import os
import resource
import shutil
import stat
import subprocess
import threading
import time

import treedigest
from harness import JEXT4, NOBODY, Mount, check, expect_clean, expect_errno, is_mounted, kernel_mount, main, \
    make_image, missing_root, missing_server, missing_tool, mounted, needs_recovery, run, sha256, take_down, wait_until


def needs():
    return missing_root() or missing_server()


def paths(scratch):
    return os.path.join(scratch, "image"), os.path.join(scratch, "mnt")


def write(path, text="text\n"):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


@check("jext4 mount returns when the volume is there, jext4 umount when everything is on the image", need=needs)
def background(scratch):
    image, directory = paths(scratch)
    make_image(image, "64M")
    os.makedirs(directory, exist_ok=True)
    run(JEXT4, "mount", image, directory, timeout=30)
    assert is_mounted(directory) and os.listdir(directory) == ["lost+found"]
    for number in range(500):
        write(f"{directory}/{number}")
    assert needs_recovery(image), "a mounted volume is marked"
    run(JEXT4, "umount", directory, timeout=30)
    shutil.copy(image, image + ".now")
    assert not is_mounted(directory)
    assert not needs_recovery(image + ".now"), "jext4 umount returned too early"
    expect_clean(image + ".now")
    with kernel_mount(image + ".now", directory):
        assert len(os.listdir(directory)) == 501


@check("umount(8) as root waits for everything to be on the image", need=needs)
def plain_umount(scratch):
    image, directory = paths(scratch)
    make_image(image, "64M")
    mount = Mount(image, directory)
    for number in range(500):
        write(f"{directory}/{number}")
    run("umount", directory)
    shutil.copy(image, image + ".now")
    assert mount.process.wait(20) == 0, mount.output()
    assert not needs_recovery(image + ".now"), "umount returned before the server was done"
    expect_clean(image + ".now")


@check("SIGTERM ends the server with a clean image", need=needs)
def terminated(scratch):
    image, directory = paths(scratch)
    make_image(image, "64M")
    mount = Mount(image, directory)
    write(f"{directory}/file")
    mount.process.terminate()
    assert mount.process.wait(20) == 0, mount.output()
    wait_until(lambda: not is_mounted(directory), "still mounted")
    expect_clean(image)


@check("a read-only mount changes neither the tree nor one byte of the image", need=missing_root)
def read_only(scratch):
    image, directory = paths(scratch)
    make_image(image, "64M")
    with kernel_mount(image, directory, "rw"):
        write(f"{directory}/file")
    before = sha256(image)
    with mounted(image, directory, "ro"):
        assert os.listdir(directory).count("file") == 1
        expect_errno(errno.EROFS, write, f"{directory}/other")
        expect_errno(errno.EROFS, os.unlink, f"{directory}/file")
        expect_errno(errno.EROFS, os.utime, f"{directory}/file")
        expect_errno(errno.EROFS, os.mkdir, f"{directory}/dir")
        with open(f"{directory}/file", encoding="ascii") as file:
            assert file.read() == "text\n"
    assert sha256(image) == before, "the image changed"


def cut(scratch):
    """An image as a power cut leaves it: copied while mounted, after an fsync."""
    image, directory = paths(scratch)
    make_image(image, "64M")
    mount = Mount(image, directory, "commit=600")
    try:
        os.mkdir(f"{directory}/dir")
        for number in range(100):
            write(f"{directory}/dir/{number}", f"{number}\n" * 100)
        write(f"{directory}/file", "synced\n")
        os.rename(f"{directory}/dir/7", f"{directory}/seven")
        with open(f"{directory}/file", "rb") as file:
            os.fsync(file.fileno())
        handle = os.open(f"{directory}/dir", os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
        shutil.copy(image, image + ".cut")
    finally:
        take_down(mount)
    assert needs_recovery(image + ".cut")
    return image + ".cut", directory


def names(directory):
    return sorted(os.listdir(directory)), sorted(os.listdir(f"{directory}/dir"))


EXPECTED = (sorted(["dir", "file", "lost+found", "seven"]), sorted(str(number) for number in range(100) if number != 7))


@check("after a power cut jext4, jext4-replay, the kernel and e2fsck recover the same tree, with all that was synced",
       need=needs)
def two_way(scratch):
    image, directory = cut(scratch)
    trees = []
    for by in ["kernel", "e2fsck", "jext4", "jext4-replay"]:
        copy = f"{image}.{by}"
        shutil.copy(image, copy)
        if by == "kernel":
            with kernel_mount(copy, directory, "rw"):
                pass
        elif by == "e2fsck":
            run("e2fsck", "-fy", "-E", "journal_only", copy, status=None)
        elif by == "jext4-replay":
            run(os.path.join(os.path.dirname(JEXT4), "jext4-replay"), "apply", copy, status=1)
        else:
            with mounted(copy, directory):
                assert names(directory) == EXPECTED, names(directory)
        expect_clean(copy)
        with kernel_mount(copy, directory):
            assert names(directory) == EXPECTED, f"{by}: {names(directory)}"
            with open(f"{directory}/file", encoding="ascii") as file:
                assert file.read() == "synced\n", by
            trees.append(treedigest.tree(directory))
    for other in trees[1:]:
        lines = treedigest.differences(trees[0], other)
        assert not lines, "\n".join(lines)


@check("a read-only mount of a dirty image shows the replayed tree and writes nothing", need=needs)
def read_only_dirty(scratch):
    image, directory = cut(scratch)
    before = sha256(image)
    with mounted(image, directory, "ro"):
        assert names(directory) == EXPECTED, names(directory)
    assert sha256(image) == before, "the image changed"


@check("sync(1) -f and jext4 sync put on the image what was done before", need=needs)
def synced(scratch):
    image, directory = paths(scratch)
    for command in (["sync", "-f", directory], [JEXT4, "sync", directory]):
        make_image(image, "64M")
        mount = Mount(image, directory, "commit=600")
        try:
            for number in range(50):
                write(f"{directory}/{number}", "s" * 10_000)
            run(*command, timeout=30)
            shutil.copy(image, image + ".cut")
        finally:
            take_down(mount)
        run("e2fsck", "-fy", "-E", "journal_only", image + ".cut", status=None)
        expect_clean(image + ".cut")
        with kernel_mount(image + ".cut", directory):
            for number in range(50):
                with open(f"{directory}/{number}", encoding="ascii") as file:
                    assert file.read() == "s" * 10_000, f"{command}: {number}"


@check("what is to be synchronous is committed when its call returns: sync, dirsync, chattr +S and +D", need=needs)
def synchronous(scratch):
    image, directory = paths(scratch)
    make_image(image, "64M")

    def commits():
        return json.loads(run(JEXT4, "status", directory, "--json"))["journal_transactions"]

    def expect_commit(wanted, function, *arguments):
        before = commits()
        function(*arguments)
        assert (commits() > before) == wanted, f"{function.__name__}: {'no ' if wanted else 'a '}commit"

    for options, data, folders in [("", False, False), ("dirsync", False, True), ("sync", True, True),
                                   ("sync,async", False, False)]:
        with mounted(image, directory, f"{options},commit=600"):
            shown = run("findmnt", "-no", "OPTIONS", directory).strip().split(",")
            assert ("sync" in shown) == data and ("dirsync" in shown) == (options == "dirsync"), shown
            expect_commit(folders, os.mkdir, f"{directory}/made")
            expect_commit(folders, os.rename, f"{directory}/made", f"{directory}/moved")
            expect_commit(folders, os.rmdir, f"{directory}/moved")
            with open(f"{directory}/file", "wb", buffering=0) as file:
                expect_commit(data, file.write, b"data")
    with mounted(image, directory, "commit=600"):
        os.mkdir(f"{directory}/dir")
        run("chattr", "+D", f"{directory}/dir")
        run("chattr", "+S", f"{directory}/file")
        expect_commit(True, os.mkdir, f"{directory}/dir/made")
        expect_commit(False, os.mkdir, f"{directory}/made")
        with open(f"{directory}/file", "r+b", buffering=0) as file:
            expect_commit(True, file.write, b"more data")
            expect_commit(True, file.truncate, 3)
    expect_clean(image)


@check("an append-only file takes what was opened to append, and nothing else", need=needs)
def append_only(scratch):
    image, directory = paths(scratch)
    make_image(image, "32M")
    with mounted(image, directory):
        write(f"{directory}/log", "0123456789")
        run("chattr", "+a", f"{directory}/log")
        file = os.open(f"{directory}/log", os.O_WRONLY)
        for offset in (0, 10, 100):
            expect_errno(errno.EPERM, os.pwrite, file, b"x", offset)
        os.close(file)
        with open(f"{directory}/log", "ab") as file:
            file.write(b"and more")
        assert os.stat(f"{directory}/log").st_size == 18
    expect_clean(image)


@check("what a background mount has to say comes to standard error until it answers", need=needs)
def warnings(scratch):
    image, directory = paths(scratch)
    make_image(image, "32M")
    os.makedirs(directory, exist_ok=True)
    run("debugfs", "-w", "-R", "ssv state 3", image)
    said = run(JEXT4, "mount", image, directory, timeout=30)
    run(JEXT4, "umount", directory, timeout=30)
    assert "e2fsck is recommended" in said, said
    said = run(JEXT4, "mount", image + ".absent", directory, status=32)
    assert os.strerror(errno.ENOENT) in said, said


@check("lockfile= is there for as long as the mount, also by a relative name", need=needs)
def lock_file(scratch):
    image, directory = paths(scratch)
    make_image(image, "32M")
    os.makedirs(directory, exist_ok=True)
    for name in ("lock", os.path.join(scratch, "lock")):
        run(JEXT4, "mount", "-o", f"lockfile={name}", image, directory, timeout=30, cwd=scratch)
        assert os.path.exists(f"{scratch}/lock")
        run(JEXT4, "umount", directory, timeout=30)
        assert not os.path.exists(f"{scratch}/lock"), f"{name} was left behind"


@check("a server without a free descriptor answers when it has one again", need=needs)
def out_of_descriptors(scratch):
    image, directory = paths(scratch)
    make_image(image, "32M")
    with mounted(image, directory) as mount:
        server = mount.process.pid
        usual = resource.prlimit(server, resource.RLIMIT_NOFILE)
        resource.prlimit(server, resource.RLIMIT_NOFILE, (0, usual[1]))
        # It has one for this client, since it began to wait for one.
        run(JEXT4, "status", directory)
        with subprocess.Popen([JEXT4, "status", directory], stdout=subprocess.DEVNULL) as client:
            time.sleep(0.5)
            answered = client.poll()
            resource.prlimit(server, resource.RLIMIT_NOFILE, usual)
            try:
                assert answered is None and client.wait(10) == 0
            finally:
                client.kill()


@check("reading moves access times as noatime, nodiratime and O_NOATIME say", need=missing_root)
def access_times(scratch):
    image, directory = paths(scratch)
    make_image(image, "32M")
    names = [f"{directory}/{kind}{way}" for kind in ("file", "dir") for way in ("", "-quiet")]

    def look(name):
        opened = os.open(name, os.O_RDONLY | (os.O_NOATIME if name.endswith("quiet") else 0))
        if "/dir" in name:
            os.listdir(opened)
        else:
            os.read(opened, 10)
        os.close(opened)
    for words, moving in [("relatime", {"file", "dir"}), ("nodiratime", {"file"}), ("noatime", set())]:
        with mounted(image, directory):
            for name in names:
                if "/dir" in name:
                    os.makedirs(name, exist_ok=True)
                else:
                    write(name)
                os.utime(name, (1000, 2000))
        with mounted(image, directory, words):
            for name in names:
                look(name)
            moved = {os.path.basename(name) for name in names if os.stat(name).st_atime != 1000}
        assert moved == moving, f"{words}: {moved}"


@check("with noacl access lists are neither inherited nor changed, and the umask counts",
       need=lambda: needs() or missing_tool("setfacl")())
def no_access_lists(scratch):
    image, directory = paths(scratch)
    make_image(image, "32M")
    with mounted(image, directory):
        write(f"{directory}/file")
        os.mkdir(f"{directory}/dir")
        run("setfacl", "-m", f"u:{NOBODY}:rwx", f"{directory}/file")
        run("setfacl", "-d", "-m", f"u:{NOBODY}:rwx,g::rwx,o::rwx", f"{directory}/dir")
        before = os.getxattr(f"{directory}/file", "system.posix_acl_access")
    with mounted(image, directory, "noacl"):
        os.chmod(f"{directory}/file", 0o600)
        old = os.umask(0o077)
        try:
            os.mkdir(f"{directory}/dir/dir")
            write(f"{directory}/dir/file")
        finally:
            os.umask(old)
    with kernel_mount(image, directory):
        assert os.getxattr(f"{directory}/file", "system.posix_acl_access") == before
        for name, mode in [("file", 0o600), ("dir", 0o700)]:
            path = f"{directory}/dir/{name}"
            assert stat.S_IMODE(os.stat(path).st_mode) == mode, f"{name}: {oct(os.stat(path).st_mode)}"
            assert os.listxattr(path) == [], name


@check("an image file is mounted read-only more than once, and not for writing then", need=needs)
def read_only_twice(scratch):
    image, directory = paths(scratch)
    make_image(image, "32M")
    with mounted(image, directory):
        write(f"{directory}/file")
    with mounted(image, directory, "ro"), mounted(image, directory + "2", "ro"):
        assert os.listdir(directory) == os.listdir(directory + "2")
        os.makedirs(directory + "3", exist_ok=True)
        run(JEXT4, "mount", image, directory + "3", status=32)


@check("the commit interval bounds what is lost without any sync", need=needs)
def interval(scratch):
    image, directory = paths(scratch)
    make_image(image, "64M")
    mount = Mount(image, directory, "commit=1")
    try:
        os.mkdir(f"{directory}/made")
        time.sleep(3)
        shutil.copy(image, image + ".cut")
    finally:
        take_down(mount)
    run("e2fsck", "-fy", "-E", "journal_only", image + ".cut", status=None)
    with kernel_mount(image + ".cut", directory):
        assert "made" in os.listdir(directory)


@check("status says what is mounted, for people and as JSON Lines", need=needs)
def status(scratch):
    image, directory = paths(scratch)
    make_image(image, "64M")
    with mounted(image, directory):
        for number in range(5):
            with open(f"{directory}/{number}", "wb") as file:
                file.write(b"text")
                file.flush()
                os.fsync(file.fileno())
        text = run(JEXT4, "status", directory)
        lines = run(JEXT4, "status", directory, "--json").splitlines()
        assert len(lines) == 1, lines
        fields = json.loads(lines[0])
        assert list(fields) == [line.split(":")[0] for line in text.splitlines()], text
        assert fields["read_only"] is False and fields["shut_down"] is False and fields["errors"] == 0
        assert fields["journal_transactions"] >= fields["journal_requested"] == 5, fields
        assert fields["journal_logged_blocks_per_transaction"] > fields["journal_blocks_per_transaction"] > 0
        assert fields["journal_commit_us"] >= fields["journal_logging_us"] > 0


@check("mount.jext4, as mount(8) calls it, mounts with the options of fstab", need=needs)
def mount_helper(scratch):
    image, directory = paths(scratch)
    make_image(image, "64M")
    os.makedirs(directory, exist_ok=True)
    helper = os.path.join(scratch, "mount.jext4")
    if not os.path.lexists(helper):
        os.symlink(JEXT4, helper)
    run(helper, image, directory, "-o", "rw,noatime,_netdev,nofail", timeout=30)
    assert is_mounted(directory)
    write(f"{directory}/file")
    run(JEXT4, "umount", directory, timeout=30)
    expect_clean(image)


@check("offset= mounts a volume inside a larger image", need=needs)
def offset(scratch):
    image, directory = paths(scratch)
    make_image(image, "32M")
    whole, before = image + ".disk", 1 << 20
    with open(whole, "wb") as disk, open(image, "rb") as volume:
        disk.seek(before)
        shutil.copyfileobj(volume, disk)
    with mounted(whole, directory, f"offset={before}"):
        write(f"{directory}/inside")
    with open(whole, "rb") as disk:
        assert disk.read(before) == bytes(before), "written before the volume"
        with open(image, "wb") as volume:
            shutil.copyfileobj(disk, volume)
    expect_clean(image)
    with kernel_mount(image, directory):
        assert "inside" in os.listdir(directory)


@contextlib.contextmanager
def loop_device(file, *options):
    """A block device that is the file, for as long as the block lasts."""
    loop = run("losetup", *options, "-f", "--show", file).strip()
    try:
        yield loop
    finally:
        subprocess.run(["losetup", "-d", loop], check=False)


@check("a block device is mounted like a file", need=needs)
def block_device(scratch):
    image, directory = paths(scratch)
    make_image(image, "64M")
    with loop_device(image) as loop:
        with mounted(loop, directory):
            write(f"{directory}/file")
        expect_clean(loop)


@check("a disk that udev looks at for a moment is mounted after that", need=needs)
def device_locked(scratch):
    image, directory = paths(scratch)
    make_image(image, "32M")
    with loop_device(image) as loop, open(loop, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        timer = threading.Timer(0.5, fcntl.flock, (other, fcntl.LOCK_UN))
        timer.start()
        try:
            with mounted(loop, directory):
                write(f"{directory}/file")
        finally:
            timer.join()


@check("blocks of 1 KiB in a file on a disk with sectors of 4 KiB", need=needs)
def large_sectors(scratch):
    # Direct I/O to such a file takes 4 KiB at a time, and the volume's blocks begin anywhere.
    disk, host = os.path.join(scratch, "disk"), os.path.join(scratch, "host")
    image, directory = os.path.join(host, "image"), os.path.join(scratch, "mnt")
    os.makedirs(host, exist_ok=True)
    with open(disk, "wb") as file:
        file.truncate(512 << 20)
    with loop_device(disk, "--sector-size", "4096") as loop:
        run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", loop)
        run("mount", "-t", "ext4", loop, host)
        try:
            make_image(image, "256M", "-b", "1024")
            content = [os.urandom(3_000_001) for _ in range(4)]
            with mounted(image, directory):
                for number, data in enumerate(content):
                    with open(f"{directory}/{number}", "wb") as file:
                        file.write(data)
            # What is in memory would be read from there.
            run("sync")
            with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
                file.write("3\n")
            with mounted(image, directory):
                for number, data in enumerate(content):
                    # The server reads what it copies by itself; the kernel would read again what fails, page by page.
                    run("cp", f"{directory}/{number}", f"{directory}/copy")
                    with open(f"{directory}/copy", "rb") as file:
                        assert file.read() == data
            expect_clean(image)
        finally:
            run("umount", host)


if __name__ == "__main__":
    main("SCRATCH")
