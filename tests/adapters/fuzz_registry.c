/* The registry against a naive model: random operations, the model's answer to each, and
 * adapter_registry_check after each.
 *
 * usage: fuzz_registry [SEED [SEEDS [STEPS]]]   one line on a failure repeats it
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/registry.h"

enum { NAMES = 12, CONTENTS = 16, SLOTS_MAX = 5, REQUESTS = 24, JOBS = 8 };

#define CHECK(x) ((x) ? (void)0 : failed(#x, __LINE__))

/* A loaded content as the model sees it; never moves, found by its id. */
typedef struct model_content {
    adapter_content *real; /* NULL: free */
    uint64_t id;
    int name; /* -1: removed */
    unsigned holds, pins;
    bool resident;
    bool loading;         /* a job of it is taken */
    uint64_t unpinned_at; /* order of unpinning, while resident and unpinned */
    uint32_t slot;
} model_content;

typedef struct model_request {
    model_content *content; /* NULL: free */
    bool pinned;
} model_request;

typedef struct model {
    adapter_registry *r;
    uint32_t slots_max;
    model_content contents[CONTENTS];
    model_request requests[REQUESTS];
    adapter_job jobs[JOBS];
    unsigned jobs_count;
    uint64_t clock, ids_seen, random, seed, step;
} model;

static model *current;

static void failed(const char *what, int line)
{
    fprintf(stderr, "fuzz_registry.c:%d: %s; repeat with: fuzz_registry %llu 1 %llu\n", line, what,
            (unsigned long long)current->seed, (unsigned long long)current->step + 1);
    abort();
}

static uint32_t below(model *m, uint32_t limit)
{
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return (uint32_t)((m->random >> 32) * limit >> 32);
}

static model_content *by_real(model *m, const adapter_content *real)
{
    for (int i = 0; i < CONTENTS; i++)
        if (m->contents[i].real == real) return &m->contents[i];
    failed("a content that the model knows", __LINE__);
    return NULL;
}

static model_content *by_name(model *m, int name)
{
    for (int i = 0; i < CONTENTS; i++)
        if (m->contents[i].real && m->contents[i].name == name) return &m->contents[i];
    return NULL;
}

static void drop_if_gone(model_content *c)
{
    if (c->real && c->name < 0 && c->holds == 0 && !c->loading) memset(c, 0, sizeof *c);
}

static void name_text(int name, char text[32])
{
    snprintf(text, 32, "adapter-%d", name);
}

static void do_add(model *m)
{
    int name = (int)below(m, NAMES);
    char text[32];
    model_content *free_one = NULL;
    for (int i = 0; i < CONTENTS; i++)
        if (!m->contents[i].real) free_one = &m->contents[i];
    name_text(name, text);
    adapter_weights *w = calloc(1, sizeof *w);
    rc_msg msg;
    rc_code code = adapter_registry_add(m->r, text, w, &msg);
    if (code != RC_OK) adapter_weights_free(w);
    CHECK(code == (by_name(m, name) ? RC_ALREADY_EXISTS : free_one ? RC_OK : RC_RESOURCE_EXHAUSTED));
    if (code != RC_OK) return;
    adapter_content *real = adapter_registry_find(m->r, text);
    CHECK(real && adapter_content_weights(real) == w && strcmp(adapter_content_name(real), text) == 0);
    CHECK(adapter_content_id(real) > m->ids_seen);
    m->ids_seen = adapter_content_id(real);
    *free_one = (model_content){.real = real, .id = m->ids_seen, .name = name};
}

static void do_remove(model *m)
{
    int name = (int)below(m, NAMES);
    char text[32];
    name_text(name, text);
    model_content *c = by_name(m, name);
    CHECK(adapter_registry_remove(m->r, text, NULL) == (c ? RC_OK : RC_NOT_FOUND));
    CHECK(!adapter_registry_find(m->r, text));
    if (!c) return;
    c->name = -1;
    drop_if_gone(c);
}

static void do_hold(model *m)
{
    model_request *q = &m->requests[below(m, REQUESTS)];
    model_content *c = by_name(m, (int)below(m, NAMES));
    if (q->content || !c) return;
    adapter_hold(m->r, c->real);
    c->holds++;
    q->content = c;
}

static void unpin(model *m, model_request *q)
{
    adapter_unpin(m->r, q->content->real);
    q->pinned = false;
    if (--q->content->pins == 0) q->content->unpinned_at = ++m->clock;
}

static void do_release(model *m)
{
    model_request *q = &m->requests[below(m, REQUESTS)];
    if (!q->content) return;
    if (q->pinned) unpin(m, q);
    adapter_release(m->r, q->content->real);
    q->content->holds--;
    drop_if_gone(q->content);
    q->content = NULL;
}

/* The unpinned resident whose last pin ended first; NULL: none. */
static model_content *oldest_unpinned(model *m, bool from_held)
{
    model_content *oldest = NULL;
    for (int i = 0; i < CONTENTS; i++) {
        model_content *c = &m->contents[i];
        if (!from_held && c->holds) continue;
        if (c->real && c->resident && c->pins == 0 && (!oldest || c->unpinned_at < oldest->unpinned_at))
            oldest = c;
    }
    return oldest;
}

