// Preloaded into a program, shifts its wall clock by as many seconds as the file $SHIFTED_CLOCK says at the moment.
// Its other clocks stay as they are. The first thread to read it whose name the file $FAILING_CLOCK holds is told, once,
// that there is no such clock: then the file is gone.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define LONGEST 32

// What the file says that this variable names, or nothing.
static void told(const char *variable, char text[LONGEST]) {
    text[0] = 0;
    const char *control = getenv(variable);
    if (!control) return;
    int file = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    ssize_t count = syscall(SYS_read, file, text, LONGEST - 1);
    syscall(SYS_close, file);
    text[count > 0 ? count : 0] = 0;
}

static time_t shift(void) {
    char text[LONGEST];
    told("SHIFTED_CLOCK", text);
    return atoll(text);
}

static int fails(void) {
    char text[LONGEST], thread[LONGEST] = {0};
    told("FAILING_CLOCK", text);
    if (!text[0]) return 0;
    prctl(PR_GET_NAME, thread);
    // Of two that see it, one removes it.
    return !strcmp(text, thread) && !unlink(getenv("FAILING_CLOCK"));
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (failed || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return failed;
    if (fails()) {
        errno = EINVAL;
        return -1;
    }
    now->tv_sec += shift();
    return 0;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec time;
    (void)zone;
    int failed = clock_gettime(CLOCK_REALTIME, &time);
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *now) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    if (now) *now = time.tv_sec;
    return time.tv_sec;
}
