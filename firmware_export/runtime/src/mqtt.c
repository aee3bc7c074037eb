#include "sanderling/mqtt.h"

#include <string.h>

enum {
    CONNECT = 1, CONNACK = 2, PUBLISH = 3, PUBACK = 4, SUBSCRIBE = 8, SUBACK = 9, UNSUBSCRIBE = 10, UNSUBACK = 11,
    PINGREQ = 12, PINGRESP = 13, DISCONNECT = 14,
};

enum state { CLOSED, CONNECTING, CONNECTED, LEAVING };

/* What comes next of the packet that is coming. */
enum part { HEADER, LENGTH, BODY, TOPIC_SIZE, TOPIC, PACKET_ID, PAYLOAD };

enum { DUP = 8, RETAIN = 1, QOS_1 = 2, MAX_REMAINING = 268435455, LAST_RETURN_CODE = 5, NOT_GRANTED = 0x80 };

void sl_mqtt_begin(sl_mqtt *mqtt, const sl_mqtt_settings *settings, uint8_t *queue, uint32_t capacity)
{
    memset(mqtt, 0, sizeof *mqtt);
    mqtt->settings = settings;
    mqtt->queue = queue;
    mqtt->capacity = capacity;
}

bool sl_mqtt_connected(const sl_mqtt *mqtt)
{
    return mqtt->state == CONNECTED && mqtt->failure == SL_OK;
}

void sl_mqtt_lost(sl_mqtt *mqtt)
{
    mqtt->state = CLOSED;
    mqtt->part = HEADER;
    mqtt->queued = 0;
    mqtt->subscribing = 0;
    mqtt->unsubscribing = 0;
    mqtt->pinged = false;
    mqtt->out_again = mqtt->out_again || mqtt->out_sent > 0;
    mqtt->out_sent = 0;
    mqtt->out_header_size = 0;
}

static sl_status fail(sl_mqtt *mqtt, sl_status failure)
{
    mqtt->failure = failure;
    return failure;
}

/* ------------------------------------------------------------------------------------------------ small packets out */

static void put_byte(sl_mqtt *mqtt, uint32_t byte)
{
    mqtt->queue[mqtt->queued++] = (uint8_t)byte;
}

static void put_u16(sl_mqtt *mqtt, uint32_t value)
{
    put_byte(mqtt, value >> 8);
    put_byte(mqtt, value & 0xFF);
}

static void put_string(sl_mqtt *mqtt, const void *bytes, uint32_t size)
{
    put_u16(mqtt, size);
    if (size > 0) {
        memcpy(mqtt->queue + mqtt->queued, bytes, size);
    }
    mqtt->queued += size;
}

static uint32_t put_length(uint8_t *bytes, uint32_t length)
{
    uint32_t count = 0;
    do {
        bytes[count++] = (uint8_t)(length % 128 | (length >= 128 ? 128 : 0));
        length /= 128;
    } while (length > 0);
    return count;
}

/* Puts the fixed header if the whole packet fits. */
static sl_status begin_packet(sl_mqtt *mqtt, uint32_t header, uint32_t remaining)
{
    uint8_t length[4];
    uint32_t space = mqtt->capacity - mqtt->queued;
    if (remaining > space) {
        return SL_NO_SPACE;
    }
    uint32_t count = put_length(length, remaining);
    if (1 + count + remaining > space) {
        return SL_NO_SPACE;
    }
    put_byte(mqtt, header);
    memcpy(mqtt->queue + mqtt->queued, length, count);
    mqtt->queued += count;
    return SL_OK;
}

static uint16_t next_id(sl_mqtt *mqtt)
{
    do {
        mqtt->last_id++;
    } while (mqtt->last_id == 0 || mqtt->last_id == mqtt->out_id || mqtt->last_id == mqtt->subscribing
             || mqtt->last_id == mqtt->unsubscribing);
    return mqtt->last_id;
}

static uint32_t text_size(const char *text)
{
    return text == NULL ? 0 : (uint32_t)strlen(text);
}

