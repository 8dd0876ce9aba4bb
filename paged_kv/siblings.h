/* paged_kv/siblings.h - the children of a node: which of them has the longest run of given rows.
 *
 * Children whose rows stay as they are form a treap ordered by rows. The run that agrees longest with
 * a query is next to the place where the query belongs, and both neighbours of that place lie on
 * the search path; so one descent is exact. Tails, whose rows grow with every commit, hang in a
 * list instead and are all looked at: there is at most one a running sequence, and one a pending copy.
 */
#ifndef PAGED_KV_SIBLINGS_H
#define PAGED_KV_SIBLINGS_H

#include "paged_kv/rows.h"

/* The block's parent and rows are set. It moves from nowhere into the tree (its rows must be no
 * other member's) or the list. */
void kv__tree_insert(kv *m, uint32_t block);
void kv__tree_remove(kv *m, uint32_t block);
void kv__tail_insert(kv *m, uint32_t block);
void kv__tail_remove(kv *m, uint32_t block);

/* The child of `parent` with the longest common run of rows, tree members first where equal.
 * Gives the block, or KV_NONE, and *common. */
uint32_t kv__siblings_longest(const kv *m, uint32_t parent, kv_rows rows, uint32_t *common);

/* Does a sibling in the tree, or anywhere, have all rows of this block? */
bool kv__tree_covers(const kv *m, uint32_t block);
bool kv__siblings_cover(const kv *m, uint32_t block);

/* The tree member that comes before this block's rows, or KV_NONE. */
uint32_t kv__tree_before(const kv *m, uint32_t block);

void kv__siblings_check(const kv *m, uint32_t block); /* aborts if the block is not where it belongs */

#endif
