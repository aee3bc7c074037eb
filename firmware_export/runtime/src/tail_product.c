#include <string.h>

#include "block_float.h"
#include "fixed_point.h"
#include "rows.h"
#include "sanderling/arithmetic.h"
#include "tail_state.h"
#include "windows.h"

enum { NOT_TRAINED = -1, CONTRIBUTION_LIMIT = 1 << 25, WEIGHT_LIMIT = 127, STEP = 256, STEP_BITS = 16 };

/* --- parameters --- */

/* Which of the trained channels a channel is. */
static int32_t place_of(const sl_weighted *layer, uint32_t channel)
{
    if (layer->kind == SL_FIXED) {
        return NOT_TRAINED;
    }
    if (layer->chosen == NULL) {
        return (int32_t)channel;
    }
    for (uint32_t i = 0; i < layer->trained; i++) {
        if (layer->chosen[i] == channel) {
            return (int32_t)i;
        }
    }
    return NOT_TRAINED;
}

static uint32_t channel_of(const sl_weighted *layer, uint32_t place)
{
    return layer->chosen == NULL ? place : layer->chosen[place];
}

static bool has_trained_weights(const sl_weighted *layer)
{
    return layer->kind >= SL_INT8;
}

static int32_t bias_of(const sl_weighted *layer, const sl_tail_state *state, uint32_t channel, int32_t place)
{
    int32_t bias = layer->bias_base[channel];
    if (place != NOT_TRAINED) {
        bias += (state->theta[layer->biases + (uint32_t)place] * layer->bias_input + STEP / 2) >> 8;
    }
    return bias;
}

/* The weights of one channel, to int16: sl_product's order, depthwise HWC, or theta. */
static void read_weights(const sl_weighted *layer, const sl_tail_state *state, uint32_t channel, int16_t *out)
{
    const int32_t place = has_trained_weights(layer) ? place_of(layer, channel) : NOT_TRAINED;
    const uint32_t terms = layer->terms;
    if (place != NOT_TRAINED) {
        const uint32_t step = layer->is_depthwise ? layer->trained : 1;
        const int16_t *theta = state->theta + layer->theta + (uint32_t)place * (layer->is_depthwise ? 1 : terms);
        for (uint32_t i = 0; i < terms; i++, theta += step) {
            out[i] = (int16_t)((*theta + STEP / 2) >> 8);
        }
    } else if (layer->is_depthwise) {
        for (uint32_t i = 0; i < terms; i++) {
            out[i] = layer->weights[i * layer->channels + channel];
        }
    } else {
        const uint32_t words = (terms + 3) / 4;
        const int8_t *bytes = (const int8_t *)(layer->paired + channel / 2 * 2 * words + channel % 2);
        for (uint32_t i = 0; i < terms; i++) {
            out[i] = bytes[i / 4 * 8 + i % 4];
        }
    }
}

/* --- windows --- */

static uint32_t positions_of(const sl_weighted *layer)
{
    return layer->windows.rows * layer->windows.columns;
}

/* A place of the image, or what is not there. */
static const int8_t *pixel(const sl_windows *w, const int8_t *image, uint32_t row, uint32_t column, uint32_t i,
                           uint32_t j)
{
    const int32_t y = (int32_t)(row * w->stride_y + i * w->dilation_y) - (int32_t)w->top;
    const int32_t x = (int32_t)(column * w->stride_x + j * w->dilation_x) - (int32_t)w->left;
    if (y < 0 || y >= (int32_t)w->height || x < 0 || x >= (int32_t)w->width) {
        return NULL;
    }
    return image + ((uint32_t)y * w->width + (uint32_t)x) * w->channels;
}

/* --- forward --- */

