#include <string.h>

#include "requantise.h"
#include "sanderling/kernels.h"
#include "simd.h"

static uint32_t whole_words(uint32_t bytes)
{
    return (bytes + 3) & ~(uint32_t)3;
}

/* Adds rows of x times a pair of channels: to the sums of the first row, then of the second. In assembler for the cores with
   DSP instructions, since these loops need all fourteen registers and compilers spill some. */
#if defined(SL_DSP)

/* r1 weights, r2 and r3 rows, r4-r7 sums; a word of each row times a word of each channel. */
#define ADD_WORDS                                                                                                      \
    "ldr r8, [r2], #4\n"                                                                                               \
    "ldr r9, [r3], #4\n"                                                                                               \
    "ldr ip, [r1], #4\n"                                                                                               \
    "sxtb16 r10, r8\n"                                                                                                 \
    "sxtb16 r8, r8, ror #8\n"                                                                                          \
    "sxtb16 r11, r9\n"                                                                                                 \
    "sxtb16 r9, r9, ror #8\n"                                                                                          \
    "sxtb16 r0, ip\n"                                                                                                  \
    "smlad r4, r10, r0, r4\n"                                                                                          \
    "smlad r6, r11, r0, r6\n"                                                                                          \
    "sxtb16 r0, ip, ror #8\n"                                                                                          \
    "ldr ip, [r1], #4\n"                                                                                               \
    "smlad r4, r8, r0, r4\n"                                                                                           \
    "smlad r6, r9, r0, r6\n"                                                                                           \
    "sxtb16 r0, ip\n"                                                                                                  \
    "smlad r5, r10, r0, r5\n"                                                                                          \
    "smlad r7, r11, r0, r7\n"                                                                                          \
    "sxtb16 r0, ip, ror #8\n"                                                                                          \
    "smlad r5, r8, r0, r5\n"                                                                                           \
    "smlad r7, r9, r0, r7\n"

__attribute__((naked)) static void add_two_rows(__attribute__((unused)) uint32_t sums[4],
                                                __attribute__((unused)) const uint32_t *weights,
                                                __attribute__((unused)) const int8_t *x0,
                                                __attribute__((unused)) const int8_t *x1)
{
    /* x1 follows x0: the first row ends where the second begins. */
    __asm__("push {r0, r4-r11, lr}\n"
            "mov lr, r3\n"
            "ldm r0, {r4-r7}\n"
            "sub r0, r3, r2\n"
            "lsls r0, r0, #29\n" /* an odd word */
            "bpl 1f\n" ADD_WORDS "b 2f\n"
            "1:\n" ADD_WORDS ADD_WORDS "2:\n"
            "cmp r2, lr\n"
            "bne 1b\n"
            "pop {r0}\n"
            "stm r0, {r4-r7}\n"
            "pop {r4-r11, pc}\n");
}

static __attribute__((noinline)) void add_row(uint32_t sums[2], const uint32_t *weights, const int8_t *x,
                                              const int8_t *end)
{
    uint32_t sum0 = sums[0], sum1 = sums[1];
    while (x != end) {
        uint32_t word = sl_word(x), first = weights[0], second = weights[1];
        x += 4;
        weights += 2;
        int16x2_t even = sl_even(word), odd = sl_odd(word);
        sum0 = sl_add_both(even, sl_even(first), sum0);
        sum0 = sl_add_both(odd, sl_odd(first), sum0);
        sum1 = sl_add_both(even, sl_even(second), sum1);
        sum1 = sl_add_both(odd, sl_odd(second), sum1);
    }
    sums[0] = sum0;
    sums[1] = sum1;
}

#elif defined(SL_VECTORS)

/* A word twice, for both channels. */
static inline sl_halves8 widened_twice(const int8_t *x)
{
    int8_t twice[8];
    memcpy(twice, x, 4);
    memcpy(twice + 4, x, 4);
    return sl_widened(twice);
}

static inline void add_up(uint32_t sums[2], const sl_lanes *lanes)
{
    for (uint32_t i = 0; i < SL_LANES / 2; i++) {
        sums[0] += (*lanes)[i];
        sums[1] += (*lanes)[i + SL_LANES / 2];
    }
}

static void add_row(uint32_t sums[2], const uint32_t *weights, const int8_t *x, const int8_t *end)
{
    sl_lanes lanes = {0};
    for (; x != end; x += 4, weights += 2) {
        sl_add_to_lanes(&lanes, widened_twice(x), sl_widened(weights));
    }
    add_up(sums, &lanes);
}

static void add_two_rows(uint32_t sums[4], const uint32_t *weights, const int8_t *x0, const int8_t *x1)
{
    sl_lanes first = {0}, second = {0};
    for (const int8_t *end = x1; x0 != end; x0 += 4, x1 += 4, weights += 2) {
        const sl_halves8 factors = sl_widened(weights);
        sl_add_to_lanes(&first, widened_twice(x0), factors);
        sl_add_to_lanes(&second, widened_twice(x1), factors);
    }
    add_up(sums, &first);
    add_up(sums + 2, &second);
}

#else

static inline void add_one(uint32_t sums[2], const int8_t *weights, int32_t x, uint32_t i)
{
    sums[0] += (uint32_t)(x * weights[i]);
    sums[1] += (uint32_t)(x * weights[i + 4]);
}

