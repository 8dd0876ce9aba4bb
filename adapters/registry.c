/* A content is in one state, a slot in one state, and the two agree (adapter_registry_check):
 *
 *     content   KNOWN    PLANNED  LOADING  RESIDENT
 *     slot      -        PLANNED  LOADING  RESIDENT       and, without a content: FREE, STALE, REMOVING
 *
 * A content whose name is gone and that nobody holds is freed at once, unless a taken job still reads it.
 */
#include "adapters/registry.h"

#include "adapters/name_index.h"

typedef enum slot_state {
    SLOT_FREE,     /* holds no weights */
    SLOT_PLANNED,  /* a content is to come; nobody has taken the job */
    SLOT_LOADING,  /* the job is taken */
    SLOT_RESIDENT, /* holds a content's weights */
    SLOT_STALE,    /* holds weights of a content that is gone; nobody has taken their removal */
    SLOT_REMOVING  /* their removal is taken */
} slot_state;

typedef struct adapter_slot {
    slot_state state;
    adapter_content *content; /* PLANNED, LOADING, RESIDENT */
    bool evicts;              /* PLANNED, LOADING: it holds other weights; they go first */
    uint64_t planned_at;      /* PLANNED, STALE: jobs are taken in this order */
} adapter_slot;

struct adapter_content {
    uint64_t id;
    adapter_weights *weights;
    uint32_t slot; /* ADAPTER_NO_SLOT: state KNOWN */
    uint32_t holds, pins;
    bool resident;                    /* its slot holds its weights */
    bool known;                       /* its name leads to it */
    bool kept;                        /* while known: its slot is not given away */
    adapter_content *next_in_bucket;  /* of names, while known */
    adapter_content *older, *younger; /* among the unpinned residents */
    char name[ADAPTER_NAME_BYTES_MAX + 1];
};

struct adapter_registry {
    adapter_registry_options options;
    adapter_slot *slots;        /* [slots_max] */
    adapter_content **contents; /* [contents_max] known and draining, in no order */
    uint32_t contents_count;
    adapter_content **known; /* [contents_max] in the order of adding */
    uint32_t known_count, kept_count;
    adapter_content **buckets; /* [bucket_mask + 1] known ones by name */
    uint32_t bucket_mask;
    adapter_content *oldest, *youngest; /* unpinned residents, least recently unpinned first */
    uint64_t next_id, plans;
};

rc_code adapter_registry_create(const adapter_registry_options *o, adapter_registry **out, rc_msg *msg)
{
    adapter_registry *r = calloc(1, sizeof *r);
    uint32_t buckets = 16;
    while (buckets < o->contents_max && buckets < 1u << 30) buckets *= 2;
    if (r) {
        r->options = *o;
        r->slots = calloc((size_t)o->slots_max + 1, sizeof *r->slots);
        r->contents = calloc((size_t)o->contents_max + 1, sizeof *r->contents);
        r->known = calloc((size_t)o->contents_max + 1, sizeof *r->known);
        r->buckets = calloc(buckets, sizeof *r->buckets);
        r->bucket_mask = buckets - 1;
        r->next_id = 1;
    }
    if (!r || !r->slots || !r->contents || !r->known || !r->buckets) {
        adapter_registry_destroy(r);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for %u adapter slots and %u adapters",
                       o->slots_max, o->contents_max);
    }
    *out = r;
    return RC_OK;
}

void adapter_registry_destroy(adapter_registry *r)
{
    if (!r) return;
    for (uint32_t i = 0; i < r->contents_count; i++) {
        adapter_weights_free(r->contents[i]->weights);
        free(r->contents[i]);
    }
    free(r->slots);
    free(r->contents);
    free(r->known);
    free(r->buckets);
    free(r);
}

static bool is_loading(const adapter_registry *r, const adapter_content *c)
{
    return c->slot != ADAPTER_NO_SLOT && r->slots[c->slot].state == SLOT_LOADING;
}

