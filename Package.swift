// swift-tools-version: 6.3
import PackageDescription

/// Libraries say `unsafe` where they mean it and build without warnings.
let strict: [SwiftSetting] = [.strictMemorySafety(), .treatAllWarnings(as: .error)]
/// `#expect` expands to code that strict memory safety rejects.
let tests: [SwiftSetting] = [.treatAllWarnings(as: .error)]

/// The same for the few lines of C.
let strictC: [CSetting] = [.treatAllWarnings(as: .error)]

let arguments: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")
let log: Target.Dependency = .product(name: "Logging", package: "swift-log")

// On a cold cache a replay of a small log is for a good part the reading of the command: symbols would double it. And
// shared libraries, each to be found and read, are half of what is left: `make build` does without them where it can.
let isStaticReplay = Context.environment["JEXT4_STATIC_REPLAY"] != nil
let withoutLibraries = ["-static-executable", "-Xclang-linker", "-static-pie", "-Xlinker", "--pack-dyn-relocs=relr"]
let replayLinking = ["-Xlinker", "-s"] + (isStaticReplay ? withoutLibraries : [])

let package = Package(
    name: "jext4",
    products: [
        .executable(name: "jext4", targets: ["jext4"]),
        .executable(name: "jext4-replay", targets: ["replay"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    ],
    targets: [
        .target(name: "CChecksum", cSettings: strictC),
        .target(name: "Ext4Format", dependencies: ["CChecksum"], swiftSettings: strict),
        .target(name: "CLinux", cSettings: strictC),
        .target(name: "Threads", dependencies: ["CLinux"], swiftSettings: strict),
        .target(name: "BlockIO", dependencies: ["CLinux", "Ext4Format", "Threads"], swiftSettings: strict),
        .target(name: "Journal", dependencies: ["Ext4Format", "BlockIO", "Threads"], swiftSettings: strict),
        .target(
            name: "Allocator", dependencies: ["Ext4Format", "BlockIO", "Threads", "Journal"], swiftSettings: strict),
        .target(
            name: "FileSystem", dependencies: ["Ext4Format", "BlockIO", "Threads", "Journal", "Allocator"],
            swiftSettings: strict),
        .target(
            name: "Server",
            dependencies: [
                "Ext4Format", "BlockIO", "Threads", "Journal", "FileSystem", "CLinux", "CFuse3", "CFuseShims", log,
            ],
            swiftSettings: strict),
        .target(
            name: "Offline", dependencies: ["Ext4Format", "BlockIO", "Journal", "FileSystem", "CLinux"],
            swiftSettings: strict),
        .target(name: "Checker", dependencies: ["Ext4Format", "BlockIO", "CXXHash"], swiftSettings: strict),
        .target(
            name: "CrashLab", dependencies: ["Checker", "FileSystem", "Journal", "Threads", "CXXHash"],
            swiftSettings: strict),
        .executableTarget(name: "jext4", dependencies: ["Server", "CrashLab", arguments], swiftSettings: strict),
        .executableTarget(
            name: "replay", dependencies: ["FileSystem", "Offline", "CrashLab", "Threads", arguments],
            swiftSettings: strict,
            linkerSettings: [.unsafeFlags(replayLinking, .when(configuration: .release))]),
        .target(name: "CFuseShims", dependencies: ["CFuse3"], cSettings: strictC),
        .systemLibrary(name: "CFuse3", pkgConfig: "fuse3", providers: [.apt(["libfuse3-dev"])]),
        .systemLibrary(name: "CXXHash", pkgConfig: "libxxhash", providers: [.apt(["libxxhash-dev"])]),
        .systemLibrary(name: "CExt2fs", pkgConfig: "ext2fs", providers: [.apt(["libext2fs-dev"])]),
        .testTarget(name: "Ext4FormatTests", dependencies: ["Ext4Format"], swiftSettings: tests),
        .testTarget(name: "BlockIOTests", dependencies: ["BlockIO", "CrashLab"], swiftSettings: tests),
        .testTarget(
            name: "JournalTests",
            dependencies: [
                "Journal", "BlockIO", "Ext4Format", "FileSystem", "Threads", "CrashLab", "Offline", "replay",
            ],
            swiftSettings: tests),
        .testTarget(name: "AllocatorTests", dependencies: ["Allocator", "Threads"], swiftSettings: tests),
        .testTarget(name: "FileSystemTests", dependencies: ["FileSystem"], swiftSettings: tests),
        .testTarget(name: "ServerTests", dependencies: ["BlockIO", "Server"], swiftSettings: tests),
        .testTarget(
            name: "IomapTests",
            dependencies: ["BlockIO", "CrashLab", "Ext4Format", "FileSystem", "Journal", "Server", "Threads", log],
            swiftSettings: tests),
        .testTarget(
            name: "CrashTests", dependencies: ["CExt2fs", "Checker", "CrashLab", "FileSystem", "Threads"],
            swiftSettings: tests),
    ]
)
