/* A byte stream over a serial line that loses, changes and repeats bytes: docs/wire.md, "Serial link". The node's end.

   Frames with a CRC-32 and a sequence number, sent again until they are acknowledged (go-back-N). The other end is the
   gateway, which opens one connection to the broker for each session that the node opens. No input or output of its
   own: like sl_mqtt, it is fed, asked for output, and told the time. */
#ifndef SANDERLING_FRAME_H
#define SANDERLING_FRAME_H

#include "sanderling/base.h"

enum {
    SL_FRAME_PAYLOAD = 128,
    SL_FRAME_WINDOW = 4,
    SL_FRAME_BYTES = 137,  /* type, session, sequence, acknowledgement, payload, CRC */
    SL_FRAME_LINE_BYTES = 140
};

enum sl_frame_event_kind {
    SL_FRAME_NOTHING = 0,
    SL_FRAME_OPENED, /* the gateway is connected to the broker */
    SL_FRAME_DATA,   /* bytes of the stream, each once and in order */
    SL_FRAME_CLOSED  /* the connection is gone, or the gateway began anew: open another session */
};

typedef struct {
    uint8_t kind;
    const uint8_t *bytes; /* until the next feed */
    uint32_t size;
} sl_frame_event;

typedef struct {
    uint32_t now_ms;
    uint8_t state;
    uint16_t session;

    /* Pieces of the stream that are not acknowledged, a ring; the oldest has sequence number `first`. */
    uint8_t pieces[4][128];
    uint8_t sizes[4];
    uint8_t first;
    uint8_t count;
    uint8_t sent;        /* of them, those that went out at least once */
    uint8_t next;        /* of them, the one to go out next */
    uint32_t waiting_since;
    uint32_t patience_ms;

    uint8_t expected;    /* sequence number of what is to come */
    bool rejected;       /* it was asked for again, and has not come yet */
    uint32_t rejected_at;
    bool reject_due;
    bool acknowledge_due;
    bool open_due;

    uint8_t incoming[137];
    uint16_t incoming_size;
    uint8_t block;       /* COBS: bytes of the block that have not come */
    bool begun;
    bool broken;

    uint8_t outgoing[140];
    uint16_t outgoing_size;
    uint16_t outgoing_place;

    uint32_t damaged;    /* frames that came with a wrong CRC, for logs */
    uint32_t repeated;   /* pieces that went out again */
} sl_frame_link;

void sl_frame_begin(sl_frame_link *link);

/* Asks for a session with another number than the last one's (draw it at random), until it is opened or closed.
   What was not delivered in the last one is forgotten. */
void sl_frame_open(sl_frame_link *link, uint16_t session);

bool sl_frame_is_open(const sl_frame_link *link);

/* The time; often, and before all else. */
void sl_frame_tick(sl_frame_link *link, uint32_t now_ms);

/* Takes bytes of the line up to the next event: SL_OK with it, SL_PENDING when all are taken without one. */
sl_status sl_frame_feed(sl_frame_link *link, const uint8_t *bytes, uint32_t size, uint32_t *used, sl_frame_event *event);

/* Takes bytes of the stream, as many as there is room for; how many. 0 while the link is not open. */
uint32_t sl_frame_write(sl_frame_link *link, const uint8_t *bytes, uint32_t size);

/* The bytes to send on the line next, 0 for none; then how many of them went out. */
uint32_t sl_frame_output(sl_frame_link *link, const uint8_t **bytes);
void sl_frame_sent(sl_frame_link *link, uint32_t size);

#endif
