#include "sanderling/agent.h"

#include <string.h>

#include "bytes.h"
#include "sanderling/self_test.h"

enum {
    REPORT_AREA = 0,
    MODEL_AREA = 2,
    RECORD_VERSION = 1,
    RETRY_MS = 500,
    RETRY_LIMIT_MS = 60000,
    READ_BYTES = 256,
    CODEC_VERSION = 1
};

static uint32_t now_ms(const sl_agent *agent)
{
    return agent->config->port->now_ms(agent->config->port->context);
}

static void tell(const sl_agent *agent, const char *line)
{
    if (agent->config->port->log != NULL) {
        agent->config->port->log(agent->config->port->context, line);
    }
}

static void refuse(sl_agent *agent, sl_status why)
{
    agent->refused++;
    tell(agent, sl_status_name(why));
}

/* ------------------------------------------------------------------------------------------------ questions */

static sl_question asked(const sl_plan *plan)
{
    sl_question question = {.phase = plan->phase, .round = plan->round};
    memcpy(question.run, plan->run, sizeof question.run);
    return question;
}

static bool same(const sl_question *a, const sl_question *b)
{
    return a->phase == b->phase && a->round == b->round && strcmp(a->run, b->run) == 0;
}

static uint32_t run_number(const sl_plan *plan)
{
    return sl_crc32(0, (const uint8_t *)plan->run, (uint32_t)strlen(plan->run));
}

/* The model that is needed next. */
static const sl_model_reference *wanted(const sl_agent *agent)
{
    const sl_plan *plan = &agent->plan;
    return plan->phase == SL_PHASE_FINISHED ? &plan->evaluate[agent->evaluated] : &plan->model;
}

/* ------------------------------------------------------------------------------------------------ what is kept

   The record of a report: version, phase, whether a residual comes with it, a byte unused, round, size of the message,
   mask epoch of the residual, run (80 bytes), message, residual as int32. Its mark says that it was delivered. */

static sl_status store_report(sl_agent *agent)
{
    const sl_agent_config *config = agent->config;
    const sl_residual *kept = config->left_over;
    bool with_residual = kept != NULL && kept->present;
    uint8_t head[SL_AGENT_RECORD_HEAD_BYTES] = {RECORD_VERSION, agent->answered.phase, with_residual};
    sl_put_u32(head + 4, agent->answered.round);
    sl_put_u32(head + 8, agent->report_size);
    sl_put_u32(head + 12, with_residual ? kept->mask_epoch : 0);
    memcpy(head + 16, agent->answered.run, sizeof agent->answered.run);
    sl_status status = sl_record_begin(&agent->record);
    if (status == SL_OK) {
        status = sl_record_append(&agent->record, head, sizeof head);
    }
    if (status == SL_OK) {
        status = sl_record_append(&agent->record, config->message, agent->report_size);
    }
    for (uint32_t i = 0; with_residual && status == SL_OK && i < agent->learner.dimension; i++) {
        uint8_t value[4];
        sl_put_u32(value, (uint32_t)kept->vector[i]);
        status = sl_record_append(&agent->record, value, sizeof value);
    }
    return status == SL_OK ? sl_record_commit(&agent->record) : status;
}

static sl_status restore_residual(sl_agent *agent, uint32_t mask_epoch)
{
    sl_residual *residual = agent->record.marked ? agent->config->residual : agent->config->left_over;
    if (residual == NULL) {
        return SL_OK;
    }
    for (uint32_t i = 0; i < agent->learner.dimension; i++) {
        uint8_t value[4];
        uint32_t offset = SL_AGENT_RECORD_HEAD_BYTES + agent->report_size + 4 * i;
        sl_status status = sl_record_read(&agent->record, offset, value, sizeof value);
        if (status != SL_OK) {
            return status;
        }
        residual->vector[i] = (int32_t)sl_get_u32(value);
    }
    residual->mask_epoch = mask_epoch;
    residual->present = true;
    return SL_OK;
}

