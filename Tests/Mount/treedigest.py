#!/usr/bin/env python3
"""What a tree looks like from outside, for comparison: treedigest.py ROOT [OTHER]

With one root prints a line per object; with two compares, prints the differences and answers 1 if there are any.
A record has type, mode, owner, links, size, device, mtime (ns), extended attributes and a hash of the content. Access
and change times are left out: looking changes the first, and nothing can set the second.
"""
import hashlib
import os
import stat
import sys

CHUNK = 1 << 20


def content(path, size):
    """A hash of the bytes that are not zero and of where they stand: a hole and written zeros look the same."""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        at = 0
        while at < size:
            try:
                at = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError:
                break  # ENXIO: nothing but a hole from here to the end.
            at -= at % CHUNK
            data = os.pread(descriptor, min(CHUNK, size - at), at)
            if not data:
                digest.update(b"short")
                break
            if data.count(0) != len(data):
                # The last piece may be short: what is cut off it would be zeros, but the size is compared anyway.
                digest.update(at.to_bytes(8, "big") + data)
            at += CHUNK
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def attributes(path):
    found = {}
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        found[name] = hashlib.sha256(os.getxattr(path, name, follow_symlinks=False)).hexdigest()[:16]
    return found


def record(path, info, hashes):
    kind = stat.S_IFMT(info.st_mode)
    found = {
        "type": stat.filemode(info.st_mode)[0],
        "mode": oct(stat.S_IMODE(info.st_mode)),
        "uid": info.st_uid,
        "gid": info.st_gid,
        "nlink": info.st_nlink,
        "size": info.st_size,
        "mtime_ns": info.st_mtime_ns,
        "xattrs": attributes(path),
    }
    if kind == stat.S_IFREG:
        if info.st_ino not in hashes or info.st_nlink == 1:
            hashes[info.st_ino] = content(path, info.st_size)
        found["content"] = hashes[info.st_ino]
    elif kind == stat.S_IFLNK:
        found["content"] = os.readlink(path).hex()
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        found["device"] = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    return found


def tree(root, ignore=()):
    """Path below the root (bytes) -> record, for the root and all below it, less the fields to ignore."""
    root = os.fsencode(root)
    found, hashes, waiting = {}, {}, [b""]
    while waiting:
        below = waiting.pop()
        path = os.path.join(root, below) if below else root
        info = os.lstat(path)
        found[below] = record(path, info, hashes)
        for field in ignore:
            found[below].pop(field, None)
        if stat.S_ISDIR(info.st_mode):
            waiting.extend(os.path.join(below, name) for name in os.listdir(path))
    return found


def differences(left, right, limit=10):
    """Lines that say how the trees differ, at most `limit` of them."""
    lines = []
    for path in sorted(left.keys() | right.keys()):
        name = path.decode(errors="backslashreplace") or "."
        if path not in right:
            lines.append(f"{name}: only in the first")
        elif path not in left:
            lines.append(f"{name}: only in the second")
        elif left[path] != right[path]:
            one, two = left[path], right[path]
            fields = [field for field in sorted(one.keys() | two.keys()) if one.get(field) != two.get(field)]
            lines.append(f"{name}: " + ", ".join(f"{field} {one.get(field)} / {two.get(field)}" for field in fields))
        if len(lines) >= limit:
            lines.append("... and perhaps more")
            break
    return lines


def main():
    if len(sys.argv) == 2:
        for path, fields in sorted(tree(sys.argv[1]).items()):
            print(path.decode(errors="backslashreplace") or ".", *(f"{k}={v}" for k, v in fields.items()))
        return 0
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    lines = differences(tree(sys.argv[1]), tree(sys.argv[2]))
    print("\n".join(lines) if lines else "the same")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
