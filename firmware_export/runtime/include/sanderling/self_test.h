/* Whether this machine computes what the federation computes: a few inferences and a round of training on drawn numbers,
   hashed. firmware_export/golden.py computes the same hash with the reference. */
#ifndef SANDERLING_SELF_TEST_H
#define SANDERLING_SELF_TEST_H

#include "sanderling/base.h"
#include "sanderling/flashed_model.h"

enum { SL_SELF_TEST_EXAMPLES = 6, SL_SELF_TEST_PAYLOAD_BYTES = 160 };

/* Bytes of scratch memory, aligned to 4. */
uint32_t sl_self_test_scratch_bytes(const sl_flashed_model *model);

/* The hash, 32 bytes. `arena` is the network's, aligned to 8; `start` has room for the head's dimension.
   SL_NO_SPACE, SL_UNSUPPORTED. */
sl_status sl_self_test_hash(const sl_flashed_model *model, int8_t *arena, int16_t *start, void *scratch,
                            uint32_t scratch_bytes, uint8_t *hash);

/* SL_OK, or SL_ARITHMETIC_DIFFERS. */
sl_status sl_self_test(const sl_flashed_model *model, int8_t *arena, int16_t *start, void *scratch, uint32_t scratch_bytes);

#endif