/* What lies under a window, less the zero point. */
static void gather(const sl_weighted *layer, const int8_t *image, uint32_t row, uint32_t column, int16_t *out)
{
    const sl_windows *w = &layer->windows;
    for (uint32_t i = 0; i < w->window_height; i++) {
        for (uint32_t j = 0; j < w->window_width; j++, out += w->channels) {
            const int8_t *x = pixel(w, image, row, column, i, j);
            for (uint32_t c = 0; c < w->channels; c++) {
                out[c] = (int16_t)(x == NULL ? 0 : x[c] - layer->input_zero_point);
            }
        }
    }
}

static uint32_t sum_of(const sl_weighted *layer, const sl_tail_state *state, const int16_t *window, uint32_t channel,
                       int32_t place)
{
    const uint32_t terms = layer->terms;
    uint32_t sum = (uint32_t)bias_of(layer, state, channel, place);
    if (place != NOT_TRAINED && has_trained_weights(layer)) {
        return sum + (uint32_t)sl_row_dot(state->theta + layer->theta + (uint32_t)place * terms, window, terms);
    }
    const uint32_t words = (terms + 3) / 4;
    const int8_t *weights = (const int8_t *)(layer->paired + channel / 2 * 2 * words + channel % 2);
    for (uint32_t i = 0; i < terms; i++) {
        sum += (uint32_t)(weights[i / 4 * 8 + i % 4] * window[i]);
    }
    return sum;
}

static uint32_t depthwise_sum(const sl_weighted *layer, const sl_tail_state *state, const int16_t *window,
                              uint32_t channel, int32_t place)
{
    const bool in_theta = place != NOT_TRAINED && has_trained_weights(layer);
    const int16_t *theta = state->theta + layer->theta + (in_theta ? place : 0);
    uint32_t sum = (uint32_t)bias_of(layer, state, channel, place);
    window += channel / layer->multiplier;
    for (uint32_t i = 0; i < layer->terms; i++, window += layer->windows.channels) {
        const int32_t weight = in_theta ? (theta[i * layer->trained] + STEP / 2) >> 8
                                        : layer->weights[i * layer->channels + channel];
        sum += (uint32_t)(weight * *window);
    }
    return sum;
}

static int8_t requantised(const sl_weighted *layer, uint32_t channel, uint32_t sum)
{
    const sl_output *output = &layer->output;
    const uint32_t y = (uint32_t)sl_rescale((int32_t)sum, layer->scales[channel]) + (uint32_t)output->zero_point;
    return (int8_t)sl_clamp((int32_t)y, output->low, output->high);
}

void sl_forward_weighted(const sl_tail_node *node, const sl_tail_state *state)
{
    const sl_weighted *layer = node->weighted;
    const int8_t *image = sl_activation(state, layer->input);
    int16_t *window = (int16_t *)(void *)(state->ram + layer->window);
    int8_t *y = (int8_t *)state->ram + node->output;
    for (uint32_t row = 0; row < layer->windows.rows; row++) {
        for (uint32_t column = 0; column < layer->windows.columns; column++, y += layer->channels) {
            gather(layer, image, row, column, window);
            for (uint32_t k = 0; k < layer->channels; k++) {
                const int32_t place = place_of(layer, k);
                const uint32_t sum = layer->is_depthwise ? depthwise_sum(layer, state, window, k, place)
                                                         : sum_of(layer, state, window, k, place);
                if (layer->is_head) {
                    sl_sums(state)[k] = (int32_t)sum;
                } else {
                    y[k] = requantised(layer, k, sum);
                }
            }
        }
    }
}

/* --- backward --- */