sl_status sl_mqtt_connect(sl_mqtt *mqtt, uint32_t now_ms)
{
    static const uint8_t protocol[] = {0, 4, 'M', 'Q', 'T', 'T', 4};
    enum { USER_NAME = 0x80, PASSWORD = 0x40, WILL = 0x2C /* retained, QoS 1 */ };
    const sl_mqtt_settings *settings = mqtt->settings;
    uint32_t id = text_size(settings->client_id), user = text_size(settings->user_name);
    uint32_t will_topic = text_size(settings->will_topic), flags = 0, remaining = sizeof protocol + 3 + 2 + id;
    sl_mqtt_lost(mqtt);
    if (settings->will_topic != NULL) {
        flags |= WILL;
        remaining += 4 + will_topic + settings->will_size;
    }
    if (settings->user_name != NULL) {
        flags |= USER_NAME;
        remaining += 2 + user;
        if (settings->password != NULL) {
            flags |= PASSWORD;
            remaining += 2 + settings->password_size;
        }
    }
    sl_status status = begin_packet(mqtt, CONNECT << 4, remaining);
    if (status != SL_OK) {
        return status;
    }
    memcpy(mqtt->queue + mqtt->queued, protocol, sizeof protocol);
    mqtt->queued += (uint32_t)sizeof protocol;
    put_byte(mqtt, flags);
    put_u16(mqtt, settings->keep_alive_s);
    put_string(mqtt, settings->client_id, id);
    if (flags & WILL & 4) {
        put_string(mqtt, settings->will_topic, will_topic);
        put_string(mqtt, settings->will, settings->will_size);
    }
    if (flags & USER_NAME) {
        put_string(mqtt, settings->user_name, user);
    }
    if (flags & PASSWORD) {
        put_string(mqtt, settings->password, settings->password_size);
    }
    mqtt->failure = SL_OK;
    mqtt->state = CONNECTING;
    mqtt->connection++;
    mqtt->connecting_at = mqtt->sent_at = now_ms;
    return SL_OK;
}

static sl_status ask(sl_mqtt *mqtt, uint32_t type, const char *filter, uint16_t *due)
{
    if (!sl_mqtt_connected(mqtt)) {
        return SL_LINK_LOST;
    }
    if (*due != 0) {
        return SL_PENDING;
    }
    uint32_t size = text_size(filter), options = type == SUBSCRIBE ? 1 : 0;
    sl_status status = begin_packet(mqtt, type << 4 | 2, 4 + size + options);
    if (status == SL_OK) {
        *due = next_id(mqtt);
        put_u16(mqtt, *due);
        put_string(mqtt, filter, size);
        if (options > 0) {
            put_byte(mqtt, 1); /* QoS 1 */
        }
    }
    return status;
}

sl_status sl_mqtt_subscribe(sl_mqtt *mqtt, const char *filter, uint32_t now_ms)
{
    sl_status status = ask(mqtt, SUBSCRIBE, filter, &mqtt->subscribing);
    if (status == SL_OK) {
        mqtt->subscribing_at = now_ms;
    }
    return status;
}

sl_status sl_mqtt_unsubscribe(sl_mqtt *mqtt, const char *filter, uint32_t now_ms)
{
    sl_status status = ask(mqtt, UNSUBSCRIBE, filter, &mqtt->unsubscribing);
    if (status == SL_OK) {
        mqtt->unsubscribing_at = now_ms;
    }
    return status;
}

static sl_status put_puback(sl_mqtt *mqtt, uint16_t id)
{
    sl_status status = begin_packet(mqtt, PUBACK << 4, 2);
    if (status == SL_OK) {
        put_u16(mqtt, id);
    }
    return status;
}

sl_status sl_mqtt_acknowledge(sl_mqtt *mqtt, uint32_t receipt)
{
    if (receipt == 0 || receipt >> 16 != mqtt->connection || !sl_mqtt_connected(mqtt)) {
        return SL_OK;
    }
    return put_puback(mqtt, (uint16_t)receipt);
}

sl_status sl_mqtt_disconnect(sl_mqtt *mqtt)
{
    if (!sl_mqtt_connected(mqtt)) {
        return SL_LINK_LOST;
    }
    sl_status status = begin_packet(mqtt, DISCONNECT << 4, 0);
    if (status == SL_OK) {
        mqtt->state = LEAVING;
    }
    return status;
}

