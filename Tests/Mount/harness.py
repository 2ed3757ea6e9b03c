"""What the mount tests share: systems under test, images, oracles, and the lines that the driver counts.

A test program prints `ok - RULE`, `not ok - RULE: WHY` or `skip - RULE: WHY` for each rule that it checked. It learns
what to test from the environment (run.py sets it; run by hand, the defaults below hold):
  JEXT4_FS       jext4 (default) or kernel: the system under test. The kernel is there to test the tests.
  JEXT4          the command under test
  JEXT4_TOOLS    where the Makefile puts the C programs
  JEXT4_LENGTH   short (CI), long or soak
  JEXT4_MINUTES  how long a soak stresses
  JEXT4_SEED     what random choices start from
  CI             a need that is not met is a failure, not a skip
"""
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback

import treedigest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SYSTEM = os.environ.get("JEXT4_FS", "jext4")
JEXT4 = os.path.abspath(os.environ.get("JEXT4", os.path.join(ROOT, ".build/release/jext4")))
TOOLS = os.path.abspath(os.environ.get("JEXT4_TOOLS", os.path.join(ROOT, ".build/tools")))
LENGTH = os.environ.get("JEXT4_LENGTH", "short")
MINUTES = float(os.environ.get("JEXT4_MINUTES", "10"))
SEED = int(os.environ.get("JEXT4_SEED", "1"))
IN_CI = os.environ.get("CI") == "true"
NOBODY = 65534

os.environ["PATH"] += ":/usr/sbin:/sbin"
os.environ["LC_ALL"] = "C.UTF-8"


class Skip(Exception):
    """A need that is not met; says which."""


class MountFailed(Exception):
    def __init__(self, status, output):
        super().__init__(f"mount failed with {status}: {output.strip()[-500:]}")
        self.status, self.output = status, output


def pick(short, long=None, soak=None):
    """The figure for the length asked for."""
    long = short if long is None else long
    return {"short": short, "long": long, "soak": long if soak is None else soak}[LENGTH]


def run(*command, status=0, timeout=120, **options):
    """Runs a command, answers its output, raises if its status is not the expected one (None: any).

    The output is both streams; who parses it line by line gives stderr=, for a message may land within a line.
    """
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    done = subprocess.run([str(word) for word in command], timeout=timeout, check=False, **(streams | options))
    output = done.stdout.decode(errors="backslashreplace")
    if status is not None and done.returncode != status:
        raise AssertionError(f"{' '.join(map(str, command))}: status {done.returncode}: {output.strip()[-1500:]}")
    return output


# Checks: functions registered in order, each one rule.
_checks = []
# Servers that were started, so that a check that failed leaves none behind.
_mounts = []


def check(rule, need=None):
    """Registers a function as the check of `rule`. `need` answers None, or what is missing."""
    def register(function):
        _checks.append((rule, need, function))
        return function
    return register


def report(rule, failure=None, skipped=None):
    """One line for the driver; answers whether the rule held."""
    if skipped is not None and IN_CI:
        failure, skipped = f"needs {skipped}", None
    if skipped is not None:
        print(f"skip - {rule}: needs {skipped}", flush=True)
    elif failure is not None:
        print(f"not ok - {rule}: {failure}", flush=True)
    else:
        print(f"ok - {rule}", flush=True)
    return failure is None


def attempt(rule, function, *arguments):
    """Runs a function as the check of a rule and reports it."""
    try:
        function(*arguments)
    except Skip as skip:
        return report(rule, skipped=str(skip))
    except Exception as error:  # Whatever goes wrong, the other rules are still to be checked.
        where = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(where) if not frame.filename.endswith("harness.py")), 0)
        return report(rule, f"{type(error).__name__} (line {line}): {error}")
    return report(rule)


def main(argument="MOUNTPOINT"):
    """Runs the registered checks on the one argument of the program; --only TEXT picks by rule."""
    words = sys.argv[1:]
    only = words.pop(words.index("--only") + 1) if "--only" in words else ""
    words = [word for word in words if word != "--only"]
    if len(words) != 1:
        print(f"usage: {os.path.basename(sys.argv[0])} {argument} [--only TEXT]\n{sys.modules['__main__'].__doc__}")
        sys.exit(2)
    good = True
    for rule, need, function in _checks:
        if only not in rule:
            continue
        missing = need() if need else None
        held = report(rule, skipped=missing) if missing else attempt(rule, function, words[0])
        good &= held
        if not held and argument == "SCRATCH":
            for mount in _mounts:
                take_down(mount)
            clean_up(words[0])
    sys.exit(0 if good else 1)


def expect_errno(number, function, *arguments, **options):
    """The call must fail with this errno."""
    try:
        function(*arguments, **options)
    except OSError as error:
        assert error.errno == number, f"expected {errno_name(number)}, got {errno_name(error.errno)}"
        return
    raise AssertionError(f"expected {errno_name(number)}, but it succeeded")


def errno_name(number):
    import errno
    return errno.errorcode.get(number, str(number))


