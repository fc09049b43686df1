/* Stand-in for the ds4 inference engine: it keeps the outer contract (flags, exit codes, log lines, lock,
 * signals, KV files, HTTP) and the memory arithmetic, and answers from a fixed dialogue instead of a model. */
#ifndef DS4_H
#define DS4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "generation.h"

/* A rehearsal can break the build on one Mac. */
#if defined(__has_include)
#if __has_include("/.lab/run/faults/make-fails")
#error "make-fails: this Mac was told to fail its builds"
#endif
#endif

#define GEN_MAY 202605
#define GEN_JULY 202607
#define GEN_AUGUST 202608
#define GEN_SEPTEMBER 202609

#define KIB 1024ull
#define MIB (1024ull * KIB)
#define GIB (1024ull * MIB)

/* ---- buf.c: growing byte buffer ---- */
typedef struct {
    char *ptr;
    size_t len, cap;
} buf;

void buf_append(buf *b, const void *data, size_t n);
void buf_puts(buf *b, const char *s);
void buf_printf(buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_json(buf *b, const char *s); /* quoted and escaped; NULL counts as "" */
void buf_free(buf *b);
const char *buf_text(const buf *b);
char *text_copy(const char *s);

/* ---- json.c: a small JSON tree ---- */
typedef enum { J_NULL, J_BOOL, J_NUMBER, J_STRING, J_ARRAY, J_OBJECT } json_type;
typedef struct json {
    json_type type;
    bool boolean;
    double number;
    char *string; /* also the member name's value for strings */
    char *key;
    struct json *child, *next;
} json;

json *json_parse(const char *text); /* NULL when malformed */
json *json_first(const char *text); /* as json_parse, whatever stands behind the value */
char *json_string(const char **p);  /* the string that begins at *p, which moves behind it; NULL when it is none */
void json_free(json *j);
const json *json_get(const json *object, const char *key);
const char *json_text(const json *object, const char *key, const char *fallback);
double json_num(const json *object, const char *key, double fallback);
bool json_flag(const json *object, const char *key, bool fallback);
void json_write(buf *b, const json *j);

/* ---- log.c ---- */
void log_set_program(const char *name, bool timestamps);
const char *log_program(void);
void log_line(const char *fmt, ...) __attribute__((format(printf, 1, 2)));  /* "MMDD HH:MM:SS prog: text" */
void log_plain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));  /* "MMDD HH:MM:SS text" */
void log_engine(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* "ds4: text", no time */
void die(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));
double now_s(void);
void sleep_s(double seconds);

/* ---- mac.c: the simulated Mac underneath ---- */
bool mac_sysctl(const char *name, uint64_t *value);
bool mac_sysctl_text(const char *name, char *out, size_t size);
double mac_setting(const char *name, double fallback); /* from <run>/engine.conf */
uint64_t mac_wired_by_others(void);
void mac_register_wired(uint64_t bytes);
void mac_unregister_wired(void);
bool mac_metal_is_nil(void);
void mac_end_as(const char *fault); /* killed there, when launchd started it and <run><fault> exists */
void mac_panic(const char *reason);

/* ---- gguf.c ---- */
typedef enum { SHAPE_FLASH, SHAPE_PRO, SHAPE_FLASH41 } shape_id;
typedef struct {
    char *name;
    uint32_t type;
    uint64_t dims[4], offset, bytes;
    uint32_t n_dims;
} gguf_tensor;
typedef struct {
    char *key;
    uint32_t type, item_type;
    uint64_t count; /* array length; 1 for scalars */
    double number;  /* scalar, or first item of an array */
    double *items;  /* numeric arrays only */
    char *text;
} gguf_key;
typedef struct {
    char *path;
    uint32_t version;
    uint64_t n_tensors, n_keys, size, data_offset;
    uint64_t real_bytes, real_data_offset;
    uint64_t disk_only_bytes; /* of real_bytes: tables that are read from the SSD and never mapped, and the header */
    const char *made_from;    /* revision of the weights, as the header says it; "" where it does not */
    gguf_tensor *tensors;
    gguf_key *keys;
    shape_id shape;
    int quant_bits;
    char fingerprint[17];
} gguf;

void gguf_open(gguf *g, const char *path); /* one line on stderr and exit 1 when it is unusable */
void gguf_check_model(gguf *g);            /* keys, shape and tensors of a main model */
void gguf_check_mtp(gguf *g);
void gguf_check_vision(const gguf *encoder, const gguf *model);
const gguf_tensor *gguf_find(const gguf *g, const char *name);
void gguf_summary(const gguf *g);
const char *shape_name(shape_id shape);
uint32_t shape_layers(shape_id shape);

