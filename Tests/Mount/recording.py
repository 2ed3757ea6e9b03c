#!/usr/bin/env python3
"""What docs/RECORDING.md tells people to do: recording.py SCRATCH

The commands of the page run as they stand there, but for the paths. And the scheme of xfstests generic/455: a program
fsyncs, marks the log through the stand-in for dmsetup, and notes what its file must hold; the log replayed up to each
mark, and then by Linux's own recovery, gives that file.
"""
import hashlib
import os
import random
import re
import shutil
import stat
import subprocess

from harness import JEXT4, ROOT, SEED, Mount, check, expect_clean, kernel_mount, main, make_image, missing_root, \
    missing_server, mounted, pick, run, sha256, take_down

REPLAY = os.path.join(os.path.dirname(JEXT4), "jext4-replay")


def needs():
    return missing_root() or missing_server()


def tools(scratch):
    """PATH with the commands as users have them, and with the stand-in as dmsetup."""
    folder = os.path.join(scratch, "bin")
    os.makedirs(folder, exist_ok=True)
    for name, target in (("jext4", JEXT4), ("jext4-replay", REPLAY),
                         ("dmsetup", os.path.join(ROOT, "scripts/dmsetup-marks"))):
        if not os.path.lexists(f"{folder}/{name}"):
            os.symlink(target, f"{folder}/{name}")
    return dict(os.environ, PATH=folder + ":" + os.environ["PATH"])


def shell(line, folder, environment):
    """Runs a line; a replay that has changed the image answers 1, as fsck does."""
    done = subprocess.run(line, shell=True, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200, check=False)
    output = done.stdout.decode(errors="replace")
    expected = 1 if "log apply" in line else 0
    assert done.returncode == expected, f"{line}: status {done.returncode}: {output[-800:]}"
    return output


def work(directory):
    os.mkdir(f"{directory}/dir")
    for number in range(40):
        with open(f"{directory}/dir/{number}", "wb") as file:
            file.write(b"%d\n" % number * 2000)
            if number % 5 == 0:
                file.flush()
                os.fsync(file.fileno())
    for number in range(0, 40, 3):
        os.rename(f"{directory}/dir/{number}", f"{directory}/{number}")


@check("the commands of docs/RECORDING.md record, look, lint, check and apply", need=needs)
def page(scratch):
    with open(os.path.join(ROOT, "docs/RECORDING.md"), encoding="utf-8") as file:
        block = re.search(r"```\n(.*?)```", file.read(), re.S).group(1)
    environment, directory = tools(scratch), os.path.join(scratch, "mnt")
    os.makedirs(directory, exist_ok=True)
    make_image(os.path.join(scratch, "disk.img"), "64M")
    ran = 0
    try:
        for line in block.splitlines():
            if line.startswith("..."):
                work(directory)
                shell(f"jext4 mark {directory} LABEL", scratch, environment)
            else:
                shell(line.replace("/mnt", directory), scratch, environment)
            ran += 1
    finally:
        subprocess.run(["umount", "-l", directory], stderr=subprocess.DEVNULL, check=False)
    assert ran >= 8, f"the page has {ran} commands"
    # The last command left the state of the mark on the image: finished work that nobody synced may be missing.
    with kernel_mount(f"{scratch}/before.img", directory, "rw"):
        names = os.listdir(f"{directory}/dir") + os.listdir(directory)
        assert all(str(number) in names for number in range(0, 40, 5)), names
    expect_clean(f"{scratch}/before.img")


