#include "runtime/api/device.h"

#include <dlfcn.h>
#include <string.h>

#define PLUGIN "libmica_cuda.so"
#define UTILIZATION 0.9

/* Without the driver's library there is nothing to find, and cuBLASLt need not be read in to say so. */
static bool has_driver(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (driver) dlclose(driver);
    return driver != NULL;
}

static rc_code open_cuda(const mica_options *o, mica__device *out, rc_msg *msg)
{
    uint32_t devices;
    RC_TRY(rt_plugin_open(o->plugin_dir, PLUGIN, &out->plugin, msg));
    RC_TRY(out->plugin->probe(&devices, msg));
    out->backend = out->plugin->backend;
    return RC_OK;
}

static void choose_auto(const mica_options *o, mica__device *out)
{
    rc_msg why;
    rc_code code =
        has_driver() ? open_cuda(o, out, &why) : rc_fail(RC_UNAVAILABLE, &why, "there is no NVIDIA driver");
    if (code != RC_OK) *out = (mica__device){.backend = rt_backend_cpu()};
    if (code == RC_OK) snprintf(out->why, sizeof out->why, "device: cuda");
    else snprintf(out->why, sizeof out->why, "device: cpu, since %.560s", why.text);
}

static rc_code check_utilization(const mica_options *o, rc_msg *msg)
{
    double u = o->gpu_memory_utilization;
    if (u == 0 || (u > 0 && u <= 1)) return RC_OK;
    return rc_about(rc_fail(RC_INVALID_ARGUMENT, msg,
                            "--gpu-memory-utilization must be above 0 and at most 1, got %g", u),
                    msg, "--gpu-memory-utilization");
}

rc_code mica__device_choose(const mica_options *o, mica__device *out, rc_msg *msg)
{
    const char *name = o->device ? o->device : "auto";
    *out = (mica__device){.backend = rt_backend_cpu()};
    RC_TRY(check_utilization(o, msg));
    if (!strcmp(name, "cpu")) return RC_OK;
    if (!strcmp(name, "auto")) {
        choose_auto(o, out);
        return RC_OK;
    }
    if (strcmp(name, "cuda"))
        return rc_about(
            rc_fail(RC_INVALID_ARGUMENT, msg, "--device must be auto, cpu or cuda, got '%.100s'", name), msg,
            "--device");
    rc_msg why;
    rc_code code = open_cuda(o, out, &why);
    if (code == RC_OK) return code;
    return rc_about(rc_fail(code, msg, "--device cuda: %.500s", why.text), msg, "--device");
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

rc_code mica__device_room(const mica__device *d, const mica_options *o, uint32_t ordinal, uint64_t others,
                          uint64_t *kv_bytes, rc_msg *msg)
{
    uint64_t unused, total;
    double share = o->gpu_memory_utilization > 0 ? o->gpu_memory_utilization : UTILIZATION;
    RC_TRY(d->plugin->memory(ordinal, &unused, &total, msg));
    uint64_t may = (uint64_t)((double)total * share), taken = total - unused;
    if (may > taken && may - taken > others) {
        *kv_bytes = may - taken - others;
        return RC_OK;
    }
    rc_fail(RC_RESOURCE_EXHAUSTED, msg,
            "--gpu-memory-utilization %.2f of device %u is %.0f MiB: %.0f MiB are in use and %.0f MiB are "
            "needed for "
            "weights, adapters and activations, which leaves nothing for K/V",
            share, ordinal, mib(may), mib(taken), mib(others));
    return rc_about(RC_RESOURCE_EXHAUSTED, msg, "--gpu-memory-utilization");
}
