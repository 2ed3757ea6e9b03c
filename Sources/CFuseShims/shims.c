#define _GNU_SOURCE
#include "CFuseShims.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_log.h>
#include <linux/loop.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <syslog.h>
#include <unistd.h>

static __thread const struct jext4_worker *current_worker;

void jext4_set_worker(const struct jext4_worker *worker) { current_worker = worker; }
const struct jext4_worker *jext4_worker(void) { return current_worker; }

/// Bits for the FUSE_INIT answer, which is the next message of the thread. Cleared when they have been added.
static __thread uint64_t init_flags;
/// fuse_out_header with its request number, and the two words of flags of fuse_init_out, in bytes.
enum { out_header_size = 16, unique_offset = 8, init_out_size = 64, init_flags_offset = 12, more_flags_offset = 32 };
/// FUSE_INIT_EXT: there is a second word.
enum { has_more_flags = 1 << 30 };

void jext4_add_init_flags(uint64_t flags) { init_flags = flags >> 32 ? flags | has_more_flags : flags; }

/// Bits for the next answer of the thread, and where they go in it.
static __thread struct {
    size_t offset;
    uint32_t bits;
} attribute_flags;

void jext4_add_attribute_flags(size_t offset, uint32_t flags) {
    attribute_flags.offset = offset;
    attribute_flags.bits = flags;
}

static void add_bits(char *answer, size_t offset, uint32_t bits) {
    uint32_t flags;
    memcpy(&flags, answer + offset, sizeof flags);
    flags |= bits;
    memcpy(answer + offset, &flags, sizeof flags);
}

static int own_descriptor(int descriptor) { return current_worker ? current_worker->descriptor : descriptor; }

static ssize_t write_answer(int descriptor, struct iovec *parts, int count, void *context) {
    (void)context;
    if (init_flags && count == 2 && parts[0].iov_len == out_header_size && parts[1].iov_len == init_out_size) {
        add_bits(parts[1].iov_base, init_flags_offset, (uint32_t)init_flags);
        add_bits(parts[1].iov_base, more_flags_offset, (uint32_t)(init_flags >> 32));
        init_flags = 0;
    }
    if (attribute_flags.bits && count == 2 && parts[1].iov_len >= attribute_flags.offset + sizeof attribute_flags.bits)
        add_bits(parts[1].iov_base, attribute_flags.offset, attribute_flags.bits);
    attribute_flags.bits = 0;
    // What answers no request is a notice to the kernel, and those go over the descriptor.
    uint64_t unique;
    memcpy(&unique, (char *)parts[0].iov_base + unique_offset, sizeof unique);
    if (current_worker && current_worker->ring && unique != 0)
        return jext4_ring_answer(current_worker->ring, parts, count);
    return writev(own_descriptor(descriptor), parts, count);
}

ssize_t jext4_send_answer(int descriptor, const void *bytes, size_t count) {
    struct iovec parts[] = {
        {(void *)(uintptr_t)bytes, out_header_size},
        {(char *)(uintptr_t)bytes + out_header_size, count - out_header_size},
    };
    return write_answer(descriptor, parts, count > out_header_size ? 2 : 1, NULL);
}

static ssize_t read_request(int descriptor, void *bytes, size_t count, void *context) {
    (void)context;
    ssize_t result = read(own_descriptor(descriptor), bytes, count);
    // A connection over a socket ends with nothing, /dev/fuse with ENODEV.
    if (result == 0) errno = ENODEV;
    return result == 0 ? -1 : result;
}

int jext4_use_worker_descriptors(struct fuse_session *session, int descriptor) {
    static const struct fuse_custom_io transport = {.writev = write_answer, .read = read_request};
    return fuse_session_custom_io(session, &transport, descriptor);
}

static char fuse_message[512];

static void keep_message(enum fuse_log_level level, const char *format, va_list arguments) {
    if (level > FUSE_LOG_WARNING) return;
    vsnprintf(fuse_message, sizeof fuse_message, format, arguments);
    fuse_message[strcspn(fuse_message, "\n")] = 0;
}

void jext4_keep_fuse_messages(void) { fuse_set_log_func(keep_message); }
const char *jext4_fuse_message(void) { return fuse_message; }

pid_t jext4_fork(void) { return fork(); }

void jext4_silence(void) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0) return;
    for (int standard = 0; standard <= 2; standard++) dup2(null, standard);
    if (null > 2) close(null);
}

static void leave_signals(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
}

static void only_interrupt(int number) { (void)number; }

