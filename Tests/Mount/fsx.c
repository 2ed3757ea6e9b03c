// A file under random operations, compared with a model of it in memory after each one that reads.
// fsx [-s SEED] [-n OPERATIONS] [-l BYTES] [-d] [-m] [-p] [-y] FILE
//   -d  O_DIRECT reads and writes too    -m  shared mappings too    -y  fsync after each change
//   -p  of fallocate holes only: for files that are mapped by indirect blocks
// The same seed gives the same operations. On a difference: the offset, what was expected, and the operations that led
// there, most recent last. Exit 0: no difference; 1: a difference; 2: a call failed.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SECTOR = 4096, HISTORY = 40, LINE = 120 };

static const char *path;
static int file, direct_file = -1;
static size_t limit = 1 << 20;      // The largest size the file may have, in bytes.
static size_t size;                 // The size it should have now.
static unsigned char *model;        // What it should hold; zeros from `size` to `limit`.
static unsigned char *buffer;       // SECTOR-aligned, `limit` bytes.
static char history[HISTORY][LINE];
static unsigned long step;
static int holes_only;
static uint64_t state;

static uint64_t next_random(void) {
    state += 0x9e3779b97f4a7c15u;
    uint64_t mixed = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
}

static size_t below(size_t bound) { return bound ? next_random() % bound : 0; }

__attribute__((format(printf, 1, 2))) static void remember(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int used = snprintf(history[step % HISTORY], LINE, "%6lu ", step);
    vsnprintf(history[step % HISTORY] + used, LINE - used, format, arguments);
    va_end(arguments);
}

static void print_history(void) {
    for (unsigned long i = step >= HISTORY ? step - HISTORY + 1 : 0; i <= step; i++) puts(history[i % HISTORY]);
}

static _Noreturn void fail_call(const char *call) {
    printf("%s: %s: %s\n", path, call, strerror(errno));
    print_history();
    exit(2);
}

static void compare(size_t at, const unsigned char *got, size_t length, const char *how) {
    if (memcmp(model + at, got, length) == 0) return;
    size_t first = 0, last = length - 1;
    while (model[at + first] == got[first]) first++;
    while (model[at + last] == got[last]) last--;
    printf("%s: %s: bytes %zu to %zu differ: expected %02x, got %02x (size %zu)\n", path, how, at + first, at + last,
           model[at + first], got[first], size);
    print_history();
    exit(1);
}

// A range, often small, sometimes large, sometimes on sector bounds.
static void choose_range(size_t bound, size_t *at, size_t *length) {
    static const size_t most[] = {64, 4096, 20000, 131072, 400000};
    *at = below(bound);
    *length = 1 + below(most[below(5)]);
    if (below(3) == 0) *at -= *at % SECTOR, *length += SECTOR - 1 - (*length - 1) % SECTOR;
    if (*length > bound - *at) *length = bound - *at;
}

static void fill(unsigned char *bytes, size_t length) {
    uint64_t value = next_random();
    for (size_t i = 0; i < length; i++) bytes[i] = (unsigned char)(value >> (i % 8 * 8)) ^ (unsigned char)(i / 251 + 1);
}

static void check_size(void) {
    struct stat info;
    if (fstat(file, &info) != 0) fail_call("fstat");
    if ((size_t)info.st_size == size) return;
    printf("%s: size is %lld, expected %zu\n", path, (long long)info.st_size, size);
    print_history();
    exit(1);
}

static void changed(size_t at, size_t length) {
    if (at + length > size) size = at + length;
}

static void do_write(void) {
    size_t at, length;
    choose_range(limit, &at, &length);
    if (below(4) == 0) at = size < limit ? size : 0, length = length < limit - at ? length : limit - at;
    remember("write   %zu +%zu", at, length);
    fill(buffer, length);
    for (size_t done = 0; done < length;) {
        ssize_t count = pwrite(file, buffer + done, length - done, at + done);
        if (count <= 0) fail_call("pwrite");
        done += count;
    }
    memcpy(model + at, buffer, length);
    changed(at, length);
}

static void do_read(void) {
    size_t at, length;
    if (size == 0) return;
    choose_range(size, &at, &length);
    remember("read    %zu +%zu", at, length);
    ssize_t count = pread(file, buffer, length, at);
    if (count != (ssize_t)length) fail_call("pread");
    compare(at, buffer, length, "read");
}

static void do_truncate(void) {
    size_t wanted = below(3) == 0 ? below(size + 1) : below(limit + 1);
    remember("truncate %zu -> %zu", size, wanted);
    if (ftruncate(file, wanted) != 0) fail_call("ftruncate");
    if (wanted < size) memset(model + wanted, 0, size - wanted);
    size = wanted;
}

static void do_direct(int is_write) {
    size_t at = below(limit / SECTOR) * SECTOR, length = (1 + below(32)) * SECTOR;
    if (length > limit - at) length = limit - at;
    remember("direct %s %zu +%zu", is_write ? "write" : "read", at, length);
    if (is_write) {
        fill(buffer, length);
        if (pwrite(direct_file, buffer, length, at) != (ssize_t)length) fail_call("direct pwrite");
        memcpy(model + at, buffer, length);
        changed(at, length);
        return;
    }
    size_t expected = at >= size ? 0 : size - at < length ? size - at : length;
    ssize_t count = pread(direct_file, buffer, length, at);
    if (count != (ssize_t)expected) fail_call("direct pread");
    if (expected) compare(at, buffer, expected, "direct read");
}

