/* The models that the server lists. */
#include <string.h>

#include "state.h"

#define MODEL_CREATED 1767225600

static void model_json(buf *b, const char *id) {
    const options *o = &server.e.opt;
    static const char *const parameters[] = {"tools", "tool_choice", "max_tokens", "temperature", "top_p", "top_k", "min_p",
#if DS4_GENERATION >= GEN_SEPTEMBER
                                             "ignore_eos",
#endif
                                             "stop", "seed", "stream", "reasoning_effort"};
    buf_printf(b, "{\"id\":\"%s\",\"object\":\"model\",\"created\":%d,\"owned_by\":\"ds4.c\",\"name\":\"%s\",\"context_length\":%d,"
               "\"top_provider\":{\"context_length\":%d,\"max_completion_tokens\":%d,\"is_moderated\":false},\"supported_parameters\":[",
               id, MODEL_CREATED, shape_name(server.e.model.shape), o->ctx, o->ctx, o->tokens < o->ctx ? o->tokens : o->ctx);
    for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++) buf_printf(b, "%s\"%s\"", i ? "," : "", parameters[i]);
    buf_puts(b, "]}");
}

const char *own_model_id(void) {
    static const char *const ids[] = {[SHAPE_FLASH] = "deepseek-v4-flash", [SHAPE_PRO] = "deepseek-v4-pro",
                                      [SHAPE_FLASH41] = "deepseek-v4.1-flash"};
    return ids[server.e.model.shape];
}

/* Ids that a path may name, whatever is loaded. */
static const char *const model_ids[] = {"deepseek-v4-flash", "deepseek-v4-pro", "glm-5.2", "glm-5.2-chat", "glm-5.2-no-think",
                                        "glm-5.2-nothink", "glm-5.2-reasoner", "zai/glm-5.2", "zai/glm-5.2-chat",
                                        "zai/glm-5.2-reasoner"};
#define N_MODEL_IDS (DS4_GENERATION >= GEN_JULY ? (int)(sizeof(model_ids) / sizeof(model_ids[0])) : 1)
#define N_LISTED (DS4_GENERATION >= GEN_JULY ? 2 : 1)

bool serve_models(int fd, const char *path) {
    static const char prefix[] = "/v1/models";
    if (strncmp(path, prefix, strlen(prefix)) != 0) return false;
    const char *rest = path + strlen(prefix);
    buf b = {0};
    if (!*rest) {
        buf_puts(&b, "{\"object\":\"list\",\"data\":[");
        const bool alone = server.e.model.shape == SHAPE_FLASH41;
        for (int i = 0; i < (alone ? 1 : N_LISTED); i++) {
            if (i) buf_puts(&b, ",");
            model_json(&b, alone ? own_model_id() : model_ids[i]);
        }
        buf_puts(&b, "]}");
    }
    for (int i = 0; i < N_MODEL_IDS; i++)
        if (*rest == '/' && !strcmp(rest + 1, model_ids[i])) model_json(&b, model_ids[i]);
    if (!b.len && *rest == '/' && !strcmp(rest + 1, own_model_id())) model_json(&b, own_model_id());
    if (!b.len) return false;
    buf_puts(&b, "\n");
    http_reply(fd, server.e.opt.cors, 200, "application/json", b.ptr);
    buf_free(&b);
    return true;
}
