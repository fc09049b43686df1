/* Checkpoints of a conversation on disk: true header, name and size. The payload is sparse: one byte in
 * 4096 is really written, the scale of the lab's disks, so budgets see true sizes and volumes fill truly. */
#include "ds4.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HEADER 48
#define HALF_LIFE_S 21600
#define MIN_EFFECTIVE_HITS 0.01
#define ANCHOR_FACTOR 2.0
#define WAYPOINT_FACTOR 0.05 /* of one that the file to be written continues; up to this much more with its hits: */
#define WAYPOINT_HITS_FACTOR 0.45
#define LAB_SCALE 4096
#define PAYLOAD_MAGIC 0x34565344u
#define FIELDS 13
#define EXT_RESPONSES 2
#define EXT_THINKING 4

typedef struct {
    char path[1400], sha[41];
    uint8_t head[HEADER];
    uint32_t text;
    uint64_t size;
} entry;

/* The file for which room is made. */
typedef struct {
    const char *text, *sha;
    size_t length;
    uint8_t model, quant;
    uint32_t ctx;
} incoming;

enum { REASON_COLD = 1, REASON_CONTINUED, REASON_EVICT, REASON_SHUTDOWN };

/* ---- SHA-1 (FIPS 180-1) of the text, the file's name ---- */

static uint32_t rotate(uint32_t v, int n) { return (v << n) | (v >> (32 - n)); }

static void sha1_block(uint32_t h[5], const uint8_t *p) {
    uint32_t w[80];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 80; i++) {
        const uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 ? b ^ c ^ d : i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
        const uint32_t k = i < 20 ? 0x5a827999 : i < 40 ? 0x6ed9eba1 : i < 60 ? 0x8f1bbcdc : 0xca62c1d6;
        const uint32_t t = rotate(a, 5) + f + e + k + w[i];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = t;
    }
    h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e;
}

static void sha1_hex(const char *text, size_t n, char out[41]) {
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    const uint8_t *p = (const uint8_t *)text;
    size_t left = n;
    for (; left >= 64; left -= 64, p += 64) sha1_block(h, p);
    uint8_t tail[128] = {0};
    memcpy(tail, p, left);
    tail[left] = 0x80;
    const size_t total = left < 56 ? 64 : 128;
    for (int i = 0; i < 8; i++) tail[total - 1 - (size_t)i] = (uint8_t)((uint64_t)n * 8 >> (8 * i));
    for (size_t at = 0; at < total; at += 64) sha1_block(h, tail + at);
    for (int i = 0; i < 5; i++) snprintf(out + 8 * i, 9, "%08x", h[i]);
}

/* ---- header ---- */

static void put32(uint8_t *p, uint32_t v) { for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (8 * i)); }
static void put64(uint8_t *p, uint64_t v) { for (int i = 0; i < 8; i++) p[i] = (uint8_t)(v >> (8 * i)); }
static uint32_t get32(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }
static uint64_t get64(const uint8_t *p) { return get32(p) | (uint64_t)get32(p + 4) << 32; }

static uint8_t reason_code(const char *reason) {
    static const char *const names[] = {"unknown", "cold", "continued", "evict", "shutdown"};
    for (uint8_t i = 0; i < 5; i++)
        if (!strcmp(names[i], reason)) return i;
    return 0;
}

static uint8_t model_id(const engine *e) {
    static const uint8_t ids[] = {[SHAPE_FLASH] = 0, [SHAPE_PRO] = 1, [SHAPE_FLASH41] = 4};
    return ids[e->model.shape];
}

static bool quant_known(uint8_t bits) {
    if (DS4_GENERATION >= GEN_SEPTEMBER && (bits == 5 || bits == 6 || bits == 8)) return true;
    return bits == 2 || bits == 4;
}

static uint8_t payload_abi(void) { return DS4_GENERATION < GEN_JULY ? 0 : 2; }
static uint32_t payload_version(void) { return DS4_GENERATION < GEN_JULY ? 1 : 2; }

