/* Broken disks, loaded before the C library. One bad sector: reads of the file whose path ends as LANYARD_BAD says end with EIO.
   A disk that goes: while the file LANYARD_TORN_WHEN is there, so do writes below the folder LANYARD_TORN, and their syncs. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static ssize_t path_of(int file, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length >= 0)
        path[length] = 0;
    return length;
}

static int is_bad(int file) {
    const char *ending = getenv("LANYARD_BAD");
    char path[PATH_MAX];
    ssize_t length = ending ? path_of(file, path) : -1;
    return length >= 0 && length >= (ssize_t)strlen(ending) && strcmp(path + length - strlen(ending), ending) == 0;
}

static int is_torn(int file) {
    const char *folder = getenv("LANYARD_TORN"), *when = getenv("LANYARD_TORN_WHEN");
    char path[PATH_MAX];
    if (!folder || !when || access(when, F_OK) != 0 || path_of(file, path) < 0)
        return 0;
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int fails(void) {
    errno = EIO;
    return -1;
}

ssize_t pread64(int file, void *buffer, size_t count, off64_t offset) {
    return is_bad(file) ? fails() : syscall(SYS_pread64, file, buffer, count, offset);
}

ssize_t pwrite64(int file, const void *buffer, size_t count, off64_t offset) {
    return is_torn(file) ? fails() : syscall(SYS_pwrite64, file, buffer, count, offset);
}

ssize_t write(int file, const void *buffer, size_t count) {
    return is_torn(file) ? fails() : syscall(SYS_write, file, buffer, count);
}

int fdatasync(int file) {
    return is_torn(file) ? fails() : syscall(SYS_fdatasync, file);
}

int fsync(int file) {
    return is_torn(file) ? fails() : syscall(SYS_fsync, file);
}
