/* runtime/backend/plugin.h - another device's table, from a library that is loaded when it is asked for.
 *
 * A plugin is a shared library with one symbol, RT_PLUGIN_SYMBOL, an rt_plugin_get. It needs no symbol of
 * ours: what it is told comes in structs and tables.
 *
 * Threads  any. A library that was loaded stays so until the process ends.
 */
#ifndef RUNTIME_BACKEND_PLUGIN_H
#define RUNTIME_BACKEND_PLUGIN_H

#include "runtime/backend/backend.h"

#define RT_PLUGIN_SYMBOL "mica_plugin"

typedef struct rt_plugin {
    uint32_t abi; /* RT_BACKEND_ABI */
    const rt_backend *backend;
    /* Devices that can be used, at least one; else UNAVAILABLE and one line: no driver, one too old, no
     * device. */
    RC_MUST_CHECK rc_code (*probe)(uint32_t *devices, rc_msg *msg);
    /* Bytes of a device, as its driver tells them now. */
    RC_MUST_CHECK rc_code (*memory)(uint32_t ordinal, uint64_t *free_bytes, uint64_t *total_bytes,
                                    rc_msg *msg);
} rt_plugin;

typedef const rt_plugin *(*rt_plugin_get)(void);

/* `file` in directory `dir`, or beside the library (or program) that this code is part of where dir is NULL
 * or has no such file. Errors  UNAVAILABLE: it is not there, can't be loaded, or is of another version; the
 * line says which. */
RC_MUST_CHECK rc_code rt_plugin_open(const char *dir, const char *file, const rt_plugin **out, rc_msg *msg);

#endif
