/* runtime/link/socket.h - TCP sockets, opened, and small messages with a time limit. */
#ifndef RUNTIME_LINK_SOCKET_H
#define RUNTIME_LINK_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/rc.h"

/* Where a process can be reached; on the wire as it is. */
typedef struct rt_endpoint {
    uint8_t bytes[16]; /* IPv6, or IPv4 mapped into it */
    uint16_t port;     /* 0: none */
} rt_endpoint;

enum { RT_ENDPOINTS_MAX = 16, RT_ENDPOINT_TEXT = 64 };

/* host: NULL, any address of this machine. port 0: any free one; *port is what it became.
 * Errors  UNAVAILABLE: the port is taken, or the like. */
RC_MUST_CHECK rc_code rt_socket_listen(const char *host, uint16_t *port, int *out, rc_msg *msg);
/* A connection, or -1: none came within ms. */
int rt_socket_accept(int listener, int ms);
/* Tries each of a host's addresses once. -1: nobody is there. */
int rt_socket_connect(const char *host, uint16_t port, int ms);
int rt_socket_connect_to(const rt_endpoint *e, int ms);
void rt_socket_tune(int fd); /* no delay; a peer's dead host is noticed within seconds */
void rt_socket_limit(int fd, int ms); /* of a blocking send or recv */

bool rt_socket_send(int fd, const void *bytes, size_t count);
bool rt_socket_receive(int fd, void *bytes, size_t count, int ms); /* exactly */
bool rt_socket_is_over(int fd); /* the other end has hung up, and all that it sent was read */

void rt_socket_peer(int fd, rt_endpoint *out); /* its port is the connection's */
/* This machine's addresses, loopback last. Gives the count. */
uint32_t rt_socket_own(rt_endpoint out[RT_ENDPOINTS_MAX]);
void rt_endpoint_text(const rt_endpoint *e, char out[RT_ENDPOINT_TEXT]);

#endif
