#include "sanderling/guard.h"

static sl_status reserve(void *context, uint64_t mark)
{
    sl_sealing *sealing = context;
    return sealing->keep(sealing->context, mark, sealing->newest);
}

static sl_status seal(void *context, const char *run, uint32_t epoch, const sl_subject *subject, const uint8_t *message,
                      uint32_t size, uint8_t *sealed, uint32_t capacity, uint32_t *sealed_size)
{
    sl_sealing *sealing = context;
    sl_epoch_key key;
    uint64_t counter;
    sl_status status =
        sl_epoch_key_derive(&key, sealing->pair_key, sealing->federation, sealing->device, run, epoch);
    if (status == SL_OK) {
        status = sl_nonce_take(&sealing->nonces, reserve, sealing, &counter);
    }
    if (status == SL_OK) {
        status = sl_seal(&key, subject, counter, message, size, sealed, capacity, sealed_size);
    }
    sl_wipe(&key, sizeof key);
    return status;
}

static sl_status begin(void *context, uint8_t kind, uint32_t total)
{
    sl_sealing *sealing = context;
    return sl_announcement_begin(&sealing->announcement, sealing->federation, kind, sealing->coordinator, total);
}

static sl_status feed(void *context, const uint8_t *bytes, uint32_t size, const uint8_t **payload, uint32_t *payload_size)
{
    sl_sealing *sealing = context;
    return sl_announcement_feed(&sealing->announcement, bytes, size, payload, payload_size);
}

static sl_status end(void *context)
{
    sl_sealing *sealing = context;
    uint64_t sequence;
    sl_status status = sl_announcement_end(&sealing->announcement, sealing->newest, &sequence);
    if (status != SL_OK || sequence == sealing->newest) {
        return status;
    }
    status = sealing->keep(sealing->context, sealing->nonces.mark, sequence);
    if (status == SL_OK) {
        sealing->newest = sequence;
    }
    return status;
}

void sl_sealing_guard(sl_sealing *sealing, sl_guard *guard)
{
    guard->context = sealing;
    guard->seal = seal;
    guard->begin = begin;
    guard->feed = feed;
    guard->end = end;
}
