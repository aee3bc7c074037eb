/* An encoded update that is anything: what is accepted has just that encoding. */
#include "firmware_input.h"
#include "sanderling/codec.h"

enum { MOST = 600 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, (uint32_t)size};
    uint8_t choice = take_choice(&in);
    uint32_t dimension = 1 + ((uint32_t)take_choice(&in) << 1 | (choice & 1u)), count = take_choice(&in), part, written;
    count = count < dimension ? count : dimension;
    bool travel = (choice & 2) != 0;
    uint32_t *coordinates = malloc((count + 1) * sizeof *coordinates);
    int8_t *values = malloc(count + 1u);
    sl_quantized_update update = {dimension, count, travel ? coordinates : NULL, values, 0};
    uint8_t *block = take_block(&in, MOST, &part);
    sl_status status = sl_codec_decode(block, part, &update);
    LAW(status == SL_OK || status == SL_MALFORMED || status == SL_UNKNOWN_VERSION);
    if (status == SL_OK) {
        LAW(update.count <= count && update.dimension == dimension && (travel || update.count == count));
        for (uint32_t i = 0; travel && i < update.count; i++) {
            LAW(coordinates[i] < dimension && (i == 0 || coordinates[i - 1] < coordinates[i]));
        }
        uint8_t *again = malloc(part + 1u);
        LAW(sl_codec_encode(&update, again, part, &written) == SL_OK);
        LAW(written == part && memcmp(block, again, part) == 0);
        free(again);
    }
    free(block);
    free(coordinates);
    free(values);
    return 0;
}
