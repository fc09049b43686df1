/* Reading a GGUF v3 header and refusing what the engine would refuse, with its words. */
#include "ds4.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { T_U8, T_I8, T_U16, T_I16, T_U32, T_I32, T_F32, T_BOOL, T_STRING, T_ARRAY, T_U64, T_I64, T_F64 };

/* GGML type -> elements and bytes of a block, for the types that DeepSeek files use. */
static const struct {
    uint32_t type, elements, bytes;
    const char *name;
} block_types[] = {
    {0, 1, 4, "f32"},        {1, 1, 2, "f16"},         {8, 32, 34, "q8_0"}, {10, 256, 84, "q2_k"},
    {12, 256, 144, "q4_k"},  {16, 256, 66, "iq2_xxs"}, {24, 1, 1, "i8"},     {26, 1, 4, "i32"},
    {39, 32, 17, "mxfp4"},
};
#define N_TYPES (sizeof(block_types) / sizeof(block_types[0]))
#define IQ2_LIKE 2
#define TYPE_Q4_K 12u
#define TYPE_MXFP4 39u

typedef struct {
    const uint8_t *data;
    uint64_t pos, size;
} cursor;

static const void *take(cursor *c, uint64_t n) {
    if (n > c->size - c->pos) die(1, "truncated GGUF file at byte %" PRIu64, c->pos);
    const void *p = c->data + c->pos;
    c->pos += n;
    return p;
}

static uint32_t take_u32(cursor *c) {
    uint32_t v;
    memcpy(&v, take(c, 4), 4);
    return v;
}

static uint64_t take_u64(cursor *c) {
    uint64_t v;
    memcpy(&v, take(c, 8), 8);
    return v;
}

static char *take_text(cursor *c) {
    uint64_t n = take_u64(c);
    const char *p = take(c, n);
    char *s = malloc((size_t)n + 1);
    if (!s) die(1, "out of memory");
    memcpy(s, p, (size_t)n);
    s[n] = '\0';
    return s;
}

static double take_number(cursor *c, uint32_t type) {
    switch (type) {
    case T_U8: case T_BOOL: return *(const uint8_t *)take(c, 1);
    case T_I8: return *(const int8_t *)take(c, 1);
    case T_U16: { uint16_t v; memcpy(&v, take(c, 2), 2); return v; }
    case T_I16: { int16_t v; memcpy(&v, take(c, 2), 2); return v; }
    case T_U32: return take_u32(c);
    case T_I32: { int32_t v; memcpy(&v, take(c, 4), 4); return v; }
    case T_F32: { float v; memcpy(&v, take(c, 4), 4); return (double)v; }
    case T_U64: return (double)take_u64(c);
    case T_I64: { int64_t v; memcpy(&v, take(c, 8), 8); return (double)v; }
    case T_F64: { double v; memcpy(&v, take(c, 8), 8); return v; }
    default: die(1, "unknown GGUF metadata type at byte %" PRIu64, c->pos);
    }
}

static void read_key(cursor *c, gguf_key *k) {
    k->key = take_text(c);
    k->type = take_u32(c);
    k->count = 1;
    if (k->type == T_STRING) {
        k->text = take_text(c);
    } else if (k->type == T_ARRAY) {
        k->item_type = take_u32(c);
        k->count = take_u64(c);
        if (k->item_type == T_STRING) {
            for (uint64_t i = 0; i < k->count; i++) take(c, take_u64(c));
            return;
        }
        if (k->count > c->size - c->pos) die(1, "truncated GGUF file at byte %" PRIu64, c->pos);
        k->items = calloc((size_t)k->count + 1, sizeof(double));
        if (!k->items) die(1, "out of memory");
        for (uint64_t i = 0; i < k->count; i++) k->items[i] = take_number(c, k->item_type);
        k->number = k->count ? k->items[0] : 0;
    } else {
        k->number = take_number(c, k->type);
    }
}

