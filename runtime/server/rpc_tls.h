/* runtime/server/rpc_tls.h - server credentials from PEM files, which are read again when they change.
 *
 * A new connection looks at the files' times; a certificate that cannot be read leaves the last good one in
 * use. Running connections keep theirs.
 */
#ifndef RUNTIME_SERVER_RPC_TLS_H
#define RUNTIME_SERVER_RPC_TLS_H

#include <grpc/grpc_security.h>

#include "proto/rc.h"

typedef struct rpc_tls rpc_tls;

/* client_ca_file NULL: clients show no certificate. *credentials is the caller's.
 * Errors INVALID_ARGUMENT: a file that cannot be read or holds no PEM block. */
RC_MUST_CHECK rc_code rpc_tls_open(const char *key_file, const char *cert_file, const char *client_ca_file,
                                   rpc_tls **out, grpc_server_credentials **credentials, rc_msg *msg);
void rpc_tls_close(rpc_tls *t); /* after the server; NULL is allowed */

#endif
