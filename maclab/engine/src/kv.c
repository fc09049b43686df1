/* Checkpoints of a conversation on disk: true header, name and size. The payload is sparse: one byte in
 * 4096 is really written, the scale of the lab's disks, so budgets see true sizes and volumes fill truly. */
#include "ds4.h"

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
#define LAB_SCALE 4096
#define PAYLOAD_MAGIC 0x34565344u

typedef struct {
    char path[1400], sha[41];
    uint8_t head[HEADER];
    uint64_t size;
} entry;

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

static uint8_t model_id(const engine *e) { return DS4_GENERATION < GEN_JULY ? 0 : (uint8_t)(e->model.shape + 1); }
static uint8_t payload_abi(void) { return DS4_GENERATION < GEN_JULY ? 0 : 2; }

static bool read_entry(const char *dir, const char *name, entry *out) {
    if (strlen(name) != 43 || strcmp(name + 40, ".kv") != 0) return false;
    struct stat st;
    snprintf(out->path, sizeof(out->path), "%s/%s", dir, name);
    snprintf(out->sha, sizeof(out->sha), "%.40s", name);
    int fd = open(out->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    const bool ok = fstat(fd, &st) == 0 && read(fd, out->head, HEADER) == HEADER && !memcmp(out->head, "KVC", 3) &&
                    out->head[3] == 1;
    close(fd);
    out->size = ok ? (uint64_t)st.st_size : 0;
    return ok;
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

static double score(const entry *e, uint64_t now) {
    double hits = get32(e->head + 12);
    const uint64_t used = get64(e->head + 32) ? get64(e->head + 32) : get64(e->head + 24);
    if (!used) hits = 0;
    else if (now > used) hits *= exp2(-(double)(now - used) / HALF_LIFE_S);
    if (hits < MIN_EFFECTIVE_HITS) hits = 0;
    return (hits + 1) * get32(e->head + 8) / (double)(e->size ? e->size : 1);
}

/* Deletes the least useful files until `room` more bytes fit the budget. */
static void evict(const kv_store *kv, const char *protected_sha, uint64_t room) {
    entry *list;
    int n = list_entries(kv, &list);
    uint64_t total = 0;
    const uint64_t now = (uint64_t)time(NULL);
    for (int i = 0; i < n; i++) total += list[i].size;
    while (total + room > kv->budget) {
        int victim = -1;
        for (int i = 0; i < n; i++) {
            if (!list[i].size || (protected_sha && !strcmp(list[i].sha, protected_sha))) continue;
            if (victim < 0 || score(&list[i], now) < score(&list[victim], now) ||
                (score(&list[i], now) == score(&list[victim], now) &&
                 get64(list[i].head + 32) < get64(list[victim].head + 32)))
                victim = i;
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

static bool write_payload(int fd, const engine *e, int tokens, uint64_t payload, uint64_t before) {
    static const char filler[4096] = {1};
    const context_memory *m = &e->plan.context;
    const uint32_t window = tokens < 128 ? (uint32_t)tokens : 128;
    const uint32_t fields[13] = {PAYLOAD_MAGIC, DS4_GENERATION < GEN_JULY ? 1 : 2, (uint32_t)e->opt.ctx, m->prefill_cap,
                                 m->raw_rows, 128, m->compressed_rows, (uint32_t)tokens,
                                 e->model.shape == SHAPE_FLASH ? 43 : 61, 512, 128, 129280, window};
    uint8_t head[sizeof(fields)];
    for (int i = 0; i < 13; i++) put32(head + 4 * i, fields[i]);
    if (!write_all(fd, head, sizeof(head))) return false;
    for (uint64_t left = payload / LAB_SCALE; left;) {
        const size_t n = left < sizeof(filler) ? (size_t)left : sizeof(filler);
        if (!write_all(fd, filler, n)) return false;
        left -= n;
    }
    return fsync(fd) == 0 && ftruncate(fd, (off_t)(before + payload)) == 0;
}

bool kv_save(kv_store *kv, const engine *e, const char *text, int tokens, const char *reason) {
    if (!kv->enabled || tokens < kv->min) return false;
    size_t text_len = (size_t)tokens * 4;
    const int whole = token_count(text);
    if (text_len > strlen(text)) text_len = strlen(text);
    const uint64_t payload = kv_payload_bytes(e->model.shape, tokens), size = HEADER + 4 + text_len + payload;
    const double mib = (double)MIB, needed = (double)size + ceil((double)size / 100);
    if (needed > (double)kv->budget) {
        log_line("kv cache skipped tokens=%d reason=%s because estimated file size %.2f MiB (%.2f MiB with safety) "
                 "exceeds budget %.2f MiB",
                 tokens, reason, (double)size / mib, needed / mib, (double)kv->budget / mib);
        return false;
    }
    const double start = now_s();
    char sha[41], path[1400], temporary[1500], name[64];
    entry old;
    sha1_hex(text, text_len, sha);
    snprintf(name, sizeof(name), "%s.kv", sha);
    snprintf(path, sizeof(path), "%s/%s", kv->dir, name);
    if (read_entry(kv->dir, name, &old)) {
        if (old.head[7] == model_id(e) && old.head[20] == payload_abi() && (int)get32(old.head + 16) <= e->opt.ctx) return true;
        log_line("kv cache replaced incompatible file %s", path);
    }
    /* Until the end of May room was made afterwards, so the folder could exceed its budget by one file. */
    if (DS4_GENERATION >= GEN_JULY) evict(kv, sha, size);
    snprintf(temporary, sizeof(temporary), "%s.tmp.%ld", path, (long)getpid());
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        log_line("kv cache failed to create %s: %s save=%.1f ms", temporary, strerror(errno), (now_s() - start) * 1e3);
        return false;
    }
    uint8_t head[HEADER] = {'K', 'V', 'C', 1}, length[4];
    const uint64_t now = (uint64_t)time(NULL);
    head[4] = (uint8_t)e->model.quant_bits;
    head[5] = reason_code(reason);
    head[7] = model_id(e);
    put32(head + 8, (uint32_t)tokens);
    put32(head + 16, (uint32_t)e->opt.ctx);
    head[20] = payload_abi();
    put64(head + 24, now);
    put64(head + 32, now);
    put64(head + 40, payload);
    put32(length, (uint32_t)text_len);
    bool ok = write_all(fd, head, HEADER) && write_all(fd, length, 4) && write_all(fd, text, text_len) &&
              write_payload(fd, e, tokens, payload, HEADER + 4 + text_len);
    sleep_s(mac_setting("kv_save_seconds", 0));
    const int why = errno;
    close(fd);
    if (!ok || rename(temporary, path) != 0) {
        unlink(temporary);
        log_line("kv cache store failed (%s): %s save=%.1f ms", reason, strerror(ok ? errno : why), (now_s() - start) * 1e3);
        return false;
    }
    evict(kv, sha, 0);
    log_line("kv cache stored tokens=%d trimmed=%d reason=%s key=token-text size=%.2f MiB save=%.1f ms", tokens,
             whole > tokens ? whole - tokens : 0, reason, (double)size / mib, (now_s() - start) * 1e3);
    return true;
}

static bool text_matches(const entry *c, const char *text, uint32_t *length) {
    uint8_t raw[4];
    int fd = open(c->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool ok = pread(fd, raw, 4, HEADER) == 4;
    *length = ok ? get32(raw) : 0;
    close(fd);
    if (!ok || *length > strlen(text)) return false;
    char sha[41];
    sha1_hex(text, *length, sha);
    return !strcmp(sha, c->sha);
}

int kv_load(kv_store *kv, const engine *e, const char *text) {
    if (!kv->enabled) return 0;
    const double start = now_s();
    entry *list;
    const int n = list_entries(kv, &list);
    int best = -1, tokens = 0;
    uint32_t length = 0, best_length = 0;
    for (int i = 0; i < n; i++) {
        const entry *c = &list[i];
        const int stored = (int)get32(c->head + 8);
        if (stored < kv->min || stored <= tokens || (int)get32(c->head + 16) > e->opt.ctx) continue;
        if (c->head[7] != model_id(e) || c->head[20] != payload_abi()) continue;
        if (kv->reject_quant && c->head[4] != e->model.quant_bits) continue;
        if (!text_matches(c, text, &length)) continue;
        best = i;
        best_length = length;
        tokens = stored;
    }
    if (best >= 0 && list[best].size < HEADER + 4 + (uint64_t)best_length + get64(list[best].head + 40)) {
        log_line("kv cache discarded corrupt text-prefix payload %s", list[best].path);
        unlink(list[best].path);
        tokens = 0;
    } else if (best >= 0) {
        entry *c = &list[best];
        put32(c->head + 12, get32(c->head + 12) + 1);
        put64(c->head + 32, (uint64_t)time(NULL));
        int fd = open(c->path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0) {
            (void)!pwrite(fd, c->head, HEADER, 0);
            close(fd);
        }
        log_line("kv cache hit text tokens=%d text=%u quant=%u key=token-text load=%.1f ms file=%s", tokens, best_length,
                 c->head[4], (now_s() - start) * 1e3, c->path);
    }
    free(list);
    return tokens;
}

/* Where a long first prompt is cut for its checkpoint: off the tail and down to the alignment. */
int kv_cold_length(const kv_store *kv, int tokens) {
    if (!kv->enabled || kv->cold_max <= 0 || tokens < kv->min || tokens > kv->cold_max) return 0;
    if (tokens > kv->min + kv->trim) {
        int stable = tokens - kv->trim;
        if (kv->align > 0) stable -= stable % kv->align;
        if (stable >= kv->min) return stable;
    }
    return tokens;
}

void kv_maybe_continued(kv_store *kv, const engine *e, const char *text, int tokens) {
    if (!kv->enabled || kv->interval <= 0) return;
    int step = kv->interval;
    if (kv->align > 0) step = (step + kv->align - 1) / kv->align * kv->align;
    const int target = tokens / step * step;
    if (target < kv->min || target <= kv->last_continued) return;
    if (kv_save(kv, e, text, target, "continued")) kv->last_continued = target;
}