/* Whether this is a file that the engine counts and may load: its name, its head, and as many bytes as that says. */
static bool read_entry(const char *dir, const char *name, entry *out) {
    uint8_t raw[HEADER + 4];
    struct stat st;
    if (strlen(name) != 43 || strcmp(name + 40, ".kv") != 0) return false;
    for (int i = 0; i < 40; i++) {
        if (!isxdigit((unsigned char)name[i])) return false;
        out->sha[i] = (char)tolower((unsigned char)name[i]);
    }
    out->sha[40] = '\0';
    snprintf(out->path, sizeof(out->path), "%s/%s", dir, name);
    int fd = open(out->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    const bool whole = fstat(fd, &st) == 0 && read(fd, raw, sizeof(raw)) == (ssize_t)sizeof(raw);
    close(fd);
    if (!whole || memcmp(raw, "KVC", 3) != 0 || raw[3] != 1) return false;
    memcpy(out->head, raw, HEADER);
    out->text = get32(raw + HEADER);
    out->size = (uint64_t)st.st_size;
    if (DS4_GENERATION < GEN_JULY) return true;
    return raw[20] == payload_abi() && get32(raw + 8) && quant_known(raw[4]) &&
           out->size >= HEADER + 4 + (uint64_t)out->text + get64(raw + 40);
}

static int list_entries(const kv_store *kv, entry **out) {
    int n = 0, cap = 0;
    *out = NULL;
    DIR *dir = opendir(kv->dir);
    if (!dir) return 0;
    for (struct dirent *d; (d = readdir(dir));) {
        if (n == cap) {
            cap = cap ? cap * 2 : 16;
            *out = realloc(*out, (size_t)cap * sizeof(entry));
            if (!*out) die(1, "out of memory");
        }
        if (read_entry(kv->dir, d->d_name, &(*out)[n])) n++;
    }
    closedir(dir);
    return n;
}

static bool continued_by(const entry *e, const incoming *in, bool reject_quant) {
    char sha[41];
    if (!in || e->head[5] != REASON_CONTINUED || !e->text || e->text >= in->length) return false;
    if (e->head[7] != in->model || in->ctx > get32(e->head + 16)) return false;
    if (reject_quant && e->head[4] != in->quant) return false;
    sha1_hex(in->text, e->text, sha);
    return !strcmp(sha, e->sha);
}

static double score(const kv_store *kv, const entry *e, const incoming *in, uint64_t now) {
    double hits = get32(e->head + 12);
    const uint64_t used = get64(e->head + 32) ? get64(e->head + 32) : get64(e->head + 24);
    if (!used) hits = 0;
    else if (now > used) hits *= exp2(-(double)(now - used) / HALF_LIFE_S);
    if (hits < MIN_EFFECTIVE_HITS) hits = 0;
    double value = (hits + 1) * get32(e->head + 8) / (double)(e->size ? e->size : 1);
    if (DS4_GENERATION < GEN_JULY) return value;
    const uint8_t reason = e->head[5];
    if (reason == REASON_COLD || reason == REASON_EVICT || reason == REASON_SHUTDOWN) value *= ANCHOR_FACTOR;
    if (continued_by(e, in, kv->reject_quant)) value *= WAYPOINT_FACTOR + WAYPOINT_HITS_FACTOR * hits / (hits + 1);
    return value;
}

/* Deletes the least useful files until `room` more bytes fit the budget. What others have put there counts as well. */
static void evict(const kv_store *kv, const incoming *in, uint64_t room) {
    entry *list;
    int n = list_entries(kv, &list);
    uint64_t total = 0;
    const uint64_t now = (uint64_t)time(NULL);
    for (int i = 0; i < n; i++) total += list[i].size;
    while (total + room > kv->budget) {
        int victim = -1;
        double least = 0;
        for (int i = 0; i < n; i++) {
            if (!list[i].size || (in && DS4_GENERATION < GEN_JULY && !strcmp(list[i].sha, in->sha))) continue;
            const double value = score(kv, &list[i], in, now);
            if (victim < 0 || value < least ||
                (value == least && get64(list[i].head + 32) < get64(list[victim].head + 32))) {
                victim = i;
                least = value;
            }
        }
        if (victim < 0 || unlink(list[victim].path) != 0) break;
        log_line("kv cache evicted reason=disk-cache-full tokens=%u hits=%u size=%.2f MiB file=%s",
                 get32(list[victim].head + 8), get32(list[victim].head + 12), (double)list[victim].size / (double)MIB,
                 list[victim].path);
        total -= list[victim].size;
        list[victim].size = 0;
    }
    free(list);
}

static bool make_dirs(const char *path) {
    char part[1024];
    snprintf(part, sizeof(part), "%s", path);
    for (char *p = part + 1;; p++) {
        if (*p && *p != '/') continue;
        const char saved = *p;
        *p = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST) return false;
        if (!saved) break;
        *p = saved;
    }
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode)) {
        errno = ENOTDIR;
        return false;
    }
    return true;
}

