/* An MQTT 3.1.1 client without input or output of its own: docs/wire.md, "How messages travel" and "MQTT on a node".

   The caller opens a byte stream, calls sl_mqtt_connect, hands on what comes with sl_mqtt_feed, sends what
   sl_mqtt_output shows, and calls sl_mqtt_tick now and then. Sessions are persistent; QoS 1 both ways; one outgoing
   message at a time. No received packet is buffered: a payload is handed on in the pieces in which it comes. */
#ifndef SANDERLING_MQTT_H
#define SANDERLING_MQTT_H

#include "sanderling/base.h"
#include "sanderling/messages.h"

/* Who connects. Everything is kept by reference. */
typedef struct {
    const char *client_id;
    const char *user_name;       /* NULL: none */
    const uint8_t *password;
    uint32_t password_size;
    const char *will_topic;      /* NULL: no will; else QoS 1, retained */
    const uint8_t *will;
    uint32_t will_size;
    uint16_t keep_alive_s;       /* at least 1; also how long any answer may take */
    uint32_t max_payload_bytes;  /* of what comes in; more is refused without a byte of it being handed on */
} sl_mqtt_settings;

enum sl_mqtt_event_kind {
    SL_MQTT_NOTHING = 0,
    SL_MQTT_CONNECTED,    /* session_present */
    SL_MQTT_RECEIVED,     /* a piece of a message */
    SL_MQTT_REFUSED,      /* a message was left out and acknowledged: status is SL_TOO_LARGE (topic, or payload) */
    SL_MQTT_DELIVERED,    /* the broker has taken the message that was published: its memory is free */
    SL_MQTT_SUBSCRIBED,   /* status is SL_OK, or SL_REFUSED_BY_BROKER */
    SL_MQTT_UNSUBSCRIBED
};

typedef struct {
    uint8_t kind;
    bool session_present;
    bool retained;
    bool last;            /* this piece ends the message */
    sl_status status;
    const char *topic;    /* until the next feed */
    const uint8_t *bytes; /* of this piece, in what was fed */
    uint32_t size;
    uint32_t offset;      /* of this piece in the payload; 0 begins a message, even where one before was not ended */
    uint32_t total;       /* of the payload */
    uint32_t receipt;     /* for sl_mqtt_acknowledge */
} sl_mqtt_event;

typedef struct {
    const sl_mqtt_settings *settings;
    sl_status failure;      /* why the connection is of no use any more; SL_OK while it is */
    uint8_t state;
    uint8_t refusal;        /* the broker's return code, where failure is SL_REFUSED_BY_BROKER */
    uint16_t connection;    /* counts them, so that a receipt of an older one is known */
    uint16_t last_id;

    /* The packet that is coming. */
    uint8_t part;           /* what comes next of it */
    uint8_t header;
    uint8_t length_bytes;
    uint8_t small_size;
    uint8_t small[4];       /* its body, where that is short; the topic's length; the packet id */
    bool skipped;           /* the topic or the payload is too large: nothing of it is handed on */
    uint32_t left;          /* bytes of it that have not come */
    uint32_t total;         /* of the payload */
    uint16_t id;
    uint16_t topic_size;
    uint16_t topic_place;
    char topic[SL_TOPIC_BYTES];

    /* What goes out: small packets one after the other in the caller's memory, and one message from where it lies. */
    uint8_t *queue;
    uint32_t capacity;
    uint32_t queued;
    const char *out_topic;  /* NULL: no message */
    const uint8_t *out_payload;
    uint32_t out_size;
    uint32_t out_sent;      /* bytes of the packet that are out */
    uint16_t out_id;
    bool out_retain;
    bool out_again;         /* it was sent on an earlier connection */
    uint8_t out_header[7];
    uint8_t out_header_size;

    uint16_t subscribing;   /* packet ids that an answer is due to; 0: none */
    uint16_t unsubscribing;
    bool pinged;            /* PINGRESP is due */
    uint32_t sent_at;       /* when something was last sent, in ms */
    uint32_t connecting_at; /* since when answers are due */
    uint32_t delivering_at;
    uint32_t subscribing_at;
    uint32_t unsubscribing_at;
    uint32_t pinged_at;
} sl_mqtt;

/* `queue` takes small packets: CONNECT with its will, acknowledgements, subscriptions; 512 bytes are plenty. */
void sl_mqtt_begin(sl_mqtt *mqtt, const sl_mqtt_settings *settings, uint8_t *queue, uint32_t capacity);

/* The stream is open: CONNECT is due. SL_NO_SPACE where the queue does not hold it. A message that was not
   acknowledged is sent again on this connection. */
sl_status sl_mqtt_connect(sl_mqtt *mqtt, uint32_t now_ms);

/* The stream is gone, or to be given up; until the next connection nothing goes out. */
void sl_mqtt_lost(sl_mqtt *mqtt);

/* Whether the broker has answered CONNECT, and nothing has failed since. */
bool sl_mqtt_connected(const sl_mqtt *mqtt);

/* Takes bytes up to the next event. SL_OK with the event, SL_PENDING when all are taken without one. Else the
   connection is of no use any more, and the same comes back until the next one: SL_MALFORMED for what is no packet
   that a broker may send, SL_OUT_OF_ORDER for one that is not due, SL_REFUSED_BY_BROKER. SL_NO_SPACE only holds it
   up: send the output, then feed the rest. */
sl_status sl_mqtt_feed(sl_mqtt *mqtt, const uint8_t *bytes, uint32_t size, uint32_t *used, sl_mqtt_event *event);

/* The bytes to send next, 0 for none; then how many of them went out. */
uint32_t sl_mqtt_output(sl_mqtt *mqtt, const uint8_t **bytes);
void sl_mqtt_sent(sl_mqtt *mqtt, uint32_t size, uint32_t now_ms);

/* Call it after feeding what has come, at least twice a second. SL_TIMEOUT when an answer is missing for longer than
   keep_alive_s: the connection is of no use any more. */
sl_status sl_mqtt_tick(sl_mqtt *mqtt, uint32_t now_ms);

/* SL_PENDING while the answer to the one before is missing; SL_LINK_LOST, SL_NO_SPACE. */
sl_status sl_mqtt_subscribe(sl_mqtt *mqtt, const char *filter, uint32_t now_ms);
sl_status sl_mqtt_unsubscribe(sl_mqtt *mqtt, const char *filter, uint32_t now_ms);

/* A message at QoS 1; topic and payload stay where they are until it is delivered or withdrawn. Also while there is no
   connection. SL_PENDING while there is another one. */
sl_status sl_mqtt_publish(sl_mqtt *mqtt, const char *topic, const uint8_t *payload, uint32_t size, bool retain);

/* Gives up the message that is not delivered. SL_PENDING where it has begun to go out on this connection. */
sl_status sl_mqtt_withdraw(sl_mqtt *mqtt);

/* What the message changed is durable. Nothing where the receipt is of QoS 0 or of an older connection: then it comes
   again. SL_NO_SPACE: send first, then try again. */
sl_status sl_mqtt_acknowledge(sl_mqtt *mqtt, uint32_t receipt);

/* Says goodbye, so that the will is not published. Send the output, then close the stream. */
sl_status sl_mqtt_disconnect(sl_mqtt *mqtt);

#endif
