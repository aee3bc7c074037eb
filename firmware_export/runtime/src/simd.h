/* Sums of products of int8, several at a time: with the DSP instructions of Cortex-M4, M7, M33, M55, or the vectors of a
   64-bit host. Kernels have a plain way beside them, to the same bytes; SL_PLAIN asks for it. Sums wrap around. */
#ifndef SANDERLING_SIMD_H
#define SANDERLING_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__ARM_FEATURE_DSP) && !defined(SL_PLAIN)
#define SL_DSP 1
#elif defined(__LP64__) && defined(__GNUC__) && !defined(SL_PLAIN)
#define SL_VECTORS 1
#endif

#if defined(SL_DSP)

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

#elif defined(SL_VECTORS)

typedef int8_t sl_bytes8 __attribute__((vector_size(8)));
typedef int16_t sl_halves8 __attribute__((vector_size(16)));
typedef uint32_t sl_sums8 __attribute__((vector_size(32)));

static inline sl_halves8 sl_widened(const void *bytes)
{
    sl_bytes8 eight;
    memcpy(&eight, bytes, sizeof eight);
    return __builtin_convertvector(eight, sl_halves8);
}

/* Products take 16 bits: of 9 bits times 8 here. */
static inline void sl_add_products(sl_sums8 *sums, sl_halves8 a, sl_halves8 b)
{
    *sums += __builtin_convertvector(a * b, sl_sums8);
}

/* The same where lanes are added up in the end, those of either half together. */
#if defined(__SSE2__)

enum { SL_LANES = 4 };
typedef uint32_t sl_lanes __attribute__((vector_size(16)));

static inline void sl_add_to_lanes(sl_lanes *lanes, sl_halves8 a, sl_halves8 b)
{
    *lanes += (sl_lanes)__builtin_ia32_pmaddwd128(a, b);
}

#else

enum { SL_LANES = 8 };
typedef sl_sums8 sl_lanes;

static inline void sl_add_to_lanes(sl_lanes *lanes, sl_halves8 a, sl_halves8 b)
{
    sl_add_products(lanes, a, b);
}

#endif

#endif

#endif
