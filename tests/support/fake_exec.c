#include "tests/support/fake_exec.h"

#include <stdlib.h>
#include <string.h>

#include "adapters/registry.h"
#include "runtime/engine/request.h"

enum { PICK = 1 + RT_TOPS_MAX };

#define POISON 0xdfdfdfdfdfdfdfdfu /* of rows never written and slots never attached */

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t fold(uint64_t sum, uint64_t row) { return (sum ^ row) * 0x9e3779b97f4a7c15u + 1; }

static uint64_t finish_row(uint64_t sum, uint32_t position, int32_t token, uint64_t weights)
{
    return mix(mix(mix(sum + position) + (uint64_t)(uint32_t)token) + weights);
}

uint64_t fake_row(const uint64_t *before, uint32_t position, int32_t token, uint64_t weights)
{
    uint64_t sum = 0;
    for (uint32_t p = 0; p < position; p++) sum = fold(sum, before[p]);
    return finish_row(sum, position, token, weights);
}

void fake_logits(uint64_t row, uint32_t vocab, float *logits)
{
    for (uint32_t v = 0; v < vocab; v++) logits[v] = (float)(mix(row + v) >> 40) * 0x1p-22f;
}

/* ---- the plan of a step must be whole and consistent ---- */

static void check_groups(const fake_exec *f, const kv_plan *p)
{
    uint32_t span = 0;
    for (uint32_t g = 0; g < p->groups_count; g++) {
        const kv_group *group = &p->groups[g];
        RC_ASSERT(group->span == span);
        RC_ASSERT(group->spans > 0);
        RC_ASSERT(group->shared_tokens % f->block_tokens == 0);
        RC_ASSERT(group->shared_tokens % KV_TILE == 0);
        for (uint32_t i = 0; i < group->spans; i++, span++) {
            const kv_span *s = &p->spans[span], *first = &p->spans[group->span];
            RC_ASSERT(s->position >= group->shared_tokens);
            RC_ASSERT(!memcmp(p->tables + s->table, p->tables + first->table,
                              group->shared_tokens / f->block_tokens * sizeof *p->tables));
        }
    }
    RC_ASSERT(span == p->spans_count);
}

/* Slot of each row as the segments tell it. */
static void slots_of_rows(const fake_exec *f, const rt_step *s, uint32_t *slot_of)
{
    for (uint32_t i = 0; i < s->rows; i++) slot_of[i] = ADAPTER_NO_SLOT;
    for (uint32_t g = 0; g < s->adapters.segments_count; g++) {
        const adapter_segment *segment = &s->adapters.segments[g];
        RC_ASSERT(segment->slot < f->slots_max);
        for (uint32_t i = segment->first; i < segment->first + segment->rows; i++) {
            uint32_t row = s->adapters.row_index[i];
            RC_ASSERT(row < s->rows);
            RC_ASSERT(slot_of[row] == ADAPTER_NO_SLOT);
            slot_of[row] = segment->slot;
        }
    }
}

static uint64_t *row_at(const fake_exec *f, const uint32_t *table, uint32_t position)
{
    uint32_t block = table[position / f->block_tokens];
    RC_ASSERT(block < f->blocks_max);
    return &f->rows[(size_t)block * f->block_tokens + position % f->block_tokens];
}

static int32_t known(const fake_exec *f, int32_t token)
{
    if (token >= 0) return token;
    RC_ASSERT((uint32_t)~token < f->drawn_count);
    return f->drawn[~token];
}

static void run_span(fake_exec *f, const rt_step *s, const kv_span *span, const uint32_t *slot_of)
{
    const uint32_t *table = s->kv.tables + span->table;
    uint64_t sum = 0;
    for (uint32_t p = 0; p < span->position; p++) sum = fold(sum, *row_at(f, table, p));
    for (uint32_t i = 0; i < span->rows; i++) {
        uint32_t row = span->row + i, slot = slot_of[row];
        RC_ASSERT(s->positions[row] == span->position + i);
        RC_ASSERT(slot == ADAPTER_NO_SLOT || f->slots[slot] != POISON);
        f->step_rows[row] = finish_row(sum, span->position + i, known(f, s->tokens[row]),
                                       slot == ADAPTER_NO_SLOT ? 0 : f->slots[slot]);
        *row_at(f, table, span->position + i) = f->step_rows[row];
        sum = fold(sum, f->step_rows[row]);
    }
}

