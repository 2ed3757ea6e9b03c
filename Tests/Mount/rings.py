#!/usr/bin/env python3
"""A mount with -o io_uring, whose requests come over rings and not over /dev/fuse: rings.py SCRATCH

The programs that work on any mount say the same of it. Needs Linux 6.14; run.py --options io_uring runs all of them so.
"""
import contextlib
import functools
import json
import os
import subprocess
import threading

from harness import JEXT4, NOBODY, Mount, Skip, check, expect_clean, is_mounted, main, make_image, missing_root, \
    mounted, run, take_down
from programs import expect_pass, expect_passes

SWITCH = "/sys/module/fuse/parameters/enable_uring"
# 0: everybody may use io_uring, 2: nobody.
FORBIDDEN = "/proc/sys/kernel/io_uring_disabled"
PROGRAMS = ["posix_files.py", "posix_attributes.py", "random_writes.py", "sqlite_transactions.py"]


def missing():
    return missing_root() or (None if os.path.exists(SWITCH) else "FUSE over io_uring (Linux 6.14)")


@contextlib.contextmanager
def switched(value, path=SWITCH):
    """A switch of the kernel set, and afterwards as it was."""
    with open(path, encoding="ascii") as file:
        former = file.read()[0]
    with open(path, "w", encoding="ascii") as file:
        file.write(value)
    try:
        yield
    finally:
        with open(path, "w", encoding="ascii") as file:
            file.write(former)


def keeping_the_switch(function):
    """-o io_uring turns the switch on, and nothing turns it off again."""
    @functools.wraps(function)
    def kept(scratch):
        with switched("N"):
            function(scratch)
    return kept


def transport(directory):
    return json.loads(run(JEXT4, "status", "--json", directory))["transport"]


@check("programs find a mount over rings as they find any other", need=missing)
@keeping_the_switch
def programs(scratch):
    def look(directory):
        assert transport(directory) == "io_uring"

    expect_pass(PROGRAMS, scratch, "io_uring", look=look)


@check("volumes run full over rings as they do otherwise", need=missing)
@keeping_the_switch
def full(scratch):
    # Removed files come free by what the kernel forgets, and that still comes over the device.
    expect_passes("space.py", scratch, JEXT4_OPTIONS="io_uring")


@check("more threads than queues sync, read and write at once, and the mount goes down under them", need=missing)
@keeping_the_switch
def crowd(scratch):
    directory = os.path.join(scratch, "mnt")
    image = make_image(os.path.join(scratch, "image"), "512M")
    stops = threading.Event()

    def work(number):
        with contextlib.suppress(OSError):
            for turn in range(1_000_000):
                path = f"{directory}/file-{number}-{turn % 20}"
                with open(path, "wb") as file:
                    file.write(bytes([turn % 256]) * 70_000)
                    os.fsync(file.fileno())
                with open(path, "rb") as file:
                    assert file.read() == bytes([turn % 256]) * 70_000
                if stops.is_set():
                    return

    mount = Mount(image, directory, "io_uring")
    threads = [threading.Thread(target=work, args=(number,)) for number in range(48)]
    try:
        for thread in threads:
            thread.start()
        stops.wait(3)
        mount.process.terminate()
        assert mount.process.wait(60) == 0, mount.output()[-1000:]
    finally:
        stops.set()
        take_down(mount)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread waits for a server that is gone"
    expect_clean(image)


@check("the switch of the kernel and the words of -o decide on the transport", need=missing)
def choice(scratch):
    directory = os.path.join(scratch, "mnt")
    image = make_image(os.path.join(scratch, "image"), "64M")
    for switch, words, expected in [("N", "", "device"), ("Y", "", "io_uring"), ("Y", "noio_uring", "device"),
                                    ("N", "io_uring", "io_uring")]:
        with switched(switch), mounted(image, directory, words):
            assert transport(directory) == expected, f"{switch}, {words}: {transport(directory)}"
            os.makedirs(f"{directory}/{switch}{words}")
    expect_clean(image)


@check("where io_uring is forbidden it is not used, and refused to who demands it", need=missing)
def forbidden(scratch):
    directory = os.path.join(scratch, "mnt")
    image = make_image(os.path.join(scratch, "image"), "64M")
    if not os.path.exists(FORBIDDEN):
        raise Skip("the sysctl io_uring_disabled (Linux 6.6)")
    with switched("Y"), switched("2", FORBIDDEN):
        with mounted(image, directory):
            assert transport(directory) == "device"
        done = subprocess.run([JEXT4, "mount", "-o", "io_uring", image, directory], capture_output=True, check=False)
        assert done.returncode == 32 and b"io_uring" in done.stderr, (done.returncode, done.stderr)
        assert not is_mounted(directory)
    expect_clean(image)


@check("a server that has descriptors for few rings works with few", need=missing)
@keeping_the_switch
def few(scratch):
    directory = os.path.join(scratch, "mnt")
    image = make_image(os.path.join(scratch, "image"), "128M")
    mount = Mount(image, directory, "io_uring")
    try:
        used = max(int(name) for name in os.listdir(f"/proc/{mount.process.pid}/fd"))
        run("prlimit", f"--pid={mount.process.pid}", f"--nofile={used + 1}:")

        def work(number):
            for turn in range(20):
                with open(f"{directory}/file-{number}-{turn}", "wb") as file:
                    file.write(b"x" * 10_000)
                    os.fsync(file.fileno())

        threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a request waits for a thread that there is not"
        assert "cannot serve" in mount.output(), "no thread was refused its ring: the test shows nothing"
        run("prlimit", f"--pid={mount.process.pid}", "--nofile=1024:")
    except BaseException:
        take_down(mount)
        raise
    mount.unmount()
    expect_clean(image)


@check("a user who may not turn the switch on is told who can", need=missing)
def refused(scratch):
    directory = os.path.join(scratch, "mnt")
    image = make_image(os.path.join(scratch, "image"), "64M")
    os.makedirs(directory, exist_ok=True)
    for path in (scratch, image, directory):
        os.chmod(path, 0o777)
    with switched("N"):
        done = subprocess.run(["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", JEXT4, "mount",
                               "-o", "io_uring", image, directory], capture_output=True, check=False)
    assert done.returncode == 32 and b"enable_uring" in done.stderr, (done.returncode, done.stderr)


if __name__ == "__main__":
    main()
