/* Groups of ranks: sums in the ranks' order, columns gathered, failures that free who waits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/backend/group_local.h"
#include "runtime/backend/pool.h"
#include "tests/support/prng.h"

enum { RANKS_MAX = 5, ROWS_MAX = 9, WIDTH_MAX = 700, STRIDE = 704, ROUNDS = 300 };

typedef struct scene {
    rt_group_local *local;
    uint32_t rows, width;
    float (*x)[ROWS_MAX * STRIDE]; /* [ranks] */
    char bytes[RANKS_MAX][16];
    bool ok[RANKS_MAX];
    uint32_t failing; /* this rank fails the group instead */
} scene;

static void open_scene(scene *s, uint32_t ranks)
{
    rt_group_local_options o = {.ranks = ranks, .threads = ranks};
    *s = (scene){.failing = UINT32_MAX};
    s->x = test_malloc(ranks * sizeof *s->x);
    assert_int_equal(rt_group_local_create(&o, &s->local, NULL), RC_OK);
}

static void close_scene(scene *s)
{
    rt_group_local_destroy(s->local);
    test_free(s->x);
}

static void fill(scene *s, uint32_t ranks, uint64_t seed)
{
    prng p = {seed};
    for (uint32_t r = 0; r < ranks; r++)
        for (uint32_t i = 0; i < ROWS_MAX * STRIDE; i++)
            s->x[r][i] = (float)(prng_next(&p) >> 40) * 0x1p-20f - 8;
}

static void reduce_task(void *arg, uint32_t rank, uint32_t ranks)
{
    scene *s = arg;
    rt_group *g = rt_group_local_rank(s->local, rank);
    (void)ranks;
    s->ok[rank] = g->ops->all_reduce(g, s->x[rank], STRIDE, s->rows, s->width);
}

static void a_sum_is_in_the_order_of_the_ranks_and_the_same_everywhere(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= RANKS_MAX; ranks++) {
        scene s, before;
        rt_pool *team;
        open_scene(&s, ranks);
        open_scene(&before, ranks);
        assert_int_equal(rt_pool_create(ranks, &team, NULL), RC_OK);
        for (uint32_t round = 0; round < ROUNDS; round++) {
            s.rows = 1 + round % ROWS_MAX;
            s.width = 1 + (round * 37) % WIDTH_MAX;
            fill(&s, ranks, round + 1);
            memcpy(before.x, s.x, ranks * sizeof *s.x);
            rt_pool_run(team, reduce_task, &s);
            for (uint32_t r = 0; r < ranks; r++) {
                assert_true(s.ok[r]);
                for (uint32_t i = 0; i < ROWS_MAX * STRIDE; i++) {
                    float sum = before.x[r][i];
                    if (i / STRIDE < s.rows && i % STRIDE < s.width) {
                        sum = before.x[0][i];
                        for (uint32_t q = 1; q < ranks; q++) sum += before.x[q][i];
                    }
                    assert_memory_equal(&s.x[r][i], &sum, sizeof sum);
                }
            }
        }
        rt_pool_destroy(team);
        close_scene(&before);
        close_scene(&s);
    }
}

static void gather_task(void *arg, uint32_t rank, uint32_t ranks)
{
    scene *s = arg;
    rt_group *g = rt_group_local_rank(s->local, rank);
    (void)ranks;
    s->ok[rank] = g->ops->gather_columns(g, s->x[rank], STRIDE, s->rows, s->width);
}

static void rank_0_gathers_every_rank_s_columns(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= RANKS_MAX; ranks++) {
        scene s, before;
        rt_pool *team;
        open_scene(&s, ranks);
        open_scene(&before, ranks);
        assert_int_equal(rt_pool_create(ranks, &team, NULL), RC_OK);
        s.rows = ROWS_MAX;
        s.width = 7; /* of five ranks some have one column, some two */
        fill(&s, ranks, ranks);
        memcpy(before.x, s.x, ranks * sizeof *s.x);
        rt_pool_run(team, gather_task, &s);
        for (uint32_t i = 0; i < ROWS_MAX * STRIDE; i++) {
            uint32_t owner = 0, first, end;
            for (uint32_t r = 0; r < ranks; r++) {
                rt_group_share(s.width, r, ranks, &first, &end);
                if (i % STRIDE >= first && i % STRIDE < end) owner = r;
            }
            assert_memory_equal(&s.x[0][i], &before.x[owner][i], sizeof(float));
        }
        for (uint32_t r = 1; r < ranks; r++) assert_memory_equal(s.x[r], before.x[r], sizeof s.x[r]);
        rt_pool_destroy(team);
        close_scene(&before);
        close_scene(&s);
    }
}

static void broadcast_task(void *arg, uint32_t rank, uint32_t ranks)
{
    scene *s = arg;
    rt_group *g = rt_group_local_rank(s->local, rank);
    (void)ranks;
    s->ok[rank] = g->ops->barrier(g) && g->ops->broadcast(g, s->bytes[rank], sizeof s->bytes[rank]);
}

static void bytes_of_rank_0_reach_all(void **state)
{
    (void)state;
    scene s;
    rt_pool *team;
    open_scene(&s, RANKS_MAX);
    assert_int_equal(rt_pool_create(RANKS_MAX, &team, NULL), RC_OK);
    for (uint32_t r = 0; r < RANKS_MAX; r++) snprintf(s.bytes[r], sizeof s.bytes[r], "rank %u", r);
    rt_pool_run(team, broadcast_task, &s);
    for (uint32_t r = 0; r < RANKS_MAX; r++) {
        assert_true(s.ok[r]);
        assert_string_equal(s.bytes[r], "rank 0");
    }
    rt_pool_destroy(team);
    close_scene(&s);
}

static void fail_task(void *arg, uint32_t rank, uint32_t ranks)
{
    scene *s = arg;
    rt_group *g = rt_group_local_rank(s->local, rank);
    if (rank != s->failing) {
        reduce_task(arg, rank, ranks);
        return;
    }
    (g->ops->fail)(g, "rank 2: the device is gone");
    (g->ops->fail)(g, "a second reason");
    s->ok[rank] = g->ops->barrier(g);
}

static void a_rank_that_fails_frees_all_the_others(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        scene s;
        rt_pool *team;
        open_scene(&s, RANKS_MAX);
        s.failing = 2;
        s.rows = s.width = 4;
        assert_int_equal(rt_pool_create(RANKS_MAX, &team, NULL), RC_OK);
        fill(&s, RANKS_MAX, 1);
        rt_pool_run(team, fail_task, &s);
        rt_pool_run(team, gather_task, &s);
        for (uint32_t r = 0; r < RANKS_MAX; r++) {
            rt_group *g = rt_group_local_rank(s.local, r);
            rc_msg msg;
            assert_false(s.ok[r]);
            assert_int_equal(g->ops->status(g, &msg), RC_UNAVAILABLE);
            assert_string_equal(msg.text, "rank 2: the device is gone");
        }
        rt_pool_destroy(team);
        close_scene(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sum_is_in_the_order_of_the_ranks_and_the_same_everywhere),
        cmocka_unit_test(rank_0_gathers_every_rank_s_columns),
        cmocka_unit_test(bytes_of_rank_0_reach_all),
        cmocka_unit_test(a_rank_that_fails_frees_all_the_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
