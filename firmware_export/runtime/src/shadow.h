/* A dense layer's int16 shadow, moved by one batch. docs/arithmetic.md, "Training a dense head", "Step". */
#ifndef SANDERLING_SHADOW_H
#define SANDERLING_SHADOW_H

#include "sanderling/head.h"

/* What the rates of a round make of a head. */
typedef struct {
    sl_scale error_scale;
    int32_t error_limit;
    int64_t pull;
} sl_rates;

/* SL_UNSUPPORTED where they are beyond the arithmetic. */
sl_status sl_prepare_rates(const sl_head *head, const sl_training *training, sl_rates *rates);

/* SL_MALFORMED for a theta outside its limits, SL_BAD_SAMPLE for a label that is no class. */
sl_status sl_check_start(const int16_t *start, uint32_t dimension, const sl_examples *examples, uint32_t classes);

/* theta of a layer: weights class by class, then biases; and the start of the round. */
typedef struct {
    uint32_t features, classes;
    int32_t input_zero_point, bias_input;
    int64_t pull;
    const int16_t *start;
    int16_t *theta;
} sl_shadow;

/* What the layer saw in a batch: row `order[b]`, or b, of example b, `stride` bytes apart; scaled errors, a class each. */
typedef struct {
    const int8_t *rows;
    uint32_t stride;
    const uint16_t *order; /* or null */
    const int32_t *errors;
    uint32_t size;
} sl_seen;

/* Parameter i moved by a gradient in 2^-12, and toward its start. */
int16_t sl_moved(const int16_t *theta, const int16_t *start, int64_t pull, uint32_t i, int32_t gradient);

/* `gradient` is room for the features of one class. */
void sl_move_weights(const sl_shadow *layer, const sl_seen *seen, uint32_t class_index, int32_t *gradient);

void sl_move_bias(const sl_shadow *layer, const sl_seen *seen, uint32_t class_index);

#endif
