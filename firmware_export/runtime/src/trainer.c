#include "sanderling/trainer.h"

#include "sanderling/codec.h"

enum { TOP_K = 1, MAX_SCALE_SHIFT = 16, RESIDUAL_NORMS = 4 };

/* --- the head as a learner --- */

static uint32_t head_scratch_bytes(const void *tables, uint32_t batch_size, uint32_t count)
{
    return sl_head_scratch_bytes(tables, batch_size, count);
}

static sl_status train_head(const void *tables, const sl_training *training, const sl_training_keys *keys,
                            const sl_examples *examples, const int16_t *start, int16_t *theta, void *scratch)
{
    return sl_head_train(tables, training, keys->order, examples, start, theta, scratch);
}

static void evaluate_head(const void *tables, const int16_t *theta, const sl_examples *examples, void *scratch,
                          sl_evaluation *evaluation)
{
    sl_head_evaluate(tables, theta, examples, scratch, evaluation);
}

sl_learner sl_head_learner(const sl_head *head)
{
    return (sl_learner){.tables = head,
                        .dimension = sl_head_dimension(head),
                        .features = head->features,
                        .classes = head->classes,
                        .scratch_bytes = head_scratch_bytes,
                        .train = train_head,
                        .evaluate = evaluate_head};
}

/* --- a round --- */

static sl_key key_of(const sl_task *task, const char *purpose)
{
    sl_key_builder builder;
    sl_key_begin(&builder, purpose);
    sl_key_text(&builder, task->federation);
    sl_key_integer(&builder, task->seed);
    sl_key_integer(&builder, task->round);
    sl_key_text(&builder, task->device);
    return sl_key_end(&builder);
}

static uint32_t coordinates_of(const sl_task *task, uint32_t dimension)
{
    return task->rule.coordinates < dimension ? task->rule.coordinates : dimension;
}

static uint32_t theta_bytes(const sl_learner *learner)
{
    return 2 * (learner->dimension + (learner->dimension & 1));
}

uint32_t sl_train_scratch_bytes(const sl_learner *learner, const sl_task *task, uint32_t count)
{
    const uint32_t training = learner->scratch_bytes(learner->tables, task->training.batch_size, count);
    const uint32_t entry = task->rule.mode == TOP_K ? sizeof(int32_t) + sizeof(uint32_t) : sizeof(int32_t);
    const uint32_t sending = entry * coordinates_of(task, learner->dimension);
    return theta_bytes(learner) + (training > sending ? training : sending);
}

static bool is_supported(const sl_task *task, uint32_t dimension)
{
    const sl_update_rule *rule = &task->rule;
    if (rule->mode > TOP_K || rule->scale_shift > MAX_SCALE_SHIFT || task->training.batch_size < 1 ||
        task->training.batch_size > SL_MAX_BATCH_SIZE) {
        return false;
    }
    return rule->mode == TOP_K || (rule->coordinates >= 1 && rule->coordinates <= dimension);
}

/* Four clipping norms, or where there is none as many norms of this round's change. */
static uint32_t residual_norm(const sl_task *task, uint64_t squared_change)
{
    uint64_t norm = task->rule.clipping_norm;
    if (norm == 0) {
        norm = (uint64_t)sl_square_root(squared_change) + 1;
    }
    norm *= RESIDUAL_NORMS;
    return norm < UINT32_MAX ? (uint32_t)norm : UINT32_MAX;
}

/* The change of the chosen coordinates, quantised: into `values`, which then holds int8. */
static void compress(const sl_task *task, int32_t *values, uint32_t count)
{
    int8_t *bytes = (int8_t *)values;
    sl_clip(values, count, task->rule.clipping_norm);
    sl_quantize(values, count, &task->rule, key_of(task, "quantize"));
    for (uint32_t i = 0; i < count; i++) {
        bytes[i] = (int8_t)values[i];
    }
}

