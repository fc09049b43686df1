/* How the engine reads fields of JSON: from the text itself, member by member. */
#include "fields.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NESTING 256

void read_space(reader *r) {
    while (*r->p && isspace((unsigned char)*r->p)) r->p++;
}

bool read_word(reader *r, const char *text) {
    const size_t n = strlen(text);
    if (strncmp(r->p, text, n) != 0) return false;
    r->p += n;
    return true;
}

bool read_text(reader *r, char **out) {
    read_space(r);
    char *value = json_string(&r->p);
    const bool ok = value != NULL;
    if (out) *out = value;
    else free(value);
    return ok;
}

bool read_number(reader *r, double *out) {
    char *end;
    read_space(r);
    const double value = strtod(r->p, &end);
    if (end == r->p) return false;
    r->p = end;
    if (out) *out = value;
    return true;
}

bool read_flag(reader *r) {
    read_space(r);
    return read_word(r, "true") || read_word(r, "false");
}

/* Any value at all; here commas do matter. */
static bool read_any_at(reader *r, int depth) {
    read_space(r);
    if (*r->p == '"') return read_text(r, NULL);
    if (*r->p != '{' && *r->p != '[') {
        return read_word(r, "true") || read_word(r, "false") || read_word(r, "null") || read_number(r, NULL);
    }
    const bool object = *r->p == '{';
    const char close = object ? '}' : ']';
    if (depth >= MAX_NESTING) return false;
    r->p++;
    read_space(r);
    if (*r->p == close) {
        r->p++;
        return true;
    }
    for (;;) {
        if (object) {
            if (!read_text(r, NULL)) return false;
            read_space(r);
            if (*r->p++ != ':') return false;
        }
        if (!read_any_at(r, depth + 1)) return false;
        read_space(r);
        const char next = *r->p;
        if (next != close && next != ',') return false;
        r->p++;
        if (next == close) return true;
    }
}

bool read_any(reader *r) { return read_any_at(r, 0); }

bool read_members(reader *r, member_reader read, void *held) {
    read_space(r);
    if (*r->p != '{') return false;
    r->p++;
    read_space(r);
    while (*r->p && *r->p != '}') {
        char *key;
        if (!read_text(r, &key)) return false;
        read_space(r);
        const bool ok = *r->p == ':' && (r->p++, read(r, key, held));
        free(key);
        if (!ok) return false;
        read_space(r);
        if (*r->p == ',') r->p++;
        read_space(r);
    }
    if (*r->p != '}') return false;
    r->p++;
    return true;
}

bool read_items(reader *r, bool (*read)(reader *r)) {
    read_space(r);
    if (*r->p != '[') return false;
    r->p++;
    read_space(r);
    while (*r->p && *r->p != ']') {
        if (!read(r)) return false;
        read_space(r);
        if (*r->p == ',') r->p++;
        read_space(r);
    }
    if (*r->p != ']') return false;
    r->p++;
    return true;
}

/* The outcome of reading a field into memory that an earlier value may hold. */
bool read_again(reader *r, bool *held, bool ok) {
    if (!ok && *held && r->rereads) r->dies = true;
    *held = true;
    return ok;
}

/* Whether a key is one of the words in `names`. */
bool is_one_of(const char *key, const char *names) {
    const size_t n = strlen(key);
    for (const char *at = names; n && (at = strstr(at, key)); at++)
        if ((at == names || at[-1] == ' ') && (at[n] == ' ' || !at[n])) return true;
    return false;
}
