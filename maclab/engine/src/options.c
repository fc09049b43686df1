/* Command lines of the three programs: one table says which option exists where and since when. */
#include "ds4.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define ALL (TOOL_CLI | TOOL_SERVER | TOOL_BENCH)
#define CHAT (TOOL_CLI | TOOL_SERVER)
#define JUNE GEN_JULY /* came between the two generations */
#define SEPTEMBER GEN_SEPTEMBER
#define EVER 999999

typedef enum { TOLD, NONE, TEXT, POSITIVE, NONNEGATIVE, REAL, INTEGER, GIB_SIZE, EXPERTS, PAIR, BACKEND, HELP } value_kind;
typedef enum {
    O_IGNORED, O_PROBABILITY, O_HELP, O_MODEL, O_VISION, O_MTP, O_MTP_DRAFT, O_CTX, O_TOKENS, O_THREADS, O_CHDIR, O_QUALITY, O_WARM, O_STEER_FILE,
    O_STEER_FFN, O_STEER_ATTN, O_METAL, O_CUDA, O_CPU, O_BACKEND, O_HOST, O_PORT, O_CORS, O_TRACE, O_KV_DIR,
    O_KV_MB, O_KV_MIN, O_KV_COLD, O_KV_INTERVAL, O_KV_TRIM, O_KV_ALIGN, O_KV_REJECT, O_NO_REPLAY, O_TOOL_IDS,
    O_POWER, O_CHUNK, O_STREAMING, O_STREAM_CACHE, O_SIM_MEMORY, O_SESSIONS, O_DSPARK, O_ROLE, O_TENSOR_PARALLEL, O_QUANTUM,
    O_PROMPT, O_PROMPT_FILE, O_CHAT_FILE, O_SYSTEM, O_TEMP, O_THINK, O_NOTHINK, O_INSPECT, O_SERVER_HINT,
    O_DUMP_TOKENS, O_IMATRIX_OUT, O_IMATRIX_DATA,
    O_CTX_START, O_CTX_MAX, O_CTX_ALLOC, O_STEP_MUL, O_STEP_INCR, O_GEN_TOKENS, O_CSV
} option_id;

typedef struct {
    option_id id;
    const char *name, *alias;
    value_kind kind;
    int tools, since, until; /* generations; until is the first one without it */
    const char *topic; /* help topic; with a + it is not on the first page; NULL is accepted but never shown */
    /* Of kind TOLD is what a help page shows and the program refuses. */
    const char *argument, *help;
} option;

#define DSPARK_HELP "confidence a speculation needs (" DS4_DSPARK_CONFIDENCE ")"