/* Whoever lost residence by a pin or a prefetch was the least recently unpinned, and only one did. */
static void check_evicted(model *m, model_content *oldest)
{
    for (int i = 0; i < CONTENTS; i++) {
        model_content *c = &m->contents[i];
        if (!c->real || !c->resident || adapter_content_slot(c->real) != ADAPTER_NO_SLOT) continue;
        CHECK(c == oldest && c->pins == 0);
        c->resident = false;
    }
}

static void do_pin(model *m)
{
    model_request *q = &m->requests[below(m, REQUESTS)];
    if (!q->content || q->pinned) return;
    model_content *c = q->content, *oldest = oldest_unpinned(m, true);
    uint32_t slot = adapter_pin(m->r, c->real);
    CHECK((slot != ADAPTER_NO_SLOT) == c->resident);
    if (slot != ADAPTER_NO_SLOT) {
        CHECK(slot == c->slot && slot < m->slots_max);
        c->pins++;
        q->pinned = true;
    }
    check_evicted(m, oldest);
}

static void do_prefetch(model *m)
{
    model_request *q = &m->requests[below(m, REQUESTS)];
    if (!q->content) return;
    model_content *oldest = oldest_unpinned(m, false);
    if (!adapter_prefetch(m->r, q->content->real)) CHECK(!q->content->resident && !oldest);
    check_evicted(m, oldest);
}

static void do_unpin(model *m)
{
    model_request *q = &m->requests[below(m, REQUESTS)];
    if (q->content && q->pinned) unpin(m, q);
}

static void do_take_job(model *m)
{
    adapter_job job;
    if (m->jobs_count == JOBS || !adapter_registry_next_job(m->r, &job)) return;
    CHECK(job.slot < m->slots_max && (job.content || job.evicts));
    for (unsigned i = 0; i < m->jobs_count; i++) CHECK(m->jobs[i].slot != job.slot);
    for (int i = 0; i < CONTENTS; i++)
        CHECK(!m->contents[i].real || !m->contents[i].resident || m->contents[i].slot != job.slot);
    if (job.content) {
        model_content *c = by_real(m, job.content);
        CHECK(!c->resident && !c->loading && job.weights == adapter_content_weights(job.content));
        c->loading = true;
    }
    m->jobs[m->jobs_count++] = job;
}

static void do_end_job(model *m)
{
    if (m->jobs_count == 0) return;
    unsigned at = below(m, m->jobs_count);
    adapter_job job = m->jobs[at];
    bool ok = below(m, 8) != 0;
    m->jobs[at] = m->jobs[--m->jobs_count];
    model_content *c = job.content ? by_real(m, job.content) : NULL;
    adapter_registry_job_done(m->r, &job, ok);
    if (!c) return;
    c->loading = false;
    c->resident = ok;
    c->slot = job.slot;
    c->unpinned_at = ++m->clock;
    drop_if_gone(c);
}

/* Everything that can be asked gives the model's answer. */
static void compare(model *m)
{
    uint32_t known = 0, resident = 0;
    adapter_registry_check(m->r);
    for (int i = 0; i < CONTENTS; i++) {
        model_content *c = &m->contents[i];
        if (!c->real) continue;
        CHECK(adapter_content_id(c->real) == c->id);
        CHECK(adapter_content_slot(c->real) == (c->resident ? c->slot : ADAPTER_NO_SLOT));
        known += c->name >= 0;
        resident += c->resident;
    }
    CHECK(known == adapter_registry_count(m->r) && resident <= m->slots_max);
}

static void run(uint64_t seed, uint64_t steps)
{
    static void (*const operations[])(model *) = {
        do_add, do_remove, do_hold,  do_hold,     do_release,  do_pin,     do_pin,
        do_pin, do_prefetch, do_unpin,  do_unpin, do_take_job, do_take_job, do_end_job, do_end_job,
    };
    model m = {.seed = seed, .random = seed * 0x9e3779b97f4a7c15ull + 0x1234567};
    current = &m;
    m.slots_max = below(&m, SLOTS_MAX + 1);
    const adapter_registry_options options = {m.slots_max, CONTENTS};
    rc_msg msg;
    if (adapter_registry_create(&options, &m.r, &msg) != RC_OK) failed(msg.text, __LINE__);
    for (m.step = 0; m.step < steps; m.step++) {
        operations[below(&m, sizeof operations / sizeof *operations)](&m);
        compare(&m);
    }
    adapter_registry_destroy(m.r);
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t seeds = argc > 2 ? strtoull(argv[2], NULL, 10) : 60;
    uint64_t steps = argc > 3 ? strtoull(argv[3], NULL, 10) : 3000;
    for (uint64_t s = seed; s < seed + seeds; s++) run(s, steps);
    printf("fuzz_registry %llu %llu %llu: ok\n", (unsigned long long)seed, (unsigned long long)seeds,
           (unsigned long long)steps);
    return 0;
}
