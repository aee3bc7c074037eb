/* A bounded, class-balanced store of examples: which window is kept, and where. edge_runtime/examples.py states the rule. */
#ifndef SANDERLING_EXAMPLES_H
#define SANDERLING_EXAMPLES_H

#include "sanderling/base.h"
#include "sanderling/head.h"

enum { SL_NOT_KEPT = -1 };

/* What the store knows of a class. */
typedef struct {
    uint32_t held, offered;
    bool full;
} sl_class_count;

/* Rows of `features` bytes and their labels lie in the caller's memory, in order of slots. */
typedef struct {
    int8_t *rows;
    uint16_t *labels;
    sl_class_count *counts; /* of each class */
    uint32_t capacity, features, classes;
    uint32_t held;
    uint32_t offered;
    sl_key key;
} sl_example_store;

/* An empty store; what the pointers point to need not be cleared. */
void sl_store_begin(sl_example_store *store, int8_t *rows, uint16_t *labels, sl_class_count *counts, uint32_t capacity,
                    uint32_t features, uint32_t classes, sl_key key);

/* The slot of the next window, whose label alone decides: its features then belong in `sl_store_row(store, slot)`.
   SL_NOT_KEPT where it is not kept. SL_BAD_SAMPLE, and no window has been offered, for a label that is no class. */
sl_status sl_store_offer(sl_example_store *store, uint32_t label, int32_t *slot);

int8_t *sl_store_row(const sl_example_store *store, int32_t slot);

/* The examples held, a view. */
sl_examples sl_store_examples(const sl_example_store *store);

#endif
