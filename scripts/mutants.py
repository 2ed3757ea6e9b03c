#!/usr/bin/env python3
"""Deliberate faults in commit, checkpoint and recovery: do the tests catch each of them?  make mutants

All faults are built into one copy of the tree, each behind a number; the tests then run once a fault with that number
in JEXT4_MUTANT. The sources themselves know nothing of it: a fault is a piece of text that stands in them exactly once
and what takes its place, where MUTANT is the switch. Prints what was caught and by which tests, and what was missed.
  mutants.py [--list] [--only NAME]... [--laboratory]
With --laboratory only the exploration of crash states by lazy choice looks for the fault, and says after how many
runs of recovery it has found damage. It sees what power cuts and errors of the device make of a fault; those that make
no difference then are named in BLIND, with the reason.
"""
import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COPY = os.path.join(ROOT, ".build", "mutants")
# The tests run optimised, as `make unit-test` runs them.
BUILD = ("-c", "release", "--scratch-path", os.path.join(COPY, "build"))
# A mutant that hangs is caught as well, after so many seconds.
LIMIT = 180
SWITCH = """
internal import Glibc

/// Which deliberate fault this process has: its number is in the environment.
package enum Mutant {
    private static let active: Int = unsafe getenv("JEXT4_MUTANT").flatMap { unsafe Int(String(cString: $0)) } ?? 0
    package static func isOn(_ number: Int) -> Bool { number == active }
}
"""

JOURNAL = "JournalTests"
CRASH = "PowerCutTests"
FAST = "FastCommitTests"
FAULTS = "DeviceErrorTests|ErrorRecordTests"
LABORATORY = "LaboratoryTests"

