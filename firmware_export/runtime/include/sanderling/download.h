/* Fetching a model in chunks: docs/wire.md, "Model chunk". What to subscribe to next, whether what came is that, where it
   goes, and whether the whole is the model that was announced. No I/O; the caller stores theta. */
#ifndef SANDERLING_DOWNLOAD_H
#define SANDERLING_DOWNLOAD_H

#include "sanderling/base.h"
#include "sanderling/messages.h"

enum { SL_MIN_CHUNK_BYTES = 256, SL_MAX_CHUNK_BYTES = 65536, SL_CHUNK_OVERHEAD = 32, SL_MAX_CHUNKS = 1024 };

/* Monocypher's BLAKE2b context, which needs 216 bytes. */
typedef struct {
    uint64_t words[28];
} sl_hash;

typedef struct {
    sl_model_reference reference;
    uint8_t *buffer;         /* of `capacity` bytes: one chunk message */
    uint32_t capacity;
    uint32_t chunk_bytes;    /* the size in the topic */
    uint32_t theta_bytes;
    uint32_t count;          /* of chunks */
    uint32_t next;           /* the chunk that is fetched: all before are stored */
    uint32_t received;       /* bytes of its message in the buffer */
    const uint8_t *piece;    /* once it is whole: the bytes to store */
    uint32_t piece_size;
    uint32_t piece_offset;   /* where in theta */
    sl_hash hash;            /* of all that is stored */
} sl_download;

/* Bytes of theta in every chunk but the last, for a buffer of this size; 0 where it is too small for any. */
uint32_t sl_download_piece_bytes(uint32_t buffer_bytes);

/* Begins with a model of `theta_bytes` (2 d) whose network is the one here. `last_version` is of the last good model of
   the same run, 0 where there is none. SL_WRONG_MODEL for an older version, SL_WRONG_NETWORK, SL_WRONG_DIMENSION,
   SL_UNSUPPORTED where it would take too many chunks, SL_NO_SPACE for a buffer below SL_MIN_CHUNK_BYTES. */
sl_status sl_download_begin(sl_download *download, const sl_model_reference *reference, const uint8_t *network_hash,
                            uint32_t theta_bytes, uint32_t last_version, uint8_t *buffer, uint32_t capacity);

/* Reads `size` bytes of what was stored, from `offset` on. SL_OK or an error. */
typedef sl_status (*sl_download_read)(void *context, uint32_t offset, uint8_t *bytes, uint32_t size);

/* Goes on where `pieces` are stored already, as after a loss of power: reads and hashes them, through the buffer. On an error
   of `read` the download is at its beginning. Then as sl_download_stored. */
sl_status sl_download_resume(sl_download *download, uint32_t pieces, sl_download_read read, void *context);

/* The topic to be subscribed to, of the chunk that is next. */
sl_status sl_download_topic(const sl_download *download, const char *federation, char *topic, uint32_t capacity);

/* A piece of the message on that topic, as sl_mqtt_event has it. SL_PENDING until it is whole (also for an empty one: it
   was cleared). SL_OK: store `piece` at `piece_offset`, then call sl_download_stored. SL_TOO_LARGE, SL_UNKNOWN_VERSION,
   SL_MALFORMED: damaged, or no chunk; SL_OUT_OF_ORDER: not the one that is next. After a refusal the same chunk is
   still wanted. */
sl_status sl_download_feed(sl_download *download, uint32_t total, uint32_t offset, const uint8_t *bytes, uint32_t size);

/* The piece is durable. SL_PENDING: fetch the next one. SL_OK: all is there, and it is the announced model.
   SL_WRONG_MODEL: it is not; drop what was stored, the download is at its beginning. */
sl_status sl_download_stored(sl_download *download);

#endif
