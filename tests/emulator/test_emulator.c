/* The emulator itself: kernels give what plain loops do, and what it is for, it finds. */
#include "tests/emulator/test_kernels.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <cublasLt.h>
#include <nccl.h>
#include <pthread.h>

#include "proto/dtype.h"
#include "tests/support/prng.h"

enum { K = 64 };

static cudaStream_t new_stream(void)
{
    cudaStream_t s;
    assert_int_equal(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
    return s;
}

static void *on_device(size_t bytes, const void *from, cudaStream_t s)
{
    void *p;
    assert_int_equal(cudaMalloc(&p, bytes), cudaSuccess);
    if (from) assert_int_equal(cudaMemcpyAsync(p, from, bytes, cudaMemcpyHostToDevice, s), cudaSuccess);
    return p;
}

static void fetch(void *to, const void *from, size_t bytes, cudaStream_t s)
{
    assert_int_equal(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, s), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(s), cudaSuccess);
}

static void reductions_over_a_block_give_the_sum(void **state)
{
    enum { ROWS = 3, WIDTH = 500 };
    float x[ROWS * WIDTH], y[ROWS];
    cudaStream_t s = new_stream();
    (void)state;
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = (float)(i % 7);
    float *dx = on_device(sizeof x, x, s), *dy = on_device(sizeof y, NULL, s);
    assert_int_equal(test_row_sums(dx, dy, ROWS, WIDTH, s), cudaSuccess);
    fetch(y, dy, sizeof y, s);
    for (int row = 0; row < ROWS; row++) {
        float sum = 0;
        for (int i = 0; i < WIDTH; i++) sum += x[row * WIDTH + i];
        assert_float_equal(y[row], sum, 0);
    }
    cudaFree(dx);
    cudaFree(dy);
    cudaStreamDestroy(s);
}

/* Small whole numbers: every product and sum is exact. */
static void matrix_fragments_lie_as_the_isa_says(void **state)
{
    uint16_t a[TEST_M * K], b[TEST_N * K], turned[K * TEST_N];
    float c[TEST_M * TEST_N];
    cudaStream_t s = new_stream();
    (void)state;
    for (int i = 0; i < TEST_M * K; i++) a[i] = rc_f32_to_bf16((float)(i * 5 % 11 - 5));
    for (int n = 0; n < TEST_N; n++)
        for (int k = 0; k < K; k++) {
            b[n * K + k] = rc_f32_to_bf16((float)((n * 3 + k) % 7));
            turned[k * TEST_N + n] = b[n * K + k];
        }
    uint16_t *da = on_device(sizeof a, a, s), *db = on_device(sizeof b, b, s);
    uint16_t *dt = on_device(sizeof b, turned, s);
    float *dc = on_device(sizeof c, NULL, s);
    for (int trans = 0; trans < 2; trans++) {
        assert_int_equal(test_product(da, trans ? dt : db, dc, K, trans, s), cudaSuccess);
        fetch(c, dc, sizeof c, s);
        for (int m = 0; m < TEST_M; m++)
            for (int n = 0; n < TEST_N; n++) {
                float sum = 0;
                for (int k = 0; k < K; k++)
                    sum += rc_bf16_to_f32(a[m * K + k]) * rc_bf16_to_f32(b[n * K + k]);
                assert_float_equal(c[m * TEST_N + n], sum, 0);
            }
    }
    cudaFree(da);
    cudaFree(db);
    cudaFree(dt);
    cudaFree(dc);
    cudaStreamDestroy(s);
}

static void ballots_and_atomics_count(void **state)
{
    enum { N = 1000 };
    int x[N], counts[TEST_COUNTS], expected[TEST_COUNTS] = {0};
    cudaStream_t s = new_stream();
    (void)state;
    for (int i = 0; i < N; i++) expected[(x[i] = i * 37) % TEST_COUNTS]++;
    int *dx = on_device(sizeof x, x, s), *dc = on_device(sizeof counts, NULL, s);
    assert_int_equal(cudaMemsetAsync(dc, 0, sizeof counts, s), cudaSuccess);
    assert_int_equal(test_count(dx, N, dc, s), cudaSuccess);
    fetch(counts, dc, sizeof counts, s);
    assert_memory_equal(counts, expected, sizeof counts);
    cudaFree(dx);
    cudaFree(dc);
    cudaStreamDestroy(s);
}

