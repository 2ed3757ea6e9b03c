// FUSE over io_uring: Documentation/filesystems/fuse/fuse-io-uring.rst, and struct fuse_uring_req_header,
// fuse_uring_ent_in_out and fuse_uring_cmd_req of the kernel's interface 7.42, which older headers do not have.
#define _GNU_SOURCE
#include "CFuseShims.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { command_register = 1, command_commit_and_fetch = 2 };
enum { in_header_size = 40, out_header_size = 16, failure_offset = 4, entry_bytes = 128, command_offset = 48 };

struct request_header {
    char in_out[128];
    char operation[128];
    uint64_t flags;
    uint64_t commit_id;
    uint32_t payload_size;
    uint32_t padding;
    uint64_t reserved;
};

struct command {
    uint64_t flags;
    uint64_t commit_id;
    uint16_t queue;
    uint8_t padding[6];
};

struct jext4_ring {
    int descriptor;
    int fuse;
    uint16_t queue;
    bool is_registered;
    bool is_answered;
    bool holds_request;
    struct iovec parts[2];
    struct request_header header;
    // The rings that the kernel shares: the places of two entries, one in use.
    void *memory;
    size_t memory_size;
    char *entries;
    size_t entries_size;
    _Atomic uint32_t *submitted, *taken, *completed, *seen;
    uint32_t *order;
    uint32_t submission_mask, completion_mask;
    struct io_uring_cqe *completions;
};

static bool map_rings(struct jext4_ring *ring, const struct io_uring_params *made) {
    size_t submissions = made->sq_off.array + made->sq_entries * sizeof(uint32_t);
    size_t completions = made->cq_off.cqes + made->cq_entries * sizeof(struct io_uring_cqe);
    ring->memory_size = submissions > completions ? submissions : completions;
    ring->entries_size = (size_t)made->sq_entries * entry_bytes;
    int access = PROT_READ | PROT_WRITE, kind = MAP_SHARED | MAP_POPULATE;
    char *memory = mmap(NULL, ring->memory_size, access, kind, ring->descriptor, IORING_OFF_SQ_RING);
    if (memory == MAP_FAILED) return false;
    ring->memory = memory;
    char *entries = mmap(NULL, ring->entries_size, access, kind, ring->descriptor, IORING_OFF_SQES);
    if (entries == MAP_FAILED) return false;
    ring->entries = entries;
    ring->submitted = (void *)(memory + made->sq_off.tail);
    ring->taken = (void *)(memory + made->sq_off.head);
    ring->order = (void *)(memory + made->sq_off.array);
    ring->submission_mask = *(uint32_t *)(void *)(memory + made->sq_off.ring_mask);
    ring->completed = (void *)(memory + made->cq_off.tail);
    ring->seen = (void *)(memory + made->cq_off.head);
    ring->completion_mask = *(uint32_t *)(void *)(memory + made->cq_off.ring_mask);
    ring->completions = (void *)(memory + made->cq_off.cqes);
    return true;
}

