#!/usr/bin/env python3
"""stress-ng's file stressors with verification: stress_ng.py MOUNTPOINT"""
import os
import re

from harness import LENGTH, MINUTES, SEED, attempt, check, fresh, main, missing_tool, pick, run

# Stressors that work on files of --temp-path and check what they get back. Left out: those that test the kernel's own
# caches or other file systems, or that FUSE of this libfuse cannot answer (file leases).
STRESSORS = """
    access chattr chdir chmod chown copy-file dentry dir dirdeep dirmany fallocate fault fcntl fiemap file-ioctl
    filename flock fpunch fsize fstat getdent hdd inode-flags io iomix link locka lockf lockofd metamix mknod mmap
    msync open readahead rename revio seek sendfile splice symlink sync-file touch unlink utime verity xattr
""".split()
SHORT = ["chattr", "chmod", "dentry", "dir", "fallocate", "fpunch", "hdd", "inode-flags", "iomix", "link", "metamix",
         "mmap", "msync", "open", "rename", "seek", "symlink", "sync-file", "unlink", "utime", "xattr"]


def stress(base, stressors, seconds, workers):
    words = []
    for name in stressors:
        words += [f"--{name}", workers]
    # The files are small, so that the time goes into operations.
    sizes = ["--hdd-bytes", "16m", "--iomix-bytes", "16m", "--fallocate-bytes", "64m", "--mmap-bytes", "16m",
             "--seek-size", "16m", "--dirdeep-inodes", "2000"]
    used = [word for index in range(0, len(sizes), 2) if sizes[index][2:].rsplit("-", 1)[0] in stressors
            for word in sizes[index:index + 2]]
    output = run("stress-ng", "--verify", "--temp-path", base, "--timeout", f"{seconds:.0f}s", "--seed", SEED,
                 *words, *used, status=None, timeout=seconds + 120)
    failures = re.findall(r"^.*(?:fail:|error:).*$", output, re.M)
    assert not failures, "\n".join(failures[:10])
    assert "successful run completed" in output and "unsuccessful" not in output, output[-1500:]


def known():
    """What this version of stress-ng has."""
    have = set(run("stress-ng", "--stressors").split())
    return [name for name in (SHORT if LENGTH == "short" else STRESSORS) if name in have]


@check("each file stressor of stress-ng verifies what it gets back", need=missing_tool("stress-ng"))
def each(mountpoint):
    base = fresh(mountpoint, "stress")
    os.chmod(base, 0o777)
    failed = [name for name in known() if not attempt(f"stress-ng {name}", stress, base, [name], pick(1, 10), 2)]
    assert not failed, " ".join(failed)


def together(mountpoint):
    names, size = known(), 5
    groups = [names[start:start + size] for start in range(0, len(names), size)]
    for group in groups:
        stress(fresh(mountpoint, "stress-soak"), group, MINUTES * 60 / len(groups), 4)


if LENGTH == "soak":
    check(f"five at a time, 4 workers each, for {MINUTES:g} minutes", need=missing_tool("stress-ng"))(together)

if __name__ == "__main__":
    main()
