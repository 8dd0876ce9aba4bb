#include "runtime/base/json_out.h"
#include "runtime/cli/completion_reply.h"

int rt_completion_status(rc_code code)
{
    switch (code) {
    case RC_OK:
        return 200;
    case RC_NOT_FOUND:
        return 404;
    case RC_INVALID_ARGUMENT:
    case RC_ALREADY_EXISTS:
    case RC_FAILED_PRECONDITION:
    case RC_UNIMPLEMENTED:
        return 400;
    case RC_RESOURCE_EXHAUSTED:
    case RC_UNAVAILABLE:
        return 503;
    default:
        return 500;
    }
}

static const char *type_of(int status)
{
    switch (status) {
    case 400:
        return "BadRequestError";
    case 404:
        return "NotFoundError";
    case 503:
        return "ServiceUnavailableError";
    default:
        return "InternalServerError";
    }
}

void rt_completion_error_write(int status, const rc_msg *msg, rt_bytes *out)
{
    rt_json_open(out, '{');
    rt_json_key(out, "error");
    rt_json_open(out, '{');
    rt_json_key(out, "message");
    rt_json_text(out, msg->text);
    rt_json_key(out, "type");
    rt_json_text(out, type_of(status));
    rt_json_key(out, "param");
    rt_json_text(out, msg->param[0] ? msg->param : NULL);
    rt_json_key(out, "code");
    rt_json_i64(out, status);
    rt_json_close(out, '}');
    rt_json_close(out, '}');
}