static const option table[] = {
    {O_MODEL, "--model", "-m", TEXT, ALL, 0, EVER, "runtime", "FILE", "GGUF weights to load (ds4flash.gguf)"},
    {O_CTX, "--ctx", "-c", POSITIVE, CHAT, 0, EVER, "runtime", "N", "tokens of context, allocated at start (32768)"},
    {O_TOKENS, "--tokens", "-n", POSITIVE, TOOL_SERVER, 0, EVER, "runtime", "N", "limit of generated tokens (393216)"},
    {O_TOKENS, "--tokens", "-n", POSITIVE, TOOL_CLI, 0, EVER, "sampling", "N", "limit of generated tokens (50000)"},
    {O_THREADS, "--threads", "-t", POSITIVE, ALL, 0, EVER, "runtime", "N", "threads for work on the host side"},
    /* The July help forgot this one; the parser still takes it. */
    {O_CHDIR, "--chdir", NULL, TEXT, TOOL_SERVER, 0, GEN_JULY, "runtime", "DIR", "change there before loading anything"},
    {O_CHDIR, "--chdir", NULL, TEXT, TOOL_SERVER, GEN_JULY, EVER, NULL, "DIR", ""},
    {O_MTP, "--mtp", NULL, TEXT, CHAT, 0, SEPTEMBER, "+runtime", "FILE", "support weights for draft tokens"},
    {O_IGNORED, "--mtp", NULL, NONE, CHAT, SEPTEMBER, EVER, "+runtime", "", "draft tokens with the weights' own heads (GLM, Qwen)"},
    {O_MTP, "--mtp-model", NULL, TEXT, CHAT, SEPTEMBER, EVER, "+runtime", "FILE", "support weights for draft tokens"},
    {O_MTP_DRAFT, "--mtp-draft", NULL, POSITIVE, CHAT, 0, EVER, "+runtime", "N", "draft tokens per step (1, at most 16)"},
    {O_IGNORED, "--mtp-margin", NULL, REAL, CHAT, 0, EVER, "+runtime", "F", "confidence a draft needs (3)"},
    {O_IGNORED, "--mtp-timing", NULL, NONE, CHAT, SEPTEMBER, EVER, "+runtime", "", "print what drafting costs"},
    {O_IGNORED, "--mtp-exact-sampling", NULL, NONE, CHAT, SEPTEMBER, EVER, "+runtime", "", "sample drafts as without them"},
    {O_QUALITY, "--quality", NULL, NONE, ALL, 0, EVER, "+runtime", "", "exact kernels instead of the fast ones"},
    {O_WARM, "--warm-weights", NULL, NONE, ALL, 0, EVER, "+runtime", "", "touch all weights before the first request"},
    {O_METAL, "--metal", NULL, NONE, ALL, 0, EVER, "runtime", "", "run on the Metal backend (default on macOS)"},
    {O_CUDA, "--cuda", NULL, NONE, ALL, 0, EVER, "runtime", "", "run on the CUDA backend"},
    {O_CPU, "--cpu", NULL, NONE, ALL, 0, EVER, "runtime", "", "run on the CPU, for reference only"},
    {O_BACKEND, "--backend", NULL, BACKEND, ALL, 0, EVER, "runtime", "NAME", "metal, cuda or cpu"},
    {O_STEER_FILE, "--dir-steering-file", NULL, TEXT, CHAT, 0, EVER, "+steering", "FILE", "direction vectors, one per layer"},
    {O_STEER_FFN, "--dir-steering-ffn", NULL, REAL, CHAT, 0, EVER, "+steering", "F", "strength after the feed-forward (1 with a file)"},
    {O_STEER_ATTN, "--dir-steering-attn", NULL, REAL, CHAT, 0, EVER, "+steering", "F", "strength after attention (0)"},

    {O_HOST, "--host", NULL, TEXT, TOOL_SERVER, 0, EVER, "api", "HOST", "address to listen on (127.0.0.1)"},
    {O_PORT, "--port", NULL, POSITIVE, TOOL_SERVER, 0, EVER, "api", "N", "port to listen on (8000)"},
    {O_CORS, "--cors", NULL, NONE, TOOL_SERVER, 0, EVER, "api", "", "let browsers on other origins call the API"},
    {O_TRACE, "--trace", NULL, TEXT, TOOL_SERVER, 0, EVER, "api", "FILE", "write prompts and answers there, in full"},
    {O_TOOL_IDS, "--tool-memory-max-ids", NULL, POSITIVE, TOOL_SERVER, 0, EVER, "kv-cache", "N", "tool calls remembered (100000)"},
    {O_NO_REPLAY, "--disable-exact-dsml-tool-replay", NULL, NONE, TOOL_SERVER, 0, EVER, "kv-cache", "", "render tool history from JSON"},

    {O_KV_DIR, "--kv-disk-dir", NULL, TEXT, TOOL_SERVER, 0, EVER, "kv-cache", "DIR", "keep KV checkpoints in DIR"},
    {O_KV_MB, "--kv-disk-space-mb", NULL, POSITIVE, TOOL_SERVER, 0, EVER, "kv-cache", "N", "budget of the checkpoints (4096)"},
    {O_KV_MIN, "--kv-cache-min-tokens", NULL, POSITIVE, TOOL_SERVER, 0, EVER, "kv-cache", "N", "shortest checkpoint (512)"},
    {O_KV_COLD, "--kv-cache-cold-max-tokens", NULL, NONNEGATIVE, TOOL_SERVER, 0, EVER, "kv-cache", "N", "longest first prompt saved (30000)"},
    {O_KV_INTERVAL, "--kv-cache-continued-interval-tokens", NULL, NONNEGATIVE, TOOL_SERVER, 0, EVER, "kv-cache", "N", "distance of further saves (10000)"},
    {O_KV_TRIM, "--kv-cache-boundary-trim-tokens", NULL, NONNEGATIVE, TOOL_SERVER, 0, EVER, "kv-cache", "N", "tail left out of a cold save (32)"},
    {O_KV_ALIGN, "--kv-cache-boundary-align-tokens", NULL, NONNEGATIVE, TOOL_SERVER, 0, EVER, "kv-cache", "N", "multiple a cold save is cut to (2048)"},
    {O_KV_REJECT, "--kv-cache-reject-different-quant", NULL, NONE, TOOL_SERVER, 0, EVER, "kv-cache", "", "do not load another quant's checkpoints"},

    {O_POWER, "--power", NULL, POSITIVE, ALL, JUNE, EVER, "runtime", "N", "share of the GPU to use, 1..100 (100)"},
    {O_CHUNK, "--prefill-chunk", NULL, POSITIVE, ALL, JUNE, EVER, "runtime", "N", "tokens of one prefill step (4096; 8192 for PRO)"},
    {O_STREAMING, "--ssd-streaming", NULL, NONE, ALL, JUNE, EVER, "runtime", "", "read routed experts from disk on demand"},
    {O_IGNORED, "--ssd-streaming-cold", NULL, NONE, ALL, JUNE, EVER, "runtime", "", "start without preloaded experts"},
    {O_STREAM_CACHE, "--ssd-streaming-cache-experts", NULL, EXPERTS, ALL, JUNE, EVER, "runtime", "N|NGB", "experts kept in memory (auto)"},
    {O_IGNORED, "--ssd-streaming-full-layers", NULL, NONNEGATIVE, ALL, JUNE, EVER, "runtime", "N", "layers kept whole (auto)"},
    {O_IGNORED, "--ssd-streaming-preload-experts", NULL, NONNEGATIVE, ALL, JUNE, EVER, "runtime", "N", "experts read at start (auto)"},
    {O_SIM_MEMORY, "--simulate-used-memory", NULL, GIB_SIZE, ALL, JUNE, EVER, "runtime", "NGB", "lock that much memory first"},
    {O_SESSIONS, "--batched-session", NULL, POSITIVE, TOOL_SERVER, JUNE, EVER, "api", "N", "resident sessions (1)"},
    {O_DSPARK, "--dspark", NULL, NONE, CHAT, JUNE, EVER, "+runtime", "", "speculate with the DSpark weights"},
    {O_IGNORED, "--dspark-confidence", NULL, REAL, CHAT, JUNE, EVER, "+runtime", "F", DSPARK_HELP},
    {O_IGNORED, "--dspark-strict", NULL, NONE, CHAT, JUNE, EVER, "+runtime", "", "verify every speculated token"},
    {O_IGNORED, "--glm-mtp", NULL, NONE, CHAT, JUNE, SEPTEMBER, "+runtime", "", "draft tokens with a GLM model"},
    {O_IGNORED, "--glm-mtp-timing", NULL, NONE, CHAT, JUNE, SEPTEMBER, "+runtime", "", "print what drafting costs"},
    {O_IGNORED, "--gpu-vram", NULL, TEXT, ALL, JUNE, EVER, "runtime", "N", "memory per CUDA device"},
    {O_IGNORED, "--gpu-devices", NULL, TEXT, ALL, JUNE, EVER, "runtime", "LIST", "CUDA devices to use"},
    {O_IGNORED, "--cuda-tensor-parallel", NULL, NONE, ALL, JUNE, EVER, "runtime", "", "split tensors over CUDA devices"},
    {O_QUANTUM, "--mixed-prefill-quantum", NULL, POSITIVE, TOOL_SERVER, GEN_AUGUST, EVER, "api", "N", "prefill tokens between decode steps (128)"},
    {O_VISION, "--vision", NULL, TEXT, CHAT, SEPTEMBER, EVER, "+runtime", "FILE", "weights of the image encoder"},

    {O_ROLE, "--role", NULL, TEXT, ALL, JUNE, EVER, "+distributed", "NAME", "coordinator or worker"},
    {O_IGNORED, "--layers", NULL, TEXT, ALL, JUNE, EVER, "+distributed", "A:B", "layers that this process runs"},
    {O_IGNORED, "--listen", NULL, PAIR, ALL, JUNE, EVER, "+distributed", "HOST PORT", "wait for workers there"},
    {O_IGNORED, "--coordinator", NULL, PAIR, ALL, JUNE, EVER, "+distributed", "HOST PORT", "where the coordinator waits"},
    {O_IGNORED, "--dist-prefill-chunk", NULL, POSITIVE, ALL, JUNE, EVER, "+distributed", "N", "tokens of one step over the wire"},
    {O_IGNORED, "--dist-prefill-window", NULL, POSITIVE, ALL, JUNE, EVER, "+distributed", "N", "steps under way at once"},
    {O_IGNORED, "--dist-activation-bits", NULL, POSITIVE, ALL, JUNE, EVER, "+distributed", "N", "bits of an activation on the wire"},
    {O_IGNORED, "--dist-replay-check", NULL, NONE, ALL, JUNE, EVER, "+distributed", "", "compute twice and compare"},
    {O_IGNORED, "--debug", NULL, NONE, ALL, JUNE, EVER, "+distributed", "", "print what goes over the wire"},
    {O_TENSOR_PARALLEL, "--tensor-parallel", NULL, NONE, TOOL_CLI, JUNE, EVER, "+distributed", "", "split tensors over two Macs"},
    {O_TENSOR_PARALLEL, "--tensor-parallel", NULL, NONE, TOOL_SERVER, SEPTEMBER, EVER, "+distributed", "", "split tensors over two Macs"},
    {O_IGNORED, "--tensor-parallel", NULL, TOLD, TOOL_SERVER | TOOL_BENCH, JUNE, SEPTEMBER, "+distributed", "", "split tensors over two Macs"},
    {O_IGNORED, "--transport", NULL, TEXT, TOOL_CLI, JUNE, EVER, "+distributed", "NAME", "auto, rdma or tcp"},
    {O_IGNORED, "--transport", NULL, TEXT, TOOL_SERVER, SEPTEMBER, EVER, "+distributed", "NAME", "auto, rdma or tcp"},
    {O_IGNORED, "--transport", NULL, TOLD, TOOL_SERVER | TOOL_BENCH, JUNE, SEPTEMBER, "+distributed", "NAME", "auto, rdma or tcp"},
    {O_IGNORED, "--rdma-device", NULL, TEXT, TOOL_CLI, JUNE, EVER, "+distributed", "NAME", "device for rdma"},
    {O_IGNORED, "--rdma-device", NULL, TEXT, TOOL_SERVER, SEPTEMBER, EVER, "+distributed", "NAME", "device for rdma"},
    {O_IGNORED, "--rdma-device", NULL, TOLD, TOOL_SERVER | TOOL_BENCH, JUNE, SEPTEMBER, "+distributed", "NAME", "device for rdma"},
    {O_IGNORED, "--rdma-gid-index", NULL, NONNEGATIVE, TOOL_CLI, JUNE, EVER, "+distributed", "N", "address index for rdma"},
    {O_IGNORED, "--rdma-gid-index", NULL, NONNEGATIVE, TOOL_SERVER, SEPTEMBER, EVER, "+distributed", "N", "address index for rdma"},
    {O_IGNORED, "--rdma-gid-index", NULL, TOLD, TOOL_SERVER | TOOL_BENCH, JUNE, SEPTEMBER, "+distributed", "N", "address index for rdma"},
    {O_IGNORED, "--debug-hash", NULL, POSITIVE, TOOL_CLI, JUNE, EVER, "+distributed", "N", "compare hidden states every N tokens"},
    {O_IGNORED, "--debug-hash", NULL, POSITIVE, TOOL_SERVER, SEPTEMBER, EVER, "+distributed", "N", "compare hidden states every N tokens"},
    {O_IGNORED, "--debug-hash", NULL, TOLD, TOOL_SERVER | TOOL_BENCH, JUNE, SEPTEMBER, "+distributed", "N", "compare hidden states every N tokens"},
    {O_IGNORED, "--tensor-parallel-token-prefill", NULL, NONE, TOOL_CLI, JUNE, EVER, "+distributed", "", "prefill one token at a time"},
    {O_IGNORED, "--tensor-parallel-token-prefill", NULL, TOLD, TOOL_SERVER | TOOL_BENCH, JUNE, EVER, "+distributed", "", "prefill one token at a time"},

    {O_PROMPT, "--prompt", "-p", TEXT, TOOL_CLI, 0, EVER, "+sampling", "TEXT", "answer this and exit"},
    {O_PROMPT_FILE, "--prompt-file", NULL, TEXT, TOOL_CLI, 0, EVER, "+sampling", "FILE", "answer what FILE holds and exit"},
    {O_PROMPT_FILE, "--prompt-file", NULL, TEXT, TOOL_BENCH, 0, EVER, "benchmark", "FILE", "measure with what FILE holds"},
    {O_CHAT_FILE, "--chat-prompt-file", NULL, TEXT, TOOL_BENCH, 0, EVER, "benchmark", "FILE", "measure with FILE as a chat message"},
    {O_SYSTEM, "--system", "-sys", TEXT, TOOL_CLI, 0, EVER, "+sampling", "TEXT", "system prompt; empty for none"},
    {O_SYSTEM, "--system", "-sys", TEXT, TOOL_BENCH, 0, EVER, "benchmark", "TEXT", "system prompt of the chat message"},
    {O_TEMP, "--temp", NULL, REAL, TOOL_CLI, 0, EVER, "sampling", "F", "temperature; 0 is greedy (1)"},
    {O_PROBABILITY, "--top-p", NULL, REAL, TOOL_CLI, 0, EVER, "sampling", "F", "nucleus probability (1)"},
    {O_PROBABILITY, "--min-p", NULL, REAL, TOOL_CLI, 0, EVER, "sampling", "F", "floor relative to the best token (0.05)"},
    {O_IGNORED, "--seed", NULL, INTEGER, TOOL_CLI, 0, EVER, "sampling", "N", "seed of the sampler (the time)"},
    {O_THINK, "--think", NULL, NONE, TOOL_CLI, 0, EVER, "sampling", "", "think before answering (default)"},
    {O_THINK, "--think-max", NULL, NONE, TOOL_CLI, 0, EVER, "sampling", "", "think longest, from 393216 tokens of context"},
    {O_NOTHINK, "--nothink", NULL, NONE, TOOL_CLI, 0, EVER, "sampling", "", "answer at once"},
    {O_INSPECT, "--inspect", NULL, NONE, TOOL_CLI, 0, EVER, "diagnostics", "", "print what the weights file says it is"},
    {O_DUMP_TOKENS, "--dump-tokens", NULL, NONE, TOOL_CLI, 0, EVER, "diagnostics", "", "print the tokens of the prompt"},
    {O_IGNORED, "--dump-logprobs", NULL, TEXT, TOOL_CLI, 0, EVER, "diagnostics", "FILE", "write token probabilities as JSON"},
    {O_IGNORED, "--dump-logits", NULL, TEXT, TOOL_CLI, JUNE, EVER, "diagnostics", "FILE", "write all token scores as JSON"},
    {O_IGNORED, "--decode-consistency", NULL, POSITIVE, TOOL_CLI, JUNE, EVER, "diagnostics", "N", "compare decoding with a prefill"},
    {O_IGNORED, "--expert-profile", NULL, TEXT, TOOL_CLI, JUNE, EVER, "diagnostics", "FILE", "write which experts are used"},
    {O_IGNORED, "--expert-profile", NULL, TOLD, TOOL_CLI, JUNE, EVER, "+runtime", "FILE", "write which experts are used"},
    {O_IGNORED, "--expert-profile", NULL, TEXT, TOOL_BENCH, JUNE, EVER, "+runtime", "FILE", "write which experts are used"},
    {O_IGNORED, "--raw-prompt", NULL, NONE, TOOL_CLI, JUNE, EVER, "+sampling", "", "no chat markers around the prompt"},
    {O_IGNORED, "--prefix-file", NULL, TEXT, TOOL_CLI, SEPTEMBER, EVER, "+sampling", "FILE", "begin every prompt with what FILE holds"},
    {O_IGNORED, "--think-level", NULL, POSITIVE, TOOL_CLI, SEPTEMBER, EVER, "sampling", "N", "effort of V4.1, 1..100"},
    {O_IGNORED, "--logprobs-top-k", NULL, POSITIVE, TOOL_CLI, 0, EVER, "diagnostics", "N", "alternatives written (20)"},
    {O_IGNORED, "--perplexity-file", NULL, TEXT, TOOL_CLI, 0, EVER, "diagnostics", "FILE", "score a text"},
    {O_IMATRIX_DATA, "--imatrix-dataset", NULL, TEXT, TOOL_CLI, 0, EVER, "diagnostics", "FILE", "prompts for an importance matrix"},
    {O_IMATRIX_OUT, "--imatrix-out", NULL, TEXT, TOOL_CLI, 0, EVER, "diagnostics", "FILE", "collect an importance matrix"},
    {O_IGNORED, "--imatrix-max-prompts", NULL, POSITIVE, TOOL_CLI, 0, EVER, "diagnostics", "N", "stop after N prompts"},
    {O_IGNORED, "--imatrix-max-tokens", NULL, POSITIVE, TOOL_CLI, 0, EVER, "diagnostics", "N", "stop after N tokens"},
    {O_IGNORED, "--head-test", NULL, NONE, TOOL_CLI, 0, EVER, "diagnostics", "", "check the output head"},
    {O_IGNORED, "--first-token-test", NULL, NONE, TOOL_CLI, 0, EVER, "diagnostics", "", "check the first token on the CPU"},
    {O_IGNORED, "--metal-graph-test", NULL, NONE, TOOL_CLI, 0, EVER, "diagnostics", "", "compare first stages with the CPU"},
    {O_IGNORED, "--metal-graph-full-test", NULL, NONE, TOOL_CLI, 0, EVER, "diagnostics", "", "run one token through all layers"},
    {O_IGNORED, "--metal-graph-prompt-test", NULL, NONE, TOOL_CLI, 0, EVER, "diagnostics", "", "compare a whole prompt with the CPU"},
    {O_SERVER_HINT, "--server", NULL, NONE, TOOL_CLI, 0, EVER, NULL, "", ""},

    {O_CTX_START, "--ctx-start", NULL, POSITIVE, TOOL_BENCH, 0, EVER, "benchmark", "N", "first frontier (2048)"},
    {O_CTX_MAX, "--ctx-max", NULL, POSITIVE, TOOL_BENCH, 0, EVER, "benchmark", "N", "last frontier (32768)"},
    {O_CTX_ALLOC, "--ctx-alloc", NULL, POSITIVE, TOOL_BENCH, 0, EVER, "benchmark", "N", "context to allocate"},
    {O_STEP_MUL, "--step-mul", NULL, REAL, TOOL_BENCH, 0, EVER, "benchmark", "F", "factor between frontiers (1)"},
    {O_STEP_INCR, "--step-incr", NULL, POSITIVE, TOOL_BENCH, 0, EVER, "benchmark", "N", "tokens between frontiers (2048)"},
    {O_GEN_TOKENS, "--gen-tokens", NULL, POSITIVE, TOOL_BENCH, 0, EVER, "benchmark", "N", "tokens generated at each (128)"},
    {O_IGNORED, "--dump-frontier-logits-dir", NULL, TEXT, TOOL_BENCH, JUNE, EVER, "benchmark", "DIR", "write all token scores at each"},
    {O_CSV, "--csv", NULL, TEXT, TOOL_BENCH, 0, EVER, "benchmark", "FILE", "write the rows there"},

    {O_HELP, "--help", "-h", HELP, ALL, 0, JUNE, "runtime", "", "show this"},
    {O_HELP, "--help", "-h", HELP, ALL, JUNE, EVER, NULL, "", ""},
};
#define N_OPTIONS (sizeof(table) / sizeof(table[0]))

