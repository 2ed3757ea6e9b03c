// A FUSE server that does nothing: names and attributes in memory, data discarded, every sync a success. What it takes
// is the price of FUSE itself, the limit for any server. emptyfs [-w] [-s FILE] DIR runs in the foreground until it is
// unmounted.
//   -w       the kernel's writeback cache
//   -s FILE  an fsync is answered when FILE has taken what a journal would write, one commit for all who wait; and the
//            kernel asks for attributes of new files (security.capability), as it asks whoever has any
// Like jext4 it asks for 1 MiB writes, readdirplus, parallel directory operations and long timeouts, and answers open
// and opendir ENOSYS, so that they cost no message after the first.
#define _GNU_SOURCE
#define FUSE_USE_VERSION 314
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FOREVER 86400.0

struct node;

// A name in a directory. In `slots` of its directory it has a fixed place, so that an offset of readdir stays valid.
struct entry {
    struct node *parent, *target;
    struct entry *next;  // In the hash bucket.
    size_t slot;
    char name[];
};

struct node {
    struct stat info;
    uint64_t lookups;
    char *link;
    struct node *up;
    struct entry **slots;
    size_t used, room;
};

enum { BUCKETS = 1 << 20 };
static struct entry *buckets[BUCKETS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct node root;
static ino_t last_inode = FUSE_ROOT_ID;
static int writeback;
static char zeros[1 << 20];

static struct node *node_of(fuse_ino_t inode) { return inode == FUSE_ROOT_ID ? &root : (struct node *)inode; }
static fuse_ino_t inode_of(struct node *node) { return node == &root ? FUSE_ROOT_ID : (fuse_ino_t)node; }

static size_t bucket_of(const struct node *parent, const char *name) {
    uint64_t hash = (uint64_t)parent;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
    return (hash ^ hash >> 29) & (BUCKETS - 1);
}

static struct entry *find(struct node *parent, const char *name) {
    struct entry *entry = buckets[bucket_of(parent, name)];
    while (entry && (entry->parent != parent || strcmp(entry->name, name) != 0)) entry = entry->next;
    return entry;
}

static void touch(struct node *node) {
    clock_gettime(CLOCK_REALTIME_COARSE, &node->info.st_mtim);
    node->info.st_ctim = node->info.st_mtim;
}

static void add(struct node *parent, const char *name, struct node *target) {
    struct entry *entry = malloc(sizeof *entry + strlen(name) + 1);
    if (parent->used == parent->room) {
        parent->room = parent->room ? 2 * parent->room : 16;
        parent->slots = realloc(parent->slots, parent->room * sizeof *parent->slots);
    }
    if (!entry || !parent->slots) abort();
    size_t bucket = bucket_of(parent, name);
    *entry = (struct entry){.parent = parent, .target = target, .next = buckets[bucket], .slot = parent->used};
    strcpy(entry->name, name);
    buckets[bucket] = entry;
    parent->slots[parent->used++] = entry;
    if (S_ISDIR(target->info.st_mode)) parent->info.st_nlink++, target->up = parent;
    touch(parent);
}

static void drop_if_unused(struct node *node) {
    if (node == &root || node->lookups || node->info.st_nlink) return;
    free(node->link);
    free(node->slots);
    free(node);
}

static struct node *take_out(struct entry *entry) {
    struct entry **at = &buckets[bucket_of(entry->parent, entry->name)];
    while (*at != entry) at = &(*at)->next;
    *at = entry->next;
    struct node *parent = entry->parent, *target = entry->target;
    parent->slots[entry->slot] = NULL;
    while (parent->used && !parent->slots[parent->used - 1]) parent->used--;
    if (S_ISDIR(target->info.st_mode)) parent->info.st_nlink--;
    touch(parent);
    free(entry);
    return target;
}

static struct fuse_entry_param answer(struct node *node) {
    node->lookups++;
    return (struct fuse_entry_param){.ino = inode_of(node), .generation = 1, .attr = node->info,
                                     .attr_timeout = FOREVER, .entry_timeout = FOREVER};
}

static struct node *make(fuse_req_t request, struct node *parent, const char *name, mode_t mode) {
    struct node *node = calloc(1, sizeof *node);
    if (!node) abort();
    const struct fuse_ctx *caller = fuse_req_ctx(request);
    node->info = (struct stat){.st_ino = ++last_inode, .st_mode = mode, .st_nlink = S_ISDIR(mode) ? 2 : 1,
                               .st_uid = caller->uid, .st_gid = caller->gid, .st_blksize = 4096};
    touch(node);
    node->info.st_atim = node->info.st_mtim;
    add(parent, name, node);
    return node;
}

static void on_init(void *data, struct fuse_conn_info *connection) {
    (void)data;
    connection->max_write = 1 << 20;
    connection->want |= connection->capable & (FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS | FUSE_CAP_ASYNC_READ);
    connection->want &= ~FUSE_CAP_READDIRPLUS_AUTO;
    if (writeback) connection->want |= connection->capable & FUSE_CAP_WRITEBACK_CACHE;
}

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char *name) {
    struct fuse_entry_param found = {.entry_timeout = FOREVER};
    pthread_mutex_lock(&lock);
    struct entry *entry = find(node_of(parent), name);
    if (entry) found = answer(entry->target);
    pthread_mutex_unlock(&lock);
    fuse_reply_entry(request, &found);
}

