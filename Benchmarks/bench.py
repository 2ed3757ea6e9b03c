#!/usr/bin/env python3
"""jext4 beside the kernel's ext4, fuse2fs and an empty FUSE server, in one run: one table, ratios first.
The contenders io_uring and writeback are jext4 again, mounted with -o io_uring and -o writeback; flushed is the empty
server with the writes and flushes of a journal behind fsync.

All contenders are mounted at the same time and take every step one after the other, so that what the host does in a
minute meets them all; the turns are repeated. A time is the median of the repetitions, a ratio that of the ratios of
neighbours. The empty server keeps names in memory and discards data: no FUSE server can be faster. Needs root, fio and
fuse2fs.
  BENCH_RUNS=3     repetitions
  BENCH_QUICK=1    small sizes and one repetition: two to six minutes, coarse figures
  BENCH_ONLY=a,b   contenders (kernel, data=journal, fuse2fs, empty, flushed, jext4, writeback, outofplace,
                   io_uring)
  BENCH_WORK=a,b   works (names, fsync, commits, io, overwrites, trees, fragmentation, replay)
  BENCH_SCRATCH=D  where images are (default /var/tmp)
  BENCH_WRITEBACK=1  the empty server with the kernel's writeback cache
"""
import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import fragmentation as fragments
import replay
from contenders import ALL, HERE, run

os.environ["PATH"] += ":/usr/sbin:/sbin"
ROOT = os.path.dirname(HERE)
QUICK = bool(os.environ.get("BENCH_QUICK"))
RUNS = int(os.environ.get("BENCH_RUNS", "1" if QUICK else "3"))
ALL_WORKS = "names,fsync,commits,io,overwrites,trees,fragmentation,replay"
WORKS = [word for word in os.environ.get("BENCH_WORK", ALL_WORKS).split(",") if word]
SMALL, LARGE = (2_000, 20_000) if QUICK else (10_000, 200_000)
STREAM_MIB, RANDOM_SECONDS = (128, 1) if QUICK else (1024, 4)
# Replay has one other contender, e2fsck, and turns of its own. The logs are of so many MiB.
LOGS, REPLAY_TURNS = ([128], 2) if QUICK else ([128, 1024], 5)
SYNCED = 200 if QUICK else 1_000
# What takes a second or less is repeated within a turn.
REPEATS = 1 if QUICK else 3
# Seconds that a contender with needs_limit may take for one step.
LIMIT = 3 if QUICK else 10

GOALS = {
    "replay": ">=3 e2fsck",
    "create": ">=0.8 empty, >=5 fuse2fs", "stat": ">=0.8 empty, >=5 fuse2fs", "rename": ">=0.8 empty, >=5 fuse2fs",
    "unlink": ">=0.8 empty, >=5 fuse2fs", "mkdir": ">=0.8 empty, >=5 fuse2fs", "readdir": "",
    "stream direct": ">=0.95 kernel", "stream buffered": ">=1.1 kernel or 1.0 empty",
    "random direct": ">=0.9 kernel", "random buffered": ">=0.9 kernel", "fsync": ">=1.0 kernel",
    "fchmod and fsync": "", "runs of": ">=0.83 kernel", "overwrite": ">=0.83 jext4, >=1.8 data=journal",
}


