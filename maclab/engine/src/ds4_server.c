/* ds4-server: a thread per client, a queue, one worker per resident session, and an orderly end. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "server.h"

#define IO_TIMEOUT_S 10
#define LOG_EVERY_TOKENS 50
#define MODEL_CREATED 1767225600

typedef struct job {
    int fd;
    request r;
    int tokens; /* of the prompt; since a session took it, with what that session holds already */
    bool done;
    volatile bool cancelled; /* its client has gone: nothing is written to it any more */
    pthread_cond_t cv;
    struct job *next;
} job;

/* What a session holds, as the next request may spell it: with the reasoning that led to the answer, with none, or
 * with its marks only. */
#define SPELLINGS 3

typedef struct {
    pthread_t thread;
    int number, live_tokens, n_live, last_continued;
    char *live[SPELLINGS];
    const char *live_key; /* how a checkpoint of it is named: by its tokens, or by what a client sees of it */
    char live_call[48];
    time_t last_used;
    job *assigned;
    bool busy;
} session;

static struct {
    engine e;
    kv_store kv;
    call_memory calls;
    FILE *trace;
    pthread_mutex_t mu, kv_mu, trace_mu;
    pthread_cond_t work, clients_gone;
    job *head, *tail;
    bool stopping;
    int clients;
    unsigned long long requests;
    session *sessions;
} server;

static volatile sig_atomic_t listen_fd = -1;

static void on_stop(int sig) {
    (void)sig;
    if (stop_requested) _exit(130);
    stop_requested = 1;
    if (listen_fd >= 0) {
        close((int)listen_fd);
        listen_fd = -1;
    }
}

/* ---- one request ---- */

static const char *kind_of(const request *r) { return r->api == API_COMPLETION ? "completion" : "chat"; }

static void flags_of(const request *r, bool thinking, char *out, size_t size) {
    snprintf(out, size, "%s%s%s", r->api == API_RESPONSES ? " RESPPROTO" : "", r->n_tools ? " TOOLS" : "",
             thinking ? " THINKING" : "");
}

