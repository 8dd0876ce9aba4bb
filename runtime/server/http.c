#include "runtime/server/http.h"

#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 64,
    CONNECTION_BYTES_MAX = 16 << 10, /* request line and headers */
    IDLE_SECONDS = 10,
    BACKLOG = 64
};

struct rt_http {
    const rt_http_page *pages;
    void *ctx;
    struct MHD_Daemon *daemon;
    uint32_t port;
};

/* ---- answering ---- */

static enum MHD_Result queue(struct MHD_Connection *connection, uint32_t status, const char *content_type,
                             rt_bytes *body)
{
    struct MHD_Response *r =
        MHD_create_response_from_buffer(body->count, body->count ? body->data : "", MHD_RESPMEM_MUST_COPY);
    rt_bytes_deinit(body);
    if (!r) return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED) MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result queued = MHD_queue_response(connection, status, r);
    MHD_destroy_response(r);
    return queued;
}

static enum MHD_Result refuse(struct MHD_Connection *connection, uint32_t status, const char *text)
{
    rt_bytes body = {0};
    rt_bytes_add_text(&body, text);
    return queue(connection, status, "text/plain", &body);
}

static enum MHD_Result answer(void *ctx, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_bytes, void **state)
{
    const rt_http *h = ctx;
    const rt_http_page *page = h->pages;
    rt_bytes body = {0};
    (void)version, (void)upload, (void)upload_bytes, (void)state;
    while (page->path && strcmp(page->path, url)) page++;
    if (!page->path) return refuse(connection, MHD_HTTP_NOT_FOUND, "not found\n");
    if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD))
        return refuse(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "expected GET\n");
    uint32_t status = page->write(h->ctx, &body);
    if (body.failed) {
        rt_bytes_deinit(&body);
        return refuse(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory for the page\n");
    }
    return queue(connection, status, page->content_type, &body);
}

/* ---- listening ---- */

static int listen_at(const struct addrinfo *a)
{
    int one = 1, fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) return fd;
    close(fd);
    return -1;
}

static uint32_t port_of(int fd)
{
    struct sockaddr_storage at;
    socklen_t bytes = sizeof at;
    if (getsockname(fd, (struct sockaddr *)&at, &bytes)) return 0;
    return ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                          : ((struct sockaddr_in *)&at)->sin_port);
}

static int listen_on(const char *host, uint32_t port)
{
    struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
    char service[8];
    int fd = -1;
    snprintf(service, sizeof service, "%u", port);
    if (getaddrinfo(host, service, &want, &found)) return -1;
    for (const struct addrinfo *a = found; a && fd < 0; a = a->ai_next) fd = listen_at(a);
    freeaddrinfo(found);
    return fd;
}

rc_code rt__http_open(const char *host, uint32_t port, const rt_http_page *pages, void *ctx, rt_http **out,
                      rc_msg *msg)
{
    rt_http *h = calloc(1, sizeof *h);
    if (!h) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory to serve HTTP");
    *h = (rt_http){.pages = pages, .ctx = ctx};
    int fd = listen_on(host, port);
    if (fd < 0) {
        free(h);
        return rc_fail(RC_UNAVAILABLE, msg,
                       "cannot listen on %.200s:%u for HTTP: expected an address of this machine and a free "
                       "--port",
                       host, port);
    }
    h->port = port_of(fd);
    struct MHD_OptionItem options[] = {{MHD_OPTION_LISTEN_SOCKET, fd, NULL},
                                       {MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX, NULL},
                                       {MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_BYTES_MAX, NULL},
                                       {MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS, NULL},
                                       {MHD_OPTION_END, 0, NULL}};
    h->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, 0, NULL, NULL, answer, h, MHD_OPTION_ARRAY,
                                 options, MHD_OPTION_END);
    if (!h->daemon) {
        close(fd);
        free(h);
        return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "the thread that serves HTTP could not be started");
    }
    *out = h;
    return RC_OK;
}

uint32_t rt__http_port(const rt_http *h)
{
    return h->port;
}

void rt__http_close(rt_http *h)
{
    if (!h) return;
    MHD_stop_daemon(h->daemon);
    free(h);
}
