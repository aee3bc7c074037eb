/* The node's link: a byte stream that is opened, kept and opened again, and MQTT over it. */
#include <string.h>

#include "agent_parts.h"

enum { RETRY_MS = 500, RETRY_LIMIT_MS = 60000, READ_BYTES = 256, WILL_BYTES = 192 };

static void lose(sl_agent *agent)
{
    if (agent->open) {
        sl_mqtt_lost(&agent->mqtt);
        sl_agent_tell(agent, "not connected");
    }
    agent->open = false;
    agent->opening = false;
    agent->subscribed = false;
    agent->topic_chunk[0] = 0;
    agent->chunk_subscribed = false;
    uint32_t wait = RETRY_MS << (agent->failures < 7 ? agent->failures : 7);
    agent->retry_at = sl_agent_now_ms(agent) + (wait < RETRY_LIMIT_MS ? wait : RETRY_LIMIT_MS);
    agent->failures++;
}

/* "<federation>-device-<device>", as every device calls itself. */
static void name_client(const sl_agent *agent, char *name)
{
    const char *parts[] = {agent->config->federation, "-device-", agent->config->device};
    for (uint32_t i = 0; i < 3; i++) {
        size_t size = strlen(parts[i]);
        memcpy(name, parts[i], size);
        name += size;
    }
    *name = 0;
}

/* The stream is there: CONNECT, which is copied, with a will that tells of the node as it is. */
static void connect_stream(sl_agent *agent)
{
    char client_id[2 * SL_NAME_BYTES + 9];
    char topic[SL_TOPIC_BYTES];
    uint8_t will[WILL_BYTES];
    name_client(agent, client_id);
    sl_mqtt_settings *settings = &agent->mqtt_settings;
    settings->client_id = client_id;
    settings->will_topic = topic;
    settings->will = will;
    agent->opening = false;
    agent->open = sl_topic_device(agent->config->federation, agent->config->device, "status", topic, sizeof topic) == SL_OK &&
                  sl_agent_encode_status(agent, true, will, sizeof will, &settings->will_size) == SL_OK &&
                  sl_mqtt_connect(&agent->mqtt, sl_agent_now_ms(agent)) == SL_OK;
    settings->client_id = NULL; /* all three were on this stack */
    settings->will_topic = NULL;
    settings->will = NULL;
    if (!agent->open) {
        lose(agent);
    }
}

static void open_stream(sl_agent *agent)
{
    if (agent->open || agent->opening || (int32_t)(sl_agent_now_ms(agent) - agent->retry_at) < 0) {
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

void sl_agent_send(sl_agent *agent)
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
        sl_mqtt_sent(&agent->mqtt, (uint32_t)sent, sl_agent_now_ms(agent));
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
            sl_agent_take_event(agent, &event);
        } else if (status == SL_NO_SPACE) {
            uint32_t before = agent->mqtt.queued;
            sl_agent_send(agent);
            if (agent->mqtt.queued == before) {
                lose(agent); /* the line takes nothing: what was not acknowledged comes again */
            }
        } else if (status != SL_PENDING) {
            sl_agent_refuse(agent, status);
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

bool sl_agent_move_bytes(sl_agent *agent)
{
    if (agent->config->framed) {
        sl_frame_tick(&agent->frame, sl_agent_now_ms(agent));
    }
    open_stream(agent);
    bool moved = receive(agent);
    if (agent->open && sl_mqtt_tick(&agent->mqtt, sl_agent_now_ms(agent)) != SL_OK) {
        sl_agent_refuse(agent, SL_TIMEOUT);
        lose(agent);
    }
    sl_agent_send(agent);
    return moved;
}
