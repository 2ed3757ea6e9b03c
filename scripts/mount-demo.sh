#!/bin/bash
# What `make mount` does once jext4 is built: scripts/mount-demo.sh JEXT4 IMAGE DIR BYTES [OPTIONS]
# Makes IMAGE with mke2fs if it is not there (only the default one: a name that was given must exist), and mounts it.
set -euo pipefail

jext4=$1 image=$2 dir=$3 bytes=$4 options=${5-}
PATH=$PATH:/usr/sbin:/sbin

fail() { printf '%s\n' "$*" >&2; exit 1; }

[[ -c /dev/fuse ]] ||
    fail "/dev/fuse is not there: load the module (modprobe fuse), or give the container --device /dev/fuse"

if [[ ! -e $image ]]; then
    [[ $image == demo.img ]] || fail "$image: no such image (leave IMAGE out to get a demo image)"
    truncate -s "$bytes" "$image.new"
    mke2fs -q -t ext4 -L jext4-demo -E "root_owner=$(id -u):$(id -g)" "$image.new"
    mv "$image.new" "$image"
    echo "made $image ($bytes, sparse)"
fi

mkdir -p "$dir"
if mountpoint -q "$dir"; then
    echo "$dir is already mounted"
else
    "$jext4" mount ${options:+-o "$options"} "$image" "$dir"
fi

hint() { printf '  %-42s  %s\n' "$@"; }

printf '\n%s is mounted at %s. Try:\n\n' "$image" "$dir"
hint "cp -r Sources $dir/ && ls -l $dir/Sources" 'it is a file system like any other'
hint "$jext4 status $dir" 'what is mounted, and how full it is'
hint "make umount DIR=$dir" 'returns when everything is on the image'
hint "e2fsck -fn $image" 'after that: nothing to say'
printf '\nYour own image or disk: make mount IMAGE=/path/to/image DIR=/path/to/dir OPTIONS=ro\n'
