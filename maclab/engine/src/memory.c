/* How much memory a model and a context need, and what the Mac does about it.
 * Sizes follow the published estimates of each engine generation. */
#include "ds4.h"

#include <math.h>

#define SWA 128u
#define HEAD_DIM 512ull
#define INDEXER_DIM 128ull
#define VOCAB 129280ull

typedef struct {
    int layers, ratio4, ratio128, top_k;
    uint64_t workspace_may, workspace_shared, workspace_session;
    int experts; /* all layers together */
    double expert_mib[2]; /* 2-bit, 4-bit */
} shape_facts;

static const shape_facts facts[] = {
    [SHAPE_FLASH] = {43, 21, 20, 512, 2103541264ull, 4506796544ull, 22144528ull, 43 * 256, {6.75, 13.5}},
    [SHAPE_FLASH41] = {40, 0, 0, 512, 0, 2 * GIB, 0, 40 * 384, {9953280.0 / MIB, 19906560.0 / MIB}},
    /* An expert grows with embd * ff: (7168 * 3072) / (4096 * 2048). */
    [SHAPE_PRO] = {61, 30, 31, 1024, 0, 15732829696ull, 54581776ull, 61 * 384, {6.75 * 2.625, 13.5 * 2.625}},
};

#define STREAM_PREFILL_RESERVE ((uint64_t)(3.38 * 1073741824.0))
#define MTP_GRAPH_BYTES 37800000ull
#define STREAM_AUTO_SHARE 0.80
/* A Mac that has less than this left for everything else stops responding. */
#define FREEZE_BELOW (3 * GIB)
/* Mapping weights well beyond the RAM ends in a reset of the machine rather than in an error. */
#define PANIC_FACTOR 1.15
#define STOCK_LIMIT_SHARE 0.75

/* V4.1: what stays in memory by the quant (2-bit, 4-bit), and what streaming keeps besides the experts. */
static const uint64_t v41_resident[2] = {162935654128ull, 315818034928ull};
static const uint64_t v41_headroom[2] = {7644119040ull, 15288238080ull};
#define V41_STATIC 10061367744ull

static uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

static uint32_t default_prefill_cap(shape_id shape, uint32_t ctx) {
    if (DS4_GENERATION < GEN_JULY) return min_u32(ctx, 2048);
    if (ctx <= 4096) return ctx;
    return shape == SHAPE_PRO ? min_u32(8192, ctx) : 4096;
}

static uint64_t rounded_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit; }

/* The graph of V4.1 in bytes, by the published sizes of its buffers: it grows by the prompt's tokens that are read at
 * once (chunk), by those that it carries between layers, and by the context. */
static uint64_t v41_graph(uint64_t c, uint64_t *chunk) {
    const uint64_t p = c < 2048 ? c : c < 8192 ? 2048 : c < 16384 ? 4096 : 8192;
    const uint64_t m = rounded_up(c, 8), carry = 10240 + 4 + 24 + 512 + rounded_up(m, 32), groups = rounded_up(c, 64);
    uint64_t k = 3 * GIB / (4 * carry);
    k = (k < 32768 ? k : 32768) < c ? (k < 32768 ? k : 32768) : c;
    k = k / 2048 * 2048 > p ? k / 2048 * 2048 : 0;
    const uint64_t packed = rounded_up((p + groups) * 4, 256) * 256 + p * 32 * 128 * 2 + groups * 64 * 128 * 2;
    const uint64_t owners = 3 * ((c / 2 + 1) * 640 + 1024) + (c + 1) * 640 + 1024;
    const uint64_t row = 158968 + m;
    const uint64_t scratch = rounded_up(p, 4) + (p + 128) * 512 + 32 * c + packed / 4 + 2 * m + (k ? k : p) * 6144 + 674040;
    const uint64_t floats = 40 * 128 * 512 + owners + 2 * 2 * 5120 * 4 + scratch + row * p + k * carry + 512 * p +
                            (k > p ? 48 * (k - p) : 0);
    *chunk = p;
    return 4 * floats + 51080 + 517120 + (p < 512 ? 0 : p <= 4096 ? 256 * MIB : 512 * MIB) + 256 * c;
}

static context_memory v41_context(int ctx) {
    context_memory m = {0};
    uint64_t chunk;
    m.total = v41_graph((uint64_t)ctx, &chunk);
    m.prefill_cap = (uint32_t)chunk;
    m.raw_rows = SWA;
    m.compressed_rows = (uint32_t)ctx / 2 + 1;
    m.compressed = (uint64_t)ctx * 6400;
    m.scratch = m.total - m.compressed;
    return m;
}

