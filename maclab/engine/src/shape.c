/* Which bodies are refused. The engine reads a request field by field, straight from its text: what it knows must
 * have the type that it expects, what it does not know must only be JSON. Commas between the members of what it
 * knows, and all that stands behind the last brace, do not matter to it. */
#include "server.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NESTING 256

typedef struct {
    const char *p;
    char *err;
    size_t size;
    bool rereads; /* a field that comes again is freed before it is read, and freed once more when that fails */
    bool dies, told, found;
} reader;

typedef bool (*member_reader)(reader *r, const char *key, void *held);

static void space(reader *r) {
    while (*r->p && isspace((unsigned char)*r->p)) r->p++;
}

static bool word(reader *r, const char *text) {
    const size_t n = strlen(text);
    if (strncmp(r->p, text, n) != 0) return false;
    r->p += n;
    return true;
}

static bool text(reader *r, char **out) {
    space(r);
    char *value = json_string(&r->p);
    const bool ok = value != NULL;
    if (out) *out = value;
    else free(value);
    return ok;
}

static bool number(reader *r, double *out) {
    char *end;
    space(r);
    const double value = strtod(r->p, &end);
    if (end == r->p) return false;
    r->p = end;
    if (out) *out = value;
    return true;
}

static bool flag(reader *r) {
    space(r);
    return word(r, "true") || word(r, "false");
}

/* Any value at all; here commas do matter. */
static bool any_at(reader *r, int depth) {
    space(r);
    if (*r->p == '"') return text(r, NULL);
    if (*r->p != '{' && *r->p != '[') {
        return word(r, "true") || word(r, "false") || word(r, "null") || number(r, NULL);
    }
    const bool object = *r->p == '{';
    const char close = object ? '}' : ']';
    if (depth >= MAX_NESTING) return false;
    r->p++;
    space(r);
    if (*r->p == close) {
        r->p++;
        return true;
    }
    for (;;) {
        if (object) {
            if (!text(r, NULL)) return false;
            space(r);
            if (*r->p++ != ':') return false;
        }
        if (!any_at(r, depth + 1)) return false;
        space(r);
        const char next = *r->p;
        if (next != close && next != ',') return false;
        r->p++;
        if (next == close) return true;
    }
}

static bool any(reader *r) { return any_at(r, 0); }

static bool members(reader *r, member_reader read, void *held) {
    space(r);
    if (*r->p != '{') return false;
    r->p++;
    space(r);
    while (*r->p && *r->p != '}') {
        char *key;
        if (!text(r, &key)) return false;
        space(r);
        const bool ok = *r->p == ':' && (r->p++, read(r, key, held));
        free(key);
        if (!ok) return false;
        space(r);
        if (*r->p == ',') r->p++;
        space(r);
    }
    if (*r->p != '}') return false;
    r->p++;
    return true;
}

static bool items(reader *r, bool (*read)(reader *r)) {
    space(r);
    if (*r->p != '[') return false;
    r->p++;
    space(r);
    while (*r->p && *r->p != ']') {
        if (!read(r)) return false;
        space(r);
        if (*r->p == ',') r->p++;
        space(r);
    }
    if (*r->p != ']') return false;
    r->p++;
    return true;
}

/* The outcome of reading a field into memory that an earlier value may hold. */
static bool kept(reader *r, bool *held, bool ok) {
    if (!ok && *held && r->rereads) r->dies = true;
    *held = true;
    return ok;
}

/* Whether a key is one of the words in `names`. */
static bool is(const char *key, const char *names) {
    const size_t n = strlen(key);
    for (const char *at = names; n && (at = strstr(at, key)); at++)
        if ((at == names || at[-1] == ' ') && (at[n] == ' ' || !at[n])) return true;
    return false;
}

/* ---- contents ---- */

static bool text_member(reader *r, const char *key, void *held) {
    (void)held;
    return strcmp(key, "text") ? any(r) : text(r, NULL);
}

static bool content_item(reader *r) { return *r->p == '{' ? members(r, text_member, NULL) : any(r); }

