#include "sanderling/examples.h"

#include <string.h>

void sl_store_begin(sl_example_store *store, int8_t *rows, uint16_t *labels, sl_class_count *counts, uint32_t capacity,
                    uint32_t features, uint32_t classes, sl_key key)
{
    *store = (sl_example_store){.rows = rows,
                                .labels = labels,
                                .counts = counts,
                                .capacity = capacity,
                                .features = features,
                                .classes = classes,
                                .key = key};
    memset(counts, 0, classes * sizeof *counts);
}

/* The lowest of the largest classes; all of the largest are full from now on. */
static uint32_t largest_class(sl_example_store *store)
{
    uint32_t largest = 0;
    for (uint32_t c = 1; c < store->classes; c++) {
        if (store->counts[c].held > store->counts[largest].held) {
            largest = c;
        }
    }
    for (uint32_t c = 0; c < store->classes; c++) {
        if (store->counts[c].held == store->counts[largest].held) {
            store->counts[c].full = true;
        }
    }
    return largest;
}

/* The slot of one of the class's examples. */
static uint32_t pick(const sl_example_store *store, uint32_t label, uint32_t word)
{
    uint32_t left = sl_below(word, store->counts[label].held), slot = 0;
    while (store->labels[slot] != label || left-- > 0) {
        slot++;
    }
    return slot;
}

static int32_t replace(sl_example_store *store, uint32_t slot, uint32_t label)
{
    store->counts[store->labels[slot]].held--;
    store->counts[label].held++;
    store->labels[slot] = (uint16_t)label;
    return (int32_t)slot;
}

sl_status sl_store_offer(sl_example_store *store, uint32_t label, int32_t *slot)
{
    if (label >= store->classes) {
        return SL_BAD_SAMPLE;
    }
    sl_class_count *own = &store->counts[label];
    uint32_t words[2];
    sl_random_block(store->key, store->offered++, 0, words);
    own->offered++;
    if (store->held < store->capacity) {
        own->held++;
        store->labels[store->held] = (uint16_t)label;
        *slot = (int32_t)store->held++;
        return SL_OK;
    }
    const uint32_t largest = largest_class(store);
    if (!own->full) {
        *slot = replace(store, pick(store, largest, words[1]), label);
    } else if (sl_below(words[0], own->offered) < own->held) {
        *slot = (int32_t)pick(store, label, words[1]);
    } else {
        *slot = SL_NOT_KEPT;
    }
    return SL_OK;
}

int8_t *sl_store_row(const sl_example_store *store, int32_t slot)
{
    return store->rows + (size_t)slot * store->features;
}

sl_examples sl_store_examples(const sl_example_store *store)
{
    return (sl_examples){.rows = store->rows, .labels = store->labels, .count = store->held};
}
