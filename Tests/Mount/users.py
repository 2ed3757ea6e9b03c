#!/usr/bin/env python3
"""Mounts of users without root, which go through fusermount3: users.py SCRATCH"""
import os
import shutil
import stat

from harness import JEXT4, NOBODY, check, expect_clean, kernel_mount, main, make_image, missing_root, missing_server, \
    missing_tool, needs_recovery, run, wait_until


def needs():
    return missing_root() or missing_server() or missing_tool("fusermount3", "unshare", "setpriv")()


def with_user(scratch, script):
    """Runs a script as root, in which `user COMMAND` runs a command without root; $jext4 is the command under test, and
    $image and $dir are the user's. Answers image and directory."""
    image = make_image(os.path.join(scratch, "image"), "64M", "-E", f"root_owner={NOBODY}:{NOBODY}")
    directory, program = os.path.join(scratch, "mine"), os.path.join(scratch, "jext4")
    os.makedirs(directory, exist_ok=True)
    shutil.copy(JEXT4, program)
    os.chmod(program, 0o755)
    for path in (image, directory):
        os.chown(path, NOBODY, NOBODY)
    # In a mount namespace of its own everybody may open /dev/fuse, as on most machines.
    device = os.path.join(scratch, "fuse")
    if not os.path.exists(device):
        os.mknod(device, stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
    os.chmod(device, 0o666)
    os.chmod(scratch, 0o777)
    begin = f"""set -e
        mount --bind '{device}' /dev/fuse
        user() {{ setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups "$@"; }}
        jext4='{program}' image='{image}' dir='{directory}'
        """
    run("unshare", "-m", "sh", "-c", begin + script, timeout=60)
    return image, directory


@check("a user without root mounts, syncs and unmounts through fusermount3", need=needs)
def without_root(scratch):
    _, directory = with_user(scratch, """
        user $jext4 mount $image $dir
        user sh -c "mkdir $dir/dir; echo text > $dir/dir/file"
        user $jext4 sync $dir
        cp $image $dir.cut
        user $jext4 umount $dir
        cp $image $dir.now""")
    assert not needs_recovery(directory + ".now"), "jext4 umount returned too early"
    run("e2fsck", "-fy", "-E", "journal_only", directory + ".cut", status=None)
    for copy in (directory + ".now", directory + ".cut"):
        expect_clean(copy)
        with kernel_mount(copy, directory):
            assert os.listdir(f"{directory}/dir") == ["file"], copy


@check("root syncs the mount of a user, whose files it may not see", need=needs)
def root_syncs(scratch):
    _, directory = with_user(scratch, """
        user $jext4 mount -o writeback,commit=600 $image $dir
        user sh -c "echo text > $dir/file"
        $jext4 sync $dir
        cp $image $dir.cut
        user $jext4 umount $dir""")
    run("e2fsck", "-fy", "-E", "journal_only", directory + ".cut", status=None)
    expect_clean(directory + ".cut")
    with kernel_mount(directory + ".cut", directory), open(f"{directory}/file", encoding="ascii") as file:
        assert file.read() == "text\n"


@check("jext4 umount says so when there is no word of how it went", need=needs)
def silent_umount(scratch):
    # The socket lies where the second command does not look.
    image, _ = with_user(scratch, """
        mkdir -p $dir.run; chmod 777 $dir.run
        user env XDG_RUNTIME_DIR=$dir.run $jext4 mount $image $dir
        status=0; said=$(user env -u XDG_RUNTIME_DIR $jext4 umount $dir 2>&1) || status=$?
        test $status = 32
        case "$said" in *"cannot reach the server"*) ;; *) exit 1 ;; esac
        if grep -q " $dir " /proc/self/mountinfo; then exit 1; fi""")
    wait_until(lambda: not needs_recovery(image), "the server did not end")
    expect_clean(image)


@check("a server that may have no further thread goes on with those that it has", need=needs)
def without_threads(scratch):
    image, _ = with_user(scratch, """
        user $jext4 mount $image $dir
        user prlimit --nproc=1:1 --pid $($jext4 status $dir | sed -n 's/^process: //p')
        user sh -c "for number in $(seq -s ' ' 40); do
            dd if=/dev/zero of=$dir/\\$number bs=64k count=4 conv=fsync status=none || touch $dir.failed &
        done; wait"
        user $jext4 umount $dir""")
    assert not os.path.exists(image.replace("image", "mine.failed")), "a write failed"
    expect_clean(image)


if __name__ == "__main__":
    main("SCRATCH")
