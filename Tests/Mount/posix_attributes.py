#!/usr/bin/env python3
"""Times, modes, owners, extended attributes and ACLs as POSIX and Linux say: posix_attributes.py MOUNTPOINT"""
import ctypes
import errno
import os
import stat
import subprocess
import time

from harness import NOBODY, check, expect_errno, fresh, main, missing_tool, run

SECOND = 10**9
libc = ctypes.CDLL(None, use_errno=True)
acl_tools = missing_tool("setfacl", "getfacl")
flag_tools = missing_tool("lsattr", "chattr")


def as_nobody(function, *arguments, groups=()):
    """Calls the function in a child that is uid and gid nobody, and in the groups; answers the errno it met, 0 for
    success."""
    child = os.fork()
    if child == 0:
        status = 255
        try:
            os.setgroups(groups)
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            function(*arguments)
            status = 0
        except OSError as error:
            status = error.errno
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def touched(path, mode=0o644):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode))
    os.chmod(path, mode)
    return path


def read(path):
    os.read(os.open(path, os.O_RDONLY), 1)


def write(path):
    os.write(os.open(path, os.O_WRONLY), b"x")


def allocate(path):
    os.posix_fallocate(os.open(path, os.O_WRONLY), 0, 100_000)


def copy(path):
    os.copy_file_range(os.open(path, os.O_RDONLY), os.open(path, os.O_WRONLY), 1, 0, 10)


def create(path):
    os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL)


@check("times from 1901 to 2446 are kept to the nanosecond")
def times(mountpoint):
    path = touched(f"{fresh(mountpoint, 'times')}/file")
    for seconds in [-(2**31), -1, 0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 4_102_444_800, 3 * 2**32 + 2**31 - 1]:
        # At both ends Linux clamps to the whole second.
        for nanoseconds in [0] if seconds in (-(2**31), 3 * 2**32 + 2**31 - 1) else [0, 1, 999_999_999]:
            wanted = seconds * SECOND + nanoseconds
            os.utime(path, ns=(wanted, wanted))
            info = os.stat(path)
            assert (info.st_atime_ns, info.st_mtime_ns) == (wanted, wanted), f"{wanted}: {info.st_mtime_ns}"


@check("each call changes the times that POSIX says, and no others")
def time_updates(mountpoint):
    base = fresh(mountpoint, "updates")
    path, old = touched(f"{base}/file"), 10**18

    def changed(action):
        for name in (path, base):
            if os.path.lexists(name):
                os.utime(name, ns=(old, old))
        before = os.stat(path)
        time.sleep(0.02)
        action()
        after, parent = os.stat(path if os.path.exists(path) else f"{base}/moved"), os.stat(base)
        return (after.st_mtime_ns != old, after.st_ctime_ns != before.st_ctime_ns, parent.st_mtime_ns != old)

    def append():
        with open(path, "ab") as file:
            file.write(b"x")

    def shorten():
        os.truncate(path, 0)
    assert changed(append) == (True, True, False), "write"
    assert changed(shorten) == (True, True, False), "truncate"
    assert changed(lambda: os.chmod(path, 0o600)) == (False, True, False), "chmod"
    assert changed(lambda: os.setxattr(path, "user.k", b"v")) == (False, True, False), "setxattr"
    assert changed(lambda: os.link(path, f"{base}/hard")) == (False, True, True), "link"
    assert changed(lambda: os.unlink(f"{base}/hard")) == (False, True, True), "unlink"
    assert changed(lambda: os.mkdir(f"{base}/dir")) == (False, False, True), "mkdir"
    mtime, _, parent = changed(lambda: os.rename(path, f"{base}/moved"))
    assert (mtime, parent) == (False, True), "rename"


