/* What the parts of the node's agent ask of each other: agent.c decides, the others do. */
#ifndef SANDERLING_AGENT_PARTS_H
#define SANDERLING_AGENT_PARTS_H

#include "sanderling/agent.h"

/* agent_state.c */

uint32_t sl_agent_now_ms(const sl_agent *agent);

/* A line for people. */
void sl_agent_tell(const sl_agent *agent, const char *line);

/* A message was refused: counted, and its reason told. */
void sl_agent_refuse(sl_agent *agent, sl_status why);

sl_status sl_agent_encode_status(const sl_agent *agent, bool offline, uint8_t *message, uint32_t capacity, uint32_t *size);

/* What the plan asks, and the model that is needed for it next. */
sl_question sl_agent_asked(const sl_plan *plan);
const sl_model_reference *sl_agent_wanted(const sl_agent *agent);

/* The plan is not answered; the status says why. */
void sl_agent_abstain(sl_agent *agent, sl_status why);

/* agent_model.c */

bool sl_agent_at_hand(const sl_agent *agent, const sl_model_reference *reference);
sl_status sl_agent_begin_download(sl_agent *agent, const sl_model_reference *reference);
void sl_agent_read_chunk(sl_agent *agent, const sl_mqtt_event *event);

/* Subscribed to plans, and to the chunk that is next and no other. True when something was asked of the broker. */
bool sl_agent_subscribe(sl_agent *agent);

/* The model at hand into the agent's `start`. */
sl_status sl_agent_load_model(sl_agent *agent);

/* agent_work.c */

/* Why this device cannot answer the plan; SL_OK where it can. */
sl_status sl_agent_why_not(const sl_agent *agent);

/* Both leave a report stored, or what they return makes the node abstain. An evaluation is one model a call. */
sl_status sl_agent_train(sl_agent *agent);
sl_status sl_agent_evaluate(sl_agent *agent);

/* agent_report.c */

/* The report in the agent's message becomes durable. */
sl_status sl_agent_store_report(sl_agent *agent);

/* What was durable, and can be used by this firmware, is there again. */
sl_status sl_agent_restore_report(sl_agent *agent);

/* agent_link.c */

/* Takes what has come, keeps the connection, sends what is due. True when a byte came. */
bool sl_agent_move_bytes(sl_agent *agent);

/* Sends what is due, as far as the line takes it. */
void sl_agent_send(sl_agent *agent);

/* agent.c */

/* Something came over the connection, or became of it. */
void sl_agent_take_event(sl_agent *agent, const sl_mqtt_event *event);

#endif