context_memory context_estimate(shape_id shape, int ctx_size, int prefill_chunk, bool metal) {
    if (shape == SHAPE_FLASH41) return v41_context(ctx_size);
    const shape_facts *f = &facts[shape];
    const uint32_t ctx = (uint32_t)ctx_size;
    context_memory m = {0};
    const uint64_t rows4 = ctx / 4 + 2, rows128 = ctx / 128 + 2;
    /* F16 compressed rows on Metal since the end of May; F32 before, and always on the CPU. */
    const uint64_t width = metal && DS4_GENERATION >= GEN_JULY ? 2 : 4;
    m.compressed_rows = (uint32_t)rows4;
    m.compressed = ((uint64_t)f->ratio4 * rows4 + (uint64_t)f->ratio128 * rows128) * HEAD_DIM * width +
                   (uint64_t)f->ratio4 * rows4 * INDEXER_DIM * 4;
    if (!metal) {
        m.raw_rows = min_u32(SWA, ctx);
        m.scratch = 2 * rows4 * 4;
    } else {
        m.prefill_cap = prefill_chunk > 0 ? min_u32((uint32_t)prefill_chunk, ctx) : default_prefill_cap(shape, ctx);
        const uint32_t window = (min_u32(SWA + m.prefill_cap, ctx) + 255) / 256 * 256;
        m.raw_rows = max_u32(min_u32(8192, window), min_u32(SWA, ctx));
        m.scratch = 2 * rows4 * m.prefill_cap * 4;
        if (DS4_GENERATION >= GEN_JULY) m.scratch += (m.prefill_cap / 4ull + 2) * HEAD_DIM * 4;
    }
    m.raw = (uint64_t)f->layers * m.raw_rows * HEAD_DIM * 4;
    m.total = m.raw + m.compressed + m.scratch;
    return m;
}

/* What a long prompt makes the indexer's two buffers grow to, as an upper bound: each keeps the most that a chunk
   wanted of it. */
uint64_t indexer_bound(shape_id shape, uint32_t cap, int prompt_tokens) {
    if (cap == 0 || prompt_tokens <= 0) return 0;
    const uint64_t n = (uint64_t)prompt_tokens, top_k = (uint64_t)facts[shape].top_k;
    const uint64_t full_end = n / cap * cap, tail = n - full_end;
    uint64_t sorting = 0, chosen = 0;
    const uint64_t ends[2] = {full_end, n}, tokens[2] = {cap, tail};
    for (int i = 0; i < 2; i++) {
        if (ends[i] == 0 || tokens[i] == 0 || ends[i] / 4 <= top_k) continue;
        const uint64_t wide = 2 * (ends[i] / 4) * tokens[i] * 4, rows = top_k * tokens[i] * 4;
        if (wide > sorting) sorting = wide;
        if (rows > chosen) chosen = rows;
    }
    return sorting + chosen;
}

uint64_t kv_payload_bytes(shape_id shape, int tokens) {
    const shape_facts *f = &facts[shape];
    const uint64_t n = (uint64_t)tokens, layers = (uint64_t)f->layers;
    const uint64_t raw = (n < SWA ? n : SWA) * 2048;
    uint64_t bytes = 52 + 4 * n + 4 * VOCAB + 8 * layers + layers * raw;
    if (shape == SHAPE_FLASH41) return bytes + n * 6400;
    bytes += (uint64_t)f->ratio4 * (n / 4 * 2048 + 8ull * 4 * 2048 + n / 4 * 512 + 8ull * 4 * 512);
    bytes += (uint64_t)f->ratio128 * (n / 128 * 2048 + 2ull * 128 * 2048);
    return bytes;
}

/* The workspace was measured at the default prefill chunk and scales with it. */
static uint64_t workspace(const shape_facts *f, shape_id shape, const context_memory *c, int sessions) {
    const double full = DS4_GENERATION < GEN_JULY ? 2048 : shape == SHAPE_PRO ? 8192 : 4096;
    const double share = c->prefill_cap < full ? c->prefill_cap / full : 1;
    if (DS4_GENERATION < GEN_JULY) return (uint64_t)((double)f->workspace_may * share);
    return (uint64_t)((double)f->workspace_shared * share) + (uint64_t)sessions * f->workspace_session;
}

/* What is left for experts of a budget, whose first part is the layers that are read ahead while a prompt is prefilled. */
static double dynamic_cache(double budget, uint64_t headroom) {
    if (budget <= (double)headroom)
        die(1, "%.2f GiB are too little for the experts' cache: %.2f GiB of it are read ahead", budget / (double)GIB,
            (double)headroom / (double)GIB);
    return budget - (double)headroom;
}

