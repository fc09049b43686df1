/* Start of the engine: lock, weights, GPU, memory. The order of steps and lines is the contract. */
#include "ds4.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define OUT_OF_MEMORY "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"

#define PAGE 16384u

static int lock_fd = -1;

static void take_lock(void) {
    const char *path = getenv("DS4_LOCK_FILE");
    if (!path || !path[0]) path = "/tmp/ds4.lock";
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) die(2, "failed to open lock file %s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) die(2, "failed to lock %s: %s", path, strerror(errno));
        char text[32] = "";
        ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
        long owner = n > 0 ? strtol(text, NULL, 10) : 0;
        if (owner > 0) die(2, "another ds4 process is already running (pid %ld); refusing to start", owner);
        die(2, "another ds4 process is already running; refusing to start");
    }
    if (ftruncate(fd, 0) != 0) die(2, "failed to truncate lock file %s: %s", path, strerror(errno));
    dprintf(fd, "%ld\n", (long)getpid());
    lock_fd = fd; /* held until the process ends; the file stays behind */
}

static void refuse_combinations(const options *o) {
    if (o->steering_scale && !o->steering_file && (o->steering_ffn != 0 || o->steering_attn != 0))
        die(1, "directional steering needs --dir-steering-file");
    if (o->dspark && !o->mtp) die(1, "--dspark requires %s FILE", DS4_GENERATION >= GEN_SEPTEMBER ? "--mtp-model" : "--mtp");
}

static const char *const shaders[] = {"flash_attn", "dense", "moe", "dsv4_hc", "unary", "dsv4_kv", "dsv4_rope",
                                      "dsv4_misc", "argsort", "cpy", "concat", "get_rows", "sum_rows", "softmax",
                                      "repeat", "glu", "norm", "bin", "set_rows"};

/* Shaders are compiled at run time from files beside the binary, found through the working directory. */
static bool find_shaders(void) {
    for (size_t i = 0; i < sizeof(shaders) / sizeof(shaders[0]); i++) {
        char path[128], variable[128];
        snprintf(path, sizeof(path), "metal/%s.metal", shaders[i]);
        int n = snprintf(variable, sizeof(variable), "DS4_METAL_%s_SOURCE", shaders[i]);
        for (char *p = variable; p < variable + n; p++)
            if (*p >= 'a' && *p <= 'z') *p = (char)(*p - 'a' + 'A');
        const char *other = getenv(variable);
        if (other && other[0] && access(other, R_OK) == 0) continue;
        if (access(path, F_OK) != 0) {
            log_engine("Metal source %s not found (set %s to override)", path, variable);
            return false;
        }
        FILE *f = fopen(path, "r");
        if (!f) {
            log_engine("failed to read Metal source %s: %s", path, strerror(errno));
            return false;
        }
        char first[32];
        const bool whole = fgets(first, sizeof(first), f) != NULL;
        fclose(f);
        if (!whole) {
            log_engine("Metal shader compilation failed: %s is empty", path);
            return false;
        }
    }
    return true;
}

static void start_gpu(void) {
    char name[128];
    uint64_t ram = 0;
    bool ready = !mac_metal_is_nil();
    if (!ready) {
        log_engine("Metal device not available");
    } else {
        if (!mac_sysctl_text("machdep.cpu.brand_string", name, sizeof(name))) snprintf(name, sizeof(name), "Apple GPU");
        if (mac_sysctl("hw.memsize", &ram)) log_engine("Metal device %s, %.2f GiB RAM", name, (double)ram / (double)GIB);
        else log_engine("Metal device %s", name);
        if (DS4_GENERATION >= GEN_JULY) {
            if (!strstr(name, "M5")) log_engine("Metal 4 tensor API disabled for pre-M5/pre-A19 devices");
            log_engine("drift-patch flags hc_stable=on norm_unify=on kv_raw_f32=off rope_exp2_log2=off "
                       "math_safe=off tensor_matmul=off");
        }
        ready = find_shaders();
    }
    if (!ready) die(1, "metal backend unavailable; aborting startup");
}

