import CExt2fs
import Ext4Format

/// A check of an image by libext2fs, in process: whether its bitmaps, its link counts and its names are what a walk
/// through its inodes finds. The library verifies every checksum that it passes.
final class LibraryCheck {
    private let system: ext2_filsys
    private var found: ext2fs_block_bitmap?
    private(set) var complaints: [String] = []
    /// The inode whose blocks or names are being walked.
    private var current: ext2_ino_t = 0
    private var names: [ext2_ino_t: Int] = [:]
    private var links: [ext2_ino_t: Int] = [:]
    private var attributeBlocks: Set<UInt64> = []
    /// Who had a block of each cluster last.
    private var owners: [UInt64: ext2_ino_t] = [:]

    /// Empty: nothing to say.
    static func complaints(of path: String) -> [String] {
        var opened: ext2_filsys?
        let code = ext2fs_open(path, EXT2_FLAG_64BITS, 0, 0, jext4_unix_io_manager(), &opened)
        guard code == 0, let opened else { return [text(code, "open")] }
        let check = LibraryCheck(opened)
        check.run()
        return check.complaints
    }

    private init(_ system: ext2_filsys) { self.system = system }

    deinit {
        if found != nil { ext2fs_free_block_bitmap(found) }
        var system: ext2_filsys? = system
        _ = ext2fs_close_free(&system)
    }

    private static func text(_ code: errcode_t, _ what: String) -> String {
        "libext2fs: \(what): \(String(cString: error_message(code)))"
    }

    @discardableResult private func check(_ code: errcode_t, _ what: @autoclosure () -> String) -> Bool {
        if code != 0 { complaints.append(Self.text(code, what())) }
        return code == 0
    }

    private func run() {
        guard check(ext2fs_read_bitmaps(system), "bitmaps"),
            check(ext2fs_allocate_block_bitmap(system, "found", &found), "memory")
        else { return }
        for group in 0..<system.pointee.group_desc_count { markMetadata(group) }
        walkInodes()
        let code = ext2fs_compare_block_bitmap(system.pointee.block_map, found)
        if code != 0 { complaints.append("libext2fs: the block bitmaps are not those of the inodes") }
        for (inode, stored) in links.sorted(by: { $0.key < $1.key }) {
            let count = names[inode] ?? 0
            // What the super block names has no name: the journal, the orphan file, the reserved inodes.
            let isNamed = inode == EXT2_ROOT_INO || inode >= system.pointee.super.pointee.s_first_ino
            guard isNamed, inode != system.pointee.super.pointee.s_orphan_file_inum, count != stored else {
                continue
            }
            complaints.append("libext2fs: inode \(inode) has \(stored) links and \(count) names")
        }
        for inode in names.keys.sorted() where links[inode] == nil {
            complaints.append("libext2fs: a name leads to inode \(inode), which is not in use")
        }
    }

    private func markMetadata(_ group: dgrp_t) {
        _ = ext2fs_reserve_super_and_bgd(system, group, found)
        ext2fs_mark_block_bitmap2(found, ext2fs_block_bitmap_loc(system, group))
        ext2fs_mark_block_bitmap2(found, ext2fs_inode_bitmap_loc(system, group))
        let table = ext2fs_inode_table_loc(system, group)
        for block in table..<table + blk64_t(system.pointee.inode_blocks_per_group) {
            ext2fs_mark_block_bitmap2(found, block)
        }
    }

    private func walkInodes() {
        var scan: ext2_inode_scan?
        guard check(ext2fs_open_inode_scan(system, 0, &scan), "inode scan") else { return }
        defer { ext2fs_close_inode_scan(scan) }
        while true {
            var inode: ext2_ino_t = 0
            var record = ext2_inode()
            guard check(ext2fs_get_next_inode(scan, &inode, &record), "inode \(inode)") else { return }
            if inode == 0 { return }
            let isMarked = ext2fs_test_inode_bitmap2(system.pointee.inode_map, inode) != 0
            let isReserved = inode < system.pointee.super.pointee.s_first_ino
            if !isReserved, isMarked != (record.i_links_count > 0) {
                complaints.append("libext2fs: inode \(inode) has \(record.i_links_count) links, marked: \(isMarked)")
            }
            if record.i_links_count > 0 || inode == EXT2_BAD_INO { walk(inode, &record) }
        }
    }

    private func walk(_ inode: ext2_ino_t, _ record: inout ext2_inode) {
        current = inode
        let isDirectory = record.i_mode & 0o170000 == 0o040000
        if record.i_links_count > 0 { links[inode] = Int(record.i_links_count) }
        let context = Unmanaged.passUnretained(self).toOpaque()
        let attributes = ext2fs_file_acl_block(system, &record)
        if attributes != 0, attributeBlocks.insert(attributes).inserted { claim(attributes) }
        if ext2fs_inode_has_valid_blocks2(system, &record) != 0 {
            let code = ext2fs_block_iterate3(
                system, inode, BLOCK_FLAG_READ_ONLY, nil,
                { _, block, _, _, _, context in
                    let check = Unmanaged<LibraryCheck>.fromOpaque(context!).takeUnretainedValue()
                    check.claim(block!.pointee)
                    return 0
                }, context)
            check(code, "blocks of inode \(inode)")
        }
        guard isDirectory else { return }
        let code = ext2fs_dir_iterate2(
            system, inode, 0, nil,
            { _, _, entry, _, _, _, context in
                let check = Unmanaged<LibraryCheck>.fromOpaque(context!).takeUnretainedValue()
                check.names[entry!.pointee.inode, default: 0] += 1
                return 0
            }, context)
        check(code, "names in inode \(inode)")
    }

    private func claim(_ block: blk64_t) {
        guard block < ext2fs_blocks_count(system.pointee.super) else {
            return complaints.append("libext2fs: inode \(current) has block \(block)")
        }
        let cluster = block >> blk64_t(system.pointee.cluster_ratio_bits)
        let isOwn = owners.updateValue(current, forKey: cluster) == current && system.pointee.cluster_ratio_bits > 0
        // The resize inode has the blocks that are reserved for descriptors: they are marked already.
        if ext2fs_mark_block_bitmap2(found, block) != 0, current != EXT2_RESIZE_INO, !isOwn {
            complaints.append("libext2fs: block \(block) belongs to inode \(current) and to another")
        }
    }
}
