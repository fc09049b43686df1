/* One request: read its prompt, produce and send its answer, write the log and the trace. */
#include <ctype.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

#define LOG_EVERY_TOKENS 50

static const char *kind_of(const request *r) { return r->api == API_COMPLETION ? "completion" : "chat"; }

static void flags_of(const request *r, bool thinking, char *out, size_t size) {
    snprintf(out, size, "%s%s%s", r->api == API_RESPONSES ? " RESPPROTO" : "", r->n_tools ? " TOOLS" : "",
             thinking ? " THINKING" : "");
}

void freeze_if_told(void) {
    if (!server.e.frozen) return;
    /* A Mac out of memory: nothing moves any more, not even an orderly stop. */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    for (;;) sleep_s(3600);
}

/* Takes its time in slices, so that a streaming client hears from us. */
static void prefill_chunk(const job *j, reply *p, double seconds, double *last_sign) {
    const double every = mac_setting("keepalive_seconds", 5), end = now_s() + seconds;
    do {
        const double left = end - now_s();
        if (j->cancelled) return;
        sleep_s(left > 0.05 ? 0.05 : left);
        if (p->r->stream && !p->failed && now_s() - *last_sign >= every) {
            reply_headers(p);
            reply_keepalive(p);
            *last_sign = now_s();
        }
    } while (now_s() < end);
}

/* How far a text reaches that ends at a token of the prompt: what is cached, and four bytes for each token more. */
static size_t text_until(const job *j, const reply *p, size_t cached_text, int tokens) {
    const size_t whole = strlen(j->r.prompt_text), end = cached_text + (size_t)(tokens - p->cached) * 4;
    return end < whole ? end : whole;
}

static bool prefill(session *s, const job *j, reply *p, size_t cached_text, const char *span, const char *flags, char *err,
                    size_t size) {
    engine *e = &server.e;
    const request *r = &j->r;
    const int fresh = j->tokens - p->cached;
    const uint32_t cap = e->plan.context.prefill_cap ? e->plan.context.prefill_cap : 256;
    const int cold = p->cached == 0 ? kv_cold_length(&server.kv, r->prompt_text, j->tokens) : 0;
    const double start = now_s();
    double last_sign = start;
    log_line("%s ctx=%s%s prompt start", kind_of(r), span, flags);
    if (!engine_prompt_fits_memory(e, j->tokens, err, size)) return false;
    freeze_if_told();
    if (r->stream && fresh) reply_headers(p);
    for (int done = 0; done < fresh;) {
        const double chunk_start = now_s();
        int chunk = fresh - done < (int)cap ? fresh - done : (int)cap;
        if (done < cold && done + chunk > cold) chunk = cold - done;
        prefill_chunk(j, p, engine_prefill_seconds(e, chunk), &last_sign);
        if (j->cancelled) return false;
        done += chunk;
        const double now = now_s();
        log_line("%s ctx=%s%s prefill chunk %d/%d (%.1f%%) chunk=%.2f t/s avg=%.2f t/s %.3fs", kind_of(r), span, flags, done,
                 fresh, 100.0 * done / fresh, chunk / (now - chunk_start + 1e-9), done / (now - start + 1e-9), now - start);
        const int at = p->cached + done, continued = kv_continued_length(&server.kv, at);
        if (done == cold && cold < fresh)
            session_store(s, r->prompt_text, text_until(j, p, cached_text, cold), cold, j->tokens, "cold", "token-text");
        else if (continued > s->last_continued)
            session_store(s, r->prompt_text, text_until(j, p, cached_text, continued), continued, continued, "continued", "token-text");
        /* Only a batched session looks: a single one reads on, and so does all that is queued behind it. */
        if (stop_requested && e->opt.sessions > 1 && done < fresh) {
            snprintf(err, size, "prefill interrupted by shutdown");
            return false;
        }
    }
    log_line("%s ctx=%s%s prompt done %.3fs", kind_of(r), span, flags, now_s() - start);
    if (cold && cold == fresh)
        session_store(s, r->prompt_text, strlen(r->prompt_text), cold, j->tokens, "cold", "token-text");
    return true;
}

typedef struct {
    double start, at;
    int tokens;
} decode_log;

static void log_decoding(decode_log *d, const job *j, const reply *p, const char *flags) {
    const double now = now_s();
    const int fresh = p->completion - d->tokens;
    log_line("%s ctx=%d..%d:%d gen=%d%s decoding chunk=%.2f t/s avg=%.2f t/s %.3fs", kind_of(&j->r), j->tokens + d->tokens,
             j->tokens + p->completion, fresh, p->completion, flags, fresh / (now - d->at + 1e-9),
             p->completion / (now - d->start + 1e-9), now - d->start);
    d->tokens = p->completion;
    d->at = now;
}

