/* Sums of products of int8, four at a time: with the DSP instructions of Cortex-M4, M7, M33, M55, or without, to the same
   bytes. Sums wrap around. */
#ifndef SANDERLING_SIMD_H
#define SANDERLING_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__ARM_FEATURE_DSP)

#include <arm_acle.h>

/* Bytes 0 and 2 of a word as two int16; bytes 1 and 3. */
static inline int16x2_t sl_even(uint32_t word)
{
    return __sxtb16((int8x4_t)word);
}

static inline int16x2_t sl_odd(uint32_t word)
{
    int16x2_t halves;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(word));
    return halves;
}

static inline uint32_t sl_word(const int8_t *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* sum + the product of the lower halves; of the upper halves. */
static inline uint32_t sl_add_lower(int16x2_t a, int16x2_t b, uint32_t sum)
{
    return (uint32_t)__smlabb(a, b, (int32_t)sum);
}

static inline uint32_t sl_add_upper(int16x2_t a, int16x2_t b, uint32_t sum)
{
    return (uint32_t)__smlatt(a, b, (int32_t)sum);
}

static inline uint32_t sl_add_both(int16x2_t a, int16x2_t b, uint32_t sum)
{
    return (uint32_t)__smlad(a, b, (int32_t)sum);
}

#endif

#endif
