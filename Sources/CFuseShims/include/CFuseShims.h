// What Swift cannot say of libfuse and Linux: variadic calls, thread-local variables, fork, mount and loop devices.
#ifndef JEXT4_CFUSESHIMS_H
#define JEXT4_CFUSESHIMS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
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
    /// What this thread takes its requests from instead of the descriptor; null where it does not.
    struct jext4_ring *ring;
    /// The request is a FUSE_CREATE of a file that gets no name.
    bool is_nameless;
};
/// Sets what jext4_worker gives on the calling thread; null ends it.
void jext4_set_worker(const struct jext4_worker *worker);
/// The calling thread's worker. Null on a thread that has none.
const struct jext4_worker *jext4_worker(void);

/// Makes `session` read and write through the calling thread's descriptor, or through `descriptor` where there is none.
/// 0, or a negative errno.
int jext4_use_worker_descriptors(struct fuse_session *session, int descriptor);
/// Adds `flags` (FUSE_INIT bits that libfuse does not know) to the next FUSE_INIT answer of this thread.
void jext4_add_init_flags(uint64_t flags);
/// Adds `flags` at `offset` of what follows the header in the next answer that this thread sends, if it is that long.
void jext4_add_attribute_flags(size_t offset, uint32_t flags);
/// Sends a whole answer, from its fuse_out_header on, as libfuse's answers go. Bytes sent, or -1 and errno.
ssize_t jext4_send_answer(int descriptor, const void *bytes, size_t count);

/// One io_uring, over which one thread takes the requests of one processor's queue, one at a time: FUSE over io_uring.
struct jext4_ring;
/// Needs a kernel of 6.14 or later. `payload` takes what goes with a request and with an answer, at least as much as
/// the connection's largest transfer; before it there is room for 168 bytes of headers. Null and errno.
struct jext4_ring *jext4_ring_open(int fuse, unsigned queue, void *payload, size_t payload_size);
void jext4_ring_close(struct jext4_ring *ring);
/// Hands in the answer to the request before, EIO where there was none, and waits for the next. Gives its length and
/// where it lies in one piece; 0 at the end of the connection; a negative errno, -EINTR after a signal. Only on one
/// thread, the one that makes the first call.
ssize_t jext4_ring_receive(struct jext4_ring *ring, const void **request);
/// Keeps the answer to the request at hand, a fuse_out_header first. Bytes kept, or -1 and EMSGSIZE.
ssize_t jext4_ring_answer(struct jext4_ring *ring, const struct iovec *parts, int count);
/// The errno that is kept as the answer to the request at hand; 0 for a success, or where there is none yet.
int jext4_ring_failure(const struct jext4_ring *ring);
/// Binds the calling thread to a processor, if it may run there.
void jext4_stay_on(unsigned processor);

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
    jext4_ms_nodiratime, jext4_ms_synchronous, jext4_ms_dirsync;
/// syncfs(2) of the file system of `descriptor`.
int jext4_syncfs(int descriptor);
/// The user of the process at the other end of a Unix socket; -1 and errno.
int jext4_peer_user(int socket, uid_t *user);
/// The effective capabilities of a thread, as the bits of capabilities(7); none when it is gone or has a user namespace
/// that is not ours.
uint64_t jext4_capabilities(pid_t thread);
/// Whether a thread has a group among its supplementary ones; false when it is gone, or cannot be seen from here.
bool jext4_has_group(pid_t thread, gid_t group);
/// The process of a thread; 0 when it is gone, or cannot be seen from here.
pid_t jext4_thread_group(pid_t thread);
/// Whether a thread is on its way out, or gone: proc_pid_stat(5).
bool jext4_is_exiting(pid_t thread);
/// Copies from the memory of a thread's process; false when that may not be read.
bool jext4_read_memory(pid_t thread, uint64_t address, void *to, size_t count);
#endif
