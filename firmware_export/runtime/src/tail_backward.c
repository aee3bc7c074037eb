#include <string.h>

#include "block_float.h"
#include "loops.h"
#include "tail_state.h"
#include "windows.h"

void sl_arrived(const sl_tail_state *state, const sl_tail_input *input, int32_t exponent)
{
    if (input->is_added) {
        int32_t *sum = sl_exponent(state, input->sum);
        *sum = sl_add_errors(sl_mantissas(state, input->sum), *sum, sl_mantissas(state, input->error), exponent,
                             input->size);
    } else {
        *sl_exponent(state, input->error) = exponent;
    }
}

void sl_sums_arrived(const sl_tail_state *state, const sl_tail_input *input, int32_t exponent)
{
    int32_t *sums = (int32_t *)(void *)(state->ram + input->error.mantissas);
    sl_arrived(state, input, sl_normalise_sums(sums, input->size, exponent));
}

int16_t *sl_live(const sl_tail_node *node, const sl_tail_state *state)
{
    int16_t *error = sl_mantissas(state, node->error);
    const int8_t *y = sl_activation(state, node->output);
    for (uint32_t i = 0; i < node->size; i++) {
        if (y[i] <= node->low || y[i] >= node->high) {
            error[i] = 0;
        }
    }
    return error;
}

void sl_pass_on(const sl_tail_node *node, const sl_tail_state *state)
{
    const int16_t *error = sl_live(node, state);
    for (uint32_t i = 0; i < node->input_count; i++) {
        const sl_tail_input *input = &node->inputs[i];
        memcpy(sl_mantissas(state, input->error), error, input->size * sizeof *error);
        sl_arrived(state, input, *sl_exponent(state, node->error));
    }
}

void sl_pass_mean(const sl_tail_node *node, const sl_tail_state *state)
{
    const sl_mean_parameters *p = node->node->parameters;
    const sl_tail_input *input = node->inputs;
    const int16_t *error = sl_live(node, state);
    int16_t *out = sl_mantissas(state, input->error);
    const uint32_t kept = sl_runs(&p->kept, p->kept.rank), reduced = sl_runs(&p->reduced, p->reduced.rank);
    for (uint32_t i = 0; i < kept; i++) {
        const int16_t share = sl_times(error[i], node->factors.mantissas[0]);
        const uint32_t first = sl_offset(&p->kept, p->kept.rank, p->kept_strides, i);
        for (uint32_t j = 0; j < reduced; j++) {
            out[first + sl_offset(&p->reduced, p->reduced.rank, p->reduced_strides, j)] = share;
        }
    }
    sl_arrived(state, input, *sl_exponent(state, node->error) - node->factors.exponent);
}

/* Where a pool's errors go: to int32 sums, or where windows do not overlap at once to mantissas. */
typedef struct {
    int32_t *sums;
    int16_t *mantissas; /* null where there are sums */
} destination;

static void give(const destination *to, uint32_t at, int16_t error)
{
    if (to->mantissas != NULL) {
        to->mantissas[at] = error;
    } else {
        to->sums[at] += error;
    }
}

/* Passes on one output's error to what is under its window, whose first element is `first`. */
typedef void (*spread)(const sl_tail_node *node, const sl_windows *w, sl_span rows, sl_span columns, const int8_t *x,
                       uint32_t first, int16_t error, const destination *to);

static void spread_evenly(const sl_tail_node *node, const sl_windows *w, sl_span rows, sl_span columns, const int8_t *x,
                          uint32_t first, int16_t error, const destination *to)
{
    const uint32_t high = rows.last - rows.first, wide = columns.last - columns.first;
    const int16_t share = sl_times(error, node->factors.mantissas[high * wide]);
    (void)x;
    for (uint32_t i = 0; i < high; i++) {
        for (uint32_t j = 0; j < wide; j++) {
            give(to, first + (i * w->width + j) * w->channels, share);
        }
    }
}

static void give_to_largest(const sl_tail_node *node, const sl_windows *w, sl_span rows, sl_span columns,
                            const int8_t *x, uint32_t first, int16_t error, const destination *to)
{
    uint32_t largest = first;
    (void)node;
    for (uint32_t i = 0; i < rows.last - rows.first; i++) {
        for (uint32_t j = 0; j < columns.last - columns.first; j++) {
            const uint32_t at = first + (i * w->width + j) * w->channels;
            largest = x[at] > x[largest] ? at : largest;
        }
    }
    give(to, largest, error);
}

static void pass_pool(const sl_tail_node *node, const sl_tail_state *state, spread pass, int32_t factor_exponent)
{
    const sl_pool_parameters *p = node->node->parameters;
    const sl_windows *w = &p->windows;
    const sl_tail_input *input = node->inputs;
    const int16_t *error = sl_live(node, state);
    const int8_t *x = sl_activation(state, input->activation);
    const bool apart = w->window_height <= w->stride_y && w->window_width <= w->stride_x;
    const destination to = {(int32_t *)(void *)(state->ram + input->error.mantissas),
                            apart ? sl_mantissas(state, input->error) : NULL};
    const int32_t exponent = *sl_exponent(state, node->error) - factor_exponent;
    memset(to.sums, 0, input->size * (apart ? sizeof *to.mantissas : sizeof *to.sums));
    for (uint32_t row = 0; row < w->rows; row++) {
        const sl_span rows = sl_rows_inside(w, row);
        for (uint32_t column = 0; column < w->columns; column++) {
            const sl_span columns = sl_columns_inside(w, column);
            const uint32_t first = (rows.at * w->width + columns.at) * w->channels;
            for (uint32_t channel = 0; channel < w->channels; channel++) {
                pass(node, w, rows, columns, x, first + channel, *error++, &to);
            }
        }
    }
    if (apart) {
        sl_arrived(state, input, sl_normalise(to.mantissas, input->size, exponent));
    } else {
        sl_sums_arrived(state, input, exponent);
    }
}

void sl_pass_average_pool(const sl_tail_node *node, const sl_tail_state *state)
{
    pass_pool(node, state, spread_evenly, node->factors.exponent);
}

void sl_pass_max_pool(const sl_tail_node *node, const sl_tail_state *state)
{
    pass_pool(node, state, give_to_largest, 0);
}

void sl_pass_pad(const sl_tail_node *node, const sl_tail_state *state)
{
    const sl_pad_parameters *p = node->node->parameters;
    const int16_t *error = sl_mantissas(state, node->error);
    int16_t *out = sl_mantissas(state, node->inputs->error);
    const uint32_t runs = sl_runs(&p->loops, p->loops.rank);
    for (uint32_t i = 0; i < runs; i++, out += p->run) {
        memcpy(out, error + p->first + sl_offset(&p->loops, p->loops.rank, p->strides, i), p->run * sizeof *out);
    }
    sl_arrived(state, node->inputs, *sl_exponent(state, node->error));
}

void sl_pass_concatenate(const sl_tail_node *node, const sl_tail_state *state)
{
    const sl_concatenate_parameters *p = node->node->parameters;
    const uint32_t whole = node->size / p->outer;
    for (uint32_t i = 0; i < node->input_count; i++) {
        const sl_tail_input *input = &node->inputs[i];
        const int16_t *error = sl_mantissas(state, node->error) + input->first;
        int16_t *out = sl_mantissas(state, input->error);
        for (uint32_t j = 0; j < p->outer; j++, out += input->run, error += whole) {
            memcpy(out, error, input->run * sizeof *out);
        }
        sl_arrived(state, input, *sl_exponent(state, node->error));
    }
}
