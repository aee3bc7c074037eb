/* From a change of theta to 8-bit values at few coordinates. docs/arithmetic.md, "From training to update". */
#ifndef SANDERLING_COMPRESSION_H
#define SANDERLING_COMPRESSION_H

#include "sanderling/base.h"
#include "sanderling/random_bits.h"

/* What a round's updates are to be. */
typedef struct {
    uint8_t mode;           /* 0 mask, 1 top-k */
    uint32_t coordinates;   /* how many travel */
    uint32_t mask_epoch;
    uint32_t clipping_norm; /* of the update, in theta's unit; 0 is no bound */
    uint8_t scale_shift;    /* a value is in steps of 2^scale_shift */
} sl_update_rule;

/* Chosen coordinates, one after the other, ascending. */
typedef struct {
    uint32_t next, left, positions; /* the next position, coordinates and positions that are left */
    const int32_t *vector;          /* of a top-k choice, else NULL */
    uint32_t threshold, ties;       /* the least magnitude taken, and how many coordinates of just that */
    sl_key key;                     /* of a mask */
} sl_choice;

/* The round's public mask, `count` of `dimension` coordinates; 1 <= count <= dimension. */
void sl_choose_mask(sl_choice *choice, const char *federation, uint32_t mask_epoch, uint32_t dimension, uint32_t count);

/* The `count` largest magnitudes of a vector, of equals the lower coordinates. */
void sl_choose_top_k(sl_choice *choice, const int32_t *vector, uint32_t dimension, uint32_t count);

/* The next coordinate, to be called as often as there are coordinates. */
uint32_t sl_next_coordinate(sl_choice *choice);

/* floor(sqrt(x)) */
uint32_t sl_square_root(uint64_t x);

uint64_t sl_squared_norm(const int32_t *values, uint32_t count);

/* Scales the values down, toward zero, to an L2 norm of at most `norm`; 0 is no bound. */
void sl_clip(int32_t *values, uint32_t count, uint32_t norm);

/* Values become steps of 2^scale_shift in +-127, rounded at random, whose norm stays within clipping_norm. */
void sl_quantize(int32_t *values, uint32_t count, const sl_update_rule *rule, sl_key key);

#endif
