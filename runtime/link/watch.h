/* runtime/link/watch.h - a thread that looks after the control connections: are all alive, did anything fail.
 *
 * Process 0 watches all others, they watch process 0. Each tells the other every RT_WATCH_LIFE_MS that it is
 * there; who is silent for RT_MESH_SILENCE_MS, or whose connection closes, fails the mesh. What fails one
 * fails all: others report to process 0, which tells everyone the same line.
 */
#ifndef RUNTIME_LINK_WATCH_H
#define RUNTIME_LINK_WATCH_H

#include "runtime/link/mesh.h"

enum { RT_WATCH_LIFE_MS = 2000 };

typedef struct rt_watch rt_watch;

typedef struct rt_watch_events {
    /* A frame of another kind came; reads its `count` bytes with rt_mesh_hear_bytes, soon. False: it was
     * wrong, and the mesh has been failed. NULL: none is expected. */
    bool (*on_frame)(void *ctx, uint32_t peer, rt_frame_kind kind, size_t count);
    /* The mesh has failed. Neither may call rt_watch_listen. */
    void (*on_failure)(void *ctx);
    void *ctx;
} rt_watch_events;

RC_MUST_CHECK rc_code rt_watch_start(rt_mesh *mesh, rt_watch **out, rc_msg *msg);
/* From now on; before that only life and failure are told. */
void rt_watch_listen(rt_watch *w, const rt_watch_events *events);
/* Tells the peers that this process ends, or why it failed (line), and ends the thread. NULL is allowed. */
void rt_watch_end(rt_watch *w, const char *line);

#endif