@check("reading moves the access time when it is older than the change, and not again at once (relatime)")
def relatime(mountpoint):
    path = touched(f"{fresh(mountpoint, 'relatime')}/file")
    with open(path, "wb") as file:
        file.write(b"content" * 1000)
    now = time.time_ns()
    os.utime(path, ns=(now - 100 * SECOND, now - 50 * SECOND))

    def look():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.read()
        return os.stat(path).st_atime_ns
    first = look()
    assert first >= now - SECOND, f"{(now - first) / SECOND:.0f} s old after a read"
    time.sleep(0.05)
    assert look() == first, "moved again though it was newer than mtime and younger than a day"


@check("the times of a new file are now")
def creation_times(mountpoint):
    before = time.time_ns() - SECOND
    info = os.stat(touched(f"{fresh(mountpoint, 'now')}/file"))
    for value in (info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns):
        assert before <= value <= time.time_ns() + SECOND


@check("all mode bits and 32-bit owners are kept")
def modes(mountpoint):
    path = touched(f"{fresh(mountpoint, 'modes')}/file")
    for mode in [0, 0o7777, 0o4755, 0o2755, 0o1777, 0o644]:
        os.chmod(path, mode)
        assert stat.S_IMODE(os.stat(path).st_mode) == mode
    for uid, gid in [(1, 2), (65_534, 65_536), (70_000, 2**31), (2**32 - 2, 2**32 - 2)]:
        os.chown(path, uid, gid)
        assert (os.stat(path).st_uid, os.stat(path).st_gid) == (uid, gid)
    os.symlink("file", f"{mountpoint}/modes/link")
    os.lchown(f"{mountpoint}/modes/link", 5, 6)
    assert os.lstat(f"{mountpoint}/modes/link").st_uid == 5 and os.stat(path).st_uid == 2**32 - 2


