#include "runtime/server/wire_text.h"

#include <stdint.h>

#include "runtime/base/utf8.h"

rc_code rt__wire_text_check(const ProtobufCBinaryData *text, size_t max, const char *field, rc_msg *msg)
{
    rc_code code = RC_OK;
    size_t valid = text->len > max ? 0 : rt_utf8_valid((const char *)text->data, text->len);
    if (text->len > max)
        code = rc_fail(RC_INVALID_ARGUMENT, msg, "%s must have at most %zu bytes, got %zu", field, max,
                       text->len);
    else if (valid != text->len)
        code = rc_fail(RC_INVALID_ARGUMENT, msg, "%s is not UTF-8 at byte %zu", field, valid);
    return code == RC_OK ? code : rc_about(code, msg, field);
}

rc_code rt__wire_text_copy(const ProtobufCBinaryData *text, size_t max, const char *field, char **out,
                           rc_msg *msg)
{
    *out = NULL;
    RC_TRY(rt__wire_text_check(text, max, field, msg));
    if (!text->len) return RC_OK;
    if (memchr(text->data, 0, text->len))
        return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg, "%s must not hold a NUL", field), msg, field);
    *out = strndup((const char *)text->data, text->len);
    return *out ? RC_OK : rc_fail(RC_RESOURCE_EXHAUSTED, msg, "no memory for the request");
}

ProtobufCBinaryData rt__wire_text_of(const char *text)
{
    return (ProtobufCBinaryData){text ? strlen(text) : 0, (uint8_t *)text};
}

void rt__wire_text_add(rt_bytes *out, const char *text, size_t bytes)
{
    while (bytes) {
        size_t valid = rt_utf8_valid(text, bytes);
        rt_bytes_add(out, text, valid);
        text += valid;
        bytes -= valid;
        if (!bytes) return;
        rt_bytes_add_text(out, "\xef\xbf\xbd");
        text++;
        bytes--;
    }
}
