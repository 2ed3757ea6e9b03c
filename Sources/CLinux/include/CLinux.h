// What glibc declares only under _GNU_SOURCE, which Swift's Glibc module does not set.
#ifndef JEXT4_CLINUX_H
#define JEXT4_CLINUX_H
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

/// The O_DIRECT flag of open(2).
extern const int jext4_o_direct;
/// The O_NOATIME flag of open(2).
extern const int jext4_o_noatime;
/// The positions of lseek(2) that a sparse file has.
extern const int jext4_seek_data, jext4_seek_hole;
/// What the place of a direct transfer in the file and its count must be multiples of, in bytes (STATX_DIOALIGN, Linux
/// 6.1): 0 where there is no direct I/O, -1 where the kernel does not tell.
ssize_t jext4_direct_alignment(int fd);
/// Makes the file `to` share all blocks of the file `from` (FICLONE): -1 where the file system cannot.
int jext4_clone(int to, int from);
/// pwritev2(2), with RWF_DSYNC when `through` is set.
ssize_t jext4_pwritev(int fd, const struct iovec *vectors, int count, off_t offset, bool through);
/// How many bytes of a range the page cache holds; -1 where the kernel does not tell: cachestat(2), Linux 6.5.
ssize_t jext4_cached_bytes(int fd, off_t offset, size_t count);
/// Punches a hole and keeps the size: fallocate(2).
int jext4_punch(int fd, off_t offset, off_t count);
/// Starts the writing of what the page cache holds of a range, and does not wait: sync_file_range(2).
int jext4_start_writing(int fd, off_t offset, off_t count);
/// Bounds what malloc keeps for threads apart from each other (M_ARENA_MAX): a server of many threads that each hold
/// little would spread its memory thin. Call before the threads start.
void jext4_limit_arenas(int most);
/// Names the calling thread; 15 bytes count.
void jext4_name_thread(const char *name);
/// A pointer of the calling thread's own; NULL until it is set.
void *jext4_thread_value(void);
void jext4_set_thread_value(void *value);
/// Marks the calling process as part of the I/O path (PR_SET_IO_FLUSHER). Needs CAP_SYS_RESOURCE; -1 without it.
int jext4_set_io_flusher(void);
#endif
