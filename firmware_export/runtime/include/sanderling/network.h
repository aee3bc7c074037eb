/* A network as tables: what the exporter generates, and what the kernels read. docs/arithmetic.md, "Inference operators". */
#ifndef SANDERLING_NETWORK_H
#define SANDERLING_NETWORK_H

#include "sanderling/base.h"

/* A real factor as multiplier * 2^(shift - 31): "Rounding", fixed(). */
typedef struct {
    int32_t multiplier;
    int32_t shift;
} sl_scale;

typedef struct sl_node sl_node;

/* Runs one node on the arena, where every activation has its place. */
typedef void (*sl_kernel)(const sl_node *node, int8_t *arena);

struct sl_node {
    sl_kernel run;
    const void *parameters; /* the kernel's own struct, see kernels.h */
    const uint32_t *inputs; /* offsets in the arena */
    uint32_t output;        /* offset in the arena */
};

typedef struct {
    const sl_node *nodes;
    uint32_t node_count;
    uint32_t arena_bytes;
    uint32_t input;         /* offset in the arena of the (first) input, int8 */
    uint32_t input_size;    /* elements */
    uint32_t output;        /* offset of the (first) output */
    uint32_t output_size;
} sl_network;

/* Runs nodes first..last-1; the arena holds at least arena_bytes, aligned to 4. */
void sl_run(const sl_network *network, uint32_t first, uint32_t last, int8_t *arena);

#endif
