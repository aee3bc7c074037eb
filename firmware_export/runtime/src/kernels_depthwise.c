#include "requantise.h"
#include "sanderling/kernels.h"
#include "simd.h"
#include "windows.h"

/* The part of a window that lies inside the image: where it begins, and the steps from place to place. */
typedef struct {
    const int8_t *x;       /* the first place's channels */
    const int8_t *weights; /* and its weights */
    uint32_t high, wide;
    uint32_t x_step, x_row;             /* between places, between rows */
    uint32_t weights_step, weights_row; /* likewise */
    int32_t zero_point;                 /* 0 where it is in the biases */
    const int32_t *biases;
} window;

static int8_t one_channel(const sl_depthwise_conv2d_parameters *p, const window *at, uint32_t channel, uint32_t source)
{
    const int8_t *x = at->x + source, *weights = at->weights + channel;
    uint32_t sum = (uint32_t)at->biases[channel];
    for (uint32_t i = 0; i < at->high; i++, x += at->x_row, weights += at->weights_row) {
        for (uint32_t j = 0; j < at->wide; j++) {
            sum += (uint32_t)((x[j * at->x_step] - at->zero_point) * weights[j * at->weights_step]);
        }
    }
    return sl_requantised(sum, p->scales[channel], &p->output, p->quick);
}

#if defined(SL_VECTORS)

/* As many channels as come in eights; their number. */
static uint32_t several(const sl_depthwise_conv2d_parameters *p, const window *at, int8_t *y)
{
    const uint32_t channels = p->multiplier == 1 ? p->windows.channels & ~(uint32_t)7 : 0;
    for (uint32_t channel = 0; channel < channels; channel += 8) {
        const int8_t *x = at->x + channel, *weights = at->weights + channel;
        sl_sums8 sums;
        memcpy(&sums, at->biases + channel, sizeof sums);
        for (uint32_t i = 0; i < at->high; i++, x += at->x_row, weights += at->weights_row) {
            for (uint32_t j = 0; j < at->wide; j++) {
                sl_halves8 eight = sl_widened(x + j * at->x_step) - (int16_t)at->zero_point;
                sl_add_products(&sums, eight, sl_widened(weights + j * at->weights_step));
            }
        }
        for (uint32_t k = 0; k < 8; k++) {
            y[channel + k] = sl_requantised(sums[k], p->scales[channel + k], &p->output, p->quick);
        }
    }
    return channels;
}

#else

#if defined(SL_DSP)

/* One place of the window times its weights. */
static inline __attribute__((always_inline)) void add_place(uint32_t sums[4], const int8_t *x, const int8_t *weights,
                                                            int32_t zero_point, bool edge)
{
    const int16x2_t zero_points = (int16x2_t)((uint32_t)(uint16_t)zero_point * 0x10001u);
    const uint32_t word = sl_word(x), weight = sl_word(weights);
    int16x2_t two = sl_even(word), factors = sl_even(weight);
    two = edge ? __ssub16(two, zero_points) : two;
    sums[0] = sl_add_lower(two, factors, sums[0]);
    sums[2] = sl_add_upper(two, factors, sums[2]);
    two = sl_odd(word);
    factors = sl_odd(weight);
    two = edge ? __ssub16(two, zero_points) : two;
    sums[1] = sl_add_lower(two, factors, sums[1]);
    sums[3] = sl_add_upper(two, factors, sums[3]);
}

/* Rows of three places, in assembler since compilers spill registers here: r1 places, r2 weights, r3 the step between either,
   r4-r7 sums, r8 rows, r9 the step between rows of x. */
#define ADD_PLACE(at)                                                                                                  \
    "ldr r10, [r1" at "]\n"                                                                                            \
    "ldr ip, [r2" at "]\n"                                                                                             \
    "sxtb16 r11, r10\n"                                                                                                \
    "sxtb16 lr, ip\n"                                                                                                  \
    "sxtb16 r10, r10, ror #8\n"                                                                                        \
    "sxtb16 ip, ip, ror #8\n"                                                                                          \
    "smlabb r4, r11, lr, r4\n"                                                                                         \
    "smlabb r5, r10, ip, r5\n"                                                                                         \
    "smlatt r6, r11, lr, r6\n"                                                                                         \
    "smlatt r7, r10, ip, r7\n"

__attribute__((naked)) static void add_threes(__attribute__((unused)) uint32_t sums[4],
                                              __attribute__((unused)) const int8_t *x,
                                              __attribute__((unused)) const int8_t *weights,
                                              __attribute__((unused)) uint32_t step,
                                              __attribute__((unused)) uint32_t rows,
                                              __attribute__((unused)) uint32_t x_row,
                                              __attribute__((unused)) const int32_t *biases)
{
    __asm__("push {r4-r11, lr}\n"
            "ldrd r8, r9, [sp, #36]\n"
            "ldr r4, [sp, #44]\n"
            "ldm r4, {r4-r7}\n"
            "1:\n" ADD_PLACE("") ADD_PLACE(", r3") ADD_PLACE(", r3, lsl #1")
            "add r1, r1, r9\n"
            "add r2, r2, r3\n"
            "add r2, r2, r3, lsl #1\n"
            "subs r8, r8, #1\n"
            "bne 1b\n"
            "stm r0, {r4-r7}\n"
            "pop {r4-r11, pc}\n");
}

