/* runtime/api/device.h - which kind of device an engine runs on. */
#ifndef RUNTIME_API_DEVICE_H
#define RUNTIME_API_DEVICE_H

#include "runtime/backend/plugin.h"
#include "runtime/mica.h"

typedef struct mica__device {
    const rt_backend *backend;
    const rt_plugin *plugin; /* NULL: the CPU */
    char why[RC_TEXT_BYTES]; /* of auto: "device: cpu, since ..."; empty where it was asked for by name */
} mica__device;

/* --device auto|cpu|cuda.
 * Errors  INVALID_ARGUMENT: another word, or a utilization that is not above 0 and at most 1. UNAVAILABLE:
 * cuda is asked for and can't be used. */
RC_MUST_CHECK rc_code mica__device_choose(const mica_options *o, mica__device *out, rc_msg *msg);

/* What a device's memory leaves for K/V, when everything may take gpu_memory_utilization of it, `others`
 * bytes are planned beside K/V, and what is in use now stays so. Errors  RESOURCE_EXHAUSTED: nothing is left.
 */
RC_MUST_CHECK rc_code mica__device_room(const mica__device *d, const mica_options *o, uint32_t ordinal,
                                        uint64_t others, uint64_t *kv_bytes, rc_msg *msg);

#endif
