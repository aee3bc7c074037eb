/* Training of a tail deeper than the dense head. docs/arithmetic.md, "Training a deeper tail".

   models/tail_lowering.py makes these tables. One block of memory, `ram`, holds the activations of one example, errors,
   gradients; offsets in it are bytes. An error is int16 mantissas and one exponent: mantissa * 2^-exponent. */
#ifndef SANDERLING_TAIL_H
#define SANDERLING_TAIL_H

#include "sanderling/base.h"
#include "sanderling/head.h"
#include "sanderling/kernels.h"
#include "sanderling/network.h"
#include "sanderling/trainer.h"

typedef struct sl_tail_node sl_tail_node;
typedef struct sl_tail_state sl_tail_state;

typedef void (*sl_tail_pass)(const sl_tail_node *node, const sl_tail_state *state);

/* Real factors mantissa * 2^(exponent - 15), one for each channel as a rule. */
typedef struct {
    const uint16_t *mantissas;
    int32_t exponent;
} sl_factors;

/* A number of 15 significant bits: mantissa * 2^(exponent - 15). */
typedef struct {
    uint16_t mantissa;
    int16_t exponent;
} sl_short;

/* Offsets in ram: of int16 mantissas, of an int32 exponent. */
typedef struct {
    uint32_t mantissas, exponent;
} sl_error;

/* One that takes an error. */
typedef struct {
    sl_error error;      /* what this node passes back; room for int32 sums where it adds up */
    sl_error sum;        /* what other readers passed back before it, and where the sum belongs */
    bool is_added;
    uint32_t activation; /* offset */
    uint32_t size;       /* elements */
    uint32_t first;      /* of a concatenation: where its part begins in a run, and how long that is */
    uint32_t run;
} sl_tail_input;

enum sl_tail_kind { SL_FIXED = 0, SL_BIAS = 1, SL_INT8 = 2, SL_SHADOW = 3 };

/* A layer with weights; a dense layer has windows of one pixel on an image of one. */
typedef struct {
    uint8_t kind; /* an sl_tail_kind */
    bool is_depthwise, is_head;
    uint32_t channels, terms; /* of the output; weights a channel */
    uint32_t multiplier;      /* of a depthwise convolution */
    sl_windows windows;
    const uint32_t *paired;   /* the network's weights as sl_product has them; */
    const int8_t *weights;    /* or HWC, of a depthwise convolution */
    const sl_scale *scales;   /* of each channel; null for the head, whose sums are wanted */
    const int32_t *bias_base; /* of each channel */
    sl_output output;
    uint32_t input;           /* offset of the activation that enters */
    int32_t input_zero_point;
    int32_t bias_input;
    sl_factors factors;       /* s_w of each channel */
    /* Where it is trained: */
    uint32_t theta;           /* index of the first weight */
    uint32_t biases;          /* index of the first bias */
    uint32_t trained;         /* channels that are trained, */
    const uint16_t *chosen;   /* ascending; null for all */
    float input_scale;
    const float *weight_scales; /* of the trained channels; a shadow layer's only one */
    /* Offsets in ram: */
    uint32_t window;          /* int16, one window */
    uint32_t sums;            /* int32, of the weights of one channel, of an int8 layer */
    uint32_t gradient;        /* int32: of theta's weights, unless it is a shadow layer's, and biases */
    uint32_t rates;           /* sl_short, of each trained channel: of its weights (int8 layers), then of its biases */
    /* A shadow layer's, in bytes for each example of a batch: where its errors begin, and its inputs behind them; */
    uint32_t example;
    bool is_cached;           /* or the input is the cached row, */
    uint32_t cached;          /* from this byte on */
} sl_weighted;

struct sl_tail_node {
    const sl_node *node;         /* a layer that is not trained, as the kernels run it; else null */
    const sl_weighted *weighted; /* a layer with weights; else null */
    sl_tail_pass backward;       /* null where nothing before it takes an error, nor it itself */
    uint32_t output, size;       /* offset of the activation; elements */
    int32_t low, high;           /* between which the output was not clamped */
    sl_error error;              /* of the output */
    sl_factors factors;          /* of a mean, one; of an average pool, by the number of elements */
    const sl_tail_input *inputs;
    uint32_t input_count;
};

/* Targets are int8 of this zero point. */
typedef struct {
    int32_t zero_point;
    sl_short target;       /* a step of the target in steps of the sums */
    sl_factors derivative;
    double sum_scale, target_scale;
    uint32_t row;          /* where a cached row holds its targets */
} sl_squared_error;

typedef struct {
    const sl_head *head;
    const sl_tail_node *nodes; /* in the order of execution; the head is the last */
    uint32_t node_count;
    uint32_t dimension;
    uint32_t row_bytes;        /* of a cached example: what enters, and targets that are not there already */
    uint32_t entering_bytes;   /* copied to the front of ram */
    uint32_t sums;             /* offset: int32, of the head */
    uint32_t gradients, gradient_bytes;
    uint32_t ram_bytes;        /* a multiple of 4; behind it, for each example of a batch, */
    uint32_t example_bytes;    /* so many */
    const sl_squared_error *squared_error; /* null: cross-entropy */
} sl_tail;

/* Bytes of scratch memory, aligned to 4. */
uint32_t sl_tail_scratch_bytes(const sl_tail *tail, uint32_t batch_size, uint32_t count);

/* theta after training from `start`. Refuses what sl_head_train does. */
sl_status sl_tail_train(const sl_tail *tail, const sl_training *training, const sl_training_keys *keys,
                        const sl_examples *examples, const int16_t *start, int16_t *theta, void *scratch);

/* With mean squared error nothing is correct. */
void sl_tail_evaluate(const sl_tail *tail, const int16_t *theta, const sl_examples *examples, void *scratch,
                      sl_evaluation *evaluation);

/* The learner of a tail, whose tables are kept by reference. */
sl_learner sl_tail_learner(const sl_tail *tail);

/* Backward passes, for the tables. */
void sl_pass_weighted(const sl_tail_node *node, const sl_tail_state *state);
void sl_pass_on(const sl_tail_node *node, const sl_tail_state *state); /* ReLU, requantisation, addition, reshape */
void sl_pass_mean(const sl_tail_node *node, const sl_tail_state *state);
void sl_pass_average_pool(const sl_tail_node *node, const sl_tail_state *state);
void sl_pass_max_pool(const sl_tail_node *node, const sl_tail_state *state);
void sl_pass_pad(const sl_tail_node *node, const sl_tail_state *state);
void sl_pass_concatenate(const sl_tail_node *node, const sl_tail_state *state);

#endif