/* ---- picking ---- */

static int32_t draw(const fake_exec *f, const float *logits, const rt_pick *p)
{
    uint32_t count = p->history.prompt_count + p->history.generated_count;
    int32_t *tokens = malloc(count * sizeof *tokens);
    void *scratch = malloc(rt_sampler_scratch_bytes(f->vocab));
    rt_history history = {tokens, p->history.prompt_count, p->history.generated_count};
    rt_sampling sampling = *p->sampling;
    RC_ASSERT(tokens && scratch);
    for (uint32_t i = 0; i < count; i++) tokens[i] = known(f, p->history.tokens[i]);
    for (sampling.choice = 0; rt_uniform(&sampling, &history) != p->uniform; sampling.choice++)
        RC_ASSERT(sampling.choice < MICA_CHOICES_MAX);
    int32_t token = rt_sample(logits, f->vocab, &sampling, &history, scratch);
    free(tokens);
    free(scratch);
    return token;
}

static void pick_row(const fake_exec *f, const float *logits, const rt_pick *p, mica_top *out)
{
    *out = (mica_top){.token = p->token};
    if (rt_pick_list_words(p) > f->lists_max) out->token = -1;
    else if (p->sampling) out->token = draw(f, logits, p);
    if (p->tops >= 0 && out->token >= 0)
        rt_logprobs(logits, f->vocab, out->token, (uint32_t)p->tops, &out->logprob, &out->rank, out + 1);
}

static mica_top *picked_in(const fake_exec *f, uint64_t step)
{
    return f->picked[step % (RT_STEPS_AHEAD + 1)];
}

/* Histories may hold tokens of the step before until all rows have theirs. */
static void pick_rows(fake_exec *f, const rt_step *s)
{
    mica_top *picked = picked_in(f, f->ended++);
    RC_ASSERT(f->ended - f->asked <= RT_STEPS_AHEAD + 1);
    f->ahead += f->ended - f->asked > 1;
    for (uint32_t i = 0; i < s->logit_rows_count; i++) {
        fake_logits(f->step_rows[s->logit_rows[i]], f->vocab, f->logits);
        pick_row(f, f->logits, &s->picks[i], picked + (size_t)i * PICK);
    }
    for (uint32_t i = 0; i < s->logit_rows_count; i++) f->drawn[i] = picked[(size_t)i * PICK].token;
    f->drawn_count = s->logit_rows_count;
}

static const mica_top *picked(void *ctx, uint32_t *stride)
{
    fake_exec *f = ctx;
    RC_ASSERT(f->asked < f->ended);
    *stride = PICK;
    return picked_in(f, f->asked++);
}

static void forward(void *ctx, const rt_step *s)
{
    fake_exec *f = ctx;
    uint32_t *slot_of = malloc((s->rows + 1) * sizeof *slot_of), rows = 0;
    RC_ASSERT(slot_of);
    f->steps++;
    check_groups(f, &s->kv);
    slots_of_rows(f, s, slot_of);
    for (uint32_t i = 0; i < s->kv.spans_count; i++) {
        rows += s->kv.spans[i].rows;
        run_span(f, s, &s->kv.spans[i], slot_of);
    }
    RC_ASSERT(rows == s->rows);
    free(slot_of);
    if (s->is_picked) pick_rows(f, s);
    else f->drawn_count = 0;
}

static const float *logits(void *ctx, const rt_step *s, uint32_t first, uint32_t count)
{
    fake_exec *f = ctx;
    RC_ASSERT(count <= f->logits_max);
    uint64_t nonsense = f->fails_at && f->steps >= f->fails_at ? POISON : 0;
    for (uint32_t i = 0; i < count; i++)
        fake_logits(f->step_rows[s->logit_rows[first + i]] ^ nonsense, f->vocab,
                    f->logits + (size_t)i * f->vocab);
    return f->logits;
}