void jext4_prepare_signals(void) {
    signal(SIGPIPE, SIG_IGN);
    struct sigaction interrupt = {.sa_handler = only_interrupt};
    sigaction(SIGUSR1, &interrupt, NULL);
    sigset_t set;
    leave_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

int jext4_next_signal(void) {
    sigset_t set;
    leave_signals(&set);
    int number = 0;
    while (sigwait(&set, &number) != 0) {
    }
    return number;
}

void jext4_syslog(int priority, const char *message) { syslog(priority, "%s", message); }

int jext4_loop_attach(int image, uint64_t offset, bool read_only, const char *name, char *path, size_t path_size) {
    // Another process may take the free device between the two calls; its number is then busy and we ask again.
    const int attempts = 64;
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0) return -1;
    int device = -1;
    for (int attempt = 0; attempt < attempts; attempt++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        if (number < 0) break;
        snprintf(path, path_size, "/dev/loop%d", number);
        device = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
        if (device < 0) break;
        struct loop_config config = {.fd = (uint32_t)image};
        config.info.lo_offset = offset;
        config.info.lo_flags = LO_FLAGS_AUTOCLEAR | (read_only ? LO_FLAGS_READ_ONLY : 0);
        strncpy((char *)config.info.lo_file_name, name, LO_NAME_SIZE - 1);
        if (ioctl(device, LOOP_CONFIGURE, &config) == 0) break;
        int cause = errno;
        close(device);
        errno = cause;
        device = -1;
        if (cause != EBUSY) break;
    }
    int cause = errno;
    close(control);
    errno = cause;
    return device;
}

int jext4_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data) {
    return mount(source, target, type, flags, data);
}
int jext4_umount(const char *target, bool lazy) { return umount2(target, lazy ? MNT_DETACH : 0); }

const unsigned long jext4_ms_rdonly = MS_RDONLY, jext4_ms_nosuid = MS_NOSUID, jext4_ms_nodev = MS_NODEV,
    jext4_ms_noexec = MS_NOEXEC, jext4_ms_noatime = MS_NOATIME, jext4_ms_nodiratime = MS_NODIRATIME,
    jext4_ms_synchronous = MS_SYNCHRONOUS, jext4_ms_dirsync = MS_DIRSYNC;

int jext4_syncfs(int descriptor) { return syncfs(descriptor); }

int jext4_peer_user(int socket, uid_t *user) {
    struct ucred peer;
    socklen_t length = sizeof peer;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return -1;
    *user = peer.uid;
    return 0;
}

// Whether a thread has the user namespace of this process. In one of its own everybody has all capabilities.
static bool shares_user_namespace(pid_t thread) {
    char path[64];
    struct stat ours, theirs;
    snprintf(path, sizeof path, "/proc/%d/ns/user", (int)thread);
    return stat("/proc/self/ns/user", &ours) == 0 && stat(path, &theirs) == 0 && ours.st_dev == theirs.st_dev &&
           ours.st_ino == theirs.st_ino;
}

/* proc_pid_status(5); null when the thread is gone. */
static FILE *open_status(pid_t thread) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", (int)thread);
    return fopen(path, "re");
}

/* A number of it by the start of its line; 0 when the thread is gone. */
static unsigned long long thread_status(pid_t thread, const char *format) {
    char line[256];
    FILE *status = open_status(thread);
    if (!status) return 0;
    unsigned long long value = 0;
    while (fgets(line, sizeof line, status))
        if (sscanf(line, format, &value) == 1) break;
    fclose(status);
    return value;
}

uint64_t jext4_capabilities(pid_t thread) {
    return shares_user_namespace(thread) ? thread_status(thread, "CapEff: %llx") : 0;
}

bool jext4_has_group(pid_t thread, gid_t group) {
    static const char name[] = "Groups:";
    FILE *status = open_status(thread);
    if (!status) return false;
    char *line = NULL;
    size_t size = 0;
    bool found = false;
    while (getline(&line, &size, status) > 0) {
        if (strncmp(line, name, sizeof name - 1) != 0) continue;
        char *rest = line + sizeof name - 1, *end;
        for (unsigned long id = strtoul(rest, &end, 10); end != rest && !found; id = strtoul(rest, &end, 10)) {
            found = id == group;
            rest = end;
        }
        break;
    }
    free(line);
    fclose(status);
    return found;
}

pid_t jext4_thread_group(pid_t thread) {
    return (pid_t)thread_status(thread, "Tgid: %llu");
}

bool jext4_is_exiting(pid_t thread) {
    const unsigned long exiting = 4; /* PF_EXITING */
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)thread);
    FILE *stat = fopen(path, "re");
    if (!stat) return true;
    size_t count = fread(line, 1, sizeof line - 1, stat);
    fclose(stat);
    line[count] = 0;
    /* The flags are the seventh field behind the name, which may hold anything. */
    char *behind = strrchr(line, ')');
    unsigned long flags = 0;
    return !behind || sscanf(behind, ") %*c %*d %*d %*d %*d %*d %lu", &flags) != 1 || flags & exiting;
}

bool jext4_read_memory(pid_t thread, uint64_t address, void *to, size_t count) {
    struct iovec local = {.iov_base = to, .iov_len = count};
    struct iovec remote = {.iov_base = (void *)(uintptr_t)address, .iov_len = count};
    return process_vm_readv(thread, &local, 1, &remote, 1, 0) == (ssize_t)count;
}