class Figures:
    """Rates (operations or MiB per second) by work and contender, in the order in which the works first came."""

    def __init__(self):
        self.rates, self.units, self.cut = {}, {}, set()
        # CPU seconds of the server for one operation, by work and contender.
        self.server = {}

    def add(self, work, contender, rate, unit):
        self.rates.setdefault(work, {}).setdefault(contender, []).append(rate)
        self.units[work] = unit

    def add_server(self, work, contender, seconds):
        self.server.setdefault(work, {}).setdefault(contender, []).append(seconds)

    def growth(self, step, contender):
        """Time in the large directory over time in the small one: of the wall clock, and of the server's CPU."""
        def of(all_figures):
            small, large = (all_figures.get(names_work(step, count), {}).get(contender) for count in (SMALL, LARGE))
            return statistics.median(large) / statistics.median(small) if small and large else None
        rates = of(self.rates)
        return 1 / rates if rates else None, of(self.server)

    def median(self, work, contender):
        rates = self.rates[work].get(contender)
        return statistics.median(rates) if rates else None

    def ratio(self, work, other, one="jext4"):
        """Of those who went one after the other; of medians where one of them has missed a repetition."""
        ours, theirs = (self.rates[work].get(name, []) for name in (one, other))
        if not ours or not theirs:
            return None
        if len(ours) == len(theirs):
            return statistics.median(a / b for a, b in zip(ours, theirs))
        return statistics.median(ours) / statistics.median(theirs)


# A work is a generator: it yields after each step, and then the next contender takes the same step.


def drop_caches():
    run("sync")
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3\n")
    time.sleep(0.1)  # A FUSE server is told what to forget, and answers to that are not what is measured.


def names_work(step, count):
    return f"{step}{' cold' if step in ('stat', 'readdir') else ''}, {count:,} names"


def names(contender, figures):
    """create, stat, readdir, rename, unlink and mkdir in one directory, small and large."""
    for count in (SMALL, LARGE):
        base = os.path.join(contender.directory, str(count))
        os.mkdir(base)
        have = count
        for step in ("create", "stat", "readdir", "rename", "unlink", "mkdir", "rmdir"):
            if step in ("stat", "readdir"):
                drop_caches()
            limit = ["-t", str(LIMIT)] if contender.needs_limit and step != "readdir" else []
            # Removal has to come to its end, or the next step meets what is left.
            limit = [] if step in ("unlink", "rmdir") else limit
            before = contender.server_seconds()
            done, seconds = run(f"{contender.tools}/bench_meta", *limit, step, base, have).split()
            if step == "rmdir":
                yield
                continue
            figures.add(names_work(step, count), contender.name, int(done) / float(seconds), "us")
            if before is not None:
                figures.add_server(names_work(step, count), contender.name,
                                   (contender.server_seconds() - before) / int(done))
            if int(done) < have or have < count:
                figures.cut.add((names_work(step, count), contender.name))
            if step in ("create", "mkdir"):
                have = int(done)
            yield


def commits(contender, figures):
    """Commits of one inode, waited for: what group commit makes of many who wait."""
    base = os.path.join(contender.directory, "committed")
    os.mkdir(base)
    for threads in (1, 4, 16):
        done, seconds = run(f"{contender.tools}/bench_meta", "commit", base, SYNCED * 2, threads).split()
        figures.add(f"fchmod and fsync, {threads} thread{'s' if threads > 1 else ''}", contender.name,
                    int(done) / float(seconds), "us")
        yield


def fsync(contender, figures):
    for repeat, threads in itertools.product(range(REPEATS), (1, 16)):
        base = os.path.join(contender.directory, f"synced-{threads}-{repeat}")
        os.mkdir(base)
        # Many threads are done with a thousand before the clock has said much.
        count = SYNCED * (1 if threads == 1 else 4)
        done, seconds = run(f"{contender.tools}/bench_meta", "fsync", base, count, threads).split()
        figures.add(f"fsync of a new 4 KiB file, {threads} thread{'s' if threads > 1 else ''}", contender.name,
                    int(done) / float(seconds), "us")
        yield


def fio(contender, *options):
    """Runs one fio job on one file; answers its report."""
    output = run("fio", "--name=job", f"--filename={contender.directory}/fio", "--ioengine=psync", "--thread",
                 "--output-format=json", "--allow_file_create=1", f"--size={STREAM_MIB}M", "--randseed=1", *options)
    return json.loads(output[output.index("{"):])["jobs"][0]


