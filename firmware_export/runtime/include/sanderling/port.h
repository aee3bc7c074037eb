/* What a board gives the runtime: one struct of function pointers. To port to a new board, write these in one file. */
#ifndef SANDERLING_PORT_H
#define SANDERLING_PORT_H

#include "sanderling/base.h"

/* Where a sample belongs. A node trains on SL_TRAIN, reports on the others. */
enum sl_split { SL_TRAIN = 0, SL_VALIDATION = 1, SL_TEST = 2 };

typedef struct {
    uint16_t label;
    uint8_t split;
} sl_sample;

enum { SL_STORAGE_AREAS = 4 };

typedef struct {
    void *context; /* handed to each function */

    /* The byte stream of the link. Both return at once with how many bytes they moved, 0 when none can be moved now, or
       a negative sl_status. */
    int32_t (*read)(void *context, uint8_t *bytes, uint32_t size);
    int32_t (*write)(void *context, const uint8_t *bytes, uint32_t size);

    /* Milliseconds since some moment; wraps around. */
    uint32_t (*now_ms)(void *context);

    /* Bytes that nobody can guess, or SL_RANDOM_FAILED. */
    sl_status (*random)(void *context, uint8_t *bytes, uint32_t size);

    /* Memory that outlives a loss of power: SL_STORAGE_AREAS areas of `area_bytes`, each erased as a whole (a flash sector,
       or a part of a file). Between two erasures each byte is written at most once, in multiples of 8 bytes at multiples
       of 8. SL_OK or SL_STORAGE_FAILED. */
    uint32_t area_bytes;
    sl_status (*storage_read)(void *context, uint32_t area, uint32_t offset, uint8_t *bytes, uint32_t size);
    sl_status (*storage_write)(void *context, uint32_t area, uint32_t offset, const uint8_t *bytes, uint32_t size);
    sl_status (*storage_erase)(void *context, uint32_t area);

    /* The next window of sensor values, `count` floats in the network's order, and what it is: SL_OK, SL_PENDING where there
       is none now, or an error, which drops this window. */
    sl_status (*sample)(void *context, float *window, uint32_t count, sl_sample *about);

    /* A line for people; may do nothing. */
    void (*log)(void *context, const char *line);
} sl_port;

#endif
