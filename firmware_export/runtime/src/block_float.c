#include "block_float.h"

#include <string.h>

#include "fixed_point.h"

enum { MANTISSA_BITS = 12, FACTOR_BITS = 15, ALIGNMENT_BITS = 16, NOTHING = 1024 };

static uint32_t magnitude(int32_t x)
{
    return x < 0 ? 0u - (uint32_t)x : (uint32_t)x;
}

/* How far numbers of these bits, or-ed together, are to be shifted to the right. */
static int32_t shift_of(uint32_t bits)
{
    int32_t length = 0;
    for (; bits != 0; bits >>= 1) {
        length++;
    }
    return length - MANTISSA_BITS;
}

int32_t sl_normalise(int16_t *mantissas, uint32_t count, int32_t exponent)
{
    uint32_t bits = 0;
    for (uint32_t i = 0; i < count; i++) {
        bits |= magnitude(mantissas[i]);
    }
    const int32_t shift = shift_of(bits);
    for (uint32_t i = 0; i < count && shift != 0; i++) {
        mantissas[i] = (int16_t)sl_round_shift(mantissas[i], shift);
    }
    return bits == 0 ? NOTHING : exponent - shift;
}

int32_t sl_normalise_wide(int32_t *numbers, uint32_t count, int32_t exponent)
{
    uint32_t bits = 0;
    for (uint32_t i = 0; i < count; i++) {
        bits |= magnitude(numbers[i]);
    }
    const int32_t shift = shift_of(bits);
    for (uint32_t i = 0; i < count; i++) {
        numbers[i] = sl_round_shift(numbers[i], shift);
    }
    return bits == 0 ? NOTHING : exponent - shift;
}

int32_t sl_normalise_sums(int32_t *sums, uint32_t count, int32_t exponent)
{
    uint8_t *out = (uint8_t *)sums;
    const int32_t normalised = sl_normalise_wide(sums, count, exponent);
    for (uint32_t i = 0; i < count; i++) {
        const int16_t mantissa = (int16_t)sums[i];
        memcpy(out + i * sizeof mantissa, &mantissa, sizeof mantissa);
    }
    return normalised;
}

int32_t sl_add_errors(int16_t *a, int32_t a_exponent, const int16_t *b, int32_t b_exponent, uint32_t count)
{
    const int32_t exponent = (a_exponent < b_exponent ? a_exponent : b_exponent) + ALIGNMENT_BITS;
    const int32_t a_shift = a_exponent - exponent, b_shift = b_exponent - exponent;
    uint32_t bits = 0;
    for (uint32_t i = 0; i < count; i++) {
        bits |= magnitude(sl_round_shift(a[i], a_shift) + sl_round_shift(b[i], b_shift));
    }
    const int32_t shift = shift_of(bits);
    for (uint32_t i = 0; i < count; i++) {
        const int32_t sum = sl_round_shift(a[i], a_shift) + sl_round_shift(b[i], b_shift);
        a[i] = (int16_t)sl_round_shift(sum, shift);
    }
    return bits == 0 ? NOTHING : exponent - shift;
}

sl_short sl_shortened(double real)
{
    int32_t exponent;
    const uint16_t mantissa = (uint16_t)sl_significant(real, FACTOR_BITS, &exponent);
    return (sl_short){mantissa, (int16_t)exponent};
}

int32_t sl_contribution(int32_t x, sl_short factor, int32_t exponent, int32_t limit)
{
    const int64_t product = (int64_t)x * factor.mantissa; /* 47 bits */
    const int32_t right = FACTOR_BITS + exponent - factor.exponent;
    if (right > 0) {
        const int64_t rounded = right > 62 ? 0 : (product + ((int64_t)1 << (right - 1))) >> right;
        return rounded > limit ? limit : rounded < -limit ? -limit : (int32_t)rounded;
    }
    if (right < -30 || product > limit >> -right || product < -(limit >> -right)) {
        return product > 0 ? limit : product < 0 ? -limit : 0;
    }
    return (int32_t)product * (1 << -right);
}
