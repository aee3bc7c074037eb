#include "sanderling/intake.h"

#include <string.h>

sl_key sl_intake_key(const char *federation, const char *device)
{
    sl_key_builder builder;
    sl_key_begin(&builder, "examples");
    sl_key_text(&builder, federation);
    sl_key_text(&builder, device);
    return sl_key_end(&builder);
}

/* The row that the example's features go to; NULL where it is not kept. */
static int8_t *place(sl_intake *intake, const sl_sample *about)
{
    if (about->split == SL_TRAIN) {
        int32_t slot;
        return sl_store_offer(&intake->train, about->label, &slot) == SL_OK && slot != SL_NOT_KEPT
                   ? sl_store_row(&intake->train, slot)
                   : NULL;
    }
    sl_held_back *to = about->split == SL_VALIDATION ? &intake->validation : &intake->test;
    if (to->held == to->capacity) {
        return NULL;
    }
    to->labels[to->held] = about->label;
    return to->rows + to->held++ * intake->model->head->features;
}

sl_status sl_intake_add(sl_intake *intake, const float *window, const sl_sample *about)
{
    const sl_flashed_model *model = intake->model;
    const sl_network *network = model->network;
    if (about->label >= model->head->classes || about->split > SL_TEST) {
        return SL_BAD_SAMPLE;
    }
    sl_status status = sl_quantize_input(model->preprocessing, window, network->input_size, intake->arena + network->input);
    if (status != SL_OK) {
        return status;
    }
    int8_t *row = place(intake, about);
    if (row != NULL) { /* the label alone decides, so that what is not kept costs no inference */
        sl_run(network, 0, model->head_node, intake->arena);
        memcpy(row, intake->arena + model->features, model->head->features);
    }
    return SL_OK;
}

sl_status sl_intake_take(sl_intake *intake, const sl_port *port)
{
    sl_sample about = {0};
    if (port->sample == NULL) {
        return SL_PENDING;
    }
    sl_status status = port->sample(port->context, intake->window, intake->model->network->input_size, &about);
    if (status == SL_OK) {
        status = sl_intake_add(intake, intake->window, &about);
    }
    if (status < 0) {
        intake->bad++;
    }
    return status;
}

sl_examples sl_held_back_examples(const sl_held_back *held_back)
{
    sl_examples examples = {held_back->rows, held_back->labels, held_back->held};
    return examples;
}
