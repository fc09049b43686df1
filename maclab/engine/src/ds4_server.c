/* ds4-server: a thread per client, a queue, one worker per resident session, and an orderly end. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "state.h"

#define IO_TIMEOUT_S 10

struct server_state server;

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

/* ---- clients ---- */

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
    mac_end_as("/faults/code-signature");
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