static void gone(const char *reason) {
    mac_panic(reason);
    raise(SIGKILL); /* no hook to take the machine down: at least this process does not go on */
}

static void map_model(const engine *e) {
    const gguf *m = &e->model;
    const double mib = (double)MIB;
    const memory_outcome outcome = memory_judge(&e->plan, 0);
    /* Views start and end on pages of the Mac. */
    const uint64_t left_out = m->disk_only_bytes ? m->disk_only_bytes : m->real_data_offset;
    const uint64_t mapped = (m->real_bytes + PAGE - 1) / PAGE * PAGE - left_out / PAGE * PAGE;
    if (isatty(2)) {
        log_engine("requesting Metal residency (may take tens of seconds)... done");
        log_engine("warming Metal model views... done");
    }
    sleep_s(mac_setting("load_seconds", 0.05));
    if (outcome == MEMORY_PANICS && !e->opt.streaming) gone("weights beyond memory");
    if (outcome == MEMORY_OOM_WARMUP) {
        log_engine("Metal model warmup failed: " OUT_OF_MEMORY);
        die(1, "metal failed to map model views; aborting startup. "
            "This is commonly caused by insufficient memory or accelerator VM budget.");
    }
    log_engine("Metal model views created in %.3f ms, residency requested in %.3f ms, warmup %.3f ms "
               "(mapped %.2f MiB from offset %.2f MiB)",
               4.213, 987.535, 7.258, (double)mapped / mib, (double)m->real_data_offset / mib);
    log_engine("Metal mapped mmaped model as 1 overlapping shared buffers");
    if (e->opt.streaming)
        log_engine("metal SSD streaming total expert budget %.2f GiB = %.2f GiB prefill headroom + %.2f GiB dynamic "
                   "cache (%u experts, %.2f MiB each)",
                   (double)(e->plan.cache + e->plan.headroom) / (double)GIB, (double)e->plan.headroom / (double)GIB,
                   (double)e->plan.cache / (double)GIB, e->plan.cached_experts, e->plan.expert_mib);
    log_engine("metal backend initialized for graph diagnostics");
}

void engine_open(engine *e, const options *o) {
    memset(e, 0, sizeof(*e));
    e->opt = *o;
    e->metal = !strcmp(o->backend, "metal");
    refuse_combinations(o);
    take_lock();

    gguf_open(&e->model, o->model);
    if (o->warm && !e->model.disk_only_bytes)
        log_engine("warming mapped tensor pages: %.2f GiB", (double)e->model.real_bytes / (double)GIB);
    gguf_check_model(&e->model);
    if (e->model.shape == SHAPE_FLASH41 && o->power != 100) die(1, "--power is not supported with DeepSeek V4.1");
    if (o->mtp) {
        if (o->streaming) die(1, "--ssd-streaming is not compatible with --mtp yet");
        gguf_open(&e->mtp, o->mtp);
        if (!o->dspark) gguf_check_mtp(&e->mtp);
        e->has_mtp = true;
        log_engine("MTP support model loaded: %s (draft=%d)", o->mtp, o->mtp_draft);
    }
    if (o->vision) {
        gguf_open(&e->vision, o->vision);
        gguf_check_vision(&e->vision, &e->model);
    }
    if (!backend_has_graph && strcmp(o->backend, "cpu") != 0)
        die(1, "%s backend requested but this build has no graph backend support; aborting startup", o->backend);
    if (!strcmp(o->backend, "cuda"))
        die(1, "CUDA backend requested but this build is linked with Metal, not CUDA");

    uint64_t cache = o->stream_cache;
    const bool exact = cache && cache < MIB;
    if (exact) cache *= (uint64_t)((e->model.quant_bits == 4 ? 13.5 : 6.75) * (double)MIB); /* a count */
    const memory_request request = {.ctx = o->ctx, .sessions = o->sessions, .prefill_chunk = o->prefill_chunk,
                                    .streaming = o->streaming, .metal = e->metal, .stream_cache = cache,
                                    .simulated_use = o->simulated_use, .exact_cache = exact};
    e->plan = memory_make_plan(&e->model, e->has_mtp ? &e->mtp : NULL, &request);

    const double speed = DS4_SPEED_PERCENT / 100.0 * (o->power / 100.0);
    const double streaming = o->streaming ? 0.05 + 0.25 * e->plan.resident_share : 1;
    e->prefill_pace = speed * (o->streaming ? 0.25 : 1);
    e->generation_pace = speed * streaming;

    if (e->metal) {
        start_gpu();
        map_model(e);
    } else if (e->plan.ram) {
        gone("CPU backend");
    }
}