static void on_forget(fuse_req_t request, fuse_ino_t inode, uint64_t count) {
    pthread_mutex_lock(&lock);
    node_of(inode)->lookups -= count;
    drop_if_unused(node_of(inode));
    pthread_mutex_unlock(&lock);
    fuse_reply_none(request);
}

static void on_forget_multi(fuse_req_t request, size_t count, struct fuse_forget_data *forgets) {
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < count; i++) {
        node_of(forgets[i].ino)->lookups -= forgets[i].nlookup;
        drop_if_unused(node_of(forgets[i].ino));
    }
    pthread_mutex_unlock(&lock);
    fuse_reply_none(request);
}

static void on_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file) {
    (void)file;
    pthread_mutex_lock(&lock);
    struct stat info = node_of(inode)->info;
    pthread_mutex_unlock(&lock);
    fuse_reply_attr(request, &info, FOREVER);
}

static void on_setattr(fuse_req_t request, fuse_ino_t inode, struct stat *wanted, int which,
                       struct fuse_file_info *file) {
    (void)file;
    pthread_mutex_lock(&lock);
    struct stat *info = &node_of(inode)->info;
    if (which & FUSE_SET_ATTR_MODE) info->st_mode = (info->st_mode & S_IFMT) | (wanted->st_mode & 07777);
    if (which & FUSE_SET_ATTR_UID) info->st_uid = wanted->st_uid;
    if (which & FUSE_SET_ATTR_GID) info->st_gid = wanted->st_gid;
    if (which & FUSE_SET_ATTR_SIZE) info->st_size = wanted->st_size;
    if (which & FUSE_SET_ATTR_ATIME) info->st_atim = wanted->st_atim;
    if (which & FUSE_SET_ATTR_MTIME) info->st_mtim = wanted->st_mtim;
    struct stat copy = *info;
    pthread_mutex_unlock(&lock);
    fuse_reply_attr(request, &copy, FOREVER);
}

static void made(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, const char *link,
                 struct fuse_file_info *file) {
    pthread_mutex_lock(&lock);
    int exists = find(node_of(parent), name) != NULL;
    struct fuse_entry_param found = {0};
    if (!exists) {
        struct node *node = make(request, node_of(parent), name, mode);
        if (link) node->link = strdup(link), node->info.st_size = strlen(link);
        found = answer(node);
    }
    pthread_mutex_unlock(&lock);
    if (exists) fuse_reply_err(request, EEXIST);
    else if (file) fuse_reply_create(request, &found, file);
    else fuse_reply_entry(request, &found);
}

static void on_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *file) {
    made(request, parent, name, mode, NULL, file);
}
static void on_mknod(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, dev_t device) {
    (void)device;
    made(request, parent, name, mode, NULL, NULL);
}
static void on_mkdir(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode) {
    made(request, parent, name, mode | S_IFDIR, NULL, NULL);
}
static void on_symlink(fuse_req_t request, const char *link, fuse_ino_t parent, const char *name) {
    made(request, parent, name, S_IFLNK | 0777, link, NULL);
}

static void on_link(fuse_req_t request, fuse_ino_t inode, fuse_ino_t parent, const char *name) {
    pthread_mutex_lock(&lock);
    struct node *node = node_of(inode);
    node->info.st_nlink++;
    add(node_of(parent), name, node);
    struct fuse_entry_param found = answer(node);
    pthread_mutex_unlock(&lock);
    fuse_reply_entry(request, &found);
}

