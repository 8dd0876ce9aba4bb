#include "runtime/link/mpi_agree.h"

#include <dlfcn.h>
#include <stdbool.h>

/* Open MPI's C ABI, which has been the same since 1.7: handles are addresses of exported objects. */
typedef struct mpi {
    int (*init)(int *argc, char ***argv);
    int (*broadcast)(void *bytes, int count, void *type, int root, void *communicator);
    int (*finalize)(void);
    void *byte, *world;
} mpi;

static bool load(void *library, mpi *m)
{
    *(void **)&m->init = dlsym(library, "MPI_Init");
    *(void **)&m->broadcast = dlsym(library, "MPI_Bcast");
    *(void **)&m->finalize = dlsym(library, "MPI_Finalize");
    m->byte = dlsym(library, "ompi_mpi_byte");
    m->world = dlsym(library, "ompi_mpi_comm_world");
    return m->init && m->broadcast && m->finalize && m->byte && m->world;
}

rc_code rt_mpi_agree(void *bytes, size_t count, rc_msg *msg)
{
    void *library = dlopen("libmpi.so.40", RTLD_NOW | RTLD_GLOBAL);
    mpi m;
    if (!library) library = dlopen("libmpi.so", RTLD_NOW | RTLD_GLOBAL);
    if (!library || !load(library, &m))
        return rc_fail(RC_UNAVAILABLE, msg,
                       "mpirun, but no Open MPI library: expected libmpi.so.40, or MASTER_ADDR");
    if (m.init(NULL, NULL) || m.broadcast(bytes, (int)count, m.byte, 0, m.world) || m.finalize())
        return rc_fail(RC_UNAVAILABLE, msg,
                       "Open MPI could not tell where process 0 is: expected MASTER_ADDR");
    return RC_OK; /* the library stays: it has threads and handlers of its own */
}
