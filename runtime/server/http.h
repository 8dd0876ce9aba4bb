/* runtime/server/http.h - a few pages for operators over HTTP/1.1.
 * GET and HEAD only; nothing that a client sends is read further than its headers.
 *
 * One thread of its own answers; a client that is slow, or sends too much, holds up nobody and is dropped.
 * Built on libmicrohttpd, which no other file includes.
 */
#ifndef RUNTIME_SERVER_HTTP_H
#define RUNTIME_SERVER_HTTP_H

#include <stdint.h>

#include "proto/rc.h"
#include "runtime/base/bytes.h"

typedef struct rt_http rt_http;

typedef struct rt_http_page {
    const char *path, *content_type;
    /* Appends the page and gives its status. */
    uint32_t (*write)(void *ctx, rt_bytes *out);
} rt_http_page;

/* pages: ends with a NULL path; must outlive the server. port 0: any free one.
 * Errors UNAVAILABLE: host or port cannot be had; RESOURCE_EXHAUSTED: memory. */
RC_MUST_CHECK rc_code rt__http_open(const char *host, uint32_t port, const rt_http_page *pages, void *ctx,
                                    rt_http **out, rc_msg *msg);
uint32_t rt__http_port(const rt_http *h);
void rt__http_close(rt_http *h); /* NULL is allowed */

#endif