static void on_readlink(fuse_req_t request, fuse_ino_t inode) { fuse_reply_readlink(request, node_of(inode)->link); }

static int remove_name(struct node *parent, const char *name) {
    struct entry *entry = find(parent, name);
    if (!entry) return ENOENT;
    if (S_ISDIR(entry->target->info.st_mode) && entry->target->used) return ENOTEMPTY;
    struct node *node = take_out(entry);
    node->info.st_nlink = S_ISDIR(node->info.st_mode) ? 0 : node->info.st_nlink - 1;
    drop_if_unused(node);
    return 0;
}

static void on_unlink(fuse_req_t request, fuse_ino_t parent, const char *name) {
    pthread_mutex_lock(&lock);
    int error = remove_name(node_of(parent), name);
    pthread_mutex_unlock(&lock);
    fuse_reply_err(request, error);
}

static void on_rename(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags) {
    pthread_mutex_lock(&lock);
    struct entry *entry = find(node_of(parent), name);
    int error = flags ? EINVAL : entry ? 0 : ENOENT;
    if (!error && find(node_of(new_parent), new_name)) error = remove_name(node_of(new_parent), new_name);
    if (!error) add(node_of(new_parent), new_name, take_out(entry));
    pthread_mutex_unlock(&lock);
    fuse_reply_err(request, error);
}

static void list(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, int plus) {
    char *buffer = malloc(size);
    size_t used = 0;
    if (!buffer) abort();
    pthread_mutex_lock(&lock);
    struct node *node = node_of(inode);
    for (size_t at = offset; at < node->used + 2; at++) {
        struct entry *entry = at < 2 ? NULL : node->slots[at - 2];
        if (at >= 2 && !entry) continue;
        const char *name = at == 0 ? "." : at == 1 ? ".." : entry->name;
        struct node *target = entry ? entry->target : at == 1 && node->up ? node->up : node;
        size_t length;
        if (plus) {
            struct fuse_entry_param found = {.attr = target->info};
            if (entry) found = answer(target);
            length = fuse_add_direntry_plus(request, buffer + used, size - used, name, &found, at + 1);
            if (entry && length > size - used) target->lookups--;
        } else {
            length = fuse_add_direntry(request, buffer + used, size - used, name, &target->info, at + 1);
        }
        if (length > size - used) break;
        used += length;
    }
    pthread_mutex_unlock(&lock);
    fuse_reply_buf(request, buffer, used);
    free(buffer);
}

static void on_readdir(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *file) {
    (void)file;
    list(request, inode, size, offset, 0);
}
static void on_readdirplus(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                           struct fuse_file_info *file) {
    (void)file;
    list(request, inode, size, offset, 1);
}

static void on_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file) {
    (void)inode, (void)file;
    fuse_reply_err(request, ENOSYS);
}

static void on_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *file) {
    (void)file;
    off_t end = node_of(inode)->info.st_size;
    size_t count = offset >= end ? 0 : end - offset < (off_t)size ? (size_t)(end - offset) : size;
    fuse_reply_buf(request, zeros, count < sizeof zeros ? count : sizeof zeros);
}

static void on_write_buf(fuse_req_t request, fuse_ino_t inode, struct fuse_bufvec *data, off_t offset,
                         struct fuse_file_info *file) {
    (void)file;
    size_t size = fuse_buf_size(data);
    pthread_mutex_lock(&lock);
    struct stat *info = &node_of(inode)->info;
    if (offset + (off_t)size > info->st_size) info->st_size = offset + size;
    info->st_blocks = (info->st_size + 511) / 512;
    touch(node_of(inode));
    pthread_mutex_unlock(&lock);
    fuse_reply_write(request, size);
}

// The journal of -s: its device, and who waits for its next commit.
enum { WAITING = 1024, BLOCK = 4096, BODY = 12 * BLOCK, LOG = 96 << 20 };
static int log_file = -1;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t log_asked = PTHREAD_COND_INITIALIZER;
static fuse_req_t waiting[WAITING];
static int waiting_count;

