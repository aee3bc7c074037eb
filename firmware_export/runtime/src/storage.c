#include "sanderling/storage.h"

#include <string.h>

#include "bytes.h"

enum { MAGIC = 0x314C5253, MARK = 0x4B52414D, HEADER_BYTES = 16, UNIT_BYTES = 8, NONE = 2, PIECE_BYTES = 64 };
static const uint32_t BLANK = 0xFFFFFFFF;

uint32_t sl_crc32(uint32_t crc, const uint8_t *bytes, uint32_t size)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4, 0x4DB26158, 0x5005713C,
        0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C, 0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C,
    };
    crc = ~crc;
    for (uint32_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        crc = (crc >> 4) ^ table[crc & 15];
        crc = (crc >> 4) ^ table[crc & 15];
    }
    return ~crc;
}

/* The header but for its CRC, which covers these bytes and the content. */
static void put_header(uint8_t *header, uint32_t sequence, uint32_t size)
{
    sl_put_u32(header, MAGIC);
    sl_put_u32(header + 4, sequence);
    sl_put_u32(header + 8, size);
}

/* SL_OK with the header where the area holds a whole record, else SL_MALFORMED. */
static sl_status check_area(const sl_port *port, uint32_t area, uint8_t *header)
{
    if (port->storage_read(port->context, area, 0, header, HEADER_BYTES) != SL_OK) {
        return SL_STORAGE_FAILED;
    }
    uint32_t size = sl_get_u32(header + 8);
    if (sl_get_u32(header) != MAGIC || size > port->area_bytes - HEADER_BYTES - UNIT_BYTES) {
        return SL_MALFORMED;
    }
    uint32_t crc = 0;
    uint8_t piece[PIECE_BYTES];
    for (uint32_t offset = 0; offset < size; offset += PIECE_BYTES) {
        uint32_t part = size - offset < PIECE_BYTES ? size - offset : PIECE_BYTES;
        if (port->storage_read(port->context, area, HEADER_BYTES + offset, piece, part) != SL_OK) {
            return SL_STORAGE_FAILED;
        }
        crc = sl_crc32(crc, piece, part);
    }
    return sl_crc32(crc, header, 12) == sl_get_u32(header + 12) ? SL_OK : SL_MALFORMED;
}

/* Where the mark lies, behind the content. */
static uint32_t mark_place(uint32_t size)
{
    return HEADER_BYTES + (size + UNIT_BYTES - 1) / UNIT_BYTES * UNIT_BYTES;
}

/* A mark that was torn says as much as a whole one: it was to be set. */
static bool is_marked(const sl_record *record)
{
    uint8_t mark[UNIT_BYTES];
    uint32_t area = record->first_area + record->newest;
    return record->port->storage_read(record->port->context, area, mark_place(record->size), mark, UNIT_BYTES) == SL_OK &&
           (sl_get_u32(mark) & sl_get_u32(mark + 4)) != BLANK;
}

sl_status sl_record_open(sl_record *record, const sl_port *port, uint32_t first_area)
{
    uint8_t header[HEADER_BYTES];
    memset(record, 0, sizeof *record);
    record->port = port;
    record->first_area = first_area;
    record->newest = NONE;
    for (uint32_t i = 0; i < 2; i++) {
        sl_status status = check_area(port, first_area + i, header);
        if (status == SL_STORAGE_FAILED) {
            return status;
        }
        uint32_t sequence = sl_get_u32(header + 4);
        /* Sequences wrap around: the newer one is less than half the circle ahead. */
        if (status == SL_OK && (record->newest == NONE || sequence - record->sequence < 0x80000000u)) {
            record->newest = i;
            record->sequence = sequence;
            record->size = sl_get_u32(header + 8);
        }
    }
    record->marked = record->newest != NONE && is_marked(record);
    return SL_OK;
}

sl_status sl_record_read(const sl_record *record, uint32_t offset, uint8_t *bytes, uint32_t size)
{
    if (record->newest == NONE || offset > record->size || size > record->size - offset) {
        return SL_TOO_LARGE;
    }
    const sl_port *port = record->port;
    return port->storage_read(port->context, record->first_area + record->newest, HEADER_BYTES + offset, bytes, size);
}

static uint32_t next_area(const sl_record *record)
{
    return record->first_area + (record->newest == 0 ? 1u : 0u);
}

sl_status sl_record_begin(sl_record *record)
{
    record->written = 0;
    record->crc = 0;
    return record->port->storage_erase(record->port->context, next_area(record));
}

sl_status sl_record_append(sl_record *record, const uint8_t *bytes, uint32_t size)
{
    const sl_port *port = record->port;
    if (size > port->area_bytes - HEADER_BYTES - 2 * UNIT_BYTES - record->written) {
        return SL_TOO_LARGE;
    }
    record->crc = sl_crc32(record->crc, bytes, size);
    while (size > 0) {
        uint32_t held = record->written % UNIT_BYTES;
        uint32_t take = size < UNIT_BYTES - held ? size : UNIT_BYTES - held;
        memcpy(record->pending + held, bytes, take);
        if (held + take == UNIT_BYTES) {
            uint32_t offset = HEADER_BYTES + record->written - held;
            if (port->storage_write(port->context, next_area(record), offset, record->pending, UNIT_BYTES) != SL_OK) {
                return SL_STORAGE_FAILED;
            }
        }
        record->written += take;
        bytes += take;
        size -= take;
    }
    return SL_OK;
}

sl_status sl_record_commit(sl_record *record)
{
    const sl_port *port = record->port;
    uint32_t held = record->written % UNIT_BYTES, size = record->written;
    if (held > 0) {
        memset(record->pending + held, 0, UNIT_BYTES - held);
        uint32_t offset = HEADER_BYTES + size - held;
        if (port->storage_write(port->context, next_area(record), offset, record->pending, UNIT_BYTES) != SL_OK) {
            return SL_STORAGE_FAILED;
        }
    }
    uint8_t header[HEADER_BYTES];
    put_header(header, record->sequence + 1, size);
    sl_put_u32(header + 12, sl_crc32(record->crc, header, 12));
    if (port->storage_write(port->context, next_area(record), 0, header, HEADER_BYTES) != SL_OK) {
        return SL_STORAGE_FAILED;
    }
    record->newest = next_area(record) - record->first_area;
    record->sequence += 1;
    record->size = size;
    record->marked = false;
    return SL_OK;
}

sl_status sl_record_mark(sl_record *record)
{
    uint8_t mark[UNIT_BYTES];
    sl_put_u32(mark, MARK);
    sl_put_u32(mark + 4, MARK);
    if (record->newest == NONE || record->marked) {
        return SL_OK;
    }
    const sl_port *port = record->port;
    uint32_t area = record->first_area + record->newest;
    sl_status status = port->storage_write(port->context, area, mark_place(record->size), mark, UNIT_BYTES);
    record->marked = status == SL_OK;
    return status;
}