@check("set-id bits go when another user writes, allocates or copies, or when the owner changes")
def set_id(mountpoint):
    path = touched(f"{fresh(mountpoint, 'setid')}/file", 0o777)
    with open(path, "wb") as file:
        file.write(bytes(100))
    for change in (write, allocate, copy):
        os.chmod(path, 0o6777)
        change(path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o6777, f"root's {change.__name__}"
        assert as_nobody(change, path) == 0
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o777, f"{change.__name__}: {oct(os.stat(path).st_mode)}"
    os.chmod(path, 0o6777)
    os.chown(path, 1, 1)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o777, oct(os.stat(path).st_mode)
    os.mkfifo(f"{path}-fifo")
    for owner in (1, -1):
        for name in (path, f"{path}-fifo"):
            os.chmod(name, 0o6777)
            before = os.stat(name)
            os.chown(name, owner, owner)
            after = os.stat(name)
            assert stat.S_IMODE(after.st_mode) == 0o777, f"{name}, to {owner}: {oct(after.st_mode)}"
            # Of a file a kernel with a writeback cache says what it thinks.
            assert stat.S_ISREG(after.st_mode) or after.st_ctime_ns > before.st_ctime_ns


@check("without group execution set-group-id stays for the group's members alone")
def set_group_id(mountpoint):
    path = touched(f"{fresh(mountpoint, 'setgid')}/file", 0o666)
    with open(path, "wb") as file:
        file.write(bytes(100))
    for change in (write, allocate, copy, lambda name: os.truncate(name, 50)):
        for owner, groups, mode in [(1, (), 0o666), (1, (7, 1), 0o2666), (NOBODY, (), 0o2666)]:
            os.chown(path, 0, owner)
            os.chmod(path, 0o2666)
            assert as_nobody(change, path, groups=groups) == 0
            found = stat.S_IMODE(os.stat(path).st_mode)
            assert found == mode, f"{change.__name__}, group {owner}, member of {groups}: {oct(found)}"
    os.chown(path, 1, 2)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o2666, "root's chown"
    for group, mode in [(1, 0o644), (7, 0o2644)]:
        os.chown(path, NOBODY, group)
        os.chmod(path, 0o2644)
        assert as_nobody(os.chown, path, NOBODY, NOBODY, groups=(7,)) == 0
        found = stat.S_IMODE(os.stat(path).st_mode)
        assert found == mode, f"chown from group {group}: {oct(found)}"


@check("a set-group-id directory gives its group, and the bit to sub-directories")
def group_inheritance(mountpoint):
    base = fresh(mountpoint, "group")
    os.chown(base, 0, 1234)
    os.chmod(base, 0o2775)
    os.mkdir(f"{base}/dir")
    touched(f"{base}/file")
    assert os.stat(f"{base}/file").st_gid == 1234 and os.stat(f"{base}/dir").st_gid == 1234
    assert os.stat(f"{base}/dir").st_mode & stat.S_ISGID


@check("permission bits and sticky directories bind other users")
def permissions(mountpoint):
    base = fresh(mountpoint, "permissions")
    os.chmod(base, 0o755)
    path = touched(f"{base}/file", 0o640)
    assert as_nobody(read, path) == errno.EACCES and as_nobody(write, path) == errno.EACCES
    os.chmod(path, 0o644)
    assert as_nobody(read, path) == 0 and as_nobody(write, path) == errno.EACCES
    assert as_nobody(create, f"{base}/new") == errno.EACCES
    assert as_nobody(os.chmod, path, 0o777) == errno.EPERM
    assert as_nobody(os.chown, path, NOBODY, NOBODY) == errno.EPERM
    assert as_nobody(os.unlink, path) == errno.EACCES
    os.chmod(base, 0o1777)
    assert as_nobody(create, f"{base}/new") == 0 and os.stat(f"{base}/new").st_uid == NOBODY
    assert as_nobody(os.unlink, path) == errno.EPERM
    assert as_nobody(os.rename, path, path + "2") == errno.EPERM
    assert as_nobody(os.unlink, f"{base}/new") == 0
    os.chmod(base, 0o744)
    assert as_nobody(read, path) == errno.EACCES and as_nobody(os.listdir, base) == 0


@check("user, trusted and security attributes of 0 to 3,000 bytes can be set, listed, replaced and removed")
def extended_attributes(mountpoint):
    base = fresh(mountpoint, "xattrs")
    path = touched(f"{base}/file")
    values = {"user.empty": b"", "user.short": b"value", "user.binary": bytes(range(256)),
              "trusted.t": b"t" * 100, "security.s": b"s" * 60, "user." + "n" * 250: b"long name"}
    for name, value in values.items():
        os.setxattr(path, name, value)
    for name, value in values.items():
        assert os.getxattr(path, name) == value, name
    assert set(values) <= set(os.listxattr(path))
    for size in [1, 60, 100, 500, 3_000, 2_000, 10, 0]:
        os.setxattr(path, "user.short", b"v" * size)
        assert os.getxattr(path, "user.short") == b"v" * size and os.getxattr(path, "trusted.t") == b"t" * 100
    expect_errno(errno.EEXIST, os.setxattr, path, "user.short", b"", os.XATTR_CREATE)
    expect_errno(errno.ENODATA, os.setxattr, path, "user.absent", b"", os.XATTR_REPLACE)
    expect_errno(errno.ENODATA, os.getxattr, path, "user.absent")
    os.removexattr(path, "user.binary")
    expect_errno(errno.ENODATA, os.removexattr, path, "user.binary")
    assert "user.binary" not in os.listxattr(path)
    os.mkdir(f"{base}/dir")
    os.setxattr(f"{base}/dir", "user.on-a-directory", b"d")
    os.symlink("file", f"{base}/link")
    expect_errno(errno.EPERM, os.setxattr, f"{base}/link", "user.k", b"v", 0, follow_symlinks=False)
    os.setxattr(f"{base}/link", "trusted.k", b"v", follow_symlinks=False)


@check("an attribute that does not fit is refused and changes nothing")
def attribute_too_large(mountpoint):
    path = touched(f"{fresh(mountpoint, 'toolarge')}/file")
    os.setxattr(path, "user.a", b"kept")
    for size in (60_000, 65_536):
        try:
            os.setxattr(path, "user.a", b"x" * size)
            assert os.getxattr(path, "user.a") == b"x" * size
            os.setxattr(path, "user.a", b"kept")
        except OSError as error:
            assert error.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE), error
    assert os.getxattr(path, "user.a") == b"kept" and "user.a" in os.listxattr(path)


