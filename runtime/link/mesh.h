/* runtime/link/mesh.h - the processes of one engine, each connected with every other over TCP.
 *
 *     data      between any two: commands of process 0, sums, columns; in the order of the steps, by the
 *               thread that drives its process's first rank
 *     control   between process 0 and each other: adapters, signs of life, why something failed; any thread
 *
 * Everything travels in frames of a kind and a size that the receiver expects; anything else ends the mesh.
 *
 * Failure  sticky. Whoever waits gives up within a tenth of a second after rt_mesh_fail(), and after
 *          RT_MESH_SILENCE_MS in which a peer that owes bytes has moved none; the line names its ranks.
 * Memory   taken by open; sums and frames allocate nothing.
 * Source   reduce-scatter and all-gather: Thakur, Rabenseifner, Gropp 2005, sec. 4.5.
 */
#ifndef RUNTIME_LINK_MESH_H
#define RUNTIME_LINK_MESH_H

#include <stddef.h>

#include "runtime/link/launch.h"

enum {
    RT_MESH_OPEN_MS = 120000,   /* until all have come */
    RT_MESH_SILENCE_MS = 15000  /* of a peer, while something is expected of it */
};

/* What a frame is; whoever receives says which it expects. */
typedef enum rt_frame_kind {
    RT_FRAME_SUM = 1,  /* data: floats */
    RT_FRAME_COLUMNS,
    RT_FRAME_BYTES,
    RT_FRAME_COMMAND,
    RT_FRAME_LIFE,     /* control: nothing */
    RT_FRAME_END,      /* nothing: the process ends in good order */
    RT_FRAME_FAILED,   /* a line */
    RT_FRAME_ATTACH,   /* an adapter */
    RT_FRAME_DETACH,   /* a slot */
    RT_FRAME_DONE      /* a code, and a line */
} rt_frame_kind;

typedef struct rt_mesh rt_mesh;

/* Connects; gives when all are there. ranks_each: for names in messages. spins: may it spin a little before
 * it sleeps; not where there are more threads than cores.
 * Errors  UNAVAILABLE: somebody did not come, or left. INVALID_ARGUMENT: was started for another number. */
RC_MUST_CHECK rc_code rt_mesh_open(const rt_launch *l, uint32_t ranks_each, bool spins, rt_mesh **out,
                                   rc_msg *msg);
void rt_mesh_close(rt_mesh *m); /* NULL is allowed; nobody is inside a call */
RC_MUST_CHECK rc_code rt_mesh_reserve(rt_mesh *m, size_t floats_max, rc_msg *msg); /* before the first sum */

uint32_t rt_mesh_process(const rt_mesh *m);
uint32_t rt_mesh_processes(const rt_mesh *m);
const char *rt_mesh_name(const rt_mesh *m, uint32_t process); /* "ranks 2-3 (process 1 at 10.0.0.2)" */

/* Any thread. The first line stays. */
void rt_mesh_fail(rt_mesh *m, const char *line);
RC_MUST_CHECK rc_code rt_mesh_status(rt_mesh *m, rc_msg *msg);

/* Data; false: the mesh has failed. */
bool rt_mesh_send(rt_mesh *m, uint32_t to, rt_frame_kind kind, const void *bytes, size_t count);
/* Into bytes [count], exactly. */
bool rt_mesh_receive(rt_mesh *m, uint32_t from, rt_frame_kind kind, void *bytes, size_t count);
/* At most max bytes, as long as it takes: the peer owes nothing. Gives *count. */
bool rt_mesh_await(rt_mesh *m, uint32_t from, rt_frame_kind kind, void *bytes, size_t max, size_t *count);
/* x becomes the sum over the processes, in their order. All call it. */
bool rt_mesh_all_reduce(rt_mesh *m, float *x, size_t floats);
/* The least of all processes' values. */
bool rt_mesh_least(rt_mesh *m, uint64_t *value);

/* Control. peer: process 0's to each other, others' to 0. */
bool rt_mesh_tell(rt_mesh *m, uint32_t peer, rt_frame_kind kind, const void *bytes, size_t count);
int rt_mesh_control_fd(const rt_mesh *m, uint32_t peer); /* for poll(2); one thread reads */
/* The head of a frame that is there, then its bytes. */
bool rt_mesh_hear(rt_mesh *m, uint32_t peer, rt_frame_kind *kind, size_t *count);
bool rt_mesh_hear_bytes(rt_mesh *m, uint32_t peer, void *bytes, size_t count);

#endif
