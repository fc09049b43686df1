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

static uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

static uint32_t default_prefill_cap(shape_id shape, uint32_t ctx) {
    if (DS4_GENERATION < GEN_JULY) return min_u32(ctx, 2048);
    if (ctx <= 4096) return ctx;
    return shape == SHAPE_PRO ? min_u32(8192, ctx) : 4096;
}

context_memory context_estimate(shape_id shape, int ctx_size, int prefill_chunk, bool metal) {
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
    if (r->streaming) {
        const double expert = f->expert_mib[model->quant_bits == 4] * (double)MIB;
        const double all = expert * f->experts;
        const double rest = (double)p.weights > all ? (double)p.weights - all : 0;
        const double working_set = p.limit ? (double)p.limit : all + rest;
        double cache = r->stream_cache ? (double)r->stream_cache : working_set * STREAM_AUTO_SHARE - rest;
        if (cache < expert) cache = expert;
        if (cache > all) cache = all;
        p.expert_mib = expert / (double)MIB;
        p.cached_experts = (uint32_t)(cache / expert);
        p.cache = (uint64_t)cache;
        p.headroom = STREAM_PREFILL_RESERVE;
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
