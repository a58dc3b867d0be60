// Runs a program whose disk can be made to hang: hold-sync CONTROL DIRECTORY FILE PROGRAM ARGUMENTS...
//
// While there is a file CONTROL/hang, the program's syncs do not end. The first one of a file whose name
// begins with FILE still does,
// and DIRECTORY is copied to CONTROL/synced with what that sync makes durable, which is what a power loss
// would leave from then on; CONTROL/hangs says that it is there.

#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

#define MOST_WAITING 64
#define LOOK_MS 2

static const char *control;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static char *within(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", control, name);
    return path;
}

// Has every sync of this process, and of what it becomes, wait for who holds the descriptor.
static int hold_syncs(void) {
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_fsync, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_fdatasync, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof steps / sizeof *steps, .filter = steps};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) die("no new privileges");
    int held = syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
    if (held < 0) die("seccomp");
    return held;
}

static int is_of(const struct seccomp_notif *sync, const char *file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/%u/fd/%d", sync->pid, (int)sync->data.args[0]);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    return name && strncmp(name + 1, file, strlen(file)) == 0;
}

static void copy(const char *directory) {
    pid_t copying = fork();
    if (copying == 0) {
        execlp("cp", "cp", "-a", directory, within("synced"), NULL);
        die("cp");
    }
    int status = 1;
    if (copying < 0 || waitpid(copying, &status, 0) < 0 || status) die("the copy failed");
    close(open(within("hangs"), O_CREAT | O_WRONLY, 0600));
}

static void go_on(int held, unsigned long long id) {
    struct seccomp_notif_resp answer = {.id = id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    // Who asked may have been killed.
    if (ioctl(held, SECCOMP_IOCTL_NOTIF_SEND, &answer) && errno != ENOENT) die("answering a sync");
}

static void watch(int held, const char *directory, const char *file) {
    unsigned long long waiting[MOST_WAITING];
    int count = 0;
    for (;;) {
        int hangs = access(within("hang"), F_OK) == 0;
        while (!hangs && count > 0) go_on(held, waiting[--count]);
        struct pollfd ready = {.fd = held, .events = POLLIN};
        if (poll(&ready, 1, count > 0 ? LOOK_MS : -1) <= 0) continue;
        struct seccomp_notif sync;
        memset(&sync, 0, sizeof sync);
        if (ioctl(held, SECCOMP_IOCTL_NOTIF_RECV, &sync)) continue;
        hangs = access(within("hang"), F_OK) == 0;
        int is_copied = access(within("hangs"), F_OK) == 0;
        if (hangs && !is_copied && is_of(&sync, file)) {
            copy(directory);
            hangs = 0;
        }
        if (hangs && is_copied && count < MOST_WAITING) waiting[count++] = sync.id;
        else go_on(held, sync.id);
    }
}

int main(int count, char **arguments) {
    if (count < 5) return 2;
    control = arguments[1];
    int held = hold_syncs();
    pid_t watcher = fork();
    if (watcher < 0) die("fork");
    if (watcher == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        watch(held, arguments[2], arguments[3]);
    }
    close(held);
    execvp(arguments[4], &arguments[4]);
    die(arguments[4]);
}