static void freeze_if_told(void) {
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

static void store(session *s, const char *text, size_t length, int tokens, int whole, const char *reason, const char *key) {
    pthread_mutex_lock(&server.kv_mu);
    const bool there = kv_save(&server.kv, &server.e, text, length, tokens, whole, reason, key);
    pthread_mutex_unlock(&server.kv_mu);
    if (there && tokens > s->last_continued) s->last_continued = tokens;
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
            store(s, r->prompt_text, text_until(j, p, cached_text, cold), cold, j->tokens, "cold", "token-text");
        else if (continued > s->last_continued)
            store(s, r->prompt_text, text_until(j, p, cached_text, continued), continued, continued, "continued", "token-text");
        /* Only a batched session looks: a single one reads on, and so does all that is queued behind it. */
        if (stop_requested && e->opt.sessions > 1 && done < fresh) {
            snprintf(err, size, "prefill interrupted by shutdown");
            return false;
        }
    }
    log_line("%s ctx=%s%s prompt done %.3fs", kind_of(r), span, flags, now_s() - start);
    if (cold && cold == fresh)
        store(s, r->prompt_text, strlen(r->prompt_text), cold, j->tokens, "cold", "token-text");
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

/* ---- what a session holds ---- */

static void forget(session *s) {
    for (int i = 0; i < s->n_live; i++) free(s->live[i]);
    s->n_live = s->live_tokens = 0;
}

static void hold(session *s, const request *r, const char *reasoning, const char *text, int tokens) {
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
    forget(s);
    memcpy(s->live, spelt, sizeof(spelt));
    s->n_live = thinks ? SPELLINGS : 1;
    s->live_tokens = tokens;
    s->live_key = r->api == API_RESPONSES ? "responses-visible" : thinks ? "thinking-visible" : "token-text";
}

/* Tokens of the session that begin this prompt as a whole, and how much of its text they are. */
static int live_reuse(const session *s, const request *r, size_t *text) {
    *text = 0;
    for (int i = 0; i < s->n_live; i++) {
        const size_t n = strlen(s->live[i]);
        if (n > *text && !strncmp(s->live[i], r->prompt_text, n)) *text = n;
    }
    return *text ? s->live_tokens : 0;
}

static int live_common(const session *s, const request *r) {
    size_t n = 0;
    if (!s->n_live) return 0;
    while (s->live[0][n] && s->live[0][n] == r->prompt_text[n]) n++;
    const int tokens = (int)(n / 4);
    return tokens < s->live_tokens ? tokens : s->live_tokens;
}

/* What of the prompt is in memory or on disk. Disk is asked only when memory has nothing of it. */
static int tokens_cached(session *s, job *j, size_t *text, char *path, size_t size) {
    const request *r = &j->r;
    int cached = live_reuse(s, r, text);
    if (cached) return cached;
    const int tokens = token_count(r->prompt_text);
    if (DS4_GENERATION >= GEN_JULY && s->live_tokens) {
        const int common = live_common(s, r);
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

static void discard(session *s, const char *path) {
    if (!path[0]) return;
    pthread_mutex_lock(&server.kv_mu);
    if (unlink(path) == 0) log_line("kv cache discarded reason=prefill-failed file=%s", path);
    pthread_mutex_unlock(&server.kv_mu);
    s->last_continued = 0;
    forget(s);
}

/* A request that only brings the result of a call: what the session holds comes before it. */
static void continue_live(const session *s, job *j) {
    buf whole = {0};
    buf_printf(&whole, "%s%s", s->live[0], j->r.prompt_text);
    free(j->r.prompt_text);
    j->r.prompt_text = whole.ptr;
}

static void remember_call(session *s, const char *id) {
    call_memory *c = &server.calls;
    pthread_mutex_lock(&c->mu);
    const int slots = (int)(sizeof(c->ids) / sizeof(c->ids[0]));
    if (c->n == slots) memmove(c->ids, c->ids + 1, sizeof(c->ids[0]) * (size_t)(--c->n));
    snprintf(c->ids[c->n++], sizeof(c->ids[0]), "%s", id);
    pthread_mutex_unlock(&c->mu);
    snprintf(s->live_call, sizeof(s->live_call), "%s", id);
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
        remember_call(s, p->call_id); /* before the client can come back with its result */
        buf_puts(&sampled, CALLS_OPEN);
        render_call(&sampled, a.tool_name, a.tool_arguments);
        buf_puts(&sampled, CALLS_CLOSE);
        if (DS4_GENERATION >= GEN_JULY)
            log_line("tool calls ctx=%s%s n=1 raw_tool_text=1 ids=[%s] names=[%s]", span,
                     r->api == API_RESPONSES ? " RESPPROTO" : "", p->call_id, a.tool_name);
    }
    hold(s, r, a.reasoning, sampled.ptr, j->tokens + token_count(sampled.ptr));
    if (!j->cancelled) {
        const bool sent = !p->failed && reply_finish(p, &a, text, finish);
        if (!sent && r->stream && DS4_GENERATION < GEN_SEPTEMBER) log_line("%s ctx=%s%s final stream failed", kind_of(r), span, flags);
        if (!sent && DS4_GENERATION >= GEN_SEPTEMBER) {
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

static void run_job(session *s, job *j) {
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
    if (r->live_id) continue_live(s, j);
    p.cached = tokens_cached(s, j, &cached_text, path, sizeof(path));
    j->tokens = p.prompt_tokens = p.cached + token_count(r->prompt_text + cached_text);
    snprintf(span, sizeof(span), "%d..%d:%d", p.cached, j->tokens, j->tokens - p.cached);
    flags_of(r, false, flags, sizeof(flags));
    if (!prefill(s, j, &p, cached_text, span, flags, err, sizeof(err))) {
        discard(s, path);
        forget(s);
        if (!j->cancelled) reply_error(&p, 500, err);
        return;
    }
    s->live_call[0] = '\0';
    if (!open_stream(&p, span, flags)) {
        hold(s, r, "", "", j->tokens);
        return;
    }
    answer_job(s, j, &p, span, flags, start);
}

/* ---- queue ---- */

/* How well a free session suits a request. Until September that was how much both have in common, so that a shared
 * system prompt was enough to take a session from its conversation; since then only what can really be used again
 * counts, and the rest is by what would be lost: nothing, an old conversation, a short one. */
#define STALE_S 3600
#define IDLE_CAP_S (1 << 20)

static long suits(const session *s, const job *j, time_t now) {
    size_t text;
    if (s->busy) return LONG_MIN;
    if (j->r.live_id && !strcmp(j->r.live_id, s->live_call)) return LONG_MAX;
    if (DS4_GENERATION < GEN_SEPTEMBER) return live_common(s, &j->r);
    const int reuse = live_reuse(s, &j->r, &text);
    if (reuse) return reuse;
    if (!s->live_tokens) return 0;
    const long idle = now > s->last_used ? (long)(now - s->last_used) : 0;
    if (idle >= STALE_S) return (idle > IDLE_CAP_S ? IDLE_CAP_S : idle) - 1 - IDLE_CAP_S;
    return -2L - IDLE_CAP_S - s->live_tokens;
}

static bool needs_its_session(const job *j) {
    for (int i = 0; j->r.live_id && i < server.e.opt.sessions; i++)
        if (!strcmp(j->r.live_id, server.sessions[i].live_call)) return true;
    return false;
}

/* Gives waiting requests to free sessions, in their order; server.mu is held. */
static void dispatch(void) {
    const time_t now = time(NULL);
    for (job *j = server.head, *before = NULL; j;) {
        session *best = NULL;
        long most = LONG_MIN;
        for (int i = 0; i < server.e.opt.sessions; i++) {
            session *s = &server.sessions[i];
            const long score = suits(s, j, now);
            if (score > most && (score == LONG_MAX || !needs_its_session(j))) {
                best = s;
                most = score;
            }
        }
        job *next = j->next;
        if (!best) {
            before = j;
            j = next;
            continue;
        }
        if (before) before->next = next;
        else server.head = next;
        if (server.tail == j) server.tail = before;
        j->next = NULL;
        best->assigned = j;
        best->busy = true;
        if (DS4_GENERATION >= GEN_SEPTEMBER && server.e.opt.sessions > 1 && most < 0) {
            const long idle = now > best->last_used ? (long)(now - best->last_used) : 0;
            log_plain("slot %d: request reuses nothing; evicting checkpoint (%d tokens, idle %ld s, %s)", best->number,
                      best->live_tokens, idle, idle >= STALE_S ? "stale" : "protected");
        }
        j = next;
    }
    pthread_cond_broadcast(&server.work);
}

static void *session_main(void *argument) {
    session *s = argument;
    pthread_mutex_lock(&server.mu);
    for (;;) {
        while (!s->assigned && !(server.stopping && !server.head)) pthread_cond_wait(&server.work, &server.mu);
        job *j = s->assigned;
        if (!j) break; /* stopping, and everything queued has been gone through */
        s->assigned = NULL;
        pthread_mutex_unlock(&server.mu);
        run_job(s, j);
        pthread_mutex_lock(&server.mu);
        s->last_used = time(NULL);
        s->busy = false;
        j->done = true;
        pthread_cond_signal(&j->cv);
        dispatch();
    }
    pthread_mutex_unlock(&server.mu);
    return NULL;
}

/* Takes a request whose client has gone out of the queue, or tells the session that works on it. */
static void cancel(job *j) {
    j->cancelled = true;
    for (job *at = server.head, *before = NULL; at; before = at, at = at->next) {
        if (at != j) continue;
        if (before) before->next = j->next;
        else server.head = j->next;
        if (server.tail == j) server.tail = before;
        j->done = true;
        pthread_cond_broadcast(&server.work);
        return;
    }
}

static void wait_for(job *j) {
    while (!j->done) {
        struct timespec soon;
        if (DS4_GENERATION < GEN_SEPTEMBER) {
            pthread_cond_wait(&j->cv, &server.mu);
            continue;
        }
        clock_gettime(CLOCK_REALTIME, &soon);
        soon.tv_nsec += 100000000;
        if (soon.tv_nsec >= 1000000000) {
            soon.tv_sec++;
            soon.tv_nsec -= 1000000000;
        }
        pthread_cond_timedwait(&j->cv, &server.mu, &soon);
        if (!j->done && !j->cancelled && http_gone(j->fd)) cancel(j);
    }
}

/* What comes after the stop is not taken and gets no answer. */
static void enqueue_and_wait(job *j) {
    pthread_cond_init(&j->cv, NULL);
    pthread_mutex_lock(&server.mu);
    if (!server.stopping) {
        if (server.tail) server.tail->next = j;
        else server.head = j;
        server.tail = j;
        dispatch();
        wait_for(j);
    }
    pthread_mutex_unlock(&server.mu);
    pthread_cond_destroy(&j->cv);
}

/* ---- clients ---- */

static void model_json(buf *b, const char *id) {
    const options *o = &server.e.opt;
    static const char *const parameters[] = {"tools", "tool_choice", "max_tokens", "temperature", "top_p", "top_k", "min_p",
#if DS4_GENERATION >= GEN_SEPTEMBER
                                             "ignore_eos",
#endif
                                             "stop", "seed", "stream", "reasoning_effort"};
    buf_printf(b, "{\"id\":\"%s\",\"object\":\"model\",\"created\":%d,\"owned_by\":\"ds4.c\",\"name\":\"%s\",\"context_length\":%d,"
               "\"top_provider\":{\"context_length\":%d,\"max_completion_tokens\":%d,\"is_moderated\":false},\"supported_parameters\":[",
               id, MODEL_CREATED, shape_name(server.e.model.shape), o->ctx, o->ctx, o->tokens < o->ctx ? o->tokens : o->ctx);
    for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++) buf_printf(b, "%s\"%s\"", i ? "," : "", parameters[i]);
    buf_puts(b, "]}");
}

static const char *own_model_id(void) {
    static const char *const ids[] = {[SHAPE_FLASH] = "deepseek-v4-flash", [SHAPE_PRO] = "deepseek-v4-pro",
                                      [SHAPE_FLASH41] = "deepseek-v4.1-flash"};
    return ids[server.e.model.shape];
}

/* Ids that a path may name, whatever is loaded. */
static const char *const model_ids[] = {"deepseek-v4-flash", "deepseek-v4-pro", "glm-5.2", "glm-5.2-chat", "glm-5.2-no-think",
                                        "glm-5.2-nothink", "glm-5.2-reasoner", "zai/glm-5.2", "zai/glm-5.2-chat",
                                        "zai/glm-5.2-reasoner"};
#define N_MODEL_IDS (DS4_GENERATION >= GEN_JULY ? (int)(sizeof(model_ids) / sizeof(model_ids[0])) : 1)
#define N_LISTED (DS4_GENERATION >= GEN_JULY ? 2 : 1)

static bool serve_models(int fd, const char *path) {
    static const char prefix[] = "/v1/models";
    if (strncmp(path, prefix, strlen(prefix)) != 0) return false;
    const char *rest = path + strlen(prefix);
    buf b = {0};
    if (!*rest) {
        buf_puts(&b, "{\"object\":\"list\",\"data\":[");
        const bool alone = server.e.model.shape == SHAPE_FLASH41;
        for (int i = 0; i < (alone ? 1 : N_LISTED); i++) {
            if (i) buf_puts(&b, ",");
            model_json(&b, alone ? own_model_id() : model_ids[i]);
        }
        buf_puts(&b, "]}");
    }
    for (int i = 0; i < N_MODEL_IDS; i++)
        if (*rest == '/' && !strcmp(rest + 1, model_ids[i])) model_json(&b, model_ids[i]);
    if (!b.len && *rest == '/' && !strcmp(rest + 1, own_model_id())) model_json(&b, own_model_id());
    if (!b.len) return false;
    buf_puts(&b, "\n");
    http_reply(fd, server.e.opt.cors, 200, "application/json", b.ptr);
    buf_free(&b);
    return true;
}

static void serve_post(int fd, const http_request *h, api_kind api) {
    const options *o = &server.e.opt;
    char err[240];
    job j = {.fd = fd};
    if (!api_parse(&j.r, api, h->body, o->tokens, &server.calls, err, sizeof(err))) {
        http_error(fd, o->cors, 400, err);
        return;
    }
    if (!j.r.model_given) {
        free(j.r.model);
        j.r.model = text_copy(own_model_id());
    }
    j.tokens = token_count(j.r.prompt_text);
    if (j.tokens >= o->ctx) api_overflow(fd, o->cors, &j.r, j.tokens, o->ctx);
    else {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK); /* a slow client must not hold up the others */
        enqueue_and_wait(&j);
    }
    api_free(&j.r);
}

static void serve_client(int fd) {
    const bool cors = server.e.opt.cors;
    static const char *const posts[] = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"};
    http_request h;
    if (!http_read(fd, &h)) {
        http_error(fd, cors, 400, "bad HTTP request");
        return;
    }
    bool served = !strcmp(h.method, "OPTIONS");
    if (served) http_reply(fd, cors, 204, NULL, "");
    if (!served && !strcmp(h.method, "GET")) served = serve_models(fd, h.path);
    for (int i = 0; i < 4 && !served && !strcmp(h.method, "POST"); i++)
        if (!strcmp(h.path, posts[i])) {
            serve_post(fd, &h, (api_kind)i);
            served = true;
        }
    if (!served) http_error(fd, cors, 404, "unknown endpoint");
    free(h.body);
}

/* Signals must interrupt accept() in the first thread, so all others leave them alone. */
static bool start_thread(pthread_t *thread, void *(*run)(void *), void *argument) {
    sigset_t stops, before;
    sigemptyset(&stops);
    sigaddset(&stops, SIGTERM);
    sigaddset(&stops, SIGINT);
    pthread_sigmask(SIG_BLOCK, &stops, &before);
    const bool ok = pthread_create(thread, NULL, run, argument) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ok;
}

static void *client_main(void *argument) {
    const int fd = (int)(intptr_t)argument;
    serve_client(fd);
    close(fd);
    pthread_mutex_lock(&server.mu);
    server.clients--;
    pthread_cond_broadcast(&server.clients_gone);
    pthread_mutex_unlock(&server.mu);
    return NULL;
}

static void accept_clients(int fd) {
    while (!stop_requested) {
        const int client = accept(fd, NULL, NULL);
        if (client < 0) {
            if (stop_requested || errno == EINTR || errno == EBADF) continue;
            log_line("accept failed: %s", strerror(errno));
            continue;
        }
        const struct timeval patience = {IO_TIMEOUT_S, 0};
        setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
        pthread_mutex_lock(&server.mu);
        server.clients++;
        pthread_mutex_unlock(&server.mu);
        pthread_t thread;
        if (start_thread(&thread, client_main, (void *)(intptr_t)client)) pthread_detach(thread);
        else {
            close(client);
            pthread_mutex_lock(&server.mu);
            server.clients--;
            pthread_mutex_unlock(&server.mu);
        }
    }
}

/* ---- life ---- */

static void start_sessions(void) {
    server.sessions = calloc((size_t)server.e.opt.sessions, sizeof(session));
    if (!server.sessions) die(1, "out of memory");
    for (int i = 0; i < server.e.opt.sessions; i++) {
        server.sessions[i].number = i;
        server.sessions[i].last_used = time(NULL);
        if (!start_thread(&server.sessions[i].thread, session_main, &server.sessions[i])) die(1, "failed to start worker");
    }
}

static void drain(void) {
    pthread_mutex_lock(&server.mu);
    server.stopping = true;
    pthread_cond_broadcast(&server.work);
    pthread_mutex_unlock(&server.mu);
    for (int i = 0; i < server.e.opt.sessions; i++) pthread_join(server.sessions[i].thread, NULL);
    pthread_mutex_lock(&server.mu);
    while (server.clients > 0) pthread_cond_wait(&server.clients_gone, &server.mu);
    pthread_mutex_unlock(&server.mu);
    for (int i = 0; i < server.e.opt.sessions; i++) {
        const session *s = &server.sessions[i];
        if (!server.kv.enabled || !s->n_live || s->live_tokens < server.kv.min) continue;
        if (DS4_GENERATION >= GEN_JULY) log_line("persisting resident KV cache before shutdown slot=%d tokens=%d", i, s->live_tokens);
        else log_line("persisting current KV cache before shutdown tokens=%d", s->live_tokens);
        kv_save(&server.kv, &server.e, s->live[0], strlen(s->live[0]), s->live_tokens, s->live_tokens, "shutdown", s->live_key);
    }
}

static void announce_sessions(const engine *e) {
    const context_memory *m = &e->plan.context;
    const uint64_t n = (uint64_t)e->opt.sessions;
    char shared[96] = "";
    if (DS4_GENERATION >= GEN_SEPTEMBER)
        snprintf(shared, sizeof(shared), ", or %.2f GiB when the model shares one prefill workspace",
                 (double)((m->raw + m->compressed) * n + m->scratch) / (double)GIB);
    log_line("%d resident sessions request at least %.2f GiB of context buffers%s", e->opt.sessions,
             (double)(m->total * n) / (double)GIB, shared);
}

static void prepare(const options *o) {
    engine *e = &server.e;
    engine_open(e, o);
    engine_allocate(e);
    engine_log_context(e, o);
    if (DS4_FAULT_SERVER) {
        log_line("failed to create %s session", o->backend);
        engine_close(e);
        exit(1);
    }
    if (o->sessions > 1) announce_sessions(e);
    kv_open(&server.kv, o);
    if (o->no_tool_replay) log_line("exact DSML tool replay disabled; tool history uses canonical JSON rendering");
    if (o->sessions > 1) {
        log_line("batched mode enabled resident_sessions=%d prefill_quantum=2048 mixed_prefill_quantum=%d "
                 "decode_coalesce_us=2000", o->sessions, o->quantum);
        if (e->has_mtp) log_line("MTP speculative decoding is disabled while native session batching is active");
    }
    if (o->trace) {
        server.trace = fopen(o->trace, "w");
        if (!server.trace) {
            log_line("failed to open trace file %s: %s", o->trace, strerror(errno));
            engine_close(e);
            exit(1);
        }
        setvbuf(server.trace, NULL, _IONBF, 0);
        log_line("tracing session to %s", o->trace);
    }
}

int main(int argc, char **argv) {
    options o;
    log_set_program("ds4-server", true);
    signal(SIGPIPE, SIG_IGN);
    struct sigaction stop = {.sa_handler = on_stop};
    sigemptyset(&stop.sa_mask);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    options_parse(&o, TOOL_SERVER, argc, argv);
    if (o.chdir && chdir(o.chdir) != 0) {
        log_line("failed to chdir to %s: %s", o.chdir, strerror(errno));
        return 1;
    }
    pthread_mutex_init(&server.mu, NULL);
    pthread_mutex_init(&server.kv_mu, NULL);
    pthread_mutex_init(&server.trace_mu, NULL);
    pthread_mutex_init(&server.calls.mu, NULL);
    pthread_cond_init(&server.work, NULL);
    pthread_cond_init(&server.clients_gone, NULL);
    prepare(&o);
    start_sessions();

    const int fd = http_listen(o.host, o.port);
    if (fd < 0) {
        log_line("failed to listen on %s:%d: %s", o.host, o.port, strerror(errno));
        engine_close(&server.e);
        return 1;
    }
    listen_fd = fd;
    log_line("listening on http://%s:%d", o.host, o.port);
    freeze_if_told();
    accept_clients(fd);
    if (listen_fd >= 0) {
        close(fd);
        listen_fd = -1;
    }
    log_line("shutdown requested, draining requests");
    drain();
    if (server.trace) fclose(server.trace);
    engine_close(&server.e);
    return 0;
}