@check("attributes shared by many files stay each file's own")
def shared_attributes(mountpoint):
    base = fresh(mountpoint, "shared")
    for number in range(50):
        os.setxattr(touched(f"{base}/{number}"), "user.same", b"s" * 2_000)
    os.setxattr(f"{base}/7", "user.same", b"other" * 300)
    os.unlink(f"{base}/8")
    os.removexattr(f"{base}/9", "user.same")
    for number in set(range(50)) - {7, 8, 9}:
        assert os.getxattr(f"{base}/{number}", "user.same") == b"s" * 2_000
    assert os.getxattr(f"{base}/7", "user.same") == b"other" * 300 and os.listxattr(f"{base}/9") == []


@check("trusted attributes are hidden from, and user attributes guarded by the mode against, other users")
def attribute_permissions(mountpoint):
    base = fresh(mountpoint, "guarded")
    os.chmod(base, 0o755)
    path = touched(f"{base}/file", 0o644)
    os.setxattr(path, "trusted.secret", b"t")
    os.setxattr(path, "user.public", b"u")

    def list_public(name):
        if os.listxattr(name) != ["user.public"]:
            raise OSError(errno.EIO, "a name too many")
    assert as_nobody(list_public, path) == 0
    assert as_nobody(os.setxattr, path, "user.public", b"x") == errno.EACCES
    assert as_nobody(os.setxattr, path, "trusted.secret", b"x") == errno.EPERM


@check("an ACL grants and refuses what it says", need=acl_tools)
def acl(mountpoint):
    base = fresh(mountpoint, "acl")
    os.chmod(base, 0o755)
    path = touched(f"{base}/file", 0o600)
    with open(path, "w", encoding="ascii") as file:
        file.write("text")
    assert as_nobody(read, path) == errno.EACCES
    run("setfacl", "-m", f"u:{NOBODY}:r", path)
    assert as_nobody(read, path) == 0 and as_nobody(write, path) == errno.EACCES
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640, "the mask stands in the group bits"
    run("setfacl", "-m", f"u:{NOBODY}:rw", path)
    assert as_nobody(write, path) == 0
    os.chmod(path, 0o600)
    assert as_nobody(read, path) == errno.EACCES, "chmod sets the mask"
    os.chmod(path, 0o644)
    run("setfacl", "-m", f"u:{NOBODY}:-,g::r", path)
    assert as_nobody(read, path) == errno.EACCES, "a named entry comes before other"
    run("setfacl", "-b", path)
    assert as_nobody(read, path) == 0 and "system.posix_acl_access" not in os.listxattr(path)


@check("an ACL that someone outside of the group sets takes set-group-id away", need=acl_tools)
def acl_set_group(mountpoint):
    base = fresh(mountpoint, "acl-set-group")
    os.chmod(base, 0o755)
    for group, kept in [(NOBODY, 0o2000), (1, 0)]:
        path = touched(f"{base}/{group}", 0o600)
        os.chown(path, NOBODY, group)
        os.chmod(path, 0o2750)
        run("setfacl", "-m", "u:1:rx", path)
        value = os.getxattr(path, "system.posix_acl_access")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o2750
        run("setfacl", "-b", path)
        os.chmod(path, 0o2750)
        assert as_nobody(os.setxattr, path, "system.posix_acl_access", value) == 0
        assert os.stat(path).st_mode & 0o2000 == kept, f"group {group}: {oct(os.stat(path).st_mode)}"


