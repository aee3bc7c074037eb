#include "loops.h"
#include "requantise.h"
#include "sanderling/kernels.h"
#include "windows.h"

static int32_t average(const int8_t *x, uint32_t high, uint32_t wide, uint32_t step, uint32_t row)
{
    const int32_t count = (int32_t)(high * wide);
    int32_t sum = 0;
    for (uint32_t i = 0; i < high; i++, x += row) {
        for (uint32_t j = 0; j < wide; j++) {
            sum += x[j * step];
        }
    }
    return (sum < 0 ? sum - count / 2 : sum + count / 2) / count;
}

static int32_t largest(const int8_t *x, uint32_t high, uint32_t wide, uint32_t step, uint32_t row)
{
    int32_t most = INT8_MIN;
    for (uint32_t i = 0; i < high; i++, x += row) {
        for (uint32_t j = 0; j < wide; j++) {
            most = x[j * step] > most ? x[j * step] : most;
        }
    }
    return most;
}

typedef int32_t (*reduction)(const int8_t *x, uint32_t high, uint32_t wide, uint32_t step, uint32_t row);

static void pool(const sl_node *node, int8_t *arena, reduction reduce)
{
    const sl_pool_parameters *p = node->parameters;
    const sl_windows *w = &p->windows;
    const int8_t *image = arena + node->inputs[0];
    int8_t *y = arena + node->output;
    for (uint32_t i = 0; i < w->images; i++, image += w->height * w->width * w->channels) {
        for (uint32_t row = 0; row < w->rows; row++) {
            const sl_span rows = sl_rows_inside(w, row);
            for (uint32_t column = 0; column < w->columns; column++) {
                const sl_span columns = sl_columns_inside(w, column);
                const int8_t *x = image + (rows.at * w->width + columns.at) * w->channels;
                for (uint32_t channel = 0; channel < w->channels; channel++) {
                    int32_t value = reduce(x + channel, rows.last - rows.first, columns.last - columns.first,
                                           w->channels, w->width * w->channels);
                    *y++ = (int8_t)sl_clamp(value, p->low, p->high);
                }
            }
        }
    }
}

void sl_average_pool(const sl_node *node, int8_t *arena)
{
    pool(node, arena, average);
}

void sl_max_pool(const sl_node *node, int8_t *arena)
{
    pool(node, arena, largest);
}

void sl_mean(const sl_node *node, int8_t *arena)
{
    const sl_mean_parameters *p = node->parameters;
    const int8_t *x = arena + node->inputs[0];
    int8_t *y = arena + node->output;
    const uint32_t last = p->reduced.rank - 1;
    const uint32_t inner = p->reduced.sizes[last], stride = p->reduced_strides[last];
    const uint32_t kept = sl_runs(&p->kept, p->kept.rank), outer = sl_runs(&p->reduced, last);
    for (uint32_t i = 0; i < kept; i++) {
        const int8_t *first = x + sl_offset(&p->kept, p->kept.rank, p->kept_strides, i);
        int32_t sum = -p->offset;
        for (uint32_t j = 0; j < outer; j++) {
            const int8_t *run = first + sl_offset(&p->reduced, last, p->reduced_strides, j);
            for (uint32_t k = 0; k < inner; k++) {
                sum += run[k * stride];
            }
        }
        y[i] = sl_requantised((uint32_t)sum, p->scale, &p->output, false);
    }
}