static void read_tensor(cursor *c, gguf_tensor *t) {
    t->name = take_text(c);
    t->n_dims = take_u32(c);
    if (t->n_dims == 0 || t->n_dims > 4) die(1, "tensor has an unsupported number of dimensions");
    uint64_t elements = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        t->dims[i] = take_u64(c);
        elements *= t->dims[i];
    }
    t->type = take_u32(c);
    t->offset = take_u64(c);
    for (size_t i = 0; i < N_TYPES; i++)
        if (block_types[i].type == t->type)
            t->bytes = (elements + block_types[i].elements - 1) / block_types[i].elements * block_types[i].bytes;
}

static const gguf_key *find_key(const gguf *g, const char *name) {
    for (uint64_t i = 0; i < g->n_keys; i++)
        if (!strcmp(g->keys[i].key, name)) return &g->keys[i];
    return NULL;
}

const gguf_tensor *gguf_find(const gguf *g, const char *name) {
    for (uint64_t i = 0; i < g->n_tensors; i++)
        if (!strcmp(g->tensors[i].name, name)) return &g->tensors[i];
    return NULL;
}

void gguf_open(gguf *g, const char *path) {
    memset(g, 0, sizeof(*g));
    g->path = text_copy(path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) die(1, "cannot open model '%s': %s", path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0) die(1, "cannot stat model '%s': %s", path, strerror(errno));
    if (st.st_size < 32) die(1, "model file is too small to be GGUF");
    g->size = (uint64_t)st.st_size;
    /* Stays mapped and open, as the real weights do: lsof must show which file is in use. */
    void *map = mmap(NULL, (size_t)g->size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) die(1, "cannot mmap model '%s': %s", path, strerror(errno));
    cursor c = {map, 0, g->size};

    if (memcmp(take(&c, 4), "GGUF", 4) != 0) die(1, "model is not a GGUF file");
    g->version = take_u32(&c);
    g->n_tensors = take_u64(&c);
    g->n_keys = take_u64(&c);
    if (g->version != 3) die(1, "only GGUF v3 is supported");
    if (g->n_tensors > g->size || g->n_keys > g->size)
        die(1, "truncated GGUF file at byte %" PRIu64, c.pos);
    g->keys = calloc((size_t)g->n_keys + 1, sizeof(*g->keys));
    g->tensors = calloc((size_t)g->n_tensors + 1, sizeof(*g->tensors));
    if (!g->keys || !g->tensors) die(1, "out of memory");
    for (uint64_t i = 0; i < g->n_keys; i++) read_key(&c, &g->keys[i]);
    for (uint64_t i = 0; i < g->n_tensors; i++) read_tensor(&c, &g->tensors[i]);

    const gguf_key *alignment = find_key(g, "general.alignment");
    const uint64_t align = alignment && alignment->number >= 1 ? (uint64_t)alignment->number : 32;
    g->data_offset = (c.pos + align - 1) / align * align;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const gguf_tensor *t = &g->tensors[i];
        if (g->data_offset > g->size || t->offset > g->size - g->data_offset ||
            t->bytes > g->size - g->data_offset - t->offset)
            die(1, "tensor points outside GGUF file");
    }

    const gguf_key *real = find_key(g, "lab.real_bytes"), *data = find_key(g, "lab.real_data_offset");
    const gguf_key *tables = find_key(g, "lab.disk_only_bytes"), *made_from = find_key(g, "general.source.revision");
    g->disk_only_bytes = tables ? (uint64_t)tables->number : 0;
    g->made_from = made_from && made_from->text ? made_from->text : "";
    g->real_bytes = real ? (uint64_t)real->number : g->size;
    g->real_data_offset = data ? (uint64_t)data->number : g->data_offset;
    const gguf_key *print = find_key(g, "lab.fingerprint");
    snprintf(g->fingerprint, sizeof(g->fingerprint), "%s", print && print->text ? print->text : "unknown");
}

/* ---- identity of a main model ---- */

typedef struct {
    const char *key;
    double flash, pro;
} expected_key;

