#include <string.h>

#include "runtime/base/flags.h"

enum { COLUMNS = 80, HELP_COLUMN = 34 };

/* "-t, --threads N", "--[no-]enable-prefix-caching"; gives its length. */
static int usage_of(const rt_flag *f, char *out, size_t max)
{
    bool is_truth = f->kind == RT_FLAG_BOOL || f->kind == RT_FLAG_TRUTH;
    int n = snprintf(out, max, "%s%s%s--%s%s%s%s", f->alias ? "-" : "", f->alias ? f->alias : "",
                     f->alias ? ", " : "", is_truth && f->value ? f->value : "", f->name, is_truth ? "" : " ",
                     is_truth ? "" : f->value);
    for (char *c = strstr(out, "--"); *c && *c != ' '; c++) /* of the name, not of values */
        if (*c == '_') *c = '-';
    return n;
}

void rt_flags_help(const rt_flag_set *sets, size_t sets_count, FILE *out)
{
    char usage[COLUMNS * 2];
    for (size_t s = 0; s < sets_count; s++) {
        if (sets[s].title) fprintf(out, "%s\n", sets[s].title);
        for (size_t i = 0; i < sets[s].count; i++) {
            const rt_flag *f = &sets[s].flags[i];
            if (!f->help) continue;
            usage_of(f, usage, sizeof usage);
            fprintf(out, "  %-*s %s\n", HELP_COLUMN - 3, usage, f->help);
        }
    }
}

/* As when they are parsed, the first set that has a name has it. */
static bool is_taken(const rt_flag_set *sets, size_t sets_count, const char *name)
{
    for (size_t s = 0; s < sets_count; s++)
        for (size_t i = 0; i < sets[s].count; i++)
            if (rt__is_flag_name(sets[s].flags[i].name, name, strlen(name))) return true;
    return false;
}

static void print_names(const rt_flag_set *sets, size_t at, FILE *out)
{
    char usage[COLUMNS * 2];
    int column = 0;
    fprintf(out, "%s\n", sets[at].title);
    for (size_t i = 0; i < sets[at].count; i++) {
        const rt_flag *f = &sets[at].flags[i];
        if (!f->help || is_taken(sets, at, f->name)) continue;
        int n = usage_of(f, usage, sizeof usage);
        if (column && column + n + 2 > COLUMNS) {
            fprintf(out, "\n");
            column = 0;
        }
        column += fprintf(out, "  %s", usage);
    }
    fprintf(out, "\n");
}

void rt_flags_help_short(const rt_flag_set *sets, size_t sets_count, FILE *out)
{
    for (size_t s = 0; s < sets_count; s++) print_names(sets, s, out);
}
