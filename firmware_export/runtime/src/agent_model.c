/* The model that a plan names: fetched in chunks, stored, loaded. docs/wire.md, "Model chunk". */
#include <string.h>

#include "agent_parts.h"

static uint32_t run_number(const sl_plan *plan)
{
    return sl_crc32(0, (const uint8_t *)plan->run, (uint32_t)strlen(plan->run));
}

static sl_status read_coming(void *context, uint32_t offset, uint8_t *bytes, uint32_t size)
{
    return sl_model_store_read_coming(context, offset, bytes, size);
}

bool sl_agent_at_hand(const sl_agent *agent, const sl_model_reference *reference)
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
        sl_agent_refuse(agent, status);
        agent->fetching = false;
        status = sl_model_store_drop(&agent->store);
    }
    if (status != SL_OK) {
        sl_agent_abstain(agent, status);
    }
}

sl_status sl_agent_begin_download(sl_agent *agent, const sl_model_reference *reference)
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

void sl_agent_read_chunk(sl_agent *agent, const sl_mqtt_event *event)
{
    sl_status status = sl_download_feed(&agent->download, event->total, event->offset, event->bytes, event->size);
    if (status == SL_PENDING) {
        return;
    }
    if (status != SL_OK) {
        sl_agent_refuse(agent, status); /* the same chunk is still wanted: subscribing again brings it */
        agent->chunk_subscribed = false;
        return;
    }
    status = sl_model_store_append(&agent->store, agent->download.piece, agent->download.piece_size);
    if (status != SL_OK) {
        sl_agent_abstain(agent, status);
        return;
    }
    end_download(agent, sl_download_stored(&agent->download));
}

/* Subscribed to plans, and to the chunk that is next and no other. True when something was asked of the broker. */
bool sl_agent_subscribe(sl_agent *agent)
{
    sl_mqtt *mqtt = &agent->mqtt;
    char topic[SL_TOPIC_BYTES];
    if (!agent->subscribed) {
        bool sent = sl_topic_plan(agent->config->federation, topic, sizeof topic) == SL_OK &&
                    sl_mqtt_subscribe(mqtt, topic, sl_agent_now_ms(agent)) == SL_OK;
        agent->subscribed = sent;
        return sent;
    }
    if (agent->fetching && sl_download_topic(&agent->download, agent->config->federation, topic, sizeof topic) != SL_OK) {
        return false;
    }
    bool changes = agent->topic_chunk[0] != 0 && (!agent->fetching || strcmp(topic, agent->topic_chunk) != 0);
    if (changes) {
        if (sl_mqtt_unsubscribe(mqtt, agent->topic_chunk, sl_agent_now_ms(agent)) != SL_OK) {
            return false;
        }
        agent->topic_chunk[0] = 0;
        return true;
    }
    if (!agent->fetching || (agent->topic_chunk[0] != 0 && agent->chunk_subscribed) ||
        sl_mqtt_subscribe(mqtt, topic, sl_agent_now_ms(agent)) != SL_OK) {
        return false;
    }
    memcpy(agent->topic_chunk, topic, sizeof topic);
    agent->chunk_subscribed = true;
    return true;
}

/* The model at hand into `start`. */
sl_status sl_agent_load_model(sl_agent *agent)
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
