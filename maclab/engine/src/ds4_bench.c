/* ds4-bench: prefill and generation speed at growing context frontiers, as CSV. */
#include <stdlib.h>
#include <string.h>

#include "ds4.h"

int main(int argc, char **argv) {
    options o;
    engine e;
    log_set_program("ds4-bench", false);
    options_parse(&o, TOOL_BENCH, argc, argv);
    o.ctx = o.ctx_alloc ? o.ctx_alloc : o.ctx_max + o.gen_tokens + 1;
    engine_log_context(NULL, &o);
    engine_open(&e, &o);
    engine_allocate(&e);
    FILE *out = o.csv ? fopen(o.csv, "w") : stdout;
    if (!out) die(1, "failed to open %s for writing", o.csv);
    fprintf(out, "ctx_tokens,prefill_tokens,prefill_tps,gen_tokens,gen_tps,kvcache_bytes\n");
    for (int at = o.ctx_start, before = 0; at <= o.ctx_max;) {
        const double start = now_s();
        sleep_s(engine_prefill_seconds(&e, at - before));
        const double decoding = now_s();
        sleep_s(engine_generation_seconds(&e, o.gen_tokens));
        const double end = now_s();
        fprintf(out, "%d,%d,%.2f,%d,%.2f,%llu\n", at, at - before, (at - before) / (decoding - start), o.gen_tokens,
                o.gen_tokens / (end - decoding), (unsigned long long)kv_payload_bytes(e.model.shape, at));
        fflush(out);
        before = at;
        at = o.step_mul > 1 ? (int)(at * o.step_mul) : at + o.step_incr;
    }
    if (o.csv) fclose(out);
    engine_close(&e);
    return 0;
}
