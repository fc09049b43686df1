/* ds4-server: a thread per client, a queue, one worker per resident session, and an orderly end. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
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
    int tokens;
    bool done;
    pthread_cond_t cv;
    struct job *next;
} job;

typedef struct {
    pthread_t thread;
    int number, live_tokens;
    char *live_text; /* what this session holds: prompt and answer */
    char live_call[48];
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
static void prefill_chunk(reply *p, double seconds, double *last_sign) {
    const double every = mac_setting("keepalive_seconds", 5), end = now_s() + seconds;
    do {
        const double left = end - now_s();
        sleep_s(left > 0.05 ? 0.05 : left);
        if (p->r->stream && !p->failed && now_s() - *last_sign >= every) {
            reply_headers(p);
            reply_keepalive(p);
            *last_sign = now_s();
        }
    } while (now_s() < end);
}

static bool prefill(const job *j, reply *p, const char *span, const char *flags, char *err, size_t size) {
    engine *e = &server.e;
    const request *r = &j->r;
    const int fresh = j->tokens - p->cached;
    const uint32_t cap = e->plan.context.prefill_cap ? e->plan.context.prefill_cap : 256;
    const double start = now_s();
    double last_sign = start;
    log_line("%s ctx=%s%s prompt start", kind_of(r), span, flags);
    if (!engine_prompt_fits_memory(e, j->tokens, err, size)) return false;
    freeze_if_told();
    if (r->stream) reply_headers(p);
    for (int done = 0; done < fresh;) {
        const double chunk_start = now_s();
        const int chunk = fresh - done < (int)cap ? fresh - done : (int)cap;
        prefill_chunk(p, engine_prefill_seconds(e, chunk), &last_sign);
        done += chunk;
        const double now = now_s();
        log_line("%s ctx=%s%s prefill chunk %d/%d (%.1f%%) chunk=%.2f t/s avg=%.2f t/s %.3fs", kind_of(r), span, flags, done,
                 fresh, 100.0 * done / fresh, chunk / (now - chunk_start + 1e-9), done / (now - start + 1e-9), now - start);
        pthread_mutex_lock(&server.kv_mu);
        kv_maybe_continued(&server.kv, e, r->prompt_text, p->cached + done);
        pthread_mutex_unlock(&server.kv_mu);
        /* Only a batched session looks: a single one reads on, and so does all that is queued behind it. */
        if (stop_requested && e->opt.sessions > 1 && done < fresh) {
            snprintf(err, size, "prefill interrupted by shutdown");
            return false;
        }
    }
    log_line("%s ctx=%s%s prompt done %.3fs", kind_of(r), span, flags, now_s() - start);
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
    for (const char *at = a->text; *at;) {
        if (p->completion >= r->max_tokens) {
            *finish = "length";
            break;
        }
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

static int tokens_cached(session *s, const request *r) {
    const size_t live = s->live_text ? strlen(s->live_text) : 0;
    if (live && !strncmp(s->live_text, r->prompt_text, live)) return s->live_tokens;
    pthread_mutex_lock(&server.kv_mu);
    if (s->live_tokens >= server.kv.min) kv_save(&server.kv, &server.e, s->live_text, s->live_tokens, "evict");
    server.kv.last_continued = 0;
    const int cached = kv_load(&server.kv, &server.e, r->prompt_text);
    pthread_mutex_unlock(&server.kv_mu);
    return cached;
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

static void run_job(session *s, job *j) {
    engine *e = &server.e;
    request *r = &j->r;
    const double start = now_s();
    char span[48], flags[64], err[200] = "";
    pthread_mutex_lock(&server.mu);
    const unsigned long long number = ++server.requests;
    pthread_mutex_unlock(&server.mu);
    reply p = {.fd = j->fd, .cors = e->opt.cors, .r = r, .created = (long)time(NULL), .prompt_tokens = j->tokens};
    if (r->api == API_RESPONSES) snprintf(p.id, sizeof(p.id), "resp_%016llx", (unsigned long long)text_hash(r->prompt_text) ^ number);
    else snprintf(p.id, sizeof(p.id), "%s-%llu", r->api == API_COMPLETION ? "cmpl" : "chatcmpl", number);
    snprintf(p.call_id, sizeof(p.call_id), "%s%016llx", r->api == API_MESSAGES ? "toolu_" : "call_",
             (unsigned long long)text_hash(p.id) ^ (unsigned long long)start);

    if (r->live_id && strcmp(r->live_id, s->live_call) != 0) {
        http_error(j->fd, e->opt.cors, 409,
                   r->api == API_RESPONSES
                       ? "Responses continuation state is not available; retry by replaying the full input history"
                       : "Anthropic continuation state is not available; retry by replaying the full messages history");
        return;
    }
    p.cached = tokens_cached(s, r);
    snprintf(span, sizeof(span), "%d..%d:%d", p.cached, j->tokens, j->tokens - p.cached);
    flags_of(r, false, flags, sizeof(flags));
    const int cold = p.cached == 0 ? kv_cold_length(&server.kv, j->tokens) : 0;
    if (!prefill(j, &p, span, flags, err, sizeof(err))) {
        reply_error(&p, 500, err);
        return;
    }
    if (cold) {
        pthread_mutex_lock(&server.kv_mu);
        kv_save(&server.kv, e, r->prompt_text, cold, "cold");
        pthread_mutex_unlock(&server.kv_mu);
    }

    answer a = dialogue_answer(e, r->prompt_text, r->last_user, r->tool_result, (const char *const *)r->tools, r->n_tools, r->think);
    const char *finish = "stop";
    if (r->stream) {
        reply_start(&p);
        reply_reasoning(&p, a.reasoning);
    }
    char *text = generate(j, &p, &a, flags, &finish, err, sizeof(err));
    if (a.tool_name) remember_call(s, p.call_id); /* before the client can come back with its result */
    if (!p.failed && !reply_finish(&p, &a, text, finish) && r->stream) log_line("%s ctx=%s%s final stream failed", kind_of(r), span, flags);
    if (!strcmp(finish, "error"))
        log_line("%s ctx=%s gen=%d%s finish=error error=\"%s\" %.3fs", kind_of(r), span, p.completion, flags, err, now_s() - start);
    else log_line("%s ctx=%s gen=%d%s finish=%s %.3fs", kind_of(r), span, p.completion, flags, finish, now_s() - start);
    write_trace(j, &p, text, finish, now_s() - start);

    buf live = {0};
    buf_printf(&live, "%s%s", r->prompt_text, text);
    free(s->live_text);
    s->live_text = live.ptr;
    s->live_tokens = (int)(live.len / 4);
    free(text);
    answer_free(&a);
}

/* ---- queue ---- */

static void *session_main(void *argument) {
    session *s = argument;
    for (;;) {
        pthread_mutex_lock(&server.mu);
        while (!server.head && !server.stopping) pthread_cond_wait(&server.work, &server.mu);
        job *j = server.head;
        if (j) server.head = j->next;
        if (!server.head) server.tail = NULL;
        pthread_mutex_unlock(&server.mu);
        if (!j) return NULL; /* stopping, and everything queued has been gone through */
        run_job(s, j);
        pthread_mutex_lock(&server.mu);
        j->done = true;
        pthread_cond_signal(&j->cv);
        pthread_mutex_unlock(&server.mu);
    }
}

static bool enqueue_and_wait(job *j) {
    pthread_cond_init(&j->cv, NULL);
    pthread_mutex_lock(&server.mu);
    const bool accepted = !server.stopping;
    if (accepted) {
        if (server.tail) server.tail->next = j;
        else server.head = j;
        server.tail = j;
        pthread_cond_signal(&server.work);
        while (!j->done) pthread_cond_wait(&j->cv, &server.mu);
    }
    pthread_mutex_unlock(&server.mu);
    pthread_cond_destroy(&j->cv);
    return accepted;
}

/* ---- clients ---- */

static void model_json(buf *b, const char *id) {
    const options *o = &server.e.opt;
    static const char *const parameters[] = {"tools", "tool_choice", "max_tokens", "temperature", "top_p", "top_k",
                                             "min_p", "stop", "seed", "stream", "reasoning_effort"};
    buf_printf(b, "{\"id\":\"%s\",\"object\":\"model\",\"created\":%d,\"owned_by\":\"ds4.c\",\"name\":\"%s\",\"context_length\":%d,"
               "\"top_provider\":{\"context_length\":%d,\"max_completion_tokens\":%d,\"is_moderated\":false},\"supported_parameters\":[",
               id, MODEL_CREATED, shape_name(server.e.model.shape), o->ctx, o->ctx, o->tokens < o->ctx ? o->tokens : o->ctx);
    for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++) buf_printf(b, "%s\"%s\"", i ? "," : "", parameters[i]);
    buf_puts(b, "]}");
}

static const char *const model_ids[] = {"deepseek-v4-flash", "deepseek-v4-pro"};
#define N_MODEL_IDS (DS4_GENERATION >= GEN_JULY ? 2 : 1)

static bool serve_models(int fd, const char *path) {
    static const char prefix[] = "/v1/models";
    if (strncmp(path, prefix, strlen(prefix)) != 0) return false;
    const char *rest = path + strlen(prefix);
    buf b = {0};
    if (!*rest) {
        buf_puts(&b, "{\"object\":\"list\",\"data\":[");
        for (int i = 0; i < N_MODEL_IDS; i++) {
            if (i) buf_puts(&b, ",");
            model_json(&b, model_ids[i]);
        }
        buf_puts(&b, "]}");
    }
    for (int i = 0; i < N_MODEL_IDS; i++)
        if (*rest == '/' && !strcmp(rest + 1, model_ids[i])) model_json(&b, model_ids[i]);
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
    j.tokens = token_count(j.r.prompt_text);
    if (j.tokens >= o->ctx) api_overflow(fd, o->cors, &j.r, j.tokens, o->ctx);
    else {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK); /* a slow client must not hold up the others */
        if (!enqueue_and_wait(&j)) http_error(fd, o->cors, 503, "server shutting down");
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
        if (!server.kv.enabled || s->live_tokens < server.kv.min) continue;
        if (DS4_GENERATION >= GEN_JULY) log_line("persisting resident KV cache before shutdown slot=%d tokens=%d", i, s->live_tokens);
        else log_line("persisting current KV cache before shutdown tokens=%d", s->live_tokens);
        kv_save(&server.kv, &server.e, s->live_text, s->live_tokens, "shutdown");
    }
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
    if (o->sessions > 1)
        log_line("%d resident sessions request at least %.2f GiB of context buffers", o->sessions,
                 (double)(e->plan.context.total * (uint64_t)o->sessions) / (double)GIB);
    kv_open(&server.kv, o);
    if (o->no_tool_replay) log_line("exact DSML tool replay disabled; tool history uses canonical JSON rendering");
    if (o->sessions > 1) {
        log_line("batched mode enabled resident_sessions=%d", o->sessions);
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
