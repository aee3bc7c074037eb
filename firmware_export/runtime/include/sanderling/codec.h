/* How a quantised update becomes bytes, and back. docs/wire.md, "Update codec 1". */
#ifndef SANDERLING_CODEC_H
#define SANDERLING_CODEC_H

#include "sanderling/base.h"

/* `count` of `dimension` coordinates, ascending, and a value -127..127 for each. */
typedef struct {
    uint32_t dimension, count;
    uint32_t *coordinates; /* NULL where the receiver knows them */
    int8_t *values;
    uint8_t scale_shift;
} sl_quantized_update;

/* Bytes of the update, at most `capacity`, into *size. SL_NO_SPACE where they are more. */
sl_status sl_codec_encode(const sl_quantized_update *update, uint8_t *bytes, uint32_t capacity, uint32_t *size);

/* The update in `bytes`, into the arrays of `update`, which says on entry its dimension, whether coordinates travel, and by
   `count` how many values it has (coordinates that are known) or may have (that travel), which the arrays have room for.
   SL_UNKNOWN_VERSION, and SL_MALFORMED for anything but the one encoding of such an update; arrays are then undefined. */
sl_status sl_codec_decode(const uint8_t *bytes, uint32_t size, sl_quantized_update *update);

#endif
