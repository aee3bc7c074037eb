#include <string.h>

#include "loops.h"
#include "requantise.h"
#include "sanderling/kernels.h"

typedef int32_t (*combination)(const sl_binary_parameters *p, int32_t x, int32_t y);

static int32_t sum(const sl_binary_parameters *p, int32_t x, int32_t y)
{
    const int32_t unit = 1 << 20;
    return sl_rescale(x * unit, p->operands[0].scale) + sl_rescale(y * unit, p->operands[1].scale);
}

static int32_t product(const sl_binary_parameters *p, int32_t x, int32_t y)
{
    (void)p;
    return x * y;
}

/* An output may take the place of an input: each element is read before it is written. */
static inline __attribute__((always_inline)) void combine(const sl_node *node, int8_t *arena, combination of)
{
    const sl_binary_parameters *p = node->parameters;
    const sl_operand *a = &p->operands[0], *b = &p->operands[1];
    const int8_t *x = a->constant != NULL ? a->constant : arena + node->inputs[0];
    const int8_t *y = b->constant != NULL ? b->constant : arena + node->inputs[1];
    int8_t *out = arena + node->output;
    const uint32_t last = p->loops.rank - 1, inner = p->loops.sizes[last], outer = sl_runs(&p->loops, last);
    const uint32_t x_step = a->strides[last], y_step = b->strides[last];
    for (uint32_t i = 0; i < outer; i++) {
        const int8_t *left = x + sl_offset(&p->loops, last, a->strides, i);
        const int8_t *right = y + sl_offset(&p->loops, last, b->strides, i);
        for (uint32_t j = 0; j < inner; j++, left += x_step, right += y_step) {
            int32_t value = of(p, *left - a->zero_point, *right - b->zero_point);
            *out++ = sl_requantised((uint32_t)value, p->scale, &p->output, false);
        }
    }
}

void sl_add(const sl_node *node, int8_t *arena)
{
    combine(node, arena, sum);
}

void sl_multiply(const sl_node *node, int8_t *arena)
{
    combine(node, arena, product);
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
