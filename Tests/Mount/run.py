#!/usr/bin/env python3
"""Tests jext4 on live mounts: run.py [--length short|long|soak] [--only NAME]... [--fs jext4|kernel] ...

Two kinds of programs stand beside this one. Those in ON_MOUNT take the directory of a fresh mount; when they are done,
the tree is digested through the mount, and after umount e2fsck must have nothing to say, the kernel must see the same
tree, and so must a second mount. Those in ON_SCRATCH take a scratch directory and make their own images and mounts.
Needs root, /dev/fuse and loop devices. Prints `N passed, N failed, N skipped`; answers 1 if anything failed.
"""
import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))

# Program -> (size of its image, options of mke2fs).
ON_MOUNT = {
    "posix_names.py": ("1G", ["-N", "200000"]),
    "posix_files.py": ("1G", []),
    "posix_attributes.py": ("512M", []),
    "git_clone.py": ("1G", []),
    "tar_trees.py": ("3G", []),
    "sqlite_transactions.py": ("512M", []),
    "compile_project.py": ("512M", []),
    "random_writes.py": ("1G", []),
    "stress_ng.py": ("4G", []),
}
ON_SCRATCH = ["mounting.py", "users.py", "features.py", "space.py", "bad_images.py", "kill.py", "fast_commits.py",
              "shutdown.py", "recording.py", "batches.py", "rings.py", "writeback.py", "large_volume.py",
              "indirect.py", "inline.py", "clusters.py"]
# What those programs share.
SHARED = ["run.py", "harness.py", "imageedit.py", "programs.py", "treedigest.py"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jext4", default=os.path.join(HERE, "../../.build/release/jext4"), help="the command to test")
    parser.add_argument("--tools", help="where the C programs are (default: .build/tools)",
                        default=os.path.join(HERE, "../../.build/tools"))
    parser.add_argument("--fs", default="jext4", choices=["jext4", "kernel"], help="the system under test")
    parser.add_argument("--length", default="short", choices=["short", "long", "soak"])
    parser.add_argument("--minutes", type=float, default=10, help="how long stress-ng runs in a soak")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="programs whose name has this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", help="a directory on a disk with some GiB free (default: a new one in /var/tmp)")
    parser.add_argument("--options", default="", help="words for -o of every mount, such as io_uring")
    parser.add_argument("--list", action="store_true", help="print the programs and end")
    return parser.parse_args()


def set_environment(options):
    os.environ.update(JEXT4=os.path.abspath(options.jext4), JEXT4_TOOLS=os.path.abspath(options.tools),
                      JEXT4_FS=options.fs, JEXT4_LENGTH=options.length, JEXT4_MINUTES=str(options.minutes),
                      JEXT4_OPTIONS=options.options, JEXT4_SEED=str(options.seed), PYTHONDONTWRITEBYTECODE="1",
                      PYTHONUNBUFFERED="1")


class Tally:
    """Prints what programs say and counts it."""

    def __init__(self):
        self.passed, self.failed, self.skipped, self.failures = 0, 0, 0, []

    def take(self, program, line):
        kinds = {"ok - ": "passed", "not ok - ": "failed", "skip - ": "skipped"}
        for prefix, kind in kinds.items():
            if line.startswith(prefix):
                setattr(self, kind, getattr(self, kind) + 1)
                if kind == "failed":
                    self.failures.append(f"{program}: {line[len(prefix):]}")
        print("  " + line, flush=True)

    def fail(self, program, text):
        self.take(program, f"not ok - {text}")


