/* ds4: one prompt, or a small chat at the terminal. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ds4.h"

static char *read_prompt(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) {
        log_line("failed to open prompt file: %s", path);
        return NULL;
    }
    buf b = {0};
    char chunk[8192];
    buf_append(&b, "", 0);
    for (size_t n; (n = fread(chunk, 1, sizeof(chunk), f)) > 0;) buf_append(&b, chunk, n);
    fclose(f);
    return b.ptr;
}

static int answer_prompt(engine *e, const options *o, const char *prompt) {
    char err[200];
    buf rendered = {0};
    buf_printf(&rendered, "<|System|>%s<|User|>%s<|Assistant|>", o->system, prompt);
    const int tokens = token_count(rendered.ptr);
    if (tokens >= o->ctx) snprintf(err, sizeof(err), "prompt exceeds context");
    if (tokens >= o->ctx || !engine_prompt_fits_memory(e, tokens, err, sizeof(err))) {
        log_line("prompt processing failed: %s", err);
        buf_free(&rendered);
        return 1;
    }
    while (e->frozen) sleep_s(3600);
    const double start = now_s();
    sleep_s(engine_prefill_seconds(e, tokens));
    fprintf(stderr, "processing %d input tokens: %d/%d (100.0%%)\n", tokens, tokens, tokens);
    const double decoding = now_s();
    answer a = dialogue_answer(e, rendered.ptr, prompt, NULL, NULL, 0, o->think);
    if (a.reasoning[0]) printf("%s\n\n", a.reasoning);
    int words = 0;
    for (const char *at = a.text; *at && words < o->tokens; words++) {
        const size_t n = strcspn(at + 1, " ") + 1;
        sleep_s(engine_generation_seconds(e, 1));
        printf("%.*s", (int)n, at);
        fflush(stdout);
        at += n;
    }
    printf("\n");
    fflush(stdout);
    const double end = now_s();
    log_line("prefill: %.2f t/s, generation: %.2f t/s", tokens / (decoding - start + 1e-9), words / (end - decoding + 1e-9));
    answer_free(&a);
    buf_free(&rendered);
    return 0;
}

static int chat(engine *e, options *o) {
    char line[4096];
    for (;;) {
        if (isatty(0)) {
            printf("ds4> ");
            fflush(stdout);
        }
        if (!fgets(line, sizeof(line), stdin)) return 0;
        line[strcspn(line, "\n")] = '\0';
        if (!strcmp(line, "/quit") || !strcmp(line, "/exit")) return 0;
        if (!strcmp(line, "/think") || !strcmp(line, "/think-max")) o->think = true;
        else if (!strcmp(line, "/nothink")) o->think = false;
        else if (!strcmp(line, "/help")) puts("/help /think /think-max /nothink /quit");
        else if (line[0] == '/') {
            log_line("unknown command: %s", line);
            log_line("type /help for commands");
        } else if (line[0]) answer_prompt(e, o, line);
    }
}

int main(int argc, char **argv) {
    options o;
    engine e;
    log_set_program("ds4", false);
    options_parse(&o, TOOL_CLI, argc, argv);
    char *from_file = NULL;
    if (o.prompt_file && !(from_file = read_prompt(o.prompt_file))) return 2;
    if (!o.inspect) engine_log_context(NULL, &o);
    engine_open(&e, &o);
    int rc = 0;
    if (o.inspect) gguf_summary(&e.model);
    else {
        engine_allocate(&e);
        rc = o.prompt || from_file ? answer_prompt(&e, &o, o.prompt ? o.prompt : from_file) : chat(&e, &o);
    }
    engine_close(&e);
    free(from_file);
    return rc;
}
