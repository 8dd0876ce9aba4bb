/* runtime/server/wire_text.h - strings of messages, which arrive as any bytes and are text once checked. */
#ifndef RUNTIME_SERVER_WIRE_TEXT_H
#define RUNTIME_SERVER_WIRE_TEXT_H

#include <protobuf-c/protobuf-c.h>

#include "proto/rc.h"
#include "runtime/base/bytes.h"

/* Errors INVALID_ARGUMENT about `field`: over max bytes, or not UTF-8. */
RC_MUST_CHECK rc_code rt__wire_text_check(const ProtobufCBinaryData *text, size_t max, const char *field,
                                          rc_msg *msg);
/* *out: a terminated copy by free(), NULL where the text is empty. A NUL is refused too. */
RC_MUST_CHECK rc_code rt__wire_text_copy(const ProtobufCBinaryData *text, size_t max, const char *field,
                                         char **out, rc_msg *msg);

/* A view of a terminated string, to be sent. */
ProtobufCBinaryData rt__wire_text_of(const char *text);
/* Appends text to be sent: bytes that are no character become U+FFFD, since clients refuse a whole message
 * with one. */
void rt__wire_text_add(rt_bytes *out, const char *text, size_t bytes);

#endif