# (name, file below Sources, text, what takes its place, the tests that should catch it)
MUTANTS = [
    # Commit.
    ("commit block without a flush before it", "Journal/Commit.swift",
     "        try flusher.flush()\n        phases.flushed",
     "        if !MUTANT { try flusher.flush() }\n        phases.flushed", CRASH),
    ("commit block not written through", "Journal/CommitWriter.swift",
     "at: body.commitPosition, mode: .throughToMedia)",
     "at: body.commitPosition, mode: MUTANT ? .cached : .throughToMedia)", CRASH),
    ("waiters woken before the commit block is written", "Journal/Commit.swift",
     "        let body = try writer.writeBody(of: transaction, at: start)\n",
     "        let body = try writer.writeBody(of: transaction, at: start)\n"
     "        if MUTANT { transaction.become(Transaction.Outcome.durable); commitGate.notifyAll() }\n", LABORATORY),
    ("handles are not waited for", "Journal/Commit.swift",
     "return state.running.handleCount == 0 ? state.running.transaction : nil",
     "return state.running.handleCount == 0 || MUTANT ? state.running.transaction : nil", JOURNAL),
    ("the sequence does not grow", "Journal/Commit.swift",
     "let next = Transaction(id: transaction.id.next,",
     "let next = Transaction(id: MUTANT ? transaction.id : transaction.id.next,", JOURNAL),
    ("the log's beginning is not marked before its first block", "Journal/Commit.swift",
     "if mustMark { try superBlock", "if mustMark && !MUTANT { try superBlock", JOURNAL),
    ("the head does not move behind the commit block", "Journal/Commit.swift",
     "let length = body.logBlockCount + 1\n", "let length = body.logBlockCount + (MUTANT ? 0 : 1)\n", JOURNAL),
    ("commit times may run backwards", "Journal/Commit.swift",
     "state.lastCommitTime = max(state.lastCommitTime, now)",
     "state.lastCommitTime = MUTANT ? now : max(state.lastCommitTime, now)", JOURNAL),
    ("revokes are not logged", "Journal/CommitWriter.swift",
     "var rest = revokes[...]", "var rest = MUTANT ? [] : revokes[...]", JOURNAL),
    ("a magic number in a block is not escaped", "Journal/CommitWriter.swift",
     "if JournalHeader.isMagic(slot.bytes) {", "if !MUTANT && JournalHeader.isMagic(slot.bytes) {", JOURNAL),
    ("an escaped block is not flagged", "Journal/CommitWriter.swift",
     "tag.flags.insert(.escaped)", "if !MUTANT { tag.flags.insert(.escaped) }", JOURNAL),
    ("the committing block is logged as the running transaction has it", "Journal/CachedBlock.swift",
     "if !isForgotten && !isCopied { frozen", "if !isForgotten && !isCopied && !MUTANT { frozen", JOURNAL),
    ("the running transaction's version is logged as the committing one's", "Journal/CommitWriter.swift",
     "frozen.withBytes { slot.copy($0, at: 0) }",
     "(MUTANT ? block.buffer : frozen).withBytes { slot.copy($0, at: 0) }", JOURNAL),
    ("a freed metadata block needs no revoke", "Journal/Handle.swift",
     "if !member.isFresh { contents.revokes.insert(number.rawValue) }",
     "if !member.isFresh && !MUTANT { contents.revokes.insert(number.rawValue) }", CRASH),
    ("a freed block is still logged", "Journal/CommitWriter.swift",
     "member.newest == serial ? !member.isForgotten :", "member.newest == serial ? !member.isForgotten || MUTANT :",
     JOURNAL),
    ("freed blocks are given out before their commit", "Allocator/BlockAllocator+Durable.swift",
     "handle.onCommit { [self] in release(part) }",
     "if MUTANT { release(part) } else { handle.onCommit { [self] in release(part) } }", CRASH),
    ("an error does not abort the journal", "Journal/Commit.swift",
     "            try commitRunning()\n        } catch {\n            abort(error)\n",
     "            try commitRunning()\n        } catch {\n            if !MUTANT { abort(error) }\n", JOURNAL),
    # Errors and shutdown.
    ("an fsync of a lost transaction succeeds", "Journal/Commit.swift",
     "            case Transaction.Outcome.failed: throw loss\n            default: break\n",
     "            case Transaction.Outcome.failed:\n                if MUTANT { return false }\n"
     "                throw loss\n            default: break\n", JOURNAL),
    ("an abort leaves no s_errno", "Journal/Lifecycle.swift",
     "superBlock.recordError(Self.errorNumber(of: cause))",
     "if !MUTANT { superBlock.recordError(Self.errorNumber(of: cause)) }", JOURNAL),
    ("a shutdown does not end the writing", "Journal/Lifecycle.swift",
     "let isFirst = fail(.shutDown)\n", "let isFirst = !MUTANT && fail(.shutDown)\n", JOURNAL),
    ("a shutdown with a log flush does not commit", "Journal/Lifecycle.swift",
     "case .afterCommit: try commitNow()", "case .afterCommit: if !MUTANT { try commitNow() }", JOURNAL),
    ("the record of an error can be torn", "FileSystem/Volume/SuperBlockFile.swift",
     "errors.encodeFirstSector(into: &$0, hasChecksum: hasChecksums)",
     "errors.encodeFirstSector(into: &$0, hasChecksum: hasChecksums && !MUTANT)", FAULTS),
    ("an abort is not recorded in the super block", "FileSystem/Volume/ErrorRecord.swift",
     "try file.write(errors, hasChecksums: hasChecksums)",
     "if !MUTANT { try file.write(errors, hasChecksums: hasChecksums) }", FAULTS),
    ("the replay loses the record of an error", "FileSystem/Volume/SuperBlockFile.swift",
     "if earlier.count > now.errors.count {", "if !MUTANT, earlier.count > now.errors.count {", FAULTS),
    ("the journal forgets its error before the flag is durable", "FileSystem/Volume/Mount.swift",
     "            try volume.journal?.sync()\n            try volume.journal?.clear",
     "            if !MUTANT { try volume.journal?.sync() }\n            try volume.journal?.clear", FAULTS),
    # Checkpoint.
    ("the tail moves before the homes are flushed", "Journal/Checkpoint.swift",
     "        try flusher.flush()\n        for item in written {", "        if !MUTANT { try flusher.flush() }\n"
     "        for item in written {", CRASH),
    ("the tail moves one transaction too far", "Journal/Checkpoint.swift",
     "let released = targets.prefix { isHome($0.transaction) }.count",
     "let released = min(targets.count, targets.prefix { isHome($0.transaction) }.count + (MUTANT ? 1 : 0))",
     JOURNAL),
    ("the tail is not written through", "Journal/LogSuperBlock.swift",
     "at: log.superBlockPosition, mode: .throughToMedia)",
     "at: log.superBlockPosition, mode: MUTANT ? .cached : .throughToMedia)", CRASH),
    ("a block goes home as a later transaction has it", "Journal/Checkpoint.swift",
     "guard member.home != 0, member.newest == 0 else { return 0 }",
     "guard member.home != 0, member.newest == 0 || MUTANT else { return 0 }", JOURNAL),
    ("the last block of a checkpoint does not go home", "Journal/Checkpoint.swift",
     "let written = try checkpointer.write(candidates, to: device)",
     "let written = try checkpointer.write(MUTANT ? candidates.dropLast() : candidates, to: device)\n"
     "        if MUTANT, let last = candidates.last { last.membership.withLock { $0.home = 0 } }", CRASH),
    ("the log is marked empty before the checkpoint at close", "Journal/Lifecycle.swift",
     "try checkpoint(.everything)\n        let (", "if !MUTANT { try checkpoint(.everything) }\n        let (",
     JOURNAL),
    # Recovery.
    ("revokes are not honoured", "Journal/LogScan.swift",
     "guard let copy = newest.removeValue(forKey: home) else { return }",
     "guard !MUTANT, let copy = newest.removeValue(forKey: home) else { return }", JOURNAL),
    ("an escaped block is not restored", "Journal/Replay.swift",
     "        if copy.isEscaped {\n            part", "        if copy.isEscaped, !MUTANT {\n            part",
     JOURNAL),
    ("the checksum of a logged block is not checked", "Journal/LogScan.swift",
     "return format.tagChecksum(block, in: expected) == tag.checksum",
     "return MUTANT || format.tagChecksum(block, in: expected) == tag.checksum", JOURNAL),
    ("the checksum of a commit block is not checked", "Journal/LogScan.swift",
     "guard format.isCommitValid(block) else { return nil }",
     "guard format.isCommitValid(block) || MUTANT else { return nil }", JOURNAL),
    ("the checksum of a descriptor is not checked", "Journal/LogScan.swift",
     "case .descriptor: return sight.isTailValid ?", "case .descriptor: return sight.isTailValid || MUTANT ?", JOURNAL),
    ("the sequence of a block is not checked", "Journal/LogScan.swift",
     "guard header.transaction == expected else {", "guard header.transaction == expected || MUTANT else {", JOURNAL),
    ("the oldest copy of a block wins", "Journal/LogScan.swift",
     "            if let older = newest.updateValue(copy, forKey: block.home.rawValue) { memory.release(older.place) }",
     "            if MUTANT, newest[block.home.rawValue] != nil { continue }\n"
     "            if let older = newest.updateValue(copy, forKey: block.home.rawValue) { memory.release(older.place) }",
     JOURNAL),
    ("a transaction without a commit block is replayed", "Journal/LogScan.swift",
     "        let last = takeCurrent()\n", "        if MUTANT { try finishTransaction() }\n"
     "        let last = takeCurrent()\n", JOURNAL),
    ("a home inside the log is written", "Journal/LogScan.swift",
     "else if let forbidden, forbidden.contains(tag.home) {",
     "else if let forbidden, forbidden.contains(tag.home), !MUTANT {", JOURNAL),
    ("damage in the middle is taken for the end", "Journal/LogScan.swift",
     "if let found = damage ?? (ahead.newestCommit == nil ? nil : stop) {",
     "if !MUTANT, let found = damage ?? (ahead.newestCommit == nil ? nil : stop) {", JOURNAL),
    ("the log is marked empty before the homes are flushed", "Journal/Replay.swift",
     "        try device.flush()\n        return writer.counters", "        if !MUTANT { try device.flush() }\n"
     "        return writer.counters", CRASH),
    ("the sequence does not grow over a recovery", "Journal/Replay.swift",
     "next.sequence = nextSequence", "next.sequence = MUTANT ? superBlock.sequence : nextSequence", JOURNAL),
    ("neighbours are merged one block too far", "Journal/Replay.swift",
     "copies[start + count].home.rawValue == home + UInt64(count)",
     "copies[start + count].home.rawValue <= home + UInt64(count) + (MUTANT ? 1 : 0)", JOURNAL),
    # Fast commits.
    ("the checksum of a fast commit is not checked", "Journal/FastCommitScan.swift",
     "guard sum == checksum else {", "guard sum == checksum || MUTANT else {", FAST),
    ("fast commits of another transaction count", "Journal/FastCommitScan.swift",
     "guard id == transaction else {\n                return .nothing(FastCommitLog.Problem(what: \"a tail",
     "guard id == transaction || MUTANT else {\n                return .nothing(FastCommitLog.Problem(what: \"a tail",
     JOURNAL),
    ("fast commits are replayed with the log marked empty first", "FileSystem/Volume/Replay.swift",
     "        location.superBlock = try plan.markContinued(location.log)\n",
     "        location.superBlock = try plan.markContinued(location.log)\n"
     "        if MUTANT { try plan.markEmpty(location.log) }\n", FAST),
    ("link counts are those that a fast commit tells", "FileSystem/FastCommits/FastCommitReplay.swift",
     "record.countDirectoryLink(subdirectories.signum())",
     "if !MUTANT { record.countDirectoryLink(subdirectories.signum()) }", FAST),
]

