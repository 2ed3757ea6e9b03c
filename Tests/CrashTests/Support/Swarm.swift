import CrashLab

extension TestVolume {
    /// A kind of volume that chance has put together: block size, journal, features, inodes, groups. A swarm of them
    /// meets what no fixed list has: each leaves something out, so that something else is met more often.
    static func swarm(_ random: inout SeededRandom) -> TestVolume {
        let block = [1024, 2048, 4096].randomElement(using: &random)!
        // The least journal that mke2fs makes is 1,024 blocks: it wraps soon.
        let journal = block / 1024 * (random.once(in: 4) ? 2 : 1)
        var features: [String] = []
        func choose(_ on: String, _ off: String) { features.append(random.once(in: 2) ? on : off) }
        choose("orphan_file", "^orphan_file")
        choose("64bit", "^64bit")
        choose("dir_index", "^dir_index")
        choose("flex_bg", "^flex_bg")
        choose("resize_inode", "^resize_inode")
        choose("huge_file", "^huge_file")
        let hasChecksums = random.once(in: 2)
        features.append(
            hasChecksums
                ? "metadata_csum" : random.once(in: 2) ? "^metadata_csum,uninit_bg" : "^metadata_csum,^uninit_bg")
        // The seed needs checksums; without it they begin at the UUID.
        if hasChecksums, random.once(in: 2) { features.append("metadata_csum_seed") }
        // A stream of its own, so that a seed means the same volume as before there were such, but for this. Without
        // extents there are no numbers of 64 bits.
        var more = random
        var clusters: [String] = []
        if more.once(in: 6) {
            features += ["^extent", "^64bit"]
        } else if more.once(in: 5) {
            features.append("bigalloc")
            clusters = ["-C", "\(block << Int.random(in: 1...4, using: &more))"]
        }
        var arguments = ["-O", features.joined(separator: ","), "-I", random.once(in: 4) ? "128" : "256"] + clusters
        if random.once(in: 2) { arguments += ["-g", "\(random.once(in: 2) ? 2048 : 4096)"] }
        // Some are so small that the workload fills them: just what mke2fs wants for a journal.
        let least = 2 * journal + 4
        let mebibytes = random.once(in: 3) ? least : max(least, 16)
        return TestVolume(
            "swarm \(block) \(mebibytes)M journal=\(journal)M \(arguments.joined(separator: " "))", block: block,
            mebibytes: mebibytes, journal: journal, arguments)
    }
}

extension CrashCampaign {
    /// All that chance decides, by one seed.
    static func swarm(seed: UInt64, operations: ClosedRange<Int>) -> CrashCampaign {
        var random = SeededRandom(seed: seed)
        let volume = TestVolume.swarm(&random)
        let count = Int.random(in: operations, using: &random)
        var profile = [WorkloadProfile.mixed(count), .names(count), .data(count)].randomElement(using: &random)!
        // Of the calls, each is left out one time in five.
        profile.weights = profile.weights.filter { $0.call == .create || !random.once(in: 5) }
        // A volume that is to be full must not be emptied in time.
        if random.once(in: 3) { profile.totalByteCount = volume.byteCount }
        var campaign = CrashCampaign(seed: seed, volume: volume, profile: profile)
        campaign.sequence = [nil, nil, 0xFFFF_FFF0, 0x7FFF_FFF0].randomElement(using: &random)!
        campaign.isManual = !random.once(in: 4)
        // A stream of its own: what a seed meant before there were batches it still means.
        var more = SeededRandom(seed: seed ^ 0x6F75_746F_6670_6C63)
        if more.once(in: 4), !volume.hasClusters { campaign.placement = .outOfPlace }
        if more.once(in: 4) { profile.weights.append((.batch, 8)) }
        campaign.workload = .random(profile)
        return campaign
    }
}

extension ConcurrentCampaign {
    /// All that chance decides, by one seed: the volume, the threads, and how often they take turns.
    static func swarm(seed: UInt64, operations: ClosedRange<Int>) -> ConcurrentCampaign {
        var random = SeededRandom(seed: seed)
        let volume = TestVolume.swarm(&random)
        var profile = WorkloadProfile.shared(Int.random(in: operations, using: &random))
        profile.weights = profile.weights.filter { $0.call == .create || !random.once(in: 5) }
        // Some directories grow, and some files leave the first blocks of their extent trees.
        if random.once(in: 4) { (profile.nameCount, profile.nameByteCounts) = (60, 40...200) }
        if random.once(in: 4) { (profile.fileByteCount, profile.writeByteCount) = (256 << 10, 64 << 10) }
        if random.once(in: 3) { profile.totalByteCount = volume.byteCount }
        var workload = ConcurrentWorkload(
            seed: seed, threadCount: Int.random(in: 2...4, using: &random), profile: profile)
        workload.switchRate = [1, 2, 4, 16].randomElement(using: &random)!
        var campaign = ConcurrentCampaign(volume: volume, workload)
        campaign.sequence = [nil, nil, 0xFFFF_FFF0, 0x7FFF_FFF0].randomElement(using: &random)!
        return campaign
    }
}
