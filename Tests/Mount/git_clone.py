#!/usr/bin/env python3
"""A real repository cloned, checked, changed and packed: git_clone.py MOUNTPOINT"""
import os
import shutil

from harness import ROOT, check, fresh, main, missing_tool, run

# The owner of the clone need not be the owner of this repository.
GIT = ["git", "-c", "safe.directory=*", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "gc.auto=0"]


def source(base):
    """This project's repository; where there is only a tree without history, a repository made of it."""
    if os.path.exists(os.path.join(ROOT, ".git")):
        return ROOT
    shutil.copytree(ROOT, f"{base}/source", ignore=shutil.ignore_patterns(".build*", "mnt", "*.img"))
    run(*GIT, "init", "-q", f"{base}/source")
    run(*GIT, "-C", f"{base}/source", "add", "-A")
    run(*GIT, "-C", f"{base}/source", "commit", "-qm", "all")
    return f"{base}/source"


@check("git clones a repository, and fsck finds every object whole", need=missing_tool("git"))
def clone(mountpoint):
    base = fresh(mountpoint, "git")
    os.environ.update(GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="safe.directory", GIT_CONFIG_VALUE_0="*")
    origin = source(base)
    run(*GIT, "clone", "-q", "--no-hardlinks", f"file://{origin}", f"{base}/clone")
    run(*GIT, "-C", f"{base}/clone", "fsck", "--full", "--strict")
    assert run(*GIT, "-C", f"{base}/clone", "status", "--porcelain") == ""
    head = run(*GIT, "-C", f"{base}/clone", "rev-parse", "HEAD")
    assert head == run(*GIT, "-C", origin, "rev-parse", "HEAD")


@check("branches, commits, checkouts and gc leave the clone whole", need=missing_tool("git"))
def work(mountpoint):
    here = ["-C", os.path.join(mountpoint, "git/clone")]
    run(*GIT, *here, "checkout", "-qb", "work")
    for number in range(5):
        with open(os.path.join(here[1], f"note-{number}"), "w", encoding="ascii") as file:
            file.write(f"{number}\n" * 1000)
        run(*GIT, *here, "add", "-A")
        run(*GIT, *here, "commit", "-qm", f"note {number}")
    run(*GIT, *here, "checkout", "-q", "HEAD~3")
    run(*GIT, *here, "checkout", "-q", "work")
    run(*GIT, *here, "gc", "-q", "--prune=now")
    run(*GIT, *here, "fsck", "--full", "--strict")
    assert run(*GIT, *here, "status", "--porcelain") == ""


if __name__ == "__main__":
    main()
