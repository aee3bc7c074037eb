/* Kernels of Arm's CMSIS-NN in the place of ours: same bytes, since both round twice as TFLM does. firmware_export/cmsis_nn.py
   makes these structs. */
#ifndef SANDERLING_CMSIS_KERNELS_H
#define SANDERLING_CMSIS_KERNELS_H

#include "sanderling/kernels.h"

typedef struct {
    sl_windows windows;
    uint32_t outputs;           /* channels */
    uint32_t multiplier;        /* channels out of one, of a depthwise convolution */
    const int8_t *weights;      /* OHWI; depthwise HWC; dense OI */
    const int32_t *biases;
    const int32_t *multipliers; /* of each channel, and so the shifts; a dense layer's first one counts */
    const int32_t *shifts;
    int32_t input_zero_point;
    sl_output output;
    uint32_t scratch;           /* an offset in the arena */
} sl_cmsis_product_parameters;

typedef struct {
    sl_windows windows;
    int32_t low, high;
    uint32_t scratch;
} sl_cmsis_pool_parameters;

void sl_cmsis_conv2d(const sl_node *node, int8_t *arena);
void sl_cmsis_depthwise_conv2d(const sl_node *node, int8_t *arena);
void sl_cmsis_dense(const sl_node *node, int8_t *arena); /* images: rows; channels: terms; one scale for all */
void sl_cmsis_average_pool(const sl_node *node, int8_t *arena);
void sl_cmsis_max_pool(const sl_node *node, int8_t *arena);

#endif
