/* A line that carries anything, frames with a good CRC among it, and a caller that does anything. */
#include "firmware_input.h"
#include "sanderling/frame.h"
#include "sanderling/storage.h"

enum { STEPS = 300 };

static void check(const sl_frame_link *link)
{
    LAW(link->count <= SL_FRAME_WINDOW && link->sent <= link->count && link->next <= link->count);
    LAW(link->incoming_size <= SL_FRAME_BYTES);
    LAW(link->outgoing_size <= SL_FRAME_LINE_BYTES && link->outgoing_place <= link->outgoing_size);
}

static void feed(sl_frame_link *link, const uint8_t *bytes, uint32_t size)
{
    sl_frame_event event;
    uint32_t place = 0, used;
    while (place < size) {
        sl_status status = sl_frame_feed(link, bytes + place, size - place, &used, &event);
        LAW(used > 0 && used <= size - place);
        LAW(status == (event.kind == SL_FRAME_NOTHING ? SL_PENDING : SL_OK));
        if (event.kind == SL_FRAME_DATA) {
            LAW(event.size >= 1 && event.size <= SL_FRAME_PAYLOAD);
            volatile uint8_t sum = 0;
            for (uint32_t i = 0; i < event.size; i++) {
                sum ^= event.bytes[i];
            }
        }
        place += used;
        check(link);
    }
}

static void feed_good_frame(sl_frame_link *link, input *in, uint8_t choice)
{
    uint8_t frame[300], line[320];
    uint32_t payload, place = 1, code = 0;
    frame[0] = choice >> 4 & 7;
    frame[1] = (uint8_t)link->session;
    frame[2] = (uint8_t)(link->session >> 8);
    frame[3] = take_choice(in);
    frame[4] = take_choice(in);
    uint8_t *block = take_block(in, take_choice(in) % 140, &payload);
    memcpy(frame + 5, block, payload);
    free(block);
    uint32_t size = 5 + payload, crc = sl_crc32(0, frame, size);
    for (uint32_t i = 0; i < 4; i++) {
        frame[size++] = (uint8_t)(crc >> (8 * i));
    }
    for (uint32_t i = 0; i < size; i++) {
        if (frame[i] == 0) {
            line[code] = (uint8_t)(place - code);
            code = place++;
        } else {
            line[place++] = frame[i];
        }
    }
    line[code] = (uint8_t)(place - code);
    line[place++] = 0;
    feed(link, line, place);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t stream[700] = {1, 0, 2};
    input in = {data, (uint32_t)size};
    sl_frame_link link;
    const uint8_t *bytes;
    uint32_t now = 0, part;
    uint8_t *block;
    sl_frame_begin(&link);
    sl_frame_open(&link, 0x0102);
    for (uint32_t step = 0; in.size > 0 && step < STEPS; step++) {
        uint8_t choice = take_choice(&in);
        switch (choice & 7) {
        case 0:
            sl_frame_open(&link, (uint16_t)(choice << 4));
            break;
        case 1:
            now += (uint32_t)take_choice(&in) * 16;
            sl_frame_tick(&link, now);
            break;
        case 2:
            LAW(sl_frame_write(&link, stream, (uint32_t)take_choice(&in) * 2) <= 512);
            break;
        case 3:
            part = sl_frame_output(&link, &bytes);
            for (uint32_t i = 1; i + 1 < part && link.outgoing_place == 0; i++) {
                LAW(bytes[i] != 0);
            }
            sl_frame_sent(&link, part < choice ? part : choice);
            break;
        case 4:
        case 5:
            block = take_block(&in, take_choice(&in), &part);
            feed(&link, block, part);
            free(block);
            break;
        default:
            feed_good_frame(&link, &in, choice);
        }
        check(&link);
    }
    return 0;
}
