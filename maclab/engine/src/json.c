#include "ds4.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 300

static void skip_space(const char **p) {
    while (**p && isspace((unsigned char)**p)) (*p)++;
}

static json *node(json_type type) {
    json *j = calloc(1, sizeof(*j));
    if (!j) die(1, "out of memory");
    j->type = type;
    return j;
}

static void put_utf8(buf *b, unsigned c) {
    char out[4];
    int n = 0;
    if (c >= 0xd800 && c < 0xe000) c = 0xfffd; /* half of a pair */
    if (c < 0x80) out[n++] = (char)c;
    else if (c < 0x800) {
        out[n++] = (char)(0xc0 | (c >> 6));
        out[n++] = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        out[n++] = (char)(0xe0 | (c >> 12));
        out[n++] = (char)(0x80 | ((c >> 6) & 63));
        out[n++] = (char)(0x80 | (c & 63));
    } else {
        out[n++] = (char)(0xf0 | (c >> 18));
        out[n++] = (char)(0x80 | ((c >> 12) & 63));
        out[n++] = (char)(0x80 | ((c >> 6) & 63));
        out[n++] = (char)(0x80 | (c & 63));
    }
    buf_append(b, out, (size_t)n);
}

static bool hex4(const char *p, unsigned *value) {
    *value = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        unsigned digit = c >= '0' && c <= '9' ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A' + 10) : 99;
        if (digit == 99) return false;
        *value = *value * 16 + digit;
    }
    return true;
}

char *json_string(const char **p) {
    if (**p != '"') return NULL;
    (*p)++;
    buf b = {0};
    buf_append(&b, "", 0);
    while (**p && **p != '"') {
        if (**p != '\\') {
            buf_append(&b, (*p)++, 1);
            continue;
        }
        (*p)++;
        const char *plain = strchr("\"\"\\\\//b\bf\fn\nr\rt\t", **p);
        if (**p == 'u') {
            unsigned c, low;
            if (!hex4(*p + 1, &c)) goto bad;
            *p += 5;
            if (c >= 0xd800 && c < 0xdc00 && (*p)[0] == '\\' && (*p)[1] == 'u' && hex4(*p + 2, &low) &&
                low >= 0xdc00 && low < 0xe000) {
                c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
                *p += 6;
            }
            put_utf8(&b, c);
        } else if (**p && plain) {
            buf_append(&b, plain + 1, 1);
            (*p)++;
        } else goto bad;
    }
    if (**p != '"') goto bad;
    (*p)++;
    return b.ptr;
bad:
    buf_free(&b);
    return NULL;
}

static json *parse_value(const char **p, int depth);

static json *parse_container(const char **p, int depth, json_type type) {
    const char close = type == J_OBJECT ? '}' : ']';
    json *j = node(type), **tail = &j->child;
    (*p)++;
    for (;;) {
        char *key = NULL;
        skip_space(p);
        if (**p == close) {
            (*p)++;
            return j;
        }
        if (type == J_OBJECT) {
            key = json_string(p);
            skip_space(p);
            if (!key || **p != ':') {
                free(key);
                break;
            }
            (*p)++;
        }
        json *item = parse_value(p, depth + 1);
        if (!item) {
            free(key);
            break;
        }
        item->key = key;
        *tail = item;
        tail = &item->next;
        skip_space(p);
        if (**p == ',') (*p)++;
    }
    json_free(j);
    return NULL;
}

static json *parse_value(const char **p, int depth) {
    if (depth > MAX_DEPTH) return NULL;
    skip_space(p);
    if (**p == '{') return parse_container(p, depth, J_OBJECT);
    if (**p == '[') return parse_container(p, depth, J_ARRAY);
    if (**p == '"') {
        char *s = json_string(p);
        if (!s) return NULL;
        json *j = node(J_STRING);
        j->string = s;
        return j;
    }
    if (!strncmp(*p, "true", 4) || !strncmp(*p, "false", 5)) {
        json *j = node(J_BOOL);
        j->boolean = **p == 't';
        *p += j->boolean ? 4 : 5;
        return j;
    }
    if (!strncmp(*p, "null", 4)) {
        *p += 4;
        return node(J_NULL);
    }
    char *end;
    double number = strtod(*p, &end);
    if (end == *p) return NULL;
    json *j = node(J_NUMBER);
    j->number = number;
    *p = end;
    return j;
}

json *json_first(const char *text) {
    const char *p = text;
    return parse_value(&p, 0);
}

json *json_parse(const char *text) {
    const char *p = text;
    json *j = parse_value(&p, 0);
    skip_space(&p);
    if (j && *p) {
        json_free(j);
        return NULL;
    }
    return j;
}

void json_free(json *j) {
    while (j) {
        json *next = j->next;
        json_free(j->child);
        free(j->string);
        free(j->key);
        free(j);
        j = next;
    }
}

const json *json_get(const json *object, const char *key) {
    if (!object || object->type != J_OBJECT) return NULL;
    const json *found = NULL; /* of two with the same name the last one counts */
    for (const json *j = object->child; j; j = j->next)
        if (!strcmp(j->key, key)) found = j;
    return found;
}

const char *json_text(const json *object, const char *key, const char *fallback) {
    const json *j = json_get(object, key);
    return j && j->type == J_STRING ? j->string : fallback;
}

double json_num(const json *object, const char *key, double fallback) {
    const json *j = json_get(object, key);
    return j && j->type == J_NUMBER ? j->number : fallback;
}

bool json_flag(const json *object, const char *key, bool fallback) {
    const json *j = json_get(object, key);
    return j && j->type == J_BOOL ? j->boolean : fallback;
}

void json_write(buf *b, const json *j) {
    if (!j || j->type == J_NULL) buf_puts(b, "null");
    else if (j->type == J_BOOL) buf_puts(b, j->boolean ? "true" : "false");
    else if (j->type == J_NUMBER) buf_printf(b, "%.15g", j->number);
    else if (j->type == J_STRING) buf_json(b, j->string);
    else {
        buf_puts(b, j->type == J_OBJECT ? "{" : "[");
        for (const json *item = j->child; item; item = item->next) {
            if (item != j->child) buf_puts(b, ",");
            if (item->key) {
                buf_json(b, item->key);
                buf_puts(b, ":");
            }
            json_write(b, item);
        }
        buf_puts(b, j->type == J_OBJECT ? "}" : "]");
    }
}
