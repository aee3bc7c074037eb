/* Messages that only the coordinator can read, and only this device can have written: docs/wire.md, "Sealing".

   ChaCha20-Poly1305 (RFC 8439) under a key of X25519 (RFC 7748) and BLAKE2b, as COSE_Encrypt0. Bytes equal broker/sealing.py. */
#ifndef SANDERLING_SEAL_H
#define SANDERLING_SEAL_H

#include "sanderling/base.h"

enum {
    SL_SEAL_OVERHEAD = 33, /* bytes that a seal adds at most; with a small counter and round 23 */
    SL_NONCE_BLOCK = 64    /* nonces of one reservation, so of one write to storage */
};

enum { SL_SEAL_UPDATE = 1, SL_SEAL_EVALUATION = 2 };

/* The key of one epoch of one run. The texts are not copied: they outlive it. */
typedef struct {
    const char *federation;
    const char *device;
    const char *run;
    uint32_t epoch; /* the plan's mask epoch */
    uint8_t secret[32];
    uint8_t base_iv[12];
    uint8_t tag[4]; /* names the key on the wire */
} sl_epoch_key;

/* What a message is about besides what its key says; from the signed plan. */
typedef struct {
    const uint8_t *model_hash; /* 32 bytes */
    uint32_t round;
    uint8_t kind;  /* SL_SEAL_UPDATE or SL_SEAL_EVALUATION */
    uint8_t codec; /* version of the update codec */
} sl_subject;

/* What only this device and its coordinator can know. SL_NOT_AUTHENTIC for a coordinator's key of low order. */
sl_status sl_pair_key(const uint8_t secret[32], const uint8_t coordinator[32], uint8_t pair_key[32]);

/* SL_MALFORMED where a text is no name. */
sl_status sl_epoch_key_derive(sl_epoch_key *key, const uint8_t pair_key[32], const char *federation, const char *device,
                              const char *run, uint32_t epoch);

/* Seals the message into `sealed`, in which it may lie already, anywhere. The counter comes from sl_nonce_take. SL_NO_SPACE. */
sl_status sl_seal(const sl_epoch_key *key, const sl_subject *subject, uint64_t counter, const uint8_t *message,
                  uint32_t size, uint8_t *sealed, uint32_t capacity, uint32_t *sealed_size);

/* Opens in place: the message lies inside `sealed`. SL_UNPROTECTED, SL_UNKNOWN_VERSION, SL_MALFORMED, SL_UNKNOWN_KEY
   (another key or round) or SL_NOT_AUTHENTIC; then `sealed` is as it was. */
sl_status sl_unseal(const sl_epoch_key *key, const sl_subject *subject, uint8_t *sealed, uint32_t size,
                    uint8_t **message, uint32_t *message_size, uint64_t *counter);

/* Nonces of one key: `used` was the last one, and all up to `mark` are reserved durably. After a restart both are the mark
   that storage holds; where it holds none, the device must not begin again at 0, but enrol with a new key. */
typedef struct {
    uint64_t used;
    uint64_t mark;
} sl_nonces;

/* A number never given before. `reserve` returns SL_OK once the new mark is durable; what else it returns is returned, and
   no number is given. SL_NO_SPACE when they are used up. */
sl_status sl_nonce_take(sl_nonces *nonces, sl_status (*reserve)(void *context, uint64_t mark), void *context,
                        uint64_t *counter);

#endif
