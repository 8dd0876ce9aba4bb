#include "runtime/link/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "runtime/base/clock.h"

static void set(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof value); /* what a kernel lacks only costs time */
}

void rt_socket_tune(int fd)
{
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 4);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 2);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
    set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 10000);
}

void rt_socket_limit(int fd, int ms)
{
    struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}

static rc_code find(const char *host, uint16_t port, int flags, struct addrinfo **out)
{
    char service[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    snprintf(service, sizeof service, "%u", port);
    return getaddrinfo(host, service, &hints, out) == 0 ? RC_OK : RC_UNAVAILABLE;
}

static int listen_at(const struct addrinfo *a)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (a->ai_family == AF_INET6) set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 128) == 0) return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage s = {0};
    socklen_t bytes = sizeof s;
    if (getsockname(fd, (struct sockaddr *)&s, &bytes)) return 0;
    return ntohs(s.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&s)->sin6_port
                                         : ((struct sockaddr_in *)&s)->sin_port);
}

rc_code rt_socket_listen(const char *host, uint16_t *port, int *out, rc_msg *msg)
{
    struct addrinfo *list = NULL;
    int fd = -1;
    if (find(host, *port, AI_PASSIVE, &list) == RC_OK) {
        for (int family = 0; family < 2 && fd < 0; family++) /* IPv6 first: it takes both */
            for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
                if ((a->ai_family == AF_INET6) == (family == 0)) fd = listen_at(a);
        int why = errno;
        freeaddrinfo(list);
        errno = why;
    }
    if (fd < 0)
        return rc_fail(RC_UNAVAILABLE, msg, "can't listen at %s port %u: %s", host ? host : "any address",
                       *port, strerror(errno));
    *port = port_of(fd);
    *out = fd;
    return RC_OK;
}

static bool wait_for(int fd, short events, int ms)
{
    struct pollfd p = {.fd = fd, .events = events};
    return poll(&p, 1, ms) > 0;
}

int rt_socket_accept(int listener, int ms)
{
    if (!wait_for(listener, POLLIN, ms)) return -1;
    return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

static int connect_at(const struct sockaddr *a, socklen_t bytes, int ms)
{
    int fd = socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = 0;
    socklen_t size = sizeof error;
    if (fd < 0) return -1;
    bool ok = connect(fd, a, bytes) == 0 ||
              (errno == EINPROGRESS && wait_for(fd, POLLOUT, ms) &&
               getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0);
    if (ok) ok = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) == 0;
    if (ok) return fd;
    close(fd);
    return -1;
}

int rt_socket_connect(const char *host, uint16_t port, int ms)
{
    struct addrinfo *list = NULL;
    int fd = -1;
    if (find(host, port, 0, &list) != RC_OK) return -1;
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
        fd = connect_at(a->ai_addr, a->ai_addrlen, ms);
    freeaddrinfo(list);
    return fd;
}

static bool is_ipv4(const rt_endpoint *e)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    return !memcmp(e->bytes, mapped, sizeof mapped);
}

int rt_socket_connect_to(const rt_endpoint *e, int ms)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(e->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(e->port)};
    memcpy(&v4.sin_addr, e->bytes + 12, 4);
    memcpy(&v6.sin6_addr, e->bytes, 16);
    return is_ipv4(e) ? connect_at((const struct sockaddr *)&v4, sizeof v4, ms)
                      : connect_at((const struct sockaddr *)&v6, sizeof v6, ms);
}

bool rt_socket_send(int fd, const void *bytes, size_t count)
{
    const char *at = bytes;
    while (count) {
        ssize_t n = send(fd, at, count, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        at += n;
        count -= (size_t)n;
    }
    return true;
}

bool rt_socket_receive(int fd, void *bytes, size_t count, int ms)
{
    char *at = bytes;
    int64_t until = rt_now_ns() + (int64_t)ms * 1000000;
    while (count) {
        int64_t left = (until - rt_now_ns()) / 1000000;
        if (left < 0 || !wait_for(fd, POLLIN, (int)left + 1)) return false;
        ssize_t n = recv(fd, at, count, MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (n <= 0) return false;
        at += n;
        count -= (size_t)n;
    }
    return true;
}

static bool endpoint_of(const struct sockaddr *a, rt_endpoint *out)
{
    *out = (rt_endpoint){0};
    if (a->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
        out->bytes[10] = out->bytes[11] = 0xff;
        memcpy(out->bytes + 12, &v4->sin_addr, 4);
        out->port = ntohs(v4->sin_port);
        return true;
    }
    if (a->sa_family != AF_INET6) return false;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
    memcpy(out->bytes, &v6->sin6_addr, 16);
    out->port = ntohs(v6->sin6_port);
    return !IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr);
}

void rt_socket_peer(int fd, rt_endpoint *out)
{
    struct sockaddr_storage s = {0};
    socklen_t bytes = sizeof s;
    if (getpeername(fd, (struct sockaddr *)&s, &bytes) || !endpoint_of((struct sockaddr *)&s, out))
        *out = (rt_endpoint){0};
}

uint32_t rt_socket_own(rt_endpoint out[RT_ENDPOINTS_MAX])
{
    struct ifaddrs *all = NULL;
    uint32_t count = 0;
    if (getifaddrs(&all)) return 0;
    for (unsigned loopback = 0; loopback < 2; loopback++)
        for (const struct ifaddrs *i = all; i && count < RT_ENDPOINTS_MAX; i = i->ifa_next) {
            bool is_loopback = (i->ifa_flags & IFF_LOOPBACK) != 0;
            if (!i->ifa_addr || !(i->ifa_flags & IFF_UP) || is_loopback != (loopback == 1)) continue;
            if (endpoint_of(i->ifa_addr, &out[count])) count++;
        }
    freeifaddrs(all);
    return count;
}

void rt_endpoint_text(const rt_endpoint *e, char out[RT_ENDPOINT_TEXT])
{
    const char *text = is_ipv4(e) ? inet_ntop(AF_INET, e->bytes + 12, out, RT_ENDPOINT_TEXT)
                                  : inet_ntop(AF_INET6, e->bytes, out, RT_ENDPOINT_TEXT);
    if (!text) snprintf(out, RT_ENDPOINT_TEXT, "?");
}

bool rt_socket_is_over(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}