static void lru_append(adapter_registry *r, adapter_content *c)
{
    c->older = r->youngest;
    c->younger = NULL;
    *(r->youngest ? &r->youngest->younger : &r->oldest) = c;
    r->youngest = c;
}

static void lru_take(adapter_registry *r, adapter_content *c)
{
    *(c->older ? &c->older->younger : &r->oldest) = c->younger;
    *(c->younger ? &c->younger->older : &r->youngest) = c->older;
    c->older = c->younger = NULL;
}

static adapter_content **find_link(const adapter_registry *r, const char *name)
{
    adapter_content **link = &r->buckets[(uint32_t)adapter_name_hash(name, strlen(name)) & r->bucket_mask];
    while (*link && strcmp((*link)->name, name) != 0) link = &(*link)->next_in_bucket;
    return link;
}

adapter_content *adapter_registry_find(const adapter_registry *r, const char *name)
{
    return *find_link(r, name);
}

rc_code adapter_registry_add(adapter_registry *r, const char *name, adapter_weights *w, rc_msg *msg)
{
    size_t bytes = strlen(name);
    if (bytes == 0 || bytes > ADAPTER_NAME_BYTES_MAX)
        return rc_fail(RC_INVALID_ARGUMENT, msg, "an adapter's name has 1 to %d bytes, '%.100s%s' has %zu",
                       ADAPTER_NAME_BYTES_MAX, name, bytes > 100 ? "..." : "", bytes);
    adapter_content **link = find_link(r, name);
    if (*link) return rc_fail(RC_ALREADY_EXISTS, msg, "adapter '%s' is loaded already", name);
    if (r->contents_count == r->options.contents_max)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "adapter '%s': %u adapters are loaded, no more fit", name,
                       r->contents_count);
    adapter_content *c = calloc(1, sizeof *c);
    if (!c) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "adapter '%s': no memory", name);
    c->id = r->next_id++;
    c->weights = w;
    c->slot = ADAPTER_NO_SLOT;
    c->known = true;
    memcpy(c->name, name, bytes + 1);
    *link = c;
    r->contents[r->contents_count++] = c;
    r->known[r->known_count++] = c;
    return RC_OK;
}

/* Takes the content out of its slot, which is not loading; weights that stay in it become stale. */
static void leave_slot(adapter_registry *r, adapter_content *c)
{
    adapter_slot *s = &r->slots[c->slot];
    bool holds_weights = s->state == SLOT_RESIDENT || s->evicts;
    if (s->state == SLOT_RESIDENT) lru_take(r, c);
    *s = (adapter_slot){.state = holds_weights ? SLOT_STALE : SLOT_FREE, .planned_at = r->plans++};
    c->slot = ADAPTER_NO_SLOT;
    c->resident = false;
}

/* Frees a content that nothing leads to any more; one that a taken job reads goes when the job is done. */
static void free_if_gone(adapter_registry *r, adapter_content *c)
{
    if (c->known || c->holds || is_loading(r, c)) return;
    RC_ASSERT(c->pins == 0);
    if (c->slot != ADAPTER_NO_SLOT) leave_slot(r, c);
    uint32_t at = 0;
    while (r->contents[at] != c) at++;
    r->contents[at] = r->contents[--r->contents_count];
    adapter_weights_free(c->weights);
    free(c);
}

rc_code adapter_registry_remove(adapter_registry *r, const char *name, rc_msg *msg)
{
    adapter_content **link = find_link(r, name), *c = *link;
    uint32_t at = 0;
    if (!c) return rc_fail(RC_NOT_FOUND, msg, "adapter '%.200s' is not loaded", name);
    *link = c->next_in_bucket;
    while (r->known[at] != c) at++;
    memmove(&r->known[at], &r->known[at + 1], (r->known_count - at - 1) * sizeof *r->known);
    r->known_count--;
    c->known = false;
    r->kept_count -= c->kept;
    c->kept = false;
    free_if_gone(r, c);
    return RC_OK;
}

