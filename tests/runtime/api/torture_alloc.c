/* Each allocation fails in turn while a model is opened, an adapter loaded and a request submitted and
 * answered.
 *
 * Goal    Whatever fails, the call says so in one line, nothing crashes and nothing is left allocated.
 * Method  This program's malloc, calloc, realloc, aligned_alloc and mmap count, and refuse the n-th call; n
 * goes up until everything succeeds. Live allocations are counted before and after. Before that: once an
 * adapter is in its slot, no thread but the caller's allocates for an answer. usage   torture_alloc MODEL
 * ADAPTER [--stride N]
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/mica.h"

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

static atomic_long calls, fails_at, live, others_calls;
static _Thread_local int is_caller;

/* jansson 2.14 does not check the growth of its lexer's buffer (load.c, lex_save), whose sizes are powers of
 * two. */
static int is_unchecked(const void *caller, size_t bytes)
{
    Dl_info info;
    return bytes && !(bytes & (bytes - 1)) && dladdr(caller, &info) && info.dli_fname &&
           strstr(info.dli_fname, "libjansson");
}

static int refused(void)
{
    long at = atomic_load(&fails_at);
    if (!is_caller) atomic_fetch_add(&others_calls, 1);
    if (at && atomic_fetch_add(&calls, 1) + 1 == at) {
        errno = ENOMEM;
        return 1;
    }
    return 0;
}

static void *counted(void *p)
{
    if (p) atomic_fetch_add(&live, 1);
    return p;
}

void *malloc(size_t bytes)
{
    if (atomic_load(&fails_at) && is_unchecked(__builtin_return_address(0), bytes))
        return counted(__libc_malloc(bytes));
    return refused() ? NULL : counted(__libc_malloc(bytes));
}

void *calloc(size_t n, size_t bytes) { return refused() ? NULL : counted(__libc_calloc(n, bytes)); }
void *aligned_alloc(size_t align, size_t bytes)
{
    return refused() ? NULL : counted(__libc_memalign(align, bytes));
}
void *memalign(size_t align, size_t bytes)
{
    return refused() ? NULL : counted(__libc_memalign(align, bytes));
}

int posix_memalign(void **out, size_t align, size_t bytes)
{
    *out = aligned_alloc(align, bytes);
    return *out ? 0 : ENOMEM;
}

void *realloc(void *p, size_t bytes)
{
    void *q = refused() ? NULL : __libc_realloc(p, bytes);
    if (q && !p) atomic_fetch_add(&live, 1);
    return q;
}

void free(void *p)
{
    if (p) atomic_fetch_sub(&live, 1);
    __libc_free(p);
}

void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    if (refused()) return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, bytes, protection, flags, fd, offset);
}

static int ask(mica *m, const char *model, rc_msg *err)
{
    mica_request request = MICA_REQUEST_INIT;
    mica_event event;
    uint64_t id;
    int failed = 0;
    request.model = model;
    request.prompt_text = "How many blocks?";
    request.prompt_text_bytes = strlen(request.prompt_text);
    request.max_tokens = 3;
    request.logprobs = request.prompt_logprobs = 2;
    request.n = 2;
    if (mica_submit(m, &request, &id, err) != RC_OK) return 1;
    while (mica_poll(m, -1, &event))
        if (event.finish == MICA_FAILED) {
            *err = *event.error;
            failed = 1;
        }
    return failed;
}

/* 0: all went well; else err tells what did not. */
static int run(const char *model, const char *adapter, rc_msg *err)
{
    mica_options options = MICA_OPTIONS_INIT;
    mica *m;
    int failed;
    options.model = model;
    options.kv_cache_memory_bytes = 1 << 20;
    options.max_num_seqs = 4;
    options.threads = 2;
    options.device = "cpu";
    if (mica_open(&options, &m, err) != RC_OK) return 1;
    failed =
        ask(m, NULL, err) || mica_adapter_load(m, "adapter", adapter, err) != RC_OK || ask(m, "adapter", err);
    mica_close(m);
    return failed;
}

/* Allocations of the engine's threads while they answer. */
static long allocations_of_steps(const char *model, const char *adapter)
{
    mica_options options = MICA_OPTIONS_INIT;
    mica *m;
    rc_msg err;
    long before;
    options.model = model;
    options.kv_cache_memory_bytes = 1 << 20;
    options.device = "cpu";
    if (mica_open(&options, &m, &err) != RC_OK || mica_adapter_load(m, "adapter", adapter, &err) != RC_OK)
        return -1;
    if (ask(m, "adapter", &err)) return -1;
    before = atomic_load(&others_calls);
    if (ask(m, "adapter", &err) || ask(m, NULL, &err)) return -1;
    before = atomic_load(&others_calls) - before;
    mica_close(m);
    return before;
}

int main(int argc, char **argv)
{
    long stride = argc == 5 ? strtol(argv[4], NULL, 10) : 1, refusals = 0, before;
    rc_msg err;
    if (argc < 3 || stride < 1) return fprintf(stderr, "usage: %s MODEL ADAPTER [--stride N]\n", argv[0]), 1;
    is_caller = 1;
    if (allocations_of_steps(argv[1], argv[2]) != 0) return printf("a step allocated\n"), 1;
    if (run(argv[1], argv[2], &err))
        return fprintf(stderr, "%s\n", err.text), 1; /* what libraries keep is kept now */
    before = atomic_load(&live);
    for (long n = 1;; n += stride) {
        atomic_store(&calls, 0);
        atomic_store(&fails_at, n);
        err.text[0] = 0;
        int failed = run(argv[1], argv[2], &err);
        long reached = atomic_load(&calls);
        atomic_store(&fails_at, 0);
        if (atomic_load(&live) != before) {
            printf("allocation %ld refused: %ld allocations left over (%s)\n", n, atomic_load(&live) - before,
                   err.text);
            return 1;
        }
        if (failed && !err.text[0]) return printf("allocation %ld refused: no word about it\n", n), 1;
        if (failed) refusals++;
        if (reached < n) break;
    }
    printf("%ld refused allocations were told of; nothing crashed or leaked\n", refusals);
    return refusals == 0;
}