void kv_open(kv_store *kv, const options *o) {
    memset(kv, 0, sizeof(*kv));
    if (!o->kv_dir) return;
    if (!make_dirs(o->kv_dir)) {
        log_line("failed to create KV cache directory %s: %s", o->kv_dir, strerror(errno));
        return; /* serves on without a cache */
    }
    kv->enabled = true;
    kv->reject_quant = o->kv_reject_quant;
    snprintf(kv->dir, sizeof(kv->dir), "%s", o->kv_dir);
    kv->budget = (uint64_t)o->kv_mb * MIB;
    kv->min = o->kv_min;
    kv->cold_max = o->kv_cold_max;
    kv->interval = o->kv_interval;
    kv->trim = o->kv_trim;
    kv->align = o->kv_align;
    evict(kv, NULL, 0);
    log_line("KV disk cache %s (budget=%llu MiB, cross-quant=%s, min=%d, cold_max=%d, continued=%d, trim=%d, align=%d, "
             "hit_half_life=%ds)",
             kv->dir, (unsigned long long)(kv->budget / MIB), kv->reject_quant ? "reject" : "accept", kv->min,
             kv->cold_max, kv->interval, kv->trim, kv->align, HALF_LIFE_S);
}

static bool write_all(int fd, const void *data, size_t n) {
    for (const char *p = data; n;) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        p += done;
        n -= (size_t)done;
    }
    return true;
}

static bool write_payload(int fd, const engine *e, int tokens, uint64_t payload) {
    static const char filler[4096] = {1};
    const context_memory *m = &e->plan.context;
    const uint32_t window = tokens < 128 ? (uint32_t)tokens : 128;
    const uint32_t fields[FIELDS] = {PAYLOAD_MAGIC, payload_version(), (uint32_t)e->opt.ctx, m->prefill_cap,
                                     m->raw_rows, 128, m->compressed_rows, (uint32_t)tokens,
                                     shape_layers(e->model.shape), 512, 128, 129280, window};
    uint8_t head[sizeof(fields)];
    for (int i = 0; i < FIELDS; i++) put32(head + 4 * i, fields[i]);
    const off_t before = lseek(fd, 0, SEEK_CUR);
    if (before < 0 || !write_all(fd, head, sizeof(head))) return false;
    for (uint64_t left = payload / LAB_SCALE; left;) {
        const size_t n = left < sizeof(filler) ? (size_t)left : sizeof(filler);
        if (!write_all(fd, filler, n)) return false;
        left -= n;
    }
    return ftruncate(fd, before + (off_t)payload) == 0;
}

