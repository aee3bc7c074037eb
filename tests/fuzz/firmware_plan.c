/* A round plan in any pieces: the pieces do not matter, and what is refused changes nothing. */
#include "firmware_input.h"
#include "sanderling/messages.h"

static sl_status read_plan(const uint8_t *bytes, uint32_t size, uint32_t piece, sl_plan *plan)
{
    sl_plan_reader reader;
    sl_status status = sl_plan_begin(&reader, "watch", "p5", size);
    for (uint32_t place = 0; status == SL_OK && place < size; place += piece) {
        uint32_t part = size - place < piece ? size - place : piece;
        uint8_t *copy = malloc(part);
        memcpy(copy, bytes + place, part);
        status = sl_plan_feed(&reader, copy, part);
        free(copy);
    }
    return sl_plan_end(&reader, plan);
}

static void check_plan(const sl_plan *plan)
{
    LAW(sl_is_name(plan->run));
    LAW(plan->phase <= SL_PHASE_FINISHED && plan->arithmetic <= SL_ARITHMETIC_FAST);
    LAW(plan->evaluate_count <= SL_MAX_EVALUATED);
    LAW(plan->training.epochs > 0 && plan->training.batch_size > 0);
    LAW(plan->update.mode <= SL_MODE_TOPK && plan->update.coordinates <= SL_MAX_DIMENSION);
    LAW(plan->update.scale_shift <= 16);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, (uint32_t)size};
    uint32_t piece = take_choice(&in) % 64u + 1;
    sl_plan untouched, whole, pieces;
    memset(&untouched, 0xA5, sizeof untouched);
    whole = untouched;
    pieces = untouched;
    sl_status status = read_plan(in.bytes, in.size, in.size + 1, &whole);
    LAW(read_plan(in.bytes, in.size, piece, &pieces) == status);
    LAW(memcmp(&whole, &pieces, sizeof whole) == 0);
    LAW(status <= SL_OK);
    if (status == SL_OK) {
        check_plan(&whole);
    } else {
        LAW(memcmp(&whole, &untouched, sizeof whole) == 0);
    }
    return 0;
}
