#include "cmsis_kernels.h"

#include "arm_nnfunctions.h"

#if defined(CMSIS_NN_USE_SINGLE_ROUNDING)
#error "CMSIS-NN has to round twice: leave CMSIS_NN_USE_SINGLE_ROUNDING out"
#endif

static cmsis_nn_dims dims(uint32_t n, uint32_t h, uint32_t w, uint32_t c)
{
    return (cmsis_nn_dims){.n = (int32_t)n, .h = (int32_t)h, .w = (int32_t)w, .c = (int32_t)c};
}

static cmsis_nn_tile tile(uint32_t h, uint32_t w)
{
    return (cmsis_nn_tile){.w = (int32_t)w, .h = (int32_t)h};
}

static cmsis_nn_context scratch(int8_t *arena, uint32_t offset)
{
    return (cmsis_nn_context){.buf = arena + offset, .size = 0}; /* the kernels do not look at the size */
}

static cmsis_nn_activation activation(const sl_output *output)
{
    return (cmsis_nn_activation){.min = output->low, .max = output->high};
}

static cmsis_nn_per_channel_quant_params scales(const sl_cmsis_product_parameters *p)
{
    /* The interface lacks const; the kernels only read. */
    return (cmsis_nn_per_channel_quant_params){
        .multiplier = (int32_t *)(uintptr_t)p->multipliers,
        .shift = (int32_t *)(uintptr_t)p->shifts,
    };
}

void sl_cmsis_conv2d(const sl_node *node, int8_t *arena)
{
    const sl_cmsis_product_parameters *p = node->parameters;
    const sl_windows *w = &p->windows;
    const cmsis_nn_conv_params parameters = {
        .input_offset = -p->input_zero_point,
        .output_offset = p->output.zero_point,
        .stride = tile(w->stride_y, w->stride_x),
        .padding = tile(w->top, w->left),
        .dilation = tile(w->dilation_y, w->dilation_x),
        .activation = activation(&p->output),
    };
    const cmsis_nn_context context = scratch(arena, p->scratch);
    const cmsis_nn_per_channel_quant_params channel_scales = scales(p);
    const cmsis_nn_dims input = dims(w->images, w->height, w->width, w->channels);
    const cmsis_nn_dims filter = dims(p->outputs, w->window_height, w->window_width, w->channels);
    const cmsis_nn_dims bias = dims(1, 1, 1, p->outputs);
    const cmsis_nn_dims output = dims(w->images, w->rows, w->columns, p->outputs);
    arm_convolve_wrapper_s8(&context, &parameters, &channel_scales, &input, arena + node->inputs[0], &filter, p->weights,
                            &bias, p->biases, &output, arena + node->output);
}

void sl_cmsis_depthwise_conv2d(const sl_node *node, int8_t *arena)
{
    const sl_cmsis_product_parameters *p = node->parameters;
    const sl_windows *w = &p->windows;
    const cmsis_nn_dw_conv_params parameters = {
        .input_offset = -p->input_zero_point,
        .output_offset = p->output.zero_point,
        .ch_mult = (int32_t)p->multiplier,
        .stride = tile(w->stride_y, w->stride_x),
        .padding = tile(w->top, w->left),
        .dilation = tile(w->dilation_y, w->dilation_x),
        .activation = activation(&p->output),
    };
    const cmsis_nn_context context = scratch(arena, p->scratch);
    const cmsis_nn_per_channel_quant_params channel_scales = scales(p);
    const cmsis_nn_dims input = dims(w->images, w->height, w->width, w->channels);
    const cmsis_nn_dims filter = dims(1, w->window_height, w->window_width, p->outputs);
    const cmsis_nn_dims bias = dims(1, 1, 1, p->outputs);
    const cmsis_nn_dims output = dims(w->images, w->rows, w->columns, p->outputs);
    arm_depthwise_conv_wrapper_s8(&context, &parameters, &channel_scales, &input, arena + node->inputs[0], &filter,
                                  p->weights, &bias, p->biases, &output, arena + node->output);
}

void sl_cmsis_dense(const sl_node *node, int8_t *arena)
{
    const sl_cmsis_product_parameters *p = node->parameters;
    const sl_windows *w = &p->windows;
    const cmsis_nn_fc_params parameters = {
        .input_offset = -p->input_zero_point,
        .filter_offset = 0,
        .output_offset = p->output.zero_point,
        .activation = activation(&p->output),
    };
    const cmsis_nn_context context = scratch(arena, p->scratch);
    const cmsis_nn_per_tensor_quant_params scale = {.multiplier = p->multipliers[0], .shift = p->shifts[0]};
    const cmsis_nn_dims input = dims(w->images, 1, 1, w->channels);
    const cmsis_nn_dims filter = dims(w->channels, 1, 1, p->outputs);
    const cmsis_nn_dims bias = dims(1, 1, 1, p->outputs);
    const cmsis_nn_dims output = dims(w->images, 1, 1, p->outputs);
    arm_fully_connected_s8(&context, &parameters, &scale, &input, arena + node->inputs[0], &filter, p->weights, &bias,
                           p->biases, &output, arena + node->output);
}

typedef arm_cmsis_nn_status (*pool_kernel)(const cmsis_nn_context *, const cmsis_nn_pool_params *, const cmsis_nn_dims *,
                                           const int8_t *, const cmsis_nn_dims *, const cmsis_nn_dims *, int8_t *);

/* CMSIS-NN pools one image at a time. */
static void pool(const sl_node *node, int8_t *arena, pool_kernel kernel)
{
    const sl_cmsis_pool_parameters *p = node->parameters;
    const sl_windows *w = &p->windows;
    const cmsis_nn_pool_params parameters = {
        .stride = tile(w->stride_y, w->stride_x),
        .padding = tile(w->top, w->left),
        .activation = {.min = p->low, .max = p->high},
    };
    const cmsis_nn_context context = scratch(arena, p->scratch);
    const cmsis_nn_dims input = dims(1, w->height, w->width, w->channels);
    const cmsis_nn_dims window = dims(1, w->window_height, w->window_width, 1);
    const cmsis_nn_dims output = dims(1, w->rows, w->columns, w->channels);
    for (uint32_t i = 0; i < w->images; i++) {
        const int8_t *from = arena + node->inputs[0] + i * w->height * w->width * w->channels;
        int8_t *to = arena + node->output + i * w->rows * w->columns * w->channels;
        kernel(&context, &parameters, &input, from, &window, &output, to);
    }
}

void sl_cmsis_average_pool(const sl_node *node, int8_t *arena)
{
    pool(node, arena, arm_avgpool_s8);
}

void sl_cmsis_max_pool(const sl_node *node, int8_t *arena)
{
    pool(node, arena, arm_max_pool_s8);
}
