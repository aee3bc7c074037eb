#include "sanderling/tail.h"

#include <string.h>

#include "block_float.h"
#include "rows.h"
#include "softmax.h"
#include "tail_state.h"

enum { PROBABILITY_BITS = 15, STEP = 256 };

uint32_t sl_tail_scratch_bytes(const sl_tail *tail, uint32_t batch_size, uint32_t count)
{
    return tail->ram_bytes + batch_size * tail->example_bytes + 2 * (count + (count & 1));
}

int32_t *sl_sums(const sl_tail_state *state)
{
    return (int32_t *)(void *)(state->ram + state->tail->sums);
}

/* --- one example --- */

static void run_forward(const sl_tail_state *state, const int8_t *row)
{
    const sl_tail *tail = state->tail;
    memcpy(state->ram, row, tail->entering_bytes);
    for (uint32_t i = 0; i < tail->node_count; i++) {
        const sl_tail_node *node = &tail->nodes[i];
        if (node->node != NULL) {
            node->node->run(node->node, (int8_t *)state->ram);
        } else if (node->weighted != NULL) {
            sl_forward_weighted(node, state);
        }
    }
}

static const sl_tail_node *head_of(const sl_tail *tail)
{
    return &tail->nodes[tail->node_count - 1];
}

/* Sums less the targets, then the derivative of their squares; the exponent. */
static int32_t squared_error(const sl_tail_state *state, const int8_t *row)
{
    const sl_squared_error *loss = state->tail->squared_error;
    const uint32_t outputs = state->tail->head->classes;
    int32_t *sums = sl_sums(state);
    for (uint32_t k = 0; k < outputs; k++) {
        sums[k] -= sl_contribution(row[loss->row + k] - loss->zero_point, loss->target, 0, INT32_MAX);
    }
    const int32_t exponent = sl_normalise_wide(sums, outputs, 0);
    for (uint32_t k = 0; k < outputs; k++) {
        sums[k] = sl_times((int16_t)sums[k], loss->derivative.mantissas[0]);
    }
    return exponent - loss->derivative.exponent;
}

static void train_on(const sl_tail_state *state, const int8_t *row, uint32_t label)
{
    const sl_tail *tail = state->tail;
    int32_t exponent = PROBABILITY_BITS;
    run_forward(state, row);
    if (tail->squared_error != NULL) {
        exponent = squared_error(state, row);
    } else {
        sl_cross_entropy_error(tail->head, sl_sums(state), label);
    }
    *sl_exponent(state, head_of(tail)->error) = exponent;
    for (uint32_t i = tail->node_count; i-- > 0;) {
        if (tail->nodes[i].backward != NULL) {
            tail->nodes[i].backward(&tail->nodes[i], state);
        }
    }
}

/* --- a round --- */

/* int8 weights as multiples of 256 while they are trained. */
static void round_weights(const sl_weighted *layer, const sl_tail_state *state)
{
    for (uint32_t i = layer->theta; i < layer->biases && layer->kind == SL_INT8; i++) {
        state->theta[i] = (int16_t)(((state->start[i] + STEP / 2) >> 8) * STEP);
    }
}

/* What was rounded away at the start comes back. */
static void give_back_fractions(const sl_weighted *layer, const sl_tail_state *state)
{
    for (uint32_t i = layer->theta; i < layer->biases && layer->kind == SL_INT8; i++) {
        const int32_t rounded = ((state->start[i] + STEP / 2) >> 8) * STEP;
        state->theta[i] = sl_theta_clamped(state->start[i] + state->theta[i] - rounded);
    }
}

static void step(sl_tail_state *state, const sl_examples *examples, const uint16_t *order, uint32_t size,
                 sl_key rounding, uint32_t number)
{
    const sl_tail *tail = state->tail;
    memset(state->ram + tail->gradients, 0, tail->gradient_bytes);
    for (state->place = 0; state->place < size; state->place++) {
        const uint32_t example = order[state->place];
        train_on(state, examples->rows + (size_t)example * tail->row_bytes, examples->labels[example]);
    }
    for (uint32_t i = 0; i < tail->node_count; i++) {
        if (tail->nodes[i].weighted != NULL) {
            sl_move_weighted(tail->nodes[i].weighted, state, examples, order, size, rounding, number);
        }
    }
}

