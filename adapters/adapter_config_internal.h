/* adapters/adapter_config_internal.h - the parsed adapter_config.json. */
#ifndef ADAPTERS_ADAPTER_CONFIG_INTERNAL_H
#define ADAPTERS_ADAPTER_CONFIG_INTERNAL_H

#include <jansson.h>

#include "adapters/adapter_config.h"
#include "adapters/pattern.h"

/* target_modules, exclude_modules: names, or a regular expression, or (both NULL) not given. */
typedef struct adapter_selector {
    const char **names; /* [names_count] borrowed from the JSON */
    uint32_t names_count;
    adapter_pattern *regex;
} adapter_selector;

typedef struct adapter_override {
    adapter_pattern *pattern;
    double value;
} adapter_override;

typedef struct adapter_overrides {
    adapter_override *entries; /* [count] the first that matches counts */
    uint32_t count;
} adapter_overrides;

struct adapter_config {
    json_t *root; /* owns all texts */
    adapter_kind kind;
    uint32_t invocation_count;
    int32_t invocation[ADAPTER_INVOCATION_MAX];
    const char *invocation_text;

    bool all_linear; /* then targets is empty */
    adapter_selector targets, excluded;
    uint32_t layers_count; /* 0: all */
    uint32_t *layers;
    uint32_t layer_patterns_count; /* how a path leads to its layer; the first that matches counts */
    adapter_pattern **layer_patterns;

    uint32_t rank;
    double alpha;
    bool rslora;
    adapter_overrides ranks, alphas;
    adapter_matcher *matcher;
};

#endif