static const struct {
    const char *name, *title;
    int tools;
} topics[] = {
    {"runtime", "Runtime", ALL},         {"sampling", "Sampling", TOOL_CLI},
    {"distributed", "Distributed", ALL}, {"steering", "Steering", CHAT},
    {"commands", "Commands", TOOL_CLI},  {"diagnostics", "Diagnostics", TOOL_CLI},
    {"api", "HTTP API", TOOL_SERVER},    {"kv-cache", "Disk KV cache", TOOL_SERVER},
    {"thinking", "Thinking", TOOL_SERVER}, {"benchmark", "Benchmark", TOOL_BENCH},
};
#define N_TOPICS (sizeof(topics) / sizeof(topics[0]))
static const bool has_topics = DS4_GENERATION >= GEN_JULY;
#define WIDE_NAME 30

static bool available(const option *o, tool_id tool) {
    return (o->tools & tool) && o->since <= DS4_GENERATION && DS4_GENERATION < o->until;
}

static void print_option(FILE *out, const option *o) {
    char left[96];
    if (o->id == O_CUDA || o->id == O_CPU) return; /* shown with --metal */
    if (o->id == O_METAL) snprintf(left, sizeof(left), "--metal | --cuda | --cpu");
    else
        snprintf(left, sizeof(left), "%s%s%s%s%s", o->alias ? o->alias : "", o->alias ? ", " : "", o->name,
                 o->argument[0] ? " " : "", o->argument);
    if (has_topics && strlen(left) <= WIDE_NAME) fprintf(out, "  %-30s %s\n", left, o->help);
    else fprintf(out, "  %s\n      %s\n", left, o->help);
}

