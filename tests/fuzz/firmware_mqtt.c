/* A broker that sends anything, and a caller that does anything that the header allows. */
#include "firmware_input.h"
#include "sanderling/mqtt.h"

enum { QUEUE_BYTES = 96, STEPS = 400 };

static uint32_t received; /* bytes of the message that is coming */
static uint32_t receipt;

static void check_event(const sl_mqtt_event *event, const uint8_t *fed, uint32_t used)
{
    LAW(event->kind >= SL_MQTT_CONNECTED && event->kind <= SL_MQTT_UNSUBSCRIBED);
    if (event->kind == SL_MQTT_RECEIVED) {
        LAW(strlen(event->topic) > 0 && strlen(event->topic) < SL_TOPIC_BYTES);
        LAW(event->offset == 0 || event->offset == received);
        LAW(event->size <= event->total && event->offset <= event->total - event->size);
        LAW(event->last == (event->offset + event->size == event->total));
        LAW(event->total <= 1000);
        if (event->size > 0) {
            LAW(event->bytes >= fed && event->bytes + event->size <= fed + used);
        }
        received = event->last ? 0 : event->offset + event->size;
        receipt = event->receipt;
    }
}

static void feed(sl_mqtt *mqtt, input *in)
{
    uint32_t size, used = 0, place = 0;
    uint8_t *block = take_block(in, take_choice(in), &size);
    sl_mqtt_event event;
    sl_status status;
    do {
        status = sl_mqtt_feed(mqtt, block + place, size - place, &used, &event);
        LAW(used <= size - place);
        if (status == SL_OK) {
            check_event(&event, block + place, used);
        } else {
            LAW(event.kind == SL_MQTT_NOTHING);
        }
        LAW(status != SL_PENDING || place + used == size);
        place += used;
    } while (status == SL_OK);
    free(block);
}

/* Bytes that go out are whole packets one after the other: a parser in miniature follows them. */
typedef struct {
    uint32_t left, shift;
    uint8_t part; /* 0 header, 1 length, 2 body */
} follower;

static void follow(follower *f, uint8_t byte)
{
    if (f->part == 0) {
        uint32_t type = byte >> 4;
        LAW(type == 1 || type == 3 || type == 4 || type == 8 || type == 10 || type == 12 || type == 14);
        f->left = f->shift = 0;
        f->part = 1;
    } else if (f->part == 1) {
        f->left |= (uint32_t)(byte & 127) << f->shift;
        f->shift += 7;
        if (byte < 128) {
            f->part = f->left > 0 ? 2 : 0;
        }
    } else {
        f->left--;
        f->part = f->left > 0 ? 2 : 0;
    }
}

static void output(sl_mqtt *mqtt, follower *f, uint32_t most, uint32_t now)
{
    const uint8_t *bytes = NULL;
    uint32_t size;
    while (most > 0 && (size = sl_mqtt_output(mqtt, &bytes)) > 0) {
        uint32_t part = size < most ? size : most;
        for (uint32_t i = 0; i < part; i++) {
            follow(f, bytes[i]);
        }
        sl_mqtt_sent(mqtt, part, now);
        most -= part;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t will[] = "gone", payload[300] = "report";
    static const sl_mqtt_settings settings = {
        .client_id = "node", .will_topic = "a/will", .will = will, .will_size = 4, .keep_alive_s = 10,
        .max_payload_bytes = 1000,
    };
    input in = {data, (uint32_t)size};
    uint8_t *queue = malloc(QUEUE_BYTES);
    uint32_t now = 0;
    sl_mqtt mqtt;
    follower f = {0, 0, 0};
    received = receipt = 0;
    sl_mqtt_begin(&mqtt, &settings, queue, QUEUE_BYTES);
    LAW(sl_mqtt_connect(&mqtt, now) == SL_OK);
    for (uint32_t step = 0; in.size > 0 && step < STEPS; step++) {
        uint8_t choice = take_choice(&in);
        switch (choice & 15) {
        case 0:
            LAW(sl_mqtt_connect(&mqtt, now) == SL_OK);
            f.part = 0;
            break;
        case 1:
            sl_mqtt_lost(&mqtt);
            f.part = 0;
            break;
        case 2:
            now += (uint32_t)take_choice(&in) * 64;
            sl_mqtt_tick(&mqtt, now);
            break;
        case 3:
            sl_mqtt_subscribe(&mqtt, "some/topic/#", now);
            break;
        case 4:
            sl_mqtt_unsubscribe(&mqtt, "some/topic/#", now);
            break;
        case 5:
            sl_mqtt_publish(&mqtt, "a/b", payload, take_choice(&in), (choice & 16) != 0);
            break;
        case 6:
            sl_mqtt_withdraw(&mqtt);
            break;
        case 7:
            sl_mqtt_acknowledge(&mqtt, receipt);
            break;
        case 8:
            sl_mqtt_disconnect(&mqtt);
            break;
        case 9:
        case 10:
        case 11:
            output(&mqtt, &f, choice & 16 ? 4096 : 1 + (choice >> 5), now);
            break;
        default:
            feed(&mqtt, &in);
        }
        LAW(mqtt.queued <= QUEUE_BYTES);
    }
    free(queue);
    return 0;
}
