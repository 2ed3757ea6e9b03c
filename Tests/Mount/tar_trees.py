#!/usr/bin/env python3
"""Trees of this machine through tar, in and out, byte for byte and mode for mode: tar_trees.py MOUNTPOINT"""
import os
import shutil
import subprocess
import tempfile

import treedigest
from harness import attempt, check, fresh, main, missing_tool, pick, run

# What tar does not carry, or what the copy may rightly have otherwise.
IGNORED = ("nlink",)


def pipe(source, target):
    """tar of the source unpacked into the target."""
    pack = subprocess.Popen(["tar", "-C", source, "--numeric-owner", "--xattrs", "--format=posix", "-cf", "-", "."],
                            stdout=subprocess.PIPE)
    unpack = subprocess.Popen(["tar", "-C", target, "--numeric-owner", "--xattrs", "-pxf", "-"], stdin=pack.stdout)
    pack.stdout.close()
    assert (pack.wait(), unpack.wait()) == (0, 0), "tar failed"


def digest(root):
    tree = treedigest.tree(root, IGNORED)
    for fields in tree.values():
        if fields["type"] == "d":
            del fields["size"]  # A directory's size is its file system's own affair.
    return tree


def in_and_out(mountpoint, source):
    base = fresh(mountpoint, "tar" + source.replace("/", "-"))
    outside = tempfile.mkdtemp(prefix="jext4-tar-", dir="/var/tmp")
    try:
        pipe(source, base)
        original = digest(source)
        lines = treedigest.differences(original, digest(base))
        assert not lines, "the unpacked tree (second) differs:\n  " + "\n  ".join(lines)
        pipe(base, outside)
        lines = treedigest.differences(original, digest(outside))
        assert not lines, "the tree that came back (second) differs:\n  " + "\n  ".join(lines)
    finally:
        shutil.rmtree(outside)


@check("tar puts a tree on the mount and gets the same one back", need=missing_tool("tar"))
def trees(mountpoint):
    for source in pick(["/usr/include"], ["/usr/include", "/usr/share"]):
        if os.path.isdir(source):
            assert attempt(f"{source} through tar is the same tree", in_and_out, mountpoint, source)


@check("a tree is removed to the last name")
def removal(mountpoint):
    tree = os.path.join(mountpoint, "tar-usr-include")
    part = os.path.join(tree, "linux")
    run("cp", "-a", part if os.path.isdir(part) else tree, os.path.join(mountpoint, "copy"))
    run("rm", "-r", os.path.join(mountpoint, "copy"))
    assert not os.path.lexists(os.path.join(mountpoint, "copy"))


if __name__ == "__main__":
    main()