static void print_group(FILE *out, tool_id tool, size_t topic, bool deep) {
    fprintf(out, "%s\n", topics[topic].title);
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const option *o = &table[i];
        if (!available(o, tool) || !o->topic || (o->topic[0] == '+' && !deep)) continue;
        if (!strcmp(o->topic[0] == '+' ? o->topic + 1 : o->topic, topics[topic].name)) print_option(out, o);
    }
    fputs("\n", out);
}

/* May has one page. Later ones begin with the name, and --help TOPIC shows more of one topic, or of "all". */
static void print_help(FILE *out, tool_id tool, const char *topic) {
    if (has_topics) fprintf(out, "%s\n", log_program());
    fprintf(out, "Stand-in for generation %s of the engine: real options, no model.\n\n", DS4_GENERATION_NAME);
    fprintf(out, "Usage: %s [options]\n\n", log_program());
    for (size_t i = 0; i < N_TOPICS; i++) {
        if (!(topics[i].tools & tool)) continue;
        const bool first_page = !strcmp(topics[i].name, "runtime") || !strcmp(topics[i].name, "api") ||
                                !strcmp(topics[i].name, "kv-cache") || !strcmp(topics[i].name, "sampling") ||
                                !strcmp(topics[i].name, "diagnostics") || !strcmp(topics[i].name, "benchmark");
        if (!has_topics || (topic && !strcmp(topic, "all"))) print_group(out, tool, i, true);
        else if (topic ? !strcmp(topic, topics[i].name) : first_page) print_group(out, tool, i, topic != NULL);
    }
    if (!has_topics || topic) return;
    fputs("More Info\n", out);
    for (size_t i = 0; i < N_TOPICS; i++)
        if (topics[i].tools & tool) fprintf(out, "    %-26s --help %s\n", topics[i].title, topics[i].name);
}

