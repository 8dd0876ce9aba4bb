/* runtime/link/mpi_agree.h - a few bytes of process 0 to all processes of an mpirun, by Open MPI itself.
 *
 * For the one thing that mpirun does not put into the environment: where process 0 listens. Open MPI's
 * library is loaded for this alone, initialised and finished again.
 */
#ifndef RUNTIME_LINK_MPI_AGREE_H
#define RUNTIME_LINK_MPI_AGREE_H

#include <stddef.h>

#include "proto/rc.h"

/* Errors  UNAVAILABLE: the library is not there or does not work; MASTER_ADDR would do instead. */
RC_MUST_CHECK rc_code rt_mpi_agree(void *bytes, size_t count, rc_msg *msg);

#endif