/* A record of another version, or of firmware with other memory, is as if it had never been. */
static sl_status restore_report(sl_agent *agent)
{
    uint8_t head[SL_AGENT_RECORD_HEAD_BYTES];
    sl_status status = sl_record_open(&agent->record, agent->config->port, REPORT_AREA);
    if (status != SL_OK || agent->record.size < sizeof head) {
        return status;
    }
    status = sl_record_read(&agent->record, 0, head, sizeof head);
    uint32_t size = sl_get_u32(head + 8), left = agent->record.size - (uint32_t)sizeof head;
    if (status != SL_OK || head[0] != RECORD_VERSION || size > agent->config->message_bytes || size > left ||
        left - size != (head[2] != 0 ? 4 * agent->learner.dimension : 0)) {
        return status;
    }
    status = sl_record_read(&agent->record, sizeof head, agent->config->message, size);
    if (status == SL_OK) {
        agent->answered.phase = head[1];
        agent->answered.round = sl_get_u32(head + 4);
        memcpy(agent->answered.run, head + 16, sizeof agent->answered.run - 1);
        agent->report_size = size;
        agent->delivered = agent->record.marked;
        status = head[2] != 0 ? restore_residual(agent, sl_get_u32(head + 12)) : SL_OK;
    }
    return status;
}

/* ------------------------------------------------------------------------------------------------ status */

static sl_status encode_status(const sl_agent *agent, bool offline, uint8_t *message, uint32_t capacity, uint32_t *size)
{
    sl_device_status status = {
        .offline = offline || !agent->joins,
        .num_examples = agent->config->intake->train.held,
        .backend = "native",
        .software = agent->config->software,
        .detail = agent->problem == SL_OK ? "" : sl_status_name(agent->problem),
        .arithmetic_drift_lsb = -1,
        .receive_buffer_bytes = agent->config->chunk_bytes,
    };
    memcpy(status.boot, agent->boot, sizeof status.boot);
    return sl_device_status_encode(&status, message, capacity, size);
}

/* The will is encoded before each connection, so that it tells of the node as it is. */
static sl_status prepare_will(sl_agent *agent)
{
    return encode_status(agent, true, agent->will, sizeof agent->will, &agent->mqtt_settings.will_size);
}

static bool publish_status(sl_agent *agent)
{
    if (!agent->announce || agent->announcing || agent->reporting ||
        encode_status(agent, false, agent->status, sizeof agent->status, &agent->status_size) != SL_OK ||
        sl_mqtt_publish(&agent->mqtt, agent->topic_status, agent->status, agent->status_size, true) != SL_OK) {
        return false;
    }
    agent->announce = false;
    agent->announcing = true;
    return true;
}

static void abstain(sl_agent *agent, sl_status why)
{
    agent->abstained = asked(&agent->plan);
    agent->announce = agent->announce || agent->problem != why;
    agent->problem = why;
    agent->fetching = false;
    agent->finished = agent->plan.phase == SL_PHASE_FINISHED;
    refuse(agent, why);
}

/* ------------------------------------------------------------------------------------------------ plans */

static bool is_older(const sl_agent *agent, const sl_plan *plan)
{
    if (agent->planned) {
        return strcmp(plan->run, agent->plan.run) == 0 && plan->round < agent->plan.round;
    }
    return agent->report_size > 0 && strcmp(plan->run, agent->answered.run) == 0 && plan->round < agent->answered.round;
}

static void take_plan(sl_agent *agent, const sl_plan *plan)
{
    if (is_older(agent, plan)) {
        refuse(agent, SL_OLDER_ROUND);
        return;
    }
    sl_question question = asked(plan);
    if (!agent->planned || strcmp(plan->run, agent->plan.run) != 0 || plan->phase != agent->plan.phase) {
        agent->evaluated = 0;
    }
    agent->plan = *plan;
    agent->planned = true;
    agent->finished = false;
    agent->fetching = false;
    memset(&agent->abstained, 0, sizeof agent->abstained);
    if (agent->report_size > 0 && !agent->delivered && !same(&agent->answered, &question)) {
        /* The coordinator has closed that round: sent now, the report would only be refused. */
        if (!agent->reporting || sl_mqtt_withdraw(&agent->mqtt) == SL_OK) {
            agent->reporting = false;
            agent->report_size = 0;
        }
    }
}

