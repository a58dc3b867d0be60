// Carries frames between two devices, each so many milliseconds after it has come: slow-link ONE OTHER MILLISECONDS

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define LONGEST (1 << 17)

struct frame {
    struct frame *next;
    long long due;
    int to;
    ssize_t size;
    char bytes[];
};

static void die(const char *what) {
    perror(what);
    exit(1);
}

static long long now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

// Frames come with a header that says what of them a device would still have to do, such as checksums, and
// leave with it.
static int attach(const char *device) {
    int link = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), on = 1;
    if (link < 0) die("a packet socket");
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    at.sll_ifindex = if_nametoindex(device);
    if (setsockopt(link, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on)) die("headers of frames");
    if (setsockopt(link, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on)) die("ignoring what leaves");
    if (bind(link, (struct sockaddr *)&at, sizeof at)) die(device);
    return link;
}

int main(int count, char **arguments) {
    if (count < 4) return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct pollfd links[] = {{attach(arguments[1]), POLLIN, 0}, {attach(arguments[2]), POLLIN, 0}};
    long long delay = atoll(arguments[3]) * 1000;
    static char buffer[LONGEST];
    // All take equally long, so that they leave in the order in which they came.
    struct frame *first = NULL, **end = &first;
    puts("carries");
    fflush(stdout);
    for (;;) {
        long long wait = first ? first->due - now_us() : -1;
        struct timespec limit = {wait / 1000000, wait % 1000000 * 1000}, none = {0, 0};
        if (ppoll(links, 2, first ? (wait > 0 ? &limit : &none) : NULL, NULL) < 0) die("poll");
        for (int from = 0; from < 2; from++) {
            ssize_t size;
            while ((size = recv(links[from].fd, buffer, sizeof buffer, MSG_DONTWAIT)) > 0) {
                struct frame *frame = malloc(sizeof *frame + size);
                if (!frame) die("memory");
                *frame = (struct frame){NULL, now_us() + delay, 1 - from, size};
                memcpy(frame->bytes, buffer, size);
                *end = frame;
                end = &frame->next;
            }
        }
        while (first && first->due <= now_us()) {
            struct frame *frame = first;
            // What a device does not take is lost, as on any link.
            send(links[frame->to].fd, frame->bytes, frame->size, 0);
            first = frame->next;
            if (!first) end = &first;
            free(frame);
        }
    }
}