/* ------------------------------------------------------------------------------------------------ the message out */

sl_status sl_mqtt_publish(sl_mqtt *mqtt, const char *topic, const uint8_t *payload, uint32_t size, bool retain)
{
    uint32_t topic_size = text_size(topic);
    if (mqtt->out_topic != NULL) {
        return SL_PENDING;
    }
    if (topic_size == 0 || topic_size > UINT16_MAX || size > MAX_REMAINING - topic_size - 4) {
        return SL_TOO_LARGE;
    }
    mqtt->out_id = next_id(mqtt);
    mqtt->out_topic = topic;
    mqtt->out_payload = payload;
    mqtt->out_size = size;
    mqtt->out_sent = 0;
    mqtt->out_retain = retain;
    mqtt->out_again = false;
    mqtt->out_header_size = 0;
    return SL_OK;
}

sl_status sl_mqtt_withdraw(sl_mqtt *mqtt)
{
    if (mqtt->out_topic != NULL && mqtt->out_sent > 0) {
        return SL_PENDING;
    }
    mqtt->out_topic = NULL;
    mqtt->out_id = 0;
    return SL_OK;
}

static void make_out_header(sl_mqtt *mqtt)
{
    uint32_t topic_size = text_size(mqtt->out_topic), flags = QOS_1;
    flags |= (mqtt->out_again ? DUP : 0u) | (mqtt->out_retain ? RETAIN : 0u);
    mqtt->out_header[0] = (uint8_t)(PUBLISH << 4 | flags);
    uint32_t count = 1 + put_length(mqtt->out_header + 1, 4 + topic_size + mqtt->out_size);
    mqtt->out_header[count++] = (uint8_t)(topic_size >> 8);
    mqtt->out_header[count++] = (uint8_t)topic_size;
    mqtt->out_header_size = (uint8_t)count;
}

/* The packet is header, topic, packet id and payload, each where it lies: the rest of the one that is being sent. */
static uint32_t message_output(sl_mqtt *mqtt, const uint8_t **bytes)
{
    if (mqtt->out_header_size == 0) {
        make_out_header(mqtt);
    }
    uint32_t place = mqtt->out_sent, topic_size = text_size(mqtt->out_topic);
    if (place < mqtt->out_header_size) {
        *bytes = mqtt->out_header + place;
        return mqtt->out_header_size - place;
    }
    place -= mqtt->out_header_size;
    if (place < topic_size) {
        *bytes = (const uint8_t *)mqtt->out_topic + place;
        return topic_size - place;
    }
    place -= topic_size;
    if (place < 2) {
        /* The first bytes of the header are out: its last two hold the id now. */
        uint8_t *id = mqtt->out_header + mqtt->out_header_size - 2;
        id[0] = (uint8_t)(mqtt->out_id >> 8);
        id[1] = (uint8_t)mqtt->out_id;
        *bytes = id + place;
        return 2 - place;
    }
    place -= 2;
    *bytes = mqtt->out_payload + place;
    return mqtt->out_size - place;
}

static bool message_is_out(const sl_mqtt *mqtt)
{
    return mqtt->out_sent > 0 && mqtt->out_sent == mqtt->out_header_size + text_size(mqtt->out_topic) + 2 + mqtt->out_size;
}

/* Packets are never mixed: a message begins when the queue is empty, and is then sent to its end. */
static bool message_is_next(const sl_mqtt *mqtt)
{
    bool waits = mqtt->out_topic != NULL && !message_is_out(mqtt);
    return waits && (mqtt->out_sent > 0 || (mqtt->queued == 0 && mqtt->state == CONNECTED));
}

uint32_t sl_mqtt_output(sl_mqtt *mqtt, const uint8_t **bytes)
{
    if (mqtt->state == CLOSED || mqtt->failure != SL_OK) {
        return 0;
    }
    if (message_is_next(mqtt)) {
        return message_output(mqtt, bytes);
    }
    *bytes = mqtt->queue;
    return mqtt->queued;
}