/* The sum of live * (x - z) over all positions, for each weight of a channel. */
static void correlate(const sl_weighted *layer, const int8_t *image, const int16_t *live, uint32_t channel,
                      int32_t *sums)
{
    const sl_windows *w = &layer->windows;
    const uint32_t depth = layer->is_depthwise ? 1 : w->channels;
    const int8_t *source = image + (layer->is_depthwise ? channel / layer->multiplier : 0);
    live += channel;
    memset(sums, 0, layer->terms * sizeof *sums);
    for (uint32_t row = 0; row < w->rows; row++) {
        const sl_span rows = sl_rows_inside(w, row);
        for (uint32_t column = 0; column < w->columns; column++, live += layer->channels) {
            const int32_t error = *live;
            const sl_span columns = error == 0 ? (sl_span){0, 0, 0} : sl_columns_inside(w, column);
            for (uint32_t i = rows.first; i < rows.last; i++) {
                for (uint32_t j = columns.first; j < columns.last; j++) {
                    const uint32_t y = rows.at + (i - rows.first) * w->dilation_y;
                    const int8_t *x = source + (y * w->width + columns.at + (j - columns.first) * w->dilation_x) * w->channels;
                    int32_t *sum = sums + (i * w->window_width + j) * depth;
                    for (uint32_t c = 0; c < depth; c++) {
                        sum[c] += error * (x[c] - layer->input_zero_point);
                    }
                }
            }
        }
    }
}

static sl_short *rates_of(const sl_weighted *layer, const sl_tail_state *state)
{
    return (sl_short *)(void *)(state->ram + layer->rates);
}

static int32_t *gradient_of(const sl_weighted *layer, const sl_tail_state *state)
{
    return (int32_t *)(void *)(state->ram + layer->gradient);
}

static void add_contribution(int32_t *gradient, int32_t value, sl_short rate, int32_t exponent)
{
    *gradient += sl_contribution(value, rate, exponent, CONTRIBUTION_LIMIT);
}

/* One example's share of an int8 layer's gradient. */
static void see_weights(const sl_weighted *layer, const sl_tail_state *state, const int16_t *live, int32_t exponent)
{
    const sl_short *rates = rates_of(layer, state);
    const uint32_t step = layer->is_depthwise ? layer->trained : 1;
    int32_t *sums = (int32_t *)(void *)(state->ram + layer->sums);
    for (uint32_t place = 0; place < layer->trained; place++) {
        int32_t *gradient = gradient_of(layer, state) + place * (layer->is_depthwise ? 1 : layer->terms);
        correlate(layer, sl_activation(state, layer->input), live, channel_of(layer, place), sums);
        for (uint32_t term = 0; term < layer->terms; term++) {
            add_contribution(&gradient[term * step], sums[term], rates[place], exponent);
        }
    }
}

static void see_biases(const sl_weighted *layer, const sl_tail_state *state, const int16_t *live, int32_t exponent)
{
    const bool behind_weights = layer->kind == SL_INT8;
    const sl_short *rates = rates_of(layer, state) + (behind_weights ? layer->trained : 0);
    int32_t *gradient = gradient_of(layer, state) + (behind_weights ? layer->trained * layer->terms : 0);
    for (uint32_t place = 0; place < layer->trained; place++) {
        const int16_t *error = live + channel_of(layer, place);
        int32_t sum = 0;
        for (uint32_t position = positions_of(layer); position > 0; position--, error += layer->channels) {
            sum += *error;
        }
        add_contribution(&gradient[place], sum, rates[place], exponent);
    }
}

/* Room for what a shadow layer sees of an example: errors, and behind those of the batch its inputs. */
static int32_t *errors_of(const sl_weighted *layer, const sl_tail_state *state)
{
    return (int32_t *)(void *)(state->ram + state->tail->ram_bytes + state->batch_size * layer->example);
}

static int8_t *inputs_of(const sl_weighted *layer, const sl_tail_state *state)
{
    return (int8_t *)(errors_of(layer, state) + state->batch_size * layer->channels);
}

static int32_t scaled_error(const sl_weighted *layer, const sl_tail_state *state, int32_t error, int32_t exponent)
{
    if (layer->is_head && state->tail->squared_error == NULL) {
        const int32_t scaled = sl_scaled(error, state->rates.error_scale);
        return sl_clamp(scaled, -state->rates.error_limit, state->rates.error_limit);
    }
    return sl_contribution(error, *rates_of(layer, state), exponent, state->rates.error_limit);
}

