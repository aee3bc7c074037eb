/* A round of local training: from cached features and a task to the update's payload. docs/arithmetic.md, "From training to
   update"; the same bytes as edge_runtime/trainer.py. */
#ifndef SANDERLING_TRAINER_H
#define SANDERLING_TRAINER_H

#include "sanderling/base.h"
#include "sanderling/codec.h"
#include "sanderling/compression.h"
#include "sanderling/head.h"

/* The keys of a round: of the order of examples, and of the rounding of int8 weights. */
typedef struct {
    sl_key order, rounding;
} sl_training_keys;

/* What is trained, as tables and three functions: a head by sl_head_learner's, a deeper tail by sl_tail_learner's. */
typedef struct {
    const void *tables;
    uint32_t dimension; /* of theta */
    uint32_t features;  /* bytes of a cached row */
    uint32_t classes;
    uint32_t (*scratch_bytes)(const void *tables, uint32_t batch_size, uint32_t count);
    sl_status (*train)(const void *tables, const sl_training *training, const sl_training_keys *keys,
                       const sl_examples *examples, const int16_t *start, int16_t *theta, void *scratch);
    void (*evaluate)(const void *tables, const int16_t *theta, const sl_examples *examples, void *scratch,
                     sl_evaluation *evaluation);
} sl_learner;

/* The learner of a head, whose tables are kept by reference. */
sl_learner sl_head_learner(const sl_head *head);

/* The seam of secure aggregation: writes the payload of a blinded update in the place of the update codec. */
typedef struct {
    void *context; /* handed to the function */
    sl_status (*write)(void *context, const sl_quantized_update *update, uint8_t *payload, uint32_t capacity,
                       uint32_t *size);
} sl_blinding;

/* What the round asks, of whom. */
typedef struct {
    const char *federation, *device;
    uint64_t seed;
    uint32_t round;
    sl_training training;
    sl_update_rule rule;
    const sl_blinding *blinding; /* NULL: the update codec's bytes */
} sl_task;

/* What top-k updates have left unsent, of the learner's dimension. It does not outlive its mask epoch. */
typedef struct {
    uint32_t mask_epoch;
    bool present; /* else there is none, and `vector` is room for one */
    int32_t *vector;
} sl_residual;

/* The figures of an update; those of the validation are of theta before training. */
typedef struct {
    uint32_t num_examples, training_loss_milli;
    uint32_t validation_correct, validation_count, validation_loss_milli;
} sl_training_report;

/* Bytes of scratch memory that sl_train takes on `count` training examples. */
uint32_t sl_train_scratch_bytes(const sl_learner *learner, const sl_task *task, uint32_t count);

/* Trains from theta and writes the payload, at most `capacity` bytes. With top-k updates (else both may be NULL) `residual`
   is what the last delivered report left, `left_over` becomes what this one leaves, once it is delivered; they may share
   their vector. `scratch` is aligned to 4.
   SL_NO_SPACE where scratch or payload are too small, SL_UNSUPPORTED for a task beyond this arithmetic, and what
   sl_head_train refuses. */
sl_status sl_train(const sl_learner *learner, const sl_task *task, const int16_t *theta, const sl_examples *examples,
                   const sl_examples *validation, const sl_residual *residual, sl_residual *left_over, void *scratch,
                   uint32_t scratch_bytes, uint8_t *payload, uint32_t capacity, uint32_t *size,
                   sl_training_report *report);

#endif