@check("a default ACL is inherited, by directories with itself, and takes the umask's place", need=acl_tools)
def default_acl(mountpoint):
    base = fresh(mountpoint, "defaults")
    os.chmod(base, 0o755)
    run("setfacl", "-d", "-m", f"u:{NOBODY}:rwx,g::rx,o::-,m::rwx", base)
    old = os.umask(0o077)
    try:
        os.mkdir(f"{base}/dir", 0o777)
        os.close(os.open(f"{base}/file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mknod(f"{base}/node", stat.S_IFIFO | 0o666)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(f"{base}/file").st_mode) == 0o660, oct(os.stat(f"{base}/file").st_mode)
    assert stat.S_IMODE(os.stat(f"{base}/dir").st_mode) == 0o770, oct(os.stat(f"{base}/dir").st_mode)
    assert stat.S_IMODE(os.stat(f"{base}/node").st_mode) == 0o660, oct(os.stat(f"{base}/node").st_mode)
    assert as_nobody(write, f"{base}/file") == 0 and as_nobody(create, f"{base}/dir/new") == 0
    inherited = run("getfacl", "-cpE", "--default", f"{base}/dir")
    assert inherited == run("getfacl", "-cpE", "--default", base), inherited
    text = run("getfacl", "-cpE", f"{base}/file")
    assert "default:" not in text and ":rwx" in text and "mask::rw-" in text, text


def flags_of(path):
    """The letters that lsattr shows."""
    return set(run("lsattr", "-d", path).split()[0]) - {"-", "e"}


def exchange(old, new):
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), 2) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def change_flags(flags, path):
    """chattr, for whom it is called as."""
    status = subprocess.run(["chattr", flags, path], stderr=subprocess.DEVNULL, check=False).returncode
    if status != 0:
        raise OSError(errno.EPERM, "chattr")


@check("chattr sets what lsattr shows, and says so in the change time", need=flag_tools)
def flags(mountpoint):
    base = fresh(mountpoint, "flags")
    path = touched(f"{base}/file")
    run("chattr", "+dAS", path)
    assert flags_of(path) == set("dAS"), flags_of(path)
    run("chattr", "-dA", path)
    assert flags_of(path) == {"S"}, flags_of(path)
    os.mkdir(f"{base}/dir")
    before = os.stat(f"{base}/dir")
    run("chattr", "+dDT", f"{base}/dir")
    after = os.stat(f"{base}/dir")
    assert after.st_ctime_ns > before.st_ctime_ns and after.st_mtime_ns == before.st_mtime_ns
    assert flags_of(f"{base}/dir") == set("dDT"), flags_of(f"{base}/dir")
    assert flags_of(touched(f"{base}/dir/file")) == {"d"}, "a file inherits what it can have"
    version, _, name = run("lsattr", "-dv", path).split()
    assert int(version) != 0 and name == path, version


@check("chattr +i and +a fix a file at once, and only who may can set them", need=flag_tools)
def fixing_flags(mountpoint):
    base = fresh(mountpoint, "fixing")
    os.chmod(base, 0o777)
    path = touched(f"{base}/file")
    with open(path, "wb") as file:
        file.write(b"content")
    try:
        run("chattr", "+a", path)
        expect_errno(errno.EPERM, os.truncate, path, 1)
        expect_errno(errno.EPERM, os.unlink, path)
        with open(path, "ab") as file:
            file.write(b" and more")
        run("chattr", "-a", path)
        run("chattr", "+i", path)
        expect_errno(errno.EPERM, os.truncate, path, 1)
        expect_errno(errno.EPERM, os.rename, path, f"{base}/other")
        expect_errno(errno.EPERM, exchange, touched(f"{base}/other"), path)
        expect_errno(errno.EPERM, exchange, path, f"{base}/other")
        run("chattr", "+d", path, status=1)
        expect_errno(errno.EPERM, os.chmod, path, 0o600)
        assert as_nobody(change_flags, "-i", path) == errno.EPERM
    finally:
        run("chattr", "-ia", path)
    with open(path, "rb") as file:
        assert file.read() == b"content and more"
    assert as_nobody(change_flags, "+d", path) == errno.EPERM, "it is not theirs"
    os.chown(path, NOBODY, NOBODY)
    assert as_nobody(change_flags, "+d", path) == 0 and flags_of(path) == {"d"}
    assert as_nobody(change_flags, "+i", path) == errno.EPERM and flags_of(path) == {"d"}
    os.unlink(path)


if __name__ == "__main__":
    main()
