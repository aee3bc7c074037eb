/* Bytes from an interrupt to the program: one writer, one reader, 255 of them. Indices wrap around by themselves. */
#ifndef SANDERLING_RING_H
#define SANDERLING_RING_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint8_t bytes[256];
    volatile uint8_t head, tail; /* where the next byte is written, where it is read */
} ring;

static inline bool ring_full(const ring *r)
{
    return (uint8_t)(r->head + 1) == r->tail;
}

static inline bool ring_empty(const ring *r)
{
    return r->head == r->tail;
}

static inline void ring_put(ring *r, uint8_t byte)
{
    r->bytes[r->head] = byte;
    r->head = (uint8_t)(r->head + 1);
}

static inline int32_t ring_take(ring *r, uint8_t *bytes, uint32_t size)
{
    uint32_t taken = 0;
    while (taken < size && !ring_empty(r)) {
        bytes[taken++] = r->bytes[r->tail];
        r->tail = (uint8_t)(r->tail + 1);
    }
    return (int32_t)taken;
}

#endif
