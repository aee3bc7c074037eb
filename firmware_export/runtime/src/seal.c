#include "sanderling/seal.h"

#include <string.h>

#include "cose.h"
#include "monocypher.h"

enum {
    FIRST_BYTE = 0x10, /* version 1 */
    PLAIN = 0x80,      /* what messages in plain text begin with, or more */
    CHECK_BYTES = 16,
    TAG_BYTES = 4,
    IV_BYTES = 12,
    LARGEST_HEAD = SL_SEAL_OVERHEAD - CHECK_BYTES,
    LEB128_BYTES = 7,
    NAME_BYTES = 64,
    AAD_BYTES = 300 /* with three names of 64 bytes: 292 */
};

static const uint64_t largest_counter = ((uint64_t)1 << 48) - 1;

sl_status sl_pair_key(const uint8_t secret[32], const uint8_t coordinator[32], uint8_t pair_key[32])
{
    static const uint8_t purpose[] = "sanderling pair 1", zero[32] = {0};
    uint8_t shared[32], device[32];
    crypto_x25519(shared, secret, coordinator);
    sl_status status = crypto_verify32(shared, zero) == 0 ? SL_NOT_AUTHENTIC : SL_OK;
    if (status == SL_OK) {
        crypto_blake2b_ctx hash;
        crypto_x25519_public_key(device, secret);
        crypto_blake2b_init(&hash, 32);
        crypto_blake2b_update(&hash, purpose, sizeof purpose - 1);
        crypto_blake2b_update(&hash, shared, sizeof shared);
        crypto_blake2b_update(&hash, device, sizeof device);
        crypto_blake2b_update(&hash, coordinator, 32);
        crypto_blake2b_final(&hash, pair_key);
    }
    sl_wipe(shared, sizeof shared);
    return status;
}

static void put_epoch(sl_cbor_writer *writer, const char *federation, const char *device, const char *run, uint32_t epoch)
{
    sl_cbor_put_text(writer, federation);
    sl_cbor_put_text(writer, device);
    sl_cbor_put_text(writer, run);
    sl_cbor_put(writer, SL_CBOR_UINT, epoch);
}

sl_status sl_epoch_key_derive(sl_epoch_key *key, const uint8_t pair_key[32], const char *federation, const char *device,
                              const char *run, uint32_t epoch)
{
    if (strlen(federation) > NAME_BYTES || strlen(device) > NAME_BYTES || strlen(run) > NAME_BYTES) {
        return SL_MALFORMED;
    }
    uint8_t about[AAD_BYTES], derived[32 + IV_BYTES + TAG_BYTES];
    sl_cbor_writer writer = {about, sizeof about, 0};
    sl_cbor_put(&writer, SL_CBOR_ARRAY, 5);
    sl_cbor_put_text(&writer, "sanderling key 1");
    put_epoch(&writer, federation, device, run, epoch);
    crypto_blake2b_keyed(derived, sizeof derived, pair_key, 32, about, writer.size);
    key->federation = federation;
    key->device = device;
    key->run = run;
    key->epoch = epoch;
    memcpy(key->secret, derived, 32);
    memcpy(key->base_iv, derived + 32, IV_BYTES);
    memcpy(key->tag, derived + 32 + IV_BYTES, TAG_BYTES);
    sl_wipe(derived, sizeof derived);
    return SL_OK;
}

static void put_external(sl_cbor_writer *writer, const sl_epoch_key *key, const sl_subject *subject)
{
    sl_cbor_put(writer, SL_CBOR_ARRAY, 9);
    sl_cbor_put_text(writer, "sanderling seal 1");
    put_epoch(writer, key->federation, key->device, key->run, key->epoch);
    sl_cbor_put(writer, SL_CBOR_UINT, subject->round);
    sl_cbor_put_bytes(writer, subject->model_hash, 32);
    sl_cbor_put(writer, SL_CBOR_UINT, subject->kind);
    sl_cbor_put(writer, SL_CBOR_UINT, subject->codec);
}

/* Enc_structure (RFC 9052, 5.3), whose headers name algorithm and key; returns its size. */
static uint32_t put_authenticated(uint8_t aad[AAD_BYTES], const sl_epoch_key *key, const sl_subject *subject)
{
    sl_cbor_writer counted = {NULL, 0, 0}, writer = {aad, AAD_BYTES, 0};
    put_external(&counted, key, subject);
    sl_cbor_put(&writer, SL_CBOR_ARRAY, 3);
    sl_cbor_put_text(&writer, "Encrypt0");
    sl_cbor_put(&writer, SL_CBOR_BYTES, 5 + TAG_BYTES + 4 + 1);
    sl_cbor_put(&writer, SL_CBOR_MAP, 2);
    sl_cbor_put(&writer, SL_CBOR_UINT, COSE_ALGORITHM);
    sl_cbor_put(&writer, SL_CBOR_UINT, COSE_CHACHA20_POLY1305);
    sl_cbor_put(&writer, SL_CBOR_UINT, COSE_KEY_ID);
    uint8_t id[TAG_BYTES + 4];
    memcpy(id, key->tag, TAG_BYTES);
    for (uint32_t i = 0; i < 4; i++) {
        id[TAG_BYTES + i] = (uint8_t)(subject->round >> (24 - 8 * i));
    }
    sl_cbor_put_bytes(&writer, id, sizeof id);
    sl_cbor_put(&writer, SL_CBOR_BYTES, counted.size);
    put_external(&writer, key, subject);
    return writer.size;
}

