/* The two loops in which a dense layer's training spends its time: with the DSP instructions of Cortex-M4, M33, M55, or
   without, to the same bytes. Rows of theta have 8 fraction bits below the int8 weight. */
#ifndef SANDERLING_ROWS_H
#define SANDERLING_ROWS_H

#include <stdint.h>

#include "sanderling/head.h"

/* sum of ((theta + 128) >> 8) * x */
int32_t sl_row_dot(const int16_t *theta, const int16_t *x, uint32_t count);

/* theta - ((error * x + 2048) >> 12), clamped */
void sl_row_move(int16_t *theta, const int16_t *x, int32_t error, uint32_t count);

static inline int16_t sl_theta_clamped(int32_t theta)
{
    if ((uint32_t)theta + SL_THETA_LIMIT > 2 * SL_THETA_LIMIT) {
        theta = theta < 0 ? -SL_THETA_LIMIT : SL_THETA_LIMIT;
    }
    return (int16_t)theta;
}

#endif
