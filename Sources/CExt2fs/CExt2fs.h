#include <ext2fs/ext2fs.h>

/// Swift takes a global variable of C for shared mutable state; this one never changes.
static inline io_manager jext4_unix_io_manager(void) { return unix_io_manager; }