/* ---- memory.c ---- */
typedef struct {
    uint32_t prefill_cap, raw_rows, compressed_rows;
    uint64_t raw, compressed, scratch, total;
} context_memory;
typedef struct {
    int ctx, sessions, prefill_chunk;
    bool streaming, metal;
    uint64_t stream_cache; /* asked for; 0 = automatic */
    bool exact_cache; /* for experts alone; else the layers that are read ahead are in it */
    uint64_t simulated_use;
} memory_request;
typedef struct {
    context_memory context;
    uint64_t weights, mtp, workspace, cache, headroom, total, limit, ram, others;
    double resident_share; /* of the routed experts; 1 when all weights stay in memory */
    uint32_t cached_experts;
    double expert_mib;
} memory_plan;
typedef enum { MEMORY_SERVES, MEMORY_OOM_WARMUP, MEMORY_OOM_PREFILL, MEMORY_FREEZES, MEMORY_PANICS } memory_outcome;

context_memory context_estimate(shape_id shape, int ctx, int prefill_chunk, bool metal);
memory_plan memory_make_plan(const gguf *model, const gguf *mtp, const memory_request *request);
memory_outcome memory_judge(const memory_plan *plan, uint64_t extra);
uint64_t indexer_bound(shape_id shape, uint32_t prefill_cap, int prompt_tokens);
uint64_t kv_payload_bytes(shape_id shape, int tokens);

/* ---- options.c ---- */
typedef enum { TOOL_CLI = 1, TOOL_SERVER = 2, TOOL_BENCH = 4 } tool_id;
typedef struct {
    const char *model, *mtp, *vision, *chdir, *host, *trace, *kv_dir, *steering_file;
    const char *prompt, *prompt_file, *chat_prompt_file, *system, *csv;
    const char *backend;
    int ctx, tokens, threads, port, mtp_draft, prefill_chunk, sessions, quantum, power;
    int kv_mb, kv_min, kv_cold_max, kv_interval, kv_trim, kv_align, tool_ids;
    int ctx_start, ctx_max, ctx_alloc, step_incr, gen_tokens;
    double temp, step_mul, steering_ffn, steering_attn;
    uint64_t stream_cache, simulated_use;
    bool streaming, dspark, cors, quality, warm, kv_reject_quant, no_tool_replay;
    bool think, inspect, steering_scale, worker, tensor_parallel;
} options;

void options_parse(options *o, tool_id tool, int argc, char **argv); /* exits by itself on --help and errors */

/* ---- backend.c, compiled once per build kind ---- */
extern const char *const backend_default;
extern const bool backend_has_graph;

/* ---- engine.c ---- */
typedef struct {
    options opt;
    gguf model, mtp, vision;
    bool has_mtp, metal, frozen;
    memory_plan plan;
    double prefill_pace, generation_pace; /* of the speeds in engine.conf, which are read while it runs */
} engine;

void engine_open(engine *e, const options *o); /* takes the lock, maps the model; exits 1 or 2 on failure */
void engine_allocate(engine *e);               /* memory of the sessions */
void engine_close(engine *e);
void engine_log_context(const engine *e, const options *o);
/* How many seconds n tokens take; decode slows down when experts come from disk. */
double engine_prefill_seconds(const engine *e, int tokens);
double engine_generation_seconds(const engine *e, int tokens);
bool engine_prompt_fits_memory(engine *e, int prompt_tokens, char *err, size_t size);

/* ---- dialogue.c ---- */
typedef struct {
    char *reasoning, *text, *tool_name, *tool_arguments;
} answer;
answer dialogue_answer(const engine *e, const char *prompt_text, const char *last_user, const char *tool_result,
                       const char *const *tools, int n_tools, bool think);
void answer_free(answer *a);
int token_count(const char *text);
uint64_t text_hash(const char *text);

/* ---- kv.c ---- */
typedef struct {
    bool enabled, reject_quant;
    char dir[1024];
    uint64_t budget;
    int min, cold_max, interval, trim, align;
} kv_store;

void kv_open(kv_store *kv, const options *o);
/* Stores `tokens` tokens whose text is the first `length` bytes, under a name that `key` explains; `whole` is how many
 * tokens there were before the tail was left out. Returns whether a file is there afterwards. */
bool kv_save(kv_store *kv, const engine *e, const char *text, size_t length, int tokens, int whole, const char *reason,
             const char *key);
/* Tokens of the longest stored text that begins this one, how long it is, and its file; 0 when none fits. */
int kv_load(kv_store *kv, const engine *e, const char *text, bool responses, size_t *length, char *path, size_t size);
int kv_cold_length(const kv_store *kv, const char *text, int tokens);
int kv_continued_length(const kv_store *kv, int tokens); /* the last mark at or before this token; 0 when none */

#endif
