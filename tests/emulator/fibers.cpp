/* Runs the blocks of a launch, one after the other, on the OS thread that asks for it. */
#include "cuda_emu.h"

#include <sched.h>
#include <sys/mman.h>
#include <time.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes)
#endif

#if !defined(__x86_64__)
#error "the emulator switches fibers with x86-64 code"
#endif

namespace emu
{

__thread Block *block; /* not thread_local, whose users call a function that asks whether to initialise it */

static Kernel *kernels;
void add_kernel(Kernel *kernel)
{
    kernel->next = kernels;
    kernels = kernel;
}
Kernel *first_kernel()
{
    return kernels;
}

/* Saves the registers that a call keeps and the stack pointer in *save, and takes up `load`'s. */
extern "C" void emu_switch(void **save, void *load);
asm(R"(.text
.globl emu_switch
.hidden emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

enum { STACK_BYTES = 128 << 10, DYNAMIC_MAX = 256 << 10, PAGE = 4096, CALLEE_SAVED = 6 };

/* What an OS thread needs to run blocks; kept from launch to launch. */
struct Worker : Block {
    const Kernel *kernel;
    void **arguments;
    void *scheduler; /* stack pointer of who runs the blocks */
    const char *error;
    int order;
    unsigned random, pauses = 0;
    std::vector<Fiber> all_fibers;
    std::vector<Warp> all_warps;
    std::vector<uint32_t> all_ready;
    char *stacks = nullptr, *dynamic_end = nullptr;
    size_t stacks_bytes = 0;
};
static Worker *worker()
{
    return static_cast<Worker *>(block);
}

/* A ready lane of the bits: the first, the last, or one of those after a random place. */
static int pick_lane(Worker *w, uint32_t ready)
{
    if (w->order == 1) return LANES - 1 - __builtin_clz(ready);
    if (w->order == 0) return __builtin_ctz(ready);
    int turn = (int)(w->random >> 27);
    uint32_t turned = turn ? ready >> turn | ready << (LANES - turn) : ready;
    return (__builtin_ctz(turned) + turn) % LANES;
}

/* The fiber to run next, of the current warp if it can be; -1: all wait. */
static int pick(Worker *w)
{
    int first = w->current->warp;
    if (w->order == 2) {
        w->random = w->random * 1664525u + 1013904223u;
        first = (int)((w->random >> 16) % (unsigned)w->warps_count);
    }
    for (int k = 0; k < w->warps_count; k++) {
        int i = (first + (w->order == 1 ? w->warps_count - k : k)) % w->warps_count;
        if (w->ready[i]) return i * LANES + pick_lane(w, w->ready[i]);
    }
    return -1;
}

static const char *const DEADLOCK =
    "threads wait at different barriers (a divergent __syncthreads, __syncwarp or shuffle)";

/* The current fiber cannot go on: another one does, or the launch is over. */
static void yield()
{
    Worker *w = worker();
    Fiber *me = w->current;
    int next = pick(w);
    if (next < 0) {
        w->error = DEADLOCK;
        emu_switch(&me->stack_pointer, w->scheduler);
    } else if (&w->fibers[next] != me) {
        w->current = &w->fibers[next];
        emu_switch(&me->stack_pointer, w->current->stack_pointer);
    }
}

/* Those that wait here, too, have their turn; where all do, or nobody came for a while, the machine's other
 * threads have theirs. */
void pause()
{
    Worker *w = worker();
    Fiber *me = w->current;
    const timespec moment = {0, 20000};
    uint32_t bit = 1u << me->lane;
    w->ready[me->warp] &= ~bit;
    int next = pick(w);
    w->ready[me->warp] |= bit;
    sched_yield();
    if (next < 0 || ++w->pauses % 64 == 0) nanosleep(&moment, nullptr);
    if (next < 0) return;
    w->current = &w->fibers[next];
    emu_switch(&me->stack_pointer, w->current->stack_pointer);
}

void fail(const char *why)
{
    Worker *w = worker();
    void *never;
    w->error = why;
    emu_switch(&never, w->scheduler);
    abort();
}

static bool all_there(const Warp &warp, const Arrival &a)
{
    uint32_t needed = a.mask & warp.live;
    return a.arrived && (a.arrived & needed) == needed;
}

/* Lanes that meet name the same mask; lanes of a diverged warp may meet in several places. */
void warp_barrier(uint32_t mask)
{
    Worker *w = worker();
    Fiber *f = w->current;
    Warp &warp = w->warps[f->warp];
    uint32_t bit = 1u << f->lane;
    if (!(mask & bit)) fail("a warp collective whose mask does not name the calling lane");
    Arrival *at = nullptr;
    for (Arrival &a : warp.arrivals)
        if (a.arrived && a.mask == mask) at = &a;
    for (Arrival &a : warp.arrivals)
        if (!at && !a.arrived) at = &a;
    if (!at) fail("a warp that waits in more than four places");
    at->mask = mask;
    at->arrived |= bit;
    if (all_there(warp, *at)) {
        w->ready[f->warp] |= at->arrived;
        at->arrived = 0;
        return;
    }
    w->ready[f->warp] &= ~bit;
    yield();
}

static void release_block(Worker *w)
{
    for (int i = 0; i < w->warps_count; i++) w->ready[i] = w->warps[i].live;
    w->waiting = 0;
    w->any_of_last = w->any;
    w->any = 0;
}

int block_barrier(int predicate)
{
    Worker *w = worker();
    Fiber *f = w->current;
    w->any |= predicate;
    if (++w->waiting == w->live) {
        release_block(w);
        return w->any_of_last;
    }
    w->ready[f->warp] &= ~(1u << f->lane);
    yield();
    return w->any_of_last;
}

/* A thread that has returned counts at no barrier any more. */
static void leave(Worker *w, Fiber *f)
{
    Warp &warp = w->warps[f->warp];
    warp.live &= ~(1u << f->lane);
    w->ready[f->warp] &= ~(1u << f->lane);
    w->live--;
    if (w->live && w->waiting == w->live) release_block(w);
    for (Arrival &a : warp.arrivals)
        if (all_there(warp, a)) {
            w->ready[f->warp] |= a.arrived;
            a.arrived = 0;
        }
}

/* Never returns, so it must leave no address sanitizer's mark on a stack that is used again. */
__attribute__((no_sanitize("address"))) static void fiber_main()
{
    worker()->kernel->call(worker()->kernel->function, worker()->arguments);
    Worker *w = worker();
    leave(w, w->current);
    int next = w->live ? pick(w) : -1;
    void *never;
    if (next < 0) {
        if (w->live) w->error = DEADLOCK;
        emu_switch(&never, w->scheduler);
    } else {
        w->current = &w->fibers[next];
        emu_switch(&never, w->current->stack_pointer);
    }
    abort();
}

/* The stack of a fiber that has not run: emu_switch pops registers and returns into fiber_main. */
static void *new_stack(Worker *w, int thread)
{
    /* Staggered, so that the same variable of all threads does not fall into one cache set. */
    char *top = w->stacks + (size_t)(thread + 1) * STACK_BYTES - 64 - thread % 16 * 192;
    uint64_t *at = (uint64_t *)((uintptr_t)top & ~(uintptr_t)15);
    *--at = 0;
    *--at = (uint64_t)(uintptr_t)fiber_main;
    for (int i = 0; i < CALLEE_SAVED; i++) *--at = 0;
    return at;
}

static void run_block(Worker *w, size_t dynamic_bytes)
{
    w->live = w->threads;
    w->waiting = w->any = 0;
    memset(w->dynamic, 0xff, dynamic_bytes);
    for (int i = 0; i < w->warps_count; i++) {
        int lanes = std::min<int>(LANES, w->threads - i * LANES);
        w->warps[i].live = w->ready[i] = lanes == LANES ? ~0u : (1u << lanes) - 1;
        memset(w->warps[i].arrivals, 0, sizeof w->warps[i].arrivals);
    }
    for (int i = 0; i < w->threads; i++) {
        Fiber *f = &w->fibers[i];
        f->lane = i % LANES;
        f->warp = i / LANES;
        f->parity = 0;
        f->copies_count = f->group = 0;
        f->thread = make_uint3(i % w->size.x, i / w->size.x % w->size.y, i / (w->size.x * w->size.y));
        f->stack_pointer = new_stack(w, i);
    }
    w->current = &w->fibers[0];
    w->current = &w->fibers[pick(w)];
    emu_switch(&w->scheduler, w->current->stack_pointer);
}

static char *map_pages(size_t bytes)
{
    void *p =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) abort();
    return (char *)p;
}

/* Dynamic shared memory ends where a page that nobody may touch begins. */
static void make_room(Worker *w, int threads, size_t dynamic_bytes)
{
    if ((int)w->all_fibers.size() < threads) {
        int warps = (threads + LANES - 1) / LANES;
        w->all_fibers.resize((size_t)threads);
        w->all_warps.resize((size_t)warps);
        w->all_ready.resize((size_t)warps);
        if (w->stacks) munmap(w->stacks, w->stacks_bytes);
        w->stacks_bytes = (size_t)threads * STACK_BYTES;
        w->stacks = map_pages(w->stacks_bytes);
    }
    if (!w->dynamic_end) {
        char *memory = map_pages(DYNAMIC_MAX + PAGE);
        w->dynamic_end = memory + DYNAMIC_MAX;
        mprotect(w->dynamic_end, PAGE, PROT_NONE);
    }
    w->fibers = w->all_fibers.data();
    w->warps = w->all_warps.data();
    w->ready = w->all_ready.data();
    w->dynamic = (unsigned char *)w->dynamic_end - dynamic_bytes;
}

const char *launch(const Kernel *kernel, dim3 grid, dim3 size, size_t dynamic_bytes, void **arguments)
{
    static thread_local Worker own;
    Worker *w = &own;
    const char *order = getenv("EMU_ORDER");
    block = w;
    w->threads = (int)(size.x * size.y * size.z);
    w->warps_count = (w->threads + LANES - 1) / LANES;
    dynamic_bytes = (dynamic_bytes + 15) & ~(size_t)15;
    make_room(w, w->threads, dynamic_bytes);
    w->kernel = kernel;
    w->arguments = arguments;
    w->grid = grid;
    w->size = size;
    w->order = order ? atoi(order) : 0;
    w->error = nullptr;
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    for (uint64_t i = 0; i < blocks && !w->error; i++) {
        w->index = make_uint3((unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y),
                              (unsigned)(i / ((uint64_t)grid.x * grid.y)));
        w->random = (unsigned)i * 2654435761u + 12345;
        run_block(w, dynamic_bytes);
    }
    if (!w->error) return nullptr;
    ASAN_UNPOISON_MEMORY_REGION(w->stacks, w->stacks_bytes);
    fprintf(stderr, "emulated CUDA: kernel %s, block %u,%u,%u, thread %u: %s\n", kernel->name, w->index.x,
            w->index.y, w->index.z, w->current->thread.x, w->error);
    return w->error;
}

} /* namespace emu */
