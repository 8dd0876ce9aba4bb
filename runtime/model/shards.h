/* runtime/model/shards.h - the safetensors files of a directory as one set of names.
 *
 * An index is checked before a file is opened: file names must be plain names (no path leaves the
 * directory). Without an index no tensor may be in two files.
 *
 * Source  https://huggingface.co/docs/transformers/big_models (model.safetensors.index.json)
 */
#ifndef RUNTIME_MODEL_SHARDS_H
#define RUNTIME_MODEL_SHARDS_H

#include "adapters/safetensors.h"

enum { RT_SHARDS_MAX = 1024 };

typedef struct rt_shards rt_shards;

/* directory is borrowed until close. */
RC_MUST_CHECK rc_code rt__shards_open(const char *directory, rt_shards **out, rc_msg *msg);
void rt__shards_close(rt_shards *s);                                         /* NULL is allowed */
const adapter_tensor *rt__shards_find(const rt_shards *s, const char *name); /* NULL: none */

#endif
