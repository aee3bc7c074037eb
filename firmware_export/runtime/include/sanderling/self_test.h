/* Whether this machine computes what the federation computes: a few inferences and a round of training on drawn numbers,
   hashed. firmware_export/golden.py computes the same hash with the reference. */
#ifndef SANDERLING_SELF_TEST_H
#define SANDERLING_SELF_TEST_H

#include "sanderling/base.h"
#include "sanderling/flashed_model.h"

enum { SL_SELF_TEST_EXAMPLES = 6, SL_SELF_TEST_PAYLOAD_BYTES = 160 };

/* Memory to work in. */
typedef struct {
    int8_t *arena;      /* of the network, aligned to 8 */
    int8_t *rows;       /* SL_SELF_TEST_EXAMPLES rows of features: an empty cache */
    int16_t *start;     /* the head's dimension */
    void *scratch;      /* sl_self_test_scratch_bytes, aligned to 8; may be the arena: it is used afterwards */
    uint32_t scratch_bytes;
} sl_self_test_memory;

uint32_t sl_self_test_scratch_bytes(const sl_flashed_model *model);

/* The hash, 32 bytes. SL_NO_SPACE, SL_UNSUPPORTED. */
sl_status sl_self_test_hash(const sl_flashed_model *model, const sl_self_test_memory *memory, uint8_t *hash);

/* SL_OK, or SL_ARITHMETIC_DIFFERS. */
sl_status sl_self_test(const sl_flashed_model *model, const sl_self_test_memory *memory);

#endif
