/* SHA-512 (FIPS 180-4) in pieces, which Ed25519 needs. For what is public: it is not wiped, only Monocypher's parts are. */
#ifndef SANDERLING_SHA512_H
#define SANDERLING_SHA512_H

#include "sanderling/base.h"

typedef struct {
    uint64_t state[8];
    uint64_t size;      /* bytes so far */
    uint8_t block[128]; /* those of them that do not fill a block yet */
} sl_sha512;

void sl_sha512_begin(sl_sha512 *hash);
void sl_sha512_update(sl_sha512 *hash, const uint8_t *bytes, uint32_t size);
void sl_sha512_end(sl_sha512 *hash, uint8_t digest[64]);

#endif
