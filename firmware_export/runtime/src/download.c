#include "sanderling/download.h"

#include <string.h>

#include "bytes.h"
#include "monocypher.h"

enum { VERSION = 1, CHECK_BYTES = 8 };

/* sl_hash has room for a context: a negative size would not compile. */
typedef char hash_has_room[sizeof(sl_hash) >= sizeof(crypto_blake2b_ctx) ? 1 : -1];

static crypto_blake2b_ctx *context_of(sl_hash *hash)
{
    return (crypto_blake2b_ctx *)(void *)hash->words;
}

static void begin_hash(crypto_blake2b_ctx *context, const char *purpose)
{
    crypto_blake2b_init(context, SL_HASH_BYTES);
    crypto_blake2b_update(context, (const uint8_t *)purpose, strlen(purpose));
}

static void restart(sl_download *download)
{
    download->next = 0;
    download->received = 0;
    download->piece = NULL;
    begin_hash(context_of(&download->hash), "sanderling model 1");
    crypto_blake2b_update(context_of(&download->hash), download->reference.network_hash, SL_HASH_BYTES);
}

/* The largest power of two within the buffer. */
static uint32_t chunk_bytes_of(uint32_t buffer_bytes)
{
    uint32_t size = SL_MAX_CHUNK_BYTES;
    while (size > buffer_bytes) {
        size /= 2;
    }
    return size >= SL_MIN_CHUNK_BYTES ? size : 0;
}

uint32_t sl_download_piece_bytes(uint32_t buffer_bytes)
{
    uint32_t size = chunk_bytes_of(buffer_bytes);
    return size > 0 ? size - SL_CHUNK_OVERHEAD : 0;
}

/* How long the body message with this theta is: the plan must announce just that. */
static uint32_t body_bytes_of(uint32_t version, uint32_t theta_bytes)
{
    sl_cbor_writer writer = {NULL, 0, 0};
    sl_cbor_put(&writer, SL_CBOR_ARRAY, 4);
    sl_cbor_put(&writer, SL_CBOR_UINT, VERSION);
    sl_cbor_put(&writer, SL_CBOR_UINT, version);
    sl_cbor_put_bytes(&writer, NULL, SL_HASH_BYTES);
    sl_cbor_put_bytes(&writer, NULL, theta_bytes);
    return writer.size;
}

sl_status sl_download_begin(sl_download *download, const sl_model_reference *reference, const uint8_t *network_hash,
                            uint32_t theta_bytes, uint32_t last_version, uint8_t *buffer, uint32_t capacity)
{
    uint32_t chunk_bytes = chunk_bytes_of(capacity);
    if (chunk_bytes == 0) {
        return SL_NO_SPACE;
    }
    if (memcmp(reference->network_hash, network_hash, SL_HASH_BYTES) != 0) {
        return SL_WRONG_NETWORK;
    }
    if (theta_bytes == 0 || reference->body_bytes != body_bytes_of(reference->version, theta_bytes)) {
        return SL_WRONG_DIMENSION;
    }
    if (reference->version < last_version) {
        return SL_WRONG_MODEL;
    }
    uint32_t piece_bytes = chunk_bytes - SL_CHUNK_OVERHEAD, count = (theta_bytes - 1) / piece_bytes + 1;
    if (count > SL_MAX_CHUNKS) {
        return SL_UNSUPPORTED;
    }
    memset(download, 0, sizeof *download);
    download->reference = *reference;
    download->buffer = buffer;
    download->capacity = capacity;
    download->chunk_bytes = chunk_bytes;
    download->theta_bytes = theta_bytes;
    download->count = count;
    restart(download);
    return SL_OK;
}

sl_status sl_download_topic(const sl_download *download, const char *federation, char *topic, uint32_t capacity)
{
    return sl_topic_chunk(federation, download->reference.model_hash, download->chunk_bytes, download->next, topic,
                          capacity);
}

/* ------------------------------------------------------------------------------------------------ one chunk */

static uint32_t piece_offset(const sl_download *download)
{
    return download->next * (download->chunk_bytes - SL_CHUNK_OVERHEAD);
}

static uint32_t piece_size(const sl_download *download)
{
    uint32_t left = download->theta_bytes - piece_offset(download), most = download->chunk_bytes - SL_CHUNK_OVERHEAD;
    return left < most ? left : most;
}

