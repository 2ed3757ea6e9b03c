#!/usr/bin/env python3
"""Images and arguments that must be refused, or survived: bad_images.py SCRATCH

A mount that cannot be is status 32 and a message. Damage met later is an error for the caller; the server goes on. No
image ends the server by a signal, and none makes it hang.
"""
import contextlib
import errno
import fcntl
import os
import random
import shutil
import subprocess
import threading

from harness import JEXT4, NOBODY, SEED, SYSTEM, Mount, MountFailed, attempt, check, main, make_image, \
    missing_root, missing_server, missing_tool, mounted, pick, take_down
from imageedit import Image

# What damage is called. The kernel has other names too.
DAMAGE = {errno.EUCLEAN} if SYSTEM == "jext4" else {errno.EUCLEAN, errno.EIO, errno.EBADMSG}


def base_image(scratch):
    """A small volume with a little of everything; made once, copied for each case."""
    path = os.path.join(scratch, "base")
    if not os.path.exists(path):
        source = os.path.join(scratch, "source")
        os.makedirs(f"{source}/dir/deep")
        for number in range(60):
            with open(f"{source}/dir/file-{number}", "wb") as file:
                file.write(bytes([number]) * 5_000)
        with open(f"{source}/large", "wb") as file:
            for number in range(0, 200):
                file.seek(number * 20_000)
                file.write(b"extent" * 100)
        os.symlink("dir", f"{source}/link")
        make_image(path, "16M", "-b", "1024", "-d", source)
    return path


def damaged(scratch, edit):
    image = os.path.join(scratch, "image")
    shutil.copy(base_image(scratch), image)
    edit(image)
    return image


def expect_refusal(image, directory, options="", status=32):
    """The mount must fail with this status and say something."""
    try:
        mount = Mount(image, directory, options, timeout=20)
    except MountFailed as failure:
        assert failure.status == status, f"status {failure.status}, expected {status}: {failure.output[-500:]}"
        assert failure.output.strip(), "no message"
        assert "Fatal error" not in failure.output, failure.output[-500:]
        return failure.output
    take_down(mount)
    raise AssertionError("it was mounted")


def walk(directory, limit=5_000):
    """Looks at everything below; answers the errnos that were met. Bounded, as the tree may contain itself."""
    met, waiting, seen = set(), [directory], 0
    while waiting and seen < limit:
        path = waiting.pop()
        seen += 1
        try:
            if os.path.islink(path):
                os.readlink(path)
            elif os.path.isdir(path):
                waiting.extend(os.path.join(path, name) for name in os.listdir(path))
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    while file.read(1 << 20):
                        if file.tell() > 64 << 20:
                            break
            else:
                os.lstat(path)
            os.listxattr(path, follow_symlinks=False)
        except OSError as error:
            met.add(error.errno)
    return met


def expect_survival(image, directory, seconds=30):
    """Refused with 32 and a message, or mounted and still answering after a walk; answers the errnos met."""
    try:
        mount = Mount(image, directory, timeout=20)
    except MountFailed as failure:
        assert failure.status == 32 and failure.output.strip(), f"status {failure.status}: {failure.output[-800:]}"
        return {"refused"}
    timer = threading.Timer(seconds, lambda: take_down(mount))
    timer.start()
    try:
        met = walk(directory)
        with contextlib.suppress(OSError):
            with open(f"{directory}/dir/written-later", "wb") as file:
                file.write(b"x" * 3_000)
            os.rename(f"{directory}/dir/file-7", f"{directory}/moved")
            os.unlink(f"{directory}/large")
        # A server that died answers nothing but ENOTCONN.
        with contextlib.suppress(PermissionError):
            os.lstat(directory)
        assert errno.ENOTCONN not in met, "the server died: " + (mount.output()[-800:] if mount.process else "")
        assert timer.is_alive(), f"no end in {seconds} s"
        if mount.process is not None:
            assert mount.process.poll() is None, f"the server ended: {mount.process.poll()}: {mount.output()[-800:]}"
            subprocess.run([JEXT4, "umount", directory], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           timeout=seconds, check=False)
            status = mount.process.wait(seconds)
            assert status >= 0 and status not in (132, 133, 134, 139), f"ended by signal {-status}"
    finally:
        timer.cancel()
        take_down(mount)
    return met


def edit_super(offset, value, layout="<I", checksum=True):
    def edit(path):
        with Image(path) as image:
            image.set_super(offset, value, layout, checksum)
    return edit


def overwrite(offset, data):
    def edit(path):
        with Image(path) as image:
            image.write(offset, data)
    return edit