static const expected_key expected_keys[] = {
    {"embedding_length", 4096, 7168}, {"vocab_size", 129280, 129280}, {"attention.head_count", 64, 128},
    {"attention.key_length", 512, 512}, {"attention.head_count_kv", 1, 1}, {"attention.value_length", 512, 512},
    {"rope.dimension_count", 64, 64}, {"attention.output_group_count", 8, 16},
    {"attention.q_lora_rank", 1024, 1536}, {"attention.output_lora_rank", 1024, 1024},
    {"expert_count", 256, 384}, {"expert_used_count", 6, 6}, {"expert_feed_forward_length", 2048, 3072},
    {"expert_shared_count", 1, 1}, {"hash_layer_count", 3, 3}, {"attention.sliding_window", 128, 128},
    {"attention.indexer.head_count", 64, 64}, {"attention.indexer.key_length", 128, 128},
    {"attention.indexer.top_k", 512, 1024}, {"hyper_connection.count", 4, 4},
    {"hyper_connection.sinkhorn_iterations", 20, 20}, {"block_count", 43, 61},
    {"rope.scaling.original_context_length", 65536, 65536}, {"rope.freq_base", 10000, 10000},
    {"rope.scaling.factor", 16, 16}, {"rope.scaling.yarn_beta_fast", 32, 32},
    {"rope.scaling.yarn_beta_slow", 1, 1}, {"attention.compress_rope_freq_base", 160000, 160000},
    {"expert_weights_scale", 1.5, 2.5}, {"attention.layer_norm_rms_epsilon", 1e-6, 1e-6},
    {"hyper_connection.epsilon", 1e-6, 1e-6}, {"expert_weights_norm", 1, 1},
};
#define N_EXPECTED (sizeof(expected_keys) / sizeof(expected_keys[0]))

static double required(const gguf *g, const char *name) {
    char full[128];
    snprintf(full, sizeof(full), "deepseek4.%s", name);
    const gguf_key *k = find_key(g, full);
    if (!k) die(1, "required metadata key is missing: %s", full);
    return k->number;
}

static bool close_to(double a, double b) { return fabs(a - b) <= 1e-6 * (fabs(b) > 1 ? fabs(b) : 1); }

static const char *architecture(const gguf *g) {
    const gguf_key *k = find_key(g, "general.architecture");
    return k && k->text ? k->text : "";
}

/* What the file calls itself matters for GLM and, since September, for V4.1; anything else is read as V4. */
static void check_family(const gguf *g) {
    if (DS4_GENERATION < GEN_JULY) return;
    const bool glm = !strcmp(architecture(g), "glm-dsa");
    const char *first = glm ? "glm-dsa.block_count" : "deepseek4.block_count";
    if (!find_key(g, first)) die(1, "required metadata key is missing: %s", first);
    if (glm) die(1, "GLM is not part of the stand-in engine");
}

static void check_shape(gguf *g) {
    check_family(g);
    /* Upstream reports a missing key before any wrong value. */
    for (size_t i = 0; i < N_EXPECTED; i++) (void)required(g, expected_keys[i].key);
    bool flash = true, pro = true;
    const expected_key *wrong = NULL;
    for (size_t i = 0; i < N_EXPECTED; i++) {
        const double got = required(g, expected_keys[i].key);
        if (!close_to(got, expected_keys[i].flash)) {
            flash = false;
            if (!wrong) wrong = &expected_keys[i];
        }
        if (!close_to(got, expected_keys[i].pro)) pro = false;
    }
    const bool pro_known = DS4_GENERATION >= GEN_JULY;
    g->shape = flash ? SHAPE_FLASH : SHAPE_PRO;
    if (flash || (pro && pro_known)) return;
    if (pro_known)
        die(1, "unsupported DeepSeek4 shape: layers=%.0f embd=%.0f heads=%.0f q_lora=%.0f out_groups=%.0f "
            "experts=%.0f ff_exp=%.0f indexer_top_k=%.0f",
            required(g, "block_count"), required(g, "embedding_length"), required(g, "attention.head_count"),
            required(g, "attention.q_lora_rank"), required(g, "attention.output_group_count"),
            required(g, "expert_count"), required(g, "expert_feed_forward_length"),
            required(g, "attention.indexer.top_k"));
    die(1, "expected %s=%.9g for DeepSeek4 Flash, got %.9g", wrong->key, wrong->flash, required(g, wrong->key));
}