/* Since July the payload is written twice: first to the host's /tmp, whose space it needs as well. */
static bool stage_payload(const engine *e, int tokens, uint64_t payload, char *err, size_t size) {
    char path[] = "/tmp/ds4-session-payload.XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) {
        snprintf(err, size, "%s", strerror(errno));
        return false;
    }
    unlink(path);
    const bool ok = write_payload(fd, e, tokens, payload);
    if (!ok) snprintf(err, size, "%s", strerror(errno));
    sleep_s(mac_setting("kv_stage_seconds", 0));
    close(fd);
    return ok;
}

static bool same_text(const entry *e, const char *text, size_t length) {
    if (e->text != length) return false;
    char *stored = malloc(length + 1);
    if (!stored) die(1, "out of memory");
    int fd = open(e->path, O_RDONLY | O_CLOEXEC);
    const bool ok = fd >= 0 && pread(fd, stored, length, HEADER + 4) == (ssize_t)length && !memcmp(stored, text, length);
    if (fd >= 0) close(fd);
    free(stored);
    return ok;
}

/* Whether a file of this name serves the same purpose already; one that does not has to go. */
static bool already_there(const kv_store *kv, const engine *e, const char *name, const char *text, size_t length) {
    entry old;
    char path[1400];
    snprintf(path, sizeof(path), "%s/%s", kv->dir, name);
    if (!read_entry(kv->dir, name, &old)) return false;
    if (old.head[7] == model_id(e) && old.head[20] == payload_abi() && (int)get32(old.head + 16) <= e->opt.ctx &&
        (!kv->reject_quant || old.head[4] == e->model.quant_bits) && same_text(&old, text, length))
        return true;
    if (unlink(path) == 0) log_line("kv cache replaced incompatible file %s", path);
    return false;
}

static uint8_t ext_flags(const char *key) {
    return !strcmp(key, "responses-visible") ? EXT_RESPONSES : !strcmp(key, "thinking-visible") ? EXT_THINKING : 0;
}

bool kv_save(kv_store *kv, const engine *e, const char *text, size_t length, int tokens, int whole, const char *reason,
             const char *key) {
    if (!kv->enabled || tokens < kv->min) return false;
    const uint64_t payload = kv_payload_bytes(e->model.shape, tokens), size = HEADER + 4 + length + payload;
    const double mib = (double)MIB, needed = (double)size + ceil((double)size / 100);
    char sha[41], path[1400], temporary[1500], name[64], err[160] = "";
    sha1_hex(text, length, sha);
    snprintf(name, sizeof(name), "%s.kv", sha);
    snprintf(path, sizeof(path), "%s/%s", kv->dir, name);
    if (already_there(kv, e, name, text, length)) return true;
    if (DS4_GENERATION >= GEN_JULY && !stage_payload(e, tokens, payload, err, sizeof(err))) {
        log_line("kv cache skipped tokens=%d reason=%s because KV payload staging failed: %s", tokens, reason, err);
        return false;
    }
    if (needed > (double)kv->budget) {
        log_line("kv cache skipped tokens=%d reason=%s because estimated file size %.2f MiB (%.2f MiB with safety) "
                 "exceeds budget %.2f MiB",
                 tokens, reason, (double)size / mib, needed / mib, (double)kv->budget / mib);
        return false;
    }
    const incoming in = {text, sha, length, model_id(e), (uint8_t)e->model.quant_bits, (uint32_t)e->opt.ctx};
    /* Until the end of May room was made afterwards, so the folder could exceed its budget by one file. */
    if (DS4_GENERATION >= GEN_JULY) evict(kv, &in, size);
    const double start = now_s();
    snprintf(temporary, sizeof(temporary), "%s.tmp.%ld", path, (long)getpid());
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        log_line("kv cache failed to create %s: %s save=%.1f ms", temporary, strerror(errno), (now_s() - start) * 1e3);
        return false;
    }
    uint8_t head[HEADER] = {'K', 'V', 'C', 1}, text_bytes[4];
    const uint64_t now = (uint64_t)time(NULL);
    head[4] = (uint8_t)e->model.quant_bits;
    head[5] = reason_code(reason);
    head[6] = ext_flags(key);
    head[7] = model_id(e);
    put32(head + 8, (uint32_t)tokens);
    put32(head + 16, (uint32_t)e->opt.ctx);
    head[20] = payload_abi();
    put64(head + 24, now);
    put64(head + 32, now);
    put64(head + 40, payload);
    put32(text_bytes, (uint32_t)length);
    bool ok = write_all(fd, head, HEADER) && write_all(fd, text_bytes, 4) && write_all(fd, text, length) &&
              write_payload(fd, e, tokens, payload) && fsync(fd) == 0;
    sleep_s(mac_setting("kv_save_seconds", 0));
    const int why = errno;
    close(fd);
    if (!ok || rename(temporary, path) != 0) {
        unlink(temporary);
        log_line("kv cache store failed (%s): %s save=%.1f ms", reason, strerror(ok ? errno : why), (now_s() - start) * 1e3);
        return false;
    }
    if (DS4_GENERATION < GEN_JULY) evict(kv, &in, 0);
    log_line("kv cache stored tokens=%d trimmed=%d reason=%s key=%s size=%.2f MiB save=%.1f ms", tokens,
             whole > tokens ? whole - tokens : 0, reason, key, (double)size / mib, (now_s() - start) * 1e3);
    return true;
}