REFUSED = {
    "an empty file": lambda path: os.truncate(path, 0),
    "a file of zeros": overwrite(0, bytes(16 << 20)),
    "a file of random bytes": overwrite(0, random.Random(SEED).randbytes(16 << 20)),
    "an image cut in half": lambda path: os.truncate(path, 8 << 20),
    "an image cut after the super block": lambda path: os.truncate(path, 2048),
    "an image cut inside the super block": lambda path: os.truncate(path, 1500),
    "a wrong magic number": edit_super(0x38, 0xEF54, "<H"),
    "a super block whose checksum is wrong": edit_super(0x78, 0x41, "B", checksum=False),
    "a journal inode past the last inode": edit_super(0xE0, 0xFFFF_FFF0),
    "a journal inode that is the root directory": edit_super(0xE0, 2),
    "a journal inode of 0": edit_super(0xE0, 0),
    "more blocks than the device has": edit_super(0x4, 1 << 30),
    "more blocks than 48 bits": edit_super(0x150, 0xFFFF_FFFF),
    "no block at all": edit_super(0x4, 0),
    "a block size of 2^50": edit_super(0x18, 40),
    "no inode in a group": edit_super(0x28, 0),
    "2^32 - 1 inodes in a group": edit_super(0x28, 0xFFFF_FFFF),
    "no block in a group": edit_super(0x20, 0),
    "more blocks in a group than a bitmap has bits": edit_super(0x20, 1 << 20),
    "inodes of 100 bytes": edit_super(0x58, 100, "<H"),
    "inodes of 32,768 bytes": edit_super(0x58, 32_768, "<H"),
    "group descriptors of 9 bytes": edit_super(0xFE, 9, "<H"),
    "a first data block past the end": edit_super(0x14, 0x7FFF_FFFF),
    "an incompatible feature that nobody knows": edit_super(0x60, 0x8000_02C2),
    "revision 77": edit_super(0x4C, 77),
}


@check("what is no ext4 volume is refused with status 32 and a message", need=missing_root)
def refused(scratch):
    directory = os.path.join(scratch, "mnt")
    failed = []
    # The kernel heals or overlooks some of these; here they are for jext4.
    lenient = {"a journal inode of 0", "revision 77", "no block at all"} if SYSTEM == "kernel" else set()
    for name, edit in REFUSED.items():
        if name not in lenient and not attempt(f"refused: {name}",
                                               lambda edit=edit: expect_refusal(damaged(scratch, edit), directory)):
            failed.append(name)
    assert not failed, ", ".join(failed)


