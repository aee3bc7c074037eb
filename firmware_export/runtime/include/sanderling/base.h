/* Status codes and types that every part of the runtime shares. */
#ifndef SANDERLING_BASE_H
#define SANDERLING_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a function returns: at least 0 when it did its work, negative when it refused; state before is then state after. */
enum sl_statuses {
    SL_OK = 0,
    SL_PENDING = 1,               /* nothing to do yet, or more bytes are needed */
    SL_MALFORMED = -1,            /* not the message, packet or frame that it should be */
    SL_TOO_LARGE = -2,            /* longer than its kind allows, or than the buffer here */
    SL_UNKNOWN_VERSION = -3,
    SL_WRONG_FEDERATION = -4,
    SL_OLDER_ROUND = -5,          /* a plan for a round before the one at hand */
    SL_WRONG_NETWORK = -6,        /* another network than the one that was flashed */
    SL_WRONG_MODEL = -7,          /* a body of another hash than was asked for, or an older version */
    SL_WRONG_DIMENSION = -8,
    SL_UNSUPPORTED = -9,          /* the plan asks for what this firmware cannot do */
    SL_NO_EXAMPLES = -10,
    SL_BAD_SAMPLE = -11,          /* NaN, infinite, or a label that is no class */
    SL_STORAGE_FAILED = -12,
    SL_LINK_LOST = -13,
    SL_REFUSED_BY_BROKER = -14,
    SL_TIMEOUT = -15,
    SL_ARITHMETIC_DIFFERS = -16,  /* the self-test gave other bytes: the node does not join */
    SL_NO_SPACE = -17,            /* what the caller gave to write into is too small */
    SL_RANDOM_FAILED = -18,
    SL_UNEXPECTED_TOPIC = -19,
    SL_OUT_OF_ORDER = -20,        /* a duplicate, or not the part that is next */
    SL_NOT_AUTHENTIC = -21,       /* the seal or the signature does not fit */
    SL_UNPROTECTED = -22,         /* plain where a sealed or signed message is asked for */
    SL_UNKNOWN_KEY = -23,         /* sealed for another run, epoch, round or identity */
    SL_OLDER_ANNOUNCEMENT = -24   /* signed, but before one that is known */
};

typedef int32_t sl_status;

/* A name such as "wrong_model", for logs and the status message. */
const char *sl_status_name(sl_status status);

/* Overwrites `size` bytes so that no compiler leaves it out. */
void sl_wipe(void *bytes, size_t size);

#endif
