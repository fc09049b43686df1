/* Which bodies are refused. The engine reads a request field by field, straight from its text: what it knows must
 * have the type that it expects, what it does not know must only be JSON. Commas between the members of what it
 * knows, and all that stands behind the last brace, do not matter to it. */
#include "fields.h"

#include <stdlib.h>
#include <string.h>

/* ---- contents ---- */

static bool text_member(reader *r, const char *key, void *held) {
    (void)held;
    return strcmp(key, "text") ? read_any(r) : read_text(r, NULL);
}

static bool content_item(reader *r) { return *r->p == '{' ? read_members(r, text_member, NULL) : read_any(r); }

static bool content(reader *r) {
    read_space(r);
    return *r->p == '[' ? read_items(r, content_item) : read_any(r);
}

typedef struct {
    bool type_held, text_held;
    char *type;
} part;

static bool typed_member(reader *r, const char *key, void *held) {
    part *p = held;
    if (!strcmp(key, "type")) {
        free(p->type);
        p->type = NULL;
        return read_again(r, &p->type_held, read_text(r, &p->type));
    }
    if (strcmp(key, "text") != 0) return read_any(r);
    read_space(r);
    return read_again(r, &p->text_held, read_word(r, "null") || read_text(r, NULL));
}

static bool typed_item(reader *r) {
    if (*r->p == '"') return read_text(r, NULL);
    part p = {0};
    bool ok = read_members(r, typed_member, &p);
    ok = ok && p.type && p.text_held && is_one_of(p.type, "input_text output_text text summary_text reasoning_text");
    free(p.type);
    return ok;
}

static bool typed_content(reader *r) {
    read_space(r);
    if (*r->p == '"') return read_text(r, NULL);
    return read_word(r, "null") || read_items(r, typed_item);
}

/* ---- tools ---- */

typedef struct {
    bool type, name, description, function;
} tool_held;

static bool later_text(reader *r, bool *held) {
    /* Read only after the whole list was found to be JSON: a wrong type is passed over, a second one is not. */
    read_space(r);
    const bool quoted = *r->p == '"';
    if (!quoted && *held && r->rereads) r->dies = true;
    *held = *held || quoted;
    return read_any(r);
}

static bool function_member(reader *r, const char *key, void *held) {
    tool_held *h = held;
    return strcmp(key, "name") ? read_any(r) : later_text(r, &h->name);
}

static bool tool_member(reader *r, const char *key, void *held) {
    tool_held *h = held;
    if (!strcmp(key, "type")) return later_text(r, &h->type);
    if (!strcmp(key, "name")) return later_text(r, &h->name);
    if (!strcmp(key, "description")) return later_text(r, &h->description);
    return read_any(r);
}

static bool has_function(reader *r, const char *key, void *held) {
    tool_held *h = held;
    h->function = h->function || !strcmp(key, "function");
    return read_any(r);
}

static bool function_of(reader *r, const char *key, void *held) {
    read_space(r);
    return !strcmp(key, "function") && *r->p == '{' ? read_members(r, function_member, held) : read_any(r);
}

static bool tool_item(reader *r) {
    tool_held held = {0};
    const char *start = r->p;
    if (!read_any(r) || *start != '{') return r->p != start;
    const char *end = r->p;
    r->p = start;
    (void)read_members(r, has_function, &held);
    r->p = start;
    (void)read_members(r, held.function ? function_of : tool_member, &held);
    r->p = end;
    return true;
}

static bool tools(reader *r) {
    read_space(r);
    return read_word(r, "null") || read_items(r, tool_item);
}

/* ---- messages ---- */

typedef struct {
    bool id, name, arguments;
} call_held;

static bool call_function_member(reader *r, const char *key, void *held) {
    call_held *h = held;
    if (!strcmp(key, "name")) return read_again(r, &h->name, read_text(r, NULL));
    if (!strcmp(key, "arguments")) return read_again(r, &h->arguments, read_any(r));
    return read_any(r);
}