# What else a fault changes: (name, file, text, what takes its place). Where the program would notice and end itself, it
# must not: the disk is to show the damage.
MORE = [
    ("handles are not waited for", "Journal/Commit.swift",
     "precondition(state.running.transaction === transaction && state.running.handleCount == 0)",
     "precondition(state.running.transaction === transaction && (MUTANT || state.running.handleCount == 0))"),
    ("the committing block is logged as the running transaction has it", "Journal/CommitWriter.swift",
     "                preconditionFailure(\"a committing block was changed without a copy\")\n",
     "                precondition(MUTANT, \"a committing block was changed without a copy\")\n"
     "                block.buffer.withBytes { slot.copy($0, at: 0) }\n"),
    ("the log is marked empty before the checkpoint at close", "Journal/Lifecycle.swift",
     "precondition(state.running.handleCount == 0 && state.committed.isEmpty)",
     "precondition(state.running.handleCount == 0 && (MUTANT || state.committed.isEmpty))"),
    ("the checksum of a logged block is not checked", "Journal/LogScan.swift",
     "format.tagChecksum($0, in: expected) == block.checksum",
     "MUTANT || format.tagChecksum($0, in: expected) == block.checksum"),
]

# What no crash test can see: a part of the name, and why.
BLIND = {
    "the checksum of a commit block": "all that it covers and recovery looks at lies in one sector",
    "the checksum of a descriptor": "where one may be torn, the checksums of its blocks tell as well",
    "a home inside the log": "no log of ours says so",
    "damage in the middle": "a power cut leaves none",
}


