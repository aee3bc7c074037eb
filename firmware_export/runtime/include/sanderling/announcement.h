/* Announcements that only the coordinator can have made, checked in pieces: docs/wire.md, "Signed announcements".

   Ed25519 (RFC 8032) as COSE_Sign1. The signature comes first, so memory does not depend on the payload's size. The payload may
   be read as it passes, but is acted on only after sl_announcement_end said SL_OK. Bytes equal broker/announcements.py. */
#ifndef SANDERLING_ANNOUNCEMENT_H
#define SANDERLING_ANNOUNCEMENT_H

#include "sanderling/base.h"
#include "sanderling/sha512.h"

enum { SL_ANNOUNCEMENT_HEAD_BYTES = 71 }; /* before the payload: version, sequence, signature */

enum { SL_ANNOUNCED_PLAN = 1, SL_ANNOUNCED_MODEL = 2, SL_ANNOUNCED_NETWORK = 3 };

typedef struct {
    const char *federation;
    const uint8_t *coordinator; /* 32 bytes, the pinned public key */
    uint32_t total;
    uint32_t place;             /* bytes that came */
    uint8_t kind;
    sl_status status;
    uint8_t head[71];
    sl_sha512 hash;
} sl_announcement;

/* `total` bytes will come. The texts and the key are not copied. SL_MALFORMED where they are too few. */
sl_status sl_announcement_begin(sl_announcement *announcement, const char *federation, uint8_t kind,
                                const uint8_t *coordinator, uint32_t total);

/* Takes the next bytes and says which of them, from `payload` on, belong to the payload. SL_UNPROTECTED, SL_UNKNOWN_VERSION,
   SL_MALFORMED; then all that follows is refused too. */
sl_status sl_announcement_feed(sl_announcement *announcement, const uint8_t *bytes, uint32_t size,
                               const uint8_t **payload, uint32_t *payload_size);

/* SL_OK with the sequence where the coordinator signed it and it is not below `newest`, else SL_NOT_AUTHENTIC or
   SL_OLDER_ANNOUNCEMENT; SL_MALFORMED where bytes are missing. Ends the hash: call it once. */
sl_status sl_announcement_end(sl_announcement *announcement, uint64_t newest, uint64_t *sequence);

#endif
