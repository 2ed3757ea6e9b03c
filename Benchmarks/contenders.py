"""Who takes part in a benchmark: how each makes its volume, mounts it, and takes it down again."""
import os
import shutil
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# Whether FUSE servers may use io_uring.
SWITCH = "/sys/module/fuse/parameters/enable_uring"


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False, **options)
    output = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: status {done.returncode}: {output.strip()[-800:]}")
    return output


def is_mounted(directory):
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return any(line.split()[4] == directory for line in table)

class Contender:
    """The volume of one contender: an image file (if it has one) and a mount point in a scratch directory."""

    name = ""
    # The one work it takes part in; None: all.
    only_in = None
    # What is known to grow out of all proportion is stopped at a time, and its rate up to there is given.
    needs_limit = False
    # What forgets content cannot take part in works that read back what they wrote.
    keeps_content = True

    def __init__(self, scratch, tools, jext4):
        self.tools, self.jext4, self.process = tools, jext4, None
        self.image = os.path.join(scratch, self.name + ".img")
        self.directory = os.path.join(scratch, self.name)
        os.makedirs(self.directory, exist_ok=True)

    def missing(self):
        """Why it cannot take part, or None."""
        return None

    def make(self, size, inodes, is_filled=False):
        """A fresh volume: the same mke2fs for all, tables written out so that none of it is left for later. When it is
        filled the host has given the image all its blocks.
        """
        if os.path.exists(self.image):
            os.unlink(self.image)
        if is_filled:
            run("dd", "if=/dev/zero", f"of={self.image}", "bs=1M", f"count={int(size[:-1]) << 10}", "conv=fsync")
        run("mke2fs", "-q", "-F", "-t", "ext4", "-N", inodes, "-E",
            "lazy_itable_init=0,lazy_journal_init=0,nodiscard", self.image, size)

    def mount(self):
        raise NotImplementedError

    def unmount(self):
        run("umount", self.directory)
        self.wait()

    def start(self, *command):
        """Starts a server in the foreground and waits for its mount."""
        log = open(self.directory + ".log", "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + 60
        while not is_mounted(self.directory):
            if self.process.poll() is not None or time.monotonic() > deadline:
                with open(self.directory + ".log", encoding="utf-8", errors="replace") as file:
                    raise RuntimeError(f"{self.name} does not mount: {file.read()[-500:]}")
            time.sleep(0.005)

    def server_seconds(self):
        """CPU time that the server has used so far; None where there is none of its own."""
        if self.process is None:
            return None
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            user, system = file.read().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def wait(self):
        if self.process is not None:
            self.process.wait(120)
            self.process = None

    def take_down(self):
        """Whatever state it is in."""
        subprocess.run(["umount", "-l", self.directory], stderr=subprocess.DEVNULL, check=False)
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        if os.path.exists(self.image):
            os.unlink(self.image)


class Jext4(Contender):
    name = "jext4"

    def missing(self):
        return None if os.access(self.jext4, os.X_OK) else f"{self.jext4} is not built"

    def mount(self):
        self.start(self.jext4, "mount", "-f", self.image, self.directory)

    def unmount(self):
        run(self.jext4, "umount", self.directory)
        self.wait()


class WritebackCache(Jext4):
    """jext4 where the kernel collects what is written."""

    name = "writeback"
    only_in = "io"

    def mount(self):
        self.start(self.jext4, "mount", "-f", "-o", "writeback", self.image, self.directory)


class OutOfPlace(Jext4):
    """jext4 with atomic overwrites."""

    name = "outofplace"
    only_in = "overwrites"

    def mount(self):
        self.start(self.jext4, "mount", "-f", "-o", "outofplace", self.image, self.directory)


class Rings(Jext4):
    """jext4 with FUSE over io_uring."""

    name = "io_uring"

    def missing(self):
        return super().missing() or (None if os.path.exists(SWITCH) else "the kernel has no FUSE over io_uring")

    def mount(self):
        with open(SWITCH, encoding="ascii") as file:
            self.former = file.read()[0]
        self.start(self.jext4, "mount", "-f", "-o", "io_uring", self.image, self.directory)

    def wait(self):
        super().wait()
        # The other contenders go as they would without.
        with open(SWITCH, "w", encoding="ascii") as file:
            file.write(self.former)


class Kernel(Contender):
    """The kernel's ext4 on a loop device that does direct I/O, so that nothing is cached twice."""

    name = "kernel"
    loop = None
    options = "defaults"

    def missing(self):
        return None if os.path.exists("/dev/loop-control") else "no loop devices"

    def mount(self):
        self.loop = run("losetup", "--direct-io=on", "-f", "--show", self.image).strip()
        run("mount", "-t", "ext4", "-o", self.options, self.loop, self.directory)

    def unmount(self):
        run("umount", self.directory)
        run("losetup", "-d", self.loop)
        self.loop = None

    def take_down(self):
        super().take_down()
        if self.loop:
            subprocess.run(["losetup", "-d", self.loop], stderr=subprocess.DEVNULL, check=False)


class KernelData(Kernel):
    """The kernel's ext4 with data in its journal: what its overwrites cost where they are to be atomic."""

    name = "data=journal"
    options = "data=journal"
    only_in = "overwrites"


class Fuse2fs(Contender):
    name = "fuse2fs"
    needs_limit = True  # It searches a directory from its first block to its last for every name.

    def missing(self):
        return None if shutil.which("fuse2fs") else "fuse2fs is not installed"

    def mount(self):
        self.start("fuse2fs", "-f", "-o", "rw,allow_other", self.image, self.directory)


class Empty(Contender):
    name = "empty"
    keeps_content = False

    def missing(self):
        return None if os.access(f"{self.tools}/emptyfs", os.X_OK) else "make tools"

    def make(self, size, inodes, is_filled=False):
        pass

    def mount(self):
        writeback = ["-w"] if os.environ.get("BENCH_WRITEBACK") else []
        self.start(f"{self.tools}/emptyfs", *writeback, self.directory)


class Flushed(Empty):
    """The empty server where an fsync waits for what a journal writes and flushes: the limit for any FUSE server with
    group commit. Its log is the file that others have their volume in.
    """

    name = "flushed"
    only_in = "fsync"

    def make(self, size, inodes, is_filled=False):
        run("dd", "if=/dev/zero", f"of={self.image}", "bs=1M", "count=128", "conv=fsync")

    def mount(self):
        self.start(f"{self.tools}/emptyfs", "-s", self.image, self.directory)


ALL = [Kernel, KernelData, Fuse2fs, Empty, Flushed, Jext4, WritebackCache, OutOfPlace, Rings]
