#!/usr/bin/env python3
"""The command: mount, umount, sync, status, read-only, and what the image holds meanwhile: mounting.py SCRATCH"""
import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import time

import treedigest
from harness import JEXT4, NOBODY, Mount, check, expect_clean, expect_errno, is_mounted, kernel_mount, main, \
    make_image, missing_root, missing_server, missing_tool, mounted, run, take_down, wait_until


def needs():
    return missing_root() or missing_server()


def paths(scratch):
    return os.path.join(scratch, "image"), os.path.join(scratch, "mnt")


def write(path, text="text\n"):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def needs_recovery(image):
    return "needs_recovery" in run("dumpe2fs", "-h", image)


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


@check("a user without root mounts, syncs and unmounts through fusermount3",
       need=lambda: needs() or missing_tool("fusermount3", "unshare", "setpriv")())
def without_root(scratch):
    image = make_image(os.path.join(scratch, "image"), "64M", "-E", f"root_owner={NOBODY}:{NOBODY}")
    directory, program = os.path.join(scratch, "mine"), os.path.join(scratch, "jext4")
    os.makedirs(directory, exist_ok=True)
    shutil.copy(JEXT4, program)
    os.chmod(program, 0o755)
    for path in (image, directory):
        os.chown(path, NOBODY, NOBODY)
    # In a mount namespace of its own everybody may open /dev/fuse, as on most machines.
    device = os.path.join(scratch, "fuse")
    if not os.path.exists(device):
        os.mknod(device, stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
    os.chmod(device, 0o666)
    script = f"""set -e
        mount --bind '{device}' /dev/fuse
        cat > '{scratch}/steps' <<'STEPS'
            set -e
            '{program}' mount '{image}' '{directory}'
            mkdir '{directory}/dir'; echo text > '{directory}/dir/file'
            '{program}' sync '{directory}'
            cp '{image}' '{directory}.cut'
            '{program}' umount '{directory}'
            cp '{image}' '{directory}.now'
STEPS
        chmod 777 '{scratch}'
        exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups sh '{scratch}/steps'"""
    run("unshare", "-m", "sh", "-c", script, timeout=60)
    assert not needs_recovery(directory + ".now"), "jext4 umount returned too early"
    run("e2fsck", "-fy", "-E", "journal_only", directory + ".cut", status=None)
    for copy in (directory + ".now", directory + ".cut"):
        expect_clean(copy)
        with kernel_mount(copy, directory):
            assert os.listdir(f"{directory}/dir") == ["file"], copy


if __name__ == "__main__":
    main("SCRATCH")