/* Under a mask the change is needed at the round's coordinates only. */
static void send_masked(const sl_task *task, const int16_t *theta, const int16_t *trained, int32_t *values,
                        sl_quantized_update *update)
{
    sl_choice choice;
    sl_choose_mask(&choice, task->federation, task->rule.mask_epoch, update->dimension, update->count);
    for (uint32_t i = 0; i < update->count; i++) {
        const uint32_t at = sl_next_coordinate(&choice);
        values[i] = trained[at] - theta[at];
    }
    compress(task, values, update->count);
}

static void send_largest(const sl_task *task, const int16_t *theta, const int16_t *trained, const sl_residual *residual,
                         sl_residual *left_over, int32_t *values, sl_quantized_update *update)
{
    const uint32_t dimension = update->dimension, count = update->count;
    const bool fed_back = residual != NULL && residual->present && residual->mask_epoch == task->rule.mask_epoch;
    const int32_t *kept = fed_back ? residual->vector : NULL;
    int32_t *wanted = left_over->vector;
    uint64_t squared = 0;
    for (uint32_t i = 0; i < dimension; i++) {
        const int32_t change = trained[i] - theta[i];
        squared += (uint64_t)((int64_t)change * change);
        wanted[i] = change + (kept != NULL ? kept[i] : 0);
    }
    sl_choice choice;
    sl_choose_top_k(&choice, wanted, dimension, count);
    for (uint32_t i = 0; i < count; i++) {
        update->coordinates[i] = sl_next_coordinate(&choice);
        values[i] = wanted[update->coordinates[i]];
    }
    compress(task, values, count);
    for (uint32_t i = 0; i < count; i++) {
        wanted[update->coordinates[i]] -= update->values[i] * (1 << task->rule.scale_shift);
    }
    sl_clip(wanted, dimension, residual_norm(task, squared));
    left_over->mask_epoch = task->rule.mask_epoch;
    left_over->present = true;
}

sl_status sl_train(const sl_learner *learner, const sl_task *task, const int16_t *theta, const sl_examples *examples,
                   const sl_examples *validation, const sl_residual *residual, sl_residual *left_over, void *scratch,
                   uint32_t scratch_bytes, uint8_t *payload, uint32_t capacity, uint32_t *size,
                   sl_training_report *report)
{
    const uint32_t dimension = learner->dimension;
    if (!is_supported(task, dimension) || (task->rule.mode == TOP_K && left_over == NULL)) {
        return SL_UNSUPPORTED;
    }
    if (scratch_bytes < sl_train_scratch_bytes(learner, task, examples->count)) {
        return SL_NO_SPACE;
    }
    if (!sl_labels_below(examples, learner->classes) || !sl_labels_below(validation, learner->classes)) {
        return SL_BAD_SAMPLE;
    }
    int16_t *trained = scratch;
    void *work = (uint8_t *)scratch + theta_bytes(learner);
    const sl_training_keys keys = {key_of(task, "train"), key_of(task, "round")};
    sl_evaluation before, after;
    learner->evaluate(learner->tables, theta, validation, work, &before);
    sl_status status = learner->train(learner->tables, &task->training, &keys, examples, theta, trained, work);
    if (status != SL_OK) {
        return status;
    }
    learner->evaluate(learner->tables, trained, examples, work, &after);
    *report = (sl_training_report){examples->count, after.loss_milli, before.correct, before.count, before.loss_milli};

    const uint32_t count = coordinates_of(task, dimension);
    int32_t *values = work;
    sl_quantized_update update = {.dimension = dimension,
                                  .count = count,
                                  .values = (int8_t *)values,
                                  .scale_shift = task->rule.scale_shift};
    if (task->rule.mode == TOP_K) {
        update.coordinates = (uint32_t *)values + count;
        send_largest(task, theta, trained, residual, left_over, values, &update);
    } else {
        send_masked(task, theta, trained, values, &update);
    }
    if (task->blinding != NULL) {
        return task->blinding->write(task->blinding->context, &update, payload, capacity, size);
    }
    return sl_codec_encode(&update, payload, capacity, size);
}