static void invalid(const char *name, const char *value) {
    log_line("invalid value for %s: %s", name, value);
    exit(2);
}

static int whole(const char *name, const char *value, long least) {
    char *end;
    long v = strtol(value, &end, 10);
    if (!value[0] || *end || v < least || v > INT_MAX) invalid(name, value);
    return (int)v;
}

static double real(const char *name, const char *value, double least, double most) {
    char *end;
    double v = strtod(value, &end);
    if (!value[0] || *end || v < least || v > most) invalid(name, value);
    return v;
}

static uint64_t gib_size(const char *name, const char *value) {
    char *end;
    double v = strtod(value, &end);
    if (!value[0] || v <= 0 || (strcmp(end, "GB") != 0 && strcmp(end, "gb") != 0)) invalid(name, value);
    return (uint64_t)(v * (double)GIB);
}

static const char *backend_name(tool_id tool, const char *value) {
    if (!strcmp(value, "metal") || !strcmp(value, "cuda") || !strcmp(value, "cpu")) return value;
    if (tool == TOOL_SERVER) {
        log_line("invalid --backend value: %s", value);
        log_line("valid server backends are: metal, cuda, cpu");
    } else {
        log_line("invalid backend: %s", value);
        log_line("valid backends are: metal, cuda, cpu");
    }
    exit(2);
}

