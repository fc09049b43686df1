/*
 * A long cable: carries Ethernet frames between two TAP devices with delay, jitter, loss, a bandwidth and a queue.
 *
 * usage: link FD FD "DELAY_US JITTER_US LOSS_PPM RATE_KBPS QUEUE_BYTES DOWN"
 *
 * The descriptors are TAP devices (IFF_NO_PI, IFF_VNET_HDR), usually of two network namespaces. Numbers hold for each
 * direction. New numbers may come as lines on standard input; its end ends nothing. RATE_KBPS 0 = unlimited. With loss
 * or a rate the kernel cuts frames to the MTU before they come here, so that each real packet is lost or delayed by
 * itself; without, whole TCP bursts of up to 64 KiB pass as one, which only saves work.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { LARGEST = 65536 + 64, BATCH = 64, HEADER = 10 };

struct settings {
    uint64_t delay_ns, jitter_ns, loss_ppm, bits_per_ms, queue_bytes;
    int down;
};

struct packet {
    struct packet *next;
    uint64_t due_ns;
    uint32_t size;
    unsigned char data[];
};

struct direction {
    int from, to;
    struct packet *first, *last;
    uint64_t held_bytes, last_due_ns, free_at_ns;
};

static struct settings now_set;
static uint64_t seed = 0x9E3779B97F4A7C15u;

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t dice(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void configure(const char *line, const int *fds)
{
    unsigned long long delay, jitter, loss, rate, queue;
    int down;
    if (sscanf(line, "%llu %llu %llu %llu %llu %d", &delay, &jitter, &loss, &rate, &queue, &down) != 6)
        return;
    now_set = (struct settings){delay * 1000, jitter * 1000, loss, rate, queue, down};
    unsigned offload = loss || rate ? 0 : TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    for (int i = 0; i < 2; i++)
        if (ioctl(fds[i], TUNSETOFFLOAD, offload) < 0)
            perror("TUNSETOFFLOAD");
}

/* One frame into the queue (or away). Returns 0 when it may be written at once. */
static int hold(struct direction *way, const unsigned char *data, uint32_t size)
{
    uint64_t now = clock_ns(), due = now, wire = size - HEADER;
    if (now_set.down || (now_set.loss_ppm && dice() % 1000000 < now_set.loss_ppm))
        return 1;
    if (now_set.bits_per_ms) {
        uint64_t start = way->free_at_ns > now ? way->free_at_ns : now;
        if ((start - now) / 1000000 * now_set.bits_per_ms / 8 > now_set.queue_bytes)
            return 1;
        way->free_at_ns = start + wire * 8 * 1000000 / now_set.bits_per_ms;
        due = way->free_at_ns;
    } else if (way->held_bytes > now_set.queue_bytes)
        return 1;
    due += now_set.delay_ns;
    if (now_set.jitter_ns)
        due += dice() % (2 * now_set.jitter_ns + 1);
    if (due < way->last_due_ns)
        due = way->last_due_ns; /* a cable does not reorder */
    way->last_due_ns = due;
    if (due <= now && !way->first)
        return 0;
    struct packet *packet = malloc(sizeof *packet + size);
    if (!packet)
        return 1;
    packet->next = NULL;
    packet->due_ns = due;
    packet->size = size;
    memcpy(packet->data, data, size);
    if (way->last)
        way->last->next = packet;
    else
        way->first = packet;
    way->last = packet;
    way->held_bytes += size;
    return 1;
}

static void deliver(int to, const unsigned char *data, uint32_t size)
{
    if (write(to, data, size) < 0 && errno != EAGAIN && errno != EIO && errno != EINVAL) {
        if (errno == EBADFD || errno == EBADF)
            exit(0);
    }
}

static void release(struct direction *way)
{
    uint64_t now = clock_ns();
    while (way->first && way->first->due_ns <= now) {
        struct packet *packet = way->first;
        if (!now_set.down)
            deliver(way->to, packet->data, packet->size);
        way->first = packet->next;
        if (!way->first)
            way->last = NULL;
        way->held_bytes -= packet->size;
        free(packet);
    }
}

static void take(struct direction *way)
{
    static unsigned char frame[LARGEST];
    for (int i = 0; i < BATCH; i++) {
        ssize_t n = read(way->from, frame, sizeof frame);
        if (n < 0) {
            if (errno == EBADFD || errno == EBADF || errno == ENODEV)
                exit(0);
            return;
        }
        if (n <= HEADER)
            continue;
        if (!hold(way, frame, (uint32_t)n))
            deliver(way->to, frame, (uint32_t)n);
    }
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 64;
    int fds[2] = {atoi(argv[1]), atoi(argv[2])};
    struct direction ways[2] = {{.from = fds[0], .to = fds[1]}, {.from = fds[1], .to = fds[0]}};
    for (int i = 0; i < 2; i++)
        fcntl(fds[i], F_SETFL, fcntl(fds[i], F_GETFL) | O_NONBLOCK);
    fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK);
    prctl(PR_SET_TIMERSLACK, 1000);
    seed ^= clock_ns();
    configure(argv[3], fds);
    int control = 1;
    for (;;) {
        struct pollfd wait[3] = {{.fd = fds[0], .events = POLLIN}, {.fd = fds[1], .events = POLLIN},
                                 {.fd = control ? 0 : -1, .events = POLLIN}};
        struct timespec timeout, *limit = NULL;
        uint64_t next = 0;
        for (int i = 0; i < 2; i++)
            if (ways[i].first && (!next || ways[i].first->due_ns < next))
                next = ways[i].first->due_ns;
        if (next) {
            uint64_t now = clock_ns(), left = next > now ? next - now : 0;
            timeout = (struct timespec){(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
            limit = &timeout;
        }
        if (ppoll(wait, 3, limit, NULL) < 0 && errno != EINTR)
            return 71;
        for (int i = 0; i < 2; i++) {
            release(&ways[i]);
            if (wait[i].revents & (POLLERR | POLLNVAL))
                return 0;
            if (wait[i].revents & POLLIN)
                take(&ways[i]);
        }
        if (wait[2].revents) {
            char line[256];
            ssize_t n = read(0, line, sizeof line - 1);
            if (n > 0) {
                line[n] = 0;
                configure(line, fds);
            } else if (n == 0)
                control = 0;
        }
    }
}
