/* Training and evaluation of a dense head on cached int8 features. docs/arithmetic.md, "Training a dense head". */
#ifndef SANDERLING_HEAD_H
#define SANDERLING_HEAD_H

#include "sanderling/base.h"
#include "sanderling/network.h"
#include "sanderling/random_bits.h"

enum { SL_THETA_LIMIT = 32512, SL_MAX_BATCH_SIZE = 32 };

/* How a device trains in a round. */
typedef struct {
    uint16_t epochs;
    uint16_t batch_size;        /* 1..SL_MAX_BATCH_SIZE */
    uint32_t learning_rate_q16; /* in 2^-16 */
    uint32_t proximal_mu_q16;   /* FedProx's mu, in 2^-16 */
} sl_training;

/* A last dense layer; theta is `classes` rows of `features` weights, then as many biases. */
typedef struct {
    uint32_t features, classes; /* at most 32,768 */
    int32_t input_zero_point;
    int32_t bias_input;   /* the constant input whose weight the bias is */
    sl_scale exp_scale;   /* from accumulators to 1/256 nat */
    int32_t reach;        /* accumulators that are 16 nats */
    double input_scale, weight_scale;
} sl_head;

/* Labelled examples: `count` rows of int8 features, one after the other, and their labels. */
typedef struct {
    const int8_t *rows;
    const uint16_t *labels;
    uint32_t count; /* at most 65,535 */
} sl_examples;

/* How theta did; the loss is the mean cross-entropy in 1/1000, for reports. */
typedef struct {
    uint32_t correct, count, loss_milli;
} sl_evaluation;

/* (multiplier, shift) of a factor in 0..2^31 - 1. */
sl_scale sl_fixed(double real);

bool sl_labels_below(const sl_examples *examples, uint32_t classes);

uint32_t sl_head_dimension(const sl_head *head);

/* Bytes of scratch memory, aligned to 4, that training and evaluating take. */
uint32_t sl_head_scratch_bytes(const sl_head *head, uint32_t batch_size, uint32_t count);

/* theta after training from `start`, both of the head's dimension; `key` decides the order of examples.
   SL_UNSUPPORTED for a batch size or rates beyond this arithmetic, SL_MALFORMED for a start outside +-SL_THETA_LIMIT,
   SL_BAD_SAMPLE for a label that is no class. */
sl_status sl_head_train(const sl_head *head, const sl_training *training, sl_key key, const sl_examples *examples,
                        const int16_t *start, int16_t *theta, void *scratch);

/* Labels are classes; of equals the lower class wins. */
void sl_head_evaluate(const sl_head *head, const int16_t *theta, const sl_examples *examples, void *scratch,
                      sl_evaluation *evaluation);

#endif