static void only_one_prompt(const options *o) {
    if (!o->prompt && !o->prompt_file) return;
    log_line("specify only one prompt source");
    exit(2);
}

static void store(options *o, const option *d, tool_id tool, const char *v) {
    switch (d->id) {
    case O_MODEL: o->model = v; break;
    case O_VISION: o->vision = v; break;
    case O_MTP: o->mtp = v; break;
    case O_MTP_DRAFT: o->mtp_draft = whole(d->name, v, 1); break;
    case O_CTX: o->ctx = whole(d->name, v, 1); break;
    case O_TOKENS: o->tokens = whole(d->name, v, 1); break;
    case O_THREADS: o->threads = whole(d->name, v, 1); break;
    case O_CHDIR: o->chdir = v; break;
    case O_QUALITY: o->quality = true; break;
    case O_WARM: o->warm = true; break;
    case O_STEER_FILE: o->steering_file = v; break;
    case O_STEER_FFN: o->steering_ffn = real(d->name, v, -100, 100); o->steering_scale = true; break;
    case O_STEER_ATTN: o->steering_attn = real(d->name, v, -100, 100); o->steering_scale = true; break;
    case O_METAL: o->backend = "metal"; break;
    case O_CUDA: o->backend = "cuda"; break;
    case O_CPU: o->backend = "cpu"; break;
    case O_BACKEND: o->backend = backend_name(tool, v); break;
    case O_HOST: o->host = v; break;
    case O_PORT: o->port = whole(d->name, v, 1); break;
    case O_CORS: o->cors = true; break;
    case O_TRACE: o->trace = v; break;
    case O_KV_DIR: o->kv_dir = v; break;
    case O_KV_MB: o->kv_mb = whole(d->name, v, 1); break;
    case O_KV_MIN: o->kv_min = whole(d->name, v, 1); break;
    case O_KV_COLD: o->kv_cold_max = whole(d->name, v, 0); break;
    case O_KV_INTERVAL: o->kv_interval = whole(d->name, v, 0); break;
    case O_KV_TRIM: o->kv_trim = whole(d->name, v, 0); break;
    case O_KV_ALIGN: o->kv_align = whole(d->name, v, 0); break;
    case O_KV_REJECT: o->kv_reject_quant = true; break;
    case O_NO_REPLAY: o->no_tool_replay = true; break;
    case O_TOOL_IDS: o->tool_ids = whole(d->name, v, 1); break;
    case O_POWER:
        o->power = atoi(v);
        if (o->power < 1 || o->power > 100) {
            log_line("--power must be between 1 and 100");
            exit(2);
        }
        break;
    case O_CHUNK: o->prefill_chunk = whole(d->name, v, 1); break;
    case O_STREAMING: o->streaming = true; break;
    case O_STREAM_CACHE: {
        char *end;
        const long experts = strtol(v, &end, 10);
        /* A bare number counts experts; the engine multiplies by their size, known only with the weights. */
        o->stream_cache = !*end && experts > 0 ? (uint64_t)experts : gib_size(d->name, v);
        break;
    }
    case O_SIM_MEMORY: o->simulated_use = gib_size(d->name, v); break;
    case O_QUANTUM: o->quantum = whole(d->name, v, 1); break;
    case O_SESSIONS: o->sessions = whole(d->name, v, 1); break;
    case O_DSPARK: o->dspark = true; break;
    case O_ROLE: o->worker = !strcmp(v, "worker"); break;
    case O_TENSOR_PARALLEL: o->tensor_parallel = true; break;
    case O_PROMPT: only_one_prompt(o); o->prompt = v; break;
    case O_PROMPT_FILE: only_one_prompt(o); o->prompt_file = v; break;
    case O_CHAT_FILE: o->chat_prompt_file = v; break;
    case O_SYSTEM: o->system = v; break;
    case O_TEMP: o->temp = real(d->name, v, 0, 100); break;
    case O_THINK: o->think = true; break;
    case O_NOTHINK: o->think = false; break;
    case O_INSPECT: o->inspect = true; break;
    case O_CTX_START: o->ctx_start = whole(d->name, v, 1); break;
    case O_CTX_MAX: o->ctx_max = whole(d->name, v, 1); break;
    case O_CTX_ALLOC: o->ctx_alloc = whole(d->name, v, 1); break;
    case O_STEP_MUL: o->step_mul = real(d->name, v, 1, 1000); break;
    case O_STEP_INCR: o->step_incr = whole(d->name, v, 1); break;
    case O_GEN_TOKENS: o->gen_tokens = whole(d->name, v, 1); break;
    case O_CSV: o->csv = v; break;
    case O_SERVER_HINT: log_line("use ds4-server for the HTTP server"); exit(2);
    default:
        if (d->kind == REAL) (void)real(d->name, v, 0, d->id == O_PROBABILITY ? 1 : 1000);
        if (d->kind == POSITIVE) (void)whole(d->name, v, 1);
        if (d->kind == NONNEGATIVE) (void)whole(d->name, v, 0);
        if (d->kind == INTEGER) (void)whole(d->name, v, LONG_MIN);
    }
}

