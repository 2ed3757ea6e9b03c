import Ext4Format
import Server
import Testing

@Suite struct MountWordsTests {
    private func message(_ list: String) -> String? {
        do throws(Ext4Error) {
            _ = try MountWords(parsing: [list])
            return nil
        } catch {
            return error.description
        }
    }

    /// mount(8) repeats options: those of fstab come first, those of the command line must win.
    @Test func aLaterWordWins() throws {
        let words = try MountWords(parsing: ["ro,noexec,commit=9", "rw,commit=30,exec"])
        #expect(!words.isReadOnly && words.commitSeconds == 30 && words.allowsExecution)
    }

    /// Sizes decide how much memory the server takes and where the volume starts: a unit read wrong is a wrong volume.
    @Test(
        arguments: [
            ("512", 512), ("1k", 1024), ("3M", 3 << 20), ("2g", 2 << 30), ("0", 0),
        ] as [(String, UInt64)])
    func offsetsHaveUnits(text: String, bytes: UInt64) throws {
        #expect(try MountWords(parsing: ["offset=\(text)"]).offset == bytes)
    }

    /// A word that is dropped silently may be the one that protects the data.
    @Test(arguments: [
        "foo", "foo=1", "nobarrier", "data=writeback", "errors=never", "commit=soon", "commit=-1", "commit=901",
        "offset=511", "offset=", "offset=99999999999999999999g", "cache_size=0", "cache_size=1k", "lockfile=",
        "data=journal",
        "journal_dev=",
    ])
    func anUnknownWordOrValueIsNamed(word: String) throws {
        let said = try #require(message("ro,\(word),noatime"))
        #expect(said.contains("'\(word)'"))
    }

    /// fstab lines hold words for systemd, mount and desktop tools, which a helper must let pass.
    @Test func wordsForOthersAreIgnored() throws {
        let list = "defaults,nofail,_netdev,noauto,user,x-systemd.automount,X-mount.mkdir,comment=x,relatime,user_xattr"
        #expect(try MountWords(parsing: [list]) == MountWords())
        let tuning = "delalloc,lazytime,stripe=32,inode_readahead_blks=64,auto_da_alloc,noinit_itable"
        #expect(try MountWords(parsing: [tuning]) == MountWords())
    }

    /// Without a replay a writable mount would write over what the log still holds.
    @Test func norecoveryNeedsReadOnly() throws {
        #expect(message("norecovery") != nil)
        #expect(try MountWords(parsing: ["norecovery,ro"]).skipsRecovery)
        #expect(try MountWords(parsing: ["ro,noload"]).skipsRecovery)
    }

    /// The words reach the file system, not only the parser.
    @Test func theVolumeIsToldWhatTheWordsSay() throws {
        let options = try MountWords(parsing: ["ro,noload,commit=7,cache_size=16m,discard,errors=continue"])
            .volumeOptions
        #expect(options.readOnly && options.noRecovery && options.discard && !options.synchronousNames)
        for words in ["sync", "dirsync", "async,dirsync"] {
            #expect(try MountWords(parsing: [words]).volumeOptions.synchronousNames)
        }
        #expect(try !MountWords(parsing: ["sync,dirsync,async"]).volumeOptions.synchronousNames)
        let named = try MountWords(parsing: ["journal_dev=/dev/a,journal_path=/dev/b"])
        #expect(named.journalPath == "/dev/b")
        #expect(message("record=log,journal_dev=/dev/a") != nil)
        #expect(options.commitSeconds == 7 && options.cacheByteCount == 16 << 20)
        guard case .continue = options.errors else {
            Issue.record("errors=continue was lost")
            return
        }
    }
}