const adapter_content *adapter_registry_with_id(const adapter_registry *r, uint64_t id)
{
    for (uint32_t i = 0; i < r->contents_count; i++)
        if (r->contents[i]->id == id) return r->contents[i];
    return NULL;
}

void adapter_hold(adapter_registry *r, adapter_content *c)
{
    (void)r;
    RC_ASSERT(c->known || c->holds > 0);
    c->holds++;
}

void adapter_release(adapter_registry *r, adapter_content *c)
{
    RC_ASSERT(c->holds > 0);
    c->holds--;
    free_if_gone(r, c);
}

/* A slot that may be given away: an empty one, else one with stale weights, else the least recently
 * unpinned content's, which nobody must hold unless `from_held`. ADAPTER_NO_SLOT: there is none. */
static uint32_t choose_slot(const adapter_registry *r, bool from_held)
{
    uint32_t stale = ADAPTER_NO_SLOT;
    for (uint32_t s = 0; s < r->options.slots_max; s++) {
        if (r->slots[s].state == SLOT_FREE) return s;
        if (r->slots[s].state == SLOT_STALE && stale == ADAPTER_NO_SLOT) stale = s;
    }
    if (stale != ADAPTER_NO_SLOT) return stale;
    const adapter_content *given = r->oldest;
    while (given && (given->kept || (given->holds && !from_held))) given = given->younger;
    return given ? given->slot : ADAPTER_NO_SLOT;
}

static void plan_load(adapter_registry *r, adapter_content *c, bool from_held)
{
    uint32_t slot = choose_slot(r, from_held);
    if (slot == ADAPTER_NO_SLOT) return;
    adapter_slot *s = &r->slots[slot];
    if (s->state == SLOT_RESIDENT) leave_slot(r, s->content);
    *s = (adapter_slot){SLOT_PLANNED, c, s->state == SLOT_STALE, r->plans++};
    c->slot = slot;
}

rc_code adapter_registry_keep(adapter_registry *r, const char *name, rc_msg *msg)
{
    adapter_content *c = adapter_registry_find(r, name);
    if (!c) return rc_fail(RC_NOT_FOUND, msg, "adapter '%.200s' is not loaded", name);
    if (c->kept) return RC_OK;
    if (r->kept_count + 1 >= r->options.slots_max)
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg,
                       "adapter '%.200s': %u of %u slots (--max-loras) are pinned, and one must be left for "
                       "others",
                       name, r->kept_count, r->options.slots_max);
    c->kept = true;
    r->kept_count++;
    if (c->slot == ADAPTER_NO_SLOT) plan_load(r, c, true);
    return RC_OK;
}

uint32_t adapter_pin(adapter_registry *r, adapter_content *c)
{
    RC_ASSERT(c->holds > 0);
    if (c->slot == ADAPTER_NO_SLOT) plan_load(r, c, true);
    if (!c->resident) return ADAPTER_NO_SLOT;
    if (c->pins++ == 0) lru_take(r, c);
    return c->slot;
}

bool adapter_prefetch(adapter_registry *r, adapter_content *c)
{
    RC_ASSERT(c->holds > 0);
    if (c->slot == ADAPTER_NO_SLOT) plan_load(r, c, false);
    return c->slot != ADAPTER_NO_SLOT;
}

bool adapter_is_coming(const adapter_content *c) { return c->slot != ADAPTER_NO_SLOT && !c->resident; }
bool adapter_is_awaited(const adapter_content *c) { return c->holds > c->pins; }

void adapter_unpin(adapter_registry *r, adapter_content *c)
{
    RC_ASSERT(c->pins > 0);
    if (--c->pins == 0) lru_append(r, c);
}

bool adapter_registry_next_job(adapter_registry *r, adapter_job *job)
{
    adapter_slot *first = NULL;
    for (uint32_t i = 0; i < r->options.slots_max; i++) {
        adapter_slot *s = &r->slots[i];
        if (s->state != SLOT_PLANNED && s->state != SLOT_STALE) continue;
        if (!first || s->planned_at < first->planned_at) first = s;
    }
    if (!first) return false;
    bool loads = first->state == SLOT_PLANNED;
    *job = (adapter_job){
        .slot = (uint32_t)(first - r->slots),
        .content = first->content,
        .weights = loads ? first->content->weights : NULL,
        .evicts = !loads || first->evicts,
    };
    first->state = loads ? SLOT_LOADING : SLOT_REMOVING;
    return true;
}