static void show_help(tool_id tool, const char *topic) {
    bool known = !topic || topic[0] == '-' || !has_topics || !strcmp(topic, "all");
    for (size_t i = 0; i < N_TOPICS; i++) known = known || ((topics[i].tools & tool) && !strcmp(topics[i].name, topic));
    if (!known) printf("%s: unknown help topic '%s'\n\n", log_program(), topic);
    print_help(stdout, tool, known && topic && topic[0] != '-' && has_topics ? topic : NULL);
    exit(0);
}

static void check_together(options *o, tool_id tool, const char *imatrix_data, const char *imatrix_out, bool dump) {
    if (tool == TOOL_SERVER && o->kv_cold_max > 0 && o->kv_cold_max < o->kv_min) {
        log_line("--kv-cache-cold-max-tokens must be 0 or >= --kv-cache-min-tokens");
        exit(2);
    }
    if (tool == TOOL_SERVER && o->worker && o->tensor_parallel) {
        log_line("--role worker is a serving mode; start tensor-parallel workers with ./ds4");
        exit(2);
    }
    if (imatrix_out && !imatrix_data) {
        log_line("--imatrix-out requires --imatrix-dataset");
        exit(2);
    }
    if (imatrix_data && !imatrix_out) {
        log_line("--imatrix-dataset requires --imatrix-out");
        exit(2);
    }
    if (dump && !o->prompt && !o->prompt_file) {
        log_line("--dump-tokens requires -p or --prompt-file");
        exit(2);
    }
    if (tool == TOOL_BENCH && !o->prompt_file == !o->chat_prompt_file) {
        log_line("specify exactly one of --prompt-file or --chat-prompt-file");
        exit(2);
    }
    if (o->steering_file && !o->steering_scale) o->steering_ffn = 1;
}

