/* Nested loops over axes, counted by one index. */
#ifndef SANDERLING_LOOPS_H
#define SANDERLING_LOOPS_H

#include "sanderling/kernels.h"

/* How often the innermost of the first `rank` loops runs. */
static inline uint32_t sl_runs(const sl_loops *loops, uint32_t rank)
{
    uint32_t runs = 1;
    for (uint32_t axis = 0; axis < rank; axis++) {
        runs *= loops->sizes[axis];
    }
    return runs;
}

/* Where run `index` of the first `rank` loops is, with these strides. */
static inline uint32_t sl_offset(const sl_loops *loops, uint32_t rank, const uint32_t *strides, uint32_t index)
{
    uint32_t offset = 0;
    for (uint32_t axis = rank; axis-- > 0;) {
        uint32_t rest = index / loops->sizes[axis];
        offset += (index - rest * loops->sizes[axis]) * strides[axis];
        index = rest;
    }
    return offset;
}

#endif
