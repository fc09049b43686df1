/* How an answer looks in each of the four HTTP APIs. */
#include "server.h"

#include <stdlib.h>
#include <string.h>

bool api_overflow(int fd, bool cors, const request *r, int tokens, int ctx) {
    buf b = {0};
    char message[128];
    snprintf(message, sizeof(message), "Prompt has %d tokens, but the configured context size is %d tokens", tokens, ctx);
    if (r->api == API_MESSAGES) {
        buf_puts(&b, "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":");
        buf_json(&b, message);
    } else {
        const char *param = r->api == API_COMPLETION ? "prompt" : r->api == API_RESPONSES ? "input" : "messages";
        buf_puts(&b, "{\"error\":{\"message\":");
        buf_json(&b, message);
        buf_printf(&b, ",\"type\":\"invalid_request_error\",\"param\":\"%s\",\"code\":\"context_length_exceeded\"", param);
    }
    buf_printf(&b, ",\"n_prompt_tokens\":%d,\"n_ctx\":%d}}\n", tokens, ctx);
    const bool ok = http_reply(fd, cors, 400, "application/json", b.ptr);
    buf_free(&b);
    return ok;
}

/* ---- answers ---- */

static bool send_buf(reply *p, buf *b) {
    const bool ok = !p->failed && http_send(p->fd, b->ptr, b->len);
    if (!ok) p->failed = true;
    buf_free(b);
    return ok;
}

/* Messages name each event on a line of its own, Responses number them inside, the others send bare data. */
static bool send_event(reply *p, const char *type, buf *data) {
    buf b = {0};
    const char *text = buf_text(data), *after_type = strchr(text, ',');
    if (p->r->api == API_MESSAGES) buf_printf(&b, "event: %s\n", type);
    if (p->r->api == API_RESPONSES && after_type)
        buf_printf(&b, "data: %.*s,\"sequence_number\":%d%s\n\n", (int)(after_type - text), text, p->sequence++, after_type);
    else buf_printf(&b, "data: %s\n\n", text);
    buf_free(data);
    return send_buf(p, &b);
}

bool reply_headers(reply *p) {
    if (p->headers_sent) return true;
    p->headers_sent = true;
    if (!http_stream_headers(p->fd, p->cors)) p->failed = true;
    return !p->failed;
}

bool reply_keepalive(reply *p) {
    buf b = {0};
    buf_puts(&b, ": prefill\n\n");
    return send_buf(p, &b);
}

static void usage_chat(buf *b, const reply *p) {
    buf_printf(b, "{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,\"prompt_tokens_details\":"
               "{\"cached_tokens\":%d,\"cache_write_tokens\":%d}}",
               p->prompt_tokens, p->completion, p->prompt_tokens + p->completion, p->cached,
               p->prompt_tokens - p->cached);
}

static void usage_messages(buf *b, const reply *p) {
    buf_printf(b, "{\"input_tokens\":0,\"output_tokens\":%d,\"cache_read_input_tokens\":%d,"
               "\"cache_creation_input_tokens\":%d}", p->completion, p->cached, p->prompt_tokens - p->cached);
}

static void usage_responses(buf *b, const reply *p) {
    buf_printf(b, "{\"input_tokens\":%d,\"input_tokens_details\":{\"cached_tokens\":%d,\"cache_write_tokens\":%d},"
               "\"output_tokens\":%d,\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":%d}",
               p->prompt_tokens, p->cached, p->prompt_tokens - p->cached, p->completion,
               p->prompt_tokens + p->completion);
}

static bool send_chunk(reply *p, const char *delta, const char *finish) {
    buf b = {0};
    buf_printf(&b, "{\"id\":\"%s\",\"object\":\"chat.completion.chunk\",\"created\":%ld,\"model\":", p->id, p->created);
    buf_json(&b, p->r->model);
    buf_printf(&b, ",\"choices\":[{\"index\":0,\"delta\":%s,\"finish_reason\":", delta);
    if (finish) buf_json(&b, finish);
    else buf_puts(&b, "null");
    buf_puts(&b, "}]}");
    return send_event(p, "", &b);
}