static bool content(reader *r) {
    space(r);
    return *r->p == '[' ? items(r, content_item) : any(r);
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
        return kept(r, &p->type_held, text(r, &p->type));
    }
    if (strcmp(key, "text") != 0) return any(r);
    space(r);
    return kept(r, &p->text_held, word(r, "null") || text(r, NULL));
}

static bool typed_item(reader *r) {
    if (*r->p == '"') return text(r, NULL);
    part p = {0};
    bool ok = members(r, typed_member, &p);
    ok = ok && p.type && p.text_held && is(p.type, "input_text output_text text summary_text reasoning_text");
    free(p.type);
    return ok;
}

static bool typed_content(reader *r) {
    space(r);
    if (*r->p == '"') return text(r, NULL);
    return word(r, "null") || items(r, typed_item);
}

/* ---- tools ---- */

typedef struct {
    bool type, name, description, function;
} tool_held;

static bool later_text(reader *r, bool *held) {
    /* Read only after the whole list was found to be JSON: a wrong type is passed over, a second one is not. */
    space(r);
    const bool quoted = *r->p == '"';
    if (!quoted && *held && r->rereads) r->dies = true;
    *held = *held || quoted;
    return any(r);
}

static bool function_member(reader *r, const char *key, void *held) {
    tool_held *h = held;
    return strcmp(key, "name") ? any(r) : later_text(r, &h->name);
}

static bool tool_member(reader *r, const char *key, void *held) {
    tool_held *h = held;
    if (!strcmp(key, "type")) return later_text(r, &h->type);
    if (!strcmp(key, "name")) return later_text(r, &h->name);
    if (!strcmp(key, "description")) return later_text(r, &h->description);
    return any(r);
}

static bool has_function(reader *r, const char *key, void *held) {
    tool_held *h = held;
    h->function = h->function || !strcmp(key, "function");
    return any(r);
}

static bool function_of(reader *r, const char *key, void *held) {
    space(r);
    return !strcmp(key, "function") && *r->p == '{' ? members(r, function_member, held) : any(r);
}

static bool tool_item(reader *r) {
    tool_held held = {0};
    const char *start = r->p;
    if (!any(r) || *start != '{') return r->p != start;
    const char *end = r->p;
    r->p = start;
    (void)members(r, has_function, &held);
    r->p = start;
    (void)members(r, held.function ? function_of : tool_member, &held);
    r->p = end;
    return true;
}

static bool tools(reader *r) {
    space(r);
    return word(r, "null") || items(r, tool_item);
}

/* ---- messages ---- */

typedef struct {
    bool id, name, arguments;
} call_held;

static bool call_function_member(reader *r, const char *key, void *held) {
    call_held *h = held;
    if (!strcmp(key, "name")) return kept(r, &h->name, text(r, NULL));
    if (!strcmp(key, "arguments")) return kept(r, &h->arguments, any(r));
    return any(r);
}

static bool call_member(reader *r, const char *key, void *held) {
    call_held *h = held;
    if (!strcmp(key, "id")) return kept(r, &h->id, text(r, NULL));
    if (!strcmp(key, "function")) return members(r, call_function_member, held);
    return any(r);
}

static bool call_item(reader *r) {
    call_held held = {0};
    return members(r, call_member, &held);
}

static bool calls(reader *r) {
    space(r);
    return word(r, "null") || items(r, call_item);
}

typedef struct {
    bool role, content, reasoning;
} message_held;

static bool chat_member(reader *r, const char *key, void *held) {
    message_held *h = held;
    if (!strcmp(key, "role")) return kept(r, &h->role, text(r, NULL));
    if (!strcmp(key, "content")) return kept(r, &h->content, content(r));
    if (!strcmp(key, "reasoning_content")) return kept(r, &h->reasoning, content(r));
    if (!strcmp(key, "tool_call_id")) return text(r, NULL);
    if (!strcmp(key, "tool_calls")) return calls(r);
    return any(r);
}

static bool chat_item(reader *r) {
    message_held held = {0};
    return members(r, chat_member, &held);
}

typedef struct {
    bool type, text, thinking, id, name, input, content;
} block_held;

