/* A device's examples: windows of its sensor become cached features, once, as they come. */
#ifndef SANDERLING_INTAKE_H
#define SANDERLING_INTAKE_H

#include "sanderling/base.h"
#include "sanderling/examples.h"
#include "sanderling/flashed_model.h"
#include "sanderling/port.h"

/* Examples that are only reported on: the first `capacity` that come. */
typedef struct {
    int8_t *rows;
    uint16_t *labels;
    uint32_t capacity;
    uint32_t held;
} sl_held_back;

/* The caller fills in the first part. */
typedef struct {
    const sl_flashed_model *model;
    int8_t *arena;   /* of the network, aligned to 8 */
    float *window;   /* one window as the sensor gives it: the network's input_size values */
    sl_held_back validation;
    sl_held_back test;

    sl_example_store train; /* by sl_store_begin, with the key of sl_intake_key */
    uint32_t bad;           /* samples that were refused */
} sl_intake;

/* The key by which a device of a federation decides what it keeps. */
sl_key sl_intake_key(const char *federation, const char *device);

/* The next sample of the port, if there is one. SL_OK: it was taken. SL_PENDING: there is none. Else it was dropped and
   counted: SL_BAD_SAMPLE, SL_MALFORMED, SL_TIMEOUT, SL_WRONG_DIMENSION. */
sl_status sl_intake_take(sl_intake *intake, const sl_port *port);

/* One window of the model's input_size values. SL_BAD_SAMPLE, with nothing changed, for values that are no reading and
   for a label that is no class. */
sl_status sl_intake_add(sl_intake *intake, const float *window, const sl_sample *about);

sl_examples sl_held_back_examples(const sl_held_back *held_back);

#endif
