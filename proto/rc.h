/* proto/rc.h - return codes, the one error message and the assertions that every folder shares.
 *
 * The numbers are gRPC's canonical status codes, so a server sends them as they are and no
 * translation table exists. Three kinds of failure are never mixed:
 *   bug          ours: RC_ASSERT stops the process rather than corrupt K/V
 *   refusal      a bad value, no room, no such name: a code and a line; nothing has changed
 *   environment  a file, a system call, a device: RC_INTERNAL or RC_UNAVAILABLE and a line
 * Source  https://grpc.io/docs/guides/status-codes (numbers only).
 */
#ifndef PROTO_RC_H
#define PROTO_RC_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* name, number, what it means when Mica returns it */
#define RC_CODES(X)                                                                                \
    X(OK, 0, "ok")                                                                                 \
    X(CANCELLED, 1, "the caller withdrew it")                                                      \
    X(INVALID_ARGUMENT, 3, "can never succeed as written")                                         \
    X(DEADLINE_EXCEEDED, 4, "too late")                                                            \
    X(NOT_FOUND, 5, "no such name")                                                                \
    X(ALREADY_EXISTS, 6, "the name is taken")                                                      \
    X(PERMISSION_DENIED, 7, "not for this caller")                                                 \
    X(RESOURCE_EXHAUSTED, 8, "no room now")                                                        \
    X(FAILED_PRECONDITION, 9, "not in a state that allows it")                                     \
    X(UNIMPLEMENTED, 12, "this build cannot")                                                      \
    X(INTERNAL, 13, "a system call or device failed")                                              \
    X(UNAVAILABLE, 14, "shutting down or not ready")                                               \
    X(UNAUTHENTICATED, 16, "no key, or nobody's")

typedef enum rc_code {
#define RC_ENUM_(name, number, text) RC_##name = number,
    RC_CODES(RC_ENUM_)
#undef RC_ENUM_
} rc_code;

enum { RC_TEXT_BYTES = 601, RC_PARAM_BYTES = 48 };

/* One line for the person who caused the failure, and the field or flag it is about ("" if none).
 * The caller owns it; NULL is allowed wherever one is taken. */
typedef struct rc_msg {
    char text[RC_TEXT_BYTES];
    char param[RC_PARAM_BYTES];
} rc_msg;

#if defined(__GNUC__)
#define RC_MUST_CHECK __attribute__((warn_unused_result))
#define RC_PRINTF(format_at, args_at) __attribute__((format(printf, format_at, args_at)))
#else
#define RC_MUST_CHECK
#define RC_PRINTF(format_at, args_at)
#endif

/* Fills msg and gives code back, so that a refusal is one statement:
 *     return rc_fail(RC_NOT_FOUND, msg, "adapter '%s' is not loaded", name);
 * Line breaks and other control bytes that a quoted value may hold become '?'. */
RC_PRINTF(3, 4)
static inline rc_code rc_fail(rc_code code, rc_msg *msg, const char *format, ...)
{
    if (msg) {
        va_list args;
        va_start(args, format);
        vsnprintf(msg->text, sizeof msg->text, format, args);
        va_end(args);
        for (char *c = msg->text; *c; c++)
            if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
        msg->param[0] = 0;
    }
    return code;
}

/* Names the field or flag that a failure is about. Gives code back. */
static inline rc_code rc_about(rc_code code, rc_msg *msg, const char *param)
{
    if (msg) snprintf(msg->param, sizeof msg->param, "%s", param);
    return code;
}

/* Returns early where nothing needs undoing. Elsewhere write the goto ladder out. */
#define RC_TRY(call)                                                                               \
    do {                                                                                           \
        rc_code rc_try_ = (call);                                                                  \
        if (rc_try_ != RC_OK) return rc_try_;                                                      \
    } while (0)

static inline void rc_abort_(const char *expression, const char *file, int line)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, expression);
    abort();
}

/* RC_ASSERT stays in release builds; RC_DASSERT, for inner loops, does not. Never on outside bytes. */
#define RC_ASSERT(x) ((x) ? (void)0 : rc_abort_(#x, __FILE__, __LINE__))
#ifdef NDEBUG
#define RC_DASSERT(x) ((void)sizeof(x))
#else
#define RC_DASSERT(x) RC_ASSERT(x)
#endif

#ifdef __cplusplus
}
#endif
#endif