static void do_map(int is_write) {
    size_t at, length;
    if (size == 0) return;
    choose_range(size, &at, &length);
    size_t start = at - at % SECTOR;
    remember("map %s %zu +%zu", is_write ? "write" : "read", at, length);
    unsigned char *mapped = mmap(NULL, at + length - start, PROT_READ | PROT_WRITE, MAP_SHARED, file, start);
    if (mapped == MAP_FAILED) fail_call("mmap");
    if (is_write) {
        fill(mapped + (at - start), length);
        memcpy(model + at, mapped + (at - start), length);
        if (below(4) == 0 && msync(mapped, at + length - start, MS_SYNC) != 0) fail_call("msync");
    } else {
        compare(at, mapped + (at - start), length, "mapped read");
    }
    if (munmap(mapped, at + length - start) != 0) fail_call("munmap");
}

static void do_allocate(void) {
    static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
                                FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
    size_t at, length;
    int mode = modes[holes_only ? 2 : below(6)];
    choose_range(limit, &at, &length);
    remember("fallocate mode %d %zu +%zu", mode, at, length);
    if (fallocate(file, mode, at, length) != 0) fail_call("fallocate");
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) memset(model + at, 0, length);
    if (!(mode & FALLOC_FL_KEEP_SIZE)) changed(at, length);
}

static void do_copy(void) {
    size_t from, to, length;
    if (size < 2) return;
    choose_range(size, &from, &length);
    to = below(limit);
    if (length > limit - to) length = limit - to;
    if (from < to + length && to < from + length) return;  // The call refuses ranges that overlap.
    remember("copy    %zu -> %zu +%zu", from, to, length);
    for (size_t done = 0; done < length;) {
        off_t source = from + done, target = to + done;
        ssize_t count = copy_file_range(file, &source, file, &target, length - done, 0);
        if (count <= 0) fail_call("copy_file_range");
        done += count;
    }
    memcpy(model + to, model + from, length);
    changed(to, length);
}

// Holes must be zeros in the model; what lies between them may be anything.
static void do_seek(void) {
    remember("seek");
    for (off_t at = 0; (size_t)at < size;) {
        off_t hole = lseek(file, at, SEEK_HOLE);
        if (hole < at || (size_t)hole > size) fail_call("SEEK_HOLE");
        if ((size_t)hole == size) return;
        off_t data = lseek(file, hole, SEEK_DATA);
        if (data < 0 && errno != ENXIO) fail_call("SEEK_DATA");
        if (data < 0) data = size;
        if (data <= hole) fail_call("SEEK_DATA does not move");
        memset(buffer, 0, data - hole);
        compare(hole, buffer, data - hole, "hole");
        at = data;
    }
}

static void do_sync(void) {
    remember("sync and forget");
    if ((below(2) ? fsync(file) : fdatasync(file)) != 0) fail_call("fsync");
    if (below(2)) posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
}

static void open_files(int flags, int with_direct) {
    file = open(path, O_RDWR | flags, 0644);
    if (file < 0) fail_call("open");
    if (with_direct && (direct_file = open(path, O_RDWR | O_DIRECT)) < 0) fail_call("open O_DIRECT");
}

static void do_reopen(int with_direct) {
    remember("reopen");
    if (close(file) != 0 || (with_direct && close(direct_file) != 0)) fail_call("close");
    open_files(0, with_direct);
}

static void verify_all(void) {
    check_size();
    if (size == 0) return;
    if (pread(file, buffer, size, 0) != (ssize_t)size) fail_call("pread of all");
    compare(0, buffer, size, "read of all");
}

int main(int count, char **words) {
    unsigned long operations = 1000;
    int with_direct = 0, with_maps = 0, sync_each = 0, option;
    while ((option = getopt(count, words, "s:n:l:dmpy")) != -1) {
        switch (option) {
        case 's': state = strtoull(optarg, NULL, 0); break;
        case 'n': operations = strtoul(optarg, NULL, 0); break;
        case 'l': limit = strtoul(optarg, NULL, 0) / SECTOR * SECTOR; break;
        case 'd': with_direct = 1; break;
        case 'm': with_maps = 1; break;
        case 'p': holes_only = 1; break;
        case 'y': sync_each = 1; break;
        default: return 2;
        }
    }
    if (optind != count - 1 || limit < 16 * SECTOR) return fprintf(stderr, "usage: see the top of fsx.c\n"), 2;
    path = words[optind];
    model = calloc(1, limit);
    if (!model || posix_memalign((void **)&buffer, SECTOR, limit) != 0) fail_call("memory");
    open_files(O_CREAT | O_TRUNC, with_direct);
    for (step = 1; step <= operations; step++) {
        switch (below(14)) {
        case 0: case 1: case 2: do_write(); break;
        case 3: case 4: do_read(); break;
        case 5: do_truncate(); break;
        case 6: do_allocate(); break;
        case 7: do_copy(); break;
        case 8: below(4) ? do_seek() : do_sync(); break;
        case 9: below(3) ? do_read() : do_reopen(with_direct); break;
        case 10: case 11: with_direct ? do_direct(step & 1) : do_write(); break;
        case 12: case 13: with_maps ? do_map(step & 1) : do_read(); break;
        }
        check_size();
        if (sync_each && fsync(file) != 0) fail_call("fsync");
        if (step % 64 == 0) verify_all();
    }
    do_sync();
    do_reopen(with_direct);
    verify_all();
    return 0;
}
