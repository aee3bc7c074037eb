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
    int32_t zero_point;                 /* 0 where it is in the bias */
    const int32_t *edge_biases;         /* null likewise */
} window;

static inline int8_t finished(const sl_depthwise_conv2d_parameters *p, uint32_t channel, uint32_t sum)
{
    return sl_requantised(sum, p->channels[channel].scale, &p->output, p->narrow);
}

static inline uint32_t bias_of(const sl_depthwise_conv2d_parameters *p, const window *at, uint32_t channel)
{
    return (uint32_t)(at->edge_biases != NULL ? at->edge_biases[channel] : p->channels[channel].bias);
}

static int8_t one_channel(const sl_depthwise_conv2d_parameters *p, const window *at, uint32_t channel, uint32_t source)
{
    const int8_t *x = at->x + source, *weights = at->weights + channel;
    uint32_t sum = bias_of(p, at, channel);
    for (uint32_t i = 0; i < at->high; i++, x += at->x_row, weights += at->weights_row) {
        for (uint32_t j = 0; j < at->wide; j++) {
            sum += (uint32_t)((x[j * at->x_step] - at->zero_point) * weights[j * at->weights_step]);
        }
    }
    return finished(p, channel, sum);
}

#if defined(__ARM_FEATURE_DSP)

static inline __attribute__((always_inline)) void four_channels(const sl_depthwise_conv2d_parameters *p,
                                                                const window *at, uint32_t channel, bool edge,
                                                                int8_t *y)
{
    const int8_t *x_row = at->x + channel, *weights_row = at->weights + channel;
    const int16x2_t zero_points = (int16x2_t)((uint32_t)(uint16_t)at->zero_point * 0x10001u);
    uint32_t sum0 = bias_of(p, at, channel), sum1 = bias_of(p, at, channel + 1);
    uint32_t sum2 = bias_of(p, at, channel + 2), sum3 = bias_of(p, at, channel + 3);
    for (uint32_t i = at->high; i > 0; i--, x_row += at->x_row, weights_row += at->weights_row) {
        const int8_t *x = x_row, *weights = weights_row;
        for (uint32_t j = at->wide; j > 0; j--, x += at->x_step, weights += at->weights_step) {
            uint32_t word = sl_word(x), weight = sl_word(weights);
            int16x2_t even = sl_even(word), odd = sl_odd(word);
            if (edge) {
                even = __ssub16(even, zero_points);
                odd = __ssub16(odd, zero_points);
            }
            sum0 = sl_add_lower(even, sl_even(weight), sum0);
            sum2 = sl_add_upper(even, sl_even(weight), sum2);
            sum1 = sl_add_lower(odd, sl_odd(weight), sum1);
            sum3 = sl_add_upper(odd, sl_odd(weight), sum3);
        }
    }
    y[channel] = finished(p, channel, sum0);
    y[channel + 1] = finished(p, channel + 1, sum1);
    y[channel + 2] = finished(p, channel + 2, sum2);
    y[channel + 3] = finished(p, channel + 3, sum3);
}

/* As many channels as come in fours; their number. */
static uint32_t in_fours(const sl_depthwise_conv2d_parameters *p, const window *at, int8_t *y)
{
    const uint32_t channels = p->multiplier == 1 ? p->windows.channels & ~(uint32_t)3 : 0;
    for (uint32_t channel = 0; channel < channels; channel += 4) {
        if (at->edge_biases != NULL) {
            four_channels(p, at, channel, true, y);
        } else {
            four_channels(p, at, channel, false, y);
        }
    }
    return channels;
}

#else

static uint32_t in_fours(const sl_depthwise_conv2d_parameters *p, const window *at, int8_t *y)
{
    (void)p;
    (void)at;
    (void)y;
    return 0;
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
    };
    if (at.high < w->window_height || at.wide < w->window_width) {
        at.zero_point = p->input_zero_point;
        at.edge_biases = p->edge_biases;
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
                uint32_t source = in_fours(p, &at, y);
                for (uint32_t channel = source * p->multiplier; channel < outputs; source++) {
                    for (uint32_t m = 0; m < p->multiplier; m++, channel++) {
                        y[channel] = one_channel(p, &at, channel, source);
                    }
                }
            }
        }
    }
}