void sl_mqtt_sent(sl_mqtt *mqtt, uint32_t size, uint32_t now_ms)
{
    if (size == 0) {
        return;
    }
    mqtt->sent_at = now_ms;
    if (message_is_next(mqtt)) {
        mqtt->out_sent += size;
        mqtt->delivering_at = now_ms;
        return;
    }
    mqtt->queued -= size;
    memmove(mqtt->queue, mqtt->queue + size, mqtt->queued);
}

/* ------------------------------------------------------------------------------------------------ time */

static bool is_over(uint32_t since, uint32_t now_ms, uint32_t limit_ms)
{
    return now_ms - since >= limit_ms;
}

sl_status sl_mqtt_tick(sl_mqtt *mqtt, uint32_t now_ms)
{
    if (mqtt->failure != SL_OK || mqtt->state == CLOSED) {
        return mqtt->failure;
    }
    uint32_t limit_ms = mqtt->settings->keep_alive_s * 1000u;
    bool late = (mqtt->state == CONNECTING && is_over(mqtt->connecting_at, now_ms, limit_ms))
        || (mqtt->pinged && is_over(mqtt->pinged_at, now_ms, limit_ms))
        || (mqtt->subscribing != 0 && is_over(mqtt->subscribing_at, now_ms, limit_ms))
        || (mqtt->unsubscribing != 0 && is_over(mqtt->unsubscribing_at, now_ms, limit_ms))
        || (mqtt->out_topic != NULL && mqtt->out_sent > 0 && is_over(mqtt->delivering_at, now_ms, limit_ms));
    if (late) {
        return fail(mqtt, SL_TIMEOUT);
    }
    if (mqtt->state == CONNECTED && !mqtt->pinged && is_over(mqtt->sent_at, now_ms, limit_ms / 2)
        && begin_packet(mqtt, PINGREQ << 4, 0) == SL_OK) {
        mqtt->pinged = true;
        mqtt->pinged_at = now_ms;
    }
    return SL_OK;
}

/* ------------------------------------------------------------------------------------------------ packets in */

static uint16_t small_u16(const sl_mqtt *mqtt, uint32_t place)
{
    return (uint16_t)(mqtt->small[place] << 8 | mqtt->small[place + 1]);
}

static sl_status take_header(sl_mqtt *mqtt, uint8_t byte)
{
    uint32_t type = byte >> 4, flags = byte & 15u;
    if (type == PUBLISH) {
        uint32_t qos = flags >> 1 & 3;
        /* QoS 2 was never asked for; a first delivery at QoS 0 is no duplicate. */
        if (qos > 1 || (qos == 0 && (flags & DUP) != 0)) {
            return SL_MALFORMED;
        }
    } else if ((type != CONNACK && type != PUBACK && type != SUBACK && type != UNSUBACK && type != PINGRESP) || flags != 0) {
        return SL_MALFORMED;
    }
    if ((type == CONNACK) != (mqtt->state == CONNECTING)) {
        return SL_OUT_OF_ORDER;
    }
    mqtt->header = byte;
    mqtt->left = 0;
    mqtt->length_bytes = 0;
    mqtt->small_size = 0;
    mqtt->part = LENGTH;
    return SL_OK;
}

/* How long each kind of packet is, which for all but PUBLISH is one number. */
static sl_status check_length(sl_mqtt *mqtt)
{
    uint32_t type = mqtt->header >> 4;
    if (type == PUBLISH) {
        uint32_t least = 2 + 1 + ((mqtt->header & QOS_1) != 0 ? 2u : 0u);
        mqtt->part = TOPIC_SIZE;
        return mqtt->left >= least ? SL_OK : SL_MALFORMED;
    }
    uint32_t expected = type == SUBACK ? 3 : type == PINGRESP ? 0 : 2;
    mqtt->part = BODY;
    return mqtt->left == expected ? SL_OK : SL_MALFORMED;
}

