// What Swift cannot say of libfuse and Linux: variadic calls, thread-local variables, fork, mount and loop devices.
#ifndef JEXT4_CFUSESHIMS_H
#define JEXT4_CFUSESHIMS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "../../CFuse3/CFuse3.h"

/// What a thread that serves requests keeps for itself. The memory belongs to the caller of jext4_set_worker.
struct jext4_worker {
    /// The descriptor of /dev/fuse that this thread reads from and answers on.
    int descriptor;
    /// The request that is being served, from its fuse_in_header on.
    const void *request;
    /// Page-aligned memory for one answer, and its length in bytes.
    void *scratch;
    size_t scratch_size;
};
/// Sets what jext4_worker gives on the calling thread; null ends it.
void jext4_set_worker(const struct jext4_worker *worker);
/// The calling thread's worker. Null on a thread that has none.
const struct jext4_worker *jext4_worker(void);

/// Makes `session` read and write through the calling thread's descriptor, or through `descriptor` where there is none.
/// 0, or a negative errno.
int jext4_use_worker_descriptors(struct fuse_session *session, int descriptor);
/// Adds `flags` (the FUSE_INIT bits 0...31 that libfuse does not know) to the next FUSE_INIT answer of this process.
void jext4_add_init_flags(uint32_t flags);

/// Keeps libfuse's messages instead of printing them. jext4_fuse_message gives the last one, "" at first.
void jext4_keep_fuse_messages(void);
const char *jext4_fuse_message(void);

/// fork(2). Only before the first thread is started.
pid_t jext4_fork(void);
/// Points standard input, output and error to /dev/null.
void jext4_silence(void);
/// Ignores SIGPIPE, blocks SIGTERM, SIGINT and SIGHUP for this and later threads, and lets SIGUSR1 interrupt system
/// calls without any other effect. Only before the first thread is started.
void jext4_prepare_signals(void);
/// Waits for one of the blocked signals and gives its number.
int jext4_next_signal(void);
/// Writes one line to the system log. `priority` is of syslog(3).
void jext4_syslog(int priority, const char *message);

/// Attaches `image` to a free loop device that frees itself on its last close. The volume starts at byte `offset`.
/// Gives the open device and writes its path; -1 and errno.
int jext4_loop_attach(int image, uint64_t offset, bool read_only, const char *name, char *path, size_t path_size);

/// mount(2) and umount2(2), with `flags` of the kernel.
int jext4_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
int jext4_umount(const char *target, bool lazy);
extern const unsigned long jext4_ms_rdonly, jext4_ms_nosuid, jext4_ms_nodev, jext4_ms_noexec, jext4_ms_noatime,
    jext4_ms_nodiratime;
/// syncfs(2) of the file system of `descriptor`.
int jext4_syncfs(int descriptor);
/// The user of the process at the other end of a Unix socket; -1 and errno.
int jext4_peer_user(int socket, uid_t *user);
/// The effective capabilities of a thread, as the bits of capabilities(7); none when it is gone or has a user namespace
/// that is not ours.
uint64_t jext4_capabilities(pid_t thread);
/// Copies from the memory of a thread's process; false when that may not be read.
bool jext4_read_memory(pid_t thread, uint64_t address, void *to, size_t count);
#endif
