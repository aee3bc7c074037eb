#include "sanderling/announcement.h"

#include <string.h>

#include "cose.h"
#include "monocypher.h"

enum {
    FIRST_BYTE = 0x11, /* version 1 */
    PLAIN = 0x80,
    SEQUENCE_BYTES = 6,
    SIGNATURE_PLACE = 1 + SEQUENCE_BYTES,
    NAME_BYTES = 64,
    FRAME_BYTES = 160 /* of the Sig_structure before the payload: at most 136 */
};

static uint64_t sequence_of(const sl_announcement *announcement)
{
    uint64_t sequence = 0;
    for (uint32_t i = 0; i < SEQUENCE_BYTES; i++) {
        sequence = sequence << 8 | announcement->head[1 + i];
    }
    return sequence;
}

static void put_headers(sl_cbor_writer *writer, uint64_t sequence)
{
    sl_cbor_put(writer, SL_CBOR_MAP, 2);
    sl_cbor_put(writer, SL_CBOR_UINT, COSE_ALGORITHM);
    sl_cbor_put(writer, CBOR_NEGATIVE, COSE_EDDSA);
    sl_cbor_put(writer, CBOR_NEGATIVE, COSE_SEQUENCE);
    sl_cbor_put(writer, SL_CBOR_UINT, sequence);
}

static void put_external(sl_cbor_writer *writer, const char *federation, uint8_t kind)
{
    sl_cbor_put(writer, SL_CBOR_ARRAY, 3);
    sl_cbor_put_text(writer, "sanderling announcement 1");
    sl_cbor_put_text(writer, federation);
    sl_cbor_put(writer, SL_CBOR_UINT, kind);
}

/* Sig_structure (RFC 9052, 4.4) up to its payload. */
static void put_signed(sl_cbor_writer *writer, const sl_announcement *announcement)
{
    sl_cbor_writer headers = {NULL, 0, 0}, external = {NULL, 0, 0};
    uint64_t sequence = sequence_of(announcement);
    put_headers(&headers, sequence);
    put_external(&external, announcement->federation, announcement->kind);
    sl_cbor_put(writer, SL_CBOR_ARRAY, 4);
    sl_cbor_put_text(writer, "Signature1");
    sl_cbor_put(writer, SL_CBOR_BYTES, headers.size);
    put_headers(writer, sequence);
    sl_cbor_put(writer, SL_CBOR_BYTES, external.size);
    put_external(writer, announcement->federation, announcement->kind);
    sl_cbor_put(writer, SL_CBOR_BYTES, announcement->total - SL_ANNOUNCEMENT_HEAD_BYTES);
}

/* SHA-512(R, A, message), RFC 8032, 5.1.7, up to the payload. */
static void begin_hash(sl_announcement *announcement)
{
    uint8_t frame[FRAME_BYTES];
    sl_cbor_writer writer = {frame, sizeof frame, 0};
    put_signed(&writer, announcement);
    sl_sha512_begin(&announcement->hash);
    sl_sha512_update(&announcement->hash, announcement->head + SIGNATURE_PLACE, 32);
    sl_sha512_update(&announcement->hash, announcement->coordinator, 32);
    sl_sha512_update(&announcement->hash, frame, writer.size);
}

sl_status sl_announcement_begin(sl_announcement *announcement, const char *federation, uint8_t kind,
                                const uint8_t *coordinator, uint32_t total)
{
    if (strlen(federation) > NAME_BYTES) {
        return SL_MALFORMED;
    }
    memset(announcement, 0, sizeof *announcement);
    announcement->federation = federation;
    announcement->kind = kind;
    announcement->coordinator = coordinator;
    announcement->total = total;
    return SL_OK;
}

/* What the head says, once it is whole or cannot become it. */
static sl_status check_head(const sl_announcement *announcement)
{
    uint8_t first = announcement->head[0];
    if (first >= PLAIN) {
        return SL_UNPROTECTED;
    }
    if (first != FIRST_BYTE) {
        return SL_UNKNOWN_VERSION;
    }
    bool whole = announcement->total >= SL_ANNOUNCEMENT_HEAD_BYTES && sequence_of(announcement) > 0;
    return whole ? SL_OK : SL_MALFORMED;
}

sl_status sl_announcement_feed(sl_announcement *announcement, const uint8_t *bytes, uint32_t size,
                               const uint8_t **payload, uint32_t *payload_size)
{
    *payload_size = 0;
    if (announcement->status != SL_OK) {
        return announcement->status;
    }
    if (size > announcement->total - announcement->place) {
        return announcement->status = SL_MALFORMED;
    }
    uint32_t missing = announcement->place < SL_ANNOUNCEMENT_HEAD_BYTES
                           ? SL_ANNOUNCEMENT_HEAD_BYTES - announcement->place : 0;
    uint32_t of_head = size < missing ? size : missing;
    memcpy(announcement->head + SL_ANNOUNCEMENT_HEAD_BYTES - missing, bytes, of_head);
    announcement->place += size;
    if (of_head > 0 && (of_head == missing || announcement->place == announcement->total)) {
        announcement->status = check_head(announcement);
        if (announcement->status != SL_OK) {
            return announcement->status;
        }
        begin_hash(announcement);
    }
    *payload = bytes + of_head;
    *payload_size = size - of_head;
    sl_sha512_update(&announcement->hash, *payload, *payload_size);
    return SL_OK;
}

sl_status sl_announcement_end(sl_announcement *announcement, uint64_t newest, uint64_t *sequence)
{
    if (announcement->status != SL_OK) {
        return announcement->status;
    }
    if (announcement->total == 0) {
        return SL_UNPROTECTED;
    }
    if (announcement->place < announcement->total) {
        return SL_MALFORMED;
    }
    uint8_t digest[64], scalar[32];
    sl_sha512_end(&announcement->hash, digest);
    crypto_eddsa_reduce(scalar, digest);
    /* Monocypher's own check hashes with BLAKE2b; its equation takes any hash, so with SHA-512 this is Ed25519. */
    if (crypto_eddsa_check_equation(announcement->head + SIGNATURE_PLACE, announcement->coordinator, scalar) != 0) {
        return SL_NOT_AUTHENTIC;
    }
    uint64_t signed_sequence = sequence_of(announcement);
    if (signed_sequence < newest) {
        return SL_OLDER_ANNOUNCEMENT;
    }
    *sequence = signed_sequence;
    return SL_OK;
}