static sl_status take_length(sl_mqtt *mqtt, uint8_t byte)
{
    mqtt->left |= (uint32_t)(byte & 127) << (7 * mqtt->length_bytes);
    mqtt->length_bytes++;
    if ((byte & 128) != 0) {
        return mqtt->length_bytes < 4 ? SL_OK : SL_MALFORMED;
    }
    if (byte == 0 && mqtt->length_bytes > 1) {
        return SL_MALFORMED; /* longer than it need be */
    }
    return check_length(mqtt);
}

static sl_status take_connack(sl_mqtt *mqtt, sl_mqtt_event *event)
{
    uint8_t flags = mqtt->small[0], code = mqtt->small[1];
    if (flags > 1 || code > LAST_RETURN_CODE || (flags == 1 && code != 0)) {
        return SL_MALFORMED;
    }
    if (code != 0) {
        mqtt->refusal = code;
        return SL_REFUSED_BY_BROKER;
    }
    mqtt->state = CONNECTED;
    event->kind = SL_MQTT_CONNECTED;
    event->session_present = flags == 1;
    return SL_OK;
}

/* A short packet has come as a whole. Answers that nobody waits for are out of order. */
static sl_status take_body(sl_mqtt *mqtt, sl_mqtt_event *event)
{
    uint32_t type = mqtt->header >> 4;
    uint16_t id = small_u16(mqtt, 0);
    mqtt->part = HEADER;
    if (type == CONNACK) {
        return take_connack(mqtt, event);
    }
    if (type == PINGRESP) {
        bool due = mqtt->pinged;
        mqtt->pinged = false;
        return due ? SL_OK : SL_OUT_OF_ORDER;
    }
    if (type == PUBACK) {
        if (!message_is_out(mqtt) || id != mqtt->out_id) {
            return SL_OUT_OF_ORDER;
        }
        mqtt->out_topic = NULL;
        mqtt->out_sent = 0;
        mqtt->out_id = 0;
        event->kind = SL_MQTT_DELIVERED;
        return SL_OK;
    }
    uint16_t *due = type == SUBACK ? &mqtt->subscribing : &mqtt->unsubscribing;
    if (id == 0 || id != *due) {
        return SL_OUT_OF_ORDER;
    }
    *due = 0;
    event->kind = type == SUBACK ? SL_MQTT_SUBSCRIBED : SL_MQTT_UNSUBSCRIBED;
    if (type == SUBACK && mqtt->small[2] == NOT_GRANTED) {
        event->status = SL_REFUSED_BY_BROKER;
    } else if (type == SUBACK && mqtt->small[2] > 1) {
        return SL_MALFORMED;
    }
    return SL_OK;
}

static void begin_payload(sl_mqtt *mqtt)
{
    mqtt->part = PAYLOAD;
    mqtt->total = mqtt->left;
    mqtt->skipped = mqtt->skipped || mqtt->total > mqtt->settings->max_payload_bytes;
}

static sl_status take_topic_size(sl_mqtt *mqtt)
{
    mqtt->topic_size = small_u16(mqtt, 0);
    mqtt->topic_place = 0;
    mqtt->small_size = 0;
    mqtt->id = 0;
    mqtt->skipped = mqtt->topic_size >= SL_TOPIC_BYTES;
    mqtt->part = TOPIC;
    uint32_t rest = mqtt->topic_size + ((mqtt->header & QOS_1) != 0 ? 2u : 0u);
    return mqtt->topic_size > 0 && rest <= mqtt->left ? SL_OK : SL_MALFORMED;
}

static sl_status take_topic(sl_mqtt *mqtt, uint8_t byte)
{
    /* Nothing this client asks for is beyond ASCII; wildcards are for filters. */
    if (byte == 0 || byte >= 127 || byte == '+' || byte == '#') {
        return SL_MALFORMED;
    }
    if (!mqtt->skipped) {
        mqtt->topic[mqtt->topic_place] = (char)byte;
        mqtt->topic[mqtt->topic_place + 1] = '\0';
    }
    mqtt->topic_place++;
    if (mqtt->topic_place == mqtt->topic_size) {
        if ((mqtt->header & QOS_1) != 0) {
            mqtt->part = PACKET_ID;
        } else {
            begin_payload(mqtt);
        }
    }
    return SL_OK;
}

