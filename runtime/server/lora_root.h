/* runtime/server/lora_root.h - which directories a client may name.
 *
 * A path must lead to a directory inside the root, and so must its two files, after every ".." and symbolic
 * link is resolved. Who may write inside the root is trusted: links are looked at before the files are read.
 */
#ifndef RUNTIME_SERVER_LORA_ROOT_H
#define RUNTIME_SERVER_LORA_ROOT_H

#include "proto/rc.h"

/* path: absolute or relative to root. *out: the resolved one, by free().
 * Errors INVALID_ARGUMENT: not inside, or nothing there (the message is the same, so that nobody can find out
 * what else the machine has). */
RC_MUST_CHECK rc_code rt__lora_root_resolve(const char *root, const char *path, char **out, rc_msg *msg);

/* The directory NAME below the root, for loading by name alone. Parts of a name are ASCII letters, digits,
 * '_', '-' and '.', which is not the first, so that a directory has one name.
 * Errors NOT_FOUND: another name, not inside, or nothing there, in the words for what is not loaded. */
RC_MUST_CHECK rc_code rt__lora_root_find(const char *root, const char *name, char **out, rc_msg *msg);

#endif
