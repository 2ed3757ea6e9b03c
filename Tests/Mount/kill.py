#!/usr/bin/env python3
"""SIGKILL under load, again and again: kill.py SCRATCH

Writers create, append, rename and remove, and note outside of the mount what fsync has acknowledged. After the kill
the image is recovered by jext4, by the kernel and by e2fsck in turn (P4); then nothing acknowledged may be missing
(P1), and e2fsck must have nothing to say (P2).
"""
import contextlib
import errno
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time

from harness import SEED, Mount, attempt, check, expect_clean, kernel_mount, main, make_image, missing_root, \
    missing_server, mounted, pick, run, take_down, wait_until

ROUNDS = pick(3, 20, 60)
WRITERS = 3
UNSYNCED = b"unsynced"


def content(writer, number, size):
    seed = hashlib.sha256(f"{writer}/{number}".encode()).digest()
    return (seed * (size // 32 + 1))[:size]


def stay_on(directory):
    """Makes the mount the working directory: when the server is killed, what lies below it must not be written to."""
    os.chdir(directory)
    if not os.path.ismount("."):
        raise OSError(errno.ENOTCONN, "the server is gone already")


def write_until_killed(directory, notes, writer, seed):
    """One writer. A note is written (and is in the host's page cache, which survives the server) after each fsync."""
    choose = random.Random(seed)
    stay_on(directory)
    base, number = f"writer-{writer}", 0
    os.makedirs(base, exist_ok=True)
    with open(notes, "a", buffering=1, encoding="ascii") as log:
        while True:
            number += 1
            size = choose.choice([0, 100, 4_096, 10_000, 70_000])
            name = f"{base}/{seed}-{number}"
            temporary = choose.random() < 0.3
            with open(name + (".new" if temporary else ""), "wb") as file:
                file.write(content(writer, number, size))
                file.flush()
                os.fsync(file.fileno())
            if temporary:
                os.rename(name + ".new", name)
                handle = os.open(base, os.O_RDONLY)
                os.fsync(handle)
                os.close(handle)
            log.write(f"{name} {writer} {number} {size}\n")
            if number > 20 and choose.random() < 0.3:
                # Removed without a sync: it may be there or not, but the note must go first.
                victim = f"{base}/{seed}-{number - 20}"
                log.write(f"{victim} gone\n")
                os.unlink(victim)


def write_unsynced(directory, seed):
    """Load that syncs nothing: what is left of it may be anything that it did, and nothing else."""
    choose = random.Random(seed)
    stay_on(directory)
    base = "unsynced"
    os.makedirs(base, exist_ok=True)
    while True:
        name, other = (f"{base}/{choose.randrange(60)}" for _ in range(2))
        act = choose.randrange(6)
        with contextlib.suppress(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError):
            if act <= 2:
                with open(name, "r+b" if act == 2 else "wb") as file:
                    file.seek(choose.choice([0, 0, 50_000]))
                    file.write(UNSYNCED * choose.choice([1, 300, 3_000]))
            elif act == 3:
                os.rename(name, other)
            elif act == 4:
                os.truncate(name, choose.randrange(100_000))
            else:
                os.unlink(name)
                os.makedirs(f"{base}/dir-{choose.randrange(30)}/{choose.randrange(30)}", exist_ok=True)


def expect_nothing_stale(directory):
    """P3: the files that nobody synced hold what was written to them, or zeros."""
    base = os.path.join(directory, "unsynced")
    for name in os.listdir(base) if os.path.isdir(base) else []:
        if os.path.isfile(f"{base}/{name}"):
            with open(f"{base}/{name}", "rb") as file:
                foreign = set(file.read()) - set(UNSYNCED) - {0}
            assert not foreign, f"unsynced/{name} has bytes that were never written to it: {sorted(foreign)[:8]}"


def acknowledged(notes):
    found = {}
    if not os.path.exists(notes):
        return found
    with open(notes, encoding="ascii") as log:
        for line in log:
            if not line.endswith("\n"):
                continue
            name, *rest = line.split()
            if rest == ["gone"]:
                found.pop(name, None)
            else:
                found[name] = [int(word) for word in rest]
    return found


def expect_all(directory, notes):
    missing = []
    wanted = acknowledged(notes)
    for name, (writer, number, size) in wanted.items():
        try:
            with open(os.path.join(directory, name), "rb") as file:
                data = file.read()
            if data != content(writer, number, size):
                missing.append(f"{name}: {len(data)} bytes, not the {size} that were synced")
        except OSError as error:
            missing.append(f"{name}: {error.strerror}")
    assert not missing, f"{len(missing)} of {len(wanted)} acknowledged files: " + "; ".join(missing[:5])


def recover(image, by, directory):
    """Makes the image clean; e2fsck may replay and nothing more."""
    if by == "jext4":
        with mounted(image, directory):
            pass
    elif by == "the kernel":
        with kernel_mount(image, directory, "rw"):
            pass
    elif by == "e2fsck":
        done = subprocess.run(["e2fsck", "-fp", image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        output = done.stdout.decode(errors="replace")
        assert done.returncode in (0, 1), f"e2fsck -fp: status {done.returncode}: {output[-1500:]}"
    else:
        raise AssertionError(by)


def end_writers(writers):
    """They end on their own once the server is gone. One that waits for it still would be a fault of the mount."""
    hung = []
    for process in writers:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            with open(f"/proc/{process.pid}/wchan", encoding="ascii", errors="replace") as file:
                hung.append(file.read())
            process.kill()
            process.wait(30)
    assert not hung, f"writers that do not end when the server is killed, in {hung}"


def one_round(image, scratch, seed, by):
    directory, notes = os.path.join(scratch, "mnt"), os.path.join(scratch, "notes")
    mount = Mount(image, directory, "commit=1")
    writers = []
    try:
        for writer in range(WRITERS):
            writers.append(subprocess.Popen([sys.executable, os.path.abspath(__file__), "--writer", directory,
                                             f"{notes}-{writer}", str(writer), str(seed)],
                                            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        writers.append(subprocess.Popen([sys.executable, os.path.abspath(__file__), "--unsynced", directory, str(seed)],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        names = [f"writer-{writer}" for writer in range(WRITERS)] + ["unsynced"]
        wait_until(lambda: all(os.path.isdir(f"{directory}/{name}") for name in names), "the writers do not begin")
        time.sleep(random.Random(seed).uniform(0.5, 3.0))
        assert mount.process.poll() is None, mount.output()[-1000:]
    finally:
        if mount.process.poll() is None:
            mount.kill()
        end_writers(writers)
        take_down(mount)
    wait_for_loops(image)
    count = sum(len(acknowledged(f"{notes}-{writer}")) for writer in range(WRITERS))
    assert count >= 10, f"only {count} files were acknowledged: no load"
    # A copy for the second opinion: whoever recovers it, nothing may be missing.
    shutil.copy(image, image + ".copy")
    recover(image, by, directory)
    expect_clean(image)
    with kernel_mount(image, directory, "ro"):
        for writer in range(WRITERS):
            expect_all(directory, f"{notes}-{writer}")
        expect_nothing_stale(directory)
    recover(image + ".copy", "jext4" if by != "jext4" else "the kernel", directory)
    expect_clean(image + ".copy")
    with mounted(image, directory):
        for writer in range(WRITERS):
            expect_all(directory, f"{notes}-{writer}")
        shutil.rmtree(f"{directory}/writer-{seed % WRITERS}", ignore_errors=True)
        open(f"{notes}-{seed % WRITERS}", "wb").close()
    expect_clean(image)


def wait_for_loops(image):
    """The kernel detaches the dead server's loop device on its own, but not at once."""
    for _ in range(100):
        if not run("losetup", "-j", image).strip():
            return
        time.sleep(0.05)
    raise AssertionError("a loop device stays attached: " + run("losetup", "-j", image))


@check(f"{ROUNDS} times SIGKILL under load: nothing acknowledged is missing, whoever recovers",
       need=lambda: missing_root() or missing_server())
def kill(scratch):
    image, failed = make_image(os.path.join(scratch, "image"), "256M"), []
    for number in range(ROUNDS):
        by = ["jext4", "the kernel", "e2fsck"][number % 3]
        seed = SEED * 1_000 + number
        if not attempt(f"killed with seed {seed}, recovered by {by}", one_round, image, scratch, seed, by):
            failed.append(seed)
            make_image(image, "256M")
            for writer in range(WRITERS):
                open(os.path.join(scratch, f"notes-{writer}"), "wb").close()
    assert not failed, f"seeds {failed}"


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # The server is gone: that is what this test is about.
        if sys.argv[1:2] == ["--writer"]:
            write_until_killed(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
        if sys.argv[1:2] == ["--unsynced"]:
            write_unsynced(sys.argv[2], int(sys.argv[3]))
    if not sys.argv[1].startswith("--"):
        main("SCRATCH")
