#include "sanderling/base.h"

const char *sl_status_name(sl_status status)
{
    static const char *const names[] = {
        "ok",
        "malformed",
        "too_large",
        "unknown_version",
        "wrong_federation",
        "older_round",
        "wrong_network",
        "wrong_model",
        "wrong_dimension",
        "unsupported",
        "no_examples",
        "bad_sample",
        "storage_failed",
        "link_lost",
        "refused_by_broker",
        "timeout",
        "arithmetic_differs",
        "no_space",
        "random_failed",
        "unexpected_topic",
        "out_of_order",
        "not_authentic",
        "unprotected",
        "unknown_key",
        "older_announcement",
    };
    const int32_t count = (int32_t)(sizeof names / sizeof names[0]);
    if (status > 0) {
        return "pending";
    }
    return -status < count ? names[-status] : "unknown";
}

void sl_wipe(void *bytes, size_t size)
{
    volatile uint8_t *at = bytes;
    while (size-- > 0) {
        *at++ = 0;
    }
}
