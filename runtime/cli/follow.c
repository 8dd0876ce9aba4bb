#include "runtime/cli/follow.h"

#include <signal.h>

rc_code rt__follow(const rt_engine_flags *f, bool *follows, rc_msg *msg)
{
    mica_options o = f->options;
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    sigaction(SIGINT, &ignore, &before);
    rc_code code = mica_follow(&o, follows, msg);
    sigaction(SIGINT, &before, NULL);
    return code;
}
