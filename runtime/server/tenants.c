#include "runtime/server/tenants.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- keys ---- */

static void hash(const void *data, size_t bytes, unsigned char out[RT_KEY_HASH_BYTES])
{
    RC_ASSERT(EVP_Digest(data, bytes, out, NULL, EVP_sha256(), NULL) == 1);
}

static bool is_bearer(const char *text, size_t bytes, const char **key, size_t *key_bytes)
{
    static const char scheme[] = "Bearer ";
    size_t skip = sizeof scheme - 1;
    if (bytes <= skip || strncasecmp(text, scheme, skip)) return false;
    *key = text + skip;
    *key_bytes = bytes - skip;
    return true;
}

/* All are compared, whichever matches. */
bool rt__tenants_find(const rt_tenants *t, const char *authorization, size_t bytes, const rt_tenant **tenant)
{
    unsigned char given[RT_KEY_HASH_BYTES];
    const char *key;
    size_t key_bytes;
    bool found = false;
    *tenant = NULL;
    if (!is_bearer(authorization, bytes, &key, &key_bytes)) return false;
    hash(key, key_bytes, given);
    if (t->has_admin && !CRYPTO_memcmp(given, t->admin_key, sizeof given)) found = true;
    for (size_t i = 0; i < t->count; i++) {
        if (CRYPTO_memcmp(given, t->list[i].key, sizeof given)) continue;
        *tenant = &t->list[i];
        found = true;
    }
    return found;
}

/* ---- what a tenant has ---- */

static bool matches(const char *pattern, const char *name)
{
    const char *star = NULL, *from = NULL; /* the last star, and what of the name it has eaten */
    while (*name) {
        if (*pattern == '*') {
            star = pattern++;
            from = name;
        } else if (*pattern == *name) {
            pattern++;
            name++;
        } else if (star) {
            pattern = star + 1;
            name = ++from;
        } else {
            return false;
        }
    }
    while (*pattern == '*') pattern++;
    return !*pattern;
}

bool rt__tenant_sees(const rt_tenant *t, const char *adapter)
{
    for (size_t i = 0; i < t->adapters_count; i++)
        if (matches(t->adapters[i], adapter)) return true;
    return false;
}

static void add_field(EVP_MD_CTX *c, const char *kind, const char *text)
{
    uint64_t bytes = strlen(text);
    RC_ASSERT(EVP_DigestUpdate(c, kind, 1) == 1);
    RC_ASSERT(EVP_DigestUpdate(c, &bytes, sizeof bytes) == 1);
    RC_ASSERT(EVP_DigestUpdate(c, text, bytes) == 1);
}

/* Groups and tenants are named in domains of their own, so that no group can be named into a tenant's. */
void rt__tenant_salt(const rt_tenant *t, const char *client, char out[RT_SALT_TEXT_BYTES])
{
    unsigned char digest[RT_KEY_HASH_BYTES];
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    RC_ASSERT(c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1);
    add_field(c, t->cache_group ? "g" : "t", t->cache_group ? t->cache_group : t->name);
    if (client) add_field(c, "c", client);
    RC_ASSERT(EVP_DigestFinal_ex(c, digest, NULL) == 1);
    EVP_MD_CTX_free(c);
    for (size_t i = 0; i < sizeof digest; i++) snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

void rt__tenants_free(rt_tenants *t)
{
    if (!t) return;
    for (size_t i = 0; i < t->count; i++) {
        for (size_t a = 0; a < t->list[i].adapters_count; a++) free(t->list[i].adapters[a]);
        free(t->list[i].adapters);
        free(t->list[i].cache_group);
    }
    free(t->list);
    free(t);
}
