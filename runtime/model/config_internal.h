/* runtime/model/config_internal.h - what the two readers of a model's shape share. */
#ifndef RUNTIME_MODEL_CONFIG_INTERNAL_H
#define RUNTIME_MODEL_CONFIG_INTERNAL_H

#include "runtime/model/config_json.h"
#include "runtime/model/model_config.h"

/* Relations between sizes, and their limits, whichever file they come from. `where` is that file. */
RC_MUST_CHECK rc_code rt__config_check(const rt_model_config *c, const char *where, rc_msg *msg);

/* rope_scaling / rope_parameters / rope_theta of config.json; needs c->positions_max. */
RC_MUST_CHECK rc_code rt__config_rope(const rt__fields *f, rt_model_config *c);

/* Is this field one that asks for nothing: absent, null, false, 0, {}, []? */
bool rt__field_off(const rt__fields *f, const char *key);

#endif
