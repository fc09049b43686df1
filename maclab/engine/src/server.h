/* Parts of ds4-server that share no state: sockets (http.c), what is refused (shape.c), requests (request.c), answers
 * (api.c). The others are in state.h. */
#ifndef SERVER_H
#define SERVER_H

#include <pthread.h>
#include <signal.h>

#include "ds4.h"

typedef struct {
    char method[8], path[256];
    char *body;
} http_request;

extern volatile sig_atomic_t stop_requested; /* from the first signal on nothing is written to anybody */

bool http_read(int fd, http_request *r);
bool http_gone(int fd); /* the client has closed its side, which ends its request since September */
bool http_send(int fd, const void *data, size_t n); /* false when the client is gone or too slow, or at the stop */
bool http_reply(int fd, bool cors, int code, const char *type, const char *body);
bool http_error(int fd, bool cors, int code, const char *message);
bool http_stream_headers(int fd, bool cors);
int http_listen(const char *host, int port); /* -1 and errno on failure */

typedef enum { API_CHAT, API_COMPLETION, API_RESPONSES, API_MESSAGES } api_kind;

typedef struct {
    api_kind api;
    bool stream, include_usage, think, model_given;
    int max_tokens;
    char *model, *prompt_text, *last_user, *tool_result;
    char **tools;
    int n_tools;
    char *live_id; /* tool call that only the live state of this server knows */
} request;

/* Call ids this process has handed out; the last one is the live one. */
typedef struct {
    pthread_mutex_t mu;
    char ids[64][48];
    int n;
} call_memory;

/* Around the calls of an answer, as the prompt shows them. */
#define CALLS_OPEN "\n\n<｜DSML｜tool_calls>\n"
#define CALLS_CLOSE "</｜DSML｜tool_calls>"

/* shape.c: whether the engine reads this body at all. Ends the process where the real one would end. */
bool request_is_sound(api_kind api, const char *body, char *err, size_t size);
/* request.c */
void render_call(buf *b, const char *name, const char *arguments);
bool api_parse(request *r, api_kind api, const char *body, int default_tokens, call_memory *calls, char *err, size_t size);
void api_free(request *r);
bool api_overflow(int fd, bool cors, const request *r, int tokens, int ctx);

/* One answer on its way to a client, in the shape of its API. */
typedef struct {
    int fd;
    bool cors, headers_sent, failed;
    const request *r;
    char id[64], call_id[48];
    long created;
    int prompt_tokens, cached, completion;
    int part, sequence; /* the open content part and the next event, for the APIs that count them */
} reply;

bool reply_headers(reply *p);
bool reply_keepalive(reply *p);
bool reply_start(reply *p);
bool reply_reasoning(reply *p, const char *text);
bool reply_text_open(reply *p);
bool reply_text(reply *p, const char *text);
bool reply_finish(reply *p, const answer *a, const char *text, const char *finish);
void reply_error(reply *p, int code, const char *message);

#endif