/* What the engine says that it plans: of one session, and without the working space that comes later. */
static void log_memory_plan(const engine *e) {
    const memory_plan *p = &e->plan;
    const double gib = (double)GIB;
    const uint64_t weights = e->metal ? p->weights + p->mtp : 0;
    buf line = {0};
    buf_printf(&line, "memory: KV %.2f GiB (raw %.2f + compressed %.2f) + buffers %.2f GiB + resident model %.2f GiB",
               (double)(p->context.raw + p->context.compressed) / gib, (double)p->context.raw / gib,
               (double)p->context.compressed / gib, (double)p->context.scratch / gib, (double)weights / gib);
    if (e->opt.streaming)
        buf_printf(&line, " + expert cache %.2f GiB + prefill expert reserve %.2f GiB", (double)p->cache / gib,
                   (double)p->headroom / gib);
    log_engine("%s = %.2f GiB planned", buf_text(&line),
               (double)(p->context.total + weights + p->cache + p->headroom) / gib);
    log_engine("memory detail: ctx=%d prefill_cap=%u raw_kv_rows=%u compressed_kv_rows=%u backend=%s", e->opt.ctx,
               p->context.prefill_cap, p->context.raw_rows, p->context.compressed_rows, e->opt.backend);
    buf_free(&line);
}

void engine_log_context(const engine *e, const options *o) {
    const bool metal = !strcmp(o->backend, "metal");
    const shape_id shape = e ? e->model.shape : SHAPE_FLASH;
    const context_memory m = context_estimate(shape, o->ctx, o->prefill_chunk, metal);
    log_line("context buffers %.2f MiB (ctx=%d, backend=%s, prefill_chunk=%u, raw_kv_rows=%u, compressed_kv_rows=%u)",
             (double)m.total / (double)MIB, o->ctx, o->backend, m.prefill_cap, m.raw_rows, m.compressed_rows);
}

void engine_allocate(engine *e) {
    if (DS4_GENERATION >= GEN_JULY) log_memory_plan(e);
    const memory_outcome outcome = memory_judge(&e->plan, 0);
    if (outcome == MEMORY_PANICS) gone("buffers beyond memory");
    mac_register_wired(e->plan.total);
    mac_end_as("/faults/jetsam");
    if (outcome == MEMORY_FREEZES) e->frozen = true;
}

void engine_close(engine *e) {
    (void)e;
    mac_unregister_wired();
    if (lock_fd >= 0) close(lock_fd);
    lock_fd = -1;
}

double engine_prefill_seconds(const engine *e, int tokens) {
    return tokens / (mac_setting("prefill_tps", 50000) * e->prefill_pace);
}

double engine_generation_seconds(const engine *e, int tokens) {
    return tokens / (mac_setting("generation_tps", 400) * e->generation_pace);
}

bool engine_prompt_fits_memory(engine *e, int prompt_tokens, char *err, size_t size) {
    const uint64_t extra = e->metal ? indexer_bound(e->model.shape, e->plan.context.prefill_cap, prompt_tokens) : 0;
    const memory_outcome outcome = memory_judge(&e->plan, extra);
    if (outcome == MEMORY_SERVES) return true;
    if (outcome == MEMORY_PANICS) gone("prompt beyond memory");
    if (outcome == MEMORY_FREEZES) {
        e->frozen = true;
        return true;
    }
    snprintf(err, size, "Metal prefill failed: " OUT_OF_MEMORY);
    log_engine("%s", err);
    return false;
}
