/* Little-endian numbers in byte strings, wherever they lie. */
#ifndef SANDERLING_BYTES_H
#define SANDERLING_BYTES_H

#include <stdint.h>

static inline void sl_put_u32(uint8_t *bytes, uint32_t value)
{
    for (uint32_t i = 0; i < 4; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
}

static inline uint32_t sl_get_u32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

#endif