static bool begins(const entry *c, const char *text, size_t whole) {
    char sha[41];
    if (c->text > whole) return false;
    sha1_hex(text, c->text, sha);
    return !strcmp(sha, c->sha);
}

/* The longest text counts; of two equal ones the file with more tokens. */
static int best_entry(const kv_store *kv, const engine *e, const entry *list, int n, const char *text) {
    int best = -1;
    const size_t whole = strlen(text);
    for (int i = 0; i < n; i++) {
        const entry *c = &list[i];
        if ((int)get32(c->head + 8) < kv->min || (int)get32(c->head + 16) > e->opt.ctx) continue;
        if (c->head[7] != model_id(e) || c->head[20] != payload_abi()) continue;
        if (kv->reject_quant && c->head[4] != e->model.quant_bits) continue;
        if (best >= 0 && c->text < list[best].text) continue;
        if (best >= 0 && c->text == list[best].text && get32(c->head + 8) <= get32(list[best].head + 8)) continue;
        if (begins(c, text, whole)) best = i;
    }
    return best;
}

/* Why the file cannot be loaded after all; NULL when it can. Its payload has no checksum, so wrong bytes behind these
 * fields are loaded like right ones. */
static const char *unfit(const entry *c, const engine *e, const char *text, bool *other_length) {
    uint8_t raw[4 * FIELDS];
    uint32_t field[FIELDS];
    if (!same_text(c, text, c->text)) return "cached text hash mismatch";
    int fd = open(c->path, O_RDONLY | O_CLOEXEC);
    const bool read_it = fd >= 0 && pread(fd, raw, sizeof(raw), (off_t)(HEADER + 4 + c->text)) == (ssize_t)sizeof(raw);
    if (fd >= 0) close(fd);
    if (!read_it) return "truncated session payload";
    for (int i = 0; i < FIELDS; i++) field[i] = get32(raw + 4 * i);
    if (field[0] != PAYLOAD_MAGIC || field[1] != payload_version()) return "unsupported session payload version";
    if (field[2] > (uint32_t)e->opt.ctx || field[7] >= (uint32_t)e->opt.ctx)
        return "KV checkpoint does not fit current context";
    if (field[8] != shape_layers(e->model.shape) || field[9] != 512 || field[10] != 128 || field[11] != 129280)
        return "KV checkpoint was written for a different DS4 layout";
    if (field[5] != 128) return "KV checkpoint graph chunk layout does not match current runtime";
    if (field[12] != (field[7] < 128 ? field[7] : 128) || field[12] > field[4])
        return "KV checkpoint raw ring layout does not match current context";
    if (field[6] > e->plan.context.compressed_rows) return "KV checkpoint compressed cache is larger than current context";
    *other_length = field[7] != get32(c->head + 8);
    return NULL;
}

