/* What a plan asks for: a round of training, or an evaluation; its report is stored before it is sent. */
#include <string.h>

#include "agent_parts.h"

enum { CODEC_VERSION = 1 };

static sl_task task_of(const sl_agent *agent)
{
    const sl_plan *plan = &agent->plan;
    sl_task task = {.federation = agent->config->federation,
                    .device = agent->config->device,
                    .seed = plan->seed,
                    .round = plan->round,
                    .training = plan->training,
                    .rule = plan->update,
                    .blinding = agent->config->blinding};
    return task;
}

/* Why this device cannot answer the plan; SL_OK where it can. */
sl_status sl_agent_why_not(const sl_agent *agent)
{
    const sl_plan *plan = &agent->plan;
    if (memcmp(sl_agent_wanted(agent)->network_hash, agent->config->model->network_hash, SL_HASH_BYTES) != 0) {
        return SL_WRONG_NETWORK;
    }
    if (plan->phase == SL_PHASE_FINISHED) {
        return SL_OK;
    }
    if (agent->config->intake->train.held == 0) {
        return SL_NO_EXAMPLES;
    }
    bool served = plan->training.batch_size <= SL_MAX_BATCH_SIZE && plan->update.coordinates >= 1 &&
                  plan->update.coordinates <= agent->learner.dimension &&
                  (plan->update.mode == SL_MODE_MASK || agent->config->residual != NULL);
    sl_task task = task_of(agent);
    if (!served) {
        return SL_UNSUPPORTED;
    }
    uint32_t needed = sl_train_scratch_bytes(&agent->learner, &task, agent->config->intake->train.held);
    return needed <= agent->config->scratch_bytes ? SL_OK : SL_NO_SPACE;
}

/* Seals what lies in `message`, where there is a guard, and stores it: from here on the same bytes are sent. */
static sl_status keep_report(sl_agent *agent, uint8_t kind, uint32_t size)
{
    const sl_agent_config *config = agent->config;
    sl_status status = SL_OK;
    if (config->guard != NULL) {
        sl_subject subject = {
            .model_hash = agent->plan.model.model_hash, .round = agent->plan.round, .kind = kind, .codec = CODEC_VERSION};
        status = config->guard->seal(config->guard->context, agent->plan.run, agent->plan.update.mask_epoch, &subject,
                                     config->message, size, config->message, config->message_bytes, &size);
    }
    agent->answered = sl_agent_asked(&agent->plan);
    agent->report_size = size;
    agent->delivered = false;
    if (status == SL_OK) {
        status = sl_agent_store_report(agent);
    }
    if (status != SL_OK) {
        agent->report_size = 0;
    }
    return status;
}

sl_status sl_agent_train(sl_agent *agent)
{
    const sl_agent_config *config = agent->config;
    const sl_plan *plan = &agent->plan;
    sl_task task = task_of(agent);
    sl_examples examples = sl_store_examples(&config->intake->train);
    sl_examples validation = sl_held_back_examples(&config->intake->validation);
    sl_training_report report;
    uint32_t begun = sl_agent_now_ms(agent), size = 0;
    sl_status status = sl_agent_load_model(agent);
    if (status == SL_OK) {
        status = sl_train(&agent->learner, &task, config->start, &examples, &validation, config->residual,
                          config->left_over, config->scratch, config->scratch_bytes,
                          config->message + SL_UPDATE_HEAD_BYTES, config->message_bytes - SL_UPDATE_HEAD_BYTES, &size,
                          &report);
    }
    if (status == SL_OK) {
        sl_update update = {.run = plan->run,
                            .model_hash = plan->model.model_hash,
                            .round = plan->round,
                            .num_examples = report.num_examples,
                            .training_loss_milli = report.training_loss_milli,
                            .validation_correct = report.validation_correct,
                            .validation_count = report.validation_count,
                            .validation_loss_milli = report.validation_loss_milli,
                            .duration_ms = sl_agent_now_ms(agent) - begun};
        status = sl_update_encode(&update, config->message + SL_UPDATE_HEAD_BYTES, size, config->message,
                                  config->message_bytes, &size);
    }
    return status == SL_OK ? keep_report(agent, SL_SEAL_UPDATE, size) : status;
}

/* One model of a finished federation; after the last one the report. */
sl_status sl_agent_evaluate(sl_agent *agent)
{
    const sl_agent_config *config = agent->config;
    sl_examples test = sl_held_back_examples(&config->intake->test);
    sl_status status = sl_agent_load_model(agent);
    if (status != SL_OK) {
        return status;
    }
    sl_evaluation done;
    agent->learner.evaluate(agent->learner.tables, config->start, &test, config->scratch, &done);
    sl_evaluation_result *result = &agent->results[agent->evaluated];
    memcpy(result->model_hash, sl_agent_wanted(agent)->model_hash, SL_HASH_BYTES);
    result->correct = done.correct;
    result->examples = done.count;
    result->loss_milli = done.loss_milli;
    agent->evaluated++;
    if (agent->evaluated < agent->plan.evaluate_count) {
        return SL_OK;
    }
    agent->evaluated = 0;
    uint32_t size;
    status = sl_evaluation_encode(agent->plan.run, agent->results, agent->plan.evaluate_count, config->message,
                                  config->message_bytes, &size);
    return status == SL_OK ? keep_report(agent, SL_SEAL_EVALUATION, size) : status;
}
