"""What ordinary programs do to a volume of a kind that is not the usual one."""
import os
import subprocess
import sys

import treedigest
from harness import JEXT4, SEED, TOOLS, Mount, expect_clean, expect_kernel_sees, make_image, mounted, pick, run, \
    watchdog

HERE = os.path.dirname(os.path.abspath(__file__))

FSX = os.path.join(TOOLS, "fsx")


def missing_fsx():
    return None if os.access(FSX, os.X_OK) else "make tools"


def paths(scratch):
    """An image, where the system under test has it, and where the kernel has."""
    return [os.path.join(scratch, name) for name in ("image", "mnt", "kernel")]


def expect_passes(program, argument, **environment):
    """A program that stands beside this one, on a mount or a scratch directory: all that it says is ok."""
    done = subprocess.run([sys.executable, os.path.join(HERE, program), argument], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=300, check=False, env={**os.environ, **environment})
    lines = done.stdout.decode(errors="replace").splitlines()
    bad = [line for line in lines if line.startswith("not ok")]
    assert done.returncode == 0 and not bad, f"{program}: {bad or done.stderr.decode()[-1000:]}"


def expect_pass(names, scratch, words, *options, look=None):
    """Programs on a mount with such words for -o, and what they leave seen from all sides. `look` gets the mount's
    directory first; `options` are for mke2fs.
    """
    image, directory, kernel = paths(scratch)
    make_image(image, "1G", *options)
    with mounted(image, directory, words) as mount:
        if look:
            look(directory)
        for name in names:
            expect_passes(name, directory)
        with watchdog(mount, 120):
            seen = treedigest.tree(directory)
    expect_clean(image)
    expect_kernel_sees(image, seen, kernel)


def unpack_and_commit(directory, source):
    """A tree from tar, which git then has."""
    os.makedirs(directory)
    pack = subprocess.Popen(["tar", "-C", source, "-cf", "-", "."], stdout=subprocess.PIPE)
    unpack = subprocess.run(["tar", "-C", directory, "-xf", "-"], stdin=pack.stdout, check=False)
    assert (pack.wait(), unpack.returncode) == (0, 0), "tar failed"
    git = ["git", "-C", directory, "-c", "user.name=x", "-c", "user.email=x@y", "-c", "gc.auto=0"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"], ["gc", "-q"], ["fsck", "--strict"]):
        run(*git, *words)


def fill_index(directory, count, size_of):
    """So many names in one directory, of which every third goes again. `size_of` a number: bytes."""
    for number in range(count):
        with open(f"{directory}/one-of-many-names-of-some-length-{number:06}", "wb") as file:
            file.write(b"x" * size_of(number))
    for number in range(0, count, 3):
        os.unlink(f"{directory}/one-of-many-names-of-some-length-{number:06}")


def write_and_cut(path, choose, mebibytes, size):
    with open(path, "wb") as file:
        for _ in range(mebibytes):
            file.write(choose.randbytes(1 << 20))
    os.truncate(path, size)


def operate_at_random(scratch, limits):
    """fsx on files of so many bytes at most; `scratch` has the image."""
    image, directory, other = paths(scratch)
    with mounted(image, directory):
        for number, limit in enumerate(limits):
            run(FSX, "-p", "-m", "-d", "-s", SEED + number, "-n", pick(2_000, 20_000), "-l", limit,
                f"{directory}/{number}", timeout=900)
        seen = treedigest.tree(directory)
    expect_clean(image)
    expect_kernel_sees(image, seen, other)


def expect_same(first, second, whose):
    lines = treedigest.differences(first, second)
    assert not lines, f"{whose} (second) sees another tree:\n  " + "\n  ".join(lines)


def expect_recovered(scratch, work):
    """What was synced before SIGKILL is there, as e2fsck recovers it and as a mount does; `scratch` has the image."""
    image, directory, other = paths(scratch)
    mount = Mount(image, directory)
    work(directory)
    run(JEXT4, "sync", directory)
    seen = treedigest.tree(directory)
    mount.kill()
    copy = image + ".copy"
    run("cp", "--sparse=always", image, copy)
    assert "recovering journal" in run("e2fsck", "-fy", copy, status=None)
    expect_clean(copy)
    expect_kernel_sees(copy, seen, other)
    with mounted(image, directory):
        expect_same(seen, treedigest.tree(directory), "the mount that recovered")
    expect_clean(image)
