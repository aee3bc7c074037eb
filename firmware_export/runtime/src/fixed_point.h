/* Fixed-point numbers out of doubles, bit by bit, and rescaling. docs/arithmetic.md, "Rounding". */
#ifndef SANDERLING_FIXED_POINT_H
#define SANDERLING_FIXED_POINT_H

#include <string.h>

#include "sanderling/network.h"

/* `bits` significant bits m and an exponent: real = m * 2^(exponent - bits), rounded half up; 0 is (0, 0). */
static inline uint64_t sl_significant(double real, uint32_t bits, int32_t *exponent)
{
    uint64_t word;
    memcpy(&word, &real, sizeof word);
    uint32_t biased = (uint32_t)(word >> 52) & 0x7FF;
    *exponent = 0;
    if (biased == 0) { /* zero, or too small to matter */
        return 0;
    }
    *exponent = (int32_t)biased - 1022;
    uint64_t mantissa = (word & 0xFFFFFFFFFFFFF) | (uint64_t)1 << 52;
    return (mantissa + ((uint64_t)1 << (52 - bits))) >> (53 - bits);
}

static inline int32_t sl_clamp(int32_t x, int32_t low, int32_t high)
{
    return x < low ? low : x > high ? high : x;
}

/* (a * b + 2^30) >> 31 of b >= 0. */
static inline int32_t sl_high_product(int32_t a, int32_t b)
{
#if defined(__thumb__) && !defined(__thumb2__)
    /* Cores without a long product: of halves, a = high * 2^16 + low. */
    const int32_t a_high = a >> 16, b_high = b >> 16;
    const uint32_t a_low = (uint32_t)a & 0xFFFF, b_low = (uint32_t)b & 0xFFFF, lowest = a_low * b_low;
    const int32_t first = a_high * (int32_t)b_low + (int32_t)(lowest >> 16);
    const int32_t second = (int32_t)a_low * b_high + (int32_t)((uint32_t)first & 0xFFFF);
    const uint32_t low = ((uint32_t)second << 16 | (lowest & 0xFFFF)) + (1u << 30);
    const int32_t high = a_high * b_high + (first >> 16) + (second >> 16) + (low < 1u << 30 ? 1 : 0);
    return (int32_t)((uint32_t)high << 1 | low >> 31);
#else
    return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
#endif
}

/* x * 2^shift wraps around. */
static inline int32_t sl_scaled(int32_t x, sl_scale scale)
{
    int32_t left = scale.shift > 0 ? scale.shift : 0, right = left - scale.shift;
    x = (int32_t)((uint32_t)x << left);
    int32_t high = sl_high_product(x, scale.multiplier);
    if (right == 0) {
        return high;
    }
    return (high + (int32_t)((1u << right) >> 1) - (high < 0 ? 1 : 0)) >> right;
}

#endif
