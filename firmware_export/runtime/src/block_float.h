/* Errors of the backward pass. docs/arithmetic.md, "Training a deeper tail", "Errors". */
#ifndef SANDERLING_BLOCK_FLOAT_H
#define SANDERLING_BLOCK_FLOAT_H

#include "sanderling/tail.h"

/* x / 2^n, halves up; to the left where n is not positive. */
static inline int32_t sl_round_shift(int32_t x, int32_t n)
{
    if (n <= 0) {
        return (int32_t)((uint32_t)x << -n);
    }
    return n > 31 ? 0 : (x >> n) + ((x >> (n - 1)) & 1);
}

/* Mantissas within +-4096 that use their 12 bits; the new exponent. */
int32_t sl_normalise(int16_t *mantissas, uint32_t count, int32_t exponent);

/* The same of int32 numbers, which stay int32. */
int32_t sl_normalise_wide(int32_t *numbers, uint32_t count, int32_t exponent);

/* The same of int32 sums, in whose place, from its beginning on, the int16 mantissas come to lie. */
int32_t sl_normalise_sums(int32_t *sums, uint32_t count, int32_t exponent);

static inline int16_t sl_times(int16_t mantissa, uint16_t factor)
{
    return (int16_t)((mantissa * (int32_t)factor + (1 << 14)) >> 15);
}

/* a + b, into a; the new exponent. */
int32_t sl_add_errors(int16_t *a, int32_t a_exponent, const int16_t *b, int32_t b_exponent, uint32_t count);

sl_short sl_shortened(double real);

/* x * factor * 2^-exponent, halves up, within +-limit. */
int32_t sl_contribution(int32_t x, sl_short factor, int32_t exponent, int32_t limit);

#endif