static bool block_member(reader *r, const char *key, void *held) {
    block_held *h = held;
    if (!strcmp(key, "type")) return kept(r, &h->type, text(r, NULL));
    if (!strcmp(key, "text")) return kept(r, &h->text, content(r));
    if (!strcmp(key, "thinking")) return kept(r, &h->thinking, content(r));
    if (is(key, "id tool_use_id")) return kept(r, &h->id, text(r, NULL));
    if (!strcmp(key, "name")) return kept(r, &h->name, text(r, NULL));
    if (!strcmp(key, "input")) return kept(r, &h->input, any(r));
    if (!strcmp(key, "content")) return kept(r, &h->content, content(r));
    return any(r);
}

static bool block_item(reader *r) {
    block_held held = {0};
    return *r->p == '{' ? members(r, block_member, &held) : any(r);
}

static bool messages_member(reader *r, const char *key, void *held) {
    message_held *h = held;
    if (!strcmp(key, "role")) return kept(r, &h->role, text(r, NULL));
    if (strcmp(key, "content") != 0) return any(r);
    space(r);
    return *r->p == '[' ? items(r, block_item) : any(r);
}

static bool messages_item(reader *r) {
    message_held held = {0};
    return members(r, messages_member, &held);
}

typedef struct {
    bool type_, role, content, name, space_, call, id, arguments, output, input, summary, action, result, status_, tools;
    char *type, *status;
} item_held;

static bool replaced(reader *r, bool *held, char **out) {
    free(*out);
    *out = NULL;
    return kept(r, held, text(r, out));
}

static bool response_member(reader *r, const char *key, void *held) {
    item_held *h = held;
    if (!strcmp(key, "type")) return replaced(r, &h->type_, &h->type);
    if (!strcmp(key, "status")) return replaced(r, &h->status_, &h->status);
    if (!strcmp(key, "role")) return kept(r, &h->role, text(r, NULL));
    if (!strcmp(key, "name")) return kept(r, &h->name, text(r, NULL));
    if (!strcmp(key, "namespace")) return kept(r, &h->space_, text(r, NULL));
    if (!strcmp(key, "call_id")) return kept(r, &h->call, text(r, NULL));
    if (!strcmp(key, "id")) return kept(r, &h->id, text(r, NULL));
    if (!strcmp(key, "content")) return kept(r, &h->content, typed_content(r));
    if (!strcmp(key, "summary")) return kept(r, &h->summary, typed_content(r));
    if (!strcmp(key, "arguments")) return kept(r, &h->arguments, any(r));
    if (!strcmp(key, "input")) return kept(r, &h->input, any(r));
    if (!strcmp(key, "result")) return kept(r, &h->result, any(r));
    if (!strcmp(key, "action")) return kept(r, &h->action, any(r));
    if (!strcmp(key, "tools")) return kept(r, &h->tools, any(r));
    if (strcmp(key, "output") != 0) return any(r);
    space(r);
    return kept(r, &h->output, *r->p == '[' ? typed_content(r) : any(r));
}

static const char known_items[] =
    "message function_call custom_tool_call function_call_output custom_tool_call_output reasoning local_shell_call "
    "web_search_call tool_search_call image_generation_call local_shell_call_output web_search_call_output "
    "tool_search_output tool_search_call_output image_generation_call_output compaction context_compaction";

/* What it cannot replay, or what never came to its end, is refused rather than left out. */
static bool response_item(reader *r) {
    item_held held = {0};
    bool ok = members(r, response_member, &held);
    ok = ok && (!held.status || !held.status[0] || !strcmp(held.status, "completed"));
    ok = ok && is(held.type ? held.type : "message", known_items);
    free(held.type);
    free(held.status);
    return ok;
}

/* ---- the request ---- */

static bool effort(reader *r) {
    char *name;
    space(r);
    if (word(r, "null")) return true;
    if (DS4_GENERATION >= GEN_SEPTEMBER && *r->p != '"') return number(r, NULL);
    if (!text(r, &name)) return false;
    const bool ok = is(name, "max xhigh high medium low minimal none");
    free(name);
    return ok;
}

static bool type_member(reader *r, const char *key, void *held) {
    (void)held;
    return strcmp(key, "type") ? any(r) : text(r, NULL);
}

static bool effort_member(reader *r, const char *key, void *held) {
    (void)held;
    return strcmp(key, "effort") ? any(r) : effort(r);
}

