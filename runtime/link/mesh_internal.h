/* runtime/link/mesh_internal.h - what connecting, moving bytes and summing share. */
#ifndef RUNTIME_LINK_MESH_INTERNAL_H
#define RUNTIME_LINK_MESH_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "runtime/link/mesh.h"

enum { RT__FRAME_MAGIC = 0x4143494d };

typedef struct rt__frame {
    uint32_t magic, kind;
    uint64_t count; /* bytes that follow */
} rt__frame;

typedef struct rt__peer {
    int data, control; /* -1: none */
    char name[128];
    pthread_mutex_t tell; /* of writing to control */
} rt__peer;

struct rt_mesh {
    uint32_t process, processes, ranks_each;
    bool spins;
    atomic_bool has_failed;
    pthread_mutex_t lock; /* of the line */
    rc_msg line;
    float *gathered; /* what other processes sent for a sum */
    size_t gathered_floats;
    rt__peer peers[]; /* [processes]; the own one has no sockets */
};

/* A frame out, a frame in, or both at once, with one peer. Sizes are with the heads; 0: nothing that way. */
typedef struct rt__transfer {
    uint32_t peer;
    rt__frame head_out, head_in, expected;
    const char *out;
    char *in;
    size_t sent, to_send, received, to_receive;
} rt__transfer;

void rt__transfer_out(rt__transfer *t, rt_frame_kind kind, const void *bytes, size_t count);
void rt__transfer_in(rt__transfer *t, rt_frame_kind kind, void *bytes, size_t count);
/* All of them to their ends. silence_ms: RT_MESH_SILENCE_MS, or -1 for any. */
bool rt__transfers_run(rt_mesh *m, rt__transfer *t, uint32_t count, int silence_ms);

/* Fails the mesh in the peer's name. Gives false. */
bool rt__mesh_lost(rt_mesh *m, uint32_t peer, const char *what);

/* runtime/link/connect.c: the sockets of all peers. */
RC_MUST_CHECK rc_code rt__mesh_connect(rt_mesh *m, const rt_launch *l, rc_msg *msg);

#endif
