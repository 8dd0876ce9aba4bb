/* runtime/server/tenants.h - the tenants file, and who a key belongs to.
 *
 *     { "admin_key_sha256": "hex", "tenants": [ { "name": "acme", "key_sha256": "hex", "weight": 1,
 *       "adapters": ["uq", "acme-*"], "may_load": false, "max_concurrency": 8, "max_queue": 64,
 *       "requests_per_minute": 600, "tokens_per_minute": 100000, "cache_group": "acme" } ] }
 *
 * Keys are known by their SHA-256 alone, and compared in a time that does not depend on them. A list is never
 * changed once it is read: a reload makes another, and calls end on the one that they began with.
 */
#ifndef RUNTIME_SERVER_TENANTS_H
#define RUNTIME_SERVER_TENANTS_H

#include <stddef.h>

#include "runtime/server/shares.h"

enum { RT_KEY_HASH_BYTES = 32, RT_SALT_TEXT_BYTES = 2 * RT_KEY_HASH_BYTES + 1 };

typedef struct rt_tenant {
    char name[RT_SHARE_NAME_BYTES_MAX + 1];
    unsigned char key[RT_KEY_HASH_BYTES];
    char **adapters; /* names, in which * stands for any bytes */
    size_t adapters_count;
    bool may_load;
    char *cache_group; /* NULL: its own */
    rt_share_limits limits;
    uint32_t share; /* the caller's, before the list is used */
} rt_tenant;

typedef struct rt_tenants {
    rt_tenant *list;
    size_t count;
    bool has_admin;
    unsigned char admin_key[RT_KEY_HASH_BYTES];
} rt_tenants;

/* Errors INVALID_ARGUMENT: what in the file is not as expected; RESOURCE_EXHAUSTED. */
RC_MUST_CHECK rc_code rt__tenants_parse(const char *text, size_t bytes, rt_tenants **out, rc_msg *msg);
RC_MUST_CHECK rc_code rt__tenants_read(const char *path, rt_tenants **out, rc_msg *msg);
void rt__tenants_free(rt_tenants *t); /* NULL is allowed */

/* Whose `authorization: Bearer KEY` this is. *tenant NULL: the admin's. False: nobody's. */
bool rt__tenants_find(const rt_tenants *t, const char *authorization, size_t bytes, const rt_tenant **tenant);
bool rt__tenant_sees(const rt_tenant *t, const char *adapter);
/* What names the K/V of a tenant's group and of what its client salts with (NULL: nothing). */
void rt__tenant_salt(const rt_tenant *t, const char *client, char out[RT_SALT_TEXT_BYTES]);

#endif
