#include "runtime/server/rpc_tls.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "runtime/base/bytes.h"

enum { PEM_BYTES_MAX = 1 << 20, FILES = 3 };

typedef struct pem_file {
    const char *flag, *path; /* path NULL: not used */
    struct timespec changed;
    rt_bytes text;
} pem_file;

struct rpc_tls {
    pthread_mutex_t lock;  /* connections ask from several threads */
    pem_file files[FILES]; /* key, certificate, clients' CA */
    bool is_used;          /* a configuration was given out */
};

static rc_code read_file(pem_file *f, rc_msg *msg)
{
    struct stat s;
    rt_bytes text = {0};
    FILE *in = fopen(f->path, "r");
    if (!in || fstat(fileno(in), &s)) {
        rc_fail(RC_INVALID_ARGUMENT, msg, "--%s: cannot read '%.400s': %s", f->flag, f->path,
                strerror(errno));
        if (in) fclose(in);
        return RC_INVALID_ARGUMENT;
    }
    char *to = rt_bytes_reserve(&text, PEM_BYTES_MAX);
    if (to) text.count = fread(to, 1, PEM_BYTES_MAX - 1, in);
    rt_bytes_add_byte(&text, 0);
    fclose(in);
    if (text.failed || !strstr(text.data, "-----BEGIN ")) {
        rt_bytes_deinit(&text);
        return rc_fail(RC_INVALID_ARGUMENT, msg, "--%s: '%.400s' holds no PEM block", f->flag, f->path);
    }
    rt_bytes_deinit(&f->text);
    f->text = text;
    f->changed = s.st_mtim;
    return RC_OK;
}

static bool has_changed(const pem_file *f)
{
    struct stat s;
    return f->path && !stat(f->path, &s) &&
           (s.st_mtim.tv_sec != f->changed.tv_sec || s.st_mtim.tv_nsec != f->changed.tv_nsec);
}

static grpc_ssl_server_certificate_config *configure(const rpc_tls *t)
{
    grpc_ssl_pem_key_cert_pair pair = {t->files[0].text.data, t->files[1].text.data};
    return grpc_ssl_server_certificate_config_create(t->files[2].path ? t->files[2].text.data : NULL, &pair,
                                                     1);
}

/* Key and certificate change one after the other: gRPC core refuses a pair that does not match and goes on
 * with the last good one, until the second file changes too. */
static grpc_ssl_certificate_config_reload_status fetch(void *arg, grpc_ssl_server_certificate_config **config)
{
    rpc_tls *t = arg;
    grpc_ssl_certificate_config_reload_status status = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    pthread_mutex_lock(&t->lock);
    bool is_due = !t->is_used;
    for (int i = 0; i < FILES; i++)
        if (has_changed(&t->files[i]) && read_file(&t->files[i], NULL) == RC_OK) is_due = true;
    if (is_due) {
        *config = configure(t);
        status = *config ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_FAIL;
        t->is_used = true;
    }
    pthread_mutex_unlock(&t->lock);
    return status;
}

rc_code rpc_tls_open(const char *key_file, const char *cert_file, const char *client_ca_file, rpc_tls **out,
                     grpc_server_credentials **credentials, rc_msg *msg)
{
    rpc_tls *t = calloc(1, sizeof *t);
    if (!t) return rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for certificates");
    pthread_mutex_init(&t->lock, NULL);
    t->files[0] = (pem_file){.flag = "ssl-keyfile", .path = key_file};
    t->files[1] = (pem_file){.flag = "ssl-certfile", .path = cert_file};
    t->files[2] = (pem_file){.flag = "ssl-ca-certs", .path = client_ca_file};
    for (int i = 0; i < FILES; i++)
        if (t->files[i].path && read_file(&t->files[i], msg) != RC_OK) {
            rpc_tls_close(t);
            return RC_INVALID_ARGUMENT;
        }
    *credentials = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            client_ca_file ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                           : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
            fetch, t));
    *out = t;
    return RC_OK;
}

void rpc_tls_close(rpc_tls *t)
{
    if (!t) return;
    for (int i = 0; i < FILES; i++) rt_bytes_deinit(&t->files[i].text);
    pthread_mutex_destroy(&t->lock);
    free(t);
}
