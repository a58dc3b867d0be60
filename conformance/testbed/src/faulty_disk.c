// Preloaded into a program, makes its disk slow, or has it hang, as the file $FAULTY_DISK says at the moment.
//
// Each line of that file is "OPERATIONS MILLISECONDS NAME": calls of these operations (letters of
// "orwstmd": open, read, write, sync, truncate, move, delete) take so much longer, or do not begin for as long
// as the line is there if it says "hang", where the file is below $FAULTY_DIRECTORY and NAME is in the rest of
// its path ("*" is in every one). Files are those that the program reaches through the C library.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define HANG -1
#define LOOK_MS 2

static void pause_for(long ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

// How long an operation on a path waits now. System calls of its own, since the library's are those below.
static long wait_for(char operation, const char *path) {
    const char *control = getenv("FAULTY_DISK"), *directory = getenv("FAULTY_DIRECTORY");
    if (!control || !directory) return 0;
    size_t length = strlen(directory);
    if (strncmp(path, directory, length) || path[length] != '/') return 0;
    char text[1024];
    int file = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t count = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    text[count > 0 ? count : 0] = 0;
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n"))) {
        char operations[16], time[16], name[256];
        if (sscanf(line, "%15s %15s %255s", operations, time, name) != 3) continue;
        if (!strchr(operations, operation)) continue;
        if (strcmp(name, "*") && !strstr(path + length, name)) continue;
        return strcmp(time, "hang") ? atol(time) : HANG;
    }
    return 0;
}

static void wait_on(char operation, const char *path) {
    long ms = wait_for(operation, path);
    if (ms > 0) pause_for(ms);
    for (; ms == HANG; ms = wait_for(operation, path)) pause_for(LOOK_MS);
}

static void wait_on_file(char operation, int file) {
    if (!getenv("FAULTY_DISK") || access(getenv("FAULTY_DISK"), F_OK)) return;
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return;
    path[length] = 0;
    wait_on(operation, path);
}

#define NEXT(name) ({ static __typeof__(&name) next; if (!next) next = dlsym(RTLD_NEXT, #name); next; })

#define ON_FILE(operation, result, name, parameters, ...) \
    result name parameters { wait_on_file(operation, file); return NEXT(name)(__VA_ARGS__); }

ON_FILE('r', ssize_t, read, (int file, void *to, size_t size), file, to, size)
ON_FILE('r', ssize_t, pread, (int file, void *to, size_t size, off_t at), file, to, size, at)
ON_FILE('r', ssize_t, pread64, (int file, void *to, size_t size, off64_t at), file, to, size, at)
ON_FILE('w', ssize_t, write, (int file, const void *from, size_t size), file, from, size)
ON_FILE('w', ssize_t, pwrite, (int file, const void *from, size_t size, off_t at), file, from, size, at)
ON_FILE('w', ssize_t, pwrite64, (int file, const void *from, size_t size, off64_t at), file, from, size, at)
ON_FILE('w', ssize_t, writev, (int file, const struct iovec *from, int count), file, from, count)
ON_FILE('s', int, fsync, (int file), file)
ON_FILE('s', int, fdatasync, (int file), file)
ON_FILE('t', int, ftruncate, (int file, off_t size), file, size)
ON_FILE('t', int, ftruncate64, (int file, off64_t size), file, size)

#define ON_PATH(operation, result, name, parameters, path, ...) \
    result name parameters { wait_on(operation, path); return NEXT(name)(__VA_ARGS__); }

ON_PATH('m', int, rename, (const char *from, const char *to), to, from, to)
ON_PATH('d', int, unlink, (const char *path), path, path)

#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); \
    }

int open(const char *path, int flags, ...) {
    MODE(flags) wait_on('o', path);
    return NEXT(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags) wait_on('o', path);
    return NEXT(open64)(path, flags, mode);
}
