#include "server.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_HEADER (64 * 1024)
#define MAX_BODY (64 * 1024 * 1024)
#define SEND_PATIENCE_MS 2000

static long header_end(const char *p, size_t n) {
    for (size_t i = 0; i + 1 < n; i++) {
        if (p[i] != '\n') continue;
        if (p[i + 1] == '\n') return (long)i + 2;
        if (i + 2 < n && p[i + 1] == '\r' && p[i + 2] == '\n') return (long)i + 3;
    }
    return -1;
}

static long body_length(const char *head) {
    for (const char *line = head; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (!strncasecmp(line, "Content-Length:", 15)) return strtol(line + 15, NULL, 10);
    return 0;
}

bool http_read(int fd, http_request *r) {
    memset(r, 0, sizeof(*r));
    buf b = {0};
    char chunk[8192];
    long head = -1;
    while (head < 0 && b.len < MAX_HEADER) {
        ssize_t n = recv(fd, chunk, sizeof(chunk), 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) goto bad;
        buf_append(&b, chunk, (size_t)n);
        head = header_end(b.ptr, b.len);
    }
    if (head < 0 || sscanf(b.ptr, "%7s %255s", r->method, r->path) != 2) goto bad;
    char *query = strchr(r->path, '?');
    if (query) *query = '\0';
    long length = body_length(b.ptr);
    if (length < 0 || length > MAX_BODY) goto bad;
    while (b.len < (size_t)(head + length)) {
        ssize_t n = recv(fd, chunk, sizeof(chunk), 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) goto bad;
        buf_append(&b, chunk, (size_t)n);
    }
    b.ptr[head + length] = '\0';
    r->body = text_copy(b.ptr + head);
    buf_free(&b);
    return true;
bad:
    buf_free(&b);
    return false;
}

#ifndef MSG_NOSIGNAL /* an older SDK of macOS; main() ignores the signal there */
#define MSG_NOSIGNAL 0
#endif

volatile sig_atomic_t stop_requested;

bool http_send(int fd, const void *data, size_t n) {
    for (const char *p = data; n;) {
        if (stop_requested) return false;
        ssize_t done = send(fd, p, n, MSG_NOSIGNAL);
        if (done > 0) {
            p += done;
            n -= (size_t)done;
            continue;
        }
        if (done < 0 && errno == EINTR) continue;
        if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            struct pollfd wait = {fd, POLLOUT, 0};
            if (poll(&wait, 1, SEND_PATIENCE_MS) > 0) continue;
        }
        return false;
    }
    return true;
}

bool http_gone(int fd) {
    struct pollfd p = {fd, POLLIN, 0};
    char more[256];
    if (poll(&p, 1, 0) <= 0) return false;
    if (p.revents & (POLLERR | POLLHUP | POLLNVAL)) return true;
    for (;;) {
        const ssize_t n = recv(fd, more, sizeof(more), MSG_DONTWAIT);
        if (n == 0) return true;
        if (n < 0 && errno != EINTR) return errno != EAGAIN && errno != EWOULDBLOCK;
    }
}

static void cors_headers(buf *b) {
    buf_puts(b, "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: GET, POST, OPTIONS\r\n"
                "Access-Control-Allow-Headers: *\r\n");
}

bool http_reply(int fd, bool cors, int code, const char *type, const char *body) {
    static const struct {
        int code;
        const char *reason;
    } reasons[] = {{200, "OK"}, {204, "No Content"}, {400, "Bad Request"}, {404, "Not Found"}, {409, "Conflict"},
                   {500, "Internal Server Error"}};
    const char *reason = "Error";
    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
        if (reasons[i].code == code) reason = reasons[i].reason;
    buf b = {0};
    buf_printf(&b, "HTTP/1.1 %d %s\r\nContent-Length: %zu\r\n", code, reason, strlen(body));
    if (type) buf_printf(&b, "Content-Type: %s\r\n", type);
    if (cors) cors_headers(&b);
    buf_puts(&b, "Connection: close\r\n\r\n");
    buf_puts(&b, body);
    const bool ok = http_send(fd, b.ptr, b.len);
    buf_free(&b);
    return ok;
}

bool http_error(int fd, bool cors, int code, const char *message) {
    buf b = {0};
    buf_puts(&b, "{\"error\":{\"message\":");
    buf_json(&b, message);
    buf_puts(&b, ",\"type\":\"invalid_request_error\"}}\n");
    const bool ok = http_reply(fd, cors, code, "application/json", b.ptr);
    buf_free(&b);
    return ok;
}

bool http_stream_headers(int fd, bool cors) {
    buf b = {0};
    buf_puts(&b, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n");
    if (cors) cors_headers(&b);
    buf_puts(&b, "Connection: close\r\n\r\n");
    const bool ok = http_send(fd, b.ptr, b.len);
    buf_free(&b);
    return ok;
}

int http_listen(const char *host, int port) {
    struct sockaddr_in address = {0};
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    if (!strcmp(host, "localhost")) host = "127.0.0.1";
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        errno = EINVAL;
        return -1;
    }
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (fd < 0) return -1;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 128) != 0) {
        const int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}
