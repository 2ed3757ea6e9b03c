"""Edits of an ext4 image that debugfs refuses to make, with the checksums made right again.

Offsets are the on-disk format's: the super block is at byte 1024, little-endian; with metadata_csum its last word is
the crc32c, from ~0 and not inverted at the end, of what stands before it; a group descriptor's checksum is the low half
of the crc32c of seed, group number and descriptor.
"""
import struct

SUPER, SUPER_SIZE, SUPER_CHECKSUM = 1024, 1024, 0x3FC


def _table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = _table()


def crc32c(seed, data):
    for byte in data:
        seed = TABLE[(seed ^ byte) & 0xFF] ^ seed >> 8
    return seed


class Image:
    """An image open for edits; use it in a with statement."""

    def __init__(self, path):
        self.file = open(path, "r+b")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def read(self, offset, length):
        self.file.seek(offset)
        return self.file.read(length)

    def write(self, offset, data):
        self.file.seek(offset)
        self.file.write(data)

    def word(self, offset, layout="<I"):
        return struct.unpack(layout, self.read(SUPER + offset, struct.calcsize(layout)))[0]

    @property
    def block_size(self):
        return 1024 << self.word(0x18)

    @property
    def seed(self):
        """What every metadata checksum but the super block's starts from (without metadata_csum_seed)."""
        return crc32c(0xFFFFFFFF, self.read(SUPER + 0x68, 16))

    def set_super(self, offset, value, layout="<I", checksum=True):
        """Sets a field of the primary super block, and its checksum unless that is what is to be wrong."""
        self.write(SUPER + offset, struct.pack(layout, value))
        if checksum:
            found = crc32c(0xFFFFFFFF, self.read(SUPER, SUPER_CHECKSUM))
            self.write(SUPER + SUPER_CHECKSUM, struct.pack("<I", found))

    def set_descriptor(self, group, offset, value, layout="<I"):
        """Sets a field of a group descriptor in the first copy, and its checksum."""
        size = self.word(0xFE, "<H") or 32
        at = (self.word(0x14) + 1) * self.block_size + group * size
        descriptor = bytearray(self.read(at, size))
        struct.pack_into(layout, descriptor, offset, value)
        struct.pack_into("<H", descriptor, 0x1E, 0)
        found = crc32c(crc32c(self.seed, struct.pack("<I", group)), descriptor) & 0xFFFF
        struct.pack_into("<H", descriptor, 0x1E, found)
        self.write(at, descriptor)