/* How a process of its own that runs the faulty kernel ends: 0 right, 1 wrong values, 2 a failed launch. */
static int outcome_of(test_fault fault)
{
    pid_t child = fork();
    if (child == 0) {
        float x[64], y[64];
        cudaStream_t s = new_stream();
        fclose(stderr);
        signal(SIGSEGV, SIG_DFL); /* cmocka's handler would go on */
        for (int i = 0; i < 64; i++) x[i] = (float)i;
        float *dx = on_device(sizeof x, x, s), *dy = on_device(sizeof y, NULL, s);
        bool failed = test_faulty(fault, dx, dy, s) ||
                      cudaMemcpyAsync(y, dy, sizeof y, cudaMemcpyDeviceToHost, s) || cudaStreamSynchronize(s);
        if (failed) _exit(cudaStreamSynchronize(s) == cudaErrorLaunchFailure ? 2 : 3);
        for (int i = 0; i < 64; i++)
            if (!(y[i] == x[fault == TEST_NO_SYNC ? 63 - i : i])) _exit(1);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void a_missing_barrier_shows(void **state)
{
    (void)state;
    assert_int_equal(outcome_of(TEST_NO_SYNC), 1);
}

static void a_copy_that_nobody_waited_for_shows(void **state)
{
    (void)state;
    assert_int_equal(outcome_of(TEST_NO_WAIT), 1);
}

static void a_divergent_barrier_fails_the_launch_for_good(void **state)
{
    (void)state;
    assert_int_equal(outcome_of(TEST_DIVERGENT), 2);
    assert_int_equal(outcome_of(TEST_WRONG_MASK), 2);
}

static void a_write_past_shared_memory_ends_the_process(void **state)
{
    (void)state;
    assert_true(outcome_of(TEST_PAST_SHARED) > 2);
}

static void work_happens_when_somebody_waits(void **state)
{
    float x = 1, pinned_seen, *pinned;
    cudaStream_t s = new_stream(), other = new_stream();
    cudaEvent_t event;
    (void)state;
    assert_int_equal(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
    assert_int_equal(cudaMallocHost((void **)&pinned, sizeof *pinned), cudaSuccess);
    float *d = on_device(sizeof *d, NULL, s);
    *pinned = 1;
    assert_int_equal(cudaMemcpyAsync(d, pinned, sizeof *d, cudaMemcpyHostToDevice, s), cudaSuccess);
    *pinned = 2; /* too early: the copy reads this */
    assert_int_equal(cudaEventRecord(event, s), cudaSuccess);
    assert_int_equal(cudaEventQuery(event), cudaErrorNotReady);
    assert_int_equal(cudaStreamWaitEvent(other, event, 0), cudaSuccess);
    fetch(&pinned_seen, d, sizeof *d, other);
    assert_float_equal(pinned_seen, 2, 0);
    assert_int_equal(cudaEventQuery(event), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(d, &x, sizeof *d, cudaMemcpyHostToDevice, s), cudaSuccess);
    x = 3; /* pageable: read already */
    fetch(&pinned_seen, d, sizeof *d, s);
    assert_float_equal(pinned_seen, 1, 0);
    cudaEventDestroy(event);
    cudaFreeHost(pinned);
    cudaFree(d);
    cudaStreamDestroy(s);
    cudaStreamDestroy(other);
}

static void a_captured_graph_runs_as_often_as_it_is_launched(void **state)
{
    float one = 1, sum;
    cudaStream_t s = new_stream();
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    (void)state;
    float *d = on_device(2 * sizeof *d, NULL, s);
    assert_int_equal(cudaMemcpyAsync(d, &one, sizeof one, cudaMemcpyHostToDevice, s), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(d + 1, &one, sizeof one, cudaMemcpyHostToDevice, s), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(s), cudaSuccess);
    assert_int_equal(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    assert_int_equal(test_row_sums(d, d, 1, 2, s), cudaSuccess);
    assert_int_equal(cudaStreamEndCapture(s, &graph), cudaSuccess);
    assert_int_equal(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    for (int i = 0; i < 3; i++) assert_int_equal(cudaGraphLaunch(exec, s), cudaSuccess);
    fetch(&sum, d, sizeof sum, s);
    assert_float_equal(sum, 4, 0); /* 1 + 1, + 1, + 1 */
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaFree(d);
    cudaStreamDestroy(s);
}

typedef struct rank {
    ncclUniqueId id;
    int rank;
    float sum[4];
} rank;

static void *run_rank(void *arg)
{
    rank *r = arg;
    ncclComm_t comm;
    float own[4] = {(float)r->rank, 1, 2, 3};
    if (cudaSetDevice(r->rank) || ncclCommInitRank(&comm, 2, r->id, r->rank)) return NULL;
    cudaStream_t s = new_stream();
    float *d = on_device(sizeof own, own, s);
    if (ncclAllReduce(d, d, 4, ncclFloat, ncclSum, comm, s) == ncclSuccess) fetch(r->sum, d, sizeof own, s);
    cudaFree(d);
    cudaStreamDestroy(s);
    ncclCommDestroy(comm);
    return NULL;
}

static void ranks_sum_over_threads(void **state)
{
    rank ranks[2];
    pthread_t threads[2];
    (void)state;
    memset(ranks, 0, sizeof ranks);
    assert_int_equal(ncclGetUniqueId(&ranks[0].id), ncclSuccess);
    ranks[1].id = ranks[0].id;
    for (int i = 0; i < 2; i++) {
        ranks[i].rank = i;
        assert_int_equal(pthread_create(&threads[i], NULL, run_rank, &ranks[i]), 0);
    }
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    const float expected[4] = {1, 2, 4, 6};
    for (int i = 0; i < 2; i++) assert_memory_equal(ranks[i].sum, expected, sizeof expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reductions_over_a_block_give_the_sum),
        cmocka_unit_test(matrix_fragments_lie_as_the_isa_says),
        cmocka_unit_test(ballots_and_atomics_count),
        cmocka_unit_test(a_missing_barrier_shows),
        cmocka_unit_test(a_copy_that_nobody_waited_for_shows),
        cmocka_unit_test(a_divergent_barrier_fails_the_launch_for_good),
        cmocka_unit_test(a_write_past_shared_memory_ends_the_process),
        cmocka_unit_test(work_happens_when_somebody_waits),
        cmocka_unit_test(a_captured_graph_runs_as_often_as_it_is_launched),
        cmocka_unit_test(ranks_sum_over_threads),
    };
    setenv("EMU_DEVICES", "2", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