struct jext4_ring *jext4_ring_open(int fuse, unsigned queue, void *payload, size_t payload_size) {
    // Completions are taken by the thread that waits for them: nothing interrupts it while it serves.
    struct io_uring_params made = {
        .flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    struct jext4_ring *ring = calloc(1, sizeof *ring);
    if (!ring) return NULL;
    ring->fuse = fuse;
    ring->queue = (uint16_t)queue;
    ring->parts[0] = (struct iovec){&ring->header, sizeof ring->header};
    ring->parts[1] = (struct iovec){payload, payload_size};
    ring->descriptor = (int)syscall(SYS_io_uring_setup, 2, &made);
    if (ring->descriptor >= 0 && map_rings(ring, &made)) return ring;
    int cause = errno;
    jext4_ring_close(ring);
    errno = cause;
    return NULL;
}

void jext4_ring_close(struct jext4_ring *ring) {
    if (ring->entries) munmap(ring->entries, ring->entries_size);
    if (ring->memory) munmap(ring->memory, ring->memory_size);
    if (ring->descriptor >= 0) close(ring->descriptor);
    free(ring);
}

static void submit(struct jext4_ring *ring, uint32_t operation) {
    uint32_t place = atomic_load_explicit(ring->submitted, memory_order_relaxed);
    uint32_t index = place & ring->submission_mask;
    struct io_uring_sqe *entry = (void *)(ring->entries + (size_t)index * entry_bytes);
    memset(entry, 0, entry_bytes);
    entry->opcode = IORING_OP_URING_CMD;
    entry->fd = ring->fuse;
    entry->cmd_op = operation;
    struct command command = {.queue = ring->queue};
    if (operation == command_register) {
        entry->addr = (uint64_t)(uintptr_t)ring->parts;
        entry->len = 2;
    } else {
        command.commit_id = ring->header.commit_id;
    }
    memcpy((char *)entry + command_offset, &command, sizeof command);
    ring->order[index] = index;
    atomic_store_explicit(ring->submitted, place + 1, memory_order_release);
}

static void take_over(struct jext4_ring *ring) {
    if (!ring->is_registered) {
        ring->is_registered = true;
        return submit(ring, command_register);
    }
    if (!ring->holds_request) return;
    if (!ring->is_answered) {
        int32_t failure = -EIO;
        memcpy(ring->header.in_out + failure_offset, &failure, sizeof failure);
        ring->header.payload_size = 0;
    }
    ring->holds_request = false;
    submit(ring, command_commit_and_fetch);
}

/// The request in one piece: its headers go before the payload, which stays where it is.
static ssize_t assemble(struct jext4_ring *ring, const void **request) {
    uint32_t length;
    memcpy(&length, ring->header.in_out, sizeof length);
    size_t rest = (size_t)in_header_size + ring->header.payload_size;
    if (length < rest || length - rest > sizeof ring->header.operation) return -EPROTO;
    char *start = (char *)ring->parts[1].iov_base - (length - ring->header.payload_size);
    memcpy(start, ring->header.in_out, in_header_size);
    memcpy(start + in_header_size, ring->header.operation, length - rest);
    ring->holds_request = true;
    ring->is_answered = false;
    *request = start;
    return length;
}

ssize_t jext4_ring_receive(struct jext4_ring *ring, const void **request) {
    take_over(ring);
    uint32_t seen = atomic_load_explicit(ring->seen, memory_order_relaxed);
    while (seen == atomic_load_explicit(ring->completed, memory_order_acquire)) {
        uint32_t waiting = atomic_load_explicit(ring->submitted, memory_order_relaxed) -
                           atomic_load_explicit(ring->taken, memory_order_acquire);
        long result = syscall(SYS_io_uring_enter, ring->descriptor, waiting, 1, IORING_ENTER_GETEVENTS, NULL, 0);
        if (result < 0) return -errno;
        // A signal that came after the submission shows as a wait without a completion.
        bool is_idle = seen == atomic_load_explicit(ring->completed, memory_order_acquire);
        if (is_idle && waiting > 0) return -EINTR;
    }
    int result = ring->completions[seen & ring->completion_mask].res;
    atomic_store_explicit(ring->seen, seen + 1, memory_order_release);
    if (result == -ENOTCONN || result == -ECONNABORTED || result == -ECANCELED) return 0;
    return result < 0 ? result : assemble(ring, request);
}

ssize_t jext4_ring_answer(struct jext4_ring *ring, const struct iovec *parts, int count) {
    memcpy(ring->header.in_out, parts[0].iov_base, out_header_size);
    char *payload = ring->parts[1].iov_base;
    size_t size = 0;
    for (int part = 1; part < count; part++) {
        if (parts[part].iov_len > ring->parts[1].iov_len - size) {
            errno = EMSGSIZE;
            return -1;
        }
        if (parts[part].iov_base != payload + size) memmove(payload + size, parts[part].iov_base, parts[part].iov_len);
        size += parts[part].iov_len;
    }
    ring->header.payload_size = (uint32_t)size;
    ring->is_answered = true;
    return (ssize_t)(out_header_size + size);
}

int jext4_ring_failure(const struct jext4_ring *ring) {
    int32_t failure;
    memcpy(&failure, ring->header.in_out + failure_offset, sizeof failure);
    return ring->is_answered ? -failure : 0;
}

void jext4_stay_on(unsigned processor) {
    cpu_set_t *set = CPU_ALLOC(processor + 1);
    if (!set) return;
    size_t size = CPU_ALLOC_SIZE(processor + 1);
    CPU_ZERO_S(size, set);
    CPU_SET_S(processor, size, set);
    sched_setaffinity(0, size, set);
    CPU_FREE(set);
}