// Descriptors and blocks, a flush, and the commit block through to the medium: then all who waited are answered.
static void *commit_for_all(void *nothing) {
    static char body[BODY] __attribute__((aligned(BLOCK)));
    for (off_t at = 0;; at = (at + BODY + BLOCK) % LOG) {
        fuse_req_t answered[WAITING];
        pthread_mutex_lock(&log_lock);
        while (waiting_count == 0) pthread_cond_wait(&log_asked, &log_lock);
        int count = waiting_count;
        memcpy(answered, waiting, count * sizeof *waiting);
        waiting_count = 0;
        pthread_mutex_unlock(&log_lock);
        struct iovec block = {body, BLOCK};
        int failed = pwrite(log_file, body, BODY, at) != BODY || fdatasync(log_file) != 0
            || pwritev2(log_file, &block, 1, at + BODY, RWF_DSYNC) != BLOCK;
        for (int i = 0; i < count; i++) fuse_reply_err(answered[i], failed ? EIO : 0);
    }
    return nothing;
}

static void on_fsync(fuse_req_t request, fuse_ino_t inode, int data_only, struct fuse_file_info *file) {
    (void)inode, (void)data_only, (void)file;
    if (log_file < 0) {
        fuse_reply_err(request, 0);
        return;
    }
    pthread_mutex_lock(&log_lock);
    int has_room = waiting_count < WAITING;
    if (has_room) waiting[waiting_count++] = request;
    pthread_cond_signal(&log_asked);
    pthread_mutex_unlock(&log_lock);
    if (!has_room) fuse_reply_err(request, EAGAIN);
}

static void on_getxattr(fuse_req_t request, fuse_ino_t inode, const char *name, size_t size) {
    (void)inode, (void)name, (void)size;
    fuse_reply_err(request, log_file < 0 ? ENOSYS : ENODATA);
}

static void on_fallocate(fuse_req_t request, fuse_ino_t inode, int mode, off_t offset, off_t length,
                         struct fuse_file_info *file) {
    (void)file;
    pthread_mutex_lock(&lock);
    struct stat *info = &node_of(inode)->info;
    if (mode == 0 && offset + length > info->st_size) info->st_size = offset + length;
    pthread_mutex_unlock(&lock);
    fuse_reply_err(request, 0);
}

static void on_statfs(fuse_req_t request, fuse_ino_t inode) {
    (void)inode;
    struct statvfs info = {.f_bsize = 4096, .f_frsize = 4096, .f_blocks = 1 << 28, .f_bfree = 1 << 28,
                           .f_bavail = 1 << 28, .f_files = 1 << 28, .f_ffree = 1 << 28, .f_namemax = 255};
    fuse_reply_statfs(request, &info);
}

static const struct fuse_lowlevel_ops operations = {
    .init = on_init, .lookup = on_lookup, .forget = on_forget, .forget_multi = on_forget_multi, .getattr = on_getattr,
    .setattr = on_setattr, .create = on_create, .mknod = on_mknod, .mkdir = on_mkdir, .symlink = on_symlink,
    .link = on_link, .readlink = on_readlink, .unlink = on_unlink, .rmdir = on_unlink, .rename = on_rename,
    .readdir = on_readdir, .readdirplus = on_readdirplus, .open = on_open, .opendir = on_open, .read = on_read,
    .write_buf = on_write_buf, .fsync = on_fsync, .fsyncdir = on_fsync, .fallocate = on_fallocate, .statfs = on_statfs,
    .getxattr = on_getxattr,
};

int main(int words, char **word) {
    for (int option; (option = getopt(words, word, "ws:")) != -1;) {
        if (option == 'w') writeback = 1;
        else if (option != 's') return 2;
        else if ((log_file = open(optarg, O_RDWR | O_DIRECT)) < 0) return perror(optarg), 1;
    }
    if (words - optind != 1) return fprintf(stderr, "usage: emptyfs [-w] [-s FILE] DIR\n"), 2;
    root.info = (struct stat){.st_ino = FUSE_ROOT_ID, .st_mode = S_IFDIR | 0755, .st_nlink = 2};
    touch(&root);
    char *list_of_words[] = {"emptyfs", "-o", "allow_other,default_permissions,fsname=empty"};
    struct fuse_args arguments = FUSE_ARGS_INIT(3, list_of_words);
    struct fuse_session *session = fuse_session_new(&arguments, &operations, sizeof operations, NULL);
    if (!session || fuse_set_signal_handlers(session) != 0 || fuse_session_mount(session, word[optind]) != 0) return 1;
    pthread_t committer;
    if (log_file >= 0 && pthread_create(&committer, NULL, commit_for_all, NULL) != 0) return 1;
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    int status = fuse_session_loop_mt(session, config);
    fuse_loop_cfg_destroy(config);
    fuse_session_unmount(session);
    fuse_session_destroy(session);
    return status != 0;
}
