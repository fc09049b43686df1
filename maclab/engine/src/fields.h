/* Fields of a request, read straight from its text (fields.c). Commas between members and items do not matter. */
#ifndef DS4_FIELDS_H
#define DS4_FIELDS_H

#include "server.h"

typedef struct {
    const char *p;
    char *err;
    size_t size;
    bool rereads; /* a field that comes again is freed before it is read, and freed once more when that fails */
    bool dies, told, found;
} reader;

typedef bool (*member_reader)(reader *r, const char *key, void *held);

void read_space(reader *r);
bool read_word(reader *r, const char *text);
bool read_text(reader *r, char **out);
bool read_number(reader *r, double *out);
bool read_flag(reader *r);
/* Any value at all; here commas do matter. */
bool read_any(reader *r);
bool read_members(reader *r, member_reader read, void *held);
bool read_items(reader *r, bool (*read)(reader *r));
/* The outcome of reading a field into memory that an earlier value may hold. */
bool read_again(reader *r, bool *held, bool ok);
/* Whether a key is one of the words in `names`. */
bool is_one_of(const char *key, const char *names);

#endif
