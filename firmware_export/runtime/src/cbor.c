#include "sanderling/cbor.h"

#include <string.h>

enum { NULL_BYTE = 0xF6, LARGEST_SHORT = 23 };

sl_status sl_cbor_feed_head(sl_cbor_head *head, uint8_t byte)
{
    if (head->missing == 0) {
        uint8_t additional = byte & 31;
        head->type = (uint8_t)(byte >> 5);
        head->value = additional;
        head->size = 0;
        if (head->type == 1 || head->type == 6 || (head->type == SL_CBOR_NULL && byte != NULL_BYTE)) {
            return SL_MALFORMED;
        }
        if (additional <= LARGEST_SHORT) {
            return SL_OK;
        }
        if (additional > LARGEST_SHORT + 4) {
            return SL_MALFORMED;
        }
        head->value = 0;
        head->size = (uint8_t)(1 << (additional - LARGEST_SHORT - 1));
        head->missing = head->size;
        return SL_PENDING;
    }
    head->value = head->value << 8 | byte;
    head->missing--;
    if (head->missing > 0) {
        return SL_PENDING;
    }
    /* Half the size, or the first byte alone, would not have held it. */
    uint64_t smallest = head->size == 1 ? LARGEST_SHORT + 1 : (uint64_t)1 << (4 * head->size);
    return head->value >= smallest ? SL_OK : SL_MALFORMED;
}

static void put_byte(sl_cbor_writer *writer, uint8_t byte)
{
    if (writer->size < writer->capacity) {
        writer->bytes[writer->size] = byte;
    }
    writer->size++;
}

void sl_cbor_put(sl_cbor_writer *writer, uint8_t type, uint64_t value)
{
    uint8_t first = (uint8_t)(type << 5);
    if (type == SL_CBOR_NULL) {
        put_byte(writer, NULL_BYTE);
    } else if (value <= LARGEST_SHORT) {
        put_byte(writer, (uint8_t)(first | value));
    } else {
        uint32_t size = value <= UINT8_MAX ? 1 : value <= UINT16_MAX ? 2 : value <= UINT32_MAX ? 4 : 8;
        put_byte(writer, (uint8_t)(first | (size == 1 ? 24 : size == 2 ? 25 : size == 4 ? 26 : 27)));
        for (uint32_t i = size; i > 0; i--) {
            put_byte(writer, (uint8_t)(value >> (8 * (i - 1))));
        }
    }
}

static void put_string(sl_cbor_writer *writer, uint8_t type, const void *bytes, uint32_t size)
{
    sl_cbor_put(writer, type, size);
    if (size > 0 && writer->size <= writer->capacity && size <= writer->capacity - writer->size) {
        memcpy(writer->bytes + writer->size, bytes, size);
    }
    writer->size += size;
}

void sl_cbor_put_bytes(sl_cbor_writer *writer, const uint8_t *bytes, uint32_t size)
{
    put_string(writer, SL_CBOR_BYTES, bytes, size);
}

void sl_cbor_put_text(sl_cbor_writer *writer, const char *text)
{
    put_string(writer, SL_CBOR_TEXT, text, (uint32_t)strlen(text));
}

uint64_t sl_cbor_get(sl_cbor_cursor *cursor, uint8_t type)
{
    sl_cbor_head head = {0};
    sl_status status = SL_PENDING;
    while (status == SL_PENDING && !cursor->bad && cursor->place < cursor->size) {
        status = sl_cbor_feed_head(&head, cursor->bytes[cursor->place++]);
    }
    cursor->bad = cursor->bad || status != SL_OK || head.type != type;
    return cursor->bad ? 0 : head.value;
}

const uint8_t *sl_cbor_get_bytes(sl_cbor_cursor *cursor, uint32_t least, uint32_t most, uint32_t *size)
{
    uint64_t length = sl_cbor_get(cursor, SL_CBOR_BYTES);
    cursor->bad = cursor->bad || length < least || length > most || length > cursor->size - cursor->place;
    if (cursor->bad) {
        *size = 0;
        return NULL;
    }
    *size = (uint32_t)length;
    cursor->place += *size;
    return cursor->bytes + cursor->place - *size;
}
