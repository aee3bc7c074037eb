/* Seals an update and checks a signed plan as the reference does, between marks; exits with the first step that differs. */
#include <string.h>

#include "board.h"
#include "sanderling/announcement.h"
#include "sanderling/seal.h"
#include "seal_vectors.h"

static int seals(void)
{
    static uint8_t buffer[sizeof sealed];
    uint8_t pair[32];
    sl_epoch_key key;
    sl_subject subject = {model_hash, SEALED_ROUND, SL_SEAL_UPDATE, 1};
    uint32_t size = 0;
    memcpy(buffer, message, sizeof message);
    sl_status status = sl_pair_key(device_secret, coordinator, pair);
    board_mark();
    if (status != SL_OK || memcmp(pair, pair_key, sizeof pair) != 0) {
        return 1;
    }
    board_mark();
    status = sl_epoch_key_derive(&key, pair, "watch", "pi-3", "k3v9q2ax", SEALED_EPOCH);
    if (status == SL_OK) {
        status = sl_seal(&key, &subject, SEALED_COUNTER, buffer, sizeof message, buffer, sizeof buffer, &size);
    }
    board_mark();
    return status == SL_OK && size == sizeof sealed && memcmp(buffer, sealed, size) == 0 ? 0 : 2;
}

static int verifies(void)
{
    static sl_announcement check;
    const uint8_t *payload;
    uint32_t size;
    uint64_t sequence = 0;
    board_mark();
    sl_status status = sl_announcement_begin(&check, "watch", SL_ANNOUNCED_PLAN, signer, sizeof plan);
    if (status == SL_OK) {
        status = sl_announcement_feed(&check, plan, sizeof plan, &payload, &size);
    }
    if (status == SL_OK) {
        status = sl_announcement_end(&check, 0, &sequence);
    }
    board_mark();
    return status == SL_OK && sequence == PLAN_SEQUENCE ? 0 : 3;
}

int application(void)
{
    board_start();
    board_mark();
    board_mark();
    board_paint_stack();
    int different = seals();
    if (different == 0) {
        different = verifies();
    }
    return different != 0 ? different : board_stack_used() < 1900 ? 0 : 4;
}
