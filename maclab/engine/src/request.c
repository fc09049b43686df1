/* What a request says: its messages, and the text that they become for the model. */
#include "server.h"

#include <stdlib.h>
#include <string.h>

#define BEGIN "<｜begin▁of▁sentence｜>"
#define END "<｜end▁of▁sentence｜>"
#define USER "<｜User｜>"
#define ASSISTANT "<｜Assistant｜>"
#define DSML "｜DSML｜"

typedef struct {
    char *id, *name, *arguments;
} tool_use;

typedef struct {
    char *role, *content, *reasoning;
    char **results; /* ids of the calls that it answers */
    tool_use *uses;
    int n_results, n_uses;
} message;

typedef struct {
    message *list;
    int n;
} conversation;

static void replace(char **slot, char *value) {
    free(*slot);
    *slot = value;
}

static void *grown(void *list, int n, size_t size) {
    void *more = realloc(list, (size_t)(n + 1) * size);
    if (!more) die(1, "out of memory");
    return more;
}

static message *add_message(conversation *c, const char *role, char *content) {
    c->list = grown(c->list, c->n, sizeof(message));
    message *m = &c->list[c->n++];
    *m = (message){.role = text_copy(role), .content = content, .reasoning = text_copy("")};
    return m;
}

static void add_use(message *m, const char *id, const char *name, char *arguments) {
    m->uses = grown(m->uses, m->n_uses, sizeof(tool_use));
    m->uses[m->n_uses++] = (tool_use){text_copy(id), text_copy(name), arguments};
}

static void add_result(message *m, const char *id) {
    if (!id || !id[0]) return;
    m->results = grown(m->results, m->n_results, sizeof(char *));
    m->results[m->n_results++] = text_copy(id);
}

static void free_conversation(conversation *c) {
    for (int i = 0; i < c->n; i++) {
        message *m = &c->list[i];
        for (int j = 0; j < m->n_uses; j++) {
            free(m->uses[j].id);
            free(m->uses[j].name);
            free(m->uses[j].arguments);
        }
        for (int j = 0; j < m->n_results; j++) free(m->results[j]);
        free(m->uses);
        free(m->results);
        free(m->role);
        free(m->content);
        free(m->reasoning);
    }
    free(c->list);
}

/* ---- from JSON ---- */

static void join_text(buf *b, const json *content) {
    if (!content) return;
    if (content->type == J_STRING) buf_puts(b, content->string);
    if (content->type != J_ARRAY) return;
    for (const json *part = content->child; part; part = part->next) {
        const char *text = part->type == J_STRING ? part->string : json_text(part, "text", NULL);
        if (text) buf_puts(b, text);
    }
}

static char *joined(const json *content) {
    buf b = {0};
    buf_append(&b, "", 0);
    join_text(&b, content);
    return b.ptr;
}

static char *written(const json *value) {
    if (value && value->type == J_STRING) return text_copy(value->string);
    buf b = {0};
    if (value) json_write(&b, value);
    else buf_puts(&b, "{}");
    return b.ptr;
}

static void put_result(buf *b, const char *text) {
    static const char end[] = "</tool_result>";
    buf_puts(b, "<tool_result>");
    for (; *text; text++) {
        if (!strncmp(text, end, sizeof(end) - 1)) buf_puts(b, "&lt;");
        else buf_append(b, text, 1);
    }
    buf_puts(b, end);
}

static void read_chat(conversation *c, const json *list) {
    for (const json *j = list->child; j; j = j->next) {
        message *m = add_message(c, json_text(j, "role", "user"), joined(json_get(j, "content")));
        replace(&m->reasoning, joined(json_get(j, "reasoning_content")));
        add_result(m, json_text(j, "tool_call_id", NULL));
        const json *uses = json_get(j, "tool_calls");
        for (const json *use = uses ? uses->child : NULL; use; use = use->next) {
            const json *function = json_get(use, "function"), *arguments = json_get(function, "arguments");
            const char *name = json_text(function, "name", NULL);
            if (name && arguments) add_use(m, json_text(use, "id", ""), name, written(arguments));
        }
    }
}

