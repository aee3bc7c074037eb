/* The parts of COSE objects that do not travel but are computed over (RFC 9052, RFC 9053). */
#ifndef SANDERLING_COSE_H
#define SANDERLING_COSE_H

#include "sanderling/cbor.h"

enum {
    COSE_ALGORITHM = 1, /* header parameters */
    COSE_KEY_ID = 4,
    COSE_CHACHA20_POLY1305 = 24,
    COSE_EDDSA = 7,      /* -8, as CBOR counts negative numbers */
    COSE_SEQUENCE = 65536, /* -65537, ours */
    CBOR_NEGATIVE = 1,   /* major type, which messages do not have */
};

#endif