static bool call_member(reader *r, const char *key, void *held) {
    call_held *h = held;
    if (!strcmp(key, "id")) return read_again(r, &h->id, read_text(r, NULL));
    if (!strcmp(key, "function")) return read_members(r, call_function_member, held);
    return read_any(r);
}

static bool call_item(reader *r) {
    call_held held = {0};
    return read_members(r, call_member, &held);
}

static bool calls(reader *r) {
    read_space(r);
    return read_word(r, "null") || read_items(r, call_item);
}

typedef struct {
    bool role, content, reasoning;
} message_held;

static bool chat_member(reader *r, const char *key, void *held) {
    message_held *h = held;
    if (!strcmp(key, "role")) return read_again(r, &h->role, read_text(r, NULL));
    if (!strcmp(key, "content")) return read_again(r, &h->content, content(r));
    if (!strcmp(key, "reasoning_content")) return read_again(r, &h->reasoning, content(r));
    if (!strcmp(key, "tool_call_id")) return read_text(r, NULL);
    if (!strcmp(key, "tool_calls")) return calls(r);
    return read_any(r);
}

static bool chat_item(reader *r) {
    message_held held = {0};
    return read_members(r, chat_member, &held);
}

typedef struct {
    bool type, text, thinking, id, name, input, content;
} block_held;

static bool block_member(reader *r, const char *key, void *held) {
    block_held *h = held;
    if (!strcmp(key, "type")) return read_again(r, &h->type, read_text(r, NULL));
    if (!strcmp(key, "text")) return read_again(r, &h->text, content(r));
    if (!strcmp(key, "thinking")) return read_again(r, &h->thinking, content(r));
    if (is_one_of(key, "id tool_use_id")) return read_again(r, &h->id, read_text(r, NULL));
    if (!strcmp(key, "name")) return read_again(r, &h->name, read_text(r, NULL));
    if (!strcmp(key, "input")) return read_again(r, &h->input, read_any(r));
    if (!strcmp(key, "content")) return read_again(r, &h->content, content(r));
    return read_any(r);
}

static bool block_item(reader *r) {
    block_held held = {0};
    return *r->p == '{' ? read_members(r, block_member, &held) : read_any(r);
}

static bool messages_member(reader *r, const char *key, void *held) {
    message_held *h = held;
    if (!strcmp(key, "role")) return read_again(r, &h->role, read_text(r, NULL));
    if (strcmp(key, "content") != 0) return read_any(r);
    read_space(r);
    return *r->p == '[' ? read_items(r, block_item) : read_any(r);
}

static bool messages_item(reader *r) {
    message_held held = {0};
    return read_members(r, messages_member, &held);
}

typedef struct {
    bool type_, role, content, name, space_, call, id, arguments, output, input, summary, action, result, status_, tools;
    char *type, *status;
} item_held;

static bool replaced(reader *r, bool *held, char **out) {
    free(*out);
    *out = NULL;
    return read_again(r, held, read_text(r, out));
}

static bool response_member(reader *r, const char *key, void *held) {
    item_held *h = held;
    if (!strcmp(key, "type")) return replaced(r, &h->type_, &h->type);
    if (!strcmp(key, "status")) return replaced(r, &h->status_, &h->status);
    if (!strcmp(key, "role")) return read_again(r, &h->role, read_text(r, NULL));
    if (!strcmp(key, "name")) return read_again(r, &h->name, read_text(r, NULL));
    if (!strcmp(key, "namespace")) return read_again(r, &h->space_, read_text(r, NULL));
    if (!strcmp(key, "call_id")) return read_again(r, &h->call, read_text(r, NULL));
    if (!strcmp(key, "id")) return read_again(r, &h->id, read_text(r, NULL));
    if (!strcmp(key, "content")) return read_again(r, &h->content, typed_content(r));
    if (!strcmp(key, "summary")) return read_again(r, &h->summary, typed_content(r));
    if (!strcmp(key, "arguments")) return read_again(r, &h->arguments, read_any(r));
    if (!strcmp(key, "input")) return read_again(r, &h->input, read_any(r));
    if (!strcmp(key, "result")) return read_again(r, &h->result, read_any(r));
    if (!strcmp(key, "action")) return read_again(r, &h->action, read_any(r));
    if (!strcmp(key, "tools")) return read_again(r, &h->tools, read_any(r));
    if (strcmp(key, "output") != 0) return read_any(r);
    read_space(r);
    return read_again(r, &h->output, *r->p == '[' ? typed_content(r) : read_any(r));
}