static void read_plan(sl_agent *agent, const sl_mqtt_event *event)
{
    const sl_agent_config *config = agent->config;
    const sl_guard *guard = config->guard;
    sl_status status = SL_OK;
    if (event->offset == 0) {
        uint32_t head = guard == NULL ? 0 : SL_ANNOUNCEMENT_HEAD_BYTES;
        status = guard == NULL ? SL_OK : guard->begin(guard->context, SL_ANNOUNCED_PLAN, event->total);
        if (status == SL_OK) {
            uint32_t total = event->total > head ? event->total - head : 0;
            status = sl_plan_begin(&agent->reader, config->federation, config->device, total);
        }
        agent->reader.status = status;
    }
    const uint8_t *bytes = event->bytes;
    uint32_t size = event->size;
    if (guard != NULL && agent->reader.status == SL_OK) {
        agent->reader.status = guard->feed(guard->context, event->bytes, event->size, &bytes, &size);
    }
    sl_plan_feed(&agent->reader, bytes, size);
    if (!event->last) {
        return;
    }
    sl_plan plan;
    status = sl_plan_end(&agent->reader, &plan);
    if (status == SL_OK && guard != NULL) {
        status = guard->end(guard->context);
    }
    if (status == SL_OK) {
        take_plan(agent, &plan);
        return;
    }
    refuse(agent, status);
    if (status == SL_MALFORMED || status == SL_UNKNOWN_VERSION || status == SL_TOO_LARGE) {
        /* Nobody else sees that this device cannot read the plan. */
        agent->announce = agent->announce || agent->problem != status;
        agent->problem = status;
    }
}

/* ------------------------------------------------------------------------------------------------ models */

static sl_status read_coming(void *context, uint32_t offset, uint8_t *bytes, uint32_t size)
{
    return sl_model_store_read_coming(context, offset, bytes, size);
}

static bool at_hand(const sl_agent *agent, const sl_model_reference *reference)
{
    return agent->store.model.size > 0 && memcmp(agent->store.model.hash, reference->model_hash, SL_HASH_BYTES) == 0;
}

/* The pieces are there and the model is the announced one, or not. */
static void end_download(sl_agent *agent, sl_status status)
{
    if (status == SL_PENDING) {
        return;
    }
    if (status == SL_OK) {
        status = sl_model_store_commit(&agent->store);
        agent->fetching = false;
    } else if (status == SL_WRONG_MODEL) {
        refuse(agent, status);
        agent->fetching = false;
        status = sl_model_store_drop(&agent->store);
    }
    if (status != SL_OK) {
        abstain(agent, status);
    }
}

static sl_status begin_download(sl_agent *agent, const sl_model_reference *reference)
{
    /* What is only to be evaluated may be of any version, and is kept as if it were of a run of its own. */
    bool adopted = agent->plan.phase == SL_PHASE_ROUND;
    uint32_t run = adopted ? run_number(&agent->plan) : ~run_number(&agent->plan);
    uint32_t last = agent->store.model.size > 0 && agent->store.model.run == run && adopted ? agent->store.model.version : 0;
    uint32_t size = 2 * agent->learner.dimension;
    sl_status status = sl_download_begin(&agent->download, reference, agent->config->model->network_hash, size, last,
                                         agent->config->chunk, agent->config->chunk_bytes);
    if (status != SL_OK) {
        return status;
    }
    sl_stored_model model = {.version = adopted ? reference->version : 0,
                             .run = run,
                             .size = size,
                             .piece_bytes = sl_download_piece_bytes(agent->config->chunk_bytes)};
    memcpy(model.hash, reference->model_hash, sizeof model.hash);
    status = sl_model_store_begin(&agent->store, &model);
    if (status != SL_OK) {
        return status;
    }
    agent->fetching = true;
    if (agent->store.pieces > 0) {
        status = sl_download_resume(&agent->download, agent->store.pieces, read_coming, &agent->store);
        end_download(agent, status);
    }
    return SL_OK;
}

static void read_chunk(sl_agent *agent, const sl_mqtt_event *event)
{
    sl_status status = sl_download_feed(&agent->download, event->total, event->offset, event->bytes, event->size);
    if (status == SL_PENDING) {
        return;
    }
    if (status != SL_OK) {
        refuse(agent, status); /* the same chunk is still wanted: subscribing again brings it */
        agent->chunk_subscribed = false;
        return;
    }
    status = sl_model_store_append(&agent->store, agent->download.piece, agent->download.piece_size);
    if (status != SL_OK) {
        abstain(agent, status);
        return;
    }
    end_download(agent, sl_download_stored(&agent->download));
}

