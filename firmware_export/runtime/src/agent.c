/* What the node does about plans, models and reports: docs/wire.md; edge_runtime/agent.py. */
#include <string.h>

#include "agent_parts.h"
#include "sanderling/self_test.h"

enum { MODEL_AREA = 2 };

static bool same(const sl_question *a, const sl_question *b)
{
    return a->phase == b->phase && a->round == b->round && strcmp(a->run, b->run) == 0;
}

/* ------------------------------------------------------------------------------------------------ status */

static bool publish_status(sl_agent *agent)
{
    if (!agent->announce || agent->announcing || agent->reporting ||
        sl_agent_encode_status(agent, false, agent->status, sizeof agent->status, &agent->status_size) != SL_OK ||
        sl_topic_device(agent->config->federation, agent->config->device, "status", agent->topic_out,
                        sizeof agent->topic_out) != SL_OK ||
        sl_mqtt_publish(&agent->mqtt, agent->topic_out, agent->status, agent->status_size, true) != SL_OK) {
        return false;
    }
    agent->announce = false;
    agent->announcing = true;
    return true;
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
        sl_agent_refuse(agent, SL_OLDER_ROUND);
        return;
    }
    sl_question question = sl_agent_asked(plan);
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
    sl_agent_refuse(agent, status);
    if (status == SL_MALFORMED || status == SL_UNKNOWN_VERSION || status == SL_TOO_LARGE) {
        /* Nobody else sees that this device cannot read the plan. */
        agent->announce = agent->announce || agent->problem != status;
        agent->problem = status;
    }
}

/* ------------------------------------------------------------------------------------------------ answers */

/* Publishes the stored bytes, unless the broker has them or is about to. */
static bool send_report(sl_agent *agent)
{
    if (agent->delivered) {
        agent->finished = agent->plan.phase == SL_PHASE_FINISHED;
        return false;
    }
    const char *leaf = agent->answered.phase == SL_PHASE_FINISHED ? "evaluation" : "update";
    if (agent->reporting || agent->announcing ||
        sl_topic_device(agent->config->federation, agent->config->device, leaf, agent->topic_out,
                        sizeof agent->topic_out) != SL_OK ||
        sl_mqtt_publish(&agent->mqtt, agent->topic_out, agent->config->message, agent->report_size, false) != SL_OK) {
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
        sl_agent_tell(agent, "a delivered report could not be marked: after a restart it is sent again");
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
    sl_question question = sl_agent_asked(plan);
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
    sl_status status = sl_agent_why_not(agent);
    if (status == SL_OK) {
        if (!sl_agent_at_hand(agent, sl_agent_wanted(agent))) {
            status = sl_agent_begin_download(agent, sl_agent_wanted(agent));
        } else {
            status = plan->phase == SL_PHASE_ROUND ? sl_agent_train(agent) : sl_agent_evaluate(agent);
            agent->announce = agent->announce || (status == SL_OK && agent->problem != SL_OK);
            agent->problem = status == SL_OK ? SL_OK : agent->problem;
        }
    }
    if (status != SL_OK) {
        sl_agent_abstain(agent, status);
    }
    return true;
}

/* ------------------------------------------------------------------------------------------------ events */

void sl_agent_take_event(sl_agent *agent, const sl_mqtt_event *event)
{
    switch (event->kind) {
    case SL_MQTT_CONNECTED:
        sl_agent_tell(agent, "connected");
        agent->failures = 0;
        agent->announce = true;
        if (!event->session_present) {
            agent->delivered = false; /* what the broker took may never have been read */
        }
        break;
    case SL_MQTT_RECEIVED:
        if (event->total > 0) {
            if (agent->fetching && strcmp(event->topic, agent->topic_chunk) == 0) {
                sl_agent_read_chunk(agent, event);
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
        sl_agent_refuse(agent, event->status);
        break;
    case SL_MQTT_DELIVERED:
        delivered(agent);
        break;
    case SL_MQTT_SUBSCRIBED:
        if (event->status != SL_OK) {
            sl_agent_refuse(agent, event->status);
        }
        break;
    default:
        break;
    }
}

/* ------------------------------------------------------------------------------------------------ the node */

static sl_status check(const sl_agent_config *config)
{
    uint32_t classes = config->model->head->classes;
    if (!sl_is_name(config->federation) || !sl_is_name(config->device) || classes == 0) {
        return SL_MALFORMED;
    }
    if (config->intake->train.held > 0) {
        return SL_OUT_OF_ORDER;
    }
    bool roomy = config->intake->train.capacity >= SL_SELF_TEST_EXAMPLES && config->message_bytes > SL_UPDATE_HEAD_BYTES + 16 && config->chunk_bytes >= SL_MIN_CHUNK_BYTES &&
                 config->scratch_bytes >= sl_self_test_scratch_bytes(config->model);
    return roomy ? SL_OK : SL_NO_SPACE;
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
        status = sl_agent_restore_report(agent);
    }
    if (status == SL_OK) {
        status = sl_model_store_open(&agent->store, config->port, MODEL_AREA);
    }
    if (status != SL_OK) {
        return status;
    }
    sl_self_test_memory memory = {config->intake->arena, config->intake->train.rows, config->start, config->scratch,
                                  config->scratch_bytes};
    status = sl_self_test(config->model, &memory);
    agent->joins = status == SL_OK;
    if (!agent->joins) {
        agent->problem = status;
        sl_agent_refuse(agent, status);
    }
    agent->retry_at = sl_agent_now_ms(agent);
    agent->mqtt_settings = (sl_mqtt_settings){.keep_alive_s = config->keep_alive_s, .max_payload_bytes = SL_MAX_PLAN_BYTES};
    sl_mqtt_begin(&agent->mqtt, &agent->mqtt_settings, config->queue, config->queue_bytes);
    sl_frame_begin(&agent->frame);
    return SL_OK;
}

sl_status sl_agent_poll(sl_agent *agent)
{
    bool busy = sl_agent_move_bytes(agent);
    uint32_t held = agent->config->intake->train.held;
    if (sl_intake_take(agent->config->intake, agent->config->port) != SL_PENDING) {
        busy = true;
        /* The coordinator learns when there is something to train on. */
        agent->announce = agent->announce || (held == 0 && agent->config->intake->train.held > 0);
    }
    if (!busy && sl_mqtt_connected(&agent->mqtt)) {
        busy = sl_agent_subscribe(agent);
        busy = publish_status(agent) || busy;
        busy = (agent->joins && advance(agent)) || busy;
        sl_agent_send(agent);
    }
    return busy ? SL_OK : SL_PENDING;
}