/* A shadow layer's gradient is summed at the end of the batch, weight by weight. */
static void keep(const sl_weighted *layer, const sl_tail_state *state, const int16_t *live, int32_t exponent)
{
    int32_t *errors = errors_of(layer, state) + state->place * layer->channels;
    for (uint32_t k = 0; k < layer->channels; k++) {
        errors[k] = scaled_error(layer, state, layer->is_head ? sl_sums(state)[k] : live[k], exponent);
    }
    if (!layer->is_cached) {
        memcpy(inputs_of(layer, state) + state->place * layer->terms, sl_activation(state, layer->input), layer->terms);
    }
}

/* Adds the output's error through one channel's weights. */
static void spread(const sl_weighted *layer, const int16_t *weights, const int16_t *error, uint32_t channel,
                   int32_t *sums)
{
    const sl_windows *w = &layer->windows;
    const uint32_t depth = layer->is_depthwise ? 1 : w->channels;
    const uint32_t source = layer->is_depthwise ? channel / layer->multiplier : 0;
    for (uint32_t row = 0; row < w->rows; row++) {
        const sl_span rows = sl_rows_inside(w, row);
        for (uint32_t column = 0; column < w->columns; column++, error += layer->channels) {
            const sl_span columns = *error == 0 ? (sl_span){0, 0, 0} : sl_columns_inside(w, column);
            for (uint32_t i = rows.first; i < rows.last; i++) {
                for (uint32_t j = columns.first; j < columns.last; j++) {
                    const uint32_t y = rows.at + (i - rows.first) * w->dilation_y;
                    const uint32_t x = columns.at + (j - columns.first) * w->dilation_x;
                    int32_t *out = sums + (y * w->width + x) * w->channels + source;
                    const int16_t *weight = weights + (i * w->window_width + j) * depth;
                    for (uint32_t c = 0; c < depth; c++) {
                        out[c] += *error * weight[c];
                    }
                }
            }
        }
    }
}

static void pass_back(const sl_tail_node *node, const sl_tail_state *state, int16_t *error, int32_t exponent)
{
    const sl_weighted *layer = node->weighted;
    const sl_tail_input *input = node->inputs;
    int32_t *sums = (int32_t *)(void *)(state->ram + input->error.mantissas);
    int16_t *weights = (int16_t *)(void *)(state->ram + layer->window);
    memset(sums, 0, input->size * sizeof *sums);
    for (uint32_t k = 0; k < layer->channels; k++) {
        for (uint32_t i = k; i < node->size; i += layer->channels) {
            error[i] = sl_times(error[i], layer->factors.mantissas[k]);
        }
        read_weights(layer, state, k, weights);
        spread(layer, weights, error + k, k, sums);
    }
    sl_sums_arrived(state, input, exponent - layer->factors.exponent);
}

void sl_pass_weighted(const sl_tail_node *node, const sl_tail_state *state)
{
    const sl_weighted *layer = node->weighted;
    int32_t exponent = *sl_exponent(state, node->error);
    int16_t *live = layer->is_head ? sl_mantissas(state, node->error) : sl_live(node, state);
    if (layer->kind == SL_SHADOW) {
        keep(layer, state, live, exponent);
    } else if (layer->kind != SL_FIXED) {
        see_biases(layer, state, live, exponent);
    }
    if (layer->kind == SL_INT8) {
        see_weights(layer, state, live, exponent);
    }
    if (node->input_count == 0) {
        return;
    }
    exponent = layer->is_head ? sl_normalise_sums(sl_sums(state), node->size, exponent)
                              : sl_normalise(live, node->size, exponent);
    pass_back(node, state, live, exponent);
}

/* --- moves --- */

