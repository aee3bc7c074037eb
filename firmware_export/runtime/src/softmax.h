/* Softmax in 2^-15 from accumulators. docs/arithmetic.md, "Training a dense head". */
#ifndef SANDERLING_SOFTMAX_H
#define SANDERLING_SOFTMAX_H

#include "sanderling/head.h"

/* Accumulators become probabilities less the target, 32768 at the label. */
void sl_cross_entropy_error(const sl_head *head, int32_t *sums, uint32_t label);

/* The cross-entropy of one example in 2^-16 nat, for reports. */
uint32_t sl_cross_entropy_q16(const sl_head *head, const int32_t *sums, uint32_t label);

uint32_t sl_largest(const int32_t *values, uint32_t count);

#endif