def run(*command, **options):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False, **options)


def make_copy(mutants):
    """The tree with every fault in it, each behind its number."""
    tree = os.path.join(COPY, "tree")
    os.makedirs(tree, exist_ok=True)
    names = run("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout.decode()
    for name in filter(None, names.split("\0")):
        source, target = os.path.join(ROOT, name), os.path.join(tree, name)
        if os.path.exists(source):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy2(source, target)
    with open(os.path.join(tree, "Sources/Ext4Format/Mutant.swift"), "w", encoding="ascii") as file:
        file.write(SWITCH)
    changed = {}
    numbers = {mutant[0]: number for number, mutant in mutants}
    for name, path, text, fault, *_ in MUTANTS + MORE:
        path = os.path.join(tree, "Sources", path)
        if path not in changed:
            with open(path, encoding="utf-8") as file:
                changed[path] = file.read()
        count = changed[path].count(text)
        if count != 1:
            sys.exit(f"mutants: {name}: its text stands {count} times in {os.path.relpath(path, tree)}")
        changed[path] = changed[path].replace(text, fault.replace("MUTANT", f"Mutant.isOn({numbers[name]})"))
    for path, text in changed.items():
        if "import Ext4Format" not in text:
            text = "internal import Ext4Format\n" + text
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    shared = os.path.join(os.path.dirname(ROOT), "shared")
    os.environ.setdefault("JEXT4_SHARED", shared)
    return tree


def test(tree, tests, number):
    """Whether the tests pass, and the first that does not. The laboratory ends with the first damage."""
    environment = dict(os.environ, JEXT4_MUTANT=str(number), SWIFT_BACKTRACE="enable=no")
    command = ["swift", "test", *BUILD, "--skip-build", "--disable-xctest", "--package-path", tree, "--filter", tests]
    output = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=environment, start_new_session=True, errors="replace", text=True) as process:
        timer = threading.Timer(LIMIT, end, (process,))
        timer.start()
        try:
            for line in process.stdout:
                output.append(line.rstrip())
                if line.startswith("laboratory: ") and "damage after" in line:
                    end(process)
                    return False, line.strip().removeprefix("laboratory: ")
        finally:
            timer.cancel()
    if process.returncode == 0:
        return "with 0 tests" not in " ".join(output), "no test ran"
    if process.returncode == -signal.SIGKILL:
        return False, f"no end in {LIMIT} s"
    issues = [line for line in output if "Test " in line and "recorded an issue" in line]
    failed = [line.split("Test ", 1)[1].split(" recorded")[0] for line in issues]
    traps = [line for line in output if "Fatal error" in line or "Precondition failed" in line]
    return False, (failed + traps + ["a crash"])[0]