static void read_block(message *m, buf *content, buf *reasoning, const json *block) {
    const char *type = json_text(block, "type", "");
    const char *id = json_text(block, "id", json_text(block, "tool_use_id", ""));
    if (block->type == J_STRING) buf_puts(content, block->string);
    else if (!strcmp(type, "tool_use"))
        add_use(m, id, json_text(block, "name", ""), written(json_get(block, "input")));
    else if (!strcmp(type, "tool_result")) {
        char *text = joined(json_get(block, "content"));
        add_result(m, id);
        put_result(content, text);
        free(text);
    } else {
        join_text(content, json_get(block, "text"));
        join_text(reasoning, json_get(block, "thinking"));
    }
}

static void read_messages(conversation *c, const json *list, const json *system) {
    for (const json *j = list->child; j; j = j->next) {
        const json *parts = json_get(j, "content");
        message *m = add_message(c, json_text(j, "role", "user"), NULL);
        if (!parts || parts->type != J_ARRAY) {
            m->content = joined(parts);
            continue;
        }
        buf content = {0}, reasoning = {0};
        buf_append(&content, "", 0);
        buf_append(&reasoning, "", 0);
        for (const json *block = parts->child; block; block = block->next) read_block(m, &content, &reasoning, block);
        m->content = content.ptr;
        replace(&m->reasoning, reasoning.ptr);
    }
    buf text = {0};
    const json *first = system && system->type == J_ARRAY ? system->child : system;
    for (const json *part = first; part; part = part == system ? NULL : part->next) {
        const char *one = part->type == J_STRING ? part->string : json_text(part, "text", "");
        if (!one[0] || !strncmp(one, "x-anthropic-", 12)) continue; /* what its clients tell their own servers */
        if (text.len && text.ptr[text.len - 1] != '\n') buf_puts(&text, "\n");
        buf_puts(&text, one);
    }
    if (text.len) add_message(c, "system", text.ptr);
}

