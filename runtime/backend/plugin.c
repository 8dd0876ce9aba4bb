#include "runtime/backend/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <unistd.h>

/* Where the code that asks lies. */
static void own_directory(char *out, size_t max)
{
    Dl_info self;
    *out = 0;
    if (!dladdr((void *)(uintptr_t)own_directory, &self) || !self.dli_fname) return;
    const char *slash = strrchr(self.dli_fname, '/');
    int n = slash ? (int)(slash - self.dli_fname) : 1;
    snprintf(out, max, "%.*s", n, slash ? self.dli_fname : ".");
}

static bool find(const char *dir, const char *file, char *path)
{
    char own[PATH_MAX / 2];
    own_directory(own, sizeof own);
    if (dir) {
        snprintf(path, PATH_MAX, "%s/%s", dir, file);
        if (access(path, R_OK) == 0) return true;
    }
    snprintf(path, PATH_MAX, "%s/%s", own, file);
    return access(path, R_OK) == 0;
}

rc_code rt_plugin_open(const char *dir, const char *file, const rt_plugin **out, rc_msg *msg)
{
    char path[PATH_MAX];
    if (!find(dir, file, path))
        return rc_fail(RC_UNAVAILABLE, msg, "no %s beside libmica.so%s%s", file, dir ? " or in " : "",
                       dir ? dir : "");
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return rc_fail(RC_UNAVAILABLE, msg, "%s can't be loaded: %s", path, dlerror());
    rt_plugin_get get = (rt_plugin_get)(uintptr_t)dlsym(library, RT_PLUGIN_SYMBOL);
    const rt_plugin *plugin = get ? get() : NULL;
    if (!plugin || plugin->abi != RT_BACKEND_ABI) {
        rc_fail(RC_UNAVAILABLE, msg, "%s has table version %u, expected %d: it is of another build", path,
                plugin ? plugin->abi : 0, RT_BACKEND_ABI);
        dlclose(library);
        return RC_UNAVAILABLE;
    }
    *out = plugin;
    return RC_OK;
}