def io(contender, figures):
    """Streaming and random, read and written, direct and buffered, all on one file that is laid out first."""
    fio(contender, "--rw=write", "--bs=1M", "--end_fsync=1")
    yield
    for direct, action in itertools.product((1, 0), ("write", "read", "randread", "randwrite")):
        kind = "direct" if direct else "buffered"
        for _ in range(1 if action.startswith("rand") else REPEATS):
            # An overwrite and a new file are different work: the stream that is written is new.
            if action == "write":
                os.unlink(f"{contender.directory}/fio")
            drop_caches()
            if action.startswith("rand"):
                job = fio(contender, f"--rw={action}", "--bs=4k", f"--direct={direct}", "--time_based", "--end_fsync=1",
                          f"--runtime={RANDOM_SECONDS}", "--norandommap")
                figures.add(f"random {kind}, {action[4:]} 4 KiB", contender.name,
                            job[action[4:]]["total_ios"] / (job["job_runtime"] / 1000), "us")
            else:
                job = fio(contender, f"--rw={action}", "--bs=1M", f"--direct={direct}", "--end_fsync=1")
                figures.add(f"stream {kind}, {action} 1 MiB", contender.name,
                            STREAM_MIB / (job["job_runtime"] / 1000), "MiB/s")
            yield
    os.unlink(f"{contender.directory}/fio")
    yield


def overwrites(contender, figures):
    """Overwrites of one file, each step with an fsync at its end, and a stream that is read after them."""
    fio(contender, "--rw=write", "--bs=1M", "--end_fsync=1")
    yield
    for kind, direct in (("direct", 1), ("buffered", 0)):
        for _ in range(REPEATS):
            drop_caches()
            job = fio(contender, "--rw=write", "--bs=1M", f"--direct={direct}", "--end_fsync=1", "--overwrite=1")
            figures.add(f"overwrite {kind}, stream 1 MiB", contender.name, STREAM_MIB / (job["job_runtime"] / 1000),
                        "MiB/s")
            yield
    for _ in range(REPEATS):
        drop_caches()
        job = fio(contender, "--rw=randwrite", "--bs=4k", "--direct=1", "--time_based", "--end_fsync=1",
                  f"--runtime={RANDOM_SECONDS}", "--norandommap")
        figures.add("overwrite direct, random 4 KiB", contender.name,
                    job["write"]["total_ios"] / (job["job_runtime"] / 1000), "us")
        yield
    # What somebody reads who comes after that.
    drop_caches()
    job = fio(contender, "--rw=read", "--bs=1M", "--direct=1")
    figures.add("stream read after random overwrites", contender.name, STREAM_MIB / (job["job_runtime"] / 1000),
                "MiB/s")
    # The empty server has nothing that could lie in runs.
    if contender.keeps_content:
        contender.unmount()
        figures.add("runs after random overwrites", contender.name,
                    1 / fragments.count_runs(contender.image, ["/fio"]), "runs")
        contender.mount()
    yield


def trees(contender, figures, repository, archive):
    """A clone and an unpacked archive, with a sync at the end."""
    def timed(work, *command):
        drop_caches()
        start = time.monotonic()
        run(*command)
        run("sync", "-f", contender.directory)
        figures.add(work, contender.name, 1 / (time.monotonic() - start), "s")
    base = os.path.join(contender.directory, "trees")
    os.mkdir(base)
    if contender.keeps_content:
        timed("git clone of a local repository", "git", "clone", "-q", "--no-hardlinks", f"file://{repository}",
              f"{base}/clone")
    yield
    timed("untar /usr/include", "tar", "-C", base, "-xf", archive)
    yield


def fragmentation(contender, figures):
    """Runs of blocks of the files that were written side by side, at once and after the volume has aged."""
    if not contender.keeps_content:
        return
    base = os.path.join(contender.directory, "d")
    os.mkdir(base)
    for name, work in (("side by side", fragments.write_side_by_side), ("aged", fragments.age)):
        work(base)
        names = [path[len(contender.directory):] for path in fragments.large_files(base)]
        contender.unmount()
        figures.add(f"runs of eight files, {name}", contender.name, 1 / fragments.count_runs(contender.image, names),
                    "runs")
        contender.mount()
        yield