sl_status sl_tail_train(const sl_tail *tail, const sl_training *training, const sl_training_keys *keys,
                        const sl_examples *examples, const int16_t *start, int16_t *theta, void *scratch)
{
    const uint32_t batch = training->batch_size, count = examples->count;
    sl_tail_state state = {.tail = tail, .ram = scratch, .theta = theta, .start = start, .batch_size = batch};
    sl_status status = sl_prepare_rates(tail->head, training, &state.rates);
    if (status == SL_OK) {
        const uint32_t classes = tail->squared_error != NULL ? UINT32_MAX : tail->head->classes;
        status = sl_check_start(start, tail->dimension, examples, classes);
    }
    if (status != SL_OK) {
        return status;
    }
    uint16_t *order = (uint16_t *)(void *)(state.ram + tail->ram_bytes + batch * tail->example_bytes);
    memmove(theta, start, tail->dimension * sizeof *theta);
    for (uint32_t i = 0; i < tail->node_count; i++) {
        if (tail->nodes[i].weighted != NULL) {
            round_weights(tail->nodes[i].weighted, &state);
            sl_prepare_weighted(tail->nodes[i].weighted, &state, training);
        }
    }
    uint32_t number = 0;
    for (uint32_t epoch = 0; epoch < training->epochs; epoch++) {
        sl_permutation(keys->order, epoch, order, count);
        for (uint32_t first = 0; first < count; first += batch) {
            const uint32_t size = count - first < batch ? count - first : batch;
            step(&state, examples, order + first, size, keys->rounding, number++);
        }
    }
    for (uint32_t i = 0; i < tail->node_count; i++) {
        if (tail->nodes[i].weighted != NULL) {
            give_back_fractions(tail->nodes[i].weighted, &state);
        }
    }
    return SL_OK;
}

/* --- evaluation --- */

static double squared_loss(const sl_tail_state *state, const int8_t *row)
{
    const sl_squared_error *loss = state->tail->squared_error;
    const uint32_t outputs = state->tail->head->classes;
    double sum = 0;
    for (uint32_t k = 0; k < outputs; k++) {
        const double target = (row[loss->row + k] - loss->zero_point) * loss->target_scale;
        const double difference = sl_sums(state)[k] * loss->sum_scale - target;
        sum += difference * difference;
    }
    return sum / (double)outputs;
}

static uint32_t milli(double loss)
{
    return loss < 4e6 ? (uint32_t)(loss * 1000.0 + 0.5) : UINT32_MAX;
}

void sl_tail_evaluate(const sl_tail *tail, const int16_t *theta, const sl_examples *examples, void *scratch,
                      sl_evaluation *evaluation)
{
    union {
        const int16_t *in;
        int16_t *out;
    } read_only = {theta}; /* running forward changes nothing */
    const sl_tail_state state = {.tail = tail, .ram = scratch, .theta = read_only.out, .start = theta};
    uint64_t nats = 0;
    double squares = 0;
    *evaluation = (sl_evaluation){.count = examples->count};
    for (uint32_t i = 0; i < examples->count; i++) {
        const int8_t *row = examples->rows + (size_t)i * tail->row_bytes;
        run_forward(&state, row);
        if (tail->squared_error != NULL) {
            squares += squared_loss(&state, row);
            continue;
        }
        evaluation->correct += sl_largest(sl_sums(&state), tail->head->classes) == examples->labels[i] ? 1 : 0;
        nats += sl_cross_entropy_q16(tail->head, sl_sums(&state), examples->labels[i]);
    }
    if (examples->count > 0) {
        evaluation->loss_milli = tail->squared_error != NULL
                                     ? milli(squares / (double)examples->count)
                                     : (uint32_t)((nats * 125 / examples->count + 4096) >> 13);
    }
}

/* --- as a learner --- */

static uint32_t tail_scratch_bytes(const void *tables, uint32_t batch_size, uint32_t count)
{
    return sl_tail_scratch_bytes(tables, batch_size, count);
}

static sl_status train_tail(const void *tables, const sl_training *training, const sl_training_keys *keys,
                            const sl_examples *examples, const int16_t *start, int16_t *theta, void *scratch)
{
    return sl_tail_train(tables, training, keys, examples, start, theta, scratch);
}

static void evaluate_tail(const void *tables, const int16_t *theta, const sl_examples *examples, void *scratch,
                          sl_evaluation *evaluation)
{
    sl_tail_evaluate(tables, theta, examples, scratch, evaluation);
}

sl_learner sl_tail_learner(const sl_tail *tail)
{
    return (sl_learner){.tables = tail,
                        .dimension = tail->dimension,
                        .features = tail->row_bytes,
                        .classes = tail->squared_error != NULL ? UINT32_MAX : tail->head->classes,
                        .scratch_bytes = tail_scratch_bytes,
                        .train = train_tail,
                        .evaluate = evaluate_tail};
}
