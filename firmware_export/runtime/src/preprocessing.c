#include "sanderling/preprocessing.h"

static int8_t rounded(float steps)
{
    if (steps >= 127.0f) {
        return 127;
    }
    if (steps <= -128.0f) {
        return -128;
    }
    int32_t whole = (int32_t)steps;
    float rest = steps - (float)whole; /* exact */
    if (rest >= 0.5f) {
        whole += 1;
    } else if (rest <= -0.5f) {
        whole -= 1;
    }
    return (int8_t)whole;
}

sl_status sl_quantize_input(const sl_preprocessing *preprocessing, const float *values, uint32_t count, int8_t *quantized)
{
    for (uint32_t i = 0; i < count; i++) {
        /* NaN compares as false with everything. */
        if (!(values[i] >= preprocessing->low && values[i] <= preprocessing->high)) {
            return SL_BAD_SAMPLE;
        }
    }
    for (uint32_t i = 0, channel = 0; i < count; i++) {
        /* Two statements: no compiler may fuse them into one rounding. */
        float centred = values[i] - preprocessing->mean[channel];
        float steps = centred * preprocessing->gain[channel];
        quantized[i] = rounded(steps);
        channel = channel + 1 == preprocessing->channels ? 0 : channel + 1;
    }
    return SL_OK;
}
