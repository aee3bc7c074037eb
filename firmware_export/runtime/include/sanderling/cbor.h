/* The deterministic subset of CBOR that messages are made of: docs/wire.md, "Messages" (RFC 8949, 4.2.1).

   Unsigned integers, byte strings, text, arrays, maps and null, each in its shortest encoding. */
#ifndef SANDERLING_CBOR_H
#define SANDERLING_CBOR_H

#include "sanderling/base.h"

/* Major types. */
enum { SL_CBOR_UINT = 0, SL_CBOR_BYTES = 2, SL_CBOR_TEXT = 3, SL_CBOR_ARRAY = 4, SL_CBOR_MAP = 5, SL_CBOR_NULL = 7 };

/* The head of an item: its type, and its value, length or count. All zero before the first one. */
typedef struct {
    uint64_t value;
    uint8_t type;
    uint8_t size;    /* bytes of the value, behind the first byte */
    uint8_t missing; /* of them, those that have not come */
} sl_cbor_head;

/* Takes the next byte of a head: SL_PENDING until it is whole, SL_OK with the last, SL_MALFORMED outside the subset. */
sl_status sl_cbor_feed_head(sl_cbor_head *head, uint8_t byte);

/* Writes items one after the other; what does not fit is only counted, so the end is checked once. */
typedef struct {
    uint8_t *bytes;
    uint32_t capacity;
    uint32_t size; /* of all that was put, more than capacity where it did not fit */
} sl_cbor_writer;

void sl_cbor_put(sl_cbor_writer *writer, uint8_t type, uint64_t value); /* a head: with it, any item but a string */
void sl_cbor_put_bytes(sl_cbor_writer *writer, const uint8_t *bytes, uint32_t size);
void sl_cbor_put_text(sl_cbor_writer *writer, const char *text);

/* Reads items of a message that is at hand as a whole. */
typedef struct {
    const uint8_t *bytes;
    uint32_t size;
    uint32_t place;
    bool bad; /* an item was not there, or not what was expected */
} sl_cbor_cursor;

/* The value, length or count of the next item, which must be of this type; 0 once the cursor is bad. */
uint64_t sl_cbor_get(sl_cbor_cursor *cursor, uint8_t type);

/* The next item, a byte string of `least` to `most` bytes, where it lies in the message; NULL once the cursor is bad. */
const uint8_t *sl_cbor_get_bytes(sl_cbor_cursor *cursor, uint32_t least, uint32_t most, uint32_t *size);

#endif
