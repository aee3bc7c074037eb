#include <string.h>

#include "loops.h"
#include "requantise.h"
#include "sanderling/kernels.h"

/* A scale that shifts to the right or not at all, made ready for numbers within +-2^30. */
typedef struct {
    int32_t multiplier, half;
    int32_t away; /* all ones where halves are rounded away from zero */
    uint32_t right;
} ready_scale;

static ready_scale ready(sl_scale scale)
{
    const uint32_t right = (uint32_t)-scale.shift;
    return (ready_scale){scale.multiplier, (int32_t)((1u << right) >> 1), right > 0 ? -1 : 0, right};
}

static inline int32_t rescaled(int32_t x, const ready_scale *scale)
{
    const int32_t high = sl_high(x, scale->multiplier);
    return (high + scale->half + ((high >> 31) & scale->away)) >> scale->right;
}

/* What a kernel makes of two centred inputs, and how it comes back to int8. */
typedef struct {
    ready_scale left, right, out;
    sl_scale scale;
} combination;

static inline int32_t sum(const combination *c, const sl_output *output, int32_t x, int32_t y)
{
    const int32_t unit = 1 << 20;
    int32_t both = rescaled(x * unit, &c->left) + rescaled(y * unit, &c->right);
    return sl_clamp(rescaled(both, &c->out) + output->zero_point, output->low, output->high);
}

static inline int32_t product(const combination *c, const sl_output *output, int32_t x, int32_t y)
{
    return sl_clamp(rescaled(x * y, &c->out) + output->zero_point, output->low, output->high);
}

static inline int32_t large_product(const combination *c, const sl_output *output, int32_t x, int32_t y)
{
    return sl_to_output((uint32_t)(x * y), &c->scale, output);
}

typedef int32_t (*combining)(const combination *c, const sl_output *output, int32_t x, int32_t y);

/* An output may take the place of an input: each element is read before it is written. */
static inline __attribute__((always_inline)) void combine(const sl_node *node, int8_t *arena, combination of,
                                                          combining with)
{
    const sl_binary_parameters *p = node->parameters;
    const sl_operand *a = &p->operands[0], *b = &p->operands[1];
    const int8_t *x = a->constant != NULL ? a->constant : arena + node->inputs[0];
    const int8_t *y = b->constant != NULL ? b->constant : arena + node->inputs[1];
    int8_t *out = arena + node->output;
    const sl_output output = p->output;
    const uint32_t last = p->loops.rank - 1, outer = sl_runs(&p->loops, last);
    const uint32_t x_step = a->strides[last], y_step = b->strides[last];
    const int32_t x_zero = a->zero_point, y_zero = b->zero_point;
    for (uint32_t i = 0; i < outer; i++) {
        const int8_t *left = x + sl_offset(&p->loops, last, a->strides, i);
        const int8_t *right = y + sl_offset(&p->loops, last, b->strides, i);
        for (uint32_t j = p->loops.sizes[last]; j > 0; j--, left += x_step, right += y_step) {
            *out++ = (int8_t)with(&of, &output, *left - x_zero, *right - y_zero);
        }
    }
}

void sl_add(const sl_node *node, int8_t *arena)
{
    const sl_binary_parameters *p = node->parameters;
    const combination of = {
        .left = ready(p->operands[0].scale),
        .right = ready(p->operands[1].scale),
        .out = ready(p->scale),
    };
    combine(node, arena, of, sum);
}

void sl_multiply(const sl_node *node, int8_t *arena)
{
    const sl_binary_parameters *p = node->parameters;
    combination of = {.scale = p->scale};
    if (p->scale.shift > 0) {
        combine(node, arena, of, large_product);
    } else {
        of.out = ready(p->scale);
        combine(node, arena, of, product);
    }
}

void sl_table(const sl_node *node, int8_t *arena)
{
    const sl_table_parameters *p = node->parameters;
    const uint8_t *x = (const uint8_t *)(arena + node->inputs[0]);
    uint8_t *y = (uint8_t *)(arena + node->output);
    for (uint32_t i = 0; i < p->size; i++) {
        y[i] = p->table[x[i]];
    }
}

void sl_clamp_bytes(const sl_node *node, int8_t *arena)
{
    const sl_clamp_parameters *p = node->parameters;
    const int8_t *x = arena + node->inputs[0];
    int8_t *y = arena + node->output;
    for (uint32_t i = 0; i < p->size; i++) {
        y[i] = (int8_t)sl_clamp(x[i], p->low, p->high);
    }
}

/* The nearest integer, halves away from zero, of what lies beyond +-2^24 a number there; of NaN the least. */
static int32_t rounded(float x)
{
    const int32_t limit = 1 << 24;
    if (!(x > (float)-limit)) {
        return -limit;
    }
    if (x >= (float)limit) {
        return limit;
    }
    int32_t whole = (int32_t)x;
    float rest = x - (float)whole; /* exact */
    return whole + (rest >= 0.5f ? 1 : 0) - (rest <= -0.5f ? 1 : 0);
}

void sl_quantize_floats(const sl_node *node, int8_t *arena)
{
    const sl_float_parameters *p = node->parameters;
    const int8_t *x = arena + node->inputs[0];
    int8_t *y = arena + node->output;
    for (uint32_t i = 0; i < p->size; i++) {
        float value;
        memcpy(&value, x + i * sizeof value, sizeof value);
        int32_t whole = sl_clamp(rounded(value / p->scale) + p->zero_point, INT8_MIN, INT8_MAX);
        y[i] = (int8_t)(p->is_uint8 ? whole ^ -128 : whole);
    }
}

void sl_dequantize(const sl_node *node, int8_t *arena)
{
    const sl_float_parameters *p = node->parameters;
    const int8_t *x = arena + node->inputs[0];
    int8_t *y = arena + node->output;
    for (uint32_t i = 0; i < p->size; i++) {
        int32_t whole = p->is_uint8 ? (int8_t)(x[i] ^ -128) : x[i];
        float value = (float)(whole - p->zero_point) * p->scale; /* nine bits times 24, rounded once */
        memcpy(y + i * sizeof value, &value, sizeof value);
    }
}
