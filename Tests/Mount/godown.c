// Shuts the file system of a path down: godown PATH FLAGS. FS_IOC_SHUTDOWN's flags: 0 freeze, 1 flush the log, 2 cut.
// Prints the name of the errno when it fails, and answers 1.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count != 3) {
        fprintf(stderr, "usage: godown PATH FLAGS\n");
        return 2;
    }
    const unsigned long shut_down = _IOR('X', 125, uint32_t);
    uint32_t flags = (uint32_t)strtoul(words[2], NULL, 0);
    int file = open(words[1], O_RDONLY | O_CLOEXEC);
    if (file < 0 || ioctl(file, shut_down, &flags) != 0) {
        printf("%s\n", strerrorname_np(errno));
        return 1;
    }
    close(file);
    return 0;
}