/* Sends the words one by one at the engine's pace; returns the text that was really produced. */
static char *generate(const job *j, reply *p, const answer *a, const char *flags, const char **finish, char *err, size_t size) {
    const engine *e = &server.e;
    const request *r = &j->r;
    buf out = {0};
    buf_append(&out, "", 0);
    decode_log decoding = {now_s(), now_s(), 0};
    *finish = a->tool_name ? "tool_calls" : "stop";
    if (r->stream && !a->tool_name) reply_text_open(p);
    if (!a->text[0] && stop_requested) {
        *finish = "error";
        snprintf(err, size, "shutdown requested");
    }
    for (const char *at = a->text; *at;) {
        if (p->completion >= r->max_tokens) {
            *finish = "length";
            break;
        }
        if (j->cancelled) break;
        if (stop_requested || p->failed) {
            *finish = "error";
            snprintf(err, size, "%s", stop_requested ? "shutdown requested" : "client stream write failed");
            break;
        }
        size_t n = 1;
        while (at[n] && !(isspace((unsigned char)at[n]) && !isspace((unsigned char)at[n - 1]))) n++;
        char word[512];
        snprintf(word, sizeof(word), "%.*s", (int)(n < sizeof(word) ? n : sizeof(word) - 1), at);
        at += strlen(word);
        sleep_s(engine_generation_seconds(e, 1));
        p->completion++;
        buf_puts(&out, word);
        if (r->stream) reply_text(p, word);
        if (p->completion % LOG_EVERY_TOKENS == 0) log_decoding(&decoding, j, p, flags);
    }
    if (a->tool_name) p->completion += token_count(a->tool_arguments);
    if (p->completion > decoding.tokens) log_decoding(&decoding, j, p, flags);
    return out.ptr;
}

static void write_trace(const job *j, const reply *p, const char *text, const char *finish, double seconds) {
    if (!server.trace) return;
    char when[32];
    const time_t now = time(NULL);
    struct tm local;
    localtime_r(&now, &local);
    strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &local);
    pthread_mutex_lock(&server.trace_mu);
    fprintf(server.trace, "===== request %llu %s =====\nkind: %s\nmodel: %s\nstream: %d\ntools: %d\nthink_mode: %d\n"
            "prompt_tokens: %d\ncached_tokens: %d\n\n--- rendered prompt ---\n%s\n\n--- generated text ---\n%s\n\n"
            "--- parsed message ---\nfinish: %s\ngenerated_tokens: %d\nelapsed_sec: %.3f\n\n",
            server.requests, when, kind_of(&j->r), j->r.model, j->r.stream, j->r.n_tools > 0, j->r.think, p->prompt_tokens,
            p->cached, j->r.prompt_text, text, finish, p->completion, seconds);
    pthread_mutex_unlock(&server.trace_mu);
}

static void name_reply(reply *p, const job *j, unsigned long long number) {
    const request *r = &j->r;
    const unsigned long long mixed = (unsigned long long)text_hash(r->prompt_text) ^ (number << 32) ^
                                     (unsigned long long)(now_s() * 1e6);
    const char *kind = r->api == API_COMPLETION ? "cmpl" : "chatcmpl";
    if (r->api == API_RESPONSES) snprintf(p->id, sizeof(p->id), "resp_%016llx", mixed);
    else if (DS4_GENERATION >= GEN_SEPTEMBER) snprintf(p->id, sizeof(p->id), "%s-%016llx", kind, mixed);
    else snprintf(p->id, sizeof(p->id), "%s-%llu", kind, number);
    snprintf(p->call_id, sizeof(p->call_id), "%s%016llx%016llx", r->api == API_MESSAGES ? "toolu_" : "call_",
             (unsigned long long)text_hash(p->id), mixed);
}

/* Opens the stream; from a stop on that fails, and the request ends here, without a line about its end. */
static bool open_stream(reply *p, const char *span, const char *flags) {
    const request *r = p->r;
    if (!r->stream) return true;
    if (p->failed) log_line("%s ctx=%s%s stream closed during prefill", kind_of(r), span, flags);
    else if (!reply_headers(p)) log_line("%s ctx=%s%s sse headers failed", kind_of(r), span, flags);
    else if (!reply_start(p)) {
        if (r->api == API_MESSAGES) log_line("chat ctx=%s anthropic stream start failed", span);
        else if (r->api == API_RESPONSES) log_line("chat ctx=%s%s responses created event failed", span, flags);
        else log_line("chat ctx=%s openai role chunk failed", span);
    } else return true;
    return false;
}