/* One byte of anything but a payload. */
static sl_status take_byte(sl_mqtt *mqtt, uint8_t byte, sl_mqtt_event *event)
{
    if (mqtt->part == HEADER) {
        return take_header(mqtt, byte);
    }
    if (mqtt->part == LENGTH) {
        sl_status status = take_length(mqtt, byte);
        return status == SL_OK && mqtt->part == BODY && mqtt->left == 0 ? take_body(mqtt, event) : status;
    }
    mqtt->left--;
    if (mqtt->part == TOPIC) {
        return take_topic(mqtt, byte);
    }
    mqtt->small[mqtt->small_size++] = byte;
    if (mqtt->part == BODY) {
        return mqtt->left == 0 ? take_body(mqtt, event) : SL_OK;
    }
    if (mqtt->small_size < 2) {
        return SL_OK;
    }
    if (mqtt->part == TOPIC_SIZE) {
        return take_topic_size(mqtt);
    }
    mqtt->id = small_u16(mqtt, 0);
    begin_payload(mqtt);
    return mqtt->id != 0 ? SL_OK : SL_MALFORMED;
}

/* A message that is left out ends here: acknowledged, so that it does not come again. */
static sl_status refuse_message(sl_mqtt *mqtt, sl_mqtt_event *event)
{
    if (mqtt->id != 0 && put_puback(mqtt, mqtt->id) != SL_OK) {
        return SL_NO_SPACE;
    }
    mqtt->part = HEADER;
    event->kind = SL_MQTT_REFUSED;
    event->status = SL_TOO_LARGE;
    event->topic = mqtt->topic_size < SL_TOPIC_BYTES ? mqtt->topic : "";
    event->total = mqtt->total;
    return SL_OK;
}

/* Hands on as much of the payload as there is; also an empty one, once. Returns how many bytes that took. */
static uint32_t take_payload(sl_mqtt *mqtt, const uint8_t *bytes, uint32_t size, sl_mqtt_event *event)
{
    uint32_t count = size < mqtt->left ? size : mqtt->left;
    uint32_t offset = mqtt->total - mqtt->left;
    mqtt->left -= count;
    if (!mqtt->skipped) {
        event->kind = SL_MQTT_RECEIVED;
        event->topic = mqtt->topic;
        event->bytes = bytes;
        event->size = count;
        event->offset = offset;
        event->total = mqtt->total;
        event->last = mqtt->left == 0;
        event->retained = (mqtt->header & RETAIN) != 0;
        event->receipt = mqtt->id == 0 ? 0 : (uint32_t)mqtt->connection << 16 | mqtt->id;
        if (mqtt->left == 0) {
            mqtt->part = HEADER;
        }
    }
    return count;
}

static bool payload_is_due(const sl_mqtt *mqtt, uint32_t size)
{
    return mqtt->part == PAYLOAD && (size > 0 || mqtt->left == 0);
}

sl_status sl_mqtt_feed(sl_mqtt *mqtt, const uint8_t *bytes, uint32_t size, uint32_t *used, sl_mqtt_event *event)
{
    memset(event, 0, sizeof *event);
    *used = 0;
    if (mqtt->failure != SL_OK) {
        return mqtt->failure;
    }
    if (mqtt->state == CLOSED) {
        return SL_LINK_LOST;
    }
    while (event->kind == SL_MQTT_NOTHING && (*used < size || payload_is_due(mqtt, 0))) {
        sl_status status = SL_OK;
        if (mqtt->part == PAYLOAD) {
            *used += take_payload(mqtt, bytes + *used, size - *used, event);
            if (mqtt->skipped && mqtt->left == 0) {
                status = refuse_message(mqtt, event);
            }
        } else {
            status = take_byte(mqtt, bytes[(*used)++], event);
        }
        if (status == SL_NO_SPACE) {
            return SL_NO_SPACE; /* the acknowledgement waits until the queue has gone out */
        }
        if (status != SL_OK) {
            memset(event, 0, sizeof *event);
            return fail(mqtt, status);
        }
    }
    return event->kind == SL_MQTT_NOTHING ? SL_PENDING : SL_OK;
}