static __attribute__((noinline)) void add_row(uint32_t sums[2], const uint32_t *weights, const int8_t *x,
                                              const int8_t *end)
{
    uint32_t two[2] = {sums[0], sums[1]};
    for (const int8_t *w = (const int8_t *)weights; x != end; x += 4, w += 8) {
        add_one(two, w, x[0], 0);
        add_one(two, w, x[1], 1);
        add_one(two, w, x[2], 2);
        add_one(two, w, x[3], 3);
    }
    memcpy(sums, two, sizeof two);
}

#if defined(__thumb__) && !defined(__thumb2__)

/* Of eight registers none are left for a second row. */
static void add_two_rows(uint32_t sums[4], const uint32_t *weights, const int8_t *x0, const int8_t *x1)
{
    add_row(sums, weights, x0, x1);
    add_row(sums + 2, weights, x1, x1 + (x1 - x0));
}

#else

static inline void add_four(uint32_t sums[4], const int8_t *weights, int32_t x0, int32_t x1, uint32_t i)
{
    const int32_t first = weights[i], second = weights[i + 4];
    sums[0] += (uint32_t)(x0 * first);
    sums[1] += (uint32_t)(x0 * second);
    sums[2] += (uint32_t)(x1 * first);
    sums[3] += (uint32_t)(x1 * second);
}

static __attribute__((noinline)) void add_two_rows(uint32_t sums[4], const uint32_t *weights, const int8_t *x0,
                                                   const int8_t *x1)
{
    uint32_t four[4] = {sums[0], sums[1], sums[2], sums[3]};
    const int8_t *const end = x1;
    for (const int8_t *w = (const int8_t *)weights; x0 != end; x0 += 4, x1 += 4, w += 8) {
        add_four(four, w, x0[0], x1[0], 0);
        add_four(four, w, x0[1], x1[1], 1);
        add_four(four, w, x0[2], x1[2], 2);
        add_four(four, w, x0[3], x1[3], 3);
    }
    memcpy(sums, four, sizeof four);
}

#endif

#endif

/* One or two rows, one after the other, times a pair of channels. */
static inline __attribute__((always_inline)) void multiply_pair(const sl_product *product, const sl_channel *first,
                                                                const sl_channel *second, const uint32_t *weights,
                                                                const int8_t *x, uint32_t row_bytes, uint32_t rows,
                                                                int8_t *y_first, int8_t *y_second)
{
    const uint32_t bias = (uint32_t)first->bias, other = (uint32_t)second->bias;
    uint32_t sums[4] = {bias, other, bias, other};
    if (rows == 1) {
        add_row(sums, weights, x, x + row_bytes);
    } else {
        add_two_rows(sums, weights, x, x + row_bytes);
        sl_requantise_pair(sums + 2, &first->scale, &second->scale, &product->output, product->quick, y_first + product->outputs,
                           y_second + product->outputs);
    }
    sl_requantise_pair(sums, &first->scale, &second->scale, &product->output, product->quick, y_first, y_second);
}

/* Every channel. x is read in words; rows of y lie one after the other. */
static inline __attribute__((always_inline)) void multiply(const sl_product *product, const int8_t *x, uint32_t rows,
                                                           int8_t *y)
{
    const uint32_t row_bytes = whole_words(product->terms);
    const int8_t *const end = y + product->outputs - 1;
    const sl_channel *channel = product->channels;
    const uint32_t *weights = product->weights;
    for (; y < end; y += 2, channel += 2, weights += row_bytes / 2) {
        multiply_pair(product, channel, channel + 1, weights, x, row_bytes, rows, y, y + 1);
    }
    if (y == end) { /* one channel is left: the pair is twice the same */
        multiply_pair(product, channel, channel, weights, x, row_bytes, rows, y, y);
    }
}

static void multiply_one(const sl_product *product, const int8_t *x, int8_t *y)
{
    multiply(product, x, 1, y);
}

static void multiply_two(const sl_product *product, const int8_t *x, int8_t *y)
{
    multiply(product, x, 2, y);
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
            multiply_two(&p->product, words, y);
        } else {
            multiply_one(&p->product, words, y);
        }
        x += 2 * terms;
        y += 2 * p->product.outputs;
    }
}

/* A few bytes, which lie anywhere. */
static inline void copy(int8_t *to, const int8_t *from, uint32_t bytes)
{
#if defined(__ARM_FEATURE_UNALIGNED)
    for (; bytes >= 4; bytes -= 4, to += 4, from += 4) {
        memcpy(to, from, 4);
    }
    for (; bytes > 0; bytes--) {
        *to++ = *from++;
    }
#else
    memcpy(to, from, bytes);
#endif
}

/* A row of the window: `wide` pixels from column `left` of the image's row, or of none. */
static void gather_row(const sl_conv2d_parameters *p, const int8_t *row, int32_t left, int8_t *out)
{
    const sl_windows *w = &p->windows;
    const int32_t width = (int32_t)w->width, wide = (int32_t)w->window_width, step = (int32_t)w->dilation_x;
    const uint32_t channels = w->channels;
    if (row != NULL && step == 1 && left >= 0 && left + wide <= width) {
        copy(out, row + (uint32_t)left * channels, (uint32_t)wide * channels);
        return;
    }
    for (int32_t i = 0; i < wide; i++, left += step, out += channels) {
        if (row != NULL && left >= 0 && left < width) {
            copy(out, row + (uint32_t)left * channels, channels);
        } else {
            memset(out, p->fill, channels);
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
                multiply_two(&p->product, scratch, y);
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
