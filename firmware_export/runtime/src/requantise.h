/* From sums to int8. docs/arithmetic.md, "Rounding": rescale, in fewer instructions where a layer's sums allow it. */
#ifndef SANDERLING_REQUANTISE_H
#define SANDERLING_REQUANTISE_H

#include "fixed_point.h"
#include "sanderling/arithmetic.h"
#include "sanderling/kernels.h"

/* (x * multiplier + 2^30) >> 31 for x within +-2^30 */
static inline int32_t sl_high(int32_t x, int32_t multiplier)
{
#if defined(__ARM_FEATURE_DSP)
    int32_t high;
    __asm__("smmulr %0, %1, %2" : "=r"(high) : "r"(x * 2), "r"(multiplier));
    return high;
#else
    return (int32_t)(((int64_t)x * multiplier + (1 << 30)) >> 31);
#endif
}

/* Halving is the last step of the shift, and the zero point goes in before it. */
static inline int32_t sl_quick(int32_t sum, sl_scale scale, int32_t zero_point)
{
    int32_t high = sl_high(sum, scale.multiplier);
    high = (high + (high >> 31)) >> (~scale.shift & 31);
    return (high + 1 + 2 * zero_point) >> 1;
}

static inline int8_t sl_requantised(uint32_t sum, sl_scale scale, const sl_output *output, bool narrow)
{
    int32_t x = narrow ? sl_quick((int32_t)sum, scale, output->zero_point)
                       : (int32_t)((uint32_t)sl_rescale((int32_t)sum, scale) + (uint32_t)output->zero_point);
    return (int8_t)sl_clamp(x, output->low, output->high);
}

#endif
