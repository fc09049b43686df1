/* What a session holds: in memory for the next request, and on disk for a later one. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "state.h"

void session_store(session *s, const char *text, size_t length, int tokens, int whole, const char *reason, const char *key) {
    pthread_mutex_lock(&server.kv_mu);
    const bool there = kv_save(&server.kv, &server.e, text, length, tokens, whole, reason, key);
    pthread_mutex_unlock(&server.kv_mu);
    if (there && tokens > s->last_continued) s->last_continued = tokens;
}

void session_forget(session *s) {
    for (int i = 0; i < s->n_live; i++) free(s->live[i]);
    s->n_live = s->live_tokens = 0;
}

void session_hold(session *s, const request *r, const char *reasoning, const char *text, int tokens) {
    static const char open[] = "<think>", close[] = "</think>";
    const size_t whole = strlen(r->prompt_text), mark = sizeof(open) - 1;
    const bool thinks = whole >= mark && !strcmp(r->prompt_text + whole - mark, open);
    const int stem = (int)(thinks ? whole - mark : whole);
    char *spelt[SPELLINGS] = {NULL};
    for (int i = 0; i < (thinks ? SPELLINGS : 1); i++) {
        buf b = {0};
        buf_printf(&b, "%.*s", stem, r->prompt_text);
        if (thinks && i) buf_printf(&b, "%s%s", open, i == 1 ? reasoning : "");
        buf_printf(&b, "%s%s", thinks ? close : "", text);
        spelt[i] = b.ptr;
    }
    session_forget(s);
    memcpy(s->live, spelt, sizeof(spelt));
    s->n_live = thinks ? SPELLINGS : 1;
    s->live_tokens = tokens;
    s->live_key = r->api == API_RESPONSES ? "responses-visible" : thinks ? "thinking-visible" : "token-text";
}

/* Tokens of the session that begin this prompt as a whole, and how much of its text they are. */
int session_reuse(const session *s, const request *r, size_t *text) {
    *text = 0;
    for (int i = 0; i < s->n_live; i++) {
        const size_t n = strlen(s->live[i]);
        if (n > *text && !strncmp(s->live[i], r->prompt_text, n)) *text = n;
    }
    return *text ? s->live_tokens : 0;
}

int session_common(const session *s, const request *r) {
    size_t n = 0;
    if (!s->n_live) return 0;
    while (s->live[0][n] && s->live[0][n] == r->prompt_text[n]) n++;
    const int tokens = (int)(n / 4);
    return tokens < s->live_tokens ? tokens : s->live_tokens;
}

/* What of the prompt is in memory or on disk. Disk is asked only when memory has nothing of it. */
int session_cached(session *s, job *j, size_t *text, char *path, size_t size) {
    const request *r = &j->r;
    int cached = session_reuse(s, r, text);
    if (cached) return cached;
    const int tokens = token_count(r->prompt_text);
    if (DS4_GENERATION >= GEN_JULY && s->live_tokens) {
        const int common = session_common(s, r);
        log_line("live kv cache miss%s live=%d prompt=%d common=%d%s reason=%s", r->api == API_RESPONSES ? " RESPPROTO" : "",
                 s->live_tokens, tokens, common, DS4_GENERATION >= GEN_SEPTEMBER ? " vision=match" : "",
                 common != s->live_tokens ? "token-mismatch" : "incoming-prompt-shorter-than-live-checkpoint");
    }
    s->last_continued = 0;
    pthread_mutex_lock(&server.kv_mu);
    if (server.kv.enabled && s->n_live && s->live_tokens >= server.kv.min)
        kv_save(&server.kv, &server.e, s->live[0], strlen(s->live[0]), s->live_tokens, s->live_tokens, "evict", s->live_key);
    cached = kv_load(&server.kv, &server.e, r->prompt_text, r->api == API_RESPONSES, text, path, size);
    pthread_mutex_unlock(&server.kv_mu);
    if (cached) s->last_continued = cached;
    return cached;
}

void session_discard(session *s, const char *path) {
    if (!path[0]) return;
    pthread_mutex_lock(&server.kv_mu);
    if (unlink(path) == 0) log_line("kv cache discarded reason=prefill-failed file=%s", path);
    pthread_mutex_unlock(&server.kv_mu);
    s->last_continued = 0;
    session_forget(s);
}

/* A request that only brings the result of a call: what the session holds comes before it. */
void session_continue(const session *s, job *j) {
    buf whole = {0};
    buf_printf(&whole, "%s%s", s->live[0], j->r.prompt_text);
    free(j->r.prompt_text);
    j->r.prompt_text = whole.ptr;
}

void session_remember_call(session *s, const char *id) {
    call_memory *c = &server.calls;
    pthread_mutex_lock(&c->mu);
    const int slots = (int)(sizeof(c->ids) / sizeof(c->ids[0]));
    if (c->n == slots) memmove(c->ids, c->ids + 1, sizeof(c->ids[0]) * (size_t)(--c->n));
    snprintf(c->ids[c->n++], sizeof(c->ids[0]), "%s", id);
    pthread_mutex_unlock(&c->mu);
    snprintf(s->live_call, sizeof(s->live_call), "%s", id);
}
