#include "ds4.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

static const char *program = "ds4";
static bool with_time;

void log_set_program(const char *name, bool timestamps) {
    program = name;
    with_time = timestamps;
}

const char *log_program(void) { return program; }

/* One fwrite per line, so that lines of several threads never mix. */
static void emit(const char *prefix, bool stamp, const char *fmt, va_list args) {
    buf line = {0};
    char text[2048];
    if (stamp) {
        time_t now = time(NULL);
        struct tm local;
        char when[32];
        localtime_r(&now, &local);
        strftime(when, sizeof(when), "%m%d %H:%M:%S ", &local);
        buf_puts(&line, when);
    }
    vsnprintf(text, sizeof(text), fmt, args);
    buf_printf(&line, "%s%s%s\n", prefix ? prefix : "", prefix ? ": " : "", text);
    fwrite(line.ptr, 1, line.len, stderr);
    fflush(stderr);
    buf_free(&line);
}

void log_line(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    emit(program, with_time, fmt, args);
    va_end(args);
}

void log_plain(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    emit(NULL, with_time, fmt, args);
    va_end(args);
}

void log_engine(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    emit("ds4", false, fmt, args);
    va_end(args);
}

void die(int code, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    emit("ds4", false, fmt, args);
    va_end(args);
    exit(code);
}

double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void sleep_s(double seconds) {
    if (seconds <= 0) return;
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {} /* a signal sets a flag; it does not shorten the work */
}
