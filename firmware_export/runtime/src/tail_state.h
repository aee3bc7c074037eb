/* What the passes over a tail work on. */
#ifndef SANDERLING_TAIL_STATE_H
#define SANDERLING_TAIL_STATE_H

#include "sanderling/tail.h"
#include "shadow.h"

struct sl_tail_state {
    const sl_tail *tail;
    uint8_t *ram;
    int16_t *theta; /* int8 weights as multiples of 256 */
    const int16_t *start;
    sl_rates rates;
    uint32_t batch_size;
    uint32_t place; /* of the example in its batch */
};

static inline int16_t *sl_mantissas(const sl_tail_state *state, sl_error error)
{
    return (int16_t *)(void *)(state->ram + error.mantissas);
}

static inline int32_t *sl_exponent(const sl_tail_state *state, sl_error error)
{
    return (int32_t *)(void *)(state->ram + error.exponent);
}

static inline const int8_t *sl_activation(const sl_tail_state *state, uint32_t offset)
{
    return (const int8_t *)state->ram + offset;
}

/* An error has been written for this input: with what came before, it is the input's. */
void sl_arrived(const sl_tail_state *state, const sl_tail_input *input, int32_t exponent);

/* Int32 sums have been: to be normalised first. */
void sl_sums_arrived(const sl_tail_state *state, const sl_tail_input *input, int32_t exponent);

/* The error of the node's output, 0 where the output was clamped: in its place. */
int16_t *sl_live(const sl_tail_node *node, const sl_tail_state *state);

void sl_forward_weighted(const sl_tail_node *node, const sl_tail_state *state);

/* The loss's error at the head, of the sums: from int32 in their place to mantissas. */
int32_t *sl_sums(const sl_tail_state *state);

/* Rates of a round; gradients of a batch that has been seen become moves. `order` is the batch's. */
void sl_prepare_weighted(const sl_weighted *layer, const sl_tail_state *state, const sl_training *training);
void sl_move_weighted(const sl_weighted *layer, const sl_tail_state *state, const sl_examples *examples,
                      const uint16_t *order, uint32_t size, sl_key rounding, uint32_t step);

#endif