static int compress_ratio(shape_id shape, int layer) {
    if (shape == SHAPE_FLASH && layer < 2) return 0;
    if (shape == SHAPE_PRO && layer < 2) return 128;
    return layer % 2 == 0 ? 4 : 128;
}

static void require_tensor(const gguf *g, const char *fmt, int layer) {
    char name[128];
    snprintf(name, sizeof(name), fmt, layer);
    if (!gguf_find(g, name)) die(1, "required tensor is missing: %s", name);
}

static const char *const global_tensors[] = {"token_embd.weight", "output_hc_base.weight", "output_hc_fn.weight",
                                             "output_hc_scale.weight", "output_norm.weight", "output.weight"};
static const char *const layer_tensors[] = {
    "blk.%d.hc_attn_fn.weight", "blk.%d.hc_attn_scale.weight", "blk.%d.hc_attn_base.weight",
    "blk.%d.attn_norm.weight", "blk.%d.attn_q_a.weight", "blk.%d.attn_q_a_norm.weight", "blk.%d.attn_q_b.weight",
    "blk.%d.attn_kv.weight", "blk.%d.attn_kv_a_norm.weight", "blk.%d.attn_sinks.weight",
    "blk.%d.attn_output_a.weight", "blk.%d.attn_output_b.weight", "blk.%d.hc_ffn_fn.weight",
    "blk.%d.hc_ffn_scale.weight", "blk.%d.hc_ffn_base.weight", "blk.%d.ffn_norm.weight",
    "blk.%d.ffn_gate_inp.weight", "blk.%d.ffn_gate_exps.weight", "blk.%d.ffn_up_exps.weight",
    "blk.%d.ffn_down_exps.weight", "blk.%d.ffn_gate_shexp.weight", "blk.%d.ffn_up_shexp.weight",
    "blk.%d.ffn_down_shexp.weight"};
static const char *const compressed_tensors[] = {
    "blk.%d.attn_compressor_ape.weight", "blk.%d.attn_compressor_kv.weight", "blk.%d.attn_compressor_gate.weight",
    "blk.%d.attn_compressor_norm.weight"};
static const char *const indexer_tensors[] = {
    "blk.%d.indexer.attn_q_b.weight", "blk.%d.indexer.proj.weight", "blk.%d.indexer_compressor_ape.weight",
    "blk.%d.indexer_compressor_kv.weight", "blk.%d.indexer_compressor_gate.weight",
    "blk.%d.indexer_compressor_norm.weight"};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Until August the engine has no kernels for MXFP4, and says so of the first tensor that needs them. */
static void check_experts(const gguf *g, int layer) {
    static const char *const names[] = {"blk.%d.ffn_gate_exps.weight", "blk.%d.ffn_up_exps.weight", "blk.%d.ffn_down_exps.weight"};
    char name[128];
    for (size_t i = 0; i < COUNT(names) && DS4_GENERATION < GEN_AUGUST; i++) {
        snprintf(name, sizeof(name), names[i], layer);
        if (gguf_find(g, name)->type == TYPE_MXFP4)
            die(1, "tensor %s has type %u (unknown), expected a routed expert quant type", name, TYPE_MXFP4);
    }
}

/* Since September a file may say that it is V4.1; its tensors are read as they come. */
static bool check_v41(gguf *g) {
    if (DS4_GENERATION < GEN_SEPTEMBER || strcmp(architecture(g), "deepseek41") != 0) return false;
    const gguf_key *layers = find_key(g, "deepseek41.block_count");
    if (!layers) die(1, "required metadata key is missing: deepseek41.block_count");
    g->shape = SHAPE_FLASH41;
    if (layers->number != shape_layers(g->shape)) die(1, "unsupported DeepSeek V4.1 shape: layers=%.0f", layers->number);
    const gguf_tensor *experts = gguf_find(g, "blk.0.ffn_gate_exps.weight");
    g->quant_bits = experts && experts->type == TYPE_Q4_K ? 4 : IQ2_LIKE;
    return true;
}