/* Subscribed to plans, and to the chunk that is next and no other. True when something was asked of the broker. */
static bool subscribe(sl_agent *agent)
{
    sl_mqtt *mqtt = &agent->mqtt;
    char topic[SL_TOPIC_BYTES];
    if (!agent->subscribed) {
        bool sent = sl_topic_plan(agent->config->federation, topic, sizeof topic) == SL_OK &&
                    sl_mqtt_subscribe(mqtt, topic, now_ms(agent)) == SL_OK;
        agent->subscribed = sent;
        return sent;
    }
    if (agent->fetching && sl_download_topic(&agent->download, agent->config->federation, topic, sizeof topic) != SL_OK) {
        return false;
    }
    bool changes = agent->topic_chunk[0] != 0 && (!agent->fetching || strcmp(topic, agent->topic_chunk) != 0);
    if (changes) {
        if (sl_mqtt_unsubscribe(mqtt, agent->topic_chunk, now_ms(agent)) != SL_OK) {
            return false;
        }
        agent->topic_chunk[0] = 0;
        return true;
    }
    if (!agent->fetching || (agent->topic_chunk[0] != 0 && agent->chunk_subscribed) ||
        sl_mqtt_subscribe(mqtt, topic, now_ms(agent)) != SL_OK) {
        return false;
    }
    memcpy(agent->topic_chunk, topic, sizeof topic);
    agent->chunk_subscribed = true;
    return true;
}

/* ------------------------------------------------------------------------------------------------ answers */

static sl_task task_of(const sl_agent *agent)
{
    const sl_plan *plan = &agent->plan;
    sl_task task = {.federation = agent->config->federation,
                    .device = agent->config->device,
                    .seed = plan->seed,
                    .round = plan->round,
                    .training = plan->training,
                    .rule = plan->update};
    return task;
}

/* Why this device cannot answer the plan; SL_OK where it can. */
static sl_status why_not(const sl_agent *agent)
{
    const sl_plan *plan = &agent->plan;
    if (memcmp(wanted(agent)->network_hash, agent->config->model->network_hash, SL_HASH_BYTES) != 0) {
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

/* The model at hand into `start`. */
static sl_status load_model(sl_agent *agent)
{
    uint8_t part[64];
    uint32_t size = 2 * agent->learner.dimension;
    for (uint32_t offset = 0; offset < size; offset += sizeof part) {
        uint32_t take = size - offset < sizeof part ? size - offset : (uint32_t)sizeof part;
        sl_status status = sl_model_store_read(&agent->store, offset, part, take);
        if (status != SL_OK) {
            return status;
        }
        for (uint32_t i = 0; i < take; i += 2) {
            agent->config->start[(offset + i) / 2] = (int16_t)(uint16_t)(part[i] | part[i + 1] << 8);
        }
    }
    return SL_OK;
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
    agent->answered = asked(&agent->plan);
    agent->report_size = size;
    agent->delivered = false;
    if (status == SL_OK) {
        status = store_report(agent);
    }
    if (status != SL_OK) {
        agent->report_size = 0;
    }
    return status;
}

static sl_status train(sl_agent *agent)
{
    const sl_agent_config *config = agent->config;
    const sl_plan *plan = &agent->plan;
    sl_task task = task_of(agent);
    sl_examples examples = sl_store_examples(&config->intake->train);
    sl_examples validation = sl_held_back_examples(&config->intake->validation);
    sl_training_report report;
    uint32_t begun = now_ms(agent), size = 0;
    sl_status status = load_model(agent);
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
                            .duration_ms = now_ms(agent) - begun};
        status = sl_update_encode(&update, config->message + SL_UPDATE_HEAD_BYTES, size, config->message,
                                  config->message_bytes, &size);
    }
    return status == SL_OK ? keep_report(agent, SL_SEAL_UPDATE, size) : status;
}

