/* Which part of a window lies inside the image. */
#ifndef SANDERLING_WINDOWS_H
#define SANDERLING_WINDOWS_H

#include "sanderling/kernels.h"

/* Places first..last-1 of the window's along one axis; the first of them lies at `at` in the image. */
typedef struct {
    uint32_t first, last, at;
} sl_span;

static inline sl_span sl_inside(uint32_t position, uint32_t stride, uint32_t before, uint32_t window, uint32_t dilation,
                                uint32_t size)
{
    const int32_t start = (int32_t)(position * stride) - (int32_t)before;
    sl_span span = {0, window, 0};
    int32_t at = start;
    while (at < 0 && span.first < window) {
        at += (int32_t)dilation;
        span.first++;
    }
    while (span.last > span.first && start + (int32_t)((span.last - 1) * dilation) >= (int32_t)size) {
        span.last--;
    }
    span.at = span.last > span.first ? (uint32_t)at : 0;
    return span;
}

static inline sl_span sl_rows_inside(const sl_windows *w, uint32_t row)
{
    return sl_inside(row, w->stride_y, w->top, w->window_height, w->dilation_y, w->height);
}

static inline sl_span sl_columns_inside(const sl_windows *w, uint32_t column)
{
    return sl_inside(column, w->stride_x, w->left, w->window_width, w->dilation_x, w->width);
}

#endif
