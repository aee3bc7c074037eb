/* Int8 kernels: one for each kind of node, with the struct of parameters it reads. docs/arithmetic.md, "Inference operators".

   models/lowering.py makes these structs. Offsets are bytes in the arena, sizes are elements. A kernel trusts what it
   reads: the exporter has checked it. */
#ifndef SANDERLING_KERNELS_H
#define SANDERLING_KERNELS_H

#include "sanderling/base.h"
#include "sanderling/network.h"

/* Of what these structs mean: a library is only used by the Python that fills them in the same way. */
enum { SL_KERNELS_VERSION = 1, SL_MAX_RANK = 6 };

/* From int32 to an int8 output: rescaled, moved to the zero point, clamped. */
typedef struct {
    int32_t zero_point;
    int32_t low, high;
} sl_output;

/* One channel's bias, with the input's zero point folded in, and its scale. */
typedef struct {
    int32_t bias;
    sl_scale scale;
} sl_channel;

/* `outputs` sums of `terms` products. Weights lie in pairs of channels: a word of four terms of the first, a word of the
   same terms of the second, then the next four terms; little-endian, what is missing at the end of either is 0. */
typedef struct {
    const uint32_t *weights;
    const sl_channel *channels;
    uint32_t terms, outputs;
    sl_output output;
    bool quick; /* sums lie within +-2^30, shifts are negative, the output is all of int8: fewer instructions do */
} sl_product;

/* How windows lie on images NHWC. */
typedef struct {
    uint32_t images, height, width, channels; /* of the input */
    uint32_t rows, columns;                   /* of the output */
    uint32_t window_height, window_width;
    uint32_t stride_y, stride_x;
    uint32_t dilation_y, dilation_x;
    uint32_t top, left; /* padding */
} sl_windows;

/* FullyConnected, and Conv2D of 1x1 windows: the same product of each row. */
typedef struct {
    sl_product product;
    uint32_t rows;
    uint32_t scratch; /* an offset: room for two rows, where terms is no multiple of 4 */
} sl_dense_parameters;

typedef struct {
    sl_product product;
    sl_windows windows;
    int32_t fill;     /* in the padding: the input's zero point */
    uint32_t scratch; /* an offset: room for two windows, each a multiple of 4 long */
} sl_conv2d_parameters;

typedef struct {
    sl_windows windows;
    uint32_t multiplier;
    const int8_t *weights; /* HWC */
    const sl_scale *scales;
    const int32_t *biases;      /* with the input's zero point folded in */
    const int32_t *edge_biases; /* without it, for windows that reach into the padding; or null */
    int32_t input_zero_point;
    sl_output output;
    bool quick; /* as in sl_product */
} sl_depthwise_conv2d_parameters;

typedef struct {
    sl_windows windows;
    int32_t low, high;
} sl_pool_parameters;

/* Nested loops over `rank` axes, the last one innermost. */
typedef struct {
    uint32_t rank;
    uint32_t sizes[SL_MAX_RANK];
} sl_loops;

typedef struct {
    sl_loops kept, reduced;
    uint32_t kept_strides[SL_MAX_RANK], reduced_strides[SL_MAX_RANK];
    int32_t offset; /* what is taken off each sum */
    sl_scale scale; /* one over the number of elements is in it */
    sl_output output;
} sl_mean_parameters;

/* One of the two inputs of Add or Mul: at the node's input, or a constant. A stride is 0 along an axis it is repeated on. */
typedef struct {
    const int8_t *constant; /* or null */
    int32_t zero_point;
    sl_scale scale; /* Add's */
    uint32_t strides[SL_MAX_RANK];
} sl_operand;

typedef struct {
    sl_loops loops;
    sl_operand operands[2];
    sl_scale scale;
    sl_output output;
} sl_binary_parameters;

typedef struct {
    sl_loops loops; /* over the runs of the input that stay together */
    uint32_t strides[SL_MAX_RANK]; /* of the output */
    uint32_t first; /* where the input's first element comes to lie */
    uint32_t run;
    uint32_t size;  /* of the output */
    int32_t fill;
} sl_pad_parameters;

typedef struct {
    const int8_t *constant; /* or null: the node's input */
    uint32_t run;           /* bytes that stay together */
} sl_part;

typedef struct {
    const sl_part *parts;
    uint32_t part_count;
    uint32_t outer; /* runs of each part */
} sl_concatenate_parameters;

typedef struct {
    uint32_t bytes;
} sl_copy_parameters;

typedef struct {
    const uint8_t *table; /* 256 bytes, by the input's byte read as unsigned */
    uint32_t size;
} sl_table_parameters;

typedef struct {
    uint32_t size;
    int32_t low, high;
} sl_clamp_parameters;

typedef struct {
    uint32_t rows, classes;
    sl_scale scale; /* shift > 0 */
    int32_t reach;  /* farther below the largest than this, the exponential is 0 */
} sl_softmax_parameters;

/* float32 at the edge of a network; uint8 is int8 moved by 128, and so is its zero point here. */
typedef struct {
    uint32_t size;
    float scale;
    int32_t zero_point;
    bool is_uint8;
} sl_float_parameters;

void sl_dense(const sl_node *node, int8_t *arena);
void sl_conv2d(const sl_node *node, int8_t *arena);
void sl_depthwise_conv2d(const sl_node *node, int8_t *arena);
void sl_average_pool(const sl_node *node, int8_t *arena);
void sl_max_pool(const sl_node *node, int8_t *arena);
void sl_mean(const sl_node *node, int8_t *arena);
void sl_add(const sl_node *node, int8_t *arena);
void sl_multiply(const sl_node *node, int8_t *arena);
void sl_pad(const sl_node *node, int8_t *arena);
void sl_concatenate(const sl_node *node, int8_t *arena);
void sl_copy(const sl_node *node, int8_t *arena);
void sl_table(const sl_node *node, int8_t *arena);
void sl_clamp_bytes(const sl_node *node, int8_t *arena);
void sl_softmax(const sl_node *node, int8_t *arena);
void sl_quantize_floats(const sl_node *node, int8_t *arena);
void sl_dequantize(const sl_node *node, int8_t *arena);

#endif
