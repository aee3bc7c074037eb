#include <string.h>

#include "loops.h"
#include "sanderling/kernels.h"

void sl_pad(const sl_node *node, int8_t *arena)
{
    const sl_pad_parameters *p = node->parameters;
    const int8_t *x = arena + node->inputs[0];
    int8_t *y = arena + node->output;
    const uint32_t runs = sl_runs(&p->loops, p->loops.rank);
    memset(y, p->fill, p->size);
    for (uint32_t i = 0; i < runs; i++, x += p->run) {
        memcpy(y + p->first + sl_offset(&p->loops, p->loops.rank, p->strides, i), x, p->run);
    }
}

void sl_concatenate(const sl_node *node, int8_t *arena)
{
    const sl_concatenate_parameters *p = node->parameters;
    int8_t *y = arena + node->output;
    uint32_t stride = 0;
    for (uint32_t i = 0; i < p->part_count; i++) {
        stride += p->parts[i].run;
    }
    for (uint32_t i = 0; i < p->part_count; y += p->parts[i].run, i++) {
        const sl_part *part = &p->parts[i];
        const int8_t *x = part->constant != NULL ? part->constant : arena + node->inputs[i];
        for (uint32_t j = 0; j < p->outer; j++) {
            memcpy(y + j * stride, x + j * part->run, part->run);
        }
    }
}

void sl_copy(const sl_node *node, int8_t *arena)
{
    const sl_copy_parameters *p = node->parameters;
    memcpy(arena + node->output, arena + node->inputs[0], p->bytes);
}
