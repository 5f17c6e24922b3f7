/* A disk with one bad sector: loaded before the C library, reads of the file whose path ends as LANYARD_BAD says end with EIO. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static int is_bad(int file) {
    const char *ending = getenv("LANYARD_BAD");
    char link[64], path[PATH_MAX];
    if (!ending)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < (ssize_t)strlen(ending))
        return 0;
    path[length] = 0;
    return strcmp(path + length - strlen(ending), ending) == 0;
}

ssize_t pread64(int file, void *buffer, size_t count, off64_t offset) {
    if (is_bad(file)) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_pread64, file, buffer, count, offset);
}
