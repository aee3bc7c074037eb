/* From what a sensor gives to a network's int8 input, as models/preprocessing.py: q = saturate(round((x - mean) * gain)),
   each operation one of IEEE 754 float32, halves away from zero. */
#ifndef SANDERLING_PREPROCESSING_H
#define SANDERLING_PREPROCESSING_H

#include "sanderling/base.h"

typedef struct {
    uint32_t channels;
    const float *mean; /* of each channel */
    const float *gain;
    float low;         /* what lies outside low..high is no reading of this sensor */
    float high;
} sl_preprocessing;

/* `count` values, channels innermost. SL_BAD_SAMPLE, with nothing written, for NaN, infinity and what is out of range. */
sl_status sl_quantize_input(const sl_preprocessing *preprocessing, const float *values, uint32_t count, int8_t *quantized);

#endif