void adapter_registry_job_done(adapter_registry *r, const adapter_job *job, bool ok)
{
    RC_ASSERT(job->slot < r->options.slots_max);
    adapter_slot *s = &r->slots[job->slot];
    adapter_content *c = s->content;
    RC_ASSERT(c == job->content && s->state == (c ? SLOT_LOADING : SLOT_REMOVING));
    if (!c || !ok) *s = (adapter_slot){.state = SLOT_FREE};
    if (!c) return;
    if (ok) {
        *s = (adapter_slot){.state = SLOT_RESIDENT, .content = c};
        c->resident = true;
        lru_append(r, c);
    } else {
        c->slot = ADAPTER_NO_SLOT;
    }
    free_if_gone(r, c);
}

uint64_t adapter_content_id(const adapter_content *c)
{
    return c->id;
}
const char *adapter_content_name(const adapter_content *c)
{
    return c->name;
}
const adapter_weights *adapter_content_weights(const adapter_content *c)
{
    return c->weights;
}
uint32_t adapter_registry_count(const adapter_registry *r)
{
    return r->known_count;
}

uint32_t adapter_content_slot(const adapter_content *c)
{
    return c->resident ? c->slot : ADAPTER_NO_SLOT;
}

adapter_content *adapter_registry_at(const adapter_registry *r, uint32_t index)
{
    RC_ASSERT(index < r->known_count);
    return r->known[index];
}

static void check_slots(const adapter_registry *r)
{
    for (uint32_t i = 0; i < r->options.slots_max; i++) {
        const adapter_slot *s = &r->slots[i];
        bool occupied = s->state == SLOT_PLANNED || s->state == SLOT_LOADING || s->state == SLOT_RESIDENT;
        RC_ASSERT(occupied == (s->content != NULL));
        RC_ASSERT(!occupied ||
                  (s->content->slot == i && s->content->resident == (s->state == SLOT_RESIDENT)));
    }
}

/* Gives the number of unpinned residents in the list, which is linked both ways. */
static uint32_t check_lru(const adapter_registry *r)
{
    uint32_t count = 0;
    const adapter_content *older = NULL;
    for (const adapter_content *c = r->oldest; c; older = c, c = c->younger, count++) {
        RC_ASSERT(c->older == older && c->resident && c->pins == 0);
        RC_ASSERT(count < r->options.slots_max);
    }
    RC_ASSERT(r->youngest == older);
    return count;
}

void adapter_registry_check(const adapter_registry *r)
{
    uint32_t known = 0, unpinned = 0, kept = 0;
    RC_ASSERT(r->contents_count <= r->options.contents_max);
    check_slots(r);
    for (uint32_t i = 0; i < r->contents_count; i++) {
        const adapter_content *c = r->contents[i];
        RC_ASSERT(c->slot == ADAPTER_NO_SLOT ? !c->resident : r->slots[c->slot].content == c);
        RC_ASSERT(c->pins == 0 || (c->resident && c->holds > 0));
        RC_ASSERT(c->known || c->holds || is_loading(r, c));
        RC_ASSERT(!c->known || adapter_registry_find(r, c->name) == c);
        RC_ASSERT(c->known || !c->kept);
        known += c->known;
        kept += c->kept;
        unpinned += c->resident && c->pins == 0;
    }
    RC_ASSERT(known == r->known_count && kept == r->kept_count);
    RC_ASSERT(kept == 0 || kept < r->options.slots_max);
    for (uint32_t i = 0; i < r->known_count; i++)
        RC_ASSERT(r->known[i]->known && (i == 0 || r->known[i - 1]->id < r->known[i]->id));
    RC_ASSERT(check_lru(r) == unpinned);
}
