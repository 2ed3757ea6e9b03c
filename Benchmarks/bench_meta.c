// Metadata operations on N names in one directory, and fsyncs of new files; prints operations done and seconds taken.
// bench_meta [-t SECONDS] create|stat|readdir|rename|unlink|mkdir|rmdir DIR COUNT
// bench_meta fsync DIR COUNT THREADS      each thread creates, writes 4 KiB, fsyncs and closes its share of COUNT files
// bench_meta commit DIR COUNT THREADS     each thread changes the mode of a file of its own and fsyncs it
// With -t the work stops at that time: what was not done is left out of the figure. stat takes the names in an order
// that is none (the same in every run), so that no read-ahead of inodes helps; the others go as create did.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int directory;
static double deadline = 1e18;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "bench_meta: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void name_of(char *name, unsigned long number, const char *suffix) {
    snprintf(name, 64, "name-of-a-file-%08lu%s", number, suffix);
}

// A permutation of 0..<count: an odd multiplier modulo the next power of two, out-of-range values walked over.
static unsigned long scattered(unsigned long number, unsigned long count) {
    unsigned long mask = 1;
    while (mask < count) mask <<= 1;
    do number = (number * 0x9e3779b1u + 0x5bd1u) & (mask - 1);
    while (number >= count);
    return number;
}

static int create(unsigned long number, unsigned long count) {
    (void)count;
    char name[64];
    name_of(name, number, "");
    int file = openat(directory, name, O_CREAT | O_EXCL | O_WRONLY, 0644);
    return file < 0 ? -1 : close(file);
}

static int status(unsigned long number, unsigned long count) {
    char name[64];
    struct stat info;
    name_of(name, scattered(number, count), "");
    return fstatat(directory, name, &info, 0);
}

static int renamed(unsigned long number, unsigned long count) {
    (void)count;
    char name[64], other[64];
    name_of(name, number, "");
    name_of(other, number, "-renamed");
    return renameat(directory, name, directory, other);
}

static int removed(unsigned long number, unsigned long count) {
    (void)count;
    char name[64], other[64];
    name_of(name, number, "");
    name_of(other, number, "-renamed");
    if (unlinkat(directory, other, 0) == 0) return 0;
    return errno == ENOENT ? unlinkat(directory, name, 0) : -1;
}

static int made(unsigned long number, unsigned long count) {
    (void)count;
    char name[64];
    name_of(name, number, ".d");
    return mkdirat(directory, name, 0755);
}

static int unmade(unsigned long number, unsigned long count) {
    (void)count;
    char name[64];
    name_of(name, number, ".d");
    return unlinkat(directory, name, AT_REMOVEDIR);
}

static unsigned long list(void) {
    static char buffer[1 << 17];
    unsigned long found = 0;
    ssize_t used;
    while ((used = getdents64(directory, buffer, sizeof buffer)) > 0) {
        for (char *at = buffer; at < buffer + used; at += ((struct dirent64 *)at)->d_reclen) found++;
    }
    if (used < 0) fail("getdents64");
    return found;
}

struct share {
    unsigned long first, count;
};

static void *sync_files(void *argument) {
    const struct share *share = argument;
    char name[64], content[4096];
    memset(content, 'f', sizeof content);
    for (unsigned long i = share->first; i < share->first + share->count; i++) {
        name_of(name, i, ".synced");
        int file = openat(directory, name, O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (file < 0) fail("open");
        if (write(file, content, sizeof content) != sizeof content) fail("write");
        if (fsync(file) != 0 || close(file) != 0) fail("fsync");
    }
    return NULL;
}

// Nothing but the commit of one inode: what the journal itself allows.
static void *sync_modes(void *argument) {
    const struct share *share = argument;
    char name[64];
    name_of(name, share->first, "-mode");
    int file = openat(directory, name, O_CREAT | O_RDWR, 0600);
    if (file < 0) fail("open");
    for (unsigned long i = 0; i < share->count; i++)
        if (fchmod(file, i % 2 ? 0600 : 0640) != 0 || fsync(file) != 0) fail("fchmod and fsync");
    close(file);
    return NULL;
}

static void sync_with_threads(void *(*body)(void *), unsigned long count, unsigned long threads) {
    pthread_t thread[256];
    struct share share[256];
    if (threads < 1 || threads > 256) fail("1 to 256 threads");
    for (unsigned long i = 0; i < threads; i++) {
        share[i] = (struct share){count * i / threads, count * (i + 1) / threads - count * i / threads};
        if (pthread_create(&thread[i], NULL, body, &share[i]) != 0) fail("pthread_create");
    }
    for (unsigned long i = 0; i < threads; i++) pthread_join(thread[i], NULL);
}

int main(int words, char **word) {
    static const struct {
        const char *name;
        int (*operation)(unsigned long, unsigned long);
    } table[] = {{"create", create}, {"stat", status}, {"rename", renamed},
                 {"unlink", removed}, {"mkdir", made}, {"rmdir", unmade}};
    if (words > 2 && strcmp(word[1], "-t") == 0) {
        deadline = now() + atof(word[2]);
        word += 2, words -= 2;
    }
    if (words < 4) return fprintf(stderr, "usage: see the top of bench_meta.c\n"), 2;
    unsigned long count = strtoul(word[3], NULL, 10), done = 0;
    directory = open(word[2], O_RDONLY | O_DIRECTORY);
    if (directory < 0) fail(word[2]);
    double start = now();
    if (words == 5 && (strcmp(word[1], "fsync") == 0 || strcmp(word[1], "commit") == 0)) {
        sync_with_threads(word[1][0] == 'f' ? sync_files : sync_modes, count, strtoul(word[4], NULL, 10));
        done = count;
    } else if (strcmp(word[1], "readdir") == 0) {
        done = list();
        if (done < count) return fprintf(stderr, "bench_meta: %lu names of %lu\n", done, count), 1;
    } else {
        for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
            if (strcmp(word[1], table[i].name) != 0) continue;
            for (; done < count; done++) {
                if (table[i].operation(done, count) != 0) fail(word[1]);
                if (done % 64 == 63 && now() > deadline) {
                    done++;
                    break;
                }
            }
        }
    }
    double seconds = now() - start;
    if (done == 0) return fprintf(stderr, "bench_meta: nothing done\n"), 2;
    printf("%lu %.9f\n", done, seconds);
    return 0;
}
