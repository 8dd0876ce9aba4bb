/* Any bytes as a tenants file: refused in one line, or a list that can be asked. */
#include <stdint.h>
#include <stdlib.h>

#include "runtime/server/tenants.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    rt_tenants *t;
    const rt_tenant *who;
    rc_msg msg;
    char salt[RT_SALT_TEXT_BYTES];
    if (rt__tenants_parse((const char *)data, bytes, &t, &msg) != RC_OK) {
        if (!*msg.text || strchr(msg.text, '\n')) abort();
        return 0;
    }
    for (size_t i = 0; i < t->count; i++) {
        (void)rt__tenant_sees(&t->list[i], "acme-1");
        rt__tenant_salt(&t->list[i], NULL, salt);
        if (!t->list[i].limits.weight || !*t->list[i].name) abort();
    }
    (void)rt__tenants_find(t, (const char *)data, bytes, &who);
    rt__tenants_free(t);
    return 0;
}