/* The Engram tables stay on the SSD. The rest must fit both limits, which is looked at before anything is started. */
static void plan_v41(memory_plan *p, const gguf *model, const memory_request *r) {
    const int four = model->quant_bits == 4;
    const uint64_t most = p->ram / 8 * 7;
    p->weights = r->streaming ? V41_STATIC : v41_resident[four];
    p->headroom = r->streaming ? v41_headroom[four] : 0;
    p->workspace = facts[SHAPE_FLASH41].workspace_shared;
    if (p->ram && most < p->limit) p->limit = most;
    const uint64_t fixed = p->weights + p->headroom + p->workspace + p->context.total * (uint64_t)r->sessions;
    p->total = rounded_up(fixed, MIB) * MIB;
    if (p->ram && p->total > p->limit)
        die(1, "DeepSeek V4.1 needs %llu MiB of memory, and %llu MiB are allowed", (unsigned long long)(p->total / MIB),
            (unsigned long long)(p->limit / MIB));
    if (!r->streaming) return;
    const double expert = facts[SHAPE_FLASH41].expert_mib[four] * (double)MIB, all = expert * facts[SHAPE_FLASH41].experts;
    const double room = p->ram ? (double)(p->limit - p->total) : all;
    const double asked = r->stream_cache && !r->exact_cache ? dynamic_cache((double)r->stream_cache, p->headroom)
                                                            : (double)r->stream_cache;
    const double cache = asked > 0 && asked < room ? asked : room < all ? room : all;
    p->expert_mib = expert / (double)MIB;
    p->cached_experts = (uint32_t)(cache / expert);
    p->cache = (uint64_t)(p->cached_experts * expert);
    p->total += p->cache;
    p->resident_share = cache / all;
}

memory_plan memory_make_plan(const gguf *model, const gguf *mtp, const memory_request *r) {
    const shape_facts *f = &facts[model->shape];
    memory_plan p = {0};
    uint64_t configured = 0, stock = 0;
    const bool on_mac = mac_sysctl("hw.memsize", &p.ram) && p.ram > 0;
    if (on_mac) {
        (void)mac_sysctl("iogpu.wired_limit_mb", &configured);
        (void)mac_sysctl("lab.stock_limit_mib", &stock);
        p.limit = configured ? configured * MIB
                  : stock ? stock * MIB : (uint64_t)((double)p.ram * STOCK_LIMIT_SHARE);
    }
    p.others = mac_wired_by_others() + r->simulated_use;
    p.context = context_estimate(model->shape, r->ctx, r->prefill_chunk, r->metal);
    p.workspace = r->metal ? workspace(f, model->shape, &p.context, r->sessions) : 0;
    p.mtp = mtp ? mtp->real_bytes + MTP_GRAPH_BYTES : 0;
    p.weights = model->real_bytes;
    p.resident_share = 1;
    if (model->shape == SHAPE_FLASH41) {
        plan_v41(&p, model, r);
        return p;
    }
    if (r->streaming) {
        const double expert = f->expert_mib[model->quant_bits == 4] * (double)MIB;
        const double all = expert * f->experts;
        const double rest = (double)p.weights > all ? (double)p.weights - all : 0;
        const double working_set = p.limit ? (double)p.limit : all + rest;
        p.headroom = STREAM_PREFILL_RESERVE;
        double cache = r->stream_cache ? (double)r->stream_cache : working_set * STREAM_AUTO_SHARE - rest;
        if (!r->exact_cache) cache = dynamic_cache(cache, p.headroom);
        if (cache < expert) cache = expert;
        if (cache > all) cache = all;
        p.expert_mib = expert / (double)MIB;
        p.cached_experts = (uint32_t)(cache / expert);
        p.cache = (uint64_t)cache;
        p.weights = (uint64_t)rest;
        p.resident_share = cache / all;
    }
    p.total = p.weights + p.mtp + p.cache + p.headroom + p.workspace + p.context.total * (uint64_t)r->sessions;
    return p;
}

memory_outcome memory_judge(const memory_plan *p, uint64_t extra) {
    if (p->ram == 0) return MEMORY_SERVES;
    const uint64_t total = p->total + extra, all = total + p->others;
    if ((double)total > (double)p->ram * PANIC_FACTOR) return MEMORY_PANICS;
    if (p->weights + p->mtp + p->others > p->limit) return MEMORY_OOM_WARMUP;
    if (all > p->limit) return MEMORY_OOM_PREFILL;
    if (all > p->ram) return MEMORY_PANICS;
    if (p->ram - all < FREEZE_BELOW) return MEMORY_FREEZES;
    return MEMORY_SERVES;
}