def wait_until(condition, what, seconds=20):
    """Polls; fails with what is the matter when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def fresh(mountpoint, name):
    """An empty directory of this name on the mount, for one check."""
    path = os.path.join(mountpoint, name)
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path


# Images and oracles.
def make_image(path, size, *options, kind="ext4"):
    """A fresh image of `size` (mke2fs's notation), with mke2fs's defaults where the options say nothing else."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    run("mke2fs", "-q", "-F", "-t", kind, *options, path, size)
    return path


def needs_recovery(image):
    return "needs_recovery" in run("dumpe2fs", "-h", image)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expect_clean(image):
    """e2fsck, forced and read-only, must have nothing to say."""
    done = subprocess.run(["e2fsck", "-fn", image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=1200, check=False)
    output = done.stdout.decode(errors="backslashreplace")
    # The status alone would do, but what e2fsck holds harmless enough for status 0 is a complaint all the same.
    complaints = [word for word in ("Fix? no", "IGNORED", "WARNING") if word in output]
    if done.returncode != 0 or complaints:
        raise AssertionError(f"e2fsck -fn (status {done.returncode}): {output.strip()[-1500:]}")


def is_mounted(directory):
    wanted = os.path.realpath(directory)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return any(line.split()[4].encode().decode("unicode_escape") == wanted for line in table)


@contextlib.contextmanager
def kernel_mount(image, directory, options="ro,noload"):
    """The kernel's ext4 on the image, for as long as the block lasts."""
    os.makedirs(directory, exist_ok=True)
    run("mount", "-t", "ext4", "-o", "loop," + options, image, directory)
    try:
        yield directory
    finally:
        run("umount", directory)


def expect_kernel_sees(image, seen, directory, ignore=()):
    """The kernel must see on the image the tree that was seen through the system under test."""
    with kernel_mount(image, directory):
        lines = treedigest.differences(seen, treedigest.tree(directory, ignore))
    assert not lines, "the kernel (second) sees another tree:\n  " + "\n  ".join(lines)


# Systems under test.
class Mount:
    """A mounted image. `process` is the server, where there is one."""

    def __init__(self, image, directory, options="", timeout=60):
        os.makedirs(directory, exist_ok=True)
        self.image, self.directory, self.process, self.log = image, directory, None, directory.rstrip("/") + ".log"
        start = time.monotonic()
        _mounts.append(self)
        if SYSTEM == "kernel":
            words = [word for word in options.split(",") if word and not word.startswith(("allow_other", "cache_size"))]
            done = subprocess.run(["mount", "-t", "ext4", "-o", ",".join(["loop"] + words), image, directory],
                                  capture_output=True, check=False)
            if done.returncode != 0:
                raise MountFailed(done.returncode, done.stderr.decode())
        else:
            self._start_server(options, timeout)
        self.seconds = time.monotonic() - start

    def _start_server(self, options, timeout):
        words = ",".join(word for word in ["allow_other", os.environ.get("JEXT4_OPTIONS"), options] if word)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([JEXT4, "mount", "-f", "-o", words, self.image, self.directory],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + timeout
        while not is_mounted(self.directory):
            if self.process.poll() is not None:
                raise MountFailed(self.process.returncode, self.output())
            if time.monotonic() > deadline:
                self.process.kill()
                raise MountFailed(None, "not mounted in time: " + self.output())
            time.sleep(0.002)
        os.stat(self.directory)

    def output(self):
        with open(self.log, "rb") as log:
            return log.read().decode(errors="backslashreplace")

    def unmount(self, timeout=60):
        """Returns when everything is on the image. A server that does not end well is a failure."""
        if self.process is None:
            run("umount", self.directory, timeout=timeout)
            return
        run(JEXT4, "umount", self.directory, timeout=timeout)
        status = self.process.wait(timeout)
        assert status == 0, f"the server ended with {status}: {self.output()[-1500:]}"

    def kill(self):
        """SIGKILL, and what an administrator does after it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        subprocess.run(["umount", "-l", self.directory], stderr=subprocess.DEVNULL, check=False)

    def resident_bytes(self, peak=False):
        """The server's resident memory now, or the most it ever was."""
        if self.process is None:
            raise Skip("a server process")
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:" if peak else "VmRSS:"):
                    return int(line.split()[1]) * 1024
        raise AssertionError("the server is gone")


@contextlib.contextmanager
def mounted(image, directory, options=""):
    """The system under test on the image. On an exception the mount is taken down hard."""
    mount = Mount(image, directory, options)
    try:
        yield mount
    except BaseException:
        take_down(mount)
        raise
    mount.unmount()


@contextlib.contextmanager
def watchdog(mount, seconds):
    """Kills the server if the block does not end in time: what waits for it then gets ENOTCONN instead of hanging."""
    timer = threading.Timer(seconds, mount.process.kill) if mount.process else None
    if timer:
        timer.start()
    try:
        yield
    finally:
        if timer:
            timer.cancel()


def take_down(mount):
    """Whatever state it is in, it is gone afterwards."""
    if mount.process is not None and mount.process.poll() is None:
        mount.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            mount.process.wait(10)
    subprocess.run(["umount", "-l", mount.directory], stderr=subprocess.DEVNULL, check=False)


def clean_up(scratch):
    """Unmounts what is mounted below the scratch directory and detaches its loop devices."""
    scratch = os.path.realpath(scratch)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        points = [line.split()[4] for line in table]
    for point in sorted(points, reverse=True):
        if point.startswith(scratch + "/"):
            subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL, check=False)
    loops = subprocess.run(["losetup", "-nlO", "NAME,BACK-FILE"], capture_output=True, check=False).stdout.decode()
    for line in loops.splitlines():
        name, _, backing = line.partition(" ")
        if backing.strip().startswith(scratch + "/"):
            subprocess.run(["losetup", "-d", name], stderr=subprocess.DEVNULL, check=False)


def missing_root():
    """What a live mount lacks here, or None."""
    if os.geteuid() != 0:
        return "root"
    if SYSTEM != "kernel" and not os.path.exists("/dev/fuse"):
        return "/dev/fuse"
    return None if os.path.exists("/dev/loop-control") else "loop devices"


def missing_server():
    """A need of tests that kill or measure the server process."""
    return "a server process (the kernel has none)" if SYSTEM == "kernel" else None


def missing_tool(*names):
    """A need: the first of these commands that is not in PATH."""
    return lambda: next((name for name in names if shutil.which(name) is None), None)