def debugfs(*requests):
    def edit(path):
        done = subprocess.run(["debugfs", "-w", "-f", "/dev/stdin", path], input="\n".join(requests).encode(),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
        output = done.stdout.decode(errors="replace")
        assert "not found" not in output and "Usage" not in output and "unknown" not in output.lower(), output
    return edit


def descriptor(group, offset, value):
    def edit(path):
        with Image(path) as image:
            image.set_descriptor(group, offset, value)
    return edit


# What each must meet on a walk, if it is not refused at once. Inode 2 is the root; a file's i_block words are: header
# (magic 0xF30A and entries, maximum and depth, generation), then per extent: first block, length and high bits, low
# bits.
DAMAGED = {
    "a block bitmap past the end": (descriptor(0, 0x0, 0x7FFF_FFFF), None),
    "an inode bitmap inside the inode table": (descriptor(0, 0x4, 300), None),
    "an inode table past the end": (descriptor(0, 0x8, 0x7FFF_0000), {"refused"} | DAMAGE),
    "the root directory's block past the end": (debugfs("sif <2> block[5] 0x7fffffff"), {"refused"} | DAMAGE),
    "a root directory that is a regular file": (debugfs("sif <2> mode 0100644"), {"refused"} | DAMAGE),
    "a file's block past the end": (debugfs("sif dir/file-3 block[5] 0x7fffffff"), DAMAGE),
    "a file's blocks in the super block": (debugfs("sif dir/file-3 block[5] 1"), None),
    "an extent tree of depth 6": (debugfs("sif large block[1] 0x00060004"), DAMAGE),
    "more extents than there is room for": (debugfs("sif dir/file-3 block[0] 0x7ffff30a"), DAMAGE),
    "an extent node that is its own parent": (debugfs("sif large block[4] 8193"), DAMAGE),
    "a file of 2^63 bytes": (debugfs("sif dir/file-3 size_high 0x7fffffff"), None),
    "a symbolic link of 2^31 bytes": (debugfs("sif link size 0x7fffffff"), None),
    "a directory that contains itself": (debugfs("ln dir dir/deep/again"), None),
    "an entry for an inode that is free": (debugfs("ln <3000> dir/free"), None),
    "an entry for the journal": (debugfs("ln <8> dir/journal"), None),
    "a link count of 0": (debugfs("sif dir/file-3 links_count 0"), None),
    "an inode with a wrong checksum": (debugfs("sif dir/file-3 checksum 0x1234"), DAMAGE),
    "an attribute block past the end": (debugfs("sif dir/file-3 file_acl 0x7fffffff"), DAMAGE),
}


@check("damage met later is EUCLEAN, and the server goes on", need=missing_root)
def survived(scratch):
    directory = os.path.join(scratch, "mnt")

    def survive(edit, expected):
        met = expect_survival(damaged(scratch, edit), directory)
        assert expected is None or met & expected, f"met {sorted(map(str, met))}, expected one of {expected}"
    failed = [name for name, (edit, expected) in DAMAGED.items()
              if not attempt(f"survived: {name}", survive, edit, expected)]
    assert not failed, ", ".join(failed)


@check("random damage to metadata neither ends the server nor makes it hang",
       need=lambda: missing_root() or missing_server())
def random_damage(scratch):
    directory, failed = os.path.join(scratch, "mnt"), []
    for seed in range(SEED, SEED + pick(25, 300, 2_000)):
        choose = random.Random(seed)

        def edit(path, choose=choose):
            with Image(path) as image:
                for _ in range(choose.choice([1, 10, 200])):
                    # The first mebibyte holds descriptors, bitmaps, inodes and directories; the journal comes after.
                    at = choose.randrange(2048, choose.choice([1 << 20, 4 << 20]))
                    image.write(at, choose.randbytes(choose.choice([1, 4, 64])))
                if choose.random() < 0.5:
                    image.set_super(0x64, 0x1)  # Without metadata_csum nothing but our own checks stands in the way.
        try:
            expect_survival(damaged(scratch, edit), directory)
        except Exception as error:
            failed.append(f"seed {seed}: {error}")
    assert not failed, "; ".join(failed[:5])


@check("an image that is mounted is not mounted twice", need=lambda: missing_root() or missing_server())
def mounted_twice(scratch):
    image = damaged(scratch, lambda path: None)
    with mounted(image, os.path.join(scratch, "mnt")):
        output = expect_refusal(image, os.path.join(scratch, "other"))
        assert image in output or os.path.basename(image) in output, output


@check("a directory that is none, and an image that is none, are refused by name",
       need=lambda: missing_root() or missing_server())
def bad_arguments(scratch):
    image = damaged(scratch, lambda path: None)
    file = os.path.join(scratch, "a-file")
    open(file, "wb").close()
    for name, source, target in [("a-file", image, file), ("absent-dir", image, os.path.join(scratch, "absent-dir")),
                                 ("absent-image", os.path.join(scratch, "absent-image"), os.path.join(scratch, "mnt")),
                                 ("mnt", os.path.join(scratch, "mnt"), os.path.join(scratch, "mnt"))]:
        os.makedirs(os.path.join(scratch, "mnt"), exist_ok=True)
        done = subprocess.run([JEXT4, "mount", source, target], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=30, check=False)
        output = done.stdout.decode(errors="replace")
        assert done.returncode == 32 and name in output, f"{name}: status {done.returncode}: {output}"


@check("without the right to open /dev/fuse the mount is refused with a message that names it",
       need=lambda: missing_root() or missing_server() or missing_tool("unshare", "setpriv")())
def no_permission(scratch):
    image = damaged(scratch, lambda path: os.chmod(path, 0o666))
    for name in ("jext4", "guard"):
        shutil.copy(JEXT4, os.path.join(scratch, name))
    os.chmod(os.path.join(scratch, "jext4"), 0o755)
    os.chmod(os.path.join(scratch, "guard"), 0o600)
    directory = os.path.join(scratch, "mine")
    os.makedirs(directory, exist_ok=True)
    os.chown(directory, NOBODY, NOBODY)
    # In a mount namespace of its own, something that nobody may open stands in the place of /dev/fuse.
    script = (f"mount --bind '{scratch}/guard' /dev/fuse && exec setpriv --reuid {NOBODY} --regid {NOBODY} "
              f"--clear-groups '{scratch}/jext4' mount '{image}' '{directory}'")
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=30, check=False)
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 32 and "/dev/fuse" in output, f"status {done.returncode}: {output}"


def has_iomap():
    """FUSE_DEV_IOC_IOMAP_SUPPORT."""
    try:
        with open("/dev/fuse", "rb") as device:
            fcntl.ioctl(device, 0x8010E563, bytes(16))
        return True
    except OSError:
        return False


@check("-o iomap is refused by name where the kernel has no fuse-iomap",
       need=lambda: missing_root() or missing_server() or ("a kernel without fuse-iomap" if has_iomap() else None))
def without_iomap(scratch):
    directory = os.path.join(scratch, "mnt")
    image = damaged(scratch, lambda path: None)
    assert "'iomap'" in expect_refusal(image, directory, "iomap")
    with mounted(image, directory, "noiomap"):
        assert os.path.isdir(os.path.join(directory, "lost+found"))


if __name__ == "__main__":
    main("SCRATCH")