def prepare_trees(scratch):
    """What the trees are made of: a bare clone (whose owner git trusts) and an archive."""
    os.environ.update(GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="safe.directory", GIT_CONFIG_VALUE_0="*")
    repository, archive = os.path.join(scratch, "repository"), os.path.join(scratch, "include.tar")
    run("git", "clone", "-q", "--bare", f"file://{ROOT}", repository)
    run("tar", "-C", "/usr", "-cf", archive, "include")
    return repository, archive


def started(contender, work, figures, prepared):
    """The generator of the work, on a fresh volume that is mounted when it has yielded the first time."""
    # What is overwritten out of place must find the host's blocks there, as on a disk.
    # What has to age must be near to being full.
    size, inodes = ("1G", 20_000) if work == "fragmentation" else ("4G", LARGE * 2 + 100_000)
    contender.make(size, inodes, is_filled=work == "overwrites")
    contender.mount()
    yield
    works = {"names": names, "fsync": fsync, "commits": commits, "io": io, "overwrites": overwrites,
             "fragmentation": fragmentation}
    yield from works[work](contender, figures) if work in works else trees(contender, figures, *prepared)
    contender.unmount()


def one_turn(contenders, work, figures, prepared):
    """Fresh volumes for all, the work step by step, and the volumes gone again. Who fails leaves."""
    at_work = {contender: started(contender, work, figures, prepared) for contender in contenders}
    try:
        while at_work:
            for contender, steps in list(at_work.items()):
                # What the one before has left for later is not the time of this one.
                run("sync")
                try:
                    next(steps)
                except StopIteration:
                    del at_work[contender]
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                    print(f"bench: {contender.name}, {work}: {error}", file=sys.stderr)
                    del at_work[contender]
    finally:
        for contender in contenders:
            contender.take_down()


def replays(scratch, jext4, figures):
    """jext4-replay beside e2fsck on full logs."""
    tool = os.path.join(os.path.dirname(jext4), "jext4-replay")
    for mebibytes in LOGS:
        try:
            seconds = replay.measure(
                tool, scratch, mebibytes, REPLAY_TURNS, lambda text: print(f"bench: {text}", file=sys.stderr))
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            print(f"bench: replay {mebibytes} MiB: {error}", file=sys.stderr)
            continue
        for name, all_seconds in seconds.items():
            for one in all_seconds:
                figures.add(f"replay {f'{mebibytes >> 10} GiB' if mebibytes >= 1024 else f'{mebibytes} MiB'}", name,
                            1 / one, "s")


def absolute(rate, unit):
    """What a person reads: time per operation, MiB/s, or seconds for the whole."""
    if rate is None:
        return "-"
    if unit == "us":
        micros = 1e6 / rate
        return f"{micros:.1f} us" if micros < 1000 else f"{micros / 1000:.1f} ms"
    if unit == "runs":
        return f"{1 / rate:,.0f}"
    return f"{rate:,.0f} MiB/s" if unit == "MiB/s" else f"{1 / rate:.2f} s"


def goal_of(work):
    return next((goal for start, goal in GOALS.items() if work.startswith(start)), "")