static const char known_items[] =
    "message function_call custom_tool_call function_call_output custom_tool_call_output reasoning local_shell_call "
    "web_search_call tool_search_call image_generation_call local_shell_call_output web_search_call_output "
    "tool_search_output tool_search_call_output image_generation_call_output compaction context_compaction";

/* What it cannot replay, or what never came to its end, is refused rather than left out. */
static bool response_item(reader *r) {
    item_held held = {0};
    bool ok = read_members(r, response_member, &held);
    ok = ok && (!held.status || !held.status[0] || !strcmp(held.status, "completed"));
    ok = ok && is_one_of(held.type ? held.type : "message", known_items);
    free(held.type);
    free(held.status);
    return ok;
}

/* ---- the request ---- */

static bool effort(reader *r) {
    char *name;
    read_space(r);
    if (read_word(r, "null")) return true;
    if (DS4_GENERATION >= GEN_SEPTEMBER && *r->p != '"') return read_number(r, NULL);
    if (!read_text(r, &name)) return false;
    const bool ok = is_one_of(name, "max xhigh high medium low minimal none");
    free(name);
    return ok;
}

static bool type_member(reader *r, const char *key, void *held) {
    (void)held;
    return strcmp(key, "type") ? read_any(r) : read_text(r, NULL);
}

static bool effort_member(reader *r, const char *key, void *held) {
    (void)held;
    return strcmp(key, "effort") ? read_any(r) : effort(r);
}

static bool usage_member(reader *r, const char *key, void *held) {
    (void)held;
    return strcmp(key, "include_usage") ? read_any(r) : read_flag(r);
}

static bool object_or_any(reader *r, member_reader read) {
    read_space(r);
    return *r->p == '{' ? read_members(r, read, NULL) : read_any(r);
}

static bool thinking(reader *r) {
    read_space(r);
    if (read_word(r, "null")) return true;
    if (*r->p == 't' || *r->p == 'f') return read_flag(r);
    return object_or_any(r, type_member);
}

static bool stops(reader *r) {
    read_space(r);
    return *r->p == '[' ? read_items(r, read_any) : read_any(r);
}

/* Of a list of prompts the first one counts; here commas do matter. */
static bool prompt(reader *r, bool *held) {
    read_space(r);
    if (*r->p != '[') return read_again(r, held, read_any(r));
    r->p++;
    read_space(r);
    const bool first = *r->p == '"' ? read_again(r, held, read_text(r, NULL)) : !*r->p || *r->p == ']' || read_any(r);
    *held = true;
    if (!first) return false;
    for (;;) {
        read_space(r);
        if (*r->p != ',') break;
        r->p++;
        if (!read_any(r)) return false;
    }
    return *r->p++ == ']';
}

static bool told(reader *r, const char *format, const char *value) {
    snprintf(r->err, r->size, format, value);
    r->told = true;
    return false;
}

static bool response_choice(reader *r) {
    char *choice;
    read_space(r);
    if (*r->p == '{') return told(r, "%s", "forced tool_choice not supported");
    if (*r->p != '"') return read_any(r);
    if (!read_text(r, &choice)) return false;
    const bool ok = is_one_of(choice, "none auto") || told(r, "tool_choice=%s not supported", choice);
    free(choice);
    return ok;
}

