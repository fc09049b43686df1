/*
 * Client of the simulated commands of a Mac. Every simulated command is a link to this program: it hands its
 * arguments, working directory, environment and standard descriptors to the Mac's PID 1 (see rpc.py for the wire),
 * forwards signals, and ends as the command ended. If it is killed, the connection ends and PID 1 kills the command.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

extern char **environ;

static int link_fd = -1;

static void forward(int number)
{
    unsigned char byte = (unsigned char)number;
    int saved = errno;
    if (write(link_fd, &byte, 1) < 0) { /* PID 1 has gone: the read below notices */ }
    errno = saved;
}

static void die(const char *name, const char *what)
{
    fprintf(stderr, "%s: simulated Mac: %s: %s\n", name, what, strerror(errno));
    exit(71); /* EX_OSERR */
}

static void put(char **at, const char *text)
{
    size_t n = strlen(text) + 1;
    memcpy(*at, text, n);
    *at += n;
}

static void read_all(const char *name, void *buffer, size_t size)
{
    char *at = buffer;
    while (size > 0) {
        ssize_t n = read(link_fd, at, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n == 0)
                errno = ECONNRESET;
            die(name, "the Mac went away");
        }
        at += n;
        size -= (size_t)n;
    }
}

static void become(const char *name, char *payload, uint32_t length)
{
    uint32_t argc, envc, i;
    if (length < 8)
        exit(71);
    memcpy(&argc, payload, 4);
    memcpy(&envc, payload + 4, 4);
    char *at = payload + 8;
    char *path = at;
    at += strlen(at) + 1;
    char **argv = calloc(argc + 1, sizeof *argv);
    for (i = 0; i < argc; i++, at += strlen(at) + 1)
        argv[i] = at;
    char **env = environ;
    if (envc != 0xFFFFFFFFu) {
        env = calloc(envc + 1, sizeof *env);
        for (i = 0; i < envc; i++, at += strlen(at) + 1)
            env[i] = at;
    }
    execve(path, argv, env);
    fprintf(stderr, "%s: %s: %s\n", name, path, strerror(errno));
    exit(errno == ENOENT ? 127 : 126);
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/');
    const char *name = slash ? slash + 1 : argv[0];
    const char *socket_path = "/.lab/run/ctl.sock";
    char cwd[4096];
    int fds[3], i;

    if (!getcwd(cwd, sizeof cwd))
        strcpy(cwd, "/");
    for (i = 0; i < 3; i++)
        fds[i] = fcntl(i, F_GETFD) >= 0 ? i : open("/dev/null", O_RDWR | O_CLOEXEC);

    link_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, socket_path);
    if (link_fd < 0 || connect(link_fd, (struct sockaddr *)&address, sizeof address) < 0)
        die(name, "no answer from PID 1");

    uint32_t envc = 0;
    size_t size = 8 + 8 + strlen(cwd) + 1;
    for (i = 0; i < argc; i++)
        size += strlen(argv[i]) + 1;
    for (; environ[envc]; envc++)
        size += strlen(environ[envc]) + 1;
    char *request = malloc(size), *at = request + 16;
    uint32_t length = (uint32_t)(size - 8), count = (uint32_t)argc;
    memcpy(request, "DS4R", 4);
    memcpy(request + 4, &length, 4);
    memcpy(request + 8, &count, 4);
    memcpy(request + 12, &envc, 4);
    put(&at, cwd);
    for (i = 0; i < argc; i++)
        put(&at, argv[i]);
    for (uint32_t e = 0; e < envc; e++)
        put(&at, environ[e]);

    struct sigaction action = {.sa_handler = forward};
    int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};
    for (size_t s = 0; s < sizeof signals / sizeof *signals; s++) {
        struct sigaction before;
        sigaction(signals[s], NULL, &before);
        if (before.sa_handler != SIG_IGN)
            sigaction(signals[s], &action, NULL);
    }
    signal(SIGPIPE, SIG_IGN);

    char control[CMSG_SPACE(sizeof fds)] = {0};
    struct iovec piece = {request, size};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(header), fds, sizeof fds);
    ssize_t sent = sendmsg(link_fd, &message, 0);
    if (sent < 0)
        die(name, "cannot hand over");
    for (size_t done = (size_t)sent; done < size;) {
        ssize_t n = write(link_fd, request + done, size - done);
        if (n < 0 && errno != EINTR)
            die(name, "cannot hand over");
        done += n > 0 ? (size_t)n : 0;
    }

    char kind;
    uint32_t number;
    read_all(name, &kind, 1);
    read_all(name, &length, 4);
    char *payload = malloc(length + 1);
    read_all(name, payload, length);
    payload[length] = 0;
    if (kind == 'e')
        become(name, payload, length);
    if (length < 4)
        exit(71);
    memcpy(&number, payload, 4);
    if (kind == 's') {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal((int)number, SIG_DFL);
        raise((int)number);
        return 128 + (int)number;
    }
    return (int)number;
}
