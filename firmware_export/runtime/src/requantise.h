/* From sums to int8. docs/arithmetic.md, "Rounding": rescale, in fewer instructions where a layer's sums allow it. */
#ifndef SANDERLING_REQUANTISE_H
#define SANDERLING_REQUANTISE_H

#include "fixed_point.h"
#include "sanderling/arithmetic.h"
#include "sanderling/kernels.h"
#include "simd.h"

/* (x * multiplier + 2^30) >> 31 for x within +-2^30 */
static inline int32_t sl_high(int32_t x, int32_t multiplier)
{
#if defined(SL_DSP)
    int32_t high;
    __asm__("smmulr %0, %1, %2" : "=r"(high) : "r"(x * 2), "r"(multiplier));
    return high;
#else
    return (int32_t)(((int64_t)x * multiplier + (1 << 30)) >> 31);
#endif
}

/* Where a layer is quick. Halving is the last step of the shift, and the zero point goes in before it: `rise` is
   2 * zero point + 1. */
static inline int32_t sl_quick(uint32_t sum, const sl_scale *scale, int32_t rise)
{
    int32_t high = sl_high((int32_t)sum, scale->multiplier);
    high = (high + (high >> 31)) >> ~scale->shift;
    high = (high + rise) >> 1;
#if defined(SL_DSP)
    __asm__("ssat %0, #8, %0" : "+r"(high));
    return high;
#else
    return sl_clamp(high, INT8_MIN, INT8_MAX);
#endif
}

/* Anywhere. */
int32_t sl_to_output(uint32_t sum, const sl_scale *scale, const sl_output *output);

static inline int8_t sl_requantised(uint32_t sum, sl_scale scale, const sl_output *output, bool quick)
{
    return (int8_t)(quick ? sl_quick(sum, &scale, 2 * output->zero_point + 1) : sl_to_output(sum, &scale, output));
}

/* Two sums with a scale each; values first and stores then, since any int8 may be what a pointer points at. */
static inline void sl_requantise_pair(const uint32_t sums[2], const sl_scale *first, const sl_scale *second,
                                      const sl_output *output, bool quick, int8_t *y_first, int8_t *y_second)
{
    int32_t low, high;
    if (quick) {
        const int32_t rise = 2 * output->zero_point + 1;
        low = sl_quick(sums[0], first, rise);
        high = sl_quick(sums[1], second, rise);
    } else {
        low = sl_to_output(sums[0], first, output);
        high = sl_to_output(sums[1], second, output);
    }
    *y_second = (int8_t)high;
    *y_first = (int8_t)low;
}

#endif