void sl_prepare_weighted(const sl_weighted *layer, const sl_tail_state *state, const sl_training *training)
{
    const double rate = training->learning_rate_q16 / 65536.0 / (double)training->batch_size;
    sl_short *rates = rates_of(layer, state);
    if (layer->kind == SL_SHADOW) {
        rates[0] = sl_shortened(rate * (double)layer->input_scale * STEP / (double)layer->weight_scales[0] * 4096.0);
        return;
    }
    for (uint32_t i = 0; i < layer->trained && layer->kind != SL_FIXED; i++) {
        const double real = rate * (double)layer->input_scale * STEP / (double)layer->weight_scales[i];
        if (layer->kind == SL_INT8) {
            rates[i] = sl_shortened(real / STEP * 65536.0);
        }
        rates[i + (layer->kind == SL_INT8 ? layer->trained : 0)] = sl_shortened(real * layer->bias_input * 4096.0);
    }
}

/* 16 bits for coordinate i of theta: a half of the step's word i / 2. */
static uint32_t random_half(sl_key key, uint32_t step, uint32_t i, uint32_t words[2])
{
    if (i % 4 == 0) {
        sl_random_block(key, i / 4, step, words);
    }
    return (words[i / 2 % 2] >> (16 * (i % 2))) & 0xFFFF;
}

static void move_int8(const sl_weighted *layer, const sl_tail_state *state, sl_key rounding, uint32_t step)
{
    const int32_t *gradient = gradient_of(layer, state);
    uint32_t words[2];
    sl_random_block(rounding, layer->theta / 4, step, words);
    for (uint32_t i = layer->theta; i < layer->biases; i++) {
        const int32_t weight = state->theta[i] / STEP, start = (state->start[i] + STEP / 2) >> 8;
        const uint32_t half = random_half(rounding, step, i, words);
        const int64_t change = gradient[i - layer->theta] + (weight - start) * state->rates.pull + half;
        const int64_t moved = weight - (change >> STEP_BITS);
        const int32_t limited = moved > WEIGHT_LIMIT ? WEIGHT_LIMIT : moved < -WEIGHT_LIMIT ? -WEIGHT_LIMIT : (int32_t)moved;
        state->theta[i] = (int16_t)(limited * STEP);
    }
}

static void move_shadow(const sl_weighted *layer, const sl_tail_state *state, const sl_examples *examples,
                        const uint16_t *order, uint32_t size)
{
    const sl_shadow shadow = {layer->terms,
                              layer->channels,
                              layer->input_zero_point,
                              layer->bias_input,
                              state->rates.pull,
                              state->start + layer->theta,
                              state->theta + layer->theta};
    const sl_seen seen = {
        .rows = layer->is_cached ? examples->rows + layer->cached : inputs_of(layer, state),
        .stride = layer->is_cached ? state->tail->row_bytes : layer->terms,
        .order = layer->is_cached ? order : NULL,
        .errors = errors_of(layer, state),
        .size = size,
    };
    for (uint32_t k = 0; k < layer->channels; k++) {
        sl_move_weights(&shadow, &seen, k, gradient_of(layer, state));
        sl_move_bias(&shadow, &seen, k);
    }
}

void sl_move_weighted(const sl_weighted *layer, const sl_tail_state *state, const sl_examples *examples,
                      const uint16_t *order, uint32_t size, sl_key rounding, uint32_t step)
{
    if (layer->kind == SL_SHADOW) {
        move_shadow(layer, state, examples, order, size);
        return;
    }
    if (layer->kind == SL_INT8) {
        move_int8(layer, state, rounding, step);
    }
    const int32_t *gradient = gradient_of(layer, state) + (layer->biases - layer->theta);
    for (uint32_t i = 0; i < layer->trained && layer->kind != SL_FIXED; i++) {
        const uint32_t at = layer->biases + i;
        state->theta[at] = sl_moved(state->theta, state->start, state->rates.pull, at, gradient[i]);
    }
}
