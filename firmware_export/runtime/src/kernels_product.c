#include <string.h>

#include "requantise.h"
#include "sanderling/kernels.h"
#include "simd.h"

/* One or two rows of x times a pair of channels. */
typedef struct {
    uint32_t first[2], second[2]; /* of each row */
} pair_sums;

/* Adds a word of each row times a word of each channel. */
#if defined(__ARM_FEATURE_DSP)

static inline __attribute__((always_inline)) void add_words(pair_sums *sums, const int8_t *const *rows, uint32_t count,
                                                            uint32_t at, const uint32_t *weights)
{
    int16x2_t even[2], odd[2];
    for (uint32_t r = 0; r < count; r++) {
        uint32_t x = sl_word(rows[r] + at);
        even[r] = sl_even(x);
        odd[r] = sl_odd(x);
    }
    int16x2_t weight = sl_even(weights[0]);
    for (uint32_t r = 0; r < count; r++) {
        sums->first[r] = sl_add_both(even[r], weight, sums->first[r]);
    }
    weight = sl_odd(weights[0]);
    for (uint32_t r = 0; r < count; r++) {
        sums->first[r] = sl_add_both(odd[r], weight, sums->first[r]);
    }
    weight = sl_even(weights[1]);
    for (uint32_t r = 0; r < count; r++) {
        sums->second[r] = sl_add_both(even[r], weight, sums->second[r]);
    }
    weight = sl_odd(weights[1]);
    for (uint32_t r = 0; r < count; r++) {
        sums->second[r] = sl_add_both(odd[r], weight, sums->second[r]);
    }
}

#else

static inline void add_words(pair_sums *sums, const int8_t *const *rows, uint32_t count, uint32_t at,
                             const uint32_t *weights)
{
    const int8_t *first = (const int8_t *)weights, *second = first + 4;
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t r = 0; r < count; r++) {
            int32_t x = rows[r][at + i];
            sums->first[r] += (uint32_t)(x * first[i]);
            sums->second[r] += (uint32_t)(x * second[i]);
        }
    }
}

#endif

/* Every channel of `count` rows; rows of x are read in words, rows of y lie one after the other. */
static inline __attribute__((always_inline)) void multiply(const sl_product *product, const int8_t *const *rows,
                                                           uint32_t count, int8_t *y)
{
    const uint32_t outputs = product->outputs, terms = product->terms;
    const uint32_t *weights = product->weights;
    for (uint32_t k = 0; k < outputs; k += 2) {
        const sl_channel *channel = &product->channels[k];
        const uint32_t next = k + 1 < outputs ? 1 : 0; /* else the second one is thrown away */
        pair_sums sums;
        for (uint32_t r = 0; r < count; r++) {
            sums.first[r] = (uint32_t)channel->bias;
            sums.second[r] = (uint32_t)channel[next].bias;
        }
        for (uint32_t at = 0; at < terms; at += 4, weights += 2) {
            add_words(&sums, rows, count, at, weights);
        }
        for (uint32_t r = 0; r < count; r++) {
            int8_t *out = y + r * outputs + k;
            out[next] = sl_requantised(sums.second[r], channel[next].scale, &product->output, product->narrow);
            out[0] = sl_requantised(sums.first[r], channel->scale, &product->output, product->narrow);
        }
    }
}

static void multiply_one(const sl_product *product, const int8_t *x, int8_t *y)
{
    const int8_t *rows[1] = {x};
    multiply(product, rows, 1, y);
}

static void multiply_two(const sl_product *product, const int8_t *x0, const int8_t *x1, int8_t *y)
{
    const int8_t *rows[2] = {x0, x1};
    multiply(product, rows, 2, y);
}

static uint32_t whole_words(uint32_t bytes)
{
    return (bytes + 3) & ~(uint32_t)3;
}

