/* The queue: which session works on which request, and the end of a request whose client has gone. */
#include <limits.h>
#include <string.h>

#include "state.h"

/* How well a free session suits a request. Until September that was how much both have in common, so that a shared
 * system prompt was enough to take a session from its conversation; since then only what can really be used again
 * counts, and the rest is by what would be lost: nothing, an old conversation, a short one. */
#define STALE_S 3600
#define IDLE_CAP_S (1 << 20)

static long suits(const session *s, const job *j, time_t now) {
    size_t text;
    if (s->busy) return LONG_MIN;
    if (j->r.live_id && !strcmp(j->r.live_id, s->live_call)) return LONG_MAX;
    if (!DS4_HAS_765) return session_common(s, &j->r);
    const int reuse = session_reuse(s, &j->r, &text);
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
        if (DS4_HAS_765 && server.e.opt.sessions > 1 && most < 0) {
            const long idle = now > best->last_used ? (long)(now - best->last_used) : 0;
            log_plain("slot %d: request reuses nothing; evicting checkpoint (%d tokens, idle %ld s, %s)", best->number,
                      best->live_tokens, idle, idle >= STALE_S ? "stale" : "protected");
        }
        j = next;
    }
    pthread_cond_broadcast(&server.work);
}

void *session_main(void *argument) {
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
        if (!DS4_HAS_765) {
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
void enqueue_and_wait(job *j) {
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