void gguf_check_model(gguf *g) {
    if (check_v41(g)) return;
    check_shape(g);
    const int layers = g->shape == SHAPE_FLASH ? 43 : 61;
    const gguf_key *ratios = find_key(g, "deepseek4.attention.compress_ratios");
    if (!ratios || !ratios->items)
        die(1, "required int32/uint32 array metadata key is missing: deepseek4.attention.compress_ratios");
    if (ratios->count < (uint64_t)layers)
        die(1, "deepseek4.attention.compress_ratios is shorter than the layer count");

    for (size_t i = 0; i < COUNT(global_tensors); i++) require_tensor(g, global_tensors[i], 0);
    for (int il = 0; il < layers; il++) {
        const int ratio = compress_ratio(g->shape, il);
        for (size_t i = 0; i < COUNT(layer_tensors); i++) require_tensor(g, layer_tensors[i], il);
        if (ratio)
            for (size_t i = 0; i < COUNT(compressed_tensors); i++) require_tensor(g, compressed_tensors[i], il);
        if (ratio == 4)
            for (size_t i = 0; i < COUNT(indexer_tensors); i++) require_tensor(g, indexer_tensors[i], il);
        if (il < 3) require_tensor(g, "blk.%d.ffn_gate_tid2eid.weight", il);
    }
    for (int il = 0; il < layers; il++) check_experts(g, il);
    g->quant_bits = gguf_find(g, "blk.0.ffn_gate_exps.weight")->type == TYPE_Q4_K ? 4 : IQ2_LIKE;
}

void gguf_check_vision(const gguf *encoder, const gguf *model) {
    if (model->shape != SHAPE_FLASH41) die(1, "--vision goes with DeepSeek V4.1 only in this stand-in");
    if (strcmp(encoder->made_from, model->made_from) != 0)
        die(1, "the vision encoder was made from the revision %s, the model from %s", encoder->made_from, model->made_from);
}

void gguf_check_mtp(gguf *g) { require_tensor(g, "mtp.%d.hc_head_base.weight", 0); }

uint32_t shape_layers(shape_id shape) { return shape == SHAPE_FLASH ? 43 : shape == SHAPE_PRO ? 61 : 40; }

const char *shape_name(shape_id shape) {
    if (shape == SHAPE_FLASH41) return "DeepSeek V4.1 Flash";
    return shape == SHAPE_FLASH ? "DeepSeek V4 Flash" : "DeepSeek V4 Pro";
}

static double text_or_number(const gguf *g, const char *key) {
    const gguf_key *k = find_key(g, key);
    return k ? k->number : 0;
}

void gguf_summary(const gguf *g) {
    const gguf_key *name = find_key(g, "general.name"), *arch = find_key(g, "general.architecture");
    uint64_t described = 0;
    for (uint64_t i = 0; i < g->n_tensors; i++) described += g->tensors[i].bytes;
    printf("model: %s\narch:  %s\n", name && name->text ? name->text : "", arch && arch->text ? arch->text : "");
    printf("gguf:  v%u, %" PRIu64 " metadata keys, %" PRIu64 " tensors\n", g->version, g->n_keys, g->n_tensors);
    const bool v41 = arch && arch->text && !strcmp(arch->text, "deepseek41");
    printf("layers: %.0f\ntrain context: %.0f\n", text_or_number(g, v41 ? "deepseek41.block_count" : "deepseek4.block_count"),
           text_or_number(g, v41 ? "deepseek41.context_length" : "deepseek4.context_length"));
    printf("file size: %.2f GiB\n", (double)g->real_bytes / (double)GIB);
    printf("tensor types:\n");
    for (size_t type = 0; type < N_TYPES; type++) {
        int count = 0;
        for (uint64_t i = 0; i < g->n_tensors; i++) count += g->tensors[i].type == block_types[type].type;
        if (count) printf("  %-8s %5d tensors\n", block_types[type].name, count);
    }
}
