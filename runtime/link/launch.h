/* runtime/link/launch.h - which process of how many this is, and where they meet.
 *
 *     by hand    --nnodes --node-rank --master-addr --master-port
 *     torchrun   RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; LOCAL_RANK, LOCAL_WORLD_SIZE
 *     mpirun     OMPI_COMM_WORLD_{RANK,SIZE,LOCAL_RANK,LOCAL_SIZE}
 *     PMI        PMI_RANK, PMI_SIZE; MPI_LOCALRANKID, MPI_LOCALNRANKS
 *     srun       SLURM_PROCID, SLURM_STEP_NUM_TASKS (SLURM_NTASKS), SLURM_LOCALID; the step's first node
 *
 * in this order. MASTER_ADDR and MASTER_PORT hold for all of them, and flags before them. Under torchrun's
 * agent, whose own store listens on MASTER_PORT, the port is the next one. Under Open MPI without
 * MASTER_ADDR the processes ask MPI (mpi_agree.h).
 */
#ifndef RUNTIME_LINK_LAUNCH_H
#define RUNTIME_LINK_LAUNCH_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/rc.h"

enum { RT_PROCESSES_MAX = 1024, RT_ADDRESS_BYTES = 256, RT_PORT_DEFAULT = 29500 };

typedef struct rt_launch_flags {
    uint32_t nnodes, node_rank; /* 0: not given */
    const char *master_addr;    /* NULL: not given */
    uint32_t master_port;
} rt_launch_flags;

typedef struct rt_launch {
    uint32_t process, processes;
    uint32_t local, locals; /* of those on this host; locals 0: not known */
    char address[RT_ADDRESS_BYTES]; /* of process 0; "": MPI tells */
    uint16_t port;
    const char *by; /* what said so, for messages */
} rt_launch;

/* environment: NULL-terminated NAME=VALUE strings. One process where nothing says otherwise.
 * Errors  INVALID_ARGUMENT: a value that is no number or out of range, or no address; it is named. */
RC_MUST_CHECK rc_code rt_launch_find(const rt_launch_flags *flags, char *const *environment, rt_launch *out,
                                     rc_msg *msg);

#endif
