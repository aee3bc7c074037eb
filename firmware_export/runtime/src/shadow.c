#include "shadow.h"

#include <string.h>

#include "rows.h"

enum { ERROR_FRACTION_BITS = 12, MAX_ERROR_SHIFT = 15 };

sl_status sl_prepare_rates(const sl_head *head, const sl_training *training, sl_rates *rates)
{
    const uint32_t batch = training->batch_size;
    if (batch < 1 || batch > SL_MAX_BATCH_SIZE) {
        return SL_UNSUPPORTED;
    }
    const double rate = training->learning_rate_q16 / 65536.0;
    const double real = rate * 256.0 * head->input_scale / head->weight_scale / (double)batch / 8.0;
    const uint64_t pull = ((uint64_t)training->learning_rate_q16 * training->proximal_mu_q16 + 32768) >> 16;
    if (!(real < 2147483648.0) || pull > INT32_MAX) {
        return SL_UNSUPPORTED;
    }
    rates->error_scale = sl_fixed(real);
    if (rates->error_scale.shift > MAX_ERROR_SHIFT) {
        rates->error_scale.shift = MAX_ERROR_SHIFT;
    }
    rates->error_limit = (int32_t)((INT32_MAX - (1u << ERROR_FRACTION_BITS)) / (255 * batch));
    rates->pull = (int64_t)pull;
    return SL_OK;
}

sl_status sl_check_start(const int16_t *start, uint32_t dimension, const sl_examples *examples, uint32_t classes)
{
    for (uint32_t i = 0; i < dimension; i++) {
        if (sl_theta_clamped(start[i]) != start[i]) {
            return SL_MALFORMED;
        }
    }
    return sl_labels_below(examples, classes) ? SL_OK : SL_BAD_SAMPLE;
}

int16_t sl_moved(const int16_t *theta, const int16_t *start, int64_t pull, uint32_t i, int32_t gradient)
{
    int32_t moved = theta[i] - ((gradient + (1 << (ERROR_FRACTION_BITS - 1))) >> ERROR_FRACTION_BITS);
    if (pull != 0) {
        moved -= (int32_t)(((moved - start[i]) * pull + 32768) >> 16);
    }
    return sl_theta_clamped(moved);
}

/* The sum over the batch of error * (x - z), whose parts may wrap around. */
static void sum_gradient(const sl_shadow *layer, const sl_seen *seen, uint32_t class_index, uint32_t *gradient)
{
    uint32_t total = 0;
    memset(gradient, 0, layer->features * sizeof *gradient);
    for (uint32_t b = 0; b < seen->size; b++) {
        const uint32_t error = (uint32_t)seen->errors[b * layer->classes + class_index];
        const int8_t *row = seen->rows + (size_t)(seen->order != NULL ? seen->order[b] : b) * seen->stride;
        total += error;
        for (uint32_t f = 0; f < layer->features && error != 0; f++) {
            const int32_t x = row[f];
            gradient[f] += error * (uint32_t)x;
        }
    }
    const uint32_t shift = total * (uint32_t)layer->input_zero_point;
    for (uint32_t f = 0; f < layer->features; f++) {
        gradient[f] -= shift;
    }
}

void sl_move_weights(const sl_shadow *layer, const sl_seen *seen, uint32_t class_index, int32_t *gradient)
{
    const uint32_t first = class_index * layer->features;
    sum_gradient(layer, seen, class_index, (uint32_t *)gradient);
    for (uint32_t f = 0; f < layer->features; f++) {
        layer->theta[first + f] = sl_moved(layer->theta, layer->start, layer->pull, first + f, gradient[f]);
    }
}

void sl_move_bias(const sl_shadow *layer, const sl_seen *seen, uint32_t class_index)
{
    const uint32_t i = layer->classes * layer->features + class_index;
    int32_t total = 0;
    for (uint32_t b = 0; b < seen->size; b++) {
        total += seen->errors[b * layer->classes + class_index];
    }
    layer->theta[i] = sl_moved(layer->theta, layer->start, layer->pull, i, total * layer->bias_input);
}
