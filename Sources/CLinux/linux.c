#define _GNU_SOURCE
#include "CLinux.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <malloc.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

const int jext4_o_direct = O_DIRECT, jext4_o_noatime = O_NOATIME;
const int jext4_seek_data = SEEK_DATA, jext4_seek_hole = SEEK_HOLE;

// The structure of the system's own header: that of the C library may be older.
ssize_t jext4_direct_alignment(int fd) {
    struct statx status;
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) != 0) return -1;
    return status.stx_mask & STATX_DIOALIGN ? (ssize_t)status.stx_dio_offset_align : -1;
}

int jext4_clone(int to, int from) { return ioctl(to, FICLONE, from); }

ssize_t jext4_pwritev(int fd, const struct iovec *vectors, int count, off_t offset, bool through) {
    return pwritev2(fd, vectors, count, offset, through ? RWF_DSYNC : 0);
}

// linux/mman.h: struct cachestat_range and struct cachestat, in pages but for the range.
struct cached_range {
    uint64_t offset, count;
};
struct cached_pages {
    uint64_t cached, dirty, in_writeback, evicted, recently_evicted;
};

ssize_t jext4_cached_bytes(int fd, off_t offset, size_t count) {
    struct cached_range range = {(uint64_t)offset, count};
    struct cached_pages pages;
    if (syscall(SYS_cachestat, fd, &range, &pages, 0) != 0) return -1;
    return (ssize_t)pages.cached * sysconf(_SC_PAGESIZE);
}

int jext4_punch(int fd, off_t offset, off_t count) {
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, count);
}

int jext4_start_writing(int fd, off_t offset, off_t count) {
    return sync_file_range(fd, offset, count, SYNC_FILE_RANGE_WRITE);
}

void jext4_limit_arenas(int most) { mallopt(M_ARENA_MAX, most); }

void jext4_name_thread(const char *name) { prctl(PR_SET_NAME, name); }

static _Thread_local void *thread_value;

void *jext4_thread_value(void) { return thread_value; }

void jext4_set_thread_value(void *value) { thread_value = value; }

int jext4_set_io_flusher(void) { return prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0); }