static void copy_rows(void *ctx, uint32_t from, uint32_t to, uint32_t rows)
{
    fake_exec *f = ctx;
    RC_ASSERT(from != to && rows > 0 && rows < f->block_tokens);
    memcpy(f->rows + (size_t)to * f->block_tokens, f->rows + (size_t)from * f->block_tokens,
           rows * sizeof *f->rows);
}

static rc_code status(void *ctx, rc_msg *msg)
{
    fake_exec *f = ctx;
    if (!f->fails_at || f->steps < f->fails_at) return RC_OK;
    f->has_told = true;
    return rc_fail(RC_UNAVAILABLE, msg, "the fake device failed in step %llu",
                   (unsigned long long)f->fails_at);
}

static rc_code attach(void *ctx, uint32_t slot, const adapter_weights *w, rc_msg *msg)
{
    fake_exec *f = ctx;
    (void)msg;
    RC_ASSERT(f->slots[slot] == POISON);
    f->slots[slot] = w->bytes;
    return RC_OK;
}

static void detach(void *ctx, uint32_t slot)
{
    fake_exec *f = ctx;
    RC_ASSERT(f->slots[slot] != POISON);
    f->slots[slot] = POISON;
}

static void parallel(void *ctx, rt_task task, void *arg)
{
    (void)ctx;
    task(arg, 1, 2);
    task(arg, 0, 2);
}

void fake_exec_create(fake_exec *f, uint32_t blocks_max, uint32_t block_tokens, uint32_t slots_max,
                      uint32_t vocab, uint32_t rows_max, rt_exec *exec)
{
    *f = (fake_exec){ .blocks_max = blocks_max, .block_tokens = block_tokens, .slots_max = slots_max,
                      .vocab = vocab, .logits_max = 3, .rows_max = rows_max };
    f->rows = malloc((size_t)blocks_max * block_tokens * sizeof *f->rows);
    f->slots = malloc(slots_max * sizeof *f->slots);
    f->step_rows = malloc(rows_max * sizeof *f->step_rows);
    f->logits = malloc((size_t)f->logits_max * vocab * sizeof *f->logits);
    RC_ASSERT(f->rows && f->slots && f->step_rows && f->logits);
    memset(f->rows, 0xdf, (size_t)blocks_max * block_tokens * sizeof *f->rows);
    memset(f->slots, 0xdf, slots_max * sizeof *f->slots);
    *exec = (rt_exec){.ctx = f,
                      .vocab = vocab,
                      .logits_max = f->logits_max,
                      .copy_rows = copy_rows,
                      .forward = forward,
                      .logits = logits,
                      .status = status,
                      .adapter_attach = attach,
                      .adapter_detach = detach,
                      .parallel = parallel,
                      .parts = 2};
}

void fake_exec_pick(fake_exec *f, uint32_t lists_max, rt_exec *exec)
{
    f->lists_max = exec->lists_max = lists_max;
    f->drawn = malloc(f->rows_max * sizeof *f->drawn);
    RC_ASSERT(f->drawn);
    for (int i = 0; i <= RT_STEPS_AHEAD; i++)
        RC_ASSERT((f->picked[i] = malloc((size_t)f->rows_max * PICK * sizeof(mica_top))) != NULL);
    exec->picked = picked;
}

void fake_exec_destroy(fake_exec *f)
{
    for (int i = 0; i <= RT_STEPS_AHEAD; i++) free(f->picked[i]);
    free(f->drawn);
    free(f->rows);
    free(f->slots);
    free(f->step_rows);
    free(f->logits);
}

adapter_weights *fake_weights(uint64_t id, adapter_kind kind, const int32_t *invocation,
                              uint32_t invocation_count)
{
    adapter_weights *w = calloc(1, sizeof *w);
    RC_ASSERT(w);
    w->kind = kind;
    w->bytes = id;
    w->rank_max = 1;
    w->invocation_count = invocation_count;
    if (invocation_count) memcpy(w->invocation, invocation, invocation_count * sizeof *invocation);
    return w;
}
