#include "sanderling/arithmetic.h"

#include "requantise.h"

enum { EXP_FRACTION_BITS = 26, QUARTER = 1 << (EXP_FRACTION_BITS - 2), ONE_HALF = 1 << 29 };

int32_t sl_mul(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}

int32_t sl_halve(int32_t v, uint32_t exponent)
{
    int64_t half = (int64_t)(((uint64_t)1 << exponent) >> 1);
    return (int32_t)((v + half - (v < 0 && exponent > 0 ? 1 : 0)) >> exponent);
}

int32_t sl_rescale(int32_t x, sl_scale scale)
{
    uint32_t left = scale.shift > 0 ? (uint32_t)scale.shift : 0;
    uint32_t right = scale.shift < 0 ? (uint32_t)-scale.shift : 0;
    return sl_halve(sl_mul((int32_t)((uint32_t)x << left), scale.multiplier), right);
}

/* x * 2^exponent within 32 bits. */
static int32_t up(int32_t x, uint32_t exponent)
{
    const int32_t limit = INT32_MAX >> exponent;
    if (x > limit) {
        return INT32_MAX;
    }
    if (x < -limit - 1) {
        return INT32_MIN;
    }
    return (int32_t)((uint32_t)x << exponent);
}

/* A Taylor series around -1/8, of a in Q0 in -1/4..0. */
static int32_t exp_of_quarter(int32_t a)
{
    const int32_t third = 715827883, exp_of_minus_eighth = 1895147668;
    int32_t x = a + (1 << 28);
    int32_t x2 = sl_mul(x, x), x3 = sl_mul(x2, x);
    int32_t x4 = sl_halve(sl_mul(x2, x2), 2);
    int32_t tail = sl_halve(sl_mul(x4 + x3, third) + x2, 1);
    return exp_of_minus_eighth + sl_mul(exp_of_minus_eighth, x + tail);
}

int32_t sl_exp(int32_t x)
{
    static const int32_t factors[] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
    if (x == 0) {
        return INT32_MAX;
    }
    int32_t rest = (int32_t)((uint32_t)x & (QUARTER - 1)) - QUARTER;
    uint32_t quarters = ((uint32_t)rest - (uint32_t)x) / QUARTER;
    int32_t y = exp_of_quarter(up(rest, 5));
    for (uint32_t k = 0; k < sizeof factors / sizeof factors[0]; k++) {
        if ((quarters >> k & 1) != 0) {
            y = sl_mul(y, factors[k]);
        }
    }
    return y;
}

int32_t sl_reciprocal(int32_t a)
{
    int32_t d = (int32_t)(((int64_t)a + INT32_MAX + 1) >> 1);
    int32_t y = 1515870810 + sl_mul(d, -1010580540); /* 48/17 - 32/17 d in Q2 */
    for (uint32_t i = 0; i < 3; i++) {
        y += up(sl_mul(y, ONE_HALF - sl_mul(d, y)), 2);
    }
    return up(y, 1);
}

int32_t sl_to_output(uint32_t sum, const sl_scale *scale, const sl_output *output)
{
    int32_t x = (int32_t)((uint32_t)sl_rescale((int32_t)sum, *scale) + (uint32_t)output->zero_point);
    return sl_clamp(x, output->low, output->high);
}
