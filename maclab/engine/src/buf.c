#include "ds4.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static void reserve(buf *b, size_t more) {
    if (b->len + more + 1 <= b->cap) return;
    size_t cap = b->cap ? b->cap : 256;
    while (cap < b->len + more + 1) cap *= 2;
    char *grown = realloc(b->ptr, cap);
    if (!grown) die(1, "out of memory");
    b->ptr = grown;
    b->cap = cap;
}

void buf_append(buf *b, const void *data, size_t n) {
    reserve(b, n);
    memcpy(b->ptr + b->len, data, n);
    b->len += n;
    b->ptr[b->len] = '\0';
}

void buf_puts(buf *b, const char *s) { buf_append(b, s, strlen(s)); }

void buf_printf(buf *b, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    reserve(b, (size_t)n);
    vsnprintf(b->ptr + b->len, (size_t)n + 1, fmt, again);
    va_end(again);
    b->len += (size_t)n;
}

void buf_json(buf *b, const char *s) {
    buf_puts(b, "\"");
    for (const unsigned char *p = (const unsigned char *)(s ? s : ""); *p; p++) {
        if (*p == '"') buf_puts(b, "\\\"");
        else if (*p == '\\') buf_puts(b, "\\\\");
        else if (*p == '\n') buf_puts(b, "\\n");
        else if (*p == '\r') buf_puts(b, "\\r");
        else if (*p == '\t') buf_puts(b, "\\t");
        else if (*p < 0x20) buf_printf(b, "\\u%04x", *p);
        else buf_append(b, p, 1);
    }
    buf_puts(b, "\"");
}

void buf_free(buf *b) {
    free(b->ptr);
    memset(b, 0, sizeof(*b));
}

const char *buf_text(const buf *b) { return b->ptr ? b->ptr : ""; }

char *text_copy(const char *s) {
    char *copy = strdup(s ? s : "");
    if (!copy) die(1, "out of memory");
    return copy;
}
