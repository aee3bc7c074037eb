/* The fuzzer's bytes as choices, and the laws that must hold. */
#ifndef FIRMWARE_INPUT_H
#define FIRMWARE_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAW(holds)                                                                                                     \
    do {                                                                                                               \
        if (!(holds)) {                                                                                                \
            fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #holds);                                        \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

typedef struct {
    const uint8_t *bytes;
    uint32_t size;
} input;

static inline uint8_t take_choice(input *in)
{
    if (in->size == 0) {
        return 0;
    }
    in->size--;
    return *in->bytes++;
}

/* Up to `most` bytes in a block of memory of their own, so that a read beyond them is seen. To be freed. */
static inline uint8_t *take_block(input *in, uint32_t most, uint32_t *size)
{
    *size = in->size < most ? in->size : most;
    uint8_t *block = malloc(*size > 0 ? *size : 1);
    memcpy(block, in->bytes, *size);
    in->bytes += *size;
    in->size -= *size;
    return block;
}

#endif
