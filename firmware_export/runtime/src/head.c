#include "sanderling/head.h"

#include <string.h>

#include "fixed_point.h"
#include "rows.h"
#include "shadow.h"
#include "softmax.h"

/* Where the scratch memory of a round lies. */
typedef struct {
    int32_t *errors;   /* of a batch, a row for each example */
    int32_t *gradient; /* of one class */
    uint16_t *order;
    int16_t *centred;  /* features of one example */
} scratch_memory;

sl_scale sl_fixed(double real)
{
    int32_t shift;
    uint32_t multiplier = (uint32_t)sl_significant(real, 31, &shift);
    if (multiplier == 0x80000000u) {
        multiplier = 0x40000000u;
        shift++;
    }
    return shift < -31 ? (sl_scale){0, 0} : (sl_scale){(int32_t)multiplier, shift};
}

bool sl_labels_below(const sl_examples *examples, uint32_t classes)
{
    for (uint32_t i = 0; i < examples->count; i++) {
        if (examples->labels[i] >= classes) {
            return false;
        }
    }
    return true;
}

uint32_t sl_head_dimension(const sl_head *head)
{
    return head->classes * (head->features + 1);
}

uint32_t sl_head_scratch_bytes(const sl_head *head, uint32_t batch_size, uint32_t count)
{
    uint32_t words = batch_size * head->classes + head->features;
    return 4 * words + 2 * (count + (count & 1)) + 2 * (head->features + (head->features & 1));
}

static scratch_memory place(const sl_head *head, uint32_t batch_size, uint32_t count, void *scratch)
{
    scratch_memory memory = {.errors = scratch};
    memory.gradient = memory.errors + batch_size * head->classes;
    memory.order = (uint16_t *)(void *)(memory.gradient + head->features);
    memory.centred = (int16_t *)(void *)(memory.order + count + (count & 1));
    return memory;
}

/* Accumulators of one example, whose centred features it leaves behind. */
static void forward(const sl_head *head, const int16_t *theta, const int8_t *row, int16_t *centred, int32_t *sums)
{
    const uint32_t features = head->features, classes = head->classes;
    const int16_t *biases = theta + classes * features;
    for (uint32_t f = 0; f < features; f++) {
        centred[f] = (int16_t)(row[f] - head->input_zero_point);
    }
    for (uint32_t k = 0; k < classes; k++, theta += features) {
        sums[k] = sl_row_dot(theta, centred, features) + ((biases[k] * head->bias_input + 128) >> 8);
    }
}

static void scale_errors(const sl_rates *rates, int32_t *errors, uint32_t count)
{
    for (uint32_t k = 0; k < count; k++) {
        const int32_t scaled = sl_scaled(errors[k], rates->error_scale);
        errors[k] = sl_clamp(scaled, -rates->error_limit, rates->error_limit);
    }
}

static void step(const sl_head *head, const sl_rates *rates, const sl_shadow *shadow, const sl_examples *examples,
                 const uint16_t *batch, uint32_t size, const scratch_memory *memory)
{
    const uint32_t features = head->features, classes = head->classes;
    const sl_seen seen = {examples->rows, features, batch, memory->errors, size};
    for (uint32_t b = 0; b < size; b++) {
        int32_t *errors = memory->errors + b * classes;
        forward(head, shadow->theta, examples->rows + (size_t)batch[b] * features, memory->centred, errors);
        sl_cross_entropy_error(head, errors, examples->labels[batch[b]]);
        scale_errors(rates, errors, classes);
    }
    for (uint32_t k = 0; k < classes; k++) {
        sl_move_bias(shadow, &seen, k);
        if (size == 1 && rates->pull == 0) {
            sl_row_move(shadow->theta + k * features, memory->centred, memory->errors[k], features);
        } else {
            sl_move_weights(shadow, &seen, k, memory->gradient);
        }
    }
}

sl_status sl_head_train(const sl_head *head, const sl_training *training, sl_key key, const sl_examples *examples,
                        const int16_t *start, int16_t *theta, void *scratch)
{
    const uint32_t batch = training->batch_size, count = examples->count, dimension = sl_head_dimension(head);
    sl_rates rates;
    sl_status status = sl_prepare_rates(head, training, &rates);
    if (status == SL_OK) {
        status = sl_check_start(start, dimension, examples, head->classes);
    }
    if (status != SL_OK) {
        return status;
    }
    const sl_shadow shadow = {
        head->features, head->classes, head->input_zero_point, head->bias_input, rates.pull, start, theta};
    const scratch_memory memory = place(head, batch, count, scratch);
    memmove(theta, start, dimension * sizeof *theta);
    for (uint32_t epoch = 0; epoch < training->epochs; epoch++) {
        sl_permutation(key, epoch, memory.order, count);
        for (uint32_t first = 0; first < count; first += batch) {
            const uint32_t size = count - first < batch ? count - first : batch;
            step(head, &rates, &shadow, examples, memory.order + first, size, &memory);
        }
    }
    return SL_OK;
}

void sl_head_evaluate(const sl_head *head, const int16_t *theta, const sl_examples *examples, void *scratch,
                      sl_evaluation *evaluation)
{
    int32_t *sums = scratch;
    int16_t *centred = (int16_t *)(void *)(sums + head->classes);
    uint64_t loss = 0;
    *evaluation = (sl_evaluation){.count = examples->count};
    for (uint32_t i = 0; i < examples->count; i++) {
        forward(head, theta, examples->rows + (size_t)i * head->features, centred, sums);
        evaluation->correct += sl_largest(sums, head->classes) == examples->labels[i] ? 1 : 0;
        loss += sl_cross_entropy_q16(head, sums, examples->labels[i]);
    }
    if (examples->count > 0) {
        evaluation->loss_milli = (uint32_t)((loss * 125 / examples->count + 4096) >> 13);
    }
}