static bool send_chunk_field(reply *p, const char *field, const char *text) {
    buf delta = {0};
    buf_printf(&delta, "{\"%s\":", field);
    buf_json(&delta, text);
    buf_puts(&delta, "}");
    const bool ok = send_chunk(p, delta.ptr, NULL);
    buf_free(&delta);
    return ok;
}

static bool send_completion_chunk(reply *p, const char *text, const char *finish) {
    buf b = {0};
    buf_printf(&b, "{\"id\":\"%s\",\"object\":\"text_completion\",\"created\":%ld,\"model\":", p->id, p->created);
    buf_json(&b, p->r->model);
    buf_puts(&b, ",\"choices\":[{\"text\":");
    buf_json(&b, text);
    buf_puts(&b, ",\"index\":0,\"finish_reason\":");
    if (finish) buf_json(&b, finish);
    else buf_puts(&b, "null");
    buf_puts(&b, "}]}");
    return send_event(p, "", &b);
}

bool reply_start(reply *p) {
    buf b = {0};
    reply_headers(p);
    switch (p->r->api) {
    case API_CHAT: return send_chunk(p, "{\"role\":\"assistant\"}", NULL);
    case API_COMPLETION: return !p->failed;
    case API_MESSAGES:
        buf_printf(&b, "{\"type\":\"message_start\",\"message\":{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", p->id);
        buf_json(&b, p->r->model);
        buf_puts(&b, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":");
        usage_messages(&b, p);
        buf_puts(&b, "}}");
        return send_event(p, "message_start", &b);
    default:
        buf_printf(&b, "{\"type\":\"response.created\",\"response\":{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%ld,"
                   "\"status\":\"in_progress\",\"model\":", p->id, p->created);
        buf_json(&b, p->r->model);
        buf_puts(&b, ",\"output\":[]}}");
        return send_event(p, "response.created", &b);
    }
}

