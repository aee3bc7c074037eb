/* The node: all its memory is here, in one place. Build it with -DSANDERLING_FEDERATION=\"…\" -DSANDERLING_DEVICE=\"…\"; a bench
   names them at the start instead, with how many samples it will send and whether to end with the federation. */
#include <stdlib.h>

#include "board.h"
#include "sanderling/agent.h"
#include "sanderling/self_test.h"
#include "sanderling_model.h"

#ifndef SANDERLING_FEDERATION
#define SANDERLING_FEDERATION "watch"
#endif
#ifndef SANDERLING_DEVICE
#define SANDERLING_DEVICE "mcu-01"
#endif
#ifndef SANDERLING_CACHE
#define SANDERLING_CACHE 64 /* examples to train on */
#endif
#ifndef SANDERLING_HELD_BACK
#define SANDERLING_HELD_BACK (SANDERLING_CACHE / 4) /* to validate on, and to test on */
#endif
#ifndef SANDERLING_SCRATCH
#define SANDERLING_SCRATCH (6 * SL_MODEL_DIMENSION + 128 * SL_MODEL_CLASSES + 8 * SL_MODEL_FEATURES + 2 * SANDERLING_CACHE + 64)
#endif

#define EIGHTS(bytes) (((bytes) + 7) / 8 * 8)
#define LARGER(a, b) ((a) > (b) ? (a) : (b))

enum {
    CHUNK_BYTES = 512,
    QUEUE_BYTES = 512,
    DONE = 0,
    GAVE_UP = 1,

    /* The sensor's window lies where it does not touch the input that is made of it. */
    WINDOW_BYTES = 4 * SL_MODEL_INPUT_SIZE,
    WINDOW_AT = SL_MODEL_INPUT_AT >= WINDOW_BYTES ? 0 : EIGHTS(SL_MODEL_INPUT_AT + SL_MODEL_INPUT_SIZE),
    WORK_BYTES = EIGHTS(LARGER(LARGER(SL_MODEL_ARENA_BYTES, SANDERLING_SCRATCH), WINDOW_AT + WINDOW_BYTES))
};

/* A window, inference on it, and training take turns. */
static int64_t work[WORK_BYTES / 8];
static int8_t train_rows[SANDERLING_CACHE * SL_MODEL_FEATURES];
static uint16_t train_labels[SANDERLING_CACHE];
static sl_class_count counts[SL_MODEL_CLASSES];
static int8_t validation_rows[SANDERLING_HELD_BACK * SL_MODEL_FEATURES];
static uint16_t validation_labels[SANDERLING_HELD_BACK];
static int8_t test_rows[SANDERLING_HELD_BACK * SL_MODEL_FEATURES];
static uint16_t test_labels[SANDERLING_HELD_BACK];
static int16_t start[SL_MODEL_DIMENSION];
static uint8_t message[SL_UPDATE_HEAD_BYTES + SL_MODEL_DIMENSION + 64];
static uint8_t chunk[CHUNK_BYTES];
static uint8_t queue[QUEUE_BYTES];
static sl_intake intake;
static sl_agent_config config;
static sl_agent agent;

static const char *option(const char *name, const char *otherwise)
{
    const char *given = board_option(name);
    return given != NULL ? given : otherwise;
}

static void prepare(const sl_port *port)
{
    config.federation = option("federation", SANDERLING_FEDERATION);
    config.device = option("device", SANDERLING_DEVICE);
    config.software = "sanderling firmware";
    config.framed = atoi(option("framed", "1")) != 0;
    config.keep_alive_s = (uint16_t)atoi(option("keepalive", "120"));
    config.port = port;
    config.model = &sl_flashed;
    config.intake = &intake;
    config.start = start;
    config.scratch = work;
    config.scratch_bytes = sizeof work;
    config.message = message;
    config.message_bytes = sizeof message;
    config.chunk = chunk;
    config.chunk_bytes = sizeof chunk;
    config.queue = queue;
    config.queue_bytes = sizeof queue;

    intake.model = &sl_flashed;
    intake.arena = (int8_t *)work;
    intake.window = (float *)(void *)((uint8_t *)work + WINDOW_AT);
    intake.validation = (sl_held_back){validation_rows, validation_labels, SANDERLING_HELD_BACK, 0};
    intake.test = (sl_held_back){test_rows, test_labels, SANDERLING_HELD_BACK, 0};
    sl_store_begin(&intake.train, train_rows, train_labels, counts, SANDERLING_CACHE, SL_MODEL_FEATURES, SL_MODEL_CLASSES,
                   sl_intake_key(config.federation, config.device));
}

/* On a bench the examples come first, so that a run does not depend on when they arrive. */
static void collect(const sl_port *port)
{
    uint32_t expected = (uint32_t)atoi(option("samples", "0"));
    for (uint32_t seen = 0; seen < expected;) {
        if (sl_intake_take(&intake, port) == SL_PENDING) {
            board_idle();
        } else {
            seen++;
        }
    }
    if (expected > 0) {
        port->log(port->context, intake.bad == 0 ? "samples complete" : "samples complete, some were refused");
    }
}

int application(void)
{
    const sl_port *port = board_start();
    board_paint_stack();
    prepare(port);
    sl_status status = sl_agent_start(&agent, &config);
    if (status != SL_OK) {
        port->log(port->context, sl_status_name(status));
        return GAVE_UP;
    }
    collect(port);
    bool ends = atoi(option("exit", "0")) != 0;
    while (!(ends && agent.finished)) {
        if (sl_agent_poll(&agent) == SL_PENDING) {
            board_idle();
        }
    }
    port->log(port->context, "finished");
    return DONE;
}
