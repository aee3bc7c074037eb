/* The seam between a node and its seals: what a node calls, and the one implementation. docs/wire.md, "Sealing".

   A node without a guard (NULL) speaks in plain text. With one it publishes only what `seal` gave, the same bytes at each
   sending, and acts only on a plan for which `end` said SL_OK. */
#ifndef SANDERLING_GUARD_H
#define SANDERLING_GUARD_H

#include "sanderling/announcement.h"
#include "sanderling/base.h"
#include "sanderling/seal.h"

typedef struct {
    void *context; /* handed to each function */

    /* The message sealed; it may lie in `sealed`. What is returned besides SL_OK makes the node abstain. */
    sl_status (*seal)(void *context, const char *run, uint32_t epoch, const sl_subject *subject, const uint8_t *message,
                      uint32_t size, uint8_t *sealed, uint32_t capacity, uint32_t *sealed_size);

    /* An announcement as it comes; its payload is `total` - SL_ANNOUNCEMENT_HEAD_BYTES long. */
    sl_status (*begin)(void *context, uint8_t kind, uint32_t total);
    sl_status (*feed)(void *context, const uint8_t *bytes, uint32_t size, const uint8_t **payload,
                      uint32_t *payload_size);
    sl_status (*end)(void *context);
} sl_guard;

/* What a guard needs. `nonces.used` = `nonces.mark` and `newest` come from storage at each start; what enrolment stored at first
   is a mark of 0, and the newest sequence that the coordinator named. */
typedef struct {
    const char *federation;
    const char *device;
    uint8_t pair_key[32];    /* sl_pair_key */
    uint8_t coordinator[32]; /* the pinned Ed25519 key */
    sl_nonces nonces;
    uint64_t newest;         /* the highest sequence of an announcement */

    /* Stores both numbers before it returns SL_OK. */
    sl_status (*keep)(void *context, uint64_t mark, uint64_t newest);
    void *context;

    sl_announcement announcement; /* the one that is coming */
} sl_sealing;

/* The guard over `sealing`, which must outlive it. */
void sl_sealing_guard(sl_sealing *sealing, sl_guard *guard);

#endif