static bool ends_with(const char *text, const char *end) {
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

static void read_call_item(conversation *c, const json *item, const char *type, char *reasoning) {
    const char *id = json_text(item, "call_id", json_text(item, "id", ""));
    const bool hosted = strcmp(type, "function_call") != 0 && strcmp(type, "custom_tool_call") != 0;
    const json *arguments = hosted ? json_get(item, "action") : NULL;
    if (!arguments) arguments = json_get(item, "arguments");
    if (!arguments) arguments = json_get(item, "input");
    message *m = c->n ? &c->list[c->n - 1] : NULL;
    if (!m || strcmp(m->role, "assistant") != 0) m = add_message(c, "assistant", text_copy(""));
    if (reasoning[0] && !m->reasoning[0]) replace(&m->reasoning, text_copy(reasoning));
    const char *name = !hosted ? json_text(item, "name", "") : !strcmp(type, "local_shell_call") ? "local_shell"
                       : !strcmp(type, "tool_search_call") ? "tool_search" : type;
    add_use(m, id, name, written(arguments));
}

static void read_responses(conversation *c, const json *input, const json *instructions) {
    if (instructions && instructions->type == J_STRING && instructions->string[0])
        add_message(c, "system", text_copy(instructions->string));
    if (input->type == J_STRING) add_message(c, "user", text_copy(input->string));
    buf reasoning = {0};
    buf_append(&reasoning, "", 0);
    for (const json *item = input->type == J_ARRAY ? input->child : NULL; item; item = item->next) {
        const char *type = json_text(item, "type", "message"), *role = json_text(item, "role", "user");
        if (!strcmp(type, "reasoning")) {
            join_text(&reasoning, json_get(item, "summary"));
            join_text(&reasoning, json_get(item, "content"));
            continue;
        }
        if (ends_with(type, "compaction")) continue;
        if (ends_with(type, "_call")) read_call_item(c, item, type, reasoning.ptr);
        else if (!strcmp(type, "message")) {
            message *m = add_message(c, role, joined(json_get(item, "content")));
            if (!strcmp(role, "assistant")) replace(&m->reasoning, text_copy(reasoning.ptr));
        } else {
            const json *output = json_get(item, "output");
            if (!output) output = json_get(item, "result");
            message *m = add_message(c, "tool", output && output->type == J_ARRAY ? joined(output) : written(output));
            add_result(m, json_text(item, "call_id", json_text(item, "id", NULL)));
        }
        reasoning.len = 0;
        reasoning.ptr[0] = '\0';
    }
    buf_free(&reasoning);
}

/* ---- what it becomes ---- */

static bool is_system(const message *m) { return !strcmp(m->role, "system") || !strcmp(m->role, "developer"); }
static bool is_tool(const message *m) { return !strcmp(m->role, "tool") || !strcmp(m->role, "function"); }

void render_call(buf *b, const char *name, const char *arguments) {
    json *parsed = json_parse(arguments);
    buf_printf(b, "<" DSML "invoke name=\"%s\">\n", name);
    for (const json *j = parsed && parsed->type == J_OBJECT ? parsed->child : NULL; j; j = j->next) {
        const bool text = j->type == J_STRING;
        buf_printf(b, "<" DSML "parameter name=\"%s\" string=\"%s\">", j->key, text ? "true" : "false");
        if (text) buf_puts(b, j->string);
        else json_write(b, j);
        buf_puts(b, "</" DSML "parameter>\n");
    }
    if (!parsed || parsed->type != J_OBJECT)
        buf_printf(b, "<" DSML "parameter name=\"arguments\" string=\"true\">%s</" DSML "parameter>\n", arguments);
    buf_puts(b, "</" DSML "invoke>\n");
    json_free(parsed);
}

static void render_system(buf *b, const conversation *c, const json *tools, bool use_tools) {
    const size_t start = b->len;
    if (use_tools && tools && tools->child) {
        /* The real words are others; what counts is that they stand here, and that August's differ from July's. */
        buf_puts(b, DS4_GENERATION >= GEN_AUGUST ? "## Tools\n\nFinish reasoning before any call.\n" : "## Tools\n");
        for (const json *tool = tools->child; tool; tool = tool->next) {
            const json *function = json_get(tool, "function");
            buf_puts(b, "\n");
            json_write(b, function ? function : tool);
        }
    }
    for (int i = 0; i < c->n; i++) {
        if (!is_system(&c->list[i])) continue;
        buf_printf(b, "%s%s", b->len > start ? "\n\n" : "", c->list[i].content);
    }
}

static void render_assistant(buf *b, const message *m, bool opened, bool thinks, bool kept) {
    if (opened) buf_puts(b, ASSISTANT);
    if (opened && thinks && kept) buf_printf(b, "<think>%s", m->reasoning);
    if (opened) buf_puts(b, "</think>");
    buf_puts(b, m->content);
    if (m->n_uses) buf_puts(b, CALLS_OPEN);
    for (int i = 0; i < m->n_uses; i++) render_call(b, m->uses[i].name, m->uses[i].arguments);
    if (m->n_uses) buf_puts(b, CALLS_CLOSE);
    buf_puts(b, END);
}

static char *render(const conversation *c, const json *tools, const request *r) {
    buf b = {0};
    int last_user = -1;
    bool open = false, result_before = false, with_tools = r->n_tools > 0;
    for (int i = 0; i < c->n; i++) {
        const message *m = &c->list[i];
        if (!strcmp(m->role, "user") || is_tool(m)) last_user = i;
        with_tools = with_tools || is_tool(m) || (!strcmp(m->role, "assistant") && m->n_uses);
    }
    if (r->live_id) buf_puts(&b, END); /* behind what this server still holds */
    else {
        buf_puts(&b, BEGIN);
        render_system(&b, c, tools, r->n_tools > 0);
    }
    for (int i = 0; i < c->n; i++) {
        const message *m = &c->list[i];
        if (!strcmp(m->role, "assistant")) {
            render_assistant(&b, m, open, r->think, with_tools || i > last_user);
            open = result_before = false;
        } else if (is_tool(m)) {
            if (!result_before) buf_puts(&b, USER);
            put_result(&b, m->content);
            open = result_before = true;
        } else if (!strcmp(m->role, "user")) {
            buf_printf(&b, USER "%s", m->content);
            open = true;
            result_before = false;
        }
    }
    if (open) buf_printf(&b, ASSISTANT "%s", r->think ? "<think>" : "</think>");
    return b.ptr;
}

/* What the dialogue answers: the last words of the user, or the result of a tool that stands behind them. */
static void remember_last(request *r, const conversation *c) {
    bool answered = false;
    for (int i = 0; i < c->n; i++) {
        const message *m = &c->list[i];
        if (is_system(m)) continue;
        if (!strcmp(m->role, "assistant")) {
            replace(&r->tool_result, NULL);
            answered = true;
        } else if (is_tool(m)) replace(&r->tool_result, text_copy(m->content));
        else if (m->n_results) {
            const char *start = strstr(m->content, "<tool_result>"), *end = strstr(m->content, "</tool_result>");
            buf text = {0};
            buf_printf(&text, "%.*s", start && end ? (int)(end - start - 13) : 0, start ? start + 13 : "");
            replace(&r->tool_result, text.ptr);
        } else {
            /* Clients put remarks of their own behind what was asked, and behind a tool's result. */
            const bool more = r->last_user && !answered;
            buf words = {0};
            buf_printf(&words, "%s%s%s", more ? r->last_user : "", more ? "\n" : "", m->content);
            replace(&r->last_user, words.ptr);
            answered = false;
        }
    }
    if (!r->last_user) r->last_user = text_copy("");
}

/* ---- tool results ---- */

static bool known_call(call_memory *calls, const char *id) {
    bool found = false;
    pthread_mutex_lock(&calls->mu);
    for (int i = 0; i < calls->n; i++) found = found || !strcmp(calls->ids[i], id);
    pthread_mutex_unlock(&calls->mu);
    return found;
}

static bool called_before(const conversation *c, int before, const char *id) {
    for (int i = 0; i < before; i++)
        for (int j = 0; j < c->list[i].n_uses; j++)
            if (!strcmp(c->list[i].role, "assistant") && !strcmp(c->list[i].uses[j].id, id)) return true;
    return false;
}

/* A tool result must find the call it answers: in the request, or in what this server still remembers. */
static bool results_belong(request *r, const conversation *c, call_memory *calls, char *err, size_t size) {
    const bool responses = r->api == API_RESPONSES;
    for (int i = 0; i < c->n; i++) {
        const message *m = &c->list[i];
        if (responses ? !is_tool(m) : strcmp(m->role, "user") != 0) continue;
        for (int j = 0; j < m->n_results; j++) {
            if (called_before(c, i, m->results[j])) continue;
            if (!known_call(calls, m->results[j])) {
                snprintf(err, size,
                         "%s continuation state is not available for %s %s; retry by replaying the full %s history",
                         responses ? "Responses" : "Anthropic", responses ? "call_id" : "tool_use_id", m->results[j],
                         responses ? "input" : "messages");
                return false;
            }
            replace(&r->live_id, text_copy(m->results[j]));
        }
    }
    return true;
}

/* ---- the rest of a request ---- */

static void add_tools(request *r, const json *tools) {
    for (const json *t = tools ? tools->child : NULL; t; t = t->next) {
        const json *function = json_get(t, "function");
        r->tools = grown(r->tools, r->n_tools, sizeof(char *));
        r->tools[r->n_tools++] = text_copy(json_text(function ? function : t, "name", ""));
    }
}

static bool tools_off(const json *j, api_kind api) {
    const json *choice = json_get(j, "tool_choice");
    if (api == API_MESSAGES) return !strcmp(json_text(choice, "type", ""), "none");
    return choice && choice->type == J_STRING && !strcmp(choice->string, "none");
}

static bool wants_thinking(const json *j, const request *r) {
    bool enabled = true, said = false;
    const char *effort = "high";
    for (const json *m = j->child; m; m = m->next) {
        const bool think = !strcmp(m->key, "think") && r->api != API_MESSAGES && r->api != API_RESPONSES;
        const bool thinking = !strcmp(m->key, "thinking") && r->api != API_RESPONSES;
        if (think || thinking) {
            const char *type = json_text(m, "type", "");
            said = true;
            if (m->type == J_BOOL) enabled = m->boolean;
            else if (!strcmp(type, "enabled") || !strcmp(type, "disabled")) enabled = type[0] == 'e';
        }
        if (!strcmp(m->key, "reasoning_effort") && r->api != API_RESPONSES && m->type == J_STRING) effort = m->string;
        if (!strcmp(m->key, "output_config") && r->api == API_MESSAGES) effort = json_text(m, "effort", effort);
        if (!strcmp(m->key, "reasoning") && r->api == API_RESPONSES && json_text(m, "effort", NULL)) {
            effort = json_text(m, "effort", effort);
            said = true;
        }
    }
    if (!said && !strcmp(r->model, "deepseek-chat")) enabled = false;
    return enabled && strcmp(effort, "none") != 0;
}

static void read_limit(request *r, const json *j) {
    const bool responses = r->api == API_RESPONSES, chat = r->api == API_CHAT;
    for (const json *m = j->child; m; m = m->next) {
        const bool limit = !strcmp(m->key, "max_tokens") || (chat && !strcmp(m->key, "max_completion_tokens")) ||
                           (responses && !strcmp(m->key, "max_output_tokens"));
        if (limit) r->max_tokens = !(m->number >= 0) ? 0 : m->number > 2147483647.0 ? 2147483647 : (int)m->number;
    }
}

bool api_parse(request *r, api_kind api, const char *body, int default_tokens, call_memory *calls, char *err, size_t size) {
    *r = (request){.api = api, .max_tokens = default_tokens};
    if (!request_is_sound(api, body, err, size)) return false;
    json *j = json_first(body);
    if (!j) {
        snprintf(err, size, "invalid JSON request");
        return false;
    }
    r->model_given = json_get(j, "model") != NULL;
    r->model = text_copy(json_text(j, "model", ""));
    r->stream = json_flag(j, "stream", false);
    r->include_usage = json_flag(json_get(j, "stream_options"), "include_usage", false);
    r->think = wants_thinking(j, r);
    read_limit(r, j);
    const json *tools = api == API_COMPLETION ? NULL : json_get(j, "tools");
    if (!tools_off(j, api)) add_tools(r, tools);

    conversation c = {0};
    if (api == API_CHAT) read_chat(&c, json_get(j, "messages"));
    else if (api == API_MESSAGES) read_messages(&c, json_get(j, "messages"), json_get(j, "system"));
    else if (api == API_RESPONSES) read_responses(&c, json_get(j, "input"), json_get(j, "instructions"));
    else {
        const json *prompt = json_get(j, "prompt");
        if (prompt && prompt->type == J_ARRAY) prompt = prompt->child;
        add_message(&c, "system", text_copy("You are a helpful assistant"));
        add_message(&c, "user", text_copy(prompt && prompt->type == J_STRING ? prompt->string : ""));
    }
    const bool ok = api == API_CHAT || api == API_COMPLETION || results_belong(r, &c, calls, err, size);
    if (ok) {
        remember_last(r, &c);
        r->prompt_text = render(&c, tools, r);
    }
    free_conversation(&c);
    json_free(j);
    if (!ok) api_free(r);
    return ok;
}

void api_free(request *r) {
    for (int i = 0; i < r->n_tools; i++) free(r->tools[i]);
    free(r->tools);
    free(r->model);
    free(r->prompt_text);
    free(r->last_user);
    free(r->tool_result);
    free(r->live_id);
    memset(r, 0, sizeof(*r));
}