#else

/* One place of the window times its weights. */
static inline __attribute__((always_inline)) void add_place(uint32_t sums[4], const int8_t *x, const int8_t *weights,
                                                            int32_t zero_point, bool edge)
{
    const int32_t z = edge ? zero_point : 0;
    sums[0] += (uint32_t)((x[0] - z) * weights[0]);
    sums[1] += (uint32_t)((x[1] - z) * weights[1]);
    sums[2] += (uint32_t)((x[2] - z) * weights[2]);
    sums[3] += (uint32_t)((x[3] - z) * weights[3]);
}

#endif

/* Four sums of any window. Kept apart from what calls it, so that the loops have the registers. */
static inline __attribute__((always_inline)) void add_places(uint32_t sums[4], const int32_t *biases, const window *at,
                                                             uint32_t channel, bool edge)
{
    const int8_t *x = at->x + channel, *weights = at->weights + channel;
    uint32_t four[4] = {(uint32_t)biases[0], (uint32_t)biases[1], (uint32_t)biases[2], (uint32_t)biases[3]};
    for (uint32_t i = at->high; i > 0; i--, x += at->x_row, weights += at->weights_row) {
        const int8_t *place = x, *factors = weights;
        for (uint32_t j = at->wide; j > 0; j--, place += at->x_step, factors += at->weights_step) {
            add_place(four, place, factors, at->zero_point, edge);
        }
    }
    memcpy(sums, four, sizeof four);
}

static __attribute__((noinline)) void add_inner(uint32_t sums[4], const int32_t *biases, const window *at,
                                                uint32_t channel)
{
#if defined(SL_DSP)
    if (at->wide == 3 && at->x_step == at->weights_step) {
        add_threes(sums, at->x + channel, at->weights + channel, at->x_step, at->high, at->x_row, biases);
        return;
    }
#endif
    add_places(sums, biases, at, channel, false);
}

static __attribute__((noinline)) void add_edge(uint32_t sums[4], const int32_t *biases, const window *at,
                                               uint32_t channel)
{
    add_places(sums, biases, at, channel, true);
}

/* As many channels as come in fours; their number. */
static __attribute__((noinline)) uint32_t several(const sl_depthwise_conv2d_parameters *p, const window *at, int8_t *y)
{
    const uint32_t channels = p->multiplier == 1 ? p->windows.channels & ~(uint32_t)3 : 0;
    const bool edge = at->zero_point != 0;
    const int32_t *biases = at->biases;
    const sl_scale *scales = p->scales;
    for (uint32_t channel = 0; channel < channels; channel += 4, y += 4, biases += 4, scales += 4) {
        uint32_t sums[4];
        if (edge) {
            add_edge(sums, biases, at, channel);
        } else {
            add_inner(sums, biases, at, channel);
        }
        sl_requantise_pair(sums, scales, scales + 1, &p->output, p->quick, y, y + 1);
        sl_requantise_pair(sums + 2, scales + 2, scales + 3, &p->output, p->quick, y + 2, y + 3);
    }
    return channels;
}

#endif

static window window_at(const sl_depthwise_conv2d_parameters *p, const int8_t *image, sl_span rows, sl_span columns)
{
    const sl_windows *w = &p->windows;
    const uint32_t outputs = w->channels * p->multiplier;
    window at = {
        .x = image + (rows.at * w->width + columns.at) * w->channels,
        .weights = p->weights + (rows.first * w->window_width + columns.first) * outputs,
        .high = rows.last - rows.first,
        .wide = columns.last - columns.first,
        .x_step = w->dilation_x * w->channels,
        .x_row = w->dilation_y * w->width * w->channels,
        .weights_step = outputs,
        .weights_row = w->window_width * outputs,
        .biases = p->biases,
    };
    if (at.high < w->window_height || at.wide < w->window_width) {
        at.zero_point = p->input_zero_point;
        at.biases = p->edge_biases;
    }
    return at;
}

void sl_depthwise_conv2d(const sl_node *node, int8_t *arena)
{
    const sl_depthwise_conv2d_parameters *p = node->parameters;
    const sl_windows *w = &p->windows;
    const int8_t *image = arena + node->inputs[0];
    int8_t *y = arena + node->output;
    const uint32_t outputs = w->channels * p->multiplier;
    for (uint32_t i = 0; i < w->images; i++, image += w->height * w->width * w->channels) {
        for (uint32_t row = 0; row < w->rows; row++) {
            const sl_span rows = sl_rows_inside(w, row);
            for (uint32_t column = 0; column < w->columns; column++, y += outputs) {
                const window at = window_at(p, image, rows, sl_columns_inside(w, column));
                uint32_t source = several(p, &at, y);
                for (uint32_t channel = source * p->multiplier; channel < outputs; source++) {
                    for (uint32_t m = 0; m < p->multiplier; m++, channel++) {
                        y[channel] = one_channel(p, &at, channel, source);
                    }
                }
            }
        }
    }
}