@check("the log up to a mark that followed an fsync holds what was synced (generic/455)", need=needs)
def marks(scratch):
    environment, directory = tools(scratch), os.path.join(scratch, "mnt")
    image, before, log = (os.path.join(scratch, name) for name in ("image", "before", "log"))
    make_image(image, "64M")
    shutil.copy(image, before)
    environment["JEXT4_DIR"] = directory
    choice, content, kept = random.Random(SEED), bytearray(), []
    mount = Mount(image, directory, f"record={log}")
    try:
        with open(f"{directory}/file", "w+b", buffering=0) as file:
            for number in range(pick(12, 60)):
                for _ in range(8):
                    start, count = choice.randrange(300_000), choice.randrange(1, 60_000)
                    content.extend(bytes(max(0, start + count - len(content))))
                    content[start:start + count] = choice.randbytes(count)
                    file.seek(start)
                    file.write(content[start:start + count])
                os.fsync(file.fileno())
                shell(f"dmsetup message any-name 0 mark file.mark{number}", scratch, environment)
                kept.append(hashlib.sha256(content).hexdigest())
        mount.unmount()
    except BaseException:
        take_down(mount)
        raise
    for number, digest in enumerate(kept):
        state = os.path.join(scratch, "state")
        shutil.copy(before, state)
        run(REPLAY, "log", "apply", "--to-mark", f"file.mark{number}", log, state, status=1)
        with kernel_mount(state, directory, "rw"):
            with open(f"{directory}/file", "rb") as file:
                assert hashlib.sha256(file.read()).hexdigest() == digest, f"mark {number}: another content"
        expect_clean(state)


@check("-o record= empties no image, whatever its name, and no log in use", need=needs)
def never_an_image(scratch):
    image, other, log, node = (os.path.join(scratch, name) for name in ("image", "other", "log", "node"))
    directory, second = os.path.join(scratch, "mnt"), os.path.join(scratch, "second")
    for path in (directory, second):
        os.makedirs(path, exist_ok=True)
    for path in (image, other):
        make_image(path, "32M")
    before = sha256(image)
    os.link(image, image + ".link")
    os.symlink(image, image + ".symlink")
    for name in (image, image + ".link", image + ".symlink"):
        run(JEXT4, "mount", "-o", f"record={name}", image, directory, status=32)
        assert sha256(image) == before, name
    loop = run("losetup", "-f", "--show", image).strip()
    try:
        os.mknod(node, stat.S_IFBLK | 0o600, os.stat(loop).st_rdev)
        for name in (loop, node):
            run(JEXT4, "mount", "-o", f"record={name}", loop, directory, status=32)
            assert sha256(image) == before, name
    finally:
        run("losetup", "-d", loop)
    before = sha256(other)
    with kernel_mount(other, second):
        device = run("findmnt", "-no", "SOURCE", second).strip()
        for name in (other, device):
            run(JEXT4, "mount", "-o", f"record={name}", image, directory, status=32)
    assert sha256(other) == before, "what the kernel has mounted"
    with mounted(image, directory, f"record={log}"):
        work(directory)
        size = os.path.getsize(log)
        run(JEXT4, "mount", "-o", f"record={log}", other, second, status=32)
        run(JEXT4, "mount", "-o", f"record={image}", other, second, status=32)
        assert os.path.getsize(log) >= size
    run(REPLAY, "log", "info", log)
    expect_clean(image)


@check("every state that a power cut may leave of a live mount is whole, and a disk that forgets flushes is caught",
       need=needs)
def states(scratch):
    directory, image, before, log = (os.path.join(scratch, name) for name in ("mnt", "image", "before", "log"))
    make_image(image, "16M", "-b", "1024")
    shutil.copy(image, before)
    mount = Mount(image, directory, f"record={log}")
    try:
        work(directory)
        mount.unmount()
    except BaseException:
        take_down(mount)
        raise
    explore = (REPLAY, "crash", "explore", log, "--base", before, "--limit", "1000")
    output = run(*explore)
    assert "stand for all states" in output and " 0 failures" in output, output
    report = f"{scratch}/report.html"
    output = run(*explore, "--ignore-flush", "--html", report, status=4)
    state = output.splitlines()[0]
    with open(report, encoding="utf-8") as file:
        assert state in file.read(), f"the page does not name {state}"
    # A commit block without all of what it commits. e2fsck drops such a transaction, which was durable, without a word.
    run(REPLAY, "crash", "repro", state, log, "--base", before, "--output", f"{scratch}/bad.img", status=4)
    output = run(REPLAY, "show", f"{scratch}/bad.img", status=4)
    assert "DAMAGE" in output, output


if __name__ == "__main__":
    main("SCRATCH")