/* One model of a finished federation; after the last one the report. */
static sl_status evaluate(sl_agent *agent)
{
    const sl_agent_config *config = agent->config;
    sl_examples test = sl_held_back_examples(&config->intake->test);
    sl_status status = load_model(agent);
    if (status != SL_OK) {
        return status;
    }
    sl_evaluation done;
    agent->learner.evaluate(agent->learner.tables, config->start, &test, config->scratch, &done);
    sl_evaluation_result *result = &agent->results[agent->evaluated];
    memcpy(result->model_hash, wanted(agent)->model_hash, SL_HASH_BYTES);
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

/* Publishes the stored bytes, unless the broker has them or is about to. */
static bool send_report(sl_agent *agent)
{
    if (agent->delivered) {
        agent->finished = agent->plan.phase == SL_PHASE_FINISHED;
        return false;
    }
    const char *leaf = agent->answered.phase == SL_PHASE_FINISHED ? "evaluation" : "update";
    if (agent->reporting || agent->announcing ||
        sl_topic_device(agent->config->federation, agent->config->device, leaf, agent->topic_report,
                        sizeof agent->topic_report) != SL_OK ||
        sl_mqtt_publish(&agent->mqtt, agent->topic_report, agent->config->message, agent->report_size, false) != SL_OK) {
        return false;
    }
    agent->reporting = true;
    return true;
}

static void delivered(sl_agent *agent)
{
    if (agent->announcing) {
        agent->announcing = false;
        return;
    }
    agent->reporting = false;
    if (agent->report_size == 0) {
        return;
    }
    agent->delivered = true;
    if (sl_record_mark(&agent->record) != SL_OK) {
        tell(agent, "a delivered report could not be marked: after a restart it is sent again");
    }
    sl_residual *residual = agent->config->residual, *left_over = agent->config->left_over;
    if (residual != NULL && left_over->present) {
        residual->mask_epoch = left_over->mask_epoch;
        residual->present = true;
        memcpy(residual->vector, left_over->vector, agent->learner.dimension * sizeof *residual->vector);
        left_over->present = false;
    }
}

/* Does what the plan asks for next. True when something was done. */
static bool advance(sl_agent *agent)
{
    const sl_plan *plan = &agent->plan;
    sl_question question = asked(plan);
    if (!agent->planned || plan->phase == SL_PHASE_WAITING || same(&agent->abstained, &question) ||
        (plan->phase == SL_PHASE_ROUND && !plan->in_cohort)) {
        return false;
    }
    if (agent->report_size > 0 && same(&agent->answered, &question)) {
        return send_report(agent);
    }
    if (plan->phase == SL_PHASE_FINISHED && plan->evaluate_count == 0) {
        agent->finished = true;
        return false;
    }
    if (agent->fetching || agent->reporting) {
        return false;
    }
    sl_status status = why_not(agent);
    if (status == SL_OK) {
        if (!at_hand(agent, wanted(agent))) {
            status = begin_download(agent, wanted(agent));
        } else {
            status = plan->phase == SL_PHASE_ROUND ? train(agent) : evaluate(agent);
            agent->announce = agent->announce || (status == SL_OK && agent->problem != SL_OK);
            agent->problem = status == SL_OK ? SL_OK : agent->problem;
        }
    }
    if (status != SL_OK) {
        abstain(agent, status);
    }
    return true;
}

/* ------------------------------------------------------------------------------------------------ the link */

static void lose(sl_agent *agent)
{
    if (agent->open) {
        sl_mqtt_lost(&agent->mqtt);
        tell(agent, "not connected");
    }
    agent->open = false;
    agent->opening = false;
    agent->subscribed = false;
    agent->topic_chunk[0] = 0;
    agent->chunk_subscribed = false;
    uint32_t wait = RETRY_MS << (agent->failures < 7 ? agent->failures : 7);
    agent->retry_at = now_ms(agent) + (wait < RETRY_LIMIT_MS ? wait : RETRY_LIMIT_MS);
    agent->failures++;
}

static void connect_stream(sl_agent *agent)
{
    agent->opening = false;
    agent->open = prepare_will(agent) == SL_OK && sl_mqtt_connect(&agent->mqtt, now_ms(agent)) == SL_OK;
    if (!agent->open) {
        lose(agent);
    }
}

static void open_stream(sl_agent *agent)
{
    if (agent->open || agent->opening || (int32_t)(now_ms(agent) - agent->retry_at) < 0) {
        return;
    }
    if (!agent->config->framed) {
        connect_stream(agent);
        return;
    }
    uint8_t session[2];
    if (agent->config->port->random(agent->config->port->context, session, sizeof session) != SL_OK) {
        lose(agent);
        return;
    }
    sl_frame_open(&agent->frame, (uint16_t)(session[0] | session[1] << 8));
    agent->opening = true;
}

static void take_event(sl_agent *agent, const sl_mqtt_event *event)
{
    switch (event->kind) {
    case SL_MQTT_CONNECTED:
        tell(agent, "connected");
        agent->failures = 0;
        agent->announce = true;
        if (!event->session_present) {
            agent->delivered = false; /* what the broker took may never have been read */
        }
        break;
    case SL_MQTT_RECEIVED:
        if (event->total > 0) {
            if (agent->fetching && strcmp(event->topic, agent->topic_chunk) == 0) {
                read_chunk(agent, event);
            } else if (strstr(event->topic, "/plan") != NULL && agent->joins) {
                read_plan(agent, event);
            }
            /* Anything else was on its way when the node unsubscribed. */
        }
        if (event->last) {
            sl_mqtt_acknowledge(&agent->mqtt, event->receipt);
        }
        break;
    case SL_MQTT_REFUSED:
        refuse(agent, event->status);
        break;
    case SL_MQTT_DELIVERED:
        delivered(agent);
        break;
    case SL_MQTT_SUBSCRIBED:
        if (event->status != SL_OK) {
            refuse(agent, event->status);
        }
        break;
    default:
        break;
    }
}

static void send_stream(sl_agent *agent)
{
    const sl_port *port = agent->config->port;
    const uint8_t *bytes;
    uint32_t size;
    while (agent->open && (size = sl_mqtt_output(&agent->mqtt, &bytes)) > 0) {
        int32_t sent = agent->config->framed ? (int32_t)sl_frame_write(&agent->frame, bytes, size)
                                             : port->write(port->context, bytes, size);
        if (sent < 0) {
            lose(agent);
        }
        if (sent <= 0) {
            break;
        }
        sl_mqtt_sent(&agent->mqtt, (uint32_t)sent, now_ms(agent));
    }
    while (agent->config->framed && (size = sl_frame_output(&agent->frame, &bytes)) > 0) {
        int32_t sent = port->write(port->context, bytes, size);
        if (sent <= 0) {
            break;
        }
        sl_frame_sent(&agent->frame, (uint32_t)sent);
    }
}

static void feed_mqtt(sl_agent *agent, const uint8_t *bytes, uint32_t size)
{
    while (agent->open && size > 0) {
        sl_mqtt_event event;
        uint32_t used = 0;
        sl_status status = sl_mqtt_feed(&agent->mqtt, bytes, size, &used, &event);
        bytes += used;
        size -= used;
        if (status == SL_OK) {
            take_event(agent, &event);
        } else if (status == SL_NO_SPACE) {
            uint32_t before = agent->mqtt.queued;
            send_stream(agent);
            if (agent->mqtt.queued == before) {
                lose(agent); /* the line takes nothing: what was not acknowledged comes again */
            }
        } else if (status != SL_PENDING) {
            refuse(agent, status);
            lose(agent);
        }
    }
}

static void feed_frame(sl_agent *agent, const uint8_t *bytes, uint32_t size)
{
    while (size > 0) {
        sl_frame_event event;
        uint32_t used = 0;
        sl_status status = sl_frame_feed(&agent->frame, bytes, size, &used, &event);
        bytes += used;
        size -= used;
        if (status != SL_OK) {
            return;
        }
        switch (event.kind) {
        case SL_FRAME_OPENED:
            connect_stream(agent);
            break;
        case SL_FRAME_DATA:
            feed_mqtt(agent, event.bytes, event.size);
            break;
        case SL_FRAME_CLOSED:
            lose(agent);
            break;
        default:
            break;
        }
    }
}

/* True when a byte came. */
static bool receive(sl_agent *agent)
{
    const sl_port *port = agent->config->port;
    uint8_t bytes[READ_BYTES];
    int32_t size = port->read(port->context, bytes, sizeof bytes);
    if (size < 0) {
        lose(agent);
    } else if (agent->config->framed) {
        feed_frame(agent, bytes, (uint32_t)size);
    } else {
        feed_mqtt(agent, bytes, (uint32_t)size);
    }
    return size > 0;
}

static bool move_bytes(sl_agent *agent)
{
    if (agent->config->framed) {
        sl_frame_tick(&agent->frame, now_ms(agent));
    }
    open_stream(agent);
    bool moved = receive(agent);
    if (agent->open && sl_mqtt_tick(&agent->mqtt, now_ms(agent)) != SL_OK) {
        refuse(agent, SL_TIMEOUT);
        lose(agent);
    }
    send_stream(agent);
    return moved;
}

/* ------------------------------------------------------------------------------------------------ the node */

static sl_status check(const sl_agent_config *config)
{
    uint32_t classes = config->model->head->classes;
    if (!sl_is_name(config->federation) || !sl_is_name(config->device) || classes == 0) {
        return SL_MALFORMED;
    }
    bool roomy = config->message_bytes > SL_UPDATE_HEAD_BYTES + 16 && config->chunk_bytes >= SL_MIN_CHUNK_BYTES &&
                 config->scratch_bytes >= sl_self_test_scratch_bytes(config->model);
    return roomy ? SL_OK : SL_NO_SPACE;
}

static void name_client(sl_agent *agent)
{
    const char *parts[] = {agent->config->federation, "-device-", agent->config->device};
    char *at = agent->client_id;
    for (uint32_t i = 0; i < 3; i++) {
        size_t size = strlen(parts[i]);
        memcpy(at, parts[i], size);
        at += size;
    }
    *at = 0;
}

static void prepare_mqtt(sl_agent *agent)
{
    const sl_agent_config *config = agent->config;
    name_client(agent);
    agent->mqtt_settings = (sl_mqtt_settings){.client_id = agent->client_id,
                                              .will_topic = agent->topic_status,
                                              .will = agent->will,
                                              .keep_alive_s = config->keep_alive_s,
                                              .max_payload_bytes = SL_MAX_PLAN_BYTES};
    sl_mqtt_begin(&agent->mqtt, &agent->mqtt_settings, config->queue, config->queue_bytes);
    sl_frame_begin(&agent->frame);
}

sl_status sl_agent_start(sl_agent *agent, const sl_agent_config *config)
{
    sl_status status = check(config);
    if (status != SL_OK) {
        return status;
    }
    memset(agent, 0, sizeof *agent);
    agent->config = config;
    agent->learner = sl_head_learner(config->model->head);
    status = config->port->random(config->port->context, agent->boot, sizeof agent->boot);
    if (status == SL_OK) {
        status = sl_topic_device(config->federation, config->device, "status", agent->topic_status, SL_TOPIC_BYTES);
    }
    if (status == SL_OK) {
        status = restore_report(agent);
    }
    if (status == SL_OK) {
        status = sl_model_store_open(&agent->store, config->port, MODEL_AREA);
    }
    if (status != SL_OK) {
        return status;
    }
    status = sl_self_test(config->model, config->intake->arena, config->start, config->scratch, config->scratch_bytes);
    agent->joins = status == SL_OK;
    if (!agent->joins) {
        agent->problem = status;
        refuse(agent, status);
    }
    agent->retry_at = now_ms(agent);
    prepare_mqtt(agent);
    return SL_OK;
}

sl_status sl_agent_poll(sl_agent *agent)
{
    bool busy = move_bytes(agent);
    uint32_t held = agent->config->intake->train.held;
    if (sl_intake_take(agent->config->intake, agent->config->port) != SL_PENDING) {
        busy = true;
        /* The coordinator learns when there is something to train on. */
        agent->announce = agent->announce || (held == 0 && agent->config->intake->train.held > 0);
    }
    if (!busy && sl_mqtt_connected(&agent->mqtt)) {
        busy = subscribe(agent);
        busy = publish_status(agent) || busy;
        busy = (agent->joins && advance(agent)) || busy;
        send_stream(agent);
    }
    return busy ? SL_OK : SL_PENDING;
}
