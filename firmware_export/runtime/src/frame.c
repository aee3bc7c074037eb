#include "sanderling/frame.h"

#include <string.h>

#include "bytes.h"
#include "sanderling/storage.h"

enum state { CLOSED, OPENING, OPEN };

enum type { ASK_OPEN = 1, IS_OPENED = 2, IS_CLOSED = 3, DATA = 4, ACKNOWLEDGE = 5, REJECT = 6 };

enum { HEADER_BYTES = 5, CRC_BYTES = 4, PATIENCE_MS = 250, MOST_PATIENCE_MS = 2000, REJECT_AGAIN_MS = 100 };

void sl_frame_begin(sl_frame_link *link)
{
    memset(link, 0, sizeof *link);
}

void sl_frame_open(sl_frame_link *link, uint16_t session)
{
    link->state = OPENING;
    link->session = session;
    link->first = 0;
    link->count = 0;
    link->sent = 0;
    link->next = 0;
    link->expected = 0;
    link->rejected = false;
    link->reject_due = false;
    link->acknowledge_due = false;
    link->open_due = true;
    link->waiting_since = link->now_ms;
    link->patience_ms = PATIENCE_MS;
}

bool sl_frame_is_open(const sl_frame_link *link)
{
    return link->state == OPEN;
}

void sl_frame_tick(sl_frame_link *link, uint32_t now_ms)
{
    link->now_ms = now_ms;
    bool waits = link->state == OPENING || (link->state == OPEN && link->sent > 0);
    if (!waits || now_ms - link->waiting_since < link->patience_ms) {
        return;
    }
    link->open_due = link->state == OPENING;
    link->next = 0;
    link->waiting_since = now_ms;
    link->patience_ms = 2 * link->patience_ms < MOST_PATIENCE_MS ? 2 * link->patience_ms : MOST_PATIENCE_MS;
}

/* ------------------------------------------------------------------------------------------------ out */

uint32_t sl_frame_write(sl_frame_link *link, const uint8_t *bytes, uint32_t size)
{
    uint32_t taken = 0;
    while (link->state == OPEN && taken < size) {
        uint32_t last = (uint32_t)(link->first + link->count - 1) % SL_FRAME_WINDOW;
        if (link->count == link->sent || link->sizes[last] == SL_FRAME_PAYLOAD) {
            if (link->count == SL_FRAME_WINDOW) {
                break;
            }
            link->count++;
            last = (last + 1) % SL_FRAME_WINDOW;
            link->sizes[last] = 0;
        }
        uint32_t room = (uint32_t)SL_FRAME_PAYLOAD - link->sizes[last];
        uint32_t part = size - taken < room ? size - taken : room;
        memcpy(link->pieces[last] + link->sizes[last], bytes + taken, part);
        link->sizes[last] = (uint8_t)(link->sizes[last] + part);
        taken += part;
    }
    return taken;
}

/* Consistent overhead byte stuffing (Cheshire and Baker 1999): no zero byte but around the frame. */
static void stuff(sl_frame_link *link, const uint8_t *frame, uint32_t size)
{
    uint32_t place = 2, code_place = 1;
    link->outgoing[0] = 0;
    for (uint32_t i = 0; i < size; i++) {
        if (frame[i] == 0) {
            link->outgoing[code_place] = (uint8_t)(place - code_place);
            code_place = place++;
        } else {
            link->outgoing[place++] = frame[i];
        }
    }
    link->outgoing[code_place] = (uint8_t)(place - code_place);
    link->outgoing[place++] = 0;
    link->outgoing_size = (uint16_t)place;
    link->outgoing_place = 0;
}

static void make_frame(sl_frame_link *link, enum type type, uint32_t sequence, const uint8_t *payload, uint32_t size)
{
    uint8_t frame[SL_FRAME_BYTES];
    frame[0] = (uint8_t)type;
    frame[1] = (uint8_t)link->session;
    frame[2] = (uint8_t)(link->session >> 8);
    frame[3] = (uint8_t)sequence;
    frame[4] = link->expected;
    if (size > 0) {
        memcpy(frame + HEADER_BYTES, payload, size);
    }
    sl_put_u32(frame + HEADER_BYTES + size, sl_crc32(0, frame, HEADER_BYTES + size));
    stuff(link, frame, HEADER_BYTES + size + CRC_BYTES);
}

static void make_data(sl_frame_link *link)
{
    uint32_t sequence = (uint32_t)(link->first + link->next), slot = sequence % SL_FRAME_WINDOW;
    make_frame(link, DATA, sequence, link->pieces[slot], link->sizes[slot]);
    if (link->next < link->sent) {
        link->repeated++;
    } else {
        link->sent++;
    }
    if (link->next == 0) {
        link->waiting_since = link->now_ms;
    }
    link->next++;
    link->acknowledge_due = false; /* every frame acknowledges */
}

