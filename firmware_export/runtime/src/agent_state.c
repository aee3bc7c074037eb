/* What all parts of the node's agent know: its clock and log, what is asked of it, why it abstains. */
#include <string.h>

#include "agent_parts.h"

uint32_t sl_agent_now_ms(const sl_agent *agent)
{
    return agent->config->port->now_ms(agent->config->port->context);
}

void sl_agent_tell(const sl_agent *agent, const char *line)
{
    if (agent->config->port->log != NULL) {
        agent->config->port->log(agent->config->port->context, line);
    }
}

void sl_agent_refuse(sl_agent *agent, sl_status why)
{
    agent->refused++;
    sl_agent_tell(agent, sl_status_name(why));
}

sl_question sl_agent_asked(const sl_plan *plan)
{
    sl_question question = {.phase = plan->phase, .round = plan->round};
    memcpy(question.run, plan->run, sizeof question.run);
    return question;
}

const sl_model_reference *sl_agent_wanted(const sl_agent *agent)
{
    const sl_plan *plan = &agent->plan;
    return plan->phase == SL_PHASE_FINISHED ? &plan->evaluate[agent->evaluated] : &plan->model;
}

sl_status sl_agent_encode_status(const sl_agent *agent, bool offline, uint8_t *message, uint32_t capacity, uint32_t *size)
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

void sl_agent_abstain(sl_agent *agent, sl_status why)
{
    agent->abstained = sl_agent_asked(&agent->plan);
    agent->announce = agent->announce || agent->problem != why;
    agent->problem = why;
    agent->fetching = false;
    agent->finished = agent->plan.phase == SL_PHASE_FINISHED;
    sl_agent_refuse(agent, why);
}