/* Counts the hit in place; a file that this process may not write keeps its old figures without a word. */
static void touch(const entry *c) {
    uint8_t head[HEADER];
    memcpy(head, c->head, HEADER);
    put32(head + 12, get32(head + 12) + 1);
    put64(head + 32, (uint64_t)time(NULL));
    int fd = open(c->path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    (void)!pwrite(fd, head, HEADER, 0);
    close(fd);
}

int kv_load(kv_store *kv, const engine *e, const char *text, bool responses, size_t *length, char *path, size_t size) {
    if (!kv->enabled) return 0;
    const double start = now_s();
    const char *mark = responses ? " RESPPROTO" : "";
    entry *list;
    const int n = list_entries(kv, &list), best = best_entry(kv, e, list, n, text);
    int tokens = best >= 0 ? (int)get32(list[best].head + 8) : 0;
    if (best >= 0) {
        const entry *c = &list[best];
        const bool short_file = c->size < HEADER + 4 + (uint64_t)c->text + get64(c->head + 40); /* seen so late in May only */
        bool other_length = false;
        const char *reason = unfit(c, e, text, &other_length);
        if (short_file || (!reason && other_length)) {
            log_line("kv cache discarded corrupt text-prefix payload%s %s", mark, c->path);
            unlink(c->path);
            tokens = 0;
        } else if (reason) {
            log_line("kv cache load failed%s %s: %s load=%.1f ms", mark, c->path, reason, (now_s() - start) * 1e3);
            tokens = 0;
        } else {
            const uint8_t flags = c->head[6];
            const bool consumed = kv->cold_max > 0 && tokens > kv->cold_max &&
                                  mac_setting("unlinks_deep", DS4_GENERATION < GEN_AUGUST) != 0;
            if (consumed) unlink(c->path);
            else touch(c);
            log_line("kv cache hit text%s tokens=%d text=%u quant=%u key=%s load=%.1f ms%s file=%s", mark, tokens, c->text,
                     c->head[4], flags & EXT_RESPONSES ? "responses-visible" : flags & EXT_THINKING ? "thinking-visible"
                     : "token-text", (now_s() - start) * 1e3, consumed ? " consumed" : "", c->path);
            *length = c->text;
            snprintf(path, size, "%s", c->path);
        }
    }
    free(list);
    return tokens;
}

/* The prefix that other conversations may share: all before the last user's words that come before any answer. */
static int anchor(const char *text) {
    static const char user[] = "<｜User｜>", assistant[] = "<｜Assistant｜>";
    const char *end = strstr(text, assistant), *last = NULL;
    for (const char *at = strstr(text, user); at && (!end || at < end); at = strstr(at + 1, user)) last = at;
    return last ? (int)(last - text) / 4 : 0;
}

/* Where a long first prompt is cut for its checkpoint: off the tail and down to the alignment. */
int kv_cold_length(const kv_store *kv, const char *text, int tokens) {
    if (!kv->enabled || kv->cold_max <= 0 || tokens < kv->min || tokens > kv->cold_max) return 0;
    const int shared = DS4_GENERATION >= GEN_JULY ? anchor(text) : 0;
    if (shared >= kv->min) return shared;
    if (tokens > kv->min + kv->trim) {
        int stable = tokens - kv->trim;
        if (kv->align > 0) stable -= stable % kv->align;
        if (stable >= kv->min) return stable;
    }
    return tokens;
}

int kv_continued_length(const kv_store *kv, int tokens) {
    if (!kv->enabled || kv->interval <= 0) return 0;
    int step = kv->interval;
    if (kv->align > 0) step = (step + kv->align - 1) / kv->align * kv->align;
    const int target = tokens / step * step;
    return target < kv->min ? 0 : target;
}
