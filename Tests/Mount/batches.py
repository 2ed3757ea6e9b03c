#!/usr/bin/env python3
"""Overwrites out of place and atomic batches (docs/IOCTLS.md): batches.py SCRATCH

With --judge IMAGE it is what `jext4-replay crash explore` runs on each crash state of the SQLite test.
"""
import contextlib
import errno
import fcntl
import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys

from harness import JEXT4, SEED, TOOLS, Mount, check, expect_clean, expect_errno, kernel_mount, main, make_image, \
    missing_root, missing_server, mounted, pick, run, take_down, wait_until

REPLAY = os.path.join(os.path.dirname(JEXT4), "jext4-replay")
SQLITE = os.path.join(TOOLS, "sqlite3-batches")
START, COMMIT, ABORT, FEATURES = 0xF501, 0xF502, 0xF505, 0x8004F50C
SET_PLACE, GET_PLACE = 0x40044A01, 0x80044A02
ACCOUNTS = 200


def needs():
    return missing_root() or missing_server()


def needs_sqlite():
    return needs() or (None if os.access(SQLITE, os.X_OK) else "make .build/tools/sqlite3-batches")


def fresh_volume(scratch, *options):
    image = make_image(os.path.join(scratch, "image"), "64M", *options)
    return image, os.path.join(scratch, "mnt")


def word(file, command):
    return struct.unpack("I", fcntl.ioctl(file, command, bytes(4)))[0]


def read(path):
    """Not from the file's own descriptor: what others see."""
    with open(path, "rb") as file:
        return file.read()


def make_file(directory, content):
    path = f"{directory}/file"
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return path


@check("a batch is seen at once, and is there whole after its commit, or not at all when it is dropped", need=needs)
def commit_and_abort(scratch):
    image, directory = fresh_volume(scratch)
    old, new = b"o" * 100_000, b"n" * 8_000
    with mounted(image, directory, "outofplace"):
        path = make_file(directory, old)
        with open(path, "r+b", buffering=0) as file:
            assert word(file, FEATURES) == 4
            for ending in (ABORT, COMMIT):
                fcntl.ioctl(file, START)
                for offset in (1_000, 50_000, 99_000):
                    os.pwrite(file.fileno(), new, offset)
                wanted = bytearray(old + bytes(7_000))
                for offset in (1_000, 50_000, 99_000):
                    wanted[offset:offset + len(new)] = new
                assert read(path) == wanted and os.stat(path).st_size == 107_000
                fcntl.ioctl(file, ending)
                wanted = old if ending == ABORT else wanted
                assert read(path) == wanted and os.stat(path).st_size == len(wanted)
            # Whatever a commit without a batch would mean: a batch may have been lost before it.
            expect_errno(errno.EINVAL, fcntl.ioctl, file, COMMIT)
        content = read(path)
    expect_clean(image)
    with kernel_mount(image, directory):
        assert read(path) == content


@check("a batch ends with the file that it was begun on", need=needs)
def closed(scratch):
    image, directory = fresh_volume(scratch)
    with mounted(image, directory, "outofplace"):
        path = make_file(directory, b"o" * 50_000)
        file = os.open(path, os.O_RDWR)
        fcntl.ioctl(file, START)
        os.pwrite(file, b"n" * 60_000, 0)
        other = os.open(path, os.O_RDWR)
        os.close(other)
        assert read(path) == b"n" * 60_000
        os.close(file)
        wait_until(lambda: read(path) == b"o" * 50_000, "the batch outlives its file")
    expect_clean(image)


@check("a batch ends with the process that began it, before its locks are released", need=needs)
def killed(scratch):
    image, directory = fresh_volume(scratch)
    with mounted(image, directory, "outofplace"):
        path = make_file(directory, b"o" * 50_000)
        for number in range(pick(20, 200)):
            ready, told = os.pipe()
            child = os.fork()
            if child == 0:
                file = os.open(path, os.O_RDWR)
                fcntl.lockf(file, fcntl.LOCK_EX)
                fcntl.ioctl(file, START)
                os.pwrite(file, b"n" * 30_000, 5_000 + number)
                os.write(told, b"x")
                signal.pause()
            os.read(ready, 1)
            assert b"n" in read(path)
            os.kill(child, signal.SIGKILL)
            with open(path, "r+b") as file:
                fcntl.lockf(file, fcntl.LOCK_EX)  # Waits for the lock of the one who dies.
                assert b"n" not in read(path), f"round {number}: a dropped batch is seen"
            os.waitpid(child, 0)
            os.close(ready)
            os.close(told)
    expect_clean(image)


@check("others do not cut a file under a batch, and a batch of another process is not taken over", need=needs)
def others(scratch):
    image, directory = fresh_volume(scratch)
    with mounted(image, directory, "outofplace"):
        path = make_file(directory, b"o" * 50_000)
        with open(path, "r+b", buffering=0) as file:
            fcntl.ioctl(file, START)
            os.pwrite(file.fileno(), b"n" * 10, 0)
            expect_errno(errno.EBUSY, os.truncate, path, 5)
            child = os.fork()
            if child == 0:
                try:
                    with open(path, "r+b", buffering=0) as mine:
                        fcntl.ioctl(mine, START)
                except OSError as error:
                    os._exit(error.errno)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EBUSY
            fcntl.ioctl(file, COMMIT)
        os.truncate(path, 5)
        assert read(path) == b"nnnnn"
    expect_clean(image)


@check("a file says by ioctl and by attribute where its overwrites go; without -o outofplace there are no batches",
       need=needs)