def run_program(program, argument, tally, timeout):
    """Runs one program in its own process group, so that a hung one can be ended with its children."""
    before = tally.failed
    child = subprocess.Popen([sys.executable, os.path.join(HERE, program), argument], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)

    def expire(*_):
        raise TimeoutError
    signal.signal(signal.SIGALRM, expire)
    signal.alarm(int(timeout))
    try:
        for line in child.stdout:
            tally.take(program, line.decode(errors="backslashreplace").rstrip())
        status = child.wait()
        signal.alarm(0)
        if status != 0 and tally.failed == before:
            tally.fail(program, f"the program ended with {status}")
    except TimeoutError:
        tally.fail(program, f"no end in {timeout:.0f} s")
    finally:
        signal.alarm(0)
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def run_on_mount(program, scratch, tally, timeout):
    """Image, mount, program, digest, umount, e2fsck, the kernel, a second mount."""
    import harness
    import treedigest
    size, options = ON_MOUNT[program]
    directory, other = os.path.join(scratch, "mnt"), os.path.join(scratch, "kernel")
    image = harness.make_image(os.path.join(scratch, "image"), size, *options)
    mount = harness.Mount(image, directory)
    try:
        run_program(program, directory, tally, timeout)
        with harness.watchdog(mount, timeout):
            seen = treedigest.tree(directory)
        mount.unmount()
    except BaseException:
        harness.take_down(mount)
        raise

    def again():
        with harness.mounted(image, directory):
            lines = treedigest.differences(seen, treedigest.tree(directory))
            assert not lines, "a second mount (second) sees another tree:\n  " + "\n  ".join(lines)

    for rule, function, arguments_ in [
        ("e2fsck has nothing to say after umount", harness.expect_clean, (image,)),
        ("the kernel sees the same tree", harness.expect_kernel_sees, (image, seen, other)),
        ("a second mount sees the same tree", again, ()),
    ]:
        try:
            function(*arguments_)
            tally.take(program, f"ok - {rule}")
        except Exception as error:
            tally.fail(program, f"{rule}: {error}")


def main():
    options = arguments()
    programs = [name for name in [*ON_MOUNT, *ON_SCRATCH]
                if not options.only or any(text in name for text in options.only)]
    forgotten = {name for name in os.listdir(HERE) if name.endswith(".py")} - {*ON_MOUNT, *ON_SCRATCH, *SHARED}
    if forgotten or not programs:
        sys.exit(f"in no list: {', '.join(sorted(forgotten))}" if forgotten else "no program has that name")
    if options.list:
        print("\n".join(programs))
        return 0
    set_environment(options)
    sys.path.insert(0, HERE)
    import harness
    missing = harness.missing_root()
    if missing:
        failed = len(programs) if harness.IN_CI else 0
        print(f"mount tests need {missing}")
        print(f"0 passed, {failed} failed, {len(programs) - failed} skipped")
        return 1 if failed else 0
    if options.fs == "jext4" and not os.access(harness.JEXT4, os.X_OK):
        print(f"{harness.JEXT4}: not there; make build first")
        return 1

    tally, start = Tally(), time.monotonic()
    base = options.scratch or tempfile.mkdtemp(prefix="jext4-mount-", dir="/var/tmp")
    os.makedirs(base, exist_ok=True)
    os.chmod(base, 0o755)
    timeout = harness.pick(240, 1800, 3600 + 60 * options.minutes)
    for program in programs:
        began = time.monotonic()
        print(f"{program}", flush=True)
        scratch = os.path.join(base, program.removesuffix(".py"))
        os.makedirs(scratch, exist_ok=True)
        try:
            if program in ON_MOUNT:
                run_on_mount(program, scratch, tally, timeout)
            else:
                run_program(program, scratch, tally, timeout)
        except Exception as error:
            tally.fail(program, f"{type(error).__name__}: {error}")
        harness.clean_up(scratch)
        shutil.rmtree(scratch, ignore_errors=True)
        print(f"  {time.monotonic() - began:.1f} s", flush=True)
    if not options.scratch:
        shutil.rmtree(base, ignore_errors=True)
    for failure in tally.failures:
        print(f"failed: {failure}")
    print(f"mount tests ({options.fs}, {options.length}, seed {options.seed}) in {time.monotonic() - start:.0f} s:")
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
