/* runtime/engine/exec_model.h - the rt_exec that runs a model on a backend. */
#ifndef RUNTIME_ENGINE_EXEC_MODEL_H
#define RUNTIME_ENGINE_EXEC_MODEL_H

#include "runtime/engine/exec.h"

typedef struct rt_exec_model {
    const rt_backend *backend;
    rt_device *device;
    rt_model *model;
    rt_model_info info;
    rt_group *group; /* NULL: the model is not split */
} rt_exec_model;

/* Fills exec; it borrows m, which must outlive it. */
void rt_exec_model_init(rt_exec *exec, rt_exec_model *m, uint32_t logits_max, uint32_t lists_max);

#endif