def print_aligned(rows, left):
    """The first row is a header; the columns in `left` begin where the others end."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        print("  ".join(text.ljust(width) if column in left else text.rjust(width)
                        for column, (text, width) in enumerate(zip(row, widths))).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def print_growth(figures, contenders):
    """What a directory of many names costs more for one name: 1 is flat."""
    def text(value):
        return "-" if value is None else f"{value:.2f}"
    rows = [["time for a name", *(head for one in contenders for head in (one.name, "its CPU"))]]
    for step in ("create", "stat", "rename", "unlink", "mkdir"):
        rows.append([step, *(text(value) for one in contenders for value in figures.growth(step, one.name))])
    print(f"\nAmong {LARGE:,} names over among {SMALL:,}; 1 is flat. CPU is that of the server.\n")
    print_aligned(rows, {0})


def print_table(figures, contenders):
    """Ratios are of rates: above 1 jext4 is faster."""
    others = ["kernel", "fuse2fs", "empty"]
    has_rings = any(contender.name == "io_uring" for contender in contenders)
    names = [contender.name for contender in contenders]
    if "replay" in WORKS:
        others.append("e2fsck")
        names += [name for name in ("jext4", "e2fsck") if name not in names]
    pairs = [("jext4", name) for name in others]
    if has_rings:
        pairs.append(("io_uring", "kernel"))
    if "io" in WORKS:
        pairs.append(("writeback", "kernel"))
    if "overwrites" in WORKS:
        pairs += [("outofplace", "jext4"), ("outofplace", "data=journal")]
    heads = [f"{one}/{other}" for one, other in pairs]
    header = ["work", *heads, "goal", *names]
    rows = [header]
    for work in figures.rates:
        ratios = [figures.ratio(work, other, one) for one, other in pairs]
        times = [absolute(figures.median(work, name), figures.units[work])
                 + ("~" if (work, name) in figures.cut else "") for name in names]
        rows.append([work, *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios), goal_of(work), *times])
    print_aligned(rows, {0, header.index("goal")})
    print(f"\nMedians of {RUNS} turns, wall clock. Ratios are of rates: above 1 jext4 is faster. "
          "Times are per operation; of runs the fewer are the better, and so are ratios above 1.")
    if figures.cut:
        print(f"~ stopped after {LIMIT} s: the rate up to there, which flatters it, as its time per name grows.")


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown")
    return f"{os.cpu_count()} x {model}, Linux {os.uname().release}, {time.strftime('%Y-%m-%d %H:%M')}"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jext4", default=os.path.join(ROOT, ".build/release/jext4"))
    parser.add_argument("--tools", default=os.path.join(ROOT, ".build/tools"))
    parser.add_argument("--json", metavar="FILE", help="write every single figure here")
    return parser.parse_args()


def report(figures, contenders, path):
    print(f"\n{machine()}\n")
    print_table(figures, contenders)
    if "names" in WORKS:
        print_growth(figures, contenders)
    if path:
        with open(path, "w", encoding="ascii") as file:
            json.dump({"machine": machine(), "runs": RUNS, "rates": figures.rates, "units": figures.units}, file)


def main():
    options = arguments()
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        sys.exit("bench: needs root and /dev/fuse")
    scratch = tempfile.mkdtemp(prefix="jext4-bench-", dir=os.environ.get("BENCH_SCRATCH", "/var/tmp"))
    wanted = [name for name in os.environ.get("BENCH_ONLY", "").split(",") if name]
    contenders, figures = [], Figures()
    for kind in ALL:
        if wanted and kind.name not in wanted:
            continue
        contender = kind(scratch, os.path.abspath(options.tools), os.path.abspath(options.jext4))
        if contender.missing():
            print(f"bench: without {kind.name}: {contender.missing()}", file=sys.stderr)
        else:
            contenders.append(contender)
    try:
        prepared = prepare_trees(scratch) if "trees" in WORKS else None
        for turn in range(RUNS):
            for work in [work for work in WORKS if work != "replay"]:
                start = time.monotonic()
                # Nobody goes first every time.
                first = turn % len(contenders)
                order = [one for one in contenders[first:] + contenders[:first] if one.only_in in (None, work)]
                one_turn(order, work, figures, prepared)
                print(f"bench: turn {turn + 1}/{RUNS}, {work}: {time.monotonic() - start:.1f} s", file=sys.stderr)
        if "replay" in WORKS:
            replays(scratch, os.path.abspath(options.jext4), figures)
    except KeyboardInterrupt:
        print("bench: interrupted; the figures are of what came before", file=sys.stderr)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        # Whatever ended it: an hour of figures is not to be lost.
        report(figures, contenders, options.json)


if __name__ == "__main__":
    main()