void options_parse(options *o, tool_id tool, int argc, char **argv) {
    *o = (options){.model = "ds4flash.gguf", .host = "127.0.0.1", .backend = backend_default,
                   .system = "You are a helpful assistant", .ctx = 32768, .port = 8000, .mtp_draft = 1,
                   .tokens = tool == TOOL_SERVER ? 393216 : 50000, .sessions = 1, .quantum = 128, .power = 100, .kv_mb = 4096,
                   .kv_min = 512, .kv_cold_max = 30000, .kv_interval = 10000, .kv_trim = 32, .kv_align = 2048,
                   .tool_ids = 100000, .temp = 1, .think = true, .ctx_start = 2048, .ctx_max = 32768,
                   .step_mul = 1, .step_incr = 2048, .gen_tokens = 128};
    const char *imatrix_data = NULL, *imatrix_out = NULL;
    bool dump = false;
    for (int i = 1; i < argc; i++) {
        const option *found = NULL;
        for (size_t n = 0; n < N_OPTIONS && !found; n++) {
            const option *d = &table[n];
            if (d->kind == TOLD || !available(d, tool)) continue;
            if (!strcmp(d->name, argv[i]) || (d->alias && !strcmp(d->alias, argv[i]))) found = d;
        }
        if (!found) {
            log_line("unknown option: %s", argv[i]);
            print_help(stderr, tool, NULL);
            exit(2);
        }
        if (found->id == O_HELP) show_help(tool, i + 1 < argc ? argv[i + 1] : NULL);
        const char *value = NULL;
        const int wanted = found->kind == NONE ? 0 : found->kind == PAIR ? 2 : 1;
        if (i + wanted >= argc) {
            log_line("missing value for %s", argv[i]);
            exit(2);
        }
        if (wanted) value = argv[i + 1];
        option named = *found;
        named.name = argv[i]; /* errors repeat the spelling that was used */
        if (found->id == O_IMATRIX_DATA) imatrix_data = value;
        if (found->id == O_IMATRIX_OUT) imatrix_out = value;
        if (found->id == O_DUMP_TOKENS) dump = true;
        store(o, &named, tool, value);
        i += wanted;
    }
    check_together(o, tool, imatrix_data, imatrix_out, dump);
}
