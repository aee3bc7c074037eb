#include "sanderling/head.h"

#include <string.h>

#include "fixed_point.h"
#include "rows.h"
#include "softmax.h"

/* What a round prepares, and where its scratch memory lies. */
typedef struct {
    const sl_head *head;
    const int16_t *start;
    int16_t *theta;
    sl_scale error_scale;
    int32_t error_limit;
    int64_t pull;
    int32_t *errors;   /* of a batch, a row for each example */
    int32_t *gradient; /* of one class */
    uint16_t *order;
    int16_t *centred;  /* features of one example */
} round_state;

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

static void place(round_state *state, uint32_t batch_size, uint32_t count, void *scratch)
{
    state->errors = scratch;
    state->gradient = state->errors + batch_size * state->head->classes;
    state->order = (uint16_t *)(void *)(state->gradient + state->head->features);
    state->centred = (int16_t *)(void *)(state->order + count + (count & 1));
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

static void scale_errors(const round_state *state, int32_t *errors)
{
    for (uint32_t k = 0; k < state->head->classes; k++) {
        int32_t scaled = sl_scaled(errors[k], state->error_scale);
        errors[k] = sl_clamp(scaled, -state->error_limit, state->error_limit);
    }
}

/* theta moved by a gradient in 2^-12, and toward its start. */
static int16_t moved(const round_state *state, uint32_t i, int32_t gradient)
{
    int32_t theta = state->theta[i] - ((gradient + 2048) >> 12);
    if (state->pull != 0) {
        theta -= (int32_t)(((theta - state->start[i]) * state->pull + 32768) >> 16);
    }
    return sl_theta_clamped(theta);
}

/* The gradient of a row of weights: the sum over the batch of error * (x - z), whose parts may wrap around. */
static void sum_gradient(const round_state *state, const sl_examples *examples, const uint16_t *batch, uint32_t size,
                         uint32_t k)
{
    const uint32_t features = state->head->features, classes = state->head->classes;
    uint32_t *gradient = (uint32_t *)state->gradient;
    memset(gradient, 0, features * sizeof *gradient);
    uint32_t total = 0;
    for (uint32_t b = 0; b < size; b++) {
        const uint32_t error = (uint32_t)state->errors[b * classes + k];
        const int8_t *row = examples->rows + (size_t)batch[b] * features;
        total += error;
        if (error != 0) {
            for (uint32_t f = 0; f < features; f++) {
                const int32_t x = row[f];
                gradient[f] += error * (uint32_t)x;
            }
        }
    }
    const uint32_t shift = total * (uint32_t)state->head->input_zero_point;
    for (uint32_t f = 0; f < features; f++) {
        gradient[f] -= shift;
    }
}

static void step(const round_state *state, const sl_examples *examples, const uint16_t *batch, uint32_t size)
{
    const sl_head *head = state->head;
    const uint32_t features = head->features, classes = head->classes;
    for (uint32_t b = 0; b < size; b++) {
        int32_t *errors = state->errors + b * classes;
        forward(head, state->theta, examples->rows + (size_t)batch[b] * features, state->centred, errors);
        sl_cross_entropy_error(head, errors, examples->labels[batch[b]]);
        scale_errors(state, errors);
    }
    for (uint32_t k = 0; k < classes; k++) {
        int32_t total = 0;
        for (uint32_t b = 0; b < size; b++) {
            total += state->errors[b * classes + k];
        }
        const uint32_t bias = classes * features + k, first = k * features;
        state->theta[bias] = moved(state, bias, total * head->bias_input);
        if (size == 1 && state->pull == 0) {
            sl_row_move(state->theta + first, state->centred, total, features);
            continue;
        }
        sum_gradient(state, examples, batch, size, k);
        for (uint32_t f = 0; f < features; f++) {
            state->theta[first + f] = moved(state, first + f, state->gradient[f]);
        }
    }
}

/* The parts of a round that rates decide; SL_UNSUPPORTED where they are beyond the arithmetic. */
static sl_status prepare(round_state *state, const sl_training *training)
{
    const sl_head *head = state->head;
    const uint32_t batch = training->batch_size;
    if (batch < 1 || batch > SL_MAX_BATCH_SIZE) {
        return SL_UNSUPPORTED;
    }
    double rate = training->learning_rate_q16 / 65536.0;
    double real = rate * 256.0 * head->input_scale / head->weight_scale / (double)batch / 8.0;
    uint64_t pull = ((uint64_t)training->learning_rate_q16 * training->proximal_mu_q16 + 32768) >> 16;
    if (!(real < 2147483648.0) || pull > INT32_MAX) {
        return SL_UNSUPPORTED;
    }
    state->error_scale = sl_fixed(real);
    if (state->error_scale.shift > 15) {
        state->error_scale.shift = 15;
    }
    state->error_limit = (int32_t)((INT32_MAX - 4096u) / (255 * batch));
    state->pull = (int64_t)pull;
    return SL_OK;
}

sl_status sl_head_train(const sl_head *head, const sl_training *training, sl_key key, const sl_examples *examples,
                        const int16_t *start, int16_t *theta, void *scratch)
{
    round_state state = {.head = head, .start = start, .theta = theta};
    const uint32_t batch = training->batch_size, count = examples->count, dimension = sl_head_dimension(head);
    sl_status status = prepare(&state, training);
    if (status != SL_OK) {
        return status;
    }
    for (uint32_t i = 0; i < dimension; i++) {
        if (sl_theta_clamped(start[i]) != start[i]) {
            return SL_MALFORMED;
        }
    }
    if (!sl_labels_below(examples, head->classes)) {
        return SL_BAD_SAMPLE;
    }
    memmove(theta, start, dimension * sizeof *theta);
    place(&state, batch, count, scratch);
    for (uint32_t epoch = 0; epoch < training->epochs; epoch++) {
        sl_permutation(key, epoch, state.order, count);
        for (uint32_t first = 0; first < count; first += batch) {
            step(&state, examples, state.order + first, count - first < batch ? count - first : batch);
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