def one_file(scratch):
    image, directory = fresh_volume(scratch)
    with mounted(image, directory):
        path = make_file(directory, b"o" * 400_000)
        with open(path, "r+b", buffering=0) as file:
            expect_errno(errno.ENOTTY, fcntl.ioctl, file, FEATURES, bytes(4))
            expect_errno(errno.ENOTTY, fcntl.ioctl, file, START)
            assert word(file, GET_PLACE) == 0
            fcntl.ioctl(file, SET_PLACE, struct.pack("I", 1))
            assert word(file, GET_PLACE) == 1 and os.getxattr(path, "user.jext4.outofplace") == b"1"
            os.pwrite(file.fileno(), b"n" * 300_000, 10)
            os.setxattr(path, "user.jext4.outofplace", b"0")
            assert word(file, GET_PLACE) == 0
            expect_errno(errno.EINVAL, fcntl.ioctl, file, SET_PLACE, struct.pack("I", 2))
        folder = os.open(directory, os.O_RDONLY)
        expect_errno(errno.EINVAL, fcntl.ioctl, folder, SET_PLACE, struct.pack("I", 1))
        os.close(folder)
        assert read(path) == b"o" * 10 + b"n" * 300_000 + b"o" * 99_990
    expect_clean(image)


def transactions(directory, count, after):
    """SQLite that moves amounts between accounts; `after` is called with the number of each committed transaction."""
    shell = subprocess.Popen([SQLITE, "-batch", f"{directory}/db"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, bufsize=1)

    def say(text):
        print(text + "\nselect 'done';", file=shell.stdin, flush=True)
        lines = []
        while not lines or lines[-1] != "done\n":
            lines.append(shell.stdout.readline())
            assert lines[-1], f"sqlite3 ended: {''.join(lines)}"
        return lines[:-1]
    choose = random.Random(SEED)
    assert say("pragma journal_mode=delete; pragma synchronous=full;") == ["delete\n"]
    say("begin; create table account (id integer primary key, amount integer, filler blob);"
        "create table counter (n integer); insert into counter values (0);"
        f"with recursive n(i) as (select 1 union all select i + 1 from n where i < {ACCOUNTS})"
        "insert into account select i, 100, randomblob(200) from n; commit;")
    for number in range(1, count + 1):
        one, two = choose.randrange(1, ACCOUNTS + 1), choose.randrange(1, ACCOUNTS + 1)
        said = say(f"begin; update account set amount = amount - 7, filler = randomblob({choose.randrange(900)}) "
                   f"where id = {one}; update account set amount = amount + 7 where id = {two};"
                   f"update counter set n = {number}; commit;")
        assert not said, said
        after(number)
    shell.stdin.close()
    assert shell.wait(60) == 0


def judge(path):
    """What is wrong with a database that a power cut left. Answers how many transactions it has."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        if database.execute("select count(*) from sqlite_master").fetchone()[0] == 0:
            return -1
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert database.execute("select sum(amount), count(*) from account").fetchone() == (ACCOUNTS * 100, ACCOUNTS)
        return database.execute("select n from counter").fetchone()[0]


def judge_image(image):
    """After our replay. The file is taken out by debugfs, so that many may be judged at the same time. Only the first
    transaction, which makes the database, has a rollback journal.
    """
    run(REPLAY, "apply", image, status=None)
    expect_clean(image)
    copy = image + ".db"
    for name in ("db", "db-journal"):
        run("debugfs", "-R", f"dump {name} {copy}{name[2:]}", image)
    try:
        if os.path.exists(copy):
            judge(copy)
    finally:
        for name in (copy, copy + "-journal"):
            if os.path.exists(name):
                os.unlink(name)


@check("SQLite commits by batches without a rollback journal, and every power cut leaves it whole and current",
       need=needs_sqlite)
def sqlite_survives(scratch):
    image, directory = fresh_volume(scratch, "-b", "4096")
    before, log, state = (os.path.join(scratch, name) for name in ("before", "log", "state"))
    shutil.copy(image, before)
    mount, count = Mount(image, directory, f"outofplace,record={log}"), pick(12, 60)
    try:
        transactions(directory, count, lambda number: run(JEXT4, "mark", directory, f"commit.{number}"))
        mount.unmount()
    except BaseException:
        take_down(mount)
        raise
    for number in range(1, count + 1):
        shutil.copy(before, state)
        run(REPLAY, "log", "apply", "--to-mark", f"commit.{number}", log, state, status=1)
        # Linux replays what was committed; nothing of the transaction may need more than that.
        with kernel_mount(state, directory, "rw"):
            assert set(os.listdir(directory)) == {"lost+found", "db"}, f"a rollback journal: {os.listdir(directory)}"
            found = judge(f"{directory}/db")
        assert found == number, f"after transaction {number} the database has {found}"
    output = run(REPLAY, "crash", "explore", log, "--base", before, "--limit", pick(6, 40), "--jobs", os.cpu_count(),
                 "--check", f"{sys.executable} {os.path.abspath(__file__)} --judge {{}}", timeout=pick(300, 3000))
    assert " 0 failures" in output, output[-2000:]
    run(REPLAY, "crash", "explore", log, "--base", before, "--limit", pick(6, 40), "--ignore-flush",
        "--check", f"{sys.executable} {os.path.abspath(__file__)} --judge {{}}", status=4, timeout=pick(300, 3000))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--judge"]:
        judge_image(sys.argv[2])
    else:
        main("SCRATCH")
