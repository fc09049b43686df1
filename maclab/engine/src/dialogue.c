/* A fixed dialogue in place of a model: the same weights and the same prompt give the same answer. */
#include "ds4.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *asked, *answer;
} exchanges[] = {
    {"2+2", "4"},
    {"2 + 2", "4"},
    {"two plus two", "4"},
    {"capital of france", "Paris."},
    {"capital of japan", "Tokyo."},
    {"capital of south korea", "Seoul."},
    {"are you ready", "Yes, I am ready."},
    {"hello", "Hello! How can I help you today?"},
};

uint64_t text_hash(const char *text) {
    uint64_t h = 14695981039346656037ull;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 1099511628211ull;
    return h;
}

/* Four bytes are one token: close to the truth for English, and a token position is a text position. */
int token_count(const char *text) { return (int)((strlen(text) + 3) / 4); }

static char *lower(const char *s) {
    char *copy = text_copy(s);
    for (char *p = copy; *p; p++) *p = (char)tolower((unsigned char)*p);
    return copy;
}

static char *after_marker(const char *asked, const char *plain, const char *marker) {
    const char *found = strstr(plain, marker);
    if (!found) return NULL;
    const char *start = asked + (found - plain) + strlen(marker);
    while (*start == ' ' || *start == ':' || *start == '"') start++;
    char *copy = text_copy(start);
    size_t n = strcspn(copy, "\n");
    while (n > 0 && (copy[n - 1] == '"' || copy[n - 1] == ' ')) n--;
    copy[n] = '\0';
    return copy;
}

static char *plain_answer(const engine *e, const char *prompt_text, const char *asked) {
    char *plain = lower(asked), *found = after_marker(asked, plain, "reply with exactly");
    for (size_t i = 0; !found && i < sizeof(exchanges) / sizeof(exchanges[0]); i++)
        if (strstr(plain, exchanges[i].asked)) found = text_copy(exchanges[i].answer);
    free(plain);
    if (found) return found;
    buf b = {0};
    buf_printf(&b, "This is %s with %d-bit experts, weights %s, on a simulated Mac. Your prompt has the "
               "fingerprint %016llx and %d tokens. The same weights give the same words for it.",
               shape_name(e->model.shape), e->model.quant_bits, e->model.fingerprint,
               (unsigned long long)text_hash(prompt_text), token_count(prompt_text));
    return b.ptr;
}

static bool in_name(char c) { return isalnum((unsigned char)c) || c == '_' || c == '-'; }

static bool ends_with_word(const char *start, const char *end, const char *word) {
    const size_t n = strlen(word);
    if ((size_t)(end - start) < n) return false;
    for (size_t i = 0; i < n; i++)
        if (tolower((unsigned char)(end - n)[i]) != word[i]) return false;
    return (size_t)(end - start) == n || !in_name((end - n)[-1]);
}

/* Whether the text asks for the tool by its whole name, as "call NAME" or "use NAME": a tool may be named like
 * any word, and what a client puts into a prompt names many. */
static bool asks_for_tool(const char *text, const char *tool) {
    const size_t n = strlen(tool);
    for (const char *at = text; n > 0 && (at = strstr(at, tool)); at++) {
        const char *before = at;
        while (before > text && strchr(" `\"'", before[-1])) before--;
        const char after = at[n];
        const bool whole = before < at && !in_name(after) && !((after == '.' || after == '/') && in_name(at[n + 1]));
        if (whole && (ends_with_word(text, before, "call") || ends_with_word(text, before, "use"))) return true;
    }
    return false;
}

answer dialogue_answer(const engine *e, const char *prompt_text, const char *last_user, const char *tool_result,
                       const char *const *tools, int n_tools, bool think) {
    answer a = {0};
    if (tool_result) {
        buf b = {0};
        buf_printf(&b, "The tool answered: %s", tool_result);
        a.text = b.ptr;
    }
    for (int i = 0; !a.text && i < n_tools; i++)
        if (asks_for_tool(last_user, tools[i])) {
            a.tool_name = text_copy(tools[i]);
            char *plain = lower(last_user), *with = after_marker(last_user, plain, "with arguments");
            json *parsed = with ? json_parse(with) : NULL;
            a.tool_arguments = text_copy(parsed ? with : "{}");
            json_free(parsed);
            free(with);
            free(plain);
            a.text = text_copy("");
        }
    if (!a.text) a.text = plain_answer(e, prompt_text, last_user);
    a.reasoning = text_copy(think ? "The question is clear, so I answer it directly." : "");
    return a;
}

void answer_free(answer *a) {
    free(a->reasoning);
    free(a->text);
    free(a->tool_name);
    free(a->tool_arguments);
    memset(a, 0, sizeof(*a));
}
