#include "fixed_point.h"
#include "sanderling/arithmetic.h"
#include "sanderling/kernels.h"

/* exp of what lies `below` the largest, in Q0. */
static int32_t exponential(const sl_softmax_parameters *p, int32_t below)
{
    if (below > p->reach) {
        return 0;
    }
    return sl_exp(sl_mul((int32_t)((uint32_t)-below << p->scale.shift), p->scale.multiplier));
}

static uint32_t leading_zeros(uint32_t x)
{
    uint32_t zeros = 0;
    while ((x & 0x80000000u) == 0) {
        x <<= 1;
        zeros++;
    }
    return zeros;
}

static void softmax(const sl_softmax_parameters *p, const int8_t *x, int8_t *y)
{
    int32_t top = INT8_MIN;
    uint32_t total = 0; /* in Q12, at least 2^19 */
    for (uint32_t k = 0; k < p->classes; k++) {
        top = x[k] > top ? x[k] : top;
    }
    for (uint32_t k = 0; k < p->classes; k++) {
        total += (uint32_t)sl_halve(exponential(p, top - x[k]), 12);
    }
    const uint32_t headroom = leading_zeros(total);
    const int32_t inverse = sl_reciprocal((int32_t)((total << headroom) & INT32_MAX));
    for (uint32_t k = 0; k < p->classes; k++) {
        int32_t share = sl_mul(inverse, exponential(p, top - x[k]));
        y[k] = (int8_t)sl_clamp(sl_halve(share, 35 - headroom) - 128, INT8_MIN, INT8_MAX);
    }
}

void sl_softmax(const sl_node *node, int8_t *arena)
{
    const sl_softmax_parameters *p = node->parameters;
    const int8_t *x = arena + node->inputs[0];
    int8_t *y = arena + node->output;
    for (uint32_t row = 0; row < p->rows; row++) {
        softmax(p, x + row * p->classes, y + row * p->classes);
    }
}