static bool check_is_good(const sl_download *download, const uint8_t *piece, uint32_t size, const uint8_t *check)
{
    uint8_t numbers[8], digest[SL_HASH_BYTES];
    crypto_blake2b_ctx context;
    sl_put_u32(numbers, download->next);
    sl_put_u32(numbers + 4, download->count);
    begin_hash(&context, "sanderling chunk 1");
    crypto_blake2b_update(&context, download->reference.model_hash, SL_HASH_BYTES);
    crypto_blake2b_update(&context, numbers, sizeof numbers);
    crypto_blake2b_update(&context, piece, size);
    crypto_blake2b_final(&context, digest);
    return memcmp(digest, check, CHECK_BYTES) == 0;
}

static sl_status take_message(sl_download *download, uint32_t total)
{
    sl_cbor_cursor cursor = {download->buffer, total, 0, false};
    uint32_t size, check_size;
    uint64_t fields = sl_cbor_get(&cursor, SL_CBOR_ARRAY);
    uint64_t version = sl_cbor_get(&cursor, SL_CBOR_UINT);
    if (!cursor.bad && version != VERSION) {
        return SL_UNKNOWN_VERSION;
    }
    uint64_t index = sl_cbor_get(&cursor, SL_CBOR_UINT);
    uint64_t count = sl_cbor_get(&cursor, SL_CBOR_UINT);
    const uint8_t *piece = sl_cbor_get_bytes(&cursor, 1, SL_MAX_CHUNK_BYTES, &size);
    const uint8_t *check = sl_cbor_get_bytes(&cursor, CHECK_BYTES, CHECK_BYTES, &check_size);
    if (cursor.bad || fields != 5 || cursor.place != total || count == 0 || count > SL_MAX_CHUNKS || index >= count) {
        return SL_MALFORMED;
    }
    if (index != download->next) {
        return SL_OUT_OF_ORDER;
    }
    if (count != download->count || size != piece_size(download) || !check_is_good(download, piece, size, check)) {
        return SL_MALFORMED;
    }
    download->piece = piece;
    download->piece_size = size;
    download->piece_offset = piece_offset(download);
    return SL_OK;
}

sl_status sl_download_feed(sl_download *download, uint32_t total, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    if (total == 0) {
        return SL_PENDING;
    }
    if (total > download->chunk_bytes) {
        return SL_TOO_LARGE;
    }
    if (offset == 0) {
        download->received = 0;
    }
    if (download->piece != NULL || download->next == download->count || offset != download->received
        || size > total - offset) {
        return SL_OUT_OF_ORDER;
    }
    if (size > 0) {
        memcpy(download->buffer + offset, bytes, size);
    }
    download->received += size;
    if (download->received < total) {
        return SL_PENDING;
    }
    download->received = 0;
    return take_message(download, total);
}

/* ------------------------------------------------------------------------------------------------ the whole */

/* One more piece is stored and hashed. */
static sl_status go_on(sl_download *download)
{
    uint8_t digest[SL_HASH_BYTES];
    download->piece = NULL;
    download->next++;
    if (download->next < download->count) {
        return SL_PENDING;
    }
    crypto_blake2b_final(context_of(&download->hash), digest);
    if (memcmp(digest, download->reference.model_hash, SL_HASH_BYTES) != 0) {
        restart(download);
        return SL_WRONG_MODEL;
    }
    return SL_OK;
}

sl_status sl_download_stored(sl_download *download)
{
    if (download->piece == NULL) {
        return SL_OUT_OF_ORDER;
    }
    crypto_blake2b_update(context_of(&download->hash), download->piece, download->piece_size);
    return go_on(download);
}

sl_status sl_download_resume(sl_download *download, uint32_t pieces, sl_download_read read, void *context)
{
    sl_status status = SL_PENDING;
    restart(download);
    if (pieces > download->count) {
        return SL_MALFORMED;
    }
    for (uint32_t i = 0; i < pieces; i++) {
        uint32_t size = piece_size(download);
        status = read(context, piece_offset(download), download->buffer, size);
        if (status != SL_OK) {
            restart(download);
            return status;
        }
        crypto_blake2b_update(context_of(&download->hash), download->buffer, size);
        status = go_on(download);
    }
    return status;
}