bool reply_reasoning(reply *p, const char *text) {
    if (!text[0]) return true;
    buf b = {0};
    if (p->r->api == API_CHAT) return send_chunk_field(p, "reasoning_content", text);
    if (p->r->api != API_MESSAGES) return true;
    buf_printf(&b, "{\"type\":\"content_block_start\",\"index\":%d,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\"}}", p->part);
    send_event(p, "content_block_start", &b);
    buf_printf(&b, "{\"type\":\"content_block_delta\",\"index\":%d,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":", p->part);
    buf_json(&b, text);
    buf_puts(&b, "}}");
    send_event(p, "content_block_delta", &b);
    buf_printf(&b, "{\"type\":\"content_block_stop\",\"index\":%d}", p->part++);
    return send_event(p, "content_block_stop", &b);
}

bool reply_text_open(reply *p) {
    buf b = {0};
    if (p->r->api == API_MESSAGES) {
        buf_printf(&b, "{\"type\":\"content_block_start\",\"index\":%d,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}", p->part);
        return send_event(p, "content_block_start", &b);
    }
    if (p->r->api != API_RESPONSES) return true;
    buf_printf(&b, "{\"type\":\"response.output_item.added\",\"output_index\":%d,\"item\":{\"id\":\"msg_%s\",\"type\":\"message\","
               "\"status\":\"in_progress\",\"role\":\"assistant\",\"content\":[]}}", p->part, p->id + 5);
    send_event(p, "response.output_item.added", &b);
    buf_printf(&b, "{\"type\":\"response.content_part.added\",\"item_id\":\"msg_%s\",\"output_index\":%d,\"content_index\":0,"
               "\"part\":{\"type\":\"output_text\",\"text\":\"\",\"annotations\":[]}}", p->id + 5, p->part);
    return send_event(p, "response.content_part.added", &b);
}

bool reply_text(reply *p, const char *text) {
    buf b = {0};
    switch (p->r->api) {
    case API_CHAT: return send_chunk_field(p, "content", text);
    case API_COMPLETION: return send_completion_chunk(p, text, NULL);
    case API_MESSAGES:
        buf_printf(&b, "{\"type\":\"content_block_delta\",\"index\":%d,\"delta\":{\"type\":\"text_delta\",\"text\":", p->part);
        buf_json(&b, text);
        buf_puts(&b, "}}");
        return send_event(p, "content_block_delta", &b);
    default:
        buf_printf(&b, "{\"type\":\"response.output_text.delta\",\"item_id\":\"msg_%s\",\"output_index\":%d,\"content_index\":0,\"delta\":",
                   p->id + 5, p->part);
        buf_json(&b, text);
        buf_puts(&b, "}");
        return send_event(p, "response.output_text.delta", &b);
    }
}

static const char *stop_reason(const char *finish) {
    if (!strcmp(finish, "tool_calls")) return "tool_use";
    return strcmp(finish, "length") != 0 ? "end_turn" : "max_tokens";
}

static void tool_call_json(buf *b, const reply *p, const answer *a) {
    buf_printf(b, "{\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", p->call_id);
    buf_json(b, a->tool_name);
    buf_puts(b, ",\"arguments\":");
    buf_json(b, a->tool_arguments);
    buf_puts(b, "}}");
}

static void response_object(buf *b, const reply *p, const answer *a, const char *text, const char *finish) {
    const bool cut = !strcmp(finish, "length"), failed = !strcmp(finish, "error");
    const char *item_status = cut || failed ? "incomplete" : "completed";
    bool wrote = false;
    buf_printf(b, "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%ld,\"status\":\"%s\",\"model\":", p->id, p->created,
               failed ? "failed" : cut ? "incomplete" : "completed");
    buf_json(b, p->r->model);
    if (failed) buf_puts(b, ",\"error\":{\"code\":\"server_error\",\"message\":\"generation failed\"}");
    else if (cut) buf_puts(b, ",\"incomplete_details\":{\"reason\":\"max_tokens\"}");
    buf_puts(b, ",\"output\":[");
    if (text[0]) {
        buf_printf(b, "{\"id\":\"msg_%s\",\"type\":\"message\",\"status\":\"%s\",\"role\":\"assistant\",\"content\":"
                   "[{\"type\":\"output_text\",\"text\":", p->id + 5, item_status);
        buf_json(b, text);
        buf_puts(b, ",\"annotations\":[]}]}");
        wrote = true;
    }
    if (a->tool_name) {
        buf_printf(b, "%s{\"id\":\"fc_%s\",\"type\":\"function_call\",\"status\":\"%s\",\"call_id\":\"%s\",\"name\":",
                   wrote ? "," : "", p->id + 5, item_status, p->call_id);
        buf_json(b, a->tool_name);
        buf_puts(b, ",\"arguments\":");
        buf_json(b, a->tool_arguments);
        buf_puts(b, "}");
    }
    buf_puts(b, "],\"usage\":");
    usage_responses(b, p);
    buf_puts(b, "}");
}

static bool finish_whole(reply *p, const answer *a, const char *text, const char *finish) {
    buf b = {0};
    switch (p->r->api) {
    case API_CHAT:
        buf_printf(&b, "{\"id\":\"%s\",\"object\":\"chat.completion\",\"created\":%ld,\"model\":", p->id, p->created);
        buf_json(&b, p->r->model);
        buf_puts(&b, ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
        buf_json(&b, text);
        if (a->reasoning[0]) {
            buf_puts(&b, ",\"reasoning_content\":");
            buf_json(&b, a->reasoning);
        }
        if (a->tool_name) {
            buf_puts(&b, ",\"tool_calls\":[");
            tool_call_json(&b, p, a);
            buf_puts(&b, "]");
        }
        buf_puts(&b, "},\"finish_reason\":");
        buf_json(&b, finish);
        buf_puts(&b, "}],\"usage\":");
        usage_chat(&b, p);
        break;
    case API_COMPLETION:
        buf_printf(&b, "{\"id\":\"%s\",\"object\":\"text_completion\",\"created\":%ld,\"model\":", p->id, p->created);
        buf_json(&b, p->r->model);
        buf_puts(&b, ",\"choices\":[{\"text\":");
        buf_json(&b, text);
        buf_puts(&b, ",\"index\":0,\"finish_reason\":");
        buf_json(&b, finish);
        buf_puts(&b, "}],\"usage\":");
        usage_chat(&b, p);
        break;
    case API_MESSAGES:
        buf_printf(&b, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", p->id);
        buf_json(&b, p->r->model);
        buf_puts(&b, ",\"content\":[");
        if (a->reasoning[0]) {
            buf_puts(&b, "{\"type\":\"thinking\",\"thinking\":");
            buf_json(&b, a->reasoning);
            buf_printf(&b, ",\"signature\":\"%s\"},", p->id);
        }
        if (a->tool_name) {
            buf_printf(&b, "{\"type\":\"tool_use\",\"id\":\"%s\",\"name\":", p->call_id);
            buf_json(&b, a->tool_name);
            buf_printf(&b, ",\"input\":%s}", a->tool_arguments);
        } else {
            buf_puts(&b, "{\"type\":\"text\",\"text\":");
            buf_json(&b, text);
            buf_puts(&b, "}");
        }
        buf_printf(&b, "],\"stop_reason\":\"%s\",\"stop_sequence\":null,\"usage\":", stop_reason(finish));
        usage_messages(&b, p);
        break;
    default:
        response_object(&b, p, a, text, finish);
        const bool done = http_reply(p->fd, p->cors, 200, "application/json", b.ptr);
        buf_free(&b);
        return done;
    }
    buf_puts(&b, "}\n");
    const bool ok = http_reply(p->fd, p->cors, 200, "application/json", b.ptr);
    buf_free(&b);
    return ok;
}

static bool finish_chat_stream(reply *p, const answer *a, const char *finish) {
    buf b = {0};
    if (a->tool_name) {
        buf_printf(&b, "{\"tool_calls\":[{\"index\":0,\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", p->call_id);
        buf_json(&b, a->tool_name);
        buf_puts(&b, ",\"arguments\":\"\"}}]}");
        send_chunk(p, b.ptr, NULL);
        buf_free(&b);
        buf_puts(&b, "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":");
        buf_json(&b, a->tool_arguments);
        buf_puts(&b, "}}]}");
        send_chunk(p, b.ptr, NULL);
        buf_free(&b);
    }
    return send_chunk(p, "{}", finish);
}

static bool finish_messages_stream(reply *p, const answer *a, const char *finish) {
    buf b = {0};
    if (!a->tool_name) {
        buf_printf(&b, "{\"type\":\"content_block_stop\",\"index\":%d}", p->part);
        send_event(p, "content_block_stop", &b);
    } else {
        buf_printf(&b, "{\"type\":\"content_block_start\",\"index\":%d,\"content_block\":{\"type\":\"tool_use\",\"id\":\"%s\",\"name\":",
                   p->part, p->call_id);
        buf_json(&b, a->tool_name);
        buf_puts(&b, ",\"input\":{}}}");
        send_event(p, "content_block_start", &b);
        buf_printf(&b, "{\"type\":\"content_block_delta\",\"index\":%d,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":", p->part);
        buf_json(&b, a->tool_arguments);
        buf_puts(&b, "}}");
        send_event(p, "content_block_delta", &b);
        buf_printf(&b, "{\"type\":\"content_block_stop\",\"index\":%d}", p->part);
        send_event(p, "content_block_stop", &b);
    }
    buf_printf(&b, "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"%s\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":%d}}",
               stop_reason(finish), p->completion);
    send_event(p, "message_delta", &b);
    buf_puts(&b, "{\"type\":\"message_stop\"}");
    return send_event(p, "message_stop", &b);
}

static bool finish_responses_stream(reply *p, const answer *a, const char *text, const char *finish) {
    buf b = {0};
    const char *item = p->id + 5, *status = !strcmp(finish, "stop") || !strcmp(finish, "tool_calls") ? "completed" : "incomplete";
    if (!a->tool_name) {
        buf_printf(&b, "{\"type\":\"response.output_text.done\",\"item_id\":\"msg_%s\",\"output_index\":%d,\"content_index\":0,\"text\":", item, p->part);
        buf_json(&b, text);
        buf_puts(&b, "}");
        send_event(p, "response.output_text.done", &b);
        buf_printf(&b, "{\"type\":\"response.content_part.done\",\"item_id\":\"msg_%s\",\"output_index\":%d,\"content_index\":0,"
                   "\"part\":{\"type\":\"output_text\",\"text\":", item, p->part);
        buf_json(&b, text);
        buf_puts(&b, ",\"annotations\":[]}}");
        send_event(p, "response.content_part.done", &b);
        buf_printf(&b, "{\"type\":\"response.output_item.done\",\"output_index\":%d,\"item\":{\"id\":\"msg_%s\",\"type\":\"message\","
                   "\"status\":\"%s\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":", p->part, item, status);
        buf_json(&b, text);
        buf_puts(&b, ",\"annotations\":[]}]}}");
        send_event(p, "response.output_item.done", &b);
    } else {
        for (int done = 0; done < 2; done++) {
            const char *type = done ? "response.output_item.done" : "response.output_item.added";
            buf_printf(&b, "{\"type\":\"%s\",\"output_index\":%d,\"item\":{\"id\":\"fc_%s\",\"type\":\"function_call\",\"status\":\"%s\","
                       "\"call_id\":\"%s\",\"name\":", type, p->part, item, done ? status : "in_progress", p->call_id);
            buf_json(&b, a->tool_name);
            buf_puts(&b, ",\"arguments\":");
            buf_json(&b, done ? a->tool_arguments : "");
            buf_puts(&b, "}}");
            send_event(p, type, &b);
            if (done) break;
            buf_printf(&b, "{\"type\":\"response.function_call_arguments.delta\",\"item_id\":\"fc_%s\",\"output_index\":%d,\"delta\":", item, p->part);
            buf_json(&b, a->tool_arguments);
            buf_puts(&b, "}");
            send_event(p, "response.function_call_arguments.delta", &b);
            buf_printf(&b, "{\"type\":\"response.function_call_arguments.done\",\"item_id\":\"fc_%s\",\"output_index\":%d,\"arguments\":", item, p->part);
            buf_json(&b, a->tool_arguments);
            buf_puts(&b, "}");
            send_event(p, "response.function_call_arguments.done", &b);
        }
    }
    const char *type = !strcmp(finish, "error") ? "response.failed" : !strcmp(finish, "length") ? "response.incomplete" : "response.completed";
    buf_printf(&b, "{\"type\":\"%s\",\"response\":", type);
    response_object(&b, p, a, text, finish);
    buf_puts(&b, "}");
    return send_event(p, type, &b);
}

bool reply_finish(reply *p, const answer *a, const char *text, const char *finish) {
    if (!p->r->stream) return finish_whole(p, a, text, finish);
    if (p->r->api == API_MESSAGES) return finish_messages_stream(p, a, finish);
    if (p->r->api == API_RESPONSES) return finish_responses_stream(p, a, text, finish);
    if (p->r->api == API_CHAT) finish_chat_stream(p, a, finish);
    else send_completion_chunk(p, "", finish);
    buf b = {0};
    if (p->r->include_usage) {
        buf_printf(&b, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%ld,\"model\":", p->id,
                   p->r->api == API_CHAT ? "chat.completion.chunk" : "text_completion", p->created);
        buf_json(&b, p->r->model);
        buf_puts(&b, ",\"choices\":[],\"usage\":");
        usage_chat(&b, p);
        buf_puts(&b, "}");
        send_event(p, "", &b);
    }
    buf_puts(&b, "[DONE]");
    return send_event(p, "", &b);
}

void reply_error(reply *p, int code, const char *message) {
    if (!p->headers_sent) {
        http_error(p->fd, p->cors, code, message);
        return;
    }
    buf b = {0};
    if (p->r->api == API_MESSAGES) buf_puts(&b, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":");
    else buf_puts(&b, "event: error\ndata: {\"error\":{\"message\":");
    buf_json(&b, message);
    buf_puts(&b, p->r->api == API_MESSAGES ? "}}\n\n" : ",\"type\":\"server_error\"}}\n\n");
    send_buf(p, &b);
}