void sl_dense(const sl_node *node, int8_t *arena)
{
    const sl_dense_parameters *p = node->parameters;
    const uint32_t terms = p->product.terms, stride = whole_words(terms);
    const int8_t *x = arena + node->inputs[0];
    int8_t *y = arena + node->output, *scratch = arena + p->scratch;
    for (uint32_t row = 0; row < p->rows; row += 2) {
        const uint32_t count = row + 1 < p->rows ? 2 : 1;
        const int8_t *words = x;
        if (stride != terms) { /* rows lie anywhere: to where they can be read in words */
            for (uint32_t r = 0; r < count; r++) {
                memcpy(scratch + r * stride, x + r * terms, terms);
            }
            words = scratch;
        }
        if (count == 2) {
            multiply_two(&p->product, words, words + stride, y);
        } else {
            multiply_one(&p->product, words, y);
        }
        x += 2 * terms;
        y += 2 * p->product.outputs;
    }
}

/* Bytes of a row of the window: `wide` pixels from column `left` of the image's row, or of none. */
static void gather_row(const sl_conv2d_parameters *p, const int8_t *row, int32_t left, int8_t *out)
{
    const sl_windows *w = &p->windows;
    const uint32_t channels = w->channels;
    const int32_t width = (int32_t)w->width, wide = (int32_t)w->window_width;
    if (row == NULL) {
        memset(out, p->fill, w->window_width * channels);
    } else if (w->dilation_x == 1) {
        const int32_t first = left < 0 ? -left : 0, last = left + wide > width ? width - left : wide;
        const int32_t begin = first < wide ? first : wide, end = last > begin ? last : begin;
        memset(out, p->fill, (uint32_t)begin * channels);
        memcpy(out + (uint32_t)begin * channels, row + (left + begin) * (int32_t)channels,
               (uint32_t)(end - begin) * channels);
        memset(out + (uint32_t)end * channels, p->fill, (uint32_t)(wide - end) * channels);
    } else {
        for (int32_t i = 0; i < wide; i++, left += (int32_t)w->dilation_x, out += channels) {
            if (left >= 0 && left < width) {
                memcpy(out, row + (uint32_t)left * channels, channels);
            } else {
                memset(out, p->fill, channels);
            }
        }
    }
}

/* What lies under the window at (row, column) of the output. */
static void gather(const sl_conv2d_parameters *p, const int8_t *image, uint32_t row, uint32_t column, int8_t *out)
{
    const sl_windows *w = &p->windows;
    int32_t y = (int32_t)(row * w->stride_y) - (int32_t)w->top;
    const int32_t left = (int32_t)(column * w->stride_x) - (int32_t)w->left;
    for (uint32_t i = 0; i < w->window_height; i++, y += (int32_t)w->dilation_y) {
        const bool inside = y >= 0 && y < (int32_t)w->height;
        gather_row(p, inside ? image + (uint32_t)y * w->width * w->channels : NULL, left, out);
        out += w->window_width * w->channels;
    }
}

void sl_conv2d(const sl_node *node, int8_t *arena)
{
    const sl_conv2d_parameters *p = node->parameters;
    const sl_windows *w = &p->windows;
    const uint32_t stride = whole_words(p->product.terms), positions = w->rows * w->columns;
    const int8_t *image = arena + node->inputs[0];
    int8_t *y = arena + node->output, *scratch = arena + p->scratch;
    uint32_t held = 0;
    for (uint32_t i = 0; i < w->images; i++, image += w->height * w->width * w->channels) {
        for (uint32_t position = 0, row = 0, column = 0; position < positions; position++) {
            gather(p, image, row, column, scratch + held * stride);
            held += 1;
            if (held == 2) {
                multiply_two(&p->product, scratch, scratch + stride, y);
                y += 2 * p->product.outputs;
                held = 0;
            }
            if (++column == w->columns) {
                column = 0;
                row += 1;
            }
        }
    }
    if (held == 1) {
        multiply_one(&p->product, scratch, y);
    }
}