static void log_finish(const job *j, const reply *p, const char *span, const char *flags, const char *finish, const char *err,
                       double seconds) {
    if (!strcmp(finish, "error") && err[0])
        log_line("%s ctx=%s gen=%d%s finish=error error=\"%s\" %.3fs", kind_of(&j->r), span, p->completion, flags, err, seconds);
    else log_line("%s ctx=%s gen=%d%s finish=%s %.3fs", kind_of(&j->r), span, p->completion, flags, finish, seconds);
}

static void answer_job(session *s, job *j, reply *p, const char *span, const char *flags, double start) {
    request *r = &j->r;
    char err[200] = "";
    answer a = dialogue_answer(&server.e, r->prompt_text, r->last_user, r->tool_result, (const char *const *)r->tools, r->n_tools,
                               r->think && r->api != API_COMPLETION);
    const char *finish = "stop";
    reply_reasoning(p, r->stream ? a.reasoning : "");
    char *text = generate(j, p, &a, flags, &finish, err, sizeof(err));
    buf sampled = {0};
    buf_printf(&sampled, "%s", text);
    if (a.tool_name && !j->cancelled) {
        session_remember_call(s, p->call_id); /* before the client can come back with its result */
        buf_puts(&sampled, CALLS_OPEN);
        render_call(&sampled, a.tool_name, a.tool_arguments);
        buf_puts(&sampled, CALLS_CLOSE);
        if (DS4_GENERATION >= GEN_JULY)
            log_line("tool calls ctx=%s%s n=1 raw_tool_text=1 ids=[%s] names=[%s]", span,
                     r->api == API_RESPONSES ? " RESPPROTO" : "", p->call_id, a.tool_name);
    }
    session_hold(s, r, a.reasoning, sampled.ptr, j->tokens + token_count(sampled.ptr));
    if (!j->cancelled) {
        const bool sent = !p->failed && reply_finish(p, &a, text, finish);
        if (!sent && r->stream && !DS4_HAS_765) log_line("%s ctx=%s%s final stream failed", kind_of(r), span, flags);
        if (!sent && DS4_HAS_765) {
            finish = "error";
            snprintf(err, sizeof(err), "client disconnected");
            log_line("%s ctx=%s%s client disconnected", kind_of(r), span, flags);
        }
        log_finish(j, p, span, flags, finish, err, now_s() - start);
        write_trace(j, p, text, finish, now_s() - start);
    }
    buf_free(&sampled);
    free(text);
    answer_free(&a);
}

void run_job(session *s, job *j) {
    engine *e = &server.e;
    request *r = &j->r;
    const double start = now_s();
    char span[48], flags[64], err[200] = "", path[1400] = "";
    size_t cached_text = 0;
    if (j->cancelled) return;
    pthread_mutex_lock(&server.mu);
    const unsigned long long number = ++server.requests;
    pthread_mutex_unlock(&server.mu);
    reply p = {.fd = j->fd, .cors = e->opt.cors, .r = r, .created = (long)time(NULL)};
    name_reply(&p, j, number);

    if (r->live_id && (strcmp(r->live_id, s->live_call) != 0 || !s->n_live)) {
        http_error(j->fd, e->opt.cors, 409,
                   r->api == API_RESPONSES
                       ? "Responses continuation state is not available; retry by replaying the full input history"
                       : "Anthropic continuation state is not available; retry by replaying the full messages history");
        return;
    }
    if (r->live_id) session_continue(s, j);
    p.cached = session_cached(s, j, &cached_text, path, sizeof(path));
    j->tokens = p.prompt_tokens = p.cached + token_count(r->prompt_text + cached_text);
    snprintf(span, sizeof(span), "%d..%d:%d", p.cached, j->tokens, j->tokens - p.cached);
    flags_of(r, false, flags, sizeof(flags));
    if (!prefill(s, j, &p, cached_text, span, flags, err, sizeof(err))) {
        session_discard(s, path);
        session_forget(s);
        if (!j->cancelled) reply_error(&p, 500, err);
        return;
    }
    s->live_call[0] = '\0';
    if (!open_stream(&p, span, flags)) {
        session_hold(s, r, "", "", j->tokens);
        return;
    }
    answer_job(s, j, &p, span, flags, start);
}