typedef struct {
    api_kind api;
    bool model, system, prompt;
} request_held;

static bool list_member(reader *r, const request_held *h) {
    r->found = true;
    if (h->api == API_CHAT) return read_items(r, chat_item);
    if (h->api == API_MESSAGES) return read_items(r, messages_item);
    read_space(r);
    return *r->p == '"' ? read_text(r, NULL) : read_items(r, response_item);
}

static bool known_member(reader *r, const char *key, request_held *h, bool *known) {
    static const char *const numbers[] = {
        [API_CHAT] = "max_tokens max_completion_tokens temperature top_p min_p top_k seed",
        [API_COMPLETION] = "max_tokens temperature top_p min_p top_k seed",
        [API_RESPONSES] = "max_output_tokens max_tokens temperature top_p",
        [API_MESSAGES] = "max_tokens temperature top_p top_k"};
    static const char *const lists[] = {
        [API_CHAT] = "messages", [API_COMPLETION] = "", [API_RESPONSES] = "input", [API_MESSAGES] = "messages"};
    const bool chat = h->api == API_CHAT, completion = h->api == API_COMPLETION;
    const bool messages = h->api == API_MESSAGES, responses = h->api == API_RESPONSES;
    if (!strcmp(key, "model")) return read_again(r, &h->model, read_text(r, NULL));
    if (is_one_of(key, lists[h->api])) return list_member(r, h);
    if (is_one_of(key, numbers[h->api])) return read_number(r, NULL);
    if (!strcmp(key, "stream")) return read_flag(r);
    if (!completion && !strcmp(key, "tools")) return tools(r);
    if (!responses && !strcmp(key, "thinking")) return thinking(r);
    if (!responses && !strcmp(key, "reasoning_effort")) return effort(r);
    if ((chat || completion) && !strcmp(key, "think")) return read_flag(r);
    if ((chat || completion) && !strcmp(key, "stream_options")) return object_or_any(r, usage_member);
    if ((chat || completion) && !strcmp(key, "stop")) return stops(r);
    if (messages && !strcmp(key, "stop_sequences")) return stops(r);
    if (messages && !strcmp(key, "output_config")) return object_or_any(r, effort_member);
    if (messages && !strcmp(key, "tool_choice")) return object_or_any(r, type_member);
    if (responses && !strcmp(key, "tool_choice")) return response_choice(r);
    if (responses && !strcmp(key, "reasoning")) return object_or_any(r, effort_member);
    read_space(r);
    if (responses && is_one_of(key, "previous_response_id conversation"))
        return read_word(r, "null") || told(r, "%s is not supported; replay full input instead", key);
    if (responses && !strcmp(key, "instructions")) return read_word(r, "null") || read_text(r, NULL);
    if (messages && !strcmp(key, "system")) return read_again(r, &h->system, content(r));
    if (completion && !strcmp(key, "prompt")) {
        r->found = true;
        return prompt(r, &h->prompt);
    }
    *known = false;
    return true;
}

static bool request_member(reader *r, const char *key, void *held) {
    bool known = true;
    const bool ok = known_member(r, key, held, &known);
    return known ? ok : read_any(r);
}

bool request_is_sound(api_kind api, const char *body, char *err, size_t size) {
    static const char *const wanted[] = {
        [API_CHAT] = "messages", [API_COMPLETION] = "prompt", [API_RESPONSES] = "input", [API_MESSAGES] = "messages"};
    request_held held = {.api = api, .model = true}; /* a default model stands there before any is read */
    reader r = {.p = body, .err = err, .size = size, .rereads = mac_setting("frees_twice", DS4_GENERATION < GEN_AUGUST) != 0};
    const bool ok = read_members(&r, request_member, &held);
    if (r.dies) abort();
    if (ok && r.found) return true;
    if (ok) snprintf(err, size, "missing %s", wanted[api]);
    else if (!r.told) snprintf(err, size, "invalid JSON request");
    return false;
}
