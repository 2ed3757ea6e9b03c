#!/usr/bin/env python3
"""Fast commits that Linux wrote, replayed by jext4: fast_commits.py SCRATCH

Linux works on a fast_commit volume and fsyncs; what is on its device at that moment, as after a power cut, is copied.
jext4 recovers the copy, and then everything that was synced is there, as Linux saw it: e2fsck has nothing to say, and
the kernel sees the tree (P1, P2, P4). Linux's own replay and e2fsck's get several of these wrong, so neither is asked.
"""
import os
import random
import shutil
import subprocess

import treedigest
from harness import JEXT4, SEED, attempt, check, expect_clean, kernel_mount, main, make_image, missing_root, mounted, \
    run

REPLAY = os.path.join(os.path.dirname(JEXT4), "jext4-replay")
# A directory that has grown is built anew from its names: it need not have as many blocks. Linux logs its times only
# when it is itself synced.
DIRECTORY_FIELDS = ("size", "mtime_ns")


def sync(path):
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    os.fsync(handle)
    os.close(handle)


def write(path, data, at=None, flags=os.O_CREAT | os.O_WRONLY, durable=True):
    handle = os.open(path, flags, 0o644)
    if at is None:
        os.write(handle, data)
    else:
        os.pwrite(handle, data, at)
    if durable:
        os.fsync(handle)
    os.close(handle)


def data(seed, size):
    return random.Random(f"{SEED}/{seed}").randbytes(size)


def create(base):
    for number in range(20):
        write(f"{base}/new-{number}", data(number, number * 777))


def make_directories(base):
    for number in range(10):
        os.makedirs(f"{base}/a{number}/b/c")
        write(f"{base}/a{number}/b/c/file", data(number, 100))


def deep_tree(base):
    path = base
    for number in range(40):
        path += f"/level-{number}"
        os.mkdir(path)
    write(path + "/bottom", b"here")


def rename_within(base):
    os.rename(f"{base}/old-0", f"{base}/renamed-0")
    os.rename(f"{base}/old-1", f"{base}/renamed-1")
    sync(f"{base}/renamed-1")


def rename_across(base):
    os.mkdir(f"{base}/there")
    os.rename(f"{base}/old-0", f"{base}/there/moved")
    os.rename(f"{base}/dir/inside", f"{base}/outside")
    sync(f"{base}/there/moved")


def rename_over(base):
    os.rename(f"{base}/old-0", f"{base}/old-1")
    write(f"{base}/fresh", data(1, 5_000))
    os.rename(f"{base}/fresh", f"{base}/old-2")
    sync(f"{base}/old-2")


def link(base):
    for number in range(5):
        os.link(f"{base}/old-{number}", f"{base}/dir/link-{number}")
    os.link(f"{base}/old-0", f"{base}/another")
    sync(f"{base}/old-0")


def unlink(base):
    os.link(f"{base}/old-3", f"{base}/kept")
    for number in range(6):
        os.unlink(f"{base}/old-{number}")
    write(f"{base}/witness", b"w")


def unlink_and_reuse(base):
    """The inode number of what is removed goes to what is made next, also to another type."""
    for number in range(5):
        os.unlink(f"{base}/old-{number}")
        sync(base)
        write(f"{base}/reused-{number}", data(number, 9_000))
    os.rmdir(f"{base}/empty")
    write(f"{base}/was-a-directory", data(7, 3_000))
    os.unlink(f"{base}/old-5")
    os.mkdir(f"{base}/was-a-file")
    write(f"{base}/was-a-file/x", b"x")


def short_lived(base):
    for number in range(8):
        write(f"{base}/short-lived", data(number, 20_000))
        os.unlink(f"{base}/short-lived")
    os.mkdir(f"{base}/gone")
    write(f"{base}/gone/x", b"x")
    os.unlink(f"{base}/gone/x")
    os.rmdir(f"{base}/gone")
    write(f"{base}/witness", b"w")


def truncate(base):
    for number, size in enumerate((0, 1, 4_096, 5_000, 200_000)):
        os.truncate(f"{base}/old-{number}", size)
        sync(f"{base}/old-{number}")
    os.truncate(f"{base}/old-0", 0)
    write(f"{base}/old-0", data(1, 12_000))
    os.truncate(f"{base}/large", 1_000_001)
    sync(f"{base}/large")