/* What is due next, if anything. */
static void make_output(sl_frame_link *link)
{
    if (link->state == OPENING && link->open_due) {
        link->open_due = false;
        make_frame(link, ASK_OPEN, 0, NULL, 0);
    } else if (link->state != OPEN) {
        return;
    } else if (link->reject_due) {
        link->reject_due = false;
        link->acknowledge_due = false;
        make_frame(link, REJECT, 0, NULL, 0);
    } else if (link->next < link->count) {
        make_data(link);
    } else if (link->acknowledge_due) {
        link->acknowledge_due = false;
        make_frame(link, ACKNOWLEDGE, 0, NULL, 0);
    }
}

uint32_t sl_frame_output(sl_frame_link *link, const uint8_t **bytes)
{
    if (link->outgoing_place == link->outgoing_size) {
        make_output(link);
    }
    *bytes = link->outgoing + link->outgoing_place;
    return (uint32_t)link->outgoing_size - link->outgoing_place;
}

void sl_frame_sent(sl_frame_link *link, uint32_t size)
{
    link->outgoing_place = (uint16_t)(link->outgoing_place + size);
}

/* ------------------------------------------------------------------------------------------------ in */

static void take_acknowledgement(sl_frame_link *link, uint8_t expected)
{
    uint8_t count = (uint8_t)(expected - link->first);
    if (count == 0 || count > link->sent) {
        return;
    }
    link->first = expected;
    link->count = (uint8_t)(link->count - count);
    link->sent = (uint8_t)(link->sent - count);
    link->next = link->next > count ? (uint8_t)(link->next - count) : 0;
    link->waiting_since = link->now_ms;
    link->patience_ms = PATIENCE_MS;
}

/* Something is missing: asks for it again, but not at each of the frames that were behind it. */
static void reject(sl_frame_link *link)
{
    bool asked = link->rejected && link->now_ms - link->rejected_at < REJECT_AGAIN_MS;
    if (link->state == OPEN && !asked) {
        link->rejected = true;
        link->rejected_at = link->now_ms;
        link->reject_due = true;
    }
}

static void take_data(sl_frame_link *link, uint8_t sequence, uint32_t size, sl_frame_event *event)
{
    uint8_t ahead = (uint8_t)(sequence - link->expected);
    if (ahead == 0 && size > 0) {
        link->expected++;
        link->rejected = false;
        event->kind = SL_FRAME_DATA;
        event->bytes = link->incoming + HEADER_BYTES;
        event->size = size;
    } else if (ahead < 128) {
        reject(link);
    }
    link->acknowledge_due = true;
}

static void take_frame(sl_frame_link *link, sl_frame_event *event)
{
    const uint8_t *frame = link->incoming;
    uint32_t size = link->incoming_size, session = (uint32_t)(frame[1] | frame[2] << 8);
    if (session != link->session || link->state == CLOSED) {
        return;
    }
    if (frame[0] == IS_CLOSED) {
        link->state = CLOSED;
        event->kind = SL_FRAME_CLOSED;
    } else if (frame[0] == IS_OPENED && link->state == OPENING) {
        link->state = OPEN;
        link->patience_ms = PATIENCE_MS;
        event->kind = SL_FRAME_OPENED;
    } else if (link->state == OPEN && frame[0] >= DATA && frame[0] <= REJECT) {
        take_acknowledgement(link, frame[4]);
        if (frame[0] == DATA) {
            take_data(link, frame[3], size - HEADER_BYTES - CRC_BYTES, event);
        } else if (frame[0] == REJECT) {
            link->next = 0;
        }
    }
}

static void end_frame(sl_frame_link *link, sl_frame_event *event)
{
    uint32_t size = link->incoming_size;
    bool good = !link->broken && link->block == 0 && size >= HEADER_BYTES + CRC_BYTES;
    good = good && sl_crc32(0, link->incoming, size - CRC_BYTES) == sl_get_u32(link->incoming + size - CRC_BYTES);
    if (good) {
        take_frame(link, event);
    } else if (link->begun) {
        link->damaged++;
        reject(link);
    }
    link->incoming_size = 0;
    link->block = 0;
    link->begun = false;
    link->broken = false;
}

static void put(sl_frame_link *link, uint8_t byte)
{
    if (link->incoming_size == SL_FRAME_BYTES) {
        link->broken = true;
    } else {
        link->incoming[link->incoming_size++] = byte;
    }
}

static void take_byte(sl_frame_link *link, uint8_t byte, sl_frame_event *event)
{
    if (byte == 0) {
        end_frame(link, event);
    } else if (link->block > 0) {
        link->block--;
        put(link, byte);
    } else {
        if (link->begun) {
            put(link, 0);
        }
        link->begun = true;
        link->block = (uint8_t)(byte - 1);
    }
}

sl_status sl_frame_feed(sl_frame_link *link, const uint8_t *bytes, uint32_t size, uint32_t *used, sl_frame_event *event)
{
    memset(event, 0, sizeof *event);
    *used = 0;
    while (*used < size && event->kind == SL_FRAME_NOTHING) {
        take_byte(link, bytes[(*used)++], event);
    }
    return event->kind == SL_FRAME_NOTHING ? SL_PENDING : SL_OK;
}