/* The cipher at its beginning: the nonce is the base IV, exclusive or the counter (RFC 9052, "Partial IV"). */
static void begin_cipher(crypto_aead_ctx *cipher, const sl_epoch_key *key, uint64_t counter)
{
    uint8_t nonce[IV_BYTES];
    memcpy(nonce, key->base_iv, IV_BYTES);
    for (uint32_t i = 0; i < 8; i++) {
        nonce[IV_BYTES - 1 - i] ^= (uint8_t)(counter >> (8 * i));
    }
    crypto_aead_init_ietf(cipher, key->secret, nonce);
    sl_wipe(nonce, sizeof nonce);
}

static uint32_t put_leb128(uint8_t *bytes, uint64_t value)
{
    uint32_t size = 0;
    while (value >= 0x80) {
        bytes[size++] = (uint8_t)((value & 0x7F) | 0x80);
        value >>= 7;
    }
    bytes[size++] = (uint8_t)value;
    return size;
}

sl_status sl_seal(const sl_epoch_key *key, const sl_subject *subject, uint64_t counter, const uint8_t *message,
                  uint32_t size, uint8_t *sealed, uint32_t capacity, uint32_t *sealed_size)
{
    if (counter == 0 || counter > largest_counter) {
        return SL_NO_SPACE;
    }
    uint8_t head[LARGEST_HEAD], aad[AAD_BYTES];
    uint32_t head_size = 1;
    head[0] = FIRST_BYTE;
    head_size += put_leb128(head + head_size, counter);
    head_size += put_leb128(head + head_size, subject->round);
    memcpy(head + head_size, key->tag, TAG_BYTES);
    head_size += TAG_BYTES;
    if (capacity < head_size + CHECK_BYTES || size > capacity - head_size - CHECK_BYTES) {
        return SL_NO_SPACE;
    }
    uint32_t aad_size = put_authenticated(aad, key, subject);
    uint8_t *content = sealed + head_size;
    memmove(content, message, size);
    memcpy(sealed, head, head_size);
    crypto_aead_ctx cipher;
    begin_cipher(&cipher, key, counter);
    crypto_aead_write(&cipher, content, content + size, aad, aad_size, content, size);
    sl_wipe(&cipher, sizeof cipher);
    *sealed_size = head_size + size + CHECK_BYTES;
    return SL_OK;
}

/* A number in its shortest form, at most `most`; false where there is none. */
static bool get_leb128(const uint8_t *bytes, uint32_t size, uint32_t *place, uint64_t most, uint64_t *value)
{
    *value = 0;
    for (uint32_t i = 0; i < LEB128_BYTES && *place < size; i++) {
        uint8_t byte = bytes[(*place)++];
        *value |= (uint64_t)(byte & 0x7F) << (7 * i);
        if (byte < 0x80) {
            return *value <= most && (i == 0 || byte != 0);
        }
    }
    return false;
}

sl_status sl_unseal(const sl_epoch_key *key, const sl_subject *subject, uint8_t *sealed, uint32_t size,
                    uint8_t **message, uint32_t *message_size, uint64_t *counter)
{
    if (size == 0 || sealed[0] >= PLAIN) {
        return SL_UNPROTECTED;
    }
    if (sealed[0] != FIRST_BYTE) {
        return SL_UNKNOWN_VERSION;
    }
    uint32_t place = 1;
    uint64_t number, round;
    if (!get_leb128(sealed, size, &place, largest_counter, &number) || number == 0 ||
        !get_leb128(sealed, size, &place, UINT32_MAX, &round) || size - place < TAG_BYTES + CHECK_BYTES) {
        return SL_MALFORMED;
    }
    if (round != subject->round || memcmp(sealed + place, key->tag, TAG_BYTES) != 0) {
        return SL_UNKNOWN_KEY;
    }
    uint8_t aad[AAD_BYTES], *content = sealed + place + TAG_BYTES;
    uint32_t aad_size = put_authenticated(aad, key, subject);
    uint32_t content_size = size - place - TAG_BYTES - CHECK_BYTES;
    crypto_aead_ctx cipher;
    begin_cipher(&cipher, key, number);
    int differs = crypto_aead_read(&cipher, content, content + content_size, aad, aad_size, content, content_size);
    sl_wipe(&cipher, sizeof cipher);
    if (differs != 0) {
        return SL_NOT_AUTHENTIC;
    }
    *message = content;
    *message_size = content_size;
    *counter = number;
    return SL_OK;
}

sl_status sl_nonce_take(sl_nonces *nonces, sl_status (*reserve)(void *context, uint64_t mark), void *context,
                        uint64_t *counter)
{
    if (nonces->used == nonces->mark) {
        uint64_t left = largest_counter - nonces->mark;
        uint64_t mark = nonces->mark + (left < SL_NONCE_BLOCK ? left : SL_NONCE_BLOCK);
        sl_status status = left == 0 ? SL_NO_SPACE : reserve(context, mark);
        if (status != SL_OK) {
            return status;
        }
        nonces->mark = mark;
    }
    nonces->used++;
    *counter = nonces->used;
    return SL_OK;
}