def grow_directory(base):
    """More names than a block holds: the directory becomes an index."""
    os.mkdir(f"{base}/growing")
    for number in range(600):
        write(f"{base}/growing/a-name-of-some-length-{number:05}", b"", durable=False)
    sync(f"{base}/growing/a-name-of-some-length-00599")
    for number in range(600):
        write(f"{base}/dir/a-name-of-some-length-{number:05}", b"", durable=False)
    sync(f"{base}/dir")


def append(base):
    for number in range(10):
        write(f"{base}/old-1", data(number, 3_333), flags=os.O_APPEND | os.O_WRONLY)


def overwrite(base):
    write(f"{base}/large", data(1, 100_000), at=50_000)
    write(f"{base}/old-2", data(2, 10_000), at=1_000)


def sparse(base):
    for number in range(60):
        write(f"{base}/sparse", data(number, 4_096), at=(number * 7_919 % 60) * 1_000_000)


def punch(base):
    run("fallocate", "-p", "-o", "100000", "-l", "300000", f"{base}/large")
    sync(f"{base}/large")
    write(f"{base}/large", data(3, 10_000), at=200_000)


def allocate(base):
    run("fallocate", "-l", "500000", f"{base}/reserved")
    write(f"{base}/reserved", data(4, 20_000), at=100_000)
    run("fallocate", "-n", "-l", "400000", f"{base}/old-1")
    sync(f"{base}/old-1")


def symlinks(base):
    os.symlink("short", f"{base}/fast-link")
    sync(base)
    os.symlink("t" * 59, f"{base}/fast-link-of-59")
    os.unlink(f"{base}/old-link")
    sync(base)


def attributes(base):
    os.chmod(f"{base}/old-0", 0o4711)
    os.chown(f"{base}/old-1", 70_000, 80_000)
    os.utime(f"{base}/old-2", ns=(1_234_567_890_123_456_789, 2_345_678_901_987_654_321))
    os.chmod(f"{base}/dir", 0o1777)
    sync(f"{base}/dir")
    sync(f"{base}/old-2")


def special_files(base):
    os.mkfifo(f"{base}/fifo", 0o600)
    os.mknod(f"{base}/device", 0o60640, os.makedev(300, 7))
    write(f"{base}/witness", b"w")


def remove_directories(base):
    os.unlink(f"{base}/dir/inside")
    os.rmdir(f"{base}/dir")
    os.rmdir(f"{base}/empty")
    write(f"{base}/witness", b"w")