static bool usage_member(reader *r, const char *key, void *held) {
    (void)held;
    return strcmp(key, "include_usage") ? any(r) : flag(r);
}

static bool object_or_any(reader *r, member_reader read) {
    space(r);
    return *r->p == '{' ? members(r, read, NULL) : any(r);
}

static bool thinking(reader *r) {
    space(r);
    if (word(r, "null")) return true;
    if (*r->p == 't' || *r->p == 'f') return flag(r);
    return object_or_any(r, type_member);
}

static bool stops(reader *r) {
    space(r);
    return *r->p == '[' ? items(r, any) : any(r);
}

/* Of a list of prompts the first one counts; here commas do matter. */
static bool prompt(reader *r, bool *held) {
    space(r);
    if (*r->p != '[') return kept(r, held, any(r));
    r->p++;
    space(r);
    const bool first = *r->p == '"' ? kept(r, held, text(r, NULL)) : !*r->p || *r->p == ']' || any(r);
    *held = true;
    if (!first) return false;
    for (;;) {
        space(r);
        if (*r->p != ',') break;
        r->p++;
        if (!any(r)) return false;
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
    space(r);
    if (*r->p == '{') return told(r, "%s", "forced tool_choice not supported");
    if (*r->p != '"') return any(r);
    if (!text(r, &choice)) return false;
    const bool ok = is(choice, "none auto") || told(r, "tool_choice=%s not supported", choice);
    free(choice);
    return ok;
}

typedef struct {
    api_kind api;
    bool model, system, prompt;
} request_held;

static bool list_member(reader *r, const request_held *h) {
    r->found = true;
    if (h->api == API_CHAT) return items(r, chat_item);
    if (h->api == API_MESSAGES) return items(r, messages_item);
    space(r);
    return *r->p == '"' ? text(r, NULL) : items(r, response_item);
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
    if (!strcmp(key, "model")) return kept(r, &h->model, text(r, NULL));
    if (is(key, lists[h->api])) return list_member(r, h);
    if (is(key, numbers[h->api])) return number(r, NULL);
    if (!strcmp(key, "stream")) return flag(r);
    if (!completion && !strcmp(key, "tools")) return tools(r);
    if (!responses && !strcmp(key, "thinking")) return thinking(r);
    if (!responses && !strcmp(key, "reasoning_effort")) return effort(r);
    if ((chat || completion) && !strcmp(key, "think")) return flag(r);
    if ((chat || completion) && !strcmp(key, "stream_options")) return object_or_any(r, usage_member);
    if ((chat || completion) && !strcmp(key, "stop")) return stops(r);
    if (messages && !strcmp(key, "stop_sequences")) return stops(r);
    if (messages && !strcmp(key, "output_config")) return object_or_any(r, effort_member);
    if (messages && !strcmp(key, "tool_choice")) return object_or_any(r, type_member);
    if (responses && !strcmp(key, "tool_choice")) return response_choice(r);
    if (responses && !strcmp(key, "reasoning")) return object_or_any(r, effort_member);
    space(r);
    if (responses && is(key, "previous_response_id conversation"))
        return word(r, "null") || told(r, "%s is not supported; replay full input instead", key);
    if (responses && !strcmp(key, "instructions")) return word(r, "null") || text(r, NULL);
    if (messages && !strcmp(key, "system")) return kept(r, &h->system, content(r));
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
    return known ? ok : any(r);
}

bool request_is_sound(api_kind api, const char *body, char *err, size_t size) {
    static const char *const wanted[] = {
        [API_CHAT] = "messages", [API_COMPLETION] = "prompt", [API_RESPONSES] = "input", [API_MESSAGES] = "messages"};
    request_held held = {.api = api, .model = true}; /* a default model stands there before any is read */
    reader r = {.p = body, .err = err, .size = size, .rereads = mac_setting("frees_twice", DS4_GENERATION < GEN_AUGUST) != 0};
    const bool ok = members(&r, request_member, &held);
    if (r.dies) abort();
    if (ok && r.found) return true;
    if (ok) snprintf(err, size, "missing %s", wanted[api]);
    else if (!r.told) snprintf(err, size, "invalid JSON request");
    return false;
}