def end(process):
    """Ends the tests and what they have started."""
    os.killpg(process.pid, signal.SIGKILL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the faults and end")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="faults whose name has this")
    parser.add_argument("--laboratory", action="store_true", help="look with the crash laboratory alone")
    options = parser.parse_args()
    groups = (LABORATORY,) if options.laboratory else (JOURNAL, CRASH, FAST, FAULTS, LABORATORY)
    mutants = list(enumerate(MUTANTS, 1))
    if options.list:
        for number, (name, path, *_) in mutants:
            print(f"{number:3} {path}: {name}")
        return 0
    tree = make_copy(mutants)
    built = run("swift", "build", *BUILD, "--build-tests", "--package-path", tree)
    if built.returncode != 0:
        sys.exit(built.stdout.decode(errors="replace")[-4000:])
    for tests in groups:
        good, reason = test(tree, tests, 0)
        if not good:
            sys.exit(f"mutants: {tests} fails without a fault: {reason}")
    missed, blind = [], 0
    for number, (name, _, _, _, tests) in mutants:
        if options.only and not any(word in name for word in options.only):
            continue
        reason = next((why for part, why in BLIND.items() if part in name), None)
        if options.laboratory and reason:
            blind += 1
            print(f"blind   {name}: {reason}", flush=True)
            continue
        start = time.monotonic()
        for group in sorted(groups, key=lambda group: group != tests):
            passed, reason = test(tree, group, number)
            if not passed:
                break
        seconds = time.monotonic() - start
        if passed:
            missed.append(name)
            print(f"MISSED  {name} ({seconds:.0f} s)", flush=True)
        else:
            print(f"caught  {name}: {group}, {reason} ({seconds:.0f} s)", flush=True)
    count = len(mutants) if not options.only else sum(any(word in m[1][0] for word in options.only) for m in mutants)
    print(f"{count - len(missed) - blind} of {count - blind} mutants caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