def nameless(base):
    """A file that gets its first name by linkat, and one that loses its last while it is open."""
    handle = os.open(base, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(handle, data(5, 6_000))
    os.fsync(handle)
    run("ln", "-L", f"/proc/{os.getpid()}/fd/{handle}", f"{base}/named-late")
    os.fsync(handle)
    os.close(handle)
    handle = os.open(f"{base}/old-4", os.O_RDWR)
    os.unlink(f"{base}/old-4")
    os.write(handle, data(6, 60_000))
    os.fsync(handle)
    sync(base)
    return handle


def save_atomically(base):
    """A file is replaced by rename again and again, and only the last one is synced: Linux logs no making of those that
    are gone by then, but their names."""
    for number in range(4):
        write(f"{base}/new", data(number, 4_000 + number), durable=False)
        os.rename(f"{base}/new", f"{base}/old-1")
    sync(f"{base}/old-1")
    write(f"{base}/new", data(9, 5_000), durable=False)
    os.rename(f"{base}/new", f"{base}/conf")
    os.unlink(f"{base}/conf")
    write(f"{base}/witness", b"w")


def short_lived_unsynced(base):
    """What was made and removed before anything was synced, some of it where something else had died."""
    os.unlink(f"{base}/old-0")
    os.mkdir(f"{base}/gone")
    write(f"{base}/gone/x", b"x", durable=False)
    write(f"{base}/gone/y", data(1, 5_000), durable=False)
    os.rename(f"{base}/gone/y", f"{base}/saved")
    os.unlink(f"{base}/gone/x")
    os.rmdir(f"{base}/gone")
    os.rmdir(f"{base}/empty")
    write(f"{base}/brief", b"b", durable=False)
    os.link(f"{base}/brief", f"{base}/dir/brief-too")
    os.unlink(f"{base}/brief")
    os.unlink(f"{base}/dir/brief-too")
    write(f"{base}/witness", b"w")
    sync(f"{base}/saved")


def named_late(base):
    """Files without a name, at numbers that are free or were somebody else's, which get their first one by linkat:
    before the first fsync, and between two."""
    for number, removed in enumerate((None, "old-0", "old-1")):
        if removed:
            os.unlink(f"{base}/{removed}")
        handle = os.open(base, os.O_TMPFILE | os.O_RDWR, 0o600)
        os.write(handle, data(number, 9_000))
        if number != 1:
            os.fsync(handle)
        run("ln", "-L", f"/proc/{os.getpid()}/fd/{handle}", f"{base}/late-{number}")
        os.fsync(handle)
        os.close(handle)


def small_files(base):
    """Data that Linux keeps inside of inodes if the volume has inline_data: overwritten, growing, cut, moved out, and
    of new files, also in directories that have their names inside."""
    write(f"{base}/small-0", data(0, 20), at=0)
    write(f"{base}/small-1", data(1, 80), at=20)
    write(f"{base}/small-2", data(2, 5_000), at=20)
    write(f"{base}/empty/small", data(3, 30))
    write(f"{base}/dir/small", data(4, 90))
    write(f"{base}/no-data", data(5, 25))
    os.mkdir(f"{base}/fresh")
    for size in (30, 130, 3_000):
        write(f"{base}/fresh/growing", data(size, size))
    for number in range(10):
        write(f"{base}/small-3", data(number, 7), flags=os.O_APPEND | os.O_WRONLY)
    os.chmod(f"{base}/small-4", 0o600)
    sync(f"{base}/small-4")
    os.unlink(f"{base}/small-5")
    write(f"{base}/small-6", data(6, 10))


def small_files_cut(base):
    """Linux commits a cut of what is inside in full, and all that comes before the next full commit."""
    os.truncate(f"{base}/small-0", 5)
    sync(f"{base}/small-0")
    write(f"{base}/small-0", data(1, 50), at=3)
    os.truncate(f"{base}/small-1", 100)
    sync(f"{base}/small-1")
    write(f"{base}/small-1", data(2, 50), at=70)


def mixture(base):
    choose = random.Random(f"{SEED}/mixture")
    names = [f"{base}/old-{number}" for number in range(6)]
    for number in range(150):
        kind, path = choose.randrange(8), choose.choice(names) if names else f"{base}/first"
        if kind <= 2 or len(names) < 3:
            path = f"{base}/{choose.choice(['', 'dir/', 'empty/'])}mixed-{number}"
            write(path, data(number, choose.randrange(30_000)), durable=choose.random() < 0.5)
            names.append(path)
        elif kind == 3:
            os.unlink(path)
            names.remove(path)
        elif kind == 4:
            target = f"{base}/dir/moved-{number}"
            os.rename(path, target)
            names.remove(path)
            names.append(target)
        elif kind == 5:
            os.truncate(path, choose.randrange(40_000))
        elif kind == 6:
            os.link(path, f"{base}/empty/linked-{number}")
            names.append(f"{base}/empty/linked-{number}")
        else:
            write(path, data(number, 10_000), at=choose.randrange(100_000))
    for path in names:
        sync(path)


SCENARIOS = [create, make_directories, deep_tree, rename_within, rename_across, rename_over, link, unlink,
             unlink_and_reuse, short_lived, truncate, grow_directory, append, overwrite, sparse, punch, allocate,
             symlinks, attributes, special_files, remove_directories, nameless, save_atomically,
             short_lived_unsynced, named_late, small_files, small_files_cut, mixture]
# Linux 6.18 commits these in full: neither symlinks nor special files nor directories have fields in a fast commit.
MAYBE_FULL = [symlinks, attributes, special_files]
VOLUMES = {"4 KiB": ["-b", "4096"], "1 KiB": ["-b", "1024"],
           "1 KiB, 128-byte inodes, no checksums": ["-b", "1024", "-I", "128", "-O", "^metadata_csum,^64bit"],
           "inline data": ["-b", "4096", "-I", "256", "-O", "inline_data"],
           "inline data, 1 KiB, inodes of 512 bytes": ["-b", "1024", "-I", "512", "-O", "inline_data"],
           "clusters of 8 KiB": ["-b", "1024", "-C", "8192", "-O", "bigalloc", "-N", "4096"]}


def populate(base):
    """What a full commit holds before the scenario begins."""
    for number in range(6):
        write(f"{base}/old-{number}", data(f"old {number}", 7_000 + number * 1_000), durable=False)
    write(f"{base}/large", data("large", 3_000_000), durable=False)
    os.mkdir(f"{base}/dir")
    os.mkdir(f"{base}/empty")
    write(f"{base}/dir/inside", b"inside", durable=False)
    os.symlink("somewhere", f"{base}/old-link")
    write(f"{base}/no-data", b"", durable=False)
    for number in range(6):
        write(f"{base}/small-{number}", data(f"small {number}", 20), durable=False)
    os.setxattr(f"{base}/small-0", "user.name", b"value")
    os.setxattr(f"{base}/small-1", "user.name", b"value")


def fast_commit_count(directory):
    """How many fast commits the volume behind this mount has seen."""
    device = os.path.basename(run("findmnt", "-no", "SOURCE", directory).strip())
    with open(f"/proc/fs/ext4/{device}/fc_info", encoding="ascii") as info:
        return next(int(line.split()[0]) for line in info if line.split()[1:] == ["commits"])


def capture(scratch, options, scenario):
    """A volume on which Linux has run the scenario, as a power cut leaves it, and the tree that it saw."""
    image, directory, cut = f"{scratch}/live.img", f"{scratch}/live", f"{scratch}/cut.img"
    make_image(image, "48M", "-O", "fast_commit", "-E", "lazy_itable_init=0", "-J", "size=8,fast_commit_size=512",
               *options)
    with kernel_mount(image, directory, "noatime,commit=600"):
        populate(directory)
        os.sync()
        before = fast_commit_count(directory)
        opened = scenario(directory)
        shutil.copyfile(image, cut)
        after = fast_commit_count(directory)
        seen = tree(directory)
        if isinstance(opened, int):
            os.close(opened)
    return cut, seen, after - before


def tree(directory):
    found = treedigest.tree(directory)
    for fields in found.values():
        if fields["type"] == "d":
            for field in DIRECTORY_FIELDS:
                fields.pop(field)
    return found


def expect_tree(image, directory, seen, options="ro,noload"):
    with kernel_mount(image, directory, options):
        lines = treedigest.differences(seen, tree(directory))
    assert not lines, "what was synced (first) is not what is there:\n  " + "\n  ".join(lines)


def replayed(scratch, options, scenario):
    cut, seen, count = capture(scratch, options, scenario)
    assert count > 0 or scenario in MAYBE_FULL, "Linux has written no fast commit"
    offline = f"{scratch}/offline.img"
    shutil.copyfile(cut, offline)
    # By a mount, orphans included.
    with mounted(cut, f"{scratch}/mnt", "noatime"):
        lines = treedigest.differences(seen, tree(f"{scratch}/mnt"))
        assert not lines, "what was synced (first) is not on the mount:\n  " + "\n  ".join(lines)
    expect_clean(cut)
    expect_tree(cut, f"{scratch}/mnt", seen)
    # By the command; orphans are left to the next mount, which is the kernel's here.
    status = subprocess.run([REPLAY, "apply", offline], capture_output=True, check=False)
    assert status.returncode == 1, f"apply ended with {status.returncode}: {status.stderr.decode()[-500:]}"
    with kernel_mount(offline, f"{scratch}/mnt", "noatime"):
        pass
    expect_clean(offline)
    expect_tree(offline, f"{scratch}/mnt", seen)
    # A read-only mount shows the same and writes nothing.


@check("every scenario that Linux syncs by fast commits comes back whole", missing_root)
def replays(scratch):
    for name, options in VOLUMES.items():
        for scenario in SCENARIOS:
            attempt(f"fast commits of {scenario.__name__}, {name}", replayed, scratch, options, scenario)


@check("Linux takes no old fast commits for new ones after jext4 has written to the log", missing_root)
def stale_area(scratch):
    cut, _, count = capture(scratch, ["-b", "4096"], create)
    assert count > 0, "Linux has written no fast commit"
    copy = f"{scratch}/copy.img"
    with mounted(cut, f"{scratch}/mnt", "noatime") as mount:
        for number in range(30):
            write(f"{mount.directory}/later-{number}", data(number, 3_000))
        os.unlink(f"{mount.directory}/new-1")
        sync(mount.directory)
        seen = tree(mount.directory)
        shutil.copyfile(cut, copy)
    assert "needs_recovery" in run("dumpe2fs", "-h", copy), "the copy is not dirty"
    expect_tree(copy, f"{scratch}/mnt", seen, "noatime")
    expect_clean(copy)


if __name__ == "__main__":
    main("SCRATCH")
