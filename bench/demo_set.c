#include "bench/demo_set.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Appends a turn to *text (malloc'ed; NULL at first). */
static bool add_turn(char **text, const char *role, const char *content)
{
    size_t had = *text ? strlen(*text) : 0;
    size_t room = had + strlen(role) + strlen(content) + 64;
    char *grown = realloc(*text, room);
    if (!grown) return false;
    *text = grown;
    snprintf(grown + had, room - had, "<|im_start|>%s\n%s<|im_end|>\n", role, content);
    return true;
}

static bool add_text(char **text, const char *more)
{
    size_t had = strlen(*text);
    char *grown = realloc(*text, had + strlen(more) + 1);
    if (!grown) return false;
    *text = grown;
    memcpy(grown + had, more, strlen(more) + 1);
    return true;
}

static bool read_example(const json_t *from, const char *system, demo_example *to)
{
    const char *team = json_string_value(json_object_get(from, "team"));
    json_t *messages = json_object_get(from, "messages"), *message;
    size_t i;
    if (!team || !json_is_array(messages)) return false;
    to->team = strdup(team);
    to->text = strdup(system);
    if (!to->team || !to->text) return false;
    json_array_foreach(messages, i, message) {
        const char *role = json_string_value(json_object_get(message, "role"));
        const char *content = json_string_value(json_object_get(message, "content"));
        if (!role || !content || !add_turn(&to->text, role, content)) return false;
    }
    return add_text(&to->text, "<|im_start|>assistant\n");
}

static bool read_set(const json_t *root, demo_set *set)
{
    const char *system = json_string_value(json_object_get(root, "system"));
    json_t *teams = json_object_get(root, "teams"), *examples = json_object_get(root, "examples"), *item;
    size_t i;
    if (!system || !json_is_array(teams) || !json_is_array(examples)) return false;
    if (!add_turn(&set->system, "system", system)) return false;
    set->teams = calloc(json_array_size(teams) + 1, sizeof *set->teams);
    set->examples = calloc(json_array_size(examples) + 1, sizeof *set->examples);
    if (!set->teams || !set->examples) return false;
    json_array_foreach(teams, i, item) {
        if (!json_is_string(item) || !(set->teams[i] = strdup(json_string_value(item)))) return false;
        set->teams_count = i + 1;
    }
    json_array_foreach(examples, i, item) {
        set->examples_count = i + 1;
        if (!read_example(item, set->system, &set->examples[i])) return false;
    }
    return true;
}

rc_code demo_set_read(const char *path, demo_set *set, rc_msg *msg)
{
    json_error_t error;
    memset(set, 0, sizeof *set);
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!root) return rc_fail(RC_NOT_FOUND, msg, "%s: %s", path, error.text);
    bool ok = read_set(root, set);
    json_decref(root);
    if (ok) return RC_OK;
    demo_set_free(set);
    return rc_fail(RC_INVALID_ARGUMENT, msg, "%s is not a set of conversations", path);
}

void demo_set_free(demo_set *set)
{
    for (size_t i = 0; i < set->examples_count; i++) {
        free(set->examples[i].text);
        free(set->examples[i].team);
    }
    for (size_t i = 0; i < set->teams_count; i++) free(set->teams[i]);
    free(set->examples);
    free(set->teams);
    free(set->system);
    memset(set, 0, sizeof *set);
}

const char *demo_set_team_in(const demo_set *set, const char *text)
{
    const char *first = NULL, *found = NULL;
    for (size_t i = 0; i < set->teams_count; i++) {
        const char *at = strcasestr(text, set->teams[i]);
        if (at && (!first || at < first)) {
            first = at;
            found = set->teams[i];
        }
    }
    return found;
}
