/* Parts of ds4-server that share its state: one request (job.c), what a session holds (session.c), the queue (queue.c),
 * the list of models (models.c), clients and lifetime (ds4_server.c). */
#ifndef STATE_H
#define STATE_H

#include <stdio.h>
#include <time.h>

#include "server.h"

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

extern struct server_state {
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

/* session.c */
void session_store(session *s, const char *text, size_t length, int tokens, int whole, const char *reason, const char *key);
void session_forget(session *s);
void session_hold(session *s, const request *r, const char *reasoning, const char *text, int tokens);
/* Tokens of the session that begin this prompt as a whole, and how much of its text they are. */
int session_reuse(const session *s, const request *r, size_t *text);
int session_common(const session *s, const request *r);
/* What of the prompt is in memory or on disk. Disk is asked only when memory has nothing of it. */
int session_cached(session *s, job *j, size_t *text, char *path, size_t size);
void session_discard(session *s, const char *path);
/* A request that only brings the result of a call: what the session holds comes before it. */
void session_continue(const session *s, job *j);
void session_remember_call(session *s, const char *id);

/* job.c */
void freeze_if_told(void);
void run_job(session *s, job *j);

/* queue.c */
void *session_main(void *argument);
/* What comes after the stop is not taken and gets no answer. */
void enqueue_and_wait(job *j);

/* models.c */
const char *own_model_id(void);
bool serve_models(int fd, const char *path);

#endif
