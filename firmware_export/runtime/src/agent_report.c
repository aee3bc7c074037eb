/* The node's last report in storage, so that the same bytes are sent after a loss of power.

   The record of a report: version, phase, whether a residual comes with it, a byte unused, round, size of the message,
   mask epoch of the residual, run (80 bytes), message, residual as int32. Its mark says that it was delivered. */
#include <string.h>

#include "agent_parts.h"
#include "bytes.h"

enum { REPORT_AREA = 0, RECORD_VERSION = 1 };

sl_status sl_agent_store_report(sl_agent *agent)
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
sl_status sl_agent_restore_report(sl_agent *agent)
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
