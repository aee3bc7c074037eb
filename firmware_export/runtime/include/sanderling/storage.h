/* Records that outlive a loss of power at any instant: two areas a record, written in turn; the newest whole one counts.

   An area holds a header of 16 bytes (magic, sequence, size, CRC-32 of all that and of the content, little-endian), then
   the content, padded to 8 bytes, then room for a mark of 8 bytes. The header is written last: until then the record
   before is the one that counts. */
#ifndef SANDERLING_STORAGE_H
#define SANDERLING_STORAGE_H

#include "sanderling/base.h"
#include "sanderling/port.h"

typedef struct {
    const sl_port *port;
    uint32_t first_area;    /* and the one after it */
    uint32_t newest;        /* 0 or 1: which of the two holds the record; 2: neither */
    uint32_t sequence;
    uint32_t size;
    bool marked;
    uint32_t written;       /* bytes of the record being written */
    uint32_t crc;
    uint8_t pending[8];     /* what does not fill 8 bytes yet */
} sl_record;

/* CRC-32 (ISO-HDLC) of `size` more bytes; begins with 0. */
uint32_t sl_crc32(uint32_t crc, const uint8_t *bytes, uint32_t size);

/* Finds the newest whole record. SL_OK also where there is none: its size is 0. */
sl_status sl_record_open(sl_record *record, const sl_port *port, uint32_t first_area);

/* `size` bytes of the record from `offset` on. SL_TOO_LARGE beyond its end. */
sl_status sl_record_read(const sl_record *record, uint32_t offset, uint8_t *bytes, uint32_t size);

/* A new record in three parts; what was there counts until the commit succeeded. SL_TOO_LARGE beyond the area. */
sl_status sl_record_begin(sl_record *record);
sl_status sl_record_append(sl_record *record, const uint8_t *bytes, uint32_t size);
sl_status sl_record_commit(sl_record *record);

/* Sets `marked`, once, without writing the record again: one bit of news about it, such as that it was delivered. */
sl_status sl_record_mark(sl_record *record);

#endif
